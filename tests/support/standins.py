"""Classes of the same qualified name, children and forward as gates of other libraries, which need not be installed."""

import torch
import torch.nn.functional as F
from torch import nn


def stands_for(name: str):
    """The decorated class goes by this qualified name."""

    def rename(cls):
        cls.__module__, _, cls.__qualname__ = name.rpartition(".")
        for member in vars(cls).values():
            if callable(member):
                member.__module__ = cls.__module__
        return cls

    return rename


@stands_for("torchvision.ops.misc.SqueezeExcitation")
class SqueezeExcitation(nn.Module):
    def __init__(self, C, Cr, activation=nn.ReLU, scale_activation=nn.Sigmoid):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(C, Cr, 1), nn.Conv2d(Cr, C, 1)
        self.activation, self.scale_activation = activation(), scale_activation()

    def forward(self, x):
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class _SqueezeExcite(nn.Module):
    def __init__(self, C, Cr, conv=nn.Conv2d, add_maxpool=False, norm=nn.Identity):
        super().__init__()
        self.add_maxpool = add_maxpool
        self.fc1, self.fc2 = conv(C, Cr, 1), conv(Cr, C, 1)
        self.bn, self.act, self.gate = norm(Cr) if norm is not nn.Identity else norm(), nn.ReLU(), nn.Sigmoid()


@stands_for("timm.layers.squeeze_excite.SEModule")
class SEModule(_SqueezeExcite):
    def forward(self, x):
        v = x.mean((2, 3), keepdim=True)
        v = 0.5 * v + 0.5 * x.amax((2, 3), keepdim=True) if self.add_maxpool else v
        return x * self.gate(self.fc2(self.act(self.bn(self.fc1(v)))))


@stands_for("dynamic_network_architectures.building_blocks.regularization.SqueezeExcite")
class NNUNetSqueezeExcite(_SqueezeExcite):
    def forward(self, x):
        return x * self.gate(self.fc2(self.act(self.bn(self.fc1(x.mean((2, 3), keepdim=True))))))


@stands_for("timm.layers.squeeze_excite.EffectiveSEModule")
class EffectiveSEModule(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.add_maxpool = False
        self.fc, self.gate = nn.Conv2d(C, C, 1), nn.Hardsigmoid()

    def forward(self, x):
        return x * self.gate(self.fc(x.mean((2, 3), keepdim=True)))


@stands_for("timm.layers.eca.EcaModule")
class EcaModule(nn.Module):
    def __init__(self, k=3):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)
        self.act = self.conv2 = None
        self.gate = nn.Sigmoid()

    def forward(self, x):
        return x * self.gate(self.conv(x.mean((2, 3))[:, None]))[:, 0, :, None, None]


@stands_for("timm.layers.eca.CecaModule")
class CecaModule(nn.Module):
    def __init__(self, k=3):
        super().__init__()
        self.padding = k // 2
        self.conv, self.gate = nn.Conv1d(1, 1, k, bias=False), nn.Sigmoid()

    def forward(self, x):
        v = nn.functional.pad(x.mean((2, 3))[:, None], (self.padding, self.padding), mode="circular")
        return x * self.gate(self.conv(v))[:, 0, :, None, None]


@stands_for("segmentation_models_pytorch.base.modules.SCSEModule")
class SCSEModule(nn.Module):
    def __init__(self, C, reduction=4):
        super().__init__()
        Cr = C // reduction
        squeeze, excite = nn.Conv2d(C, Cr, 1), nn.Conv2d(Cr, C, 1)
        self.cSE = nn.Sequential(nn.AdaptiveAvgPool2d(1), squeeze, nn.ReLU(), excite, nn.Sigmoid())
        self.sSE = nn.Sequential(nn.Conv2d(C, 1, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.cSE(x) + x * self.sSE(x)


@stands_for("segmentation_models_pytorch.encoders._senet.SEModule")
class SenetSEModule(nn.Module):
    def __init__(self, C, Cr):
        super().__init__()
        self.avg_pool, self.relu, self.sigmoid = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Sigmoid()
        self.fc1, self.fc2 = nn.Conv2d(C, Cr, 1), nn.Conv2d(Cr, C, 1)

    def forward(self, x):
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(self.avg_pool(x)))))


