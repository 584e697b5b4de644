"""One weight per pixel, from the map itself and another one: the attention gate."""

import torch
from torch import Tensor

from ._pixels import pixels
from ._precision import in_full_precision, rounding_point
from .activations import Spec, activate
from .channel import asked


@in_full_precision
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
    return_map: bool = False,
):
    """y = x * gate(<weight, relu(wx x_p + wg g_p + b)> + bias). wx (F, C), wg (F, G), weight (1, F). map (N, 1, *S)."""
    projected = rounding_point("projected", project("wx", wx, x) + project("wg", wg, g))
    h = projected if b is None else projected + b[:, None]
    z = (h.relu() * weight.reshape(-1, 1)).sum(1, keepdim=True)
    psi = activate(gate, z if bias is None else z + bias).unflatten(2, x.shape[2:])
    return (x * psi, psi) if return_map else x * psi


@in_full_precision
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
    return_map: bool = False,
    return_stats: bool = False,
):
    """y = x * gate(norm(<weight, relu(norm(wx x_p) + norm(wg g_p) + b)>) + bias), norms by the batch, as given."""
    hx, of_x = norm_over_pixels(rounding_point("projected", project("wx", wx, x)), norm_x, eps)
    hg, of_g = norm_over_pixels(rounding_point("projected", project("wg", wg, g)), norm_g, eps)
    h = hx + hg if b is None else hx + hg + b[:, None]
    u, of_psi = norm_over_pixels((h.relu() * weight.reshape(-1, 1)).sum(1, keepdim=True), norm_psi, eps)
    psi = activate(gate, u if bias is None else u + bias).unflatten(2, x.shape[2:])
    return asked(x * psi, psi, torch.cat([of_x, of_g, of_psi]), return_map, return_stats)


def norm_over_pixels(h: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """(h - mean) / sqrt(var + eps) * gain of h (N, F, pixels), and (2 F,) the means and the biased variances; without
    a gain h itself."""
    if gain is None:
        return h, h.new_empty(0)
    var, mean = pixels().moments_by_channel(h)
    return (h - mean[:, None]) * torch.rsqrt(var + eps)[:, None] * gain[:, None], torch.cat([mean, var]).detach()


def project(name: str, weight: Tensor, x: Tensor) -> Tensor:
    """A 1x1 convolution: (N, F, pixels) of a map with all its pixels in one axis."""
    return rounding_point(name, weight).flatten(1) @ x.flatten(2)
