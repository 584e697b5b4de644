"""The window that rolls down a strip of rows, one channel each: what the stencil kernels do at every row.

A row is a tile [BLOCK_C, BLOCK_W]; its pixels move to their neighbours' lanes by `shifted`. VEC is the number of
columns that a thread holds side by side, so that few of them move between threads. The window of a convolution is
K x K, those of pools are 3 x 3. `around` is a row at the K columns of each window, from the first to the last.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from ..common.tile import load_vector

# Weights, and backward their sums, that registers hold.
# Where there are more, weights come anew.
HELD = tl.constexpr(50)


class Window(NamedTuple):
    """The neighbours of a value; a constexpr."""

    size: int = 3
    dilation: int = 1
    step: int = 1  # columns from one of a tile to the next: 1, or the dilation


@triton.jit
def shifted(x, BY: tl.constexpr, outside, VEC: tl.constexpr):
    """x[c, w + BY], `outside` beyond the tile: columns that stay with their thread do not move."""
    C: tl.constexpr = x.shape[0]
    W: tl.constexpr = x.shape[1]
    if VEC == 1:
        offs_w = tl.broadcast_to(tl.arange(0, W)[None, :], [C, W])
        if BY == 0:
            return x
        elif BY < 0:
            return tl.where(offs_w < -BY, outside, tl.gather(x, tl.maximum(offs_w + BY, 0), 1))
        else:
            return tl.where(offs_w >= W - BY, outside, tl.gather(x, tl.minimum(offs_w + BY, W - 1), 1))
    else:
        even, odd = tl.split(tl.reshape(x, [C, W // 2, 2]))
        if BY % 2 == 0:
            first, second = shifted(even, BY // 2, outside, VEC // 2), shifted(odd, BY // 2, outside, VEC // 2)
        else:
            first = shifted(odd, (BY - 1) // 2, outside, VEC // 2)
            second = shifted(even, (BY + 1) // 2, outside, VEC // 2)
        return tl.reshape(tl.join(first, second), [C, W])


@triton.jit
def around(x, outside, K: tl.constexpr, DILATION: tl.constexpr, VEC: tl.constexpr):
    """x at the K columns of a window around each, `outside` beyond the tile."""
    columns = ()
    for j in tl.static_range(K):
        if K == 3 and j == 1:
            columns += (x,)
        else:  # the middle one, too: in the layout of the others
            columns += (shifted(x, DILATION * (j - K // 2), outside, VEC),)
    return columns


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
def load_taps(weight_ptr, offs_c, C: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr):
    """The K x K weights [BLOCK_C, 1], in row-major order, of (C, K, K)."""
    w = ()
    for k in tl.static_range(K * K):
        w += (load_vector(weight_ptr, offs_c * (K * K) + k, C * (K * K), ACC)[:, None],)
    return w


@triton.jit
def load_taps_again(weight_ptr, offs_c, C: tl.constexpr, K: tl.constexpr):
    """The same of (K, K, C), in the accumulator's precision: channels side by side for what comes at every row."""
    w = ()
    for k in tl.static_range(K * K):
        w += (tl.load(weight_ptr + k * C + offs_c, offs_c < C, other=0.0)[:, None],)
    return w


@triton.jit
def several(x, COUNT: tl.constexpr):
    """x, so many times."""
    same = ()
    for _ in tl.static_range(COUNT):
        same += (x,)
    return same


@triton.jit
def push(rows, row, mask, outside):
    """The rows without the first, and one more. Each that moves up is a value of its own, as it was: MLIR takes two
    carried values for one where both begin as zero and the one becomes the other, and a sum with 0 loses the sign of 0.
    """
    moved = ()
    for i in tl.static_range(1, len(rows)):
        moved += (tl.where(mask, rows[i], outside),)
    return moved + (row,)


@triton.jit
def _taps(total, w, around, I: tl.constexpr, K: tl.constexpr):
    """Add to `total` what a row gives to the windows in which it is row I."""
    for j in tl.static_range(K):
        total += w[K * I + j] * around[j]
    return total


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
def roll(around, row, offs_w, w, b, window, STENCIL: tl.constexpr):
    """Take `row` into the windows of K rows: of the one K // 2 above it, which completes it, and of those that follow.

    Returns z and its tag: "first", the place of the maximum in the window, 0 to 8; "split", how many maxima there are;
    else z again, because Triton 3.6 cannot return None in a tuple.
    """
    if STENCIL == "dot":
        K: tl.constexpr = len(window) + 1
        z, rolled = _taps(window[0], w, around, K - 1, K), ()
        for i in tl.static_range(1, K - 1):
            rolled += (_taps(window[i], w, around, K - 1 - i, K),)
        return z, z, rolled + (_taps(b, w, around, 0, K),)
    elif STENCIL == "avg":
        total = around[0] + around[1] + around[2]
        z = window[0] + total
        return z, z, (window[1] + total, total)
    elif STENCIL == "max":
        peak = tl.maximum(around[0], around[2], tl.PropagateNan.ALL)
        peak = tl.maximum(around[1], peak, tl.PropagateNan.ALL)
        z = tl.maximum(window[0], peak, tl.PropagateNan.ALL)
        return z, z, (tl.maximum(window[1], peak, tl.PropagateNan.ALL), peak)
    else:
        left, x, right = around
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
    """Add to dx what the windows of a row give to x, the row I - K // 2 below it.

    dz, z and tag are of the windows around the columns of a window, as `around` gives them.
    """
    if STENCIL == "dot":
        K: tl.constexpr = len(dz)
        for j in tl.static_range(K):
            dx += w[K * I + (K - 1 - j)] * dz[j]
        return dx
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
def _apart(x, VEC: tl.constexpr):
    """The VEC columns [BLOCK_C, BLOCK_W // VEC] of every thread, of a row."""
    if VEC == 1:
        return (x,)
    else:
        even, odd = tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))
        return _apart(even, VEC // 2) + _apart(odd, VEC // 2)


@triton.jit
def accumulate(sums, rows, dz, VEC: tl.constexpr):
    """Add dz times its neighbours, in K rows, to the sums [BLOCK_C, BLOCK_W // VEC] of K x K weights."""
    K: tl.constexpr = len(dz)
    added = ()
    for i in tl.static_range(K):
        x = _apart(rows[i], VEC)
        for j in tl.static_range(K):
            total, d = sums[K * i + j], _apart(dz[K - 1 - j], VEC)
            for v in tl.static_range(VEC):
                total += x[v] * d[v]
            added += (total,)
    return added
