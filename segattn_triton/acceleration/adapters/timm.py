"""timm: its SE, eSE and ECA gates, and the residual blocks of SE-ResNet, SE-ResNeXt and SENet."""

from torch import nn

from ...reference.activations import GATES
from .parts import Parts, activation, only, squeeze_excite
from .registry import block, gate


def _pooling(m) -> dict:
    return dict(pool="avgmax", ties="split") if m.add_maxpool else {}  # amax shares the gradient of a tie


@gate("timm.layers.squeeze_excite.SEModule", children="fc1 bn act fc2 gate", attributes="add_maxpool")
def _se_module(m):
    only(m, "bn", nn.Identity)
    return squeeze_excite(m, "fc1", "act", "fc2", "gate", **_pooling(m))


@gate("timm.models._efficientnet_blocks.SqueezeExcite", children="conv_reduce act1 conv_expand gate")
def _squeeze_excite(m):
    return squeeze_excite(m, "conv_reduce", "act1", "conv_expand", "gate")


@gate("timm.models.senet.SEModule", children="fc1 relu fc2 sigmoid")
def _senet(m):
    return squeeze_excite(m, "fc1", "relu", "fc2", "sigmoid")


@gate("timm.layers.squeeze_excite.EffectiveSEModule", children="fc gate", attributes="add_maxpool")
def _effective(m):
    return squeeze_excite(m, "fc", None, None, "gate", **_pooling(m))


@gate("timm.models.hgnet.EseModule", children="conv sigmoid")
def _hgnet(m):
    return squeeze_excite(m, "conv", None, None, "sigmoid")


def _eca(m, circular: bool):
    conv = only(m, "conv", nn.Conv1d)
    padding = 0 if circular else conv.kernel_size[0] // 2
    odd = conv.kernel_size[0] % 2 == 1
    if not odd or (conv.in_channels, conv.out_channels) != (1, 1) or conv.padding != (padding,):
        raise ValueError(f"its child 'conv' is not a convolution over the channels that keeps their number: {conv}")
    options = dict(circular=circular, gate=activation(m, "gate", GATES))
    return Parts((conv.weight, conv.bias), options, (2,))


@gate("timm.layers.eca.EcaModule", kernel="eca", children="conv act conv2 gate", attributes="act conv2")
def _eca_module(m):
    if m.conv2 is not None:
        raise ValueError("use_mlp: two convolutions over the channels have no kernel")
    return _eca(m, circular=False)


@gate("timm.layers.eca.CecaModule", kernel="eca", children="conv gate", attributes="padding")
def _ceca_module(m):
    if m.padding != only(m, "conv", nn.Conv1d).kernel_size[0] // 2:
        raise ValueError(f"padding is {m.padding}, expected half the kernel size")
    return _eca(m, circular=True)


_three = dict(body="conv1 bn1 relu conv2 bn2 relu conv3 bn3", gate="se_module", shortcut="downsample", act="relu")
_two = dict(body="conv1 bn1 relu conv2 bn2 relu", gate="se_module", shortcut="downsample", act="relu")
SENET = [f"senet.{name}" for name in ("SEBottleneck", "SEResNetBottleneck", "SEResNeXtBottleneck")]
block(*[f"timm.models.{name}" for name in SENET], **_three, attributes="stride downsample")
block("timm.models.senet.SEResNetBlock", **_two, attributes="stride downsample")
_resnet = dict(gate="se", shortcut="downsample", absent="drop_path", attributes="downsample stride dilation")
_body = "conv1 bn1 act1 conv2 bn2 drop_block act2 aa conv3 bn3"
block("timm.models.resnet.Bottleneck", body=_body, act="act3", **_resnet)
block("timm.models.resnet.BasicBlock", body="conv1 bn1 drop_block act1 aa conv2 bn2", act="act2", **_resnet)
