"""Which tiles the kernels of rows and columns have, and who takes which rows."""

from torch import Tensor

from ...runtime.maps import Maps, partials
from ...tuning.choice import config_for
from ...tuning.grids import sharing
from ...tuning.model import Config, Footprint, looping, space
from ...tuning.target import rounds_ahead, sms, stages_for
from ..common.sums import BYTES_A_CYCLE

ACROSS = 8  # wavefronts of shared memory for the sum of a row of a channel, whose columns lie across warps
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
        return sharing(blocks, config, size, units, most), columns

    def stages(config: Config) -> int:
        c, h, w = config.blocks.values()
        return stages_for(device, itemsize, loads * c * h * w, m.layout.align, config.programs)

    def footprint(config: Config) -> Footprint:
        c, h, w = config.blocks.values()
        shares, columns = shared(config)
        rows = -(-H // (h * max(shares, 1))) * h * shares
        partial = 4.0 / itemsize * (shares / H + columns / W) / loads  # of the sums, read from the L2 cache again
        waste, row = _waste(m, config, H, W, rows) * (1 + partial), _side_by_side(m, config, W) * itemsize
        programs = m.N * -(-m.C // c) * columns * shares
        ahead = rounds_ahead(stages(config))
        fronts = 0.07 * loads + ACROSS / (h * w) if m.layout.channels_last else 0.0
        beside = dict(side=8 / w, shared=fronts * BYTES_A_CYCLE / (loads * itemsize), ahead=ahead, sms=size)
        return Footprint(c * h * w, itemsize, loads, live, programs, waste, row, **beside)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads, *also), exact=(m.N, H, W))
    config = config_for(LOOPS, footprint, kernel, x, **how)
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
    itemsize, (H, W) = x.element_size(), x.shape[2:]

    def footprint(config: Config) -> Footprint:
        c, h, w = config.blocks.values()
        chunks, blocks, columns = _split(m, config, H, W)
        waste, row = _waste(m, config, H, W, blocks * h), _side_by_side(m, config, W) * itemsize
        side = 4 * vectors * (1 / h + 1 / w)
        return Footprint(c * h * w, itemsize, loads, live, m.N * chunks * blocks * columns, waste, row, side)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads, vectors, *also), exact=(m.N, H, W))
    config = config_for(TILES, footprint, kernel, x, **how)
    return config, _split(m, config, H, W)
