"""Layers for `kernelize` of the Kernel Hub: each is the forward of a class of another library, and nothing else.

`kernelize` gives an instance of that class this forward. What the kernels do not take runs the instance's own. The
last three are forms of one convolution or projection, with a sigmoid gate, for classes of your own.
"""

from torch import Tensor, nn

from .acceleration.adapters import ADAPTERS
from .acceleration.swap import by_kernel
from .functional import local_gate, neighborhood_attention, spatial_gate


class SqueezeExcitation(nn.Module):
    """That of `torchvision.ops.SqueezeExcitation`."""

    can_torch_compile = True

    def forward(self, input: Tensor) -> Tensor:
        return by_kernel(self, ADAPTERS["torchvision.ops.misc.SqueezeExcitation"], input)


class SEModule(nn.Module):
    """That of `timm.layers.SEModule`, also known as SqueezeExcite."""

    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        return by_kernel(self, ADAPTERS["timm.layers.squeeze_excite.SEModule"], x)


class EfficientNetSqueezeExcite(nn.Module):
    """That of SqueezeExcite in timm's EfficientNets and MobileNets."""

    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        return by_kernel(self, ADAPTERS["timm.models._efficientnet_blocks.SqueezeExcite"], x)


class EffectiveSEModule(nn.Module):
    """That of `timm.layers.EffectiveSEModule`."""

    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        return by_kernel(self, ADAPTERS["timm.layers.squeeze_excite.EffectiveSEModule"], x)


class EcaModule(nn.Module):
    """That of `timm.layers.EcaModule`."""

    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        return by_kernel(self, ADAPTERS["timm.layers.eca.EcaModule"], x)


class CbamModule(nn.Module):
    """That of `timm.layers.CbamModule`."""

    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        return by_kernel(self, ADAPTERS["timm.layers.cbam.CbamModule"], x)


class SenetSEModule(nn.Module):
    """That of SEModule in the SENet encoders of segmentation_models_pytorch."""

    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        return by_kernel(self, ADAPTERS["segmentation_models_pytorch.encoders._senet.SEModule"], x)


class SCSEModule(nn.Module):
    """That of SCSEModule in the decoders of segmentation_models_pytorch."""

    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        return by_kernel(self, ADAPTERS["segmentation_models_pytorch.base.modules.SCSEModule"], x)


class SpatialAttention(nn.Module):
    """x * sigmoid(conv(x)), `conv` a pointwise convolution to one map."""

    can_torch_compile = True
    conv: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        return spatial_gate(x, self.conv.weight, self.conv.bias)


class LocalAttention(nn.Module):
    """x * sigmoid(conv(x)), `conv` a 3x3 convolution with padding 1, full or depthwise."""

    can_torch_compile = True
    conv: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        return local_gate(x, self.conv.weight, self.conv.bias)


class NeighborhoodAttention2D(nn.Module):
    """proj(attention(qkv(x))) of x (N, H, W, C), each pixel to the `kernel_size` squared around it, `dilation` apart;
    heads of C / `num_heads` channels: NATTEN's, without bias and dropout."""

    can_torch_compile = True
    qkv: nn.Linear
    proj: nn.Linear
    num_heads: int
    kernel_size: int
    dilation: int

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        y = neighborhood_attention(q, k, v, kernel_size=self.kernel_size, dilation=self.dilation)
        return self.proj(y.flatten(-2))
