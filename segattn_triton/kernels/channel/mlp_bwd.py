"""The perceptron of a gate, backward: from ds (N, T, C), partial sums of dy x, to the gradient of the pool.

    dz = (sum_t ds + dmap) gate'(z),   dz1 = act'(z1) W2^T dz,   dpooled = W1^T dz1 (partial, (N, K, CIN));
    one layer: dz1 = dz;    BOTH: dz1 (N, 2, R) and dpooled (N, 2, K, CIN), of the mean and of the maximum

The parameters' gradients are sums over the images of dz and dz1: see `mlp_dw`. For the sizes see `mlp`. Programs after
those of the perceptron finish the sums of a kernel before, which wait for nothing here.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.target import with_all_registers
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.finish import COLS, finish_args, finish_columns, finish_traffic, rows_at_once
from ..common.tile import d_logit, load_vector, only_when
from .mlp import load_weight, mlp_config, splits, tiles_at_once


@triton.jit
def _mlp_bwd(
    pid,
    pointers,
    tiles,
    CIN: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    ACT: tl.constexpr,
    GATE: tl.constexpr,
    BOTH: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    ds_ptr, dmap_ptr, z_ptr, z1_ptr, w1_ptr, w2_ptr, dz_ptr, dz1_ptr, dpooled_ptr = pointers
    K: tl.constexpr = (R + BLOCK_R - 1) // BLOCK_R
    k = pid % K
    n = pid // K
    image = n.to(tl.int64) * C
    POOLS: tl.constexpr = 2 if BOTH else 1
    hidden = n.to(tl.int64) * (POOLS * R)
    offs_r = k * BLOCK_R + tl.arange(0, BLOCK_R)
    if w2_ptr is None:
        dz1 = d_logit(ds_ptr, dmap_ptr, z_ptr, n, offs_r, tiles, C, GATE, ACC, BLOCK_T)
        dz1_peak = dz1
    else:
        dh = tl.zeros([BLOCK_C, BLOCK_R], ACC)
        for chunk in range(0, C, BLOCK_C):
            offs_c = chunk + tl.arange(0, BLOCK_C)
            w = load_weight(w2_ptr, offs_c, offs_r, C, R, ACC)  # [BLOCK_C, BLOCK_R]
            dz = d_logit(ds_ptr, dmap_ptr, z_ptr, n, offs_c, tiles, C, GATE, ACC, BLOCK_T)
            tl.store(dz_ptr + image + offs_c, dz, only_when(k == 0, offs_c < C))
            dh += w * dz[:, None]
        dh_all = tl.sum(dh, 0)
        z1 = load_vector(z1_ptr + hidden, offs_r, R, ACC)
        dz1 = tl.where(offs_r < R, ACT.df(dh_all, z1, ACT.a, ACT.b), 0.0)
        dz1_peak = dz1
        if BOTH:
            z1 = load_vector(z1_ptr + hidden + R, offs_r, R, ACC)
            dz1_peak = tl.where(offs_r < R, ACT.df(dh_all, z1, ACT.a, ACT.b), 0.0)
    tl.store(dz1_ptr + hidden + offs_r, dz1, offs_r < R)
    if BOTH:
        tl.store(dz1_ptr + hidden + R + offs_r, dz1_peak, offs_r < R)
    if dpooled_ptr is not None:
        row = dpooled_ptr + (n.to(tl.int64) * (POOLS * K) + k) * CIN
        for chunk in range(0, CIN, BLOCK_C):
            offs_c = chunk + tl.arange(0, BLOCK_C)
            w = load_weight(w1_ptr, offs_r, offs_c, R, CIN, ACC)  # [BLOCK_R, BLOCK_C]
            tl.store(row + offs_c, tl.sum(w * dz1[:, None], 0), offs_c < CIN)
            if BOTH:
                tl.store(row + K * CIN + offs_c, tl.sum(w * dz1_peak[:, None], 0), offs_c < CIN)


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
    partial_ptr,
    out_ptr,
    tail_ptr,
    sizes,
    extent,
    CIN: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    ACT: tl.constexpr,
    GATE: tl.constexpr,
    BOTH: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    begin(DEPENDENT)
    tiles, programs = sizes
    pid = tl.program_id(0)
    pointers = (ds_ptr, dmap_ptr, z_ptr, z1_ptr, w1_ptr, w2_ptr, dz_ptr, dz1_ptr, dpooled_ptr)
    if pid < programs:
        _mlp_bwd(pid, pointers, tiles, CIN, C, R, ACT, GATE, BOTH, ACC, BLOCK_T, BLOCK_R, BLOCK_C)
    elif partial_ptr is not None:
        finish_columns(partial_ptr, out_ptr, tail_ptr, extent, pid - programs, ACC, ROWS, COLS)


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
    both: bool = False,
    partial: Tensor | None = None,
    sums: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Plan:
    """Of partials ds (N, T, C). Makes dz (N, C), dz1 (N, R) and dpooled (N, K, CIN).

    `partial` (rows, columns): what another kernel's gradients of parameters are summed of beside this, into `sums`.
    Of both pools, dz1 (N, 2 R) and dpooled (N, 2 K, CIN): first of the mean, then of the maximum.
    """
    N, tiles, C = ds.shape
    R, inputs = w1.shape[:2]
    pools = 1 + both
    config = mlp_config("mlp_bwd", N, inputs if w2 is None else max(inputs, C), R, pixels, tiles, w1, pools)
    if partial is not None:  # the compiler would spill a value or two for programs that nothing waits for
        config = with_all_registers(config, z.device, hopper=True)
    K, finish = splits(R, config), finish_args(partial, *sums)
    rows, cols, *_ = finish["extent"]
    args = finish | dict(
        ds_ptr=ds,
        dmap_ptr=dmap,
        z_ptr=z,
        z1_ptr=z1,
        w1_ptr=w1,
        w2_ptr=w2,
        dz_ptr=None if w2 is None else torch.empty_like(z),
        dz1_ptr=z.new_empty((N, pools * R)),
        dpooled_ptr=z.new_empty((N, pools * K, inputs)) if with_dpooled else None,
        sizes=(tiles, N * K),
        CIN=inputs,
        C=C,
        R=R,
        ACT=act,
        GATE=gate,
        BOTH=both,
        ACC=accumulator(z),
        DEPENDENT=config.dependent,
        ROWS=rows_at_once(rows, config.num_warps),
        COLS=COLS,
        BLOCK_T=tiles_at_once(tiles, config, "BLOCK_R" if w2 is None else "BLOCK_C"),
    )
    reads = 1 if w2 is None else K
    traffic = finish_traffic(finish) | dict(
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
    grid = N * K + -(-cols // COLS)
    return Plan(_mlp_bwd_kernel, args, config, grid, traffic, ("dz", "dz1", "dpooled"))
