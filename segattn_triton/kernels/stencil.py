"""One weight per value, from its 3x3 neighbours in its own channel: y = x * gate(z).

    z = sum_k weight_ck x_k + bias_c  (dot),    the mean (avg) or the maximum (max) of the neighbours in the image

x, y, map (N, C, H, W); weight (C, 1, 3, 3); bias (C,). A program rolls down a strip of rows and holds one row of
BLOCK_C channels at a time, so that every value is loaded once, but for the rows and columns that neighbouring tiles
share. Passes over the map: forward 2 (read x, write y); backward 3 (read x and dy, write dx), z and dz recomputed.

Backward, with dz = (dy x + dmap) gate'(z): dx = dy gate(z) + sum over the windows that hold x of dz dz/dx;
dweight_c,ij = sum_nhw dz(h, w) x(h+i-1, w+j-1), dbias_c = sum_nhw dz.
"""

from math import ceil
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from segattn_triton.kernels.activations import Activation
from segattn_triton.kernels.tile import (
    ALIGNMENTS,
    Maps,
    accumulator,
    load_tile,
    load_vector,
    maps,
    partials,
    store_tile,
)
from segattn_triton.launch import Plan
from segattn_triton.tuning import BYTES_IN_FLIGHT, REGISTERS, SMS, Config, config_for, space

# NCHW first: one warp holds whole rows of its tile; then channels_last, where a row is BLOCK_C channels of a pixel
SPACE = tuple(
    config
    for block_c, block_w, num_warps in (
        *((2, 64, 1), (4, 32, 1), (8, 16, 1)),
        *((1, 256, 1), (2, 128, 1), (4, 64, 1), (8, 32, 1), (16, 16, 1)),
        *((1, 512, 1), (2, 256, 1), (4, 128, 1), (8, 64, 1), (16, 32, 1)),
        *((32, 32, 4), (32, 16, 2), (64, 16, 4)),
    )
    for config in space(
        BLOCK_C=(block_c,), BLOCK_W=(block_w,), BLOCK_H=(8, 16, 32, 64), STAGES=(3, 2), num_warps=(num_warps,)
    )
)
INSTRUCTIONS = {"dot": 66, "avg": 50, "first": 85, "split": 85}  # per element, backward; 30 forward
LIVE = {"dot": 7, "avg": 8, "first": 14, "split": 15}  # registers per element, backward; 5 forward


