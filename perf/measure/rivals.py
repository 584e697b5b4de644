"""What people run today: per row of the catalog the published listing, and the best formulation known.

Arguments are the row's inputs, in their order. Both are timed under torch.compile, the listing without it, too.
The reference is no rival: it computes in float32. A row without an entry is timed alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from . import windows


@dataclass(frozen=True)
class Rivals:
    listing: Callable
    best: Callable | None = None  # None: nothing better than the compiled listing is known
    others: Mapping[str, Callable] = field(default_factory=dict)  # by name: from a compiler to the function
    left_out: tuple[str, ...] = ()  # optional inputs that not every rival takes
    most_maps: int = 0  # that one of them keeps beside its inputs and outputs


def spatial_listing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1x1 convolution to one channel, sigmoid, product."""
    return x * torch.sigmoid(F.conv2d(x, weight[:, :, None, None], bias))


def spatial_best(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution as a product and a sum, which Inductor fuses with the rest."""
    return x * torch.sigmoid((x * weight[:, :, None, None]).sum(1, keepdim=True) + bias)


def spatial_pool_listing(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean(1, keepdim=True))


def channel_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Global pooling, two linear layers with ReLU, sigmoid, product; the pooled map flattened, so that it runs."""
    v = F.adaptive_avg_pool2d(x, 1).flatten(1)
    g = torch.sigmoid(F.linear(F.relu(F.linear(v, w1, b1)), w2, b2))
    return x * g[:, :, None, None]


def channel_best(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    v = x.mean((2, 3))
    g = torch.sigmoid(torch.addmm(b2, torch.relu(torch.addmm(b1, v, w1.T)), w2.T))
    return x * g[:, :, None, None]


def squeeze_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, source: Tensor, shortcut: Tensor):
    """PAN's attention: another map pooled, convolved on one pixel, the product added to a third map."""
    v = F.adaptive_avg_pool2d(source, 1)
    g = torch.sigmoid(F.conv2d(F.relu(F.conv2d(v, w1[:, :, None, None], b1)), w2[:, :, None, None], b2))
    return shortcut + x * g


def squeeze_best(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, source: Tensor, shortcut: Tensor):
    g = torch.sigmoid(torch.addmm(b2, torch.relu(torch.addmm(b1, source.mean((2, 3)), w1.T)), w2.T))
    return shortcut + x * g[:, :, None, None]


def effective_listing(x: Tensor, w1: Tensor, b1: Tensor) -> Tensor:
    """Global pooling, a 1x1 convolution on one pixel, sigmoid, product."""
    return x * torch.sigmoid(F.conv2d(x.mean((2, 3), keepdim=True), w1[:, :, None, None], b1))


def effective_best(x: Tensor, w1: Tensor, b1: Tensor) -> Tensor:
    return x * torch.sigmoid(torch.addmm(b1, x.mean((2, 3)), w1.T))[:, :, None, None]


def squeeze_norm_listing(x, w1, b1, norm_weight, norm_bias, w2, b2, source, shortcut) -> Tensor:
    """timm's, with the norm of ReXNet between its layers, in training; added to a third map as above."""
    h = F.conv2d(F.adaptive_avg_pool2d(source, 1), w1[:, :, None, None], b1)
    h = F.relu(F.batch_norm(h, None, None, norm_weight, norm_bias, training=True))
    return shortcut + x * torch.sigmoid(F.conv2d(h, w2[:, :, None, None], b2))


def squeeze_norm_best(x, w1, b1, norm_weight, norm_bias, w2, b2, source, shortcut) -> Tensor:
    h = torch.relu(_normed(torch.addmm(b1, source.mean((2, 3)), w1.T), 0, norm_weight, norm_bias))
    return shortcut + x * torch.sigmoid(torch.addmm(b2, h, w2.T))[:, :, None, None]


def _normed(h: Tensor, axes, weight: Tensor, bias: Tensor) -> Tensor:
    """A batch norm as a reduction and a product, which Inductor fuses with what is beside them."""
    var, mean = torch.var_mean(h, axes, correction=0, keepdim=True)
    return (h - mean) * (torch.rsqrt(var + 1e-5) * weight) + bias


def effective_norm_listing(x: Tensor, w1: Tensor, b1: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
    """BiSeNet's: the mean, a 1x1 convolution on one pixel, its norm in training, sigmoid, product."""
    h = F.conv2d(x.mean((2, 3), keepdim=True), w1[:, :, None, None], b1)
    return x * torch.sigmoid(F.batch_norm(h, None, None, norm_weight, norm_bias, training=True))


def effective_norm_best(x: Tensor, w1: Tensor, b1: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
    h = _normed(torch.addmm(b1, x.mean((2, 3)), w1.T), 0, norm_weight, norm_bias)
    return x * torch.sigmoid(h)[:, :, None, None]


def eca_listing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The means as a signal of C samples, convolved; sigmoid, product with its expansion."""
    z = F.conv1d(x.mean((2, 3))[:, None], weight, bias, padding=weight.shape[2] // 2)
    return x * torch.sigmoid(z)[:, 0, :, None, None].expand_as(x)


def eca_best(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution as shifted products, which Inductor fuses with the rest."""
    k, C = weight.shape[2], x.shape[1]
    v, z = F.pad(x.mean((2, 3)), (k // 2, k // 2)), bias
    for j in range(k):
        z = z + weight[0, 0, j] * v[:, j : j + C]
    return x * torch.sigmoid(z)[:, :, None, None]


def cbam_channel_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """The authors': the perceptron on both pools, flattened, one after the other."""
    pools = F.adaptive_avg_pool2d(x, 1).flatten(1), F.adaptive_max_pool2d(x, 1).flatten(1)
    z = sum(F.linear(F.relu(F.linear(v, w1, b1)), w2, b2) for v in pools)
    return x * torch.sigmoid(z)[:, :, None, None].expand_as(x)


def cbam_channel_best(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Reductions that Inductor fuses into one read of x, and both pools through the perceptron together."""
    h = torch.relu(torch.addmm(b1, torch.cat([x.mean((2, 3)), x.amax((2, 3))]), w1.T))
    z = torch.addmm(2 * b2, h[: len(x)] + h[len(x) :], w2.T)
    return x * torch.sigmoid(z)[:, :, None, None]


def cbam_spatial_listing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The authors': maximum and mean over the channels, concatenated, convolved."""
    maps = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], 1)
    return x * torch.sigmoid(F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2))


def cbam_spatial_best(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """amax has no index to write, and Inductor fuses it with the mean."""
    maps = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
    return x * torch.sigmoid(F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2))


def cbam_spatial_norm_listing(x, weight, bias, norm_weight, norm_bias) -> Tensor:
    """The authors', with the norm of their convolution, in training."""
    maps = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], 1)
    z = F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2)
    return x * torch.sigmoid(F.batch_norm(z, None, None, norm_weight, norm_bias, training=True))


