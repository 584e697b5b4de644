"""The additive gate of Attention U-Net, from two maps. What all functions share is in `__init__`."""

from torch import Tensor

from ..reference.activations import Spec
from ..runtime import checks as check
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
    check.beside("g", g, x)
    check.tensor("wx", wx)
    F = max(wx.shape[0], 1) if wx.dim() else 1
    check.parameter("wx", wx, x, (F, x.shape[1]), trailing_ones=True)
    check.parameter("wg", wg, g, (F, g.shape[1]), trailing_ones=True, map_name="g")
    if b is not None:
        check.parameter("b", b, x, (F,))
    check.parameter("weight", weight, x, (1, F), trailing_ones=True)
    if bias is not None:
        check.parameter("bias", bias, x, (1,))
    run = implementation("attention_gate", backend, x)
    return run(x, g, wx, wg, b, weight, bias, gate=check.gate(gate), return_map=return_map)
