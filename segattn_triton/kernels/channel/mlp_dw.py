"""The gradients of a gate's perceptron, summed over the images in order. See `mlp` for the sizes.

    dW1 = sum_n dz1 v^T,  db1 = sum_n dz1,  dW2 = sum_n dz act(z1)^T,  db2 = sum_n dz;    one layer: dW1 and db1 alone
    of POOLS pools of an image, the sums over all of them, with the one dz of the image

A program has BLOCK_R hidden channels and BLOCK_C of the inputs, for dW1, and of the outputs, for dW2.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import L2_BANDWIDTH, STEP, Config, space
from ...tuning.target import sms
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import load_vector, only_when
from .mlp import fits

DW_SPACE = space(BLOCK_R=(8, 16, 32, 64), BLOCK_C=(16, 32, 64, 128), num_warps=(2, 4))


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
    POOLS: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    begin(DEPENDENT)
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
        for _ in tl.static_range(POOLS):
            if dw1_ptr is not None or db1_ptr is not None:
                dz1 = load_vector(dz1_ptr, offs_r, R, ACC)
                db1 += dz1
                dz1_ptr += R
            if dw1_ptr is not None:
                dw1 += dz1[:, None] * load_vector(pooled_ptr, offs_c, CIN, ACC)[None, :]
                pooled_ptr += CIN
        if dw2_ptr is not None or db2_ptr is not None:
            dz = load_vector(dz_ptr, offs_c, C, ACC)
            db2 += POOLS * dz
            dz_ptr += C
        if dw2_ptr is not None:
            h = tl.zeros([BLOCK_R], ACC)
            for _ in tl.static_range(POOLS):
                h += ACT.f(load_vector(z1_ptr, offs_r, R, ACC), ACT.a, ACT.b)
                z1_ptr += R
            dw2 += h[:, None] * dz[None, :]
    if dw1_ptr is not None:
        mask = (offs_r < R)[:, None] & (offs_c < CIN)[None, :]
        tl.store(dw1_ptr + offs_r[:, None] * CIN + offs_c[None, :], dw1.to(dw1_ptr.dtype.element_ty), mask)
    if dw2_ptr is not None:
        mask = (offs_r < R)[:, None] & (offs_c < C)[None, :]
        tl.store(dw2_ptr + offs_c[None, :] * R + offs_r[:, None], dw2.to(dw2_ptr.dtype.element_ty), mask)
    if db1_ptr is not None:
        tl.store(db1_ptr + offs_r, db1.to(db1_ptr.dtype.element_ty), only_when(pid_c == 0, offs_r < R))
    if db2_ptr is not None:
        tl.store(db2_ptr + offs_c, db2.to(db2_ptr.dtype.element_ty), only_when(pid_r == 0, offs_c < C))


def _blocks(R: int, width: int, config: Config) -> tuple[int, int]:
    return -(-R // config.blocks["BLOCK_R"]), -(-width // config.blocks["BLOCK_C"])


def _config(N: int, R: int, width: int, C: int, pooled: Tensor) -> Config:
    """The images follow one another, each a latency apart; every block reads its rows or columns of all of them."""
    size = sms(pooled.device)

    def microseconds(config: Config) -> float | None:
        block_r, block_c = config.blocks["BLOCK_R"], config.blocks["BLOCK_C"]
        rows, cols = _blocks(R, width, config)
        values = block_r * block_c / (32 * config.num_warps)
        if values > 8 or not (fits(R, block_r) and fits(width, block_c)):
            return None
        nbytes = 8 * rows * cols * N * (block_r + block_c)
        return STEP * N * max(1.0, rows * cols / (8 * size)) + nbytes / L2_BANDWIDTH + 1e-3 * values

    return config_for(DW_SPACE, microseconds, "mlp_dw", pooled, C=C, pixels=N, also=(f"R{R}",))


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
    both: bool = False,
) -> Plan:
    """The gradients of the parameters that are wanted, summed over the images in order."""
    pools = 1 + both
    N, inputs, R = pooled.shape[0], pooled.shape[1] // pools, dz1.shape[1] // pools
    C = R if dz is None else dz.shape[1]
    width = inputs if dz is None else max(inputs, C)
    config = _config(N, R, width, C, pooled)
    rows, cols = _blocks(R, width, config)
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
        C=width if dz is None else C,
        R=R,
        POOLS=pools,
        ACT=act,
        ACC=accumulator(pooled),
        DEPENDENT=config.dependent,
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
