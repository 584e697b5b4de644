"""One weight per channel."""

from torch import Tensor

from segattn_triton.reference._precision import in_full_precision
from segattn_triton.reference.activations import Spec, activate


@in_full_precision
def channel_gate(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None = None,
    w2: Tensor | None = None,
    b2: Tensor | None = None,
    *,
    pool: str = "avg",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    return_map: bool = False,
):
    """y = x * gate(w2 act(w1 pool(x) + b1) + b2), or x * gate(w1 pool(x) + b1) without w2. map (N, C)."""
    pixels = x.flatten(2)  # [N, C, P]
    peak = pixels.amax(2) if ties == "split" else pixels.max(2).values
    mean = pixels.mean(2)
    v = {"avg": mean, "max": peak, "avgmax": 0.5 * (mean + peak)}[pool]
    z = _linear(v, w1, b1)
    if w2 is not None:
        z = _linear(activate(act, z), w2, b2)
    g = activate(gate, z)
    y = x * g.reshape(*g.shape, *[1] * (x.dim() - 2))
    return (y, g) if return_map else y


def _linear(v: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    z = v @ w.flatten(1).T
    return z if b is None else z + b
