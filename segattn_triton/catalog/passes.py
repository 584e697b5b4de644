"""Passes over the map, of rows where they depend on more than the row."""

from .row import Sizes


def attention_gate_passes(sizes: Sizes, itemsize: int, norms: bool = False) -> tuple[float, float]:
    """With G and F channels in passes over C of them. On chip, where C and G as powers of 2 are at most 128 together,
    and times F at most 8192 bytes (from sm_80 on), dy, x and g into dx and dg. Beyond it dz, of norms one for each map,
    is written once and read three times. With norms the statistics are a pass over x and g each, the logits one more,
    and what is summed of the gradients one over dy, x and g."""
    C, G, F = (sizes[name] for name in ("C", "G", "Cr"))
    g, f = G / C, F / C
    channels, on_chip = _rounded(C) + _rounded(G), 3 + 2 * g
    if channels > 128 or channels * _rounded(F) > 8192 // itemsize:
        on_chip = 5 + 3 * g + (6 if norms else 5) * f
    return (4 + 2 * g, 2 + g + on_chip) if norms else (2 + g, on_chip)


def _rounded(size: int) -> int:
    """The dimension of a product on tensor cores."""
    return max(16, 1 << (size - 1).bit_length())
