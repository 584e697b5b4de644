"""The parts of a gate, read and checked: layers, activations, pools. What is not as known raises ValueError."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...reference.activations import ACTIVATIONS, ACTS, GATES, Spec


class Parts(NamedTuple):
    """What a gate's function gets beside x: tensors in order, and options. dims: spatial axes that x may have. more:
    the other gates of a block that holds several. kernel: the function of this one, where it is not the adapter's.
    move: of norms that the function computes of a batch: what moves their running statistics, by x and by those. skip:
    whether x is added to the result, of a function that takes no shortcut."""

    tensors: tuple[Tensor | None, ...]
    options: dict
    dims: tuple[int, ...] = (1, 2, 3)
    more: tuple["Parts", ...] = ()
    kernel: str | None = None
    move: Callable[[Tensor, Tensor], None] | None = None
    skip: bool = False


def qualified_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _type_of(child: nn.Module) -> type:
    """The child's class; of a parametrised child, whose weight is a property, the class beneath."""
    cls = type(child)
    return cls if cls in _LAYERS else cls.__bases__[0] if cls.__module__ == "torch.nn.utils.parametrize" else cls


def part(module: nn.Module, path: str) -> nn.Module:
    """The child at a dotted path."""
    child = module._modules.get(path)
    if child is not None:
        return child
    child = module
    for name in path.split("."):
        child = child._modules.get(name)
        if child is None:
            raise ValueError(f"it has no child {path!r}")
    return child


def unexpected(path: str, child: nn.Module, expected: str) -> ValueError:
    name = qualified_name(type(child))
    if name.startswith(("torch.ao.", "torch.nn.quantized", "torch.nn.qat", "torchao.")):
        return ValueError(f"its child {path!r} is quantised ({name})")
    if type(child) is nn.SyncBatchNorm:
        return ValueError(f"its child {path!r} is a SyncBatchNorm, whose statistics come from other processes")
    if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        fold = "for inference, fold it into the layer before: torch.nn.utils.fusion.fuse_conv_bn_eval"
        return ValueError(f"its child {path!r} is {name}, expected {expected}: {fold}")
    return ValueError(f"its child {path!r} is {name}, expected {expected}")


def only(module: nn.Module, path: str, *kinds: type) -> nn.Module:
    """The child, of one of these classes."""
    child = part(module, path)
    if type(child) not in kinds:
        raise unexpected(path, child, " or ".join(kind.__name__ for kind in kinds))
    return child


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ONES, _ZEROS = ((1,), (1, 1), (1, 1, 1)), ((0,), (0, 0), (0, 0, 0))
_SAME_PADDING = "segmentation_models_pytorch.encoders._efficientnet.Conv2d"  # of smp: plain on a 1x1 map
_POOLS = {nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3}


