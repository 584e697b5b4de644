"""Which tiles the kernels of a refinement have."""

from torch import Tensor

from ...runtime.maps import Layout, Maps
from ...tuning.choice import config_for
from ...tuning.model import REGISTERS, STEP, Config, space
from ...tuning.target import sms
from .shared import NEIGHBOURS

PIXELS = space(BLOCK_P=(256, 128, 64, 32, 16, 8), num_warps=(4, 8))
TILES = tuple(
    c
    for c in space(BLOCK_C=(1, 2, 4, 8, 16, 32), BLOCK_P=(128, 64, 32), num_warps=(4,))
    if 128 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 1024
)
BEGIN = 600  # of a program, for each neighbour: as much as so many values
LINES = space(BLOCK_P=(256, 128, 64, 32, 16, 8), num_warps=(4,))


def _waves(config: Config, programs: int, registers: float, size: int) -> float:
    threads = 32 * config.num_warps
    return max(1.0, programs / size / min(2048 // threads, REGISTERS / (threads * registers)))


def near_config(kernel: str, m: Maps, image: Tensor, dilations: int, rounds: int) -> tuple[Config, int]:
    """Of a program that has all neighbours of its pixels at once, in so many rounds; and how many rows they fill."""
    block_k, size = 1 << (NEIGHBOURS * dilations - 1).bit_length(), sms(image.device)
    width = max(1, image.element_size() // 4)

    def microseconds(config: Config) -> float | None:
        values = block_k * config.blocks["BLOCK_P"] / (32 * config.num_warps)
        registers = 40 + 4 * values * width
        if values < 1 or (registers > 200 and config.blocks["BLOCK_P"] > 8):
            return None
        programs = m.N * -(-m.P // config.blocks["BLOCK_P"])
        split = 1 if config.blocks["BLOCK_P"] >= 32 * config.num_warps else 2  # sums of neighbours across warps
        return STEP * _waves(config, programs, registers, size) * rounds * (split + values / 4)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(dilations,), exact=(m.N, rounds))
    return config_for(PIXELS, microseconds, kernel, image, **how), block_k


def tile_config(kernel: str, like: Tensor, C: int, pixels: int, each: int, layout: Layout, others: int = 1) -> Config:
    """Of a program that has a tile of channels and pixels, and reads `each` neighbours for every value of it, of so
    many maps; and of every pixel a weight."""
    images, size = like.shape[0], sms(like.device)

    def microseconds(config: Config) -> float | None:
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        if others * block_c * block_p > 512 * config.num_warps:
            return None
        programs = images * -(-C // block_c) * -(-pixels // block_p)
        row = min(32, block_c if layout.channels_last else block_p)
        work = each * (others * block_c * block_p + 2 * block_p + BEGIN)
        return STEP * max(2.0, programs / size) * work * (32 / row) ** 0.5

    how = dict(C=C, pixels=images * pixels, layout=layout, also=(each, others), exact=(images, pixels))
    return config_for(TILES, microseconds, kernel, like, **how)


def line_config(kernel: str, like: Tensor, lines: int) -> Config:
    size = sms(like.device)

    def microseconds(config: Config) -> float:
        block = config.blocks["BLOCK_P"]
        return STEP * _waves(config, -(-lines // block), 40, size) * (1 + block / 64)

    return config_for(LINES, microseconds, kernel, like, C=1, pixels=lines, exact=lines)
