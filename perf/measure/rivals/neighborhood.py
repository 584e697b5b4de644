"""Attention to the window around a pixel, whose forms are in `measure.windows`."""

from functools import partial

from .. import windows
from .shared import Rivals, as_compiled


def _of_windows(kernel_size: int) -> Rivals:
    """Beyond 3 x 3 the best formulation is FlexAttention; as a rival of its own it is also timed at 3 x 3."""
    flex = windows.Flex(kernel_size)
    near = kernel_size == 3
    others = {"flex": lambda compiler: as_compiled(flex, compiler)} if near else {}
    others |= {"natten": lambda compiler: windows.natten(kernel_size)} if windows.NATTEN else {}
    return Rivals(
        partial(windows.listing, kernel_size=kernel_size),
        partial(windows.shifted, kernel_size=kernel_size) if near else flex,
        others,
        left_out=("rel_bias",),
        most_maps=6 * kernel_size**2 + 6,  # unfolded keys, values and their products, and the gradients of those
    )


RIVALS = {
    "neighborhood_attention": _of_windows(3),
    "neighborhood_attention_7x7": _of_windows(7),
    "neighborhood_attention_13x13": _of_windows(13),
}