@stands_for("segmentation_models_pytorch.encoders._senet.SEResNetBottleneck")
class SEResNetBottleneck(nn.Module):
    def __init__(self, C=8, downsample=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(C, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, C, 1, bias=False), nn.BatchNorm2d(C)
        self.relu, self.se_module = nn.ReLU(), SenetSEModule(C, 2)
        self.downsample = nn.Conv2d(C, C, 1) if downsample else None
        self.stride = 1

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.se_module(y) + shortcut)


@stands_for("timm.models.resnet.BasicBlock")
class BasicBlock(nn.Module):
    def __init__(self, C=8, drop_path=None):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C)
        self.drop_block, self.aa, self.act1, self.act2 = nn.Identity(), nn.Identity(), nn.ReLU(), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C)
        self.se, self.downsample, self.drop_path = SEModule(C, 2), None, drop_path
        self.stride = self.dilation = 1

    def forward(self, x):
        y = self.aa(self.act1(self.drop_block(self.bn1(self.conv1(x)))))
        y = self.se(self.bn2(self.conv2(y)))
        y = y if self.drop_path is None else self.drop_path(y)
        return self.act2(y + (x if self.downsample is None else self.downsample(x)))


@stands_for("monai.networks.blocks.squeeze_and_excitation.ChannelSELayer")
class ChannelSELayer(nn.Module):
    def __init__(self, dims, C, r=2, add_residual=False, act=nn.ReLU, gate=nn.Sigmoid):
        super().__init__()
        self.add_residual = add_residual
        self.avg_pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1](1)
        self.fc = nn.Sequential(nn.Linear(C, C // r), act(), nn.Linear(C // r, C), gate())

    def forward(self, x):
        g = self.fc(self.avg_pool(x).flatten(1))
        y = x * g.reshape(*g.shape, *[1] * (x.dim() - 2))
        return y + x if self.add_residual else y


@stands_for("monai.networks.nets.attentionunet.AttentionBlock")
class AttentionBlock(nn.Module):
    def __init__(self, inner=4, gating=6, C=8):
        super().__init__()

        def layer(inputs, outputs, *more):
            conv = nn.Sequential()
            conv.add_module("conv", nn.Conv2d(inputs, outputs, 1))
            return nn.Sequential(conv, nn.BatchNorm2d(outputs), *more)

        self.W_g, self.W_x, self.psi = layer(gating, inner), layer(C, inner), layer(inner, 1, nn.Sigmoid())
        self.relu = nn.ReLU()

    def forward(self, g, x):
        return x * self.psi(self.relu(self.W_g(g) + self.W_x(x)))


@stands_for("mmcv.cnn.bricks.hsigmoid.HSigmoid")
class HSigmoid(nn.Module):
    def __init__(self, bias=3.0, divisor=6.0):
        super().__init__()
        self.bias, self.divisor, self.min_value, self.max_value = bias, divisor, 0.0, 1.0

    def forward(self, x):
        return ((x + self.bias) / self.divisor).clamp(self.min_value, self.max_value)


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, act=None, norm=False, k=1, bias=True):
        super().__init__()
        self.order = ("conv", "norm", "act")
        self.with_norm, self.with_activation = norm, act is not None
        self.with_spectral_norm = self.with_explicit_padding = False
        self.conv = nn.Conv2d(inputs, outputs, k, padding=k // 2, bias=bias)
        if norm:
            self.bn = nn.BatchNorm2d(outputs)
        if act is not None:
            self.activate = act

    def forward(self, x):
        x = self.bn(self.conv(x)) if self.with_norm else self.conv(x)
        return self.activate(x) if self.with_activation else x


class BaseModule(nn.Module):
    """OpenMMLab's, of what its instances have."""

    def __init__(self):
        super().__init__()
        self._is_init, self.init_cfg = False, None


@stands_for("mmdet.models.layers.se_layer.SELayer")
class SELayer(BaseModule):
    def __init__(self, C, Cr, act=None, gate=None):
        super().__init__()
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.conv1, self.conv2 = ConvModule(C, Cr, act or nn.ReLU()), ConvModule(Cr, C, gate or HSigmoid())

    def forward(self, x):
        return x * self.conv2(self.conv1(self.global_avgpool(x)))


_CONV = "ultralytics.nn.modules.conv"


@stands_for(f"{_CONV}.ChannelAttention")
class ChannelAttention(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.pool, self.fc, self.act = nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, C, 1), nn.Sigmoid()

    def forward(self, x):
        return x * self.act(self.fc(self.pool(x)))


@stands_for(f"{_CONV}.SpatialAttention")
class SpatialAttention(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.cv1, self.act = nn.Conv2d(2, 1, k, padding=k // 2, bias=False), nn.Sigmoid()

    def forward(self, x):
        return x * self.act(self.cv1(torch.cat([torch.mean(x, 1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], 1)))


@stands_for(f"{_CONV}.CBAM")
class CBAM(nn.Module):
    def __init__(self, C, k=7):
        super().__init__()
        self.channel_attention, self.spatial_attention = ChannelAttention(C), SpatialAttention(k)

    def forward(self, x):
        return self.spatial_attention(self.channel_attention(x))


@stands_for("mmseg.models.backbones.cgnet.GlobalContextExtractor")
class GlobalContextExtractor(nn.Module):
    def __init__(self, C, Cr):
        super().__init__()
        self.channel, self.reduction, self.with_cp = C, C // Cr, False
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(C, Cr), nn.ReLU(), nn.Linear(Cr, C), nn.Sigmoid())

    def forward(self, x):
        N, C = x.shape[:2]
        return x * self.fc(self.avg_pool(x).view(N, C)).view(N, C, 1, 1)


@stands_for("mmseg.models.backbones.stdc.FeatureFusionModule")
class STDCFusion(BaseModule):
    def __init__(self, inputs=8, C=6, Cr=2):
        super().__init__()
        self.conv0 = ConvModule(inputs, C, nn.ReLU(), norm=True)
        self.conv1, self.conv2 = ConvModule(C, Cr, nn.ReLU(), bias=False), ConvModule(Cr, C, nn.Sigmoid(), bias=False)

    def forward(self, spatial_inputs, context_inputs):
        x = self.conv0(torch.cat([spatial_inputs, context_inputs], dim=1))
        return x * self.conv2(self.conv1(F.avg_pool2d(x, x.shape[2:]))) + x


@stands_for("mmseg.models.backbones.stdc.AttentionRefinementModule")
class STDCRefinement(BaseModule):
    def __init__(self, inputs=8, C=4):
        super().__init__()
        self.conv = ConvModule(inputs, C, norm=True, k=3)
        self.conv_attn = ConvModule(C, C, nn.Sigmoid(), norm=True)

    def forward(self, x):
        x = self.conv(x)
        return x * self.conv_attn(F.avg_pool2d(x, x.shape[2:]))


@stands_for("mmseg.models.backbones.bisenetv1.AttentionRefinementModule")
class BiSeNetRefinement(BaseModule):
    def __init__(self, inputs=8, C=4):
        super().__init__()
        self.conv_layer = ConvModule(inputs, C, nn.ReLU(), norm=True, k=3)
        layers = ConvModule(C, C, norm=True, bias=False)
        self.atten_conv_layer = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), layers, nn.Sigmoid())

    def forward(self, x):
        x = self.conv_layer(x)
        return x * self.atten_conv_layer(x)


@stands_for("mmseg.models.backbones.bisenetv1.FeatureFusionModule")
class BiSeNetFusion(BaseModule):
    def __init__(self, inputs=8, C=6):
        super().__init__()
        self.conv1, self.gap = ConvModule(inputs, C, nn.ReLU(), norm=True), nn.AdaptiveAvgPool2d((1, 1))
        self.conv_atten = nn.Sequential(ConvModule(C, C, nn.ReLU(), norm=True, bias=False), nn.Sigmoid())

    def forward(self, x_sp, x_cp):
        x = self.conv1(torch.cat([x_sp, x_cp], dim=1))
        return x * self.conv_atten(self.gap(x)) + x


class ConvBNReLU(nn.Module):
    def __init__(self, inputs, outputs, k):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, k, padding=k // 2, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))


_BISENET = "lib.models.bisenetv1"


@stands_for(f"{_BISENET}.AttentionRefinementModule")
class CoinRefinement(nn.Module):
    """CoinCheung's; `first` is the version with its sigmoid as a module."""

    def __init__(self, inputs=8, C=4, first=False):
        super().__init__()
        self.conv = ConvBNReLU(inputs, C, 3)
        self.conv_atten, self.bn_atten = nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C)
        if first:
            self.sigmoid_atten = nn.Sigmoid()

    def forward(self, x):
        feat = self.conv(x)
        vector = self.bn_atten(self.conv_atten(F.avg_pool2d(feat, feat.size()[2:])))
        return torch.mul(feat, self.sigmoid_atten(vector) if "sigmoid_atten" in self._modules else vector.sigmoid())


@stands_for(f"{_BISENET}.FeatureFusionModule")
class CoinFusion(nn.Module):
    def __init__(self, inputs=8, C=6):
        super().__init__()
        self.convblk = ConvBNReLU(inputs, C, 1)
        self.conv, self.bn = nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C)

    def forward(self, fsp, fcp):
        feat = self.convblk(torch.cat([fsp, fcp], dim=1))
        vector = self.bn(self.conv(torch.mean(feat, dim=(2, 3), keepdim=True)))
        return torch.mul(feat, vector.sigmoid()) + feat


