"""A gate of logits that are given, and two maps or more blended by it. What all functions share is in `__init__`."""

from torch import Tensor

from ..reference.activations import OUT_ACTS, Spec
from ..runtime import checks as check
from ..runtime.dispatch import implementation, recalled


@recalled
def gate_mul(
    x: Tensor,
    z: Tensor,
    shortcut: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    out_act: str = "identity",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = out_act(x * gate(z) + shortcut), for logits z from anywhere.

    x (N, C, *spatial); z of x's shape, or 1 along any of its axes: (N, C, 1, 1) for channels, (N, 1, H, W) for pixels,
    (1, C, 1, 1); shortcut as x; each in its own memory order. out_act: identity, relu. map as z. Both gradients in one
    pass: of x and z of one shape 3 passes over a map forward, 5 backward. Logits of rows or of columns, (N, C, H, 1) or
    (N, C, 1, W), are written at all pixels first.
    Source: the tails of SegNeXt's and VAN's attention (gate "identity"), arXiv:2209.08575, arXiv:2202.09741; of
    BiSeNetV2's, arXiv:2004.02147; of PIDNet's Light-Bag, arXiv:2206.02066.
    """
    check.feature_map(x)
    check.broadcast("z", z, x)
    if shortcut is not None:
        check.second_map("shortcut", shortcut, x, tuple(x.shape))
    check.choice("out_act", out_act, OUT_ACTS)
    run = implementation("gate_mul", backend, x)
    return run(x, z, shortcut, gate=check.gate(gate), out_act=out_act, return_map=return_map)


@recalled
def gate_mul_resized(
    x: Tensor,
    z: Tensor,
    shortcut: Tensor | None = None,
    *,
    resize: str = "bilinear",
    align_corners: bool = False,
    scale_factor: float = 0.0,
    gate: str | Spec = "sigmoid",
    out_act: str = "identity",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = out_act(x * gate(up(z)) + shortcut): `gate_mul` of logits at another resolution.

    x (N, C, H, W); z (N, C, h, w) or (N, 1, h, w); shortcut as x; each in its own memory order. up is torch's
    interpolate with mode `resize`, bilinear or nearest, and align_corners of a bilinear one: to x's size, or by
    scale_factor where that is given, whose result must be of x's size. map (N, C or 1, H, W). up(z) is never written;
    the gradient of z is gathered from the pixels around each of its values, without atomics.
    Source: BiSeNetV2's guided aggregation, Yu et al. 2020, arXiv:2004.02147; with the gate "identity" of logits that
    are a gate already TopFormer's, Zhang et al. 2022, arXiv:2204.05525.
    """
    check.feature_map(x, (2,))
    check.choice("resize", resize, ("bilinear", "nearest"))
    check.resized("z", z, x, scale_factor)
    if shortcut is not None:
        check.second_map("shortcut", shortcut, x, tuple(x.shape))
    check.choice("out_act", out_act, OUT_ACTS)
    run = implementation("gate_mul_resized", backend, x)
    how = dict(resize=resize, align_corners=align_corners, scale_factor=float(scale_factor))
    return run(x, z, shortcut, **how, gate=check.gate(gate), out_act=out_act, return_map=return_map)


@recalled
def gate_blend(
    a: Tensor,
    b: Tensor,
    z: Tensor,
    *,
    gate: str | Spec = "sigmoid",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = g * a + (1 - g) * b, g = gate(z): two maps blended, by logits from anywhere.

    a and b (N, C, *spatial); z of their shape, or 1 along any of its axes, as in `gate_mul`; each in its own memory
    order. y lies as a; map as z. All gradients in one pass: with z of one value a pixel 3 passes over a map forward, 5
    backward.
    Source: Bag and Pag of PIDNet, Xu et al. 2022, arXiv:2206.02066; UAFM of PP-LiteSeg, Peng et al. 2022,
    arXiv:2204.02681.
    """
    check.feature_map(a, name="a")
    check.second_map("b", b, a, tuple(a.shape), "a")
    check.broadcast("z", z, a, "a")
    run = implementation("gate_blend", backend, a)
    return run(a, b, z, gate=check.gate(gate), return_map=return_map)


@recalled
def radix_blend(
    x: Tensor, z: Tensor, *, backend: str | None = None, return_map: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """y = sum over r of a_r * x_r, a = softmax over r of z: branches weighted by a softmax over them.

    x (N, radix C, *spatial), the channels of one branch after those of another; z (N, radix, C), with any trailing
    ones: a logit for each channel of each branch, from anywhere; y (N, C, *spatial). Of one branch a = sigmoid(z). map
    (N, radix C): a, for every channel of x. Each map is moved once: x and y forward, dy, x and its gradient backward.
    Source: ResNeSt's split attention, Zhang et al. 2020, arXiv:2004.08955; selective kernels, Li et al. 2019,
    arXiv:1903.06586.
    """
    check.feature_map(x)
    check.branches("z", z, x)
    return implementation("radix_blend", backend, x)(x, z, return_map=return_map)
