"""One weight per value, from its neighbours in its own channel: what the kernels of y = x * gate(z) share.

    z = sum_k weight_ck x_k + bias_c  (dot),    the mean (avg) or the maximum (max) of the neighbours in the image

x, y, map (N, C, H, W); weight (C, 1, K, K), of pools 3 x 3; bias (C,). A program rolls down a strip of rows and holds
one row of BLOCK_C channels at a time, so that every value is loaded once, but for the rows and columns that
neighbouring tiles share. The rows themselves are in `window`. The neighbours of a dilated window are rows of one
*class*, `dilation` apart, which a program takes for an image of its own; where `step` says so, columns, too.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import ALIGNMENTS, Maps, accumulator
from ...tuning.model import Config
from ..common.activations import Activation
from .choice import Geometry


@triton.jit
def place(
    H,
    W,
    C: tl.constexpr,
    WINDOW: tl.constexpr,
    HALO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """The tile of this program: its image, first row, first column, and channels; the first pixel of its class, the
    rows and the columns of that."""
    blocks_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    step: tl.constexpr = BLOCK_W - 2 * HALO
    tile = tl.program_id(0) // blocks_c
    tiles_w = tl.cdiv(tl.cdiv(W, WINDOW.step), step)
    strip = tile // tiles_w
    strips = tl.cdiv(tl.cdiv(H, WINDOW.dilation), BLOCK_H)
    offs_c = tl.program_id(0) % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    image = strip // strips
    row, col = image // WINDOW.step % WINDOW.dilation, image % WINDOW.step
    rows, cols = tl.cdiv(H - row, WINDOW.dilation), tl.cdiv(W - col, WINDOW.step)
    n = image // (WINDOW.dilation * WINDOW.step)
    return n, strip % strips * BLOCK_H, tile % tiles_w * step - HALO, offs_c, row * W + col, rows, cols


@triton.jit
def own_columns(HALO: tl.constexpr, BLOCK_W: tl.constexpr):
    """[1, BLOCK_W]: the columns that no neighbouring tile writes."""
    lanes = tl.arange(0, BLOCK_W)
    return ((lanes >= HALO) & (lanes < BLOCK_W - HALO))[None, :]


def common_args(x: Tensor, m: Maps, geometry: Geometry, config: Config, gate: Activation) -> dict:
    H, W = x.shape[2:]
    w_align = next(a for a in ALIGNMENTS if W % a == 0)
    return dict(
        sizes=(H, W // w_align),
        C=m.C,
        STENCIL=geometry.stencil,
        WINDOW=geometry.window,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        W_ALIGN=w_align,
        VEC=geometry.side_by_side(config),
        HALO=geometry.halo(config),
    )