def cbam_spatial_norm_best(x, weight, bias, norm_weight, norm_bias) -> Tensor:
    maps = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
    z = F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2)
    return x * torch.sigmoid(_normed(z, (0, 1, 2, 3), norm_weight, norm_bias))


def cbam_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One half after the other, the map between them in memory."""
    return cbam_spatial_listing(cbam_channel_listing(x, w1, b1, w2, b2), weight, bias)


def cbam_best(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return cbam_spatial_best(cbam_channel_best(x, w1, b1, w2, b2), weight, bias)


def cbam_norm_listing(x, w1, b1, w2, b2, weight, bias, norm_weight, norm_bias) -> Tensor:
    """The authors' block in training."""
    return cbam_spatial_norm_listing(cbam_channel_listing(x, w1, b1, w2, b2), weight, bias, norm_weight, norm_bias)


def cbam_norm_best(x, w1, b1, w2, b2, weight, bias, norm_weight, norm_bias) -> Tensor:
    return cbam_spatial_norm_best(cbam_channel_best(x, w1, b1, w2, b2), weight, bias, norm_weight, norm_bias)


def light_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x = cbam_channel_listing(x, w1, b1, w2, b2)
    half = 0.5 * x.mean(1, keepdim=True) + 0.5 * x.amax(1, keepdim=True)
    return x * torch.sigmoid(F.conv2d(half, weight, bias, padding=weight.shape[2] // 2))


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


def product_listing(x: Tensor, z: Tensor) -> Tensor:
    """SegNeXt's and BiSeNetV2's tail: the sigmoid of one branch times the other. Inductor makes one kernel of it."""
    return x * torch.sigmoid(z)


def response_listing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """timm's: the norm, its share of the mean, addcmul."""
    norm = x.norm(p=2, dim=(2, 3), keepdim=True)
    r = norm / (norm.mean(1, keepdim=True) + 1e-6)
    return x + torch.addcmul(bias[:, None, None], weight[:, None, None], x * r)


def response_best(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The sum of squares in float32, one scale a channel."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    norm = wide.square().sum((2, 3), keepdim=True).sqrt()
    r = norm / (norm.mean(1, keepdim=True) + 1e-6)
    return (x * (1 + weight[:, None, None] * r) + bias[:, None, None]).to(x.dtype)


def _context_logits(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    """timm's and mmcv's: a 1x1 convolution, softmax, a product of matrices, two layers with a norm between."""
    a = F.conv2d(x, weight[:, :, None, None], bias).flatten(2).softmax(2).unsqueeze(3)
    v = (x.flatten(2).unsqueeze(1) @ a).view(*x.shape[:2], 1, 1)
    h = F.conv2d(v, w1[:, :, None, None], b1).permute(0, 2, 3, 1)
    h = F.relu(F.layer_norm(h, ln_weight.shape, ln_weight, ln_bias, 1e-6).permute(0, 3, 1, 2))
    return F.conv2d(h, w2[:, :, None, None], b2)


def context_listing(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    return x * torch.sigmoid(_context_logits(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2))


def context_add_listing(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    return x + _context_logits(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2)


def _context_best(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    """Logits and context as sums, which Inductor fuses with what is around them; layers as matrices."""
    a = ((x * weight[:, :, None, None]).sum(1) + bias).flatten(1).softmax(1)
    v = (x.flatten(2) * a[:, None]).sum(2)
    h = torch.relu(F.layer_norm(torch.addmm(b1, v, w1.T), ln_weight.shape, ln_weight, ln_bias, 1e-6))
    return torch.addmm(b2, h, w2.T)[:, :, None, None]


def context_best(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    return x * torch.sigmoid(_context_best(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2))


def context_add_best(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    return x + _context_best(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2)


def simam_listing(x: Tensor) -> Tensor:
    """The authors': squares about the mean, their sum, the energy."""
    squares = (x - x.mean((2, 3), keepdim=True)).pow(2)
    var = squares.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
    return x * torch.sigmoid(squares / (4 * (var + 1e-4)) + 0.5)


def simam_best(x: Tensor) -> Tensor:
    """Both moments of one read, in float32, and a product by the reciprocal."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, (2, 3), keepdim=True)
    return (wide * torch.sigmoid((wide - mean).square() * (0.25 / (var + 1e-4)) + 0.5)).to(x.dtype)


def resized_listing(x: Tensor, z: Tensor) -> Tensor:
    """BiSeNetV2's: the logits resized, sigmoid, product. Inductor fuses the three forward."""
    return x * torch.sigmoid(F.interpolate(z, size=x.shape[2:], mode="bilinear", align_corners=False))


def strip_listing(x: Tensor, z_h: Tensor, z_w: Tensor) -> Tensor:
    """The last step of the authors': a product of three. Inductor makes one kernel of it forward."""
    return x * torch.sigmoid(z_w) * torch.sigmoid(z_h)


def _coordinates(x, w1, b1, w_h, b_h, w_w, b_w, norm: Callable) -> Tensor:
    """The authors': two pools, both strips through one 1x1 convolution, its norm and hard-swish, split again."""
    H, W = x.shape[2:]
    v = torch.cat([F.adaptive_avg_pool2d(x, (H, 1)), F.adaptive_avg_pool2d(x, (1, W)).permute(0, 1, 3, 2)], 2)
    a_h, a_w = F.hardswish(norm(F.conv2d(v, w1[:, :, None, None], b1))).split([H, W], 2)
    g_w = torch.sigmoid(F.conv2d(a_w.permute(0, 1, 3, 2), w_w[:, :, None, None], b_w))
    return x * g_w * torch.sigmoid(F.conv2d(a_h, w_h[:, :, None, None], b_h))


def coordinate_listing(x, w1, b1, w_h, b_h, w_w, b_w) -> Tensor:
    """In eval, the norm folded into the convolution."""
    return _coordinates(x, w1, b1, w_h, b_h, w_w, b_w, lambda h: h)


def coordinate_norm_listing(x, w1, b1, w_h, b_h, w_w, b_w, norm_weight, norm_bias) -> Tensor:
    norm = partial(F.batch_norm, running_mean=None, running_var=None, weight=norm_weight, bias=norm_bias, training=True)
    return _coordinates(x, w1, b1, w_h, b_h, w_w, b_w, norm)


def _coordinates_best(x, w1, b1, w_h, b_h, w_w, b_w, norm: Callable) -> Tensor:
    """Means that Inductor may take in one read, and layers as products of matrices, never transposed."""
    H, W = x.shape[2:]
    v = torch.cat([x.mean(3), x.mean(2)], 2)
    a_h, a_w = F.hardswish(norm(w1 @ v + b1[:, None])).split([H, W], 2)
    z_h, z_w = w_h @ a_h + b_h[:, None], w_w @ a_w + b_w[:, None]
    return x * (torch.sigmoid(z_h)[:, :, :, None] * torch.sigmoid(z_w)[:, :, None])


def coordinate_best(x, w1, b1, w_h, b_h, w_w, b_w) -> Tensor:
    return _coordinates_best(x, w1, b1, w_h, b_h, w_w, b_w, lambda h: h)


def coordinate_norm_best(x, w1, b1, w_h, b_h, w_w, b_w, norm_weight, norm_bias) -> Tensor:
    norm = partial(_normed, axes=(0, 2), weight=norm_weight[:, None], bias=norm_bias[:, None])
    return _coordinates_best(x, w1, b1, w_h, b_h, w_w, b_w, norm)


def blend_listing(a: Tensor, b: Tensor, z: Tensor) -> Tensor:
    """PIDNet's and PP-LiteSeg's: both products and their sum."""
    g = torch.sigmoid(z)
    return g * a + (1 - g) * b


def blend_best(a: Tensor, b: Tensor, z: Tensor) -> Tensor:
    return torch.lerp(b, a, torch.sigmoid(z))


def scse_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """segmentation_models_pytorch's: both gates by 1x1 convolutions, the sum of both products."""
    v = F.adaptive_avg_pool2d(x, 1)
    gc = torch.sigmoid(F.conv2d(F.relu(F.conv2d(v, w1[:, :, None, None], b1)), w2[:, :, None, None], b2))
    return x * gc + x * torch.sigmoid(F.conv2d(x, weight[:, :, None, None], bias))


def scse_best(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One product, and the convolution to one channel as a sum, which Inductor fuses with it."""
    gc = torch.sigmoid(torch.addmm(b2, torch.relu(torch.addmm(b1, x.mean((2, 3)), w1.T)), w2.T))
    gp = torch.sigmoid((x * weight[:, :, None, None]).sum(1, keepdim=True) + bias)
    return x * (gc[:, :, None, None] + gp)


def local_listing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution to as many channels, sigmoid, product. Inductor splits the bias off by itself."""
    return x * torch.sigmoid(F.conv2d(x, weight, bias, padding=1))


def depthwise_listing(x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
    window = dict(padding=dilation * (weight.shape[2] // 2), dilation=dilation, groups=x.shape[1])
    return x * torch.sigmoid(F.conv2d(x, weight, bias, **window))


def depthwise_best(x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
    """The convolution as shifted products, nine of a 3x3 window, which Inductor fuses into one kernel."""
    H, W = x.shape[2:]
    K = weight.shape[2]
    padded, z = F.pad(x, (dilation * (K // 2),) * 4), bias[:, None, None]
    for i in range(K):
        for j in range(K):
            h, w = dilation * i, dilation * j
            z = z + padded[:, :, h : h + H, w : w + W] * weight[:, :, i, j, None]
    return x * torch.sigmoid(z)


def local_pool_listing(x: Tensor) -> Tensor:
    return x * torch.sigmoid(F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False))


def _of_dilation(dilation: int) -> Rivals:
    """Of a depthwise window of any size. Partial: a tracer takes a function's every parameter for a tensor."""
    return Rivals(partial(depthwise_listing, dilation=dilation), partial(depthwise_best, dilation=dilation))


def _of_windows(kernel_size: int) -> Rivals:
    """Beyond 3 x 3 the best formulation is FlexAttention; as a rival of its own it is also timed at 3 x 3."""
    flex = windows.Flex(kernel_size)
    near = kernel_size == 3
    others = {"flex": lambda compiler: _compiled(flex, compiler)} if near else {}
    others |= {"natten": lambda compiler: windows.natten(kernel_size)} if windows.NATTEN else {}
    return Rivals(
        partial(windows.listing, kernel_size=kernel_size),
        partial(windows.shifted, kernel_size=kernel_size) if near else flex,
        others,
        left_out=("rel_bias",),
        most_maps=6 * kernel_size**2 + 6,  # unfolded keys, values and their products, and the gradients of those
    )


RIVALS = {
    "spatial_gate": Rivals(spatial_listing, spatial_best),
    "spatial_pool_gate": Rivals(spatial_pool_listing),
    "channel_gate": Rivals(channel_listing, channel_best),
    "squeeze_excite": Rivals(squeeze_listing, squeeze_best),
    "effective_se": Rivals(effective_listing, effective_best),
    "squeeze_excite_norm": Rivals(squeeze_norm_listing, squeeze_norm_best),
    "effective_se_norm": Rivals(effective_norm_listing, effective_norm_best),
    "cbam_spatial_gate_norm": Rivals(cbam_spatial_norm_listing, cbam_spatial_norm_best),
    "cbam_norm": Rivals(cbam_norm_listing, cbam_norm_best),
    "gate_mul": Rivals(product_listing, left_out=("shortcut",)),
    "gate_mul_resized": Rivals(resized_listing, left_out=("shortcut",)),
    "global_response_norm": Rivals(response_listing, response_best),
    "global_context": Rivals(context_listing, context_best),
    "global_context_add": Rivals(context_add_listing, context_add_best),
    "simam": Rivals(simam_listing, simam_best),
    "gate_blend": Rivals(blend_listing, blend_best),
    "strip_gate": Rivals(strip_listing),
    "coordinate_attention": Rivals(coordinate_listing, coordinate_best),
    "coordinate_attention_norm": Rivals(coordinate_norm_listing, coordinate_norm_best),
    "eca": Rivals(eca_listing, eca_best),
    "cbam_channel_gate": Rivals(cbam_channel_listing, cbam_channel_best),
    "cbam_spatial_gate": Rivals(cbam_spatial_listing, cbam_spatial_best),
    "cbam": Rivals(cbam_listing, cbam_best),
    "cbam_light": Rivals(light_listing),
    "attention_gate": Rivals(skip_listing, skip_best),
    "attention_gate_norm": Rivals(skip_norm_listing, skip_norm_best),
    "scse": Rivals(scse_listing, scse_best),
    "local_gate": Rivals(local_listing),
    "local_gate_depthwise": _of_dilation(1),
    "local_gate_depthwise_5x5": _of_dilation(1),
    "local_gate_depthwise_7x7_dilated": _of_dilation(3),
    "local_pool_gate": Rivals(local_pool_listing),
    "neighborhood_attention": _of_windows(3),
    "neighborhood_attention_7x7": _of_windows(7),
    "neighborhood_attention_13x13": _of_windows(13),
}


def names(row: str) -> tuple[str, ...]:
    """The rivals of a row that there are to time."""
    rivals = RIVALS.get(row)
    if rivals is None:
        return ()
    return ("eager", "compile", *(("compile-best",) if rivals.best else ()), *rivals.others)


def left_out(row: str) -> tuple[str, ...]:
    """The row's inputs that are not timed."""
    return RIVALS[row].left_out if row in RIVALS else ()


def most_maps(row: str) -> int:
    return RIVALS[row].most_maps if row in RIVALS else 0


def make(row: str, provider: str, compiler: Callable[[Callable], Callable]) -> Callable:
    """The function of a rival; `compiler` turns one into its compiled form."""
    rivals = RIVALS[row]
    if provider == "eager":
        return rivals.listing
    if provider in rivals.others:
        return rivals.others[provider](compiler)
    return _compiled(rivals.best if provider == "compile-best" else rivals.listing, compiler)


def _compiled(function: Callable, compiler: Callable[[Callable], Callable]) -> Callable:
    """With what else it reads as inputs, made before."""
    compiled, beside = compiler(function), getattr(function, "beside", None)
    return compiled if beside is None else lambda *inputs: compiled(*inputs, *beside(*inputs))