@stands_for(f"{_BISENET}.FeatureFusionModule")
class CoinFusionFirst(nn.Module):
    """Of the first version: two layers without a norm."""

    def __init__(self, inputs=8, C=6, Cr=2):
        super().__init__()
        self.convblk = ConvBNReLU(inputs, C, 1)
        self.conv1, self.conv2 = nn.Conv2d(C, Cr, 1, bias=False), nn.Conv2d(Cr, C, 1, bias=False)
        self.relu, self.sigmoid = nn.ReLU(inplace=True), nn.Sigmoid()

    def forward(self, fsp, fcp):
        feat = self.convblk(torch.cat([fsp, fcp], dim=1))
        vector = self.conv2(self.relu(self.conv1(F.avg_pool2d(feat, feat.size()[2:]))))
        return torch.mul(feat, self.sigmoid(vector)) + feat


def _perceptron(C, Cr):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, Cr, 1), nn.ReLU(), nn.Conv2d(Cr, C, 1), nn.Sigmoid())


@stands_for("segmentation_models_pytorch.decoders.manet.decoder.MFABBlock")
class MFABBlock(nn.Module):
    def __init__(self, C=8, skip=4):
        super().__init__()
        self.hl_conv = nn.Sequential(nn.Sequential(nn.Conv2d(C, C, 3, padding=1)), nn.Conv2d(C, skip, 1))
        self.SE_ll, self.SE_hl = _perceptron(skip, 2), _perceptron(skip, 2)
        self.conv1, self.conv2 = nn.Conv2d(2 * skip, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.interpolation_mode = "nearest"

    def forward(self, x, skip=None):
        x = F.interpolate(self.hl_conv(x), scale_factor=2.0, mode=self.interpolation_mode)
        if skip is not None:
            x = torch.cat([x * (self.SE_hl(x) + self.SE_ll(skip)), skip], dim=1)
        return self.conv2(self.conv1(x))


class ConvBnRelu(nn.Module):
    def __init__(self, inputs, outputs, k, relu=True):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, k, padding=k // 2), nn.BatchNorm2d(outputs)
        self.activation, self.add_relu, self.interpolate = nn.ReLU(), relu, False

    def forward(self, x):
        x = self.bn(self.conv(x))
        return self.activation(x) if self.add_relu else x


@stands_for("segmentation_models_pytorch.decoders.pan.decoder.GAUBlock")
class GAUBlock(nn.Module):
    def __init__(self, C=8, outputs=4):
        super().__init__()
        self.interpolation_mode, self.align_corners = "bilinear", True
        self.conv1 = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBnRelu(outputs, outputs, 1, relu=False), nn.Sigmoid())
        self.conv2 = ConvBnRelu(C, outputs, 3)

    def forward(self, x, y):
        up = F.interpolate(y, size=x.shape[2:], mode=self.interpolation_mode, align_corners=self.align_corners)
        return up + self.conv2(x) * self.conv1(y)


