"""segmentation_models_pytorch: scSE of its decoders, SE of its encoders, and the blocks of SE-ResNet and SENet."""

from torch import Tensor, nn

from ...reference.activations import ACTS, GATES
from .parts import Parts, activation, layer, pooled_dims, squeeze_excite, unexpected
from .registry import block, gate

_ENCODERS = "segmentation_models_pytorch.encoders"


@gate("segmentation_models_pytorch.base.modules.SCSEModule", kernel="scse", children="cSE sSE")
def _scse(m):
    for name, length in (("cSE", 5), ("sSE", 2)):
        child = m._modules[name]
        if type(child) is not nn.Sequential or len(child) != length:
            raise unexpected(name, child, f"a Sequential of {length}")
    gates = activation(m, "cSE.4", GATES), activation(m, "sSE.1", GATES)
    if gates[0] != gates[1]:
        raise ValueError(f"its two gates differ, {gates[0][0]} and {gates[1][0]}: the kernel has one for both")
    tensors = (*layer(m, "cSE.1"), *layer(m, "cSE.3"), *layer(m, "sSE.0"))
    return Parts(tensors, dict(act=activation(m, "cSE.2", ACTS), gate=gates[0]), (pooled_dims(m, "cSE.0"),))


@gate(f"{_ENCODERS}._senet.SEModule", children="avg_pool fc1 relu fc2 sigmoid")
def _senet(m):
    return squeeze_excite(m, "fc1", "relu", "fc2", "sigmoid", dims=(pooled_dims(m, "avg_pool"),))


@gate(f"{_ENCODERS}.mobileone.SEBlock", children="reduce expand")
def _mobileone(m):
    return Parts((*layer(m, "reduce"), *layer(m, "expand")), dict(act="relu", gate="sigmoid"), (2,))


block(
    *[f"{_ENCODERS}._senet.{name}" for name in ("SEBottleneck", "SEResNetBottleneck", "SEResNeXtBottleneck")],
    body="conv1 bn1 relu conv2 bn2 relu conv3 bn3",
    gate="se_module",
    shortcut="downsample",
    act="relu",
    attributes="stride downsample",
)


def _mbconv_forward(block: nn.Module, gate, names: dict, inputs: Tensor, drop_connect_rate: float | None = None):
    """expand, depthwise, gate, project, shortcut: EfficientNet's block, of which the gate is one call."""
    x = inputs
    if block._has_expansion:
        x = block._swish(block._bn0(block._expand_conv(x)))
    x = gate(block._swish(block._bn1(block._depthwise_conv(x))))
    x = block._bn2(block._project_conv(x))
    if block._has_drop_connect:
        if drop_connect_rate:
            x = names["drop_connect"](x, p=drop_connect_rate, training=block.training)
        x = x + inputs
    return x


@gate(
    f"{_ENCODERS}._efficientnet.MBConvBlock",
    children="_expand_conv _bn0 _depthwise_conv _bn1 _se_reduce _se_expand _project_conv _bn2 _swish",
    inline=_mbconv_forward,
)
def _mbconv(m):
    if not m._has_se:
        return None
    tensors = (*layer(m, "_se_reduce"), *layer(m, "_se_expand"))
    return Parts(tensors, dict(act=activation(m, "_swish", ACTS), gate="sigmoid"), (2,))
