"""What backbones import from `natten.utils`."""

from ._window import window


def check_all_args(na_dim: int, kernel_size, dilation, is_causal) -> tuple[tuple, tuple, tuple]:
    """(kernel_size, dilation, is_causal) with one value for each of na_dim axes, as in NATTEN 0.17."""
    return tuple(window(na_dim, kernel_size, dilation, is_causal))