@stands_for("torchvision.models.segmentation.lraspp.LRASPPHead")
class LRASPPHead(nn.Module):
    def __init__(self, low=4, high=8, classes=3, inter=6):
        super().__init__()
        self.cbr = nn.Sequential(nn.Conv2d(high, inter, 1, bias=False), nn.BatchNorm2d(inter), nn.ReLU())
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, inter, 1, bias=False), nn.Sigmoid())
        self.low_classifier, self.high_classifier = nn.Conv2d(low, classes, 1), nn.Conv2d(inter, classes, 1)

    def forward(self, input):
        low, high = input["low"], input["high"]
        x = self.cbr(high) * self.scale(high)
        x = F.interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return self.low_classifier(low) + self.high_classifier(x)


@stands_for("timm.layers.grn.GlobalResponseNorm")
class TimmResponseNorm(nn.Module):
    def __init__(self, C=8, channels_last=True):
        super().__init__()
        self.eps = 1e-6
        last = ((1, 2), -1, (1, 1, 1, -1)), ((2, 3), 1, (1, -1, 1, 1))
        self.spatial_dim, self.channel_dim, self.wb_shape = last[not channels_last]
        self.weight, self.bias = nn.Parameter(torch.randn(C)), nn.Parameter(torch.randn(C))

    def forward(self, x):
        norm = x.norm(p=2, dim=self.spatial_dim, keepdim=True)
        r = norm / (norm.mean(dim=self.channel_dim, keepdim=True) + self.eps)
        return x + torch.addcmul(self.bias.view(self.wb_shape), self.weight.view(self.wb_shape), x * r)


