"""Which tiles the kernels of rows and columns have, and who takes which rows."""

from torch import Tensor

from ...runtime.maps import Maps, partials
from ...tuning.choice import config_for
from ...tuning.grids import sharing
from ...tuning.model import DRAM_BANDWIDTH, Config, Footprint, cost, looping, space
from ...tuning.target import rounds_ahead, sms, stages_for
from ..common.sums import BYTES_A_CYCLE

# wavefronts of shared memory for the sums of rows: of channels_last, of a thread, and for each channel of the tile;
# where tiles have several rows of a contiguous map, for each channel
ACROSS, SEVERAL = (2.24, 0.052), 0.065
# what a program's sums of columns take at its end where its tile has several rows, in tiles that DRAM could bring: of a
# contiguous map for each channel, of channels_last
END = 5.5, 10
BESIDE, VALUES = 4, 16  # programs of an SM; values of a thread, whose work takes as long as all else
PART_US = 0.08  # of each part of a sum, in the second stage
# of a program at least, where programs without a share fill the GPU: to begin and to end costs as much as two
ROUNDS = 4
SIDES = dict(BLOCK_C=(1, 2, 8, 16, 32, 64, 128), BLOCK_H=(1, 4, 8, 16), BLOCK_W=(8, 16, 32, 64, 128, 256, 512, 1024))


def _suits(config: Config, least: int) -> bool:
    """Tiles of few channels are high: of contiguous maps. Of channels side by side none is wide."""
    c, h, w = config.blocks.values()
    return least <= c * h * w <= 512 * config.num_warps and (c <= 2 or h == 1 or h == w == 8)


ALL = space(**SIDES, num_warps=(4, 8))
LOOPS = looping(tuple(c for c in ALL if _suits(c, 1024)))
TILES = tuple(c for c in ALL if _suits(c, 512))


def _side_by_side(m: Maps, config: Config, W: int) -> int:
    """Elements of a tile that lie side by side."""
    c, h, w = config.blocks.values()
    return c if m.layout.channels_last else h * W if w >= W else w


def _split(m: Maps, config: Config, H: int, W: int) -> tuple[int, int, int]:
    """Blocks of channels, of rows and of columns."""
    return tuple(-(-size // block) for size, block in zip((m.C, H, W), config.blocks.values(), strict=True))


def _waste(m: Maps, config: Config, H: int, W: int, rows: int) -> float:
    chunks, _, columns = _split(m, config, H, W)
    c, _, w = config.blocks.values()
    return chunks * c / m.C * columns * w / W * rows / H


def sums_config(
    kernel: str, m: Maps, x: Tensor, width: int, loads: int, live: float, *also: object
) -> tuple[Config, dict, int]:
    """Of a kernel that sums over rows and columns: the config, the arguments that follow from it, and the programs.
    also: what `live`, the float32 values alive for each element, follows from beside the loads and the layout."""
    device, itemsize, size, (H, W) = x.device, x.element_size(), sms(x.device), x.shape[2:]

    def shared(config: Config) -> tuple[int, int]:
        """Shares of the rows, and the blocks of columns."""
        chunks, blocks, columns = _split(m, config, H, W)
        units = m.N * chunks * columns
        most = max(blocks // ROUNDS, config.programs * size // max(units, 1), 1)  # each share has sums of all columns
        return sharing(blocks, config, size, units, min(most, (H + 1) // 2)), columns  # which are no second map

    def stages(config: Config) -> int:
        c, h, w = config.blocks.values()
        return stages_for(device, itemsize, loads * c * h * w, m.layout.align, config.programs)

    def relative(config: Config) -> float:
        """With what the second stage takes, which waits for all parts of a sum."""
        least = 1 + loads * itemsize * m.N * m.C * m.P / DRAM_BANDWIDTH
        return cost(config, footprint(config)) * (1 + PART_US * max(shared(config)) / least)

    def footprint(config: Config) -> Footprint:
        c, h, w = config.blocks.values()
        shares, columns = shared(config)
        rows = -(-H // (h * max(shares, 1))) * h * shares
        partial = 4 * (shares / H + columns / W)  # bytes of the sums, for each element
        waste, row = _waste(m, config, H, W, rows), _side_by_side(m, config, W) * itemsize
        programs = m.N * -(-m.C // c) * columns * shares
        ahead = rounds_ahead(stages(config))
        values = c * h * w / (32 * config.num_warps)
        across = (ACROSS[0] + ACROSS[1] * c) / values if m.layout.channels_last else SEVERAL * c * (h > 1)
        fronts = 0.07 * (loads - 1) + across
        end = (END[1] if m.layout.channels_last else END[0] * c) * (h > 1) / max(rows / (h * max(shares, 1)), 1)
        busy = (fronts * BYTES_A_CYCLE + 2 * end) / (loads * itemsize)
        beside = dict(side=8 / w + partial, shared=busy, ahead=ahead, sms=size)
        return Footprint(c * h * w, itemsize, loads, live, programs, waste, row, **beside)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads, *also), exact=(m.N, H, W))
    config = config_for(LOOPS, relative, kernel, x, **how)
    shares, columns = shared(config)
    chunks, blocks, _ = _split(m, config, H, W)
    each = -(-blocks // max(shares, 1)) * config.blocks["BLOCK_H"]
    args = dict(
        rows_ptr=partials(x, columns, m.N * m.C * H),
        cols_ptr=partials(x, shares, m.N * m.C * W),
        sizes=(m.N, H, width, each, shares, columns),
        STAGES=stages(config),
    )
    return config, args, m.N * chunks * shares * columns


def tile_config(
    kernel: str, m: Maps, x: Tensor, loads: int, live: float, vectors: int, *also: object
) -> tuple[Config, tuple[int, int, int]]:
    """Of a kernel with a program for every tile: the config, and the blocks of channels, rows and columns. vectors: how
    many it reads of the rows, and as many of the columns."""
    itemsize, size, (H, W) = x.element_size(), sms(x.device), x.shape[2:]

    def relative(config: Config) -> float:
        """Of programs that all run at once, the work of each shows."""
        found = footprint(config)
        alone = found.programs <= BESIDE * size
        return cost(config, found) * (1 + alone * found.tile / (32 * config.num_warps) / VALUES)

    def footprint(config: Config) -> Footprint:
        c, h, w = config.blocks.values()
        chunks, blocks, columns = _split(m, config, H, W)
        waste, row = _waste(m, config, H, W, blocks * h), _side_by_side(m, config, W) * itemsize
        side = 4 * vectors * (1 / h + 1 / w)
        return Footprint(c * h * w, itemsize, loads, live, m.N * chunks * blocks * columns, waste, row, side)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads, vectors, *also), exact=(m.N, H, W))
    config = config_for(TILES, relative, kernel, x, **how)
    return config, _split(m, config, H, W)
