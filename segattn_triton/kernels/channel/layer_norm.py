"""A layer norm of the hidden vector of every image, and the activation after it, between two layers of a perceptron.

    forward   hhat = (h - mean) / sqrt(var + eps),  u = hhat weight + bias,  a = act(u)
    backward  du = da act'(u),  dhhat = du weight,  dweight = sum_n du hhat,  dbias = sum_n du
              dh = (dhhat - mean of dhhat - hhat mean of dhhat hhat) / sqrt(var + eps)

h, hhat, u, a, dh (N, R), mean and var over R; scale (N,) is 1 / sqrt(var + eps); da (N, K, R) partial. A program has an
image, BLOCK_R of its values at a time, which it reads again from the cache; the variance is of squares about the mean.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import STEP, Config, space
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import load_sum, load_vector

SPACE = space(BLOCK_R=(16, 32, 64, 128, 256, 512, 1024), num_warps=(1, 2, 4))


@triton.jit
def _layer_norm_fwd_kernel(
    h_ptr,
    weight_ptr,
    bias_ptr,
    hhat_ptr,
    scale_ptr,
    u_ptr,
    a_ptr,
    R: tl.constexpr,
    EPS: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    begin(DEPENDENT)
    n = tl.program_id(0)
    image = n.to(tl.int64) * R
    total = tl.zeros([BLOCK_R], ACC)
    for chunk in range(0, R, BLOCK_R):
        total += load_vector(h_ptr + image, chunk + tl.arange(0, BLOCK_R), R, ACC)
    mean = tl.sum(total, 0) / R
    squares = tl.zeros([BLOCK_R], ACC)
    for chunk in range(0, R, BLOCK_R):
        offs_r = chunk + tl.arange(0, BLOCK_R)
        apart = tl.where(offs_r < R, load_vector(h_ptr + image, offs_r, R, ACC) - mean, 0.0)
        squares += apart * apart
    scale = 1.0 / tl.sqrt(tl.sum(squares, 0) / R + EPS)
    tl.store(scale_ptr + n, scale)
    for chunk in range(0, R, BLOCK_R):
        offs_r = chunk + tl.arange(0, BLOCK_R)
        hhat = (load_vector(h_ptr + image, offs_r, R, ACC) - mean) * scale
        u = hhat * load_vector(weight_ptr, offs_r, R, ACC)
        if bias_ptr is not None:
            u += load_vector(bias_ptr, offs_r, R, ACC)
        tl.store(hhat_ptr + image + offs_r, hhat, offs_r < R)
        tl.store(u_ptr + image + offs_r, u, offs_r < R)
        tl.store(a_ptr + image + offs_r, ACT.f(u, ACT.a, ACT.b), offs_r < R)


@triton.jit
def _load_du(da_ptr, u_ptr, n, offs_r, K: tl.constexpr, R: tl.constexpr, ACT: tl.constexpr, ACC: tl.constexpr):
    """du [BLOCK_R], 0 past the end."""
    u = load_vector(u_ptr + n.to(tl.int64) * R, offs_r, R, ACC)
    return tl.where(offs_r < R, ACT.df(load_sum(da_ptr, n, offs_r, R, K, ACC), u, ACT.a, ACT.b), 0.0)


@triton.jit
def _layer_norm_bwd_kernel(
    da_ptr,
    u_ptr,
    hhat_ptr,
    scale_ptr,
    weight_ptr,
    dh_ptr,
    dparam_ptr,
    K: tl.constexpr,
    R: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    begin(DEPENDENT)
    n = tl.program_id(0)
    image = n.to(tl.int64) * R
    straight = tl.zeros([BLOCK_R], ACC)
    along = tl.zeros([BLOCK_R], ACC)
    for chunk in range(0, R, BLOCK_R):
        offs_r = chunk + tl.arange(0, BLOCK_R)
        du = _load_du(da_ptr, u_ptr, n, offs_r, K, R, ACT, ACC)
        hhat = load_vector(hhat_ptr + image, offs_r, R, ACC)
        dhhat = du * load_vector(weight_ptr, offs_r, R, ACC)
        straight += dhhat
        along += dhhat * hhat
        if dparam_ptr is not None:
            tl.store(dparam_ptr + 2 * image + offs_r, du * hhat, offs_r < R)
            tl.store(dparam_ptr + 2 * image + R + offs_r, du, offs_r < R)
    straight_mean = tl.sum(straight, 0) / R
    along_mean = tl.sum(along, 0) / R
    scale = tl.load(scale_ptr + n)
    for chunk in range(0, R, BLOCK_R):
        offs_r = chunk + tl.arange(0, BLOCK_R)
        du = _load_du(da_ptr, u_ptr, n, offs_r, K, R, ACT, ACC)
        hhat = load_vector(hhat_ptr + image, offs_r, R, ACC)
        dh = (du * load_vector(weight_ptr, offs_r, R, ACC) - straight_mean - hhat * along_mean) * scale
        tl.store(dh_ptr + image + offs_r, dh, offs_r < R)


def _config(kernel: str, like: Tensor, N: int, R: int, K: int) -> Config:
    def microseconds(config: Config) -> float | None:
        block_r = config.blocks["BLOCK_R"]
        values = K * block_r / (32 * config.num_warps)
        if values > 64 or (block_r >= 2 * R and block_r > 16):
            return None
        return 3 * -(-R // block_r) * STEP + 1e-3 * (values + config.num_warps)

    return config_for(SPACE, microseconds, kernel, like, C=R, pixels=N, also=(K,))


def plan_layer_norm_fwd(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    hhat: Tensor,
    scale: Tensor,
    u: Tensor,
    eps: float,
    act: Activation,
) -> Plan:
    """Of h (N, 1, R). Fills hhat and u (N, R) and scale (N,). Makes a (N, 1, R)."""
    N, _, R = h.shape
    config = _config("layer_norm_fwd", h, N, R, 1)
    args = dict(h_ptr=h, weight_ptr=weight, bias_ptr=bias, hhat_ptr=hhat, scale_ptr=scale, u_ptr=u)
    args |= dict(a_ptr=torch.empty_like(h), R=R, EPS=eps, ACT=act, ACC=accumulator(h), DEPENDENT=config.dependent)
    traffic = dict(h_ptr=(3, 0), weight_ptr=(N, 0), bias_ptr=(N, 0))
    traffic |= dict.fromkeys(("hhat_ptr", "scale_ptr", "u_ptr", "a_ptr"), (0, 1))
    return Plan(_layer_norm_fwd_kernel, args, config, N, traffic, ("a",))


def plan_layer_norm_bwd(
    da: Tensor, u: Tensor, hhat: Tensor, scale: Tensor, weight: Tensor, with_dparam: bool, act: Activation
) -> Plan:
    """Of da (N, K, R). Makes dh (N, R), and dparam (N, 2 R), dweight and dbias of each image, if asked for."""
    N, K, R = da.shape
    config = _config("layer_norm_bwd", da, N, R, K)
    args = dict(da_ptr=da, u_ptr=u, hhat_ptr=hhat, scale_ptr=scale, weight_ptr=weight, dh_ptr=torch.empty_like(hhat))
    args |= dict(dparam_ptr=partials(hhat, N, 2 * R) if with_dparam else None, K=K, R=R, ACT=act)
    args |= dict(ACC=accumulator(hhat), DEPENDENT=config.dependent)
    traffic = dict.fromkeys(("da_ptr", "u_ptr", "hhat_ptr"), (2, 0)) | dict(scale_ptr=(1, 0), weight_ptr=(2 * N, 0))
    traffic |= dict(dh_ptr=(0, 1), dparam_ptr=(0, 1))
    return Plan(_layer_norm_bwd_kernel, args, config, N, traffic, ("dh", "dparam"))