@stands_for("timm.layers.norm.LayerNorm2d")
class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@stands_for("timm.layers.mlp.ConvMlp")
class ConvMlp(nn.Module):
    def __init__(self, C, hidden, norm=True):
        super().__init__()
        self.fc1, self.norm = nn.Conv2d(C, hidden, 1), LayerNorm2d(hidden, 1e-6) if norm else nn.Identity()
        self.act = nn.ReLU()
        self.drop, self.fc2 = nn.Dropout(0.0), nn.Conv2d(hidden, C, 1)

    def forward(self, x):
        return self.fc2(self.drop(self.act(self.norm(self.fc1(x)))))


@stands_for("timm.layers.global_context.GlobalContext")
class GlobalContext(nn.Module):
    def __init__(self, C=8, scale=True, add=False):
        super().__init__()
        self.conv_attn = nn.Conv2d(C, 1, 1)
        self.mlp_add, self.mlp_scale = ConvMlp(C, 5) if add else None, ConvMlp(C, 5) if scale else None
        self.gate, self.init_last_zero = nn.Sigmoid(), False

    def forward(self, x):
        a = F.softmax(self.conv_attn(x).flatten(2), -1).unsqueeze(3)
        v = (x.flatten(2).unsqueeze(1) @ a).view(*x.shape[:2], 1, 1)
        x = x if self.mlp_scale is None else x * self.gate(self.mlp_scale(v))
        return x if self.mlp_add is None else x + self.mlp_add(v)


@stands_for("mmcv.cnn.bricks.context_block.ContextBlock")
class ContextBlock(nn.Module):
    def __init__(self, C=8, ratio=0.5, fusion_types=("channel_add",)):
        super().__init__()
        self.in_channels, self.ratio, self.planes, self.fusion_types = C, ratio, int(C * ratio), fusion_types
        self.pooling_type, self.conv_mask, self.softmax = "att", nn.Conv2d(C, 1, 1), nn.Softmax(dim=2)
        self.channel_add_conv = self._layers() if "channel_add" in fusion_types else None
        self.channel_mul_conv = self._layers() if "channel_mul" in fusion_types else None

    def _layers(self):
        C, R = self.in_channels, self.planes
        return nn.Sequential(nn.Conv2d(C, R, 1), nn.LayerNorm([R, 1, 1]), nn.ReLU(inplace=True), nn.Conv2d(R, C, 1))

    def forward(self, x):
        a = self.softmax(self.conv_mask(x).flatten(2)).unsqueeze(-1)
        v = torch.matmul(x.flatten(2).unsqueeze(1), a).view(len(x), self.in_channels, 1, 1)
        x = x if self.channel_mul_conv is None else x * torch.sigmoid(self.channel_mul_conv(v))
        return x if self.channel_add_conv is None else x + self.channel_add_conv(v)


@stands_for("networks.attentions.simam_module.simam_module")
class SimAM(nn.Module):
    def __init__(self, channels=None, e_lambda=1e-4):
        super().__init__()
        self.activaton, self.e_lambda = nn.Sigmoid(), e_lambda

    def forward(self, x):
        squares = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        total = squares.sum(dim=[2, 3], keepdim=True) / (x.shape[2] * x.shape[3] - 1)
        return x * self.activaton(squares / (4 * (total + self.e_lambda)) + 0.5)


