"""The 3x3 window that rolls down a strip of rows, one channel each: what the stencil kernels do at every row.

A row is a tile [BLOCK_C, BLOCK_W]; its pixels move to their neighbours' lanes by `shift`. VEC is the number of columns
that a thread holds side by side, so that only one in VEC moves between threads.
"""

import triton
import triton.language as tl

from ..common.tile import load_vector


@triton.jit
def shift(a, b, outside, VEC: tl.constexpr):
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
        before, after = shift(a_odd, b_even, outside, VEC // 2)
        return tl.reshape(tl.join(before, a_even), [C, W]), tl.reshape(tl.join(b_odd, after), [C, W])


@triton.jit
def settle(x, VEC: tl.constexpr):
    """x as it is, in the layout that `shift` works in."""
    C: tl.constexpr = x.shape[0]
    W: tl.constexpr = x.shape[1]
    if VEC == 1:
        return x
    else:
        even, odd = tl.split(tl.reshape(x, [C, W // 2, 2]))
        return tl.reshape(tl.join(settle(even, VEC // 2), settle(odd, VEC // 2)), [C, W])


@triton.jit
def load_taps(weight_ptr, offs_c, C: tl.constexpr, ACC: tl.constexpr):
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
def roll(left, x, right, row, offs_w, w, b, window, STENCIL: tl.constexpr):
    """Take `row`, with the columns before and after each of it, into the window of the row above, which completes it,
    and into those of the next two.

    Returns z and its tag: "first", the place of the maximum in the window, 0 to 8; "split", how many maxima there are;
    else z again, because Triton 3.6 cannot return None in a tuple.
    """
    if STENCIL == "dot":
        z = window[0] + w[6] * left + w[7] * x + w[8] * right
        next_z = window[1] + w[3] * left + w[4] * x + w[5] * right
        return z, z, (next_z, b + w[0] * left + w[1] * x + w[2] * right)
    elif STENCIL == "avg":
        total = left + x + right
        z = window[0] + total
        return z, z, (window[1] + total, total)
    elif STENCIL == "max":
        peak = tl.maximum(x, tl.maximum(left, right, tl.PropagateNan.ALL), tl.PropagateNan.ALL)
        z = tl.maximum(window[0], peak, tl.PropagateNan.ALL)
        return z, z, (tl.maximum(window[1], peak, tl.PropagateNan.ALL), peak)
    else:
        one = tl.full(x.shape, 1, tl.int32)
        step: tl.constexpr = 0 if STENCIL == "split" else 1
        peak, tag = _scan(left, one - step, x, one, (offs_w == 0)[None, :], STENCIL)
        peak, tag = _scan(peak, tag, right, one + step, False, STENCIL)
        z, z_tag = _scan(window[0], window[1] & 15, peak, tag + 6 * step, False, STENCIL)
        next_z, next_tag = _scan(window[2], window[1] >> 4, peak, tag + 3 * step, row == 0, STENCIL)
        return z, z_tag, (next_z, next_tag + tag * 16, peak)


@triton.jit
def inverse_count(row, offs_w, H, W, ACC: tl.constexpr):
    """One over the number of neighbours in the image [1, BLOCK_W]; meaningless outside it. Two divisions a row."""
    rows = tl.minimum(row + 1, H - 1) - tl.maximum(row - 1, 0) + 1
    inside, edge = 1.0 / (rows * 3).to(ACC), 1.0 / (rows * tl.minimum(W, 2)).to(ACC)
    return tl.where((offs_w == 0) | (offs_w == W - 1), edge, inside)[None, :]


@triton.jit
def route(dx, dz, z, tag, x, w, I: tl.constexpr, STENCIL: tl.constexpr):
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
def around(v, outside, VEC: tl.constexpr):
    """v of the column before, the column itself and the column after."""
    before, after = shift(v, v, outside, VEC)
    return before, v, after


@triton.jit
def _accumulate_row(sums, x, dz, own, I: tl.constexpr, VEC: tl.constexpr):
    """Add dz times x, the row I - 1 below it, to the sums [BLOCK_C, BLOCK_W // VEC] of three weights."""
    shape: tl.constexpr = [x.shape[0], x.shape[1] // VEC, VEC]
    sum0 = sums[3 * I] + tl.where(own, tl.sum(tl.reshape(x * dz[2], shape), 2), 0.0)
    sum1 = sums[3 * I + 1] + tl.where(own, tl.sum(tl.reshape(x * dz[1], shape), 2), 0.0)
    sum2 = sums[3 * I + 2] + tl.where(own, tl.sum(tl.reshape(x * dz[0], shape), 2), 0.0)
    return sum0, sum1, sum2


@triton.jit
def accumulate(sums, x0, x1, x2, dz, own, VEC: tl.constexpr):
    """Add dz times its neighbours, in the rows x0, x1 and x2, to the sums [BLOCK_C, BLOCK_W // VEC] of nine weights."""
    above = _accumulate_row(sums, x0, dz, own, 0, VEC)
    here = _accumulate_row(sums, x1, dz, own, 1, VEC)
    return above + here + _accumulate_row(sums, x2, dz, own, 2, VEC)
