"""Gates of rows and columns: coordinate attention, the authors' and timm's; timm's simpler ones, ELA and StripAttn."""

import torch
from torch import Tensor, nn

from ...modules._children import folded, update, uses_batch
from ...reference.activations import ACTS, GATES, Spec
from .parts import Parts, activation, layer, only, part, product, qualified_name
from .registry import gate

_TIMM = "timm.layers.coord_attn"


def _coordinate(m: nn.Module, act: Spec, gate: Spec) -> Parts:
    last, options = (*layer(m, "conv_h"), *layer(m, "conv_w")), dict(act=act, gate=gate)
    first, bn = layer(m, "conv1"), only(m, "bn1", nn.BatchNorm2d, nn.Identity)
    if type(bn) is nn.Identity:
        return Parts((*first, *last), options, (2,))
    if not uses_batch(bn):
        return Parts((*folded(m.conv1, bn), *last), options, (2,))
    gain = first[0].new_ones(len(first[0])) if bn.weight is None else bn.weight
    move = lambda x, stats: update(bn, stats, len(x) * sum(x.shape[2:]))  # noqa: E731
    return Parts((*first, *last, gain, bn.bias), {**options, "eps": bn.eps}, (2,), move=move)


@gate(
    f"{_TIMM}.CoordAttn",
    kernel="coordinate_attention",
    children="conv1 bn1 act conv_h conv_w gate",
    attributes="has_skip",
)
def _timm(m):
    return _coordinate(m, activation(m, "act", ACTS), activation(m, "gate", GATES))._replace(skip=m.has_skip)


@gate("coordatt.CoordAtt", kernel="coordinate_attention", children="pool_h pool_w conv1 bn1 act conv_h conv_w")
def _authors(m):
    for path, size in (("pool_h", (None, 1)), ("pool_w", (1, None))):
        if tuple(only(m, path, nn.AdaptiveAvgPool2d).output_size) != size:
            raise ValueError(f"its child {path!r} is no mean of rows or columns: {part(m, path)}")
    if qualified_name(type(part(m, "act"))) != "coordatt.h_swish":
        raise ValueError(f"its child 'act' is {qualified_name(type(m.act))}, expected h_swish")
    return _coordinate(m, ("hardswish", 1 / 6, 0.5), ("sigmoid", 0.0, 0.0))


@gate(
    f"{_TIMM}.SimpleCoordAttn", kernel="coordinate_attention", children="fc1 act fc_h fc_w gate", attributes="has_skip"
)
def _simple(m):
    options = dict(combine="sum", act=activation(m, "act", ACTS), gate=activation(m, "gate", GATES))
    return Parts((*layer(m, "fc1"), *layer(m, "fc_h"), *layer(m, "fc_w")), options, (2,), skip=m.has_skip)


def _gated(block: nn.Module, gates, x: Tensor, of_rows, of_columns) -> Tensor:
    """The block's own layers make the logits of the means; x as wide as torch has the product with them."""
    gate, means = gates
    v_h, v_w = means(x)
    z_h, z_w = of_rows(v_h), of_columns(v_w)
    wide = torch.promote_types(x.dtype, torch.promote_types(z_h.dtype, z_w.dtype))
    y = gate(x.to(wide), z_h=z_h.to(wide), z_w=z_w.to(wide))
    return y + x if block.has_skip else y


def _parts(m: nn.Module, combine: str) -> Parts:
    gated = product(combine=combine)._replace(more=(Parts((), {}, (2,), kernel="strip_means"),))
    return gated._replace(options={**gated.options, "gate": activation(m, "gate", GATES)})


def _ela_forward(block: nn.Module, gates, names: dict, x: Tensor):
    of_rows = lambda v: block.act(block.norm_h(block.conv_h(v)))  # noqa: E731
    return _gated(block, gates, x, of_rows, lambda v: block.act(block.norm_w(block.conv_w(v))))


@gate(
    f"{_TIMM}.EfficientLocalAttn",
    kernel="strip_gate",
    children="conv_h conv_w norm_h norm_w act gate",
    attributes="has_skip",
    inline=_ela_forward,
)
def _ela(m):
    return _parts(m, "product")


def _strip_forward(block: nn.Module, gates, names: dict, x: Tensor):
    return _gated(block, gates, x, block.conv_h, block.conv_w)


@gate(
    f"{_TIMM}.StripAttn",
    kernel="strip_gate",
    children="conv_h conv_w gate",
    attributes="has_skip use_conv",
    inline=_strip_forward,
    arguments=lambda m, new: (new(getattr(m.conv_h, "in_channels", 6)),),
)
def _strip(m):
    return _parts(m, "sum")
