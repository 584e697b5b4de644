"""Channel gates: one weight per channel, from what the whole image holds of it.

    y = x * g,   g = gate(z),   z = W2 act(W1 v + b1) + b2,   v = pool over the pixels of x     (squeeze and excitation,
    or one layer, z = W1 v + b1                                         Hu et al. 2018, arXiv:1709.01507)

With ds_c = sum_p dy_cp x_cp + dg_c and dz = ds gate'(z), the perceptron's backward gives dv and the gradients of the
weights, and dx = dy g + dv dv/dx: 1/P of a mean, all of it at the first maximum or shared by all maxima.
Saved are v, z and z1 = W1 v + b1, and of a maximum its pixel, or its value and count.
"""

import torch
from torch import Tensor

from segattn_triton._register import DifferentiableOp
from segattn_triton.kernels.activations import activation
from segattn_triton.kernels.apply import plan_apply_bwd, plan_apply_fwd
from segattn_triton.kernels.mlp import plan_mlp_bwd, plan_mlp_dw, plan_mlp_fwd
from segattn_triton.kernels.pool import plan_pool_bwd, plan_pool_fwd
from segattn_triton.launch import launch

Spec = tuple[str, float, float]


def _allocate(x, w1, b1, w2, b2, pool, act, act_a, act_b, gate, gate_a, gate_b, ties, return_map):
    N, C = x.shape[:2]
    acc = torch.promote_types(x.dtype, torch.float32)
    split = pool != "avg" and ties == "split"
    return (
        torch.empty_like(x),
        x.new_empty((N, C) if return_map else 0),
        x.new_empty((N, C), dtype=acc),  # v
        x.new_empty((N, C), dtype=acc),  # z
        x.new_empty(0 if w2 is None else (N, w1.shape[0]), dtype=acc),  # z1
        x.new_empty((N, C) if split else 0, dtype=acc),  # the maximum
        x.new_empty(0 if pool == "avg" else (N, C), dtype=torch.int32),  # its first pixel, or its count
    )


def _wanted(t: Tensor) -> Tensor | None:
    return t if t.dim() == 2 else None


def _forward(outputs, x, w1, b1, w2, b2, pool, act, act_a, act_b, gate, gate_a, gate_b, ties, return_map):
    y, gate_map, pooled, z, *saved = outputs
    z1, highest, found = map(_wanted, saved)
    pooling = plan_pool_fwd(x, pool != "max", pool != "avg", ties == "split")
    launch(pooling)
    partial = [pooling.args[name] for name in ("total_ptr", "peak_ptr", "at_ptr")]
    pixels = x.shape[2:].numel()
    mlp = plan_mlp_fwd(
        *partial, pixels, w1, b1, w2, b2, pooled, highest, found, z1, activation(act, act_a, act_b), ties == "split"
    )
    launch(mlp)
    launch(plan_apply_fwd(x, mlp.args["z_ptr"], y, z, _wanted(gate_map), activation(gate, gate_a, gate_b)))


def _backward(grads, douts, saved, x, w1, b1, w2, b2, pool, act, act_a, act_b, gate, gate_a, gate_b, ties, return_map):
    (dx, *dparams), (dy, dmap) = grads, douts
    pooled, z = saved[:2]
    z1, highest, found = map(_wanted, saved[2:])
    acts, gates = activation(act, act_a, act_b), activation(gate, gate_a, gate_b)
    pooling = plan_pool_bwd(dy, x)
    launch(pooling)
    ds, pixels = pooling.args["total_ptr"], x.shape[2:].numel()
    mlp = plan_mlp_bwd(ds, pixels, dmap, z, z1, w1, w2, dx is not None, acts, gates)
    launch(mlp)
    if dx is not None:
        launch(plan_apply_bwd(dy, x, z, mlp.args["dpooled_ptr"], pool != "max", highest, found, dx, gates))
    if any(d is not None for d in dparams):
        launch(plan_mlp_dw(mlp.args["dz_ptr"], mlp.args["dz1_ptr"], z1, pooled, *dparams, acts))


_channel_gate = DifferentiableOp(
    "channel_gate",
    tensors=("x", "w1", "b1?", "w2?", "b2?"),
    options="str pool, str act, float act_a, float act_b, str gate, float gate_a, float gate_b, str ties, "
    "bool return_map",
    outputs=("y", "map", "pooled", "z", "z1", "highest", "found"),
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
)


def channel_gate(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    *,
    pool: str,
    act: Spec,
    gate: Spec,
    ties: str,
    return_map: bool,
):
    y, gate_map, *_ = _channel_gate(x, w1, b1, w2, b2, pool, *act, *gate, ties, return_map)
    return (y, gate_map) if return_map else y