@stands_for("mmseg.models.backbones.mscan.MSCAAttention")
class MSCAAttention(BaseModule):
    def __init__(self, C=8):
        super().__init__()
        self.conv0 = nn.Conv2d(C, C, 5, padding=2, groups=C)
        for i, k in enumerate((7, 11, 21)):
            self.add_module(f"conv{i}_1", nn.Conv2d(C, C, (1, k), padding=(0, k // 2), groups=C))
            self.add_module(f"conv{i}_2", nn.Conv2d(C, C, (k, 1), padding=(k // 2, 0), groups=C))
        self.conv3 = nn.Conv2d(C, C, 1)

    def forward(self, x):
        u, z = x.clone(), self.conv0(x)
        z0, z1, z2 = (getattr(self, f"conv{i}_2")(getattr(self, f"conv{i}_1")(z)) for i in range(3))
        return self.conv3(z + z0 + z1 + z2) * u


@stands_for("mmpretrain.models.backbones.van.LKA")
class LKA(BaseModule):
    def __init__(self, C=8):
        super().__init__()
        self.DW_conv = nn.Conv2d(C, C, 5, padding=2, groups=C)
        self.DW_D_conv = nn.Conv2d(C, C, 7, padding=9, groups=C, dilation=3)
        self.conv1 = nn.Conv2d(C, C, 1)

    def forward(self, x):
        return x.clone() * self.conv1(self.DW_D_conv(self.DW_conv(x)))


def _resized(x, like, align_corners=False):
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=align_corners)


@stands_for("mmseg.models.backbones.bisenetv2.BGALayer")
class BGALayer(BaseModule):
    def __init__(self, C=4, align_corners=False):
        super().__init__()
        self.out_channels, self.align_corners = C, align_corners
        self.detail_dwconv = ConvModule(C, C, norm=True)
        self.detail_down = nn.Sequential(
            ConvModule(C, C, norm=True), nn.AvgPool2d(3, stride=2, padding=1), nn.AvgPool2d(3, stride=2, padding=1)
        )
        self.semantic_conv, self.semantic_dwconv = ConvModule(C, C, norm=True, k=3), ConvModule(C, C, norm=True)
        self.conv = ConvModule(C, C, nn.ReLU(), norm=True, k=3)

    def forward(self, x_d, x_s):
        detail, coarse = self.detail_dwconv(x_d), self.detail_down(x_d)
        fuse_1 = detail * torch.sigmoid(_resized(self.semantic_conv(x_s), detail, self.align_corners))
        fuse_2 = coarse * torch.sigmoid(self.semantic_dwconv(x_s))
        return self.conv(fuse_1 + _resized(fuse_2, fuse_1, self.align_corners))


@stands_for("mmseg.models.backbones.pidnet.PagFM")
class PagFM(BaseModule):
    def __init__(self, C=8, mid=4, after_relu=False, with_channel=False):
        super().__init__()
        self.after_relu, self.with_channel, self.upsample_mode = after_relu, with_channel, "bilinear"
        self.f_i, self.f_p = (ConvModule(C, mid, norm=True, bias=False) for _ in range(2))
        if with_channel:
            self.up = ConvModule(mid, C, norm=True, bias=False)
        if after_relu:
            self.relu = nn.ReLU()

    def forward(self, x_p, x_i):
        if self.after_relu:
            x_p, x_i = self.relu(x_p), self.relu(x_i)
        f_i, f_p = _resized(self.f_i(x_i), x_p), self.f_p(x_p)
        sigma = torch.sigmoid(self.up(f_p * f_i) if self.with_channel else torch.sum(f_p * f_i, dim=1).unsqueeze(1))
        return sigma * _resized(x_i, x_p) + (1 - sigma) * x_p


@stands_for("mmseg.models.backbones.pidnet.Bag")
class Bag(BaseModule):
    def __init__(self, C=8):
        super().__init__()
        self.conv = ConvModule(C, 4, nn.ReLU(), norm=True, k=3)

    def forward(self, x_p, x_i, x_d):
        sigma = torch.sigmoid(x_d)
        return self.conv(sigma * x_p + (1 - sigma) * x_i)


@stands_for("mmseg.models.backbones.pidnet.LightBag")
class LightBag(BaseModule):
    def __init__(self, C=8):
        super().__init__()
        self.f_p, self.f_i = ConvModule(C, 4, norm=True), ConvModule(C, 4, norm=True)

    def forward(self, x_p, x_i, x_d):
        sigma = torch.sigmoid(x_d)
        return self.f_p((1 - sigma) * x_i + x_p) + self.f_i(x_i + sigma * x_p)


class HSigmoidOfTopFormer(nn.Module):
    def forward(self, x):
        return F.relu6(x + 3) / 6


@stands_for("mmseg.models.backbones.topformer.InjectionMultiSum")
class InjectionMultiSum(nn.Module):
    def __init__(self, C=6, out=8):
        super().__init__()
        self.norm_cfg, self.act = dict(type="BN"), HSigmoidOfTopFormer()
        self.local_embedding, self.global_embedding, self.global_act = (ConvModule(C, out, norm=True) for _ in range(3))

    def forward(self, x_l, x_g):
        g = _resized(self.act(self.global_act(x_g)), x_l)
        return self.local_embedding(x_l) * g + _resized(self.global_embedding(x_g), x_l)


@stands_for("mmseg.models.backbones.topformer.FuseBlockMulti")
class FuseBlockMulti(nn.Module):
    def __init__(self, C=6, out=8):
        super().__init__()
        self.stride, self.norm_cfg, self.out_channels = 1, dict(type="BN"), out
        self.fuse1, self.fuse2 = ConvModule(C, out, norm=True), ConvModule(C, out, norm=True)
        self.act = HSigmoidOfTopFormer()

    def forward(self, x_l, x_h):
        return self.fuse1(x_l) * _resized(self.act(self.fuse2(x_h)), x_l)


@stands_for("mmseg.models.backbones.seaformer.Fusion_block")
class FusionBlock(nn.Module):
    def __init__(self, C=6, out=8):
        super().__init__()
        self.norm_cfg, self.act = dict(type="BN"), HSigmoidOfTopFormer()
        self.local_embedding, self.global_act = ConvModule(C, out, norm=True), ConvModule(C, out, norm=True)

    def forward(self, x_l, x_g):
        return self.local_embedding(x_l) * _resized(self.act(self.global_act(x_g)), x_l)


@stands_for("super_gradients.training.models.segmentation_models.ppliteseg.UAFM")
class UAFM(nn.Module):
    def __init__(self, C=8, skip=6, out=4, up_factor=2):
        super().__init__()
        self.conv_atten = nn.Sequential(ConvModule(4, 2, nn.ReLU(), norm=True, k=3), ConvModule(2, 1, norm=True, k=3))
        self.proj_skip = nn.Identity() if skip == C else ConvModule(skip, C, nn.ReLU(), norm=True, k=3)
        bilinear = dict(mode="bilinear", align_corners=False)
        self.up_x = nn.Identity() if up_factor == 1 else nn.Upsample(scale_factor=up_factor, **bilinear)
        self.conv_out = ConvModule(C, out, nn.ReLU(), norm=True, k=3)

    def forward(self, x, skip):
        x, skip = self.up_x(x), self.proj_skip(skip)
        pools = [*self._avg_max_spatial_reduce(x), *self._avg_max_spatial_reduce(skip)]
        a = torch.sigmoid(self.conv_atten(torch.cat(pools, dim=1)))
        return self.conv_out(x * a + skip * (1 - a))

    @staticmethod
    def _avg_max_spatial_reduce(x):
        return [torch.mean(x, dim=1, keepdim=True), torch.max(x, dim=1, keepdim=True)[0]]


@stands_for("timm.layers.split_attn.RadixSoftmax")
class RadixSoftmax(nn.Module):
    def __init__(self, radix, cardinality):
        super().__init__()
        self.radix, self.cardinality = radix, cardinality

    def forward(self, x):
        if self.radix == 1:
            return torch.sigmoid(x)
        return x.view(len(x), self.cardinality, self.radix, -1).transpose(1, 2).softmax(1).reshape(len(x), -1)


@stands_for("mmseg.models.backbones.resnest.RSoftmax")
class RSoftmax(RadixSoftmax):
    def __init__(self, radix, groups):
        super().__init__(radix, groups)
        self.groups = groups


@stands_for("timm.layers.split_attn.SplitAttn")
class SplitAttn(nn.Module):
    def __init__(self, C=6, radix=2, groups=2, stride=1):
        super().__init__()
        self.radix, wide = radix, dict(groups=groups * radix, stride=stride, padding=1, bias=False)
        self.conv, self.bn0 = nn.Conv2d(4 * radix, C * radix, 3, **wide), nn.BatchNorm2d(C * radix)
        self.drop, self.act0 = nn.Identity(), nn.ReLU(inplace=True)
        self.fc1, self.bn1, self.act1 = nn.Conv2d(C, 8, 1, groups=groups), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.fc2, self.rsoftmax = nn.Conv2d(8, C * radix, 1, groups=groups), RadixSoftmax(radix, groups)

    def forward(self, x):
        x = self.act0(self.drop(self.bn0(self.conv(x))))
        split = x.reshape(len(x), self.radix, -1, *x.shape[2:])
        v = split.sum(1).mean((2, 3), keepdim=True)
        a = self.rsoftmax(self.fc2(self.act1(self.bn1(self.fc1(v)))))
        return (split * a.reshape(len(x), self.radix, -1, 1, 1)).sum(1).contiguous()


@stands_for("mmseg.models.backbones.resnest.SplitAttentionConv2d")
class SplitAttentionConv2d(nn.Module):
    def __init__(self, C=6, radix=2, groups=1):
        super().__init__()
        self.radix, self.groups, self.channels, self.with_dcn, self.dcn = radix, groups, C, False, None
        self.norm0_name, self.norm1_name = "bn0", "bn1"
        self.conv = nn.Conv2d(2 * radix, C * radix, 3, padding=1, groups=groups * radix, bias=False)
        self.bn0, self.relu = nn.BatchNorm2d(C * radix), nn.ReLU(inplace=True)
        self.fc1, self.bn1 = nn.Conv2d(C, 8, 1, groups=groups), nn.BatchNorm2d(8)
        self.fc2, self.rsoftmax = nn.Conv2d(8, C * radix, 1, groups=groups), RSoftmax(radix, groups)

    @property
    def norm0(self):
        return getattr(self, self.norm0_name)

    @property
    def norm1(self):
        return getattr(self, self.norm1_name)

    def forward(self, x):
        x = self.relu(self.norm0(self.conv(x)))
        split = x.view(len(x), self.radix, -1, *x.shape[2:])
        v = F.adaptive_avg_pool2d(split.sum(1), 1)
        a = self.rsoftmax(self.fc2(self.relu(self.norm1(self.fc1(v))))).view(len(x), self.radix, -1, 1, 1)
        return torch.sum(a * split, dim=1).contiguous()


class SelectiveKernelAttn(nn.Module):
    def __init__(self, C, num_paths=2, attn_channels=6):
        super().__init__()
        self.num_paths, self.fc_reduce = num_paths, nn.Conv2d(C, attn_channels, 1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(attn_channels), nn.ReLU(inplace=True)
        self.fc_select = nn.Conv2d(attn_channels, C * num_paths, 1, bias=False)

    def forward(self, x):
        v = x.sum(1).mean((2, 3), keepdim=True)
        z = self.fc_select(self.act(self.bn(self.fc_reduce(v))))
        return torch.softmax(z.view(len(z), self.num_paths, -1, 1, 1), dim=1)


@stands_for("timm.layers.selective_kernel.SelectiveKernel")
class SelectiveKernel(nn.Module):
    def __init__(self, C=8, split_input=True, num_paths=2):
        super().__init__()
        self.num_paths, self.in_channels, self.out_channels, self.split_input = num_paths, C, C, split_input
        each = C // num_paths if split_input else C
        self.paths = nn.ModuleList([ConvModule(each, C, nn.ReLU(), norm=True, k=3) for _ in range(num_paths)])
        self.attn = SelectiveKernelAttn(C, num_paths)

    def forward(self, x):
        given = x.split(self.in_channels // self.num_paths, 1) if self.split_input else (x,) * self.num_paths
        paths = torch.stack([path(given[i]) for i, path in enumerate(self.paths)], dim=1)
        return torch.sum(paths * self.attn(paths), dim=1)
