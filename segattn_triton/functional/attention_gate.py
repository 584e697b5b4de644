"""The additive gate of Attention U-Net, from two maps. What all functions share is in `__init__`."""

from torch import Tensor

from ..reference.activations import Spec
from ..runtime import checks as check
from ..runtime import gate_checks
from ..runtime.dispatch import implementation, recalled


@recalled
def attention_gate(
    x: Tensor,
    g: Tensor,
    wx: Tensor,
    wg: Tensor,
    b: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(<weight, relu(wx x_p + wg g_p + b)> + bias) at every pixel p.

    x (N, C, *spatial) and g (N, G, *spatial), of the same pixels, each in its own memory order; wx (F, C), wg (F, G),
    b (F,), weight (1, F), the weights with any trailing ones; bias (1,). F from 1, larger than C and G, too.
    map (N, 1, *spatial). Batch norms of running statistics fold into wx, wg and b, that of the logits into weight and
    bias: see `AttentionGate`. wx and wg multiply in x's dtype, their products are summed in float32 and never written:
    3 passes over the map forward. Backward 5, where C and G as powers of 2 are at most 128 together, and that times F
    at most 4096 in 16 bits, 2048 in float32, 1024 in float64; beyond, with F channels of gradients in memory, 10.5 for
    F = C / 2.
    Source: Oktay et al. 2018, arXiv:1804.03999, in the form without grid of the implementations in PyTorch.
    """
    check.feature_map(x)
    gate_checks.two_maps(x, g, wx, wg, b, weight, bias)
    run = implementation("attention_gate", backend, x)
    return run(x, g, wx, wg, b, weight, bias, gate=check.gate(gate), return_map=return_map)


@recalled
def attention_gate_norm(
    x: Tensor,
    g: Tensor,
    wx: Tensor,
    wg: Tensor,
    b: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_x: Tensor | None = None,
    norm_g: Tensor | None = None,
    norm_psi: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    eps: float = 1e-5,
    backend: str | None = None,
    return_map: bool = False,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """y = x * gate(norm(<weight, relu(norm(wx x_p) + norm(wg g_p) + b)>) + bias) at every pixel p, norms in training.

    x (N, C, *spatial), g (N, G, *spatial) and the rest as of `attention_gate`. A norm is over the batch: less the mean
    over all pixels of all images, over sqrt(variance + eps), times its gain, norm_x and norm_g (F,), norm_psi (1,), in
    x's dtype or float32; without a gain there is no norm. b and bias are what norms add, and biases of layers without
    one; a bias before a norm moves its mean alone. More than one value a channel. return_stats=True returns the
    statistics last, without a gradient, in float32 or wider: of each norm that is there, in the order x, g, psi, the
    means and then the biased variances.
    6 passes over the map forward, one less without norm_x, without norm_g, and without norm_psi. Backward 8 where
    channels and projections fit on chip, 14 for F = C / 2 beyond. With running statistics norms fold into the weights
    of `attention_gate`: see `AttentionGate`.
    Source: Oktay et al. 2018, arXiv:1804.03999, with the norms of the implementations in PyTorch.
    """
    check.feature_map(x)
    F = gate_checks.two_maps(x, g, wx, wg, b, weight, bias)
    gate_checks.batch_norms(x, eps, return_stats, norm_x=(norm_x, F), norm_g=(norm_g, F), norm_psi=(norm_psi, 1))
    run = implementation("attention_gate_norm", backend, x)
    how = dict(gate=check.gate(gate), eps=float(eps), return_map=return_map, return_stats=return_stats)
    return run(x, g, wx, wg, b, weight, bias, norm_x, norm_g, norm_psi, **how)
