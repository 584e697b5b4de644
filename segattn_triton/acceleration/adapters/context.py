"""Global context: timm's GlobalContext and mmcv's ContextBlock, which scale the map, or add to it."""

from torch import nn

from ...reference.activations import ACTS, GATES
from .parts import Parts, activation, layer, only, part, qualified_name
from .registry import gate


def _parts(m: nn.Module, mask: str, first: str, norm: str, act: str, last: str, fuse: str, gate) -> Parts:
    """Of the layers at these paths; gate: None where the result is added."""
    ln, (weight, bias), options = part(m, norm), layer(m, mask), dict(act=activation(m, act, ACTS))
    if ln.weight is None:
        raise ValueError(f"its child {norm!r} has no weight")
    affine = ln.weight.flatten(), None if ln.bias is None else ln.bias.flatten()
    tensors = (weight, bias, *layer(m, first), *affine, *layer(m, last))
    if gate is not None:
        options["gate"] = gate
    return Parts(tensors, options | dict(eps=ln.eps), (2,), kernel=fuse)


def _has(m: nn.Module, scale: str, add: str) -> str:
    """Which of the two branches there is."""
    branches = [name for name in (scale, add) if m._modules.get(name) is not None]
    if len(branches) != 1:
        raise ValueError(f"it has {' and '.join(branches) or 'no branch'}: a kernel scales or adds")
    return branches[0]


@gate(
    "timm.layers.global_context.GlobalContext",
    kernel="global_context",
    children="conv_attn mlp_scale mlp_add gate",
    attributes="conv_attn mlp_scale mlp_add init_last_zero",
)
def _timm(m):
    if m.conv_attn is None:
        raise ValueError("use_attn=False: its context is the mean, which has no kernel with a layer norm")
    name = _has(m, "mlp_scale", "mlp_add")
    norm, drop = part(m, f"{name}.norm"), part(m, f"{name}.drop")
    if qualified_name(type(norm)) not in ("timm.layers.norm.LayerNorm2d", "timm.layers.norm.LayerNorm2dFp32"):
        raise ValueError(f"its child '{name}.norm' is {qualified_name(type(norm))}, expected a LayerNorm2d")
    if type(drop) is not nn.Identity and not (type(drop) is nn.Dropout and drop.p == 0):
        raise ValueError("it has dropout")
    paths = (f"{name}.{child}" for child in ("fc1", "norm", "act", "fc2"))
    if name == "mlp_add":
        return _parts(m, "conv_attn", *paths, "global_context_add", None)
    return _parts(m, "conv_attn", *paths, "global_context", activation(m, "gate", GATES))


@gate(
    "mmcv.cnn.bricks.context_block.ContextBlock",
    kernel="global_context",
    children="conv_mask softmax channel_mul_conv channel_add_conv",
    attributes="in_channels ratio planes pooling_type fusion_types channel_mul_conv channel_add_conv",
)
def _mmcv(m):
    if m.pooling_type != "att":
        raise ValueError(f"pooling_type is {m.pooling_type!r}: its context is the mean")
    if only(m, "softmax", nn.Softmax).dim != 2:
        raise ValueError("its softmax is not over the pixels")
    name = _has(m, "channel_mul_conv", "channel_add_conv")
    if len(only(m, name, nn.Sequential)) != 4:
        raise ValueError(f"its child {name!r} has {len(part(m, name))} layers, expected 4")
    only(m, f"{name}.1", nn.LayerNorm)
    paths = (f"{name}.{i}" for i in range(4))
    add = name == "channel_add_conv"
    kernel = "global_context_add" if add else "global_context"
    return _parts(m, "conv_mask", *paths, kernel, None if add else ("sigmoid", 0.0, 0.0))