@triton.jit
def _shift(a, b, outside, VEC: tl.constexpr):
    """a[c, w - 1] and b[c, w + 1], `outside` beyond the tile. Only one column in VEC moves between threads."""
    C: tl.constexpr = a.shape[0]
    W: tl.constexpr = a.shape[1]
    if VEC == 1:
        offs_w = tl.broadcast_to(tl.arange(0, W)[None, :], [C, W])
        before = tl.where(offs_w == 0, outside, tl.gather(a, tl.maximum(offs_w - 1, 0), 1))
        return before, tl.where(offs_w == W - 1, outside, tl.gather(b, tl.minimum(offs_w + 1, W - 1), 1))
    else:
        a_even, a_odd = tl.split(tl.reshape(a, [C, W // 2, 2]))
        b_even, b_odd = tl.split(tl.reshape(b, [C, W // 2, 2]))
        before, after = _shift(a_odd, b_even, outside, VEC // 2)
        return tl.reshape(tl.join(before, a_even), [C, W]), tl.reshape(tl.join(b_odd, after), [C, W])


@triton.jit
def _settle(x, VEC: tl.constexpr):
    """x as it is, in the layout that `_shift` works in."""
    C: tl.constexpr = x.shape[0]
    W: tl.constexpr = x.shape[1]
    if VEC == 1:
        return x
    else:
        even, odd = tl.split(tl.reshape(x, [C, W // 2, 2]))
        return tl.reshape(tl.join(_settle(even, VEC // 2), _settle(odd, VEC // 2)), [C, W])


@triton.jit
def _taps(weight_ptr, offs_c, C: tl.constexpr, ACC: tl.constexpr):
    """The nine weights [BLOCK_C, 1], in row-major order."""
    offs = offs_c * 9
    w0 = load_vector(weight_ptr, offs, C * 9, ACC)[:, None]
    w1 = load_vector(weight_ptr, offs + 1, C * 9, ACC)[:, None]
    w2 = load_vector(weight_ptr, offs + 2, C * 9, ACC)[:, None]
    w3 = load_vector(weight_ptr, offs + 3, C * 9, ACC)[:, None]
    w4 = load_vector(weight_ptr, offs + 4, C * 9, ACC)[:, None]
    w5 = load_vector(weight_ptr, offs + 5, C * 9, ACC)[:, None]
    w6 = load_vector(weight_ptr, offs + 6, C * 9, ACC)[:, None]
    w7 = load_vector(weight_ptr, offs + 7, C * 9, ACC)[:, None]
    w8 = load_vector(weight_ptr, offs + 8, C * 9, ACC)[:, None]
    return w0, w1, w2, w3, w4, w5, w6, w7, w8


@triton.jit
def _scan(peak, tag, v, v_tag, only_padding, STENCIL: tl.constexpr):
    """Go on from `peak` to v as torch's max_pool2d does: the first of equals, the last NaN."""
    higher = (v > peak) | (v != v)
    if STENCIL == "split":
        tag += tl.where(v == peak, v_tag, 0)
    else:
        higher = higher | only_padding
    return tl.maximum(peak, v, tl.PropagateNan.ALL), tl.where(higher, v_tag, tag)


@triton.jit
def _roll(x, row, offs_w, w, b, window, STENCIL: tl.constexpr, VEC: tl.constexpr):
    """Take `row` into the window of the row above, which completes it, and into those of the next two.

    Returns z and its tag: "first", the place of the maximum in the window, 0 to 8; "split", how many maxima there are.
    """
    if STENCIL == "dot":
        left, right = _shift(x, x, 0.0, VEC)
        z = window[0] + w[6] * left + w[7] * x + w[8] * right
        next_z = window[1] + w[3] * left + w[4] * x + w[5] * right
        return z, None, (next_z, b + w[0] * left + w[1] * x + w[2] * right)
    elif STENCIL == "avg":
        left, right = _shift(x, x, 0.0, VEC)
        total = left + x + right
        return window[0] + total, None, (window[1] + total, total)
    elif STENCIL == "max":
        left, right = _shift(x, x, float("-inf"), VEC)
        peak = tl.maximum(x, tl.maximum(left, right, tl.PropagateNan.ALL), tl.PropagateNan.ALL)
        z = tl.maximum(window[0], peak, tl.PropagateNan.ALL)
        return z, None, (tl.maximum(window[1], peak, tl.PropagateNan.ALL), peak)
    else:
        left, right = _shift(x, x, float("-inf"), VEC)
        one = tl.full(x.shape, 1, tl.int32)
        step: tl.constexpr = 0 if STENCIL == "split" else 1
        peak, tag = _scan(left, one - step, x, one, (offs_w == 0)[None, :], STENCIL)
        peak, tag = _scan(peak, tag, right, one + step, False, STENCIL)
        z, z_tag = _scan(window[0], window[1] & 15, peak, tag + 6 * step, False, STENCIL)
        next_z, next_tag = _scan(window[2], window[1] >> 4, peak, tag + 3 * step, row == 0, STENCIL)
        return z, z_tag, (next_z, next_tag + tag * 16, peak)


@triton.jit
def _share(row, offs_w, H, W, ACC: tl.constexpr):
    """One over the number of neighbours in the image [1, BLOCK_W]; meaningless outside it."""
    rows = tl.minimum(row + 1, H - 1) - tl.maximum(row - 1, 0) + 1
    cols = tl.minimum(offs_w + 1, W - 1) - tl.maximum(offs_w - 1, 0) + 1
    return 1.0 / (rows * cols).to(ACC)[None, :]


@triton.jit
def _route(dx, dz, z, tag, x, w, I: tl.constexpr, STENCIL: tl.constexpr):
    """Add to dx what the windows of a row give to x, the row I - 1 below it.

    dz, z and tag are triples: of the windows around the column before, the column itself and the column after.
    """
    if STENCIL == "dot":
        return dx + w[3 * I + 2] * dz[0] + w[3 * I + 1] * dz[1] + w[3 * I] * dz[2]
    elif STENCIL == "avg":
        return dx + (dz[0] + dz[1] + dz[2])
    elif STENCIL == "split":
        # the product as in the gradient of amax: what is not finite becomes NaN where x is no maximum
        dx += tl.where(x == z[0], dz[0], dz[0] * 0.0)
        dx += tl.where(x == z[1], dz[1], dz[1] * 0.0)
        return dx + tl.where(x == z[2], dz[2], dz[2] * 0.0)
    else:
        dx += tl.where(tag[0] == 3 * I + 2, dz[0], 0.0)
        dx += tl.where(tag[1] == 3 * I + 1, dz[1], 0.0)
        return dx + tl.where(tag[2] == 3 * I, dz[2], 0.0)


@triton.jit
def _around(v, outside, VEC: tl.constexpr):
    """v of the column before, the column itself and the column after."""
    before, after = _shift(v, v, outside, VEC)
    return before, v, after


@triton.jit
def _accumulate(sums, x, dz, own, I: tl.constexpr, VEC: tl.constexpr):
    """Add dz times x, the row I - 1 below it, to the sums [BLOCK_C, BLOCK_W // VEC] of three weights."""
    shape: tl.constexpr = [x.shape[0], x.shape[1] // VEC, VEC]
    sum0 = sums[3 * I] + tl.where(own, tl.sum(tl.reshape(x * dz[2], shape), 2), 0.0)
    sum1 = sums[3 * I + 1] + tl.where(own, tl.sum(tl.reshape(x * dz[1], shape), 2), 0.0)
    sum2 = sums[3 * I + 2] + tl.where(own, tl.sum(tl.reshape(x * dz[0], shape), 2), 0.0)
    return sum0, sum1, sum2


@triton.jit
def _place(
    H, W, C: tl.constexpr, HALO: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_H: tl.constexpr
):
    """The tile of this program: its image, first row, columns and channels."""
    blocks_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    step: tl.constexpr = BLOCK_W - 2 * HALO
    tile = tl.program_id(0) // blocks_c
    tiles_w = tl.cdiv(W, step)
    strip = tile // tiles_w
    strips = tl.cdiv(H, BLOCK_H)
    offs_w = tile % tiles_w * step - HALO + tl.arange(0, BLOCK_W)
    offs_c = tl.program_id(0) % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    return strip // strips, strip % strips * BLOCK_H, offs_w, offs_c


@triton.jit
def _stencil_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    x_stride,
    y_stride,
    map_stride,
    H,
    w_units,
    C: tl.constexpr,
    STENCIL: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    W_ALIGN: tl.constexpr,
    VEC: tl.constexpr,
    HALO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_H: tl.constexpr,
    STAGES: tl.constexpr,
):
    W = w_units * W_ALIGN
    n, h0, offs_w, offs_c = _place(H, W, C, HALO, BLOCK_C, BLOCK_W, BLOCK_H)
    mask_c = (offs_c < C)[:, None]
    mask_w = ((offs_w >= 0) & (offs_w < W))[None, :]
    lanes = tl.arange(0, BLOCK_W)
    mask_own = mask_c & mask_w & ((lanes >= HALO) & (lanes < BLOCK_W - HALO))[None, :]
    w = _taps(weight_ptr, offs_c, C, ACC) if STENCIL == "dot" else None
    b = load_vector(bias_ptr, offs_c, C, ACC)[:, None] if bias_ptr is not None else 0.0
    zero = tl.zeros([BLOCK_C, BLOCK_W], ACC)
    x1, window = zero, (zero, zero)
    for row in tl.range(h0 - 1, tl.minimum(h0 + BLOCK_H, H) + 1, num_stages=STAGES):
        mask = mask_c & mask_w & ((row >= 0) & (row < H))
        x2 = load_tile(x_ptr, x_stride, n, offs_c, row * W + offs_w, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_W]
        if STENCIL == "max":
            x2 = tl.where(mask, x2, float("-inf"))
        z, _, window = _roll(x2, row, offs_w, w, b, window, STENCIL, VEC)
        if STENCIL == "avg":
            z *= _share(row - 1, offs_w, H, W, ACC)
        g = GATE.f(z, GATE.a, GATE.b)
        mask = mask_own & (row > h0)
        offs_p = (row - 1) * W + offs_w
        store_tile(y_ptr, y_stride, n, offs_c, offs_p, x1 * g, mask, LAYOUT)
        if map_ptr is not None:
            store_tile(map_ptr, map_stride, n, offs_c, offs_p, g, mask, LAYOUT)
        x1 = x2


@triton.jit
def _stencil_bwd_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    dx_ptr,
    dweight_ptr,
    dbias_ptr,
    dy_stride,
    dmap_stride,
    x_stride,
    dx_stride,
    row_stride,
    H,
    w_units,
    C: tl.constexpr,
    STENCIL: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    W_ALIGN: tl.constexpr,
    VEC: tl.constexpr,
    HALO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_H: tl.constexpr,
    STAGES: tl.constexpr,
):
    W = w_units * W_ALIGN
    n, h0, offs_w, offs_c = _place(H, W, C, HALO, BLOCK_C, BLOCK_W, BLOCK_H)
    h1 = tl.minimum(h0 + BLOCK_H, H)
    mask_c = (offs_c < C)[:, None]
    mask_w = ((offs_w >= 0) & (offs_w < W))[None, :]
    lanes = tl.arange(0, BLOCK_W)
    own_w = ((lanes >= HALO) & (lanes < BLOCK_W - HALO))[None, :]
    w = _taps(weight_ptr, offs_c, C, ACC) if STENCIL == "dot" else None
    b = load_vector(bias_ptr, offs_c, C, ACC)[:, None] if bias_ptr is not None else 0.0
    tagged: tl.constexpr = STENCIL == "first" or STENCIL == "split"
    zero = tl.zeros([BLOCK_C, BLOCK_W], ACC)
    no_tag = tl.zeros([BLOCK_C, BLOCK_W], tl.int32)
    window = (zero, no_tag, zero) if tagged else (zero, zero)
    x0, x1 = zero, zero  # the last two rows of x, and of dx as far as they have come
    dx0, dx1 = zero, zero
    db = tl.zeros([BLOCK_C, BLOCK_W // VEC], ACC)
    dw = (db, db, db, db, db, db, db, db, db)
    for row in tl.range(h0 - 2, h1 + 2, num_stages=STAGES):
        offs_p = row * W + offs_w
        mask = mask_c & mask_w & ((row >= 0) & (row < H))
        x2 = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_W]
        if tagged:
            x2 = tl.where(mask_w & ((row >= 0) & (row < H)), x2, float("-inf"))
        z, tag, window = _roll(x2, row, offs_w, w, b, window, STENCIL, VEC)
        # from here on the row above; dy is loaded after the shifts, or the compiler changes layouts around them
        mask = mask_c & mask_w & ((row >= 1) & (row <= H))
        dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p - W, mask, LAYOUT, ACC)
        if W_ALIGN == 1 and not LAYOUT.channels_last:
            dy = _settle(dy, VEC)  # narrow loads have a layout of their own, which the arithmetic would take on
        if STENCIL == "avg":
            share = _share(row - 1, offs_w, H, W, ACC)
            z *= share
        ds = dy * x1
        if dmap_ptr is not None:
            ds += load_tile(dmap_ptr, dmap_stride, n, offs_c, offs_p - W, mask, LAYOUT, ACC)
        dz = GATE.df(ds, z, GATE.a, GATE.b)
        dx1 += dy * GATE.f(z, GATE.a, GATE.b)
        if STENCIL == "avg":
            dz *= share
        if STENCIL == "split":
            dz = tl.where(z == z, dz / tag.to(ACC), float("nan"))
        dz = tl.where(mask_w & ((row >= 1) & (row <= H)), dz, 0.0)
        dzs = _around(dz, 0.0, VEC)
        if dx_ptr is not None:
            zs = _around(z, float("nan"), VEC) if STENCIL == "split" else None
            tags = _around(tag, 0, VEC) if STENCIL == "first" else None
            dx = _route(dx0, dzs, zs, tags, x0, w, 0, STENCIL)
            dx0 = _route(dx1, dzs, zs, tags, x1, w, 1, STENCIL)
            dx1 = _route(zero, dzs, zs, tags, x2, w, 2, STENCIL)
            mask = mask_c & mask_w & own_w & (row - 2 >= h0)
            store_tile(dx_ptr, dx_stride, n, offs_c, offs_p - 2 * W, dx, mask, LAYOUT)
        own = (row > h0) & (row <= h1)
        if HALO:
            dzs = tl.where(own_w, dzs[0], 0.0), tl.where(own_w, dzs[1], 0.0), tl.where(own_w, dzs[2], 0.0)
        if dbias_ptr is not None:
            db += tl.where(own, tl.sum(tl.reshape(dzs[1], [BLOCK_C, BLOCK_W // VEC, VEC]), 2), 0.0)
        if dweight_ptr is not None:
            dw = (
                _accumulate(dw, x0, dzs, own, 0, VEC)
                + _accumulate(dw, x1, dzs, own, 1, VEC)
                + _accumulate(dw, x2, dzs, own, 2, VEC)
            )
        x0, x1 = x1, x2
    tile = tl.program_id(0) // tl.cdiv(C, BLOCK_C)
    out = tile.to(tl.int64) * row_stride
    if dweight_ptr is not None:
        for k in tl.static_range(9):
            tl.store(dweight_ptr + out + offs_c * 9 + k, tl.sum(dw[k], 1), offs_c < C)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + out + offs_c, tl.sum(db, 1), offs_c < C)


class Geometry(NamedTuple):
    """What the choice of a config depends on."""

    N: int
    C: int
    H: int
    W: int
    itemsize: int
    channels_last: bool

    @property
    def vec(self) -> int:
        """Neighbouring columns in one thread: in NCHW a 128-bit access."""
        return 8 if self.channels_last else 16 // self.itemsize

    def halo(self, config: Config) -> int:
        """Columns that a tile shares with its neighbour, on each side: none where one tile holds the row."""
        if config.blocks["BLOCK_W"] >= self.W:
            return 0
        return 2 if self.channels_last else self.vec

    def tiles(self, config: Config) -> tuple[int, int, int]:
        """Blocks of channels, tiles in a row, strips of rows."""
        block_c, block_w, block_h = (config.blocks[k] for k in ("BLOCK_C", "BLOCK_W", "BLOCK_H"))
        step = block_w - 2 * self.halo(config)
        return -(-self.C // block_c), -(-self.W // step), -(-self.H // block_h)

    def rows(self, config: Config, margin: int) -> float:
        """Times that each row is loaded, where a strip reads `margin` rows above and below its own."""
        block_h = config.blocks["BLOCK_H"]
        starts = range(0, self.H, block_h)
        loaded = (min(h + block_h + margin, self.H) - max(h - margin, 0) for h in starts)
        return sum(loaded) / self.H

    def columns(self, config: Config) -> float:
        """Times that each column is loaded."""
        block_w, halo = config.blocks["BLOCK_W"], self.halo(config)
        step = block_w - 2 * halo
        starts = range(-halo, self.W - halo, step)
        return sum(min(w + block_w, self.W) - max(w, 0) for w in starts) / self.W


def _geometry(x: Tensor, m: Maps) -> Geometry:
    return Geometry(*x.shape, x.element_size(), m.layout.channels_last)


def _config(x: Tensor, m: Maps, geometry: Geometry, stencil: str, backward: bool) -> Config:
    """By a model of its own: the loop over rows issues about as long as memory takes. Times in ps per element."""
    maps_read = 2 if backward else 1
    instructions, live = (INSTRUCTIONS[stencil], LIVE[stencil]) if backward else (30, 5)
    if geometry.channels_last:
        live += 2 * maps_read

    def time(config: Config) -> float | None:
        block_c, block_w = config.blocks["BLOCK_C"], config.blocks["BLOCK_W"]
        values = block_c * block_w / (32 * config.num_warps)
        lanes = block_w // geometry.vec  # that hold one row
        taps = 9 * maps_read * values / geometry.vec if stencil == "dot" else 0  # weights, and their sums
        registers = 24 + (values * live + taps) * max(1.0, geometry.itemsize / 4)
        if (
            lanes > (64 if config.num_warps == 1 else 32)
            or values < geometry.vec
            or block_w <= 2 * geometry.halo(config)
        ):
            return None
        blocks_c, tiles_w, strips = geometry.tiles(config)
        warps = max(geometry.N, 1) * blocks_c * tiles_w * strips * config.num_warps / SMS
        resident = max(1.0, min(REGISTERS / (32 * registers), 64, 32 * config.num_warps))
        active = min(warps, resident)
        rows = (geometry.H + (2 * maps_read + 1) * strips) / geometry.H  # one more for the start
        padding = blocks_c * block_c * tiles_w * block_w / (geometry.C * geometry.W)
        shuffles = 4 * 2 * maps_read * max(1.0, lanes / 32) / geometry.vec  # a shuffle takes four issue slots
        issue = (instructions * (1 + 0.5 / values) + shuffles) * padding * rows / 29.6 * max(1.0, 12 / active)
        loaded = geometry.rows(config, maps_read) * geometry.columns(config)
        in_flight = active * 32 * values * geometry.itemsize * maps_read * (config.blocks["STAGES"] - 1) / padding
        row_bytes = geometry.itemsize * (block_c if geometry.channels_last else block_w)
        memory = geometry.itemsize * (maps_read * (1 + 0.2 * (loaded - 1)) + 1) / 4.3  # what is loaded again is in L2
        memory *= max(1.0, BYTES_IN_FLIGHT / in_flight) * max(1.0, 128 / row_bytes) ** 0.25 * max(1.0, 32 / row_bytes)
        waves = warps / resident
        tail = (ceil(waves) / waves) ** 0.3 if waves > 1 else 1.0
        # where the GPU is not full padding costs little, but not nothing
        spills = max(1.0, registers / 200) ** 8
        return (max(issue, memory) + 0.3 * min(issue, memory)) * tail * spills * padding**0.1

    kernel = "stencil_bwd" if backward else "stencil_fwd"
    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(stencil,), exact=geometry)
    return config_for(SPACE, time, kernel, x, **how)


def _common(x: Tensor, m: Maps, geometry: Geometry, config: Config, stencil: str, gate: Activation) -> dict:
    H, W = x.shape[2:]
    w_align = next(a for a in ALIGNMENTS if W % a == 0)
    return dict(
        H=H,
        w_units=W // w_align,
        C=m.C,
        STENCIL=stencil,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        W_ALIGN=w_align,
        VEC=geometry.vec,
        HALO=geometry.halo(config),
    )


def plan_stencil_fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    gate_map: Tensor | None,
    stencil: str,
    gate: Activation,
) -> Plan:
    m = maps(*(t for t in (x, y, gate_map) if t is not None))
    geometry = _geometry(x, m)
    config = _config(x, m, geometry, stencil, backward=False)
    args = dict(
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        y_ptr=y,
        map_ptr=gate_map,
        x_stride=m.strides[0],
        y_stride=m.strides[1],
        map_stride=m.strides[-1],
        **_common(x, m, geometry, config, stencil, gate),
    )
    blocks_c, tiles_w, strips = geometry.tiles(config)
    tiles = m.N * tiles_w * strips
    reads = geometry.rows(config, 1) * geometry.columns(config)
    traffic = dict(x_ptr=(reads, 0), weight_ptr=(tiles, 0), bias_ptr=(tiles, 0), y_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_stencil_fwd_kernel, args, config, tiles * blocks_c, traffic)


def plan_stencil_bwd(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dx: Tensor | None,
    with_dweight: bool,
    with_dbias: bool,
    stencil: str,
    gate: Activation,
) -> tuple[Plan, Tensor]:
    """The plan, and the partial sums that it fills: (tiles, 9 C and C more), columns only for what is wanted."""
    m = maps(*(t for t in (dy, x, dx, dmap) if t is not None))
    geometry = _geometry(x, m)
    config = _config(x, m, geometry, stencil, backward=True)
    blocks_c, tiles_w, strips = geometry.tiles(config)
    tiles, head = m.N * tiles_w * strips, 9 * m.C * with_dweight
    partial = partials(x, tiles, head + m.C * with_dbias)
    args = dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        dx_ptr=dx,
        dweight_ptr=partial[:, :head] if with_dweight else None,
        dbias_ptr=partial[:, head:] if with_dbias else None,
        dy_stride=m.strides[0],
        dmap_stride=m.strides[-1],
        x_stride=m.strides[1],
        dx_stride=m.strides[2 if dx is not None else 1],
        row_stride=partial.stride(0),
        **_common(x, m, geometry, config, stencil, gate),
    )
    columns = geometry.columns(config)
    once = geometry.rows(config, 1) * columns
    traffic = dict(
        dy_ptr=(once, 0),
        dmap_ptr=(once, 0),
        x_ptr=(geometry.rows(config, 2) * columns, 0),
        weight_ptr=(tiles, 0),
        bias_ptr=(tiles, 0),
        dx_ptr=(0, 1),
        dweight_ptr=(0, 1),
        dbias_ptr=(0, 1),
    )
    return Plan(_stencil_bwd_kernel, args, config, tiles * blocks_c, traffic), partial
