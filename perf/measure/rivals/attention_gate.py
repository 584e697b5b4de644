"""The additive gate of a skip connection."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals, _normed


def skip_listing(x: Tensor, g: Tensor, wx: Tensor, wg: Tensor, b: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LeeJunHyun's and MONAI's in eval, the norms folded: three 1x1 convolutions."""
    wx, wg, weight = (w.reshape(*w.shape[:2], *[1] * (x.dim() - 2)) for w in (wx, wg, weight))
    conv = F.conv3d if x.dim() == 5 else F.conv2d
    return x * torch.sigmoid(conv(F.relu(conv(g, wg, b) + conv(x, wx)), weight, bias))


def skip_best(x: Tensor, g: Tensor, wx: Tensor, wg: Tensor, b: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Two products of matrices, and a sum over the projections that Inductor fuses with both and with the gate."""
    h = torch.relu(wx.flatten(1) @ x.flatten(2) + wg.flatten(1) @ g.flatten(2) + b[:, None])
    z = (h * weight.reshape(-1, 1)).sum(1, keepdim=True) + bias
    return x * torch.sigmoid(z).unflatten(2, x.shape[2:])


def skip_norm_listing(x, g, wx, wg, b, weight, bias, norm_x, norm_g, norm_psi) -> Tensor:
    """LeeJunHyun's and MONAI's in training: a norm after each of the three convolutions."""
    wx, wg, weight = (w.reshape(*w.shape[:2], *[1] * (x.dim() - 2)) for w in (wx, wg, weight))
    conv = F.conv3d if x.dim() == 5 else F.conv2d
    h = F.batch_norm(conv(g, wg), None, None, norm_g, b, training=True)
    h = F.relu(h + F.batch_norm(conv(x, wx), None, None, norm_x, training=True))
    return x * torch.sigmoid(F.batch_norm(conv(h, weight), None, None, norm_psi, bias, training=True))


def skip_norm_best(x, g, wx, wg, b, weight, bias, norm_x, norm_g, norm_psi) -> Tensor:
    """As without norms, each norm a reduction over a product."""
    from_g = _normed(wg.flatten(1) @ g.flatten(2), (0, 2), norm_g[:, None], b[:, None])
    from_x = _normed(wx.flatten(1) @ x.flatten(2), (0, 2), norm_x[:, None], torch.zeros_like(b[:, None]))
    h = torch.relu(from_g + from_x)
    z = _normed((h * weight.reshape(-1, 1)).sum(1, keepdim=True), (0, 1, 2), norm_psi, bias)
    return x * torch.sigmoid(z).unflatten(2, x.shape[2:])


RIVALS = {
    "attention_gate": Rivals(skip_listing, skip_best),
    "attention_gate_norm": Rivals(skip_norm_listing, skip_norm_best),
}
