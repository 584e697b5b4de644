"""A perceptron on the pooled channels of every image, of one layer or two, and its gradients.

    v = pooled (mean, maximum, or half their sum),  z1 = W1 v + b1,  z = W2 act(z1) + b2;   one layer: z = W1 v + b1

v (N, CIN); z (N, C); z1 (N, R); W1 (R, CIN), W2 (C, R); one layer: W1 (C, CIN). A map that is gated by its own pool has
CIN = C. The second stage of the pool is done on the way.
Every program has an image and BLOCK_R of the hidden channels: it reads those rows of W1 and columns of W2, and what
they add to z is a partial result, (N, K, C) with K = R / BLOCK_R, for the next kernel to sum in that order. So the
weights are read once per image, by as many SMs as there are blocks.

Backward, with ds_nc = sum_p dy x + dmap:    dz = ds gate'(z),  dz1 = act'(z1) W2^T dz,  dpooled = W1^T dz1 (partial)
    dW2 = sum_n dz act(z1)^T,  db2 = sum_n dz,  dW1 = sum_n dz1 v^T,  db1 = sum_n dz1;    one layer: dz1 = ds gate'(z)
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from segattn_triton.kernels.activations import Activation
from segattn_triton.kernels.tile import accumulator, d_logit, finish_sum, is_peak, load_vector, nan_max
from segattn_triton.launch import Plan
from segattn_triton.tuning import L2_BANDWIDTH, SM_BANDWIDTH, SMS, STEP, Config, config_for, space

SPACE = space(BLOCK_R=(4, 8, 16, 32, 64), BLOCK_C=(16, 32, 64, 128, 256, 512, 1024), num_warps=(4, 8))
DW_SPACE = space(BLOCK_R=(8, 16, 32, 64), BLOCK_C=(16, 32, 64, 128), num_warps=(2, 4))
SPLITS = 64  # partial results of z and dpooled that the next kernel sums, at most
TILE = 256  # pixels of the tiles of the next kernel


@triton.jit
def _finish_peak(
    peak_ptr, at_ptr, n, offs_c, tiles, C: tl.constexpr, SPLIT: tl.constexpr, ACC: tl.constexpr, BLOCK_T: tl.constexpr
):
    """[BLOCK_C]: the maximum over the tiles of image n, and its first pixel or its count."""
    peak = tl.full([BLOCK_T, offs_c.shape[0]], float("-inf"), ACC)
    at = tl.full([BLOCK_T, offs_c.shape[0]], 0 if SPLIT else 2**31 - 1, tl.int32)
    for tile in range(0, tiles, BLOCK_T):
        offs_t = tile + tl.arange(0, BLOCK_T)
        offs = (n.to(tl.int64) * tiles + offs_t)[:, None] * C + offs_c[None, :]
        mask = (offs_t < tiles)[:, None] & (offs_c < C)[None, :]
        p = tl.load(peak_ptr + offs, mask, other=float("-inf"))
        a = tl.load(at_ptr + offs, mask, other=0 if SPLIT else 2**31 - 1)
        both = at + a if SPLIT else tl.minimum(at, a)
        higher = ((p > peak) | (p != p)) & (peak == peak)
        at = tl.where(higher, a, tl.where(is_peak(p, peak), both, at))
        peak = tl.where(higher, p, peak)
    highest = nan_max(peak, 0)
    here = is_peak(peak, highest[None, :])
    return highest, tl.sum(tl.where(here, at, 0), 0) if SPLIT else tl.min(tl.where(here, at, 2**31 - 1), 0)


@triton.jit
def _load_weight(ptr, offs_row, offs_col, ROWS: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr):
    mask = (offs_row < ROWS)[:, None] & (offs_col < COLS)[None, :]
    return tl.load(ptr + offs_row[:, None] * COLS + offs_col[None, :], mask, other=0.0).to(ACC)


@triton.jit
def _mlp_fwd_kernel(
    total_ptr,
    peak_ptr,
    at_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    b2_ptr,
    pooled_ptr,
    highest_ptr,
    found_ptr,
    z1_ptr,
    z_ptr,
    tiles,
    pixels,
    CIN: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    ACT: tl.constexpr,
    SPLIT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    K: tl.constexpr = (R + BLOCK_R - 1) // BLOCK_R
    k = tl.program_id(0) % K
    n = tl.program_id(0) // K
    image = n.to(tl.int64) * C
    source = n.to(tl.int64) * CIN
    offs_r = k * BLOCK_R + tl.arange(0, BLOCK_R)
    z1 = tl.zeros([BLOCK_R, BLOCK_C], ACC)
    for chunk in range(0, CIN, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        mine = (offs_c < CIN) & (k == 0)
        w = _load_weight(w1_ptr, offs_r, offs_c, R, CIN, ACC)  # [BLOCK_R, BLOCK_C]
        v = tl.zeros([BLOCK_C], ACC)
        if total_ptr is not None:
            v = finish_sum(total_ptr, n, offs_c, tiles, CIN, ACC, BLOCK_T) / pixels
        if peak_ptr is not None:
            peak, at = _finish_peak(peak_ptr, at_ptr, n, offs_c, tiles, CIN, SPLIT, ACC, BLOCK_T)
            v = peak if total_ptr is None else 0.5 * (v + peak)
            tl.store(found_ptr + source + offs_c, at, mine)
            if highest_ptr is not None:
                tl.store(highest_ptr + source + offs_c, peak, mine)
        tl.store(pooled_ptr + source + offs_c, v, mine)
        z1 += w * tl.where(offs_c < CIN, v, 0.0)[None, :]
    hidden = tl.sum(z1, 1)
    if b1_ptr is not None:
        hidden += load_vector(b1_ptr, offs_r, R, ACC)
    if w2_ptr is None:
        tl.store(z_ptr + image + offs_r, hidden, offs_r < R)
    else:
        tl.store(z1_ptr + n.to(tl.int64) * R + offs_r, hidden, offs_r < R)
        h = tl.where(offs_r < R, ACT.f(hidden, ACT.a, ACT.b), 0.0)
        for chunk in range(0, C, BLOCK_C):
            offs_c = chunk + tl.arange(0, BLOCK_C)
            w = _load_weight(w2_ptr, offs_c, offs_r, C, R, ACC)  # [BLOCK_C, BLOCK_R]
            z = tl.sum(w * h[None, :], 1)
            if b2_ptr is not None:
                z += tl.load(b2_ptr + offs_c, (offs_c < C) & (k == 0), other=0.0).to(ACC)
            tl.store(z_ptr + (image * K + k * C) + offs_c, z, offs_c < C)


@triton.jit
def _mlp_bwd_kernel(
    ds_ptr,
    dmap_ptr,
    z_ptr,
    z1_ptr,
    w1_ptr,
    w2_ptr,
    dz_ptr,
    dz1_ptr,
    dpooled_ptr,
    tiles,
    CIN: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    ACT: tl.constexpr,
    GATE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    K: tl.constexpr = (R + BLOCK_R - 1) // BLOCK_R
    k = tl.program_id(0) % K
    n = tl.program_id(0) // K
    image = n.to(tl.int64) * C
    hidden = n.to(tl.int64) * R
    offs_r = k * BLOCK_R + tl.arange(0, BLOCK_R)
    if w2_ptr is None:
        dz1 = d_logit(ds_ptr, dmap_ptr, z_ptr, n, offs_r, tiles, C, GATE, ACC, BLOCK_T)
    else:
        dh = tl.zeros([BLOCK_C, BLOCK_R], ACC)
        for chunk in range(0, C, BLOCK_C):
            offs_c = chunk + tl.arange(0, BLOCK_C)
            w = _load_weight(w2_ptr, offs_c, offs_r, C, R, ACC)  # [BLOCK_C, BLOCK_R]
            dz = d_logit(ds_ptr, dmap_ptr, z_ptr, n, offs_c, tiles, C, GATE, ACC, BLOCK_T)
            tl.store(dz_ptr + image + offs_c, dz, (offs_c < C) & (k == 0))
            dh += w * dz[:, None]
        z1 = load_vector(z1_ptr + hidden, offs_r, R, ACC)
        dz1 = tl.where(offs_r < R, ACT.df(tl.sum(dh, 0), z1, ACT.a, ACT.b), 0.0)
    tl.store(dz1_ptr + hidden + offs_r, dz1, offs_r < R)
    if dpooled_ptr is not None:
        row = dpooled_ptr + (n.to(tl.int64) * K + k) * CIN
        for chunk in range(0, CIN, BLOCK_C):
            offs_c = chunk + tl.arange(0, BLOCK_C)
            w = _load_weight(w1_ptr, offs_r, offs_c, R, CIN, ACC)  # [BLOCK_R, BLOCK_C]
            tl.store(row + offs_c, tl.sum(w * dz1[:, None], 0), offs_c < CIN)


@triton.jit
def _mlp_dw_kernel(
    dz_ptr,
    dz1_ptr,
    z1_ptr,
    pooled_ptr,
    dw1_ptr,
    db1_ptr,
    dw2_ptr,
    db2_ptr,
    images,
    CIN: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    CHUNKS: tl.constexpr = (max(CIN, C) + BLOCK_C - 1) // BLOCK_C
    pid_r = tl.program_id(0) // CHUNKS
    pid_c = tl.program_id(0) % CHUNKS
    offs_r = pid_r * BLOCK_R + tl.arange(0, BLOCK_R)
    offs_c = pid_c * BLOCK_C + tl.arange(0, BLOCK_C)
    dw1 = tl.zeros([BLOCK_R, BLOCK_C], ACC)
    dw2 = tl.zeros([BLOCK_R, BLOCK_C], ACC)
    db1 = tl.zeros([BLOCK_R], ACC)
    db2 = tl.zeros([BLOCK_C], ACC)
    for _ in tl.range(0, images, loop_unroll_factor=4):
        if dw1_ptr is not None or db1_ptr is not None:
            dz1 = load_vector(dz1_ptr, offs_r, R, ACC)
            db1 += dz1
            dz1_ptr += R
        if dw1_ptr is not None:
            dw1 += dz1[:, None] * load_vector(pooled_ptr, offs_c, CIN, ACC)[None, :]
            pooled_ptr += CIN
        if dw2_ptr is not None or db2_ptr is not None:
            dz = load_vector(dz_ptr, offs_c, C, ACC)
            db2 += dz
            dz_ptr += C
        if dw2_ptr is not None:
            h = ACT.f(load_vector(z1_ptr, offs_r, R, ACC), ACT.a, ACT.b)
            dw2 += h[:, None] * dz[None, :]
            z1_ptr += R
    if dw1_ptr is not None:
        mask = (offs_r < R)[:, None] & (offs_c < CIN)[None, :]
        tl.store(dw1_ptr + offs_r[:, None] * CIN + offs_c[None, :], dw1.to(dw1_ptr.dtype.element_ty), mask)
    if dw2_ptr is not None:
        mask = (offs_r < R)[:, None] & (offs_c < C)[None, :]
        tl.store(dw2_ptr + offs_c[None, :] * R + offs_r[:, None], dw2.to(dw2_ptr.dtype.element_ty), mask)
    if db1_ptr is not None:
        tl.store(db1_ptr + offs_r, db1.to(db1_ptr.dtype.element_ty), (offs_r < R) & (pid_c == 0))
    if db2_ptr is not None:
        tl.store(db2_ptr + offs_c, db2.to(db2_ptr.dtype.element_ty), (offs_c < C) & (pid_r == 0))


def _splits(R: int, config: Config) -> int:
    return -(-R // config.blocks["BLOCK_R"])


def _fits(size: int, block: int) -> bool:
    return block < 2 * size or block <= 16


def _block_t(tiles: int, config: Config) -> int:
    """Tiles that a step of the pool's second stage takes: 16 values a thread."""
    return min(triton.next_power_of_2(tiles), max(512 * config.num_warps // config.blocks["BLOCK_C"], 1))


def _config(kernel: str, N: int, C: int, R: int, pixels: int, tiles: int, w1: Tensor) -> Config:
    """A program's steps are bound by latency and by what one SM reads; each split is read again for every tile."""
    itemsize = w1.element_size()

    def microseconds(config: Config) -> float | None:
        block_r, block_c, block_t = config.blocks["BLOCK_R"], config.blocks["BLOCK_C"], _block_t(tiles, config)
        splits, chunks, finishes = _splits(R, config), -(-C // block_c), -(-tiles // block_t)
        values = block_r * block_c / (32 * config.num_warps)
        if splits > max(SPLITS, -(-R // 64)) or values > 64 or not (_fits(R, block_r) and _fits(C, block_c)):
            return None
        nbytes = 2 * block_r * block_c * itemsize + 4 * finishes * block_t * block_c
        rounds = max(1.0, N * splits / SMS)
        steps = chunks * ((2 + finishes) * STEP + rounds * nbytes / SM_BANDWIDTH)
        return steps + 4 * N * splits * C * max(1.0, pixels / TILE) / L2_BANDWIDTH + 1e-3 * values

    how = dict(C=C, pixels=N * pixels, also=(f"R{R}",), exact=(N, tiles))
    return config_for(SPACE, microseconds, kernel, w1, **how)


def plan_mlp_fwd(
    total: Tensor | None,
    peak: Tensor | None,
    at: Tensor | None,
    pixels: int,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    pooled: Tensor,
    highest: Tensor | None,
    found: Tensor | None,
    z1: Tensor | None,
    act: Activation,
    split: bool,
) -> Plan:
    """Of partials (N, T, CIN): pooled, the maximum and its place (N, CIN), z1 (N, R). `z_ptr` (N, K, C) is new."""
    N, tiles, inputs = (peak if total is None else total).shape
    R = w1.shape[0]
    C = R if w2 is None else w2.shape[0]
    config = _config("mlp_fwd", N, max(inputs, C), R, pixels, tiles, w1)
    K = _splits(R, config)
    args = dict(
        total_ptr=total,
        peak_ptr=peak,
        at_ptr=at,
        w1_ptr=w1,
        b1_ptr=b1,
        w2_ptr=w2,
        b2_ptr=b2,
        pooled_ptr=pooled,
        highest_ptr=highest,
        found_ptr=found,
        z1_ptr=z1,
        z_ptr=pooled.new_empty((N, 1 if w2 is None else K, C)),
        tiles=tiles,
        pixels=pixels,
        CIN=inputs,
        C=C,
        R=R,
        ACT=act,
        SPLIT=split,
        ACC=accumulator(pooled),
        BLOCK_T=_block_t(tiles, config),
    )
    read = dict(total_ptr=K, peak_ptr=K, at_ptr=K, w1_ptr=N, b1_ptr=N, w2_ptr=N, b2_ptr=N)
    written = ("pooled_ptr", "highest_ptr", "found_ptr", "z1_ptr", "z_ptr")
    traffic = {name: (times, 0) for name, times in read.items()} | {name: (0, 1) for name in written}
    return Plan(_mlp_fwd_kernel, args, config, N * K, traffic)


def plan_mlp_bwd(
    ds: Tensor,
    pixels: int,
    dmap: Tensor | None,
    z: Tensor,
    z1: Tensor | None,
    w1: Tensor,
    w2: Tensor | None,
    with_dpooled: bool,
    act: Activation,
    gate: Activation,
) -> Plan:
    """Of partials ds (N, T, C). Its `dz_ptr` (N, C), `dz1_ptr` (N, R) and `dpooled_ptr` (N, K, CIN) are new buffers."""
    N, tiles, C = ds.shape
    R, inputs = w1.shape[:2]
    config = _config("mlp_bwd", N, max(inputs, C), R, pixels, tiles, w1)
    K = _splits(R, config)
    args = dict(
        ds_ptr=ds,
        dmap_ptr=dmap,
        z_ptr=z,
        z1_ptr=z1,
        w1_ptr=w1,
        w2_ptr=w2,
        dz_ptr=None if w2 is None else torch.empty_like(z),
        dz1_ptr=z.new_empty((N, R)),
        dpooled_ptr=z.new_empty((N, K, inputs)) if with_dpooled else None,
        tiles=tiles,
        CIN=inputs,
        C=C,
        R=R,
        ACT=act,
        GATE=gate,
        ACC=accumulator(z),
        BLOCK_T=_block_t(tiles, config),
    )
    reads = 1 if w2 is None else K
    traffic = dict(
        ds_ptr=(reads, 0),
        dmap_ptr=(reads, 0),
        z_ptr=(reads, 0),
        z1_ptr=(1, 0),
        w1_ptr=(N if with_dpooled else 0, 0),
        w2_ptr=(N, 0),
        dz_ptr=(0, 1),
        dz1_ptr=(0, 1),
        dpooled_ptr=(0, 1),
    )
    return Plan(_mlp_bwd_kernel, args, config, N * K, traffic)


def plan_mlp_dw(
    dz: Tensor | None,
    dz1: Tensor,
    z1: Tensor | None,
    pooled: Tensor,
    dw1: Tensor | None,
    db1: Tensor | None,
    dw2: Tensor | None,
    db2: Tensor | None,
    act: Activation,
) -> Plan:
    """The gradients of the parameters that are wanted, summed over the images in order."""
    (N, inputs), R = pooled.shape, dz1.shape[1]
    C = R if dz is None else dz.shape[1]
    widest = inputs if dz is None else max(inputs, C)

    def blocks(config: Config) -> tuple[int, int]:
        return -(-R // config.blocks["BLOCK_R"]), -(-widest // config.blocks["BLOCK_C"])

    def microseconds(config: Config) -> float | None:
        block_r, block_c, (rows, cols) = config.blocks["BLOCK_R"], config.blocks["BLOCK_C"], blocks(config)
        values = block_r * block_c / (32 * config.num_warps)
        if values > 8 or not (_fits(R, block_r) and _fits(widest, block_c)):
            return None
        nbytes = 8 * rows * cols * N * (block_r + block_c)
        return STEP * N * max(1.0, rows * cols / (8 * SMS)) + nbytes / L2_BANDWIDTH + 1e-3 * values

    config = config_for(DW_SPACE, microseconds, "mlp_dw", pooled, C=C, pixels=N, also=(f"R{R}",))
    rows, cols = blocks(config)
    args = dict(
        dz_ptr=dz,
        dz1_ptr=dz1,
        z1_ptr=z1,
        pooled_ptr=pooled,
        dw1_ptr=dw1,
        db1_ptr=db1,
        dw2_ptr=dw2,
        db2_ptr=db2,
        images=N,
        CIN=inputs,
        C=widest if dz is None else C,
        R=R,
        ACT=act,
        ACC=accumulator(pooled),
    )
    traffic = dict(
        dz_ptr=(0 if dw2 is None and db2 is None else rows, 0),
        dz1_ptr=(0 if dw1 is None and db1 is None else cols, 0),
        z1_ptr=(0 if dw2 is None else cols, 0),
        pooled_ptr=(0 if dw1 is None else rows, 0),
        dw1_ptr=(0, 1),
        db1_ptr=(0, 1),
        dw2_ptr=(0, 1),
        db2_ptr=(0, 1),
    )
    return Plan(_mlp_dw_kernel, args, config, rows * cols, traffic)