def layer(module: nn.Module, path: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a Linear, or of a convolution that is one on a map of one pixel."""
    child = part(module, path)
    cls = _type_of(child)
    if cls is not nn.Linear:
        if cls not in _LAYERS and not qualified_name(cls).startswith(_SAME_PADDING):
            raise unexpected(path, child, "a 1x1 convolution or a Linear")
        if child.kernel_size not in _ONES or child.groups != 1 or child.padding not in _ZEROS:
            raise ValueError(f"its child {path!r} is not a plain 1x1 convolution: {child}")
    weight = _parameter(child, "weight")
    if not weight.numel():
        raise ValueError(f"its child {path!r} has no channels: the reduction is larger than the number of channels")
    return weight, _parameter(child, "bias")


def _parameter(child: nn.Module, name: str) -> Tensor | None:
    """child.name, found where parameters are: Module.__getattr__ takes ten times as long, at every forward."""
    own = child._parameters
    return own[name] if name in own and name not in child.__dict__ else getattr(child, name)


def pooled_dims(module: nn.Module, path: str) -> int:
    """The spatial axes of a global average pool."""
    child = part(module, path)
    if type(child) not in _POOLS:
        raise unexpected(path, child, "a global average pool")
    if not pools_to_one(child):
        raise ValueError(f"its child {path!r} pools to {child.output_size!r}, expected 1")
    return _POOLS[type(child)]


def pools_to_one(child: nn.Module) -> bool:
    """Whether it is a global average pool."""
    size = child.output_size if type(child) in _POOLS else 0
    return size == 1 or set(size if isinstance(size, tuple | list) else (size,)) == {1}


def _default(name: str) -> Spec:
    return name, ACTIVATIONS[name].a, ACTIVATIONS[name].b


_TORCH = {  # those without constants of their own
    nn.Sigmoid: _default("sigmoid"),
    nn.Hardsigmoid: _default("hard_sigmoid"),
    nn.Tanh: _default("tanh"),
    nn.ReLU: _default("relu"),
    nn.SiLU: _default("silu"),
    nn.Hardswish: _default("hardswish"),
    nn.Identity: _default("identity"),
}
_TIMM = "timm.layers.activations"
_OTHERS = {
    f"{_TIMM}.Sigmoid": "sigmoid",
    f"{_TIMM}.Tanh": "tanh",
    f"{_TIMM}.Swish": "silu",
    f"{_TIMM}.HardSigmoid": "hard_sigmoid",
    f"{_TIMM}.HardSwish": "hardswish",
    f"{_TIMM}.GELU": "gelu",
    f"{_TIMM}_me.SwishMe": "silu",
    f"{_TIMM}_me.HardSigmoidMe": "hard_sigmoid",
    f"{_TIMM}_me.HardSwishMe": "hardswish",
    "monai.networks.blocks.activation.MemoryEfficientSwish": "silu",
    "mmcv.cnn.bricks.hswish.HSwish": "hardswish",
}
_HSIGMOID = "mmcv.cnn.bricks.hsigmoid.HSigmoid"  # min(max((z + bias) / divisor, min_value), max_value)


def spec_of(child: nn.Module) -> Spec | None:
    known = _TORCH.get(type(child))
    if known is not None:
        return known
    if type(child) is nn.LeakyReLU:
        return "leaky_relu", child.negative_slope, 0.0
    if type(child) is nn.GELU and child.approximate == "none":
        return _default("gelu")
    cls = qualified_name(type(child))
    if cls == _HSIGMOID and (child.min_value, child.max_value) == (0.0, 1.0):
        return "hard_sigmoid", 1 / child.divisor, child.bias / child.divisor
    return _default(_OTHERS[cls]) if cls in _OTHERS else None


def activation(module: nn.Module, path: str, allowed: tuple[str, ...]) -> Spec:
    child = part(module, path)
    spec = spec_of(child)
    if type(child) is nn.PReLU:
        raise ValueError(f"its activation {path!r} is a PReLU, whose slope is learned, without a bias before it")
    if spec is None or spec[0] not in allowed:
        name = qualified_name(type(child)) + (" of tanh" if getattr(child, "approximate", "none") == "tanh" else "")
        raise ValueError(f"its activation {path!r} is {name}: the kernels have {_list(allowed)}")
    return spec


def _list(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def sequence(module: nn.Module, path: str, length: int) -> None:
    """The child is a plain Sequential of this length."""
    child = part(module, path)
    if type(child) is not nn.Sequential or len(child) != length:
        raise unexpected(path, child, f"a Sequential of {length}")


def given(like: Tensor, gate: Spec, dims: tuple[int, ...]) -> Parts:
    """The parts of y = x * gate(v) for a vector v that a block's own layers compute, batch norm among them, and which
    is the `source`: the perceptron is one layer, the identity. like: a tensor with v's channels first."""
    return Parts((torch.eye(like.shape[0], dtype=like.dtype, device=like.device),), dict(gate=gate), dims)


def product(act: str = "sigmoid", **options) -> Parts:
    """A gate whose tensors come from the forward."""
    return Parts((), dict(gate=(act, 0.0, 0.0), **options), (2,))


def channels_of(m: nn.Module, path: str) -> int:
    """That the layers at `path` take."""
    for layer in part(m, path).modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    raise ValueError(f"its child {path!r} holds no convolution")


def wide_as_autocast(x: Tensor) -> Tensor:
    """Where autocast has a norm or a power in float32 on a GPU, and with it all that follows."""
    return x.float() if x.is_cuda and x.dtype != torch.float64 and torch.is_autocast_enabled("cuda") else x


def run_gate(
    gates: Sequence[Callable], x: Tensor, vector: Callable[[], Tensor], source: Tensor | None = None, **maps: Tensor
) -> Tensor:
    """The whole gate of `norms.with_norm`, of x or of a source; else the product with the vector of the layers."""
    product, *whole = gates
    if not whole:
        return product(x, source=vector(), **maps)
    return whole[0](x, **maps, **({} if source is None else {"source": source}))


def arguments_of_two(path: str):
    """Two maps, whose channels together are those of the first convolution."""

    def made(m: nn.Module, new) -> tuple[Tensor, Tensor]:
        both = part(m, path).in_channels
        return new(both // 2), new(both - both // 2)

    return made


def window(module: nn.Module, path: str, inputs: int) -> nn.Conv2d:
    """A convolution of one or two maps to one, over odd windows, which keeps the map's size."""
    conv = only(module, path, nn.Conv2d)
    if not is_window(conv, inputs):
        raise ValueError(
            f"its child {path!r} is not a convolution of {inputs} maps to one that keeps their size: {conv}"
        )
    return conv


def is_window(conv: nn.Module, inputs: int = 2) -> bool:
    """Whether it is a convolution of so many maps to one, over odd windows, which keeps the map's size."""
    if type(conv) is not nn.Conv2d:
        return False
    k = conv.kernel_size[0]
    plain = (conv.in_channels, conv.out_channels) == (inputs, 1) and conv.kernel_size == (k, k) and k % 2 == 1
    same = conv.stride == conv.dilation == (1, 1) and conv.padding == (k // 2, k // 2) and conv.padding_mode == "zeros"
    return plain and same


def squeeze_excite(module: nn.Module, w1: str, act: str | None, w2: str | None, gate: str, dims=None, **options):
    """The parts of y = x * gate(w2 act(w1 pool(x) + b1) + b2) from its children, or of one layer without w2."""
    first = layer(module, w1)
    tensors = (*first, *layer(module, w2)) if w2 else first
    if act and w2 and type(part(module, act)) is nn.PReLU and first[1] is not None:
        tensors, options["act"] = _of_two_relus(*tensors, part(module, act).weight), "relu"
    elif act:
        options["act"] = activation(module, act, ACTS)
    options["gate"] = activation(module, gate, GATES)
    return Parts(tensors, options, dims or (first[0].dim() - 2,))


def _of_two_relus(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor | None, slope: Tensor) -> tuple[Tensor | None, ...]:
    """w2 prelu(w1 v + b1), whose slopes are learned: prelu(z) = relu(z) - slope relu(-z), of twice the channels. At a z
    of zero, which a bias makes unlikely, the gradient is that of neither side."""
    if any(t.layout is not torch.strided for t in (w1, w2)):
        raise ValueError("its weights are sparse, and its activation is a PReLU")
    wide = torch.promote_types(w2.dtype, torch.float32)
    with torch.autocast(w1.device.type, enabled=False):  # which concatenates no float16 where it computes in bfloat16
        w2 = w2.to(wide)
        negative = w2 * slope.to(wide).reshape(1, -1, *[1] * (w2.dim() - 2))
        return torch.cat([w1, -w1]), torch.cat([b1, -b1]), torch.cat([w2, -negative], 1), b2
