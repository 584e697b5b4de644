"""timm's GatherExcite with global extent: a channel gate, or, with parameters of its own, a gate of a map of logits."""

import torch
from torch import Tensor, nn

from ...reference.activations import ACTS, GATES
from .parts import Parts, activation, layer, part, qualified_name
from .registry import gate

_MLP = "timm.layers.mlp.ConvMlp"


def _channel_gate(m: nn.Module) -> Parts:
    """Of the mean, or of half its sum with the maximum, whose gradient equals share."""
    mlp, drop = part(m, "mlp"), part(m, "mlp.drop")
    if qualified_name(type(mlp)) != _MLP:
        raise ValueError(f"its child 'mlp' is {qualified_name(type(mlp))}, expected a ConvMlp")
    if type(part(m, "mlp.norm")) is not nn.Identity or not (type(drop) is nn.Identity or getattr(drop, "p", 1) == 0):
        raise ValueError("its perceptron has a norm or dropout")
    how = dict(act=activation(m, "mlp.act", ACTS), gate=activation(m, "gate", GATES))
    return Parts(
        (*layer(m, "mlp.fc1"), *layer(m, "mlp.fc2")),
        how | (dict(pool="avgmax", ties="split") if m.add_maxpool else {}),
        (2,),
    )


def _product(m: nn.Module) -> Parts:
    """With logits that the block's own layers make: at x's pixels, of one for all of them, or at others."""
    how = dict(gate=activation(m, "gate", GATES))
    same = Parts((), how, (2,), kernel="gate_mul")
    return Parts((), how | dict(resize="nearest"), (2,), (same,), kernel="gate_mul_resized")


def _is_channel_gate(m: nn.Module) -> bool:
    return m.gather is None and type(m.mlp) is not nn.Identity


def _logits(block: nn.Module, x: Tensor) -> Tensor:
    if block.gather is not None:
        return block.mlp(block.gather(x))
    mean = x.mean((2, 3), keepdim=True)
    return 0.5 * mean + 0.5 * x.amax((2, 3), keepdim=True) if block.add_maxpool else mean


def _forward(block: nn.Module, gates, names: dict, x: Tensor) -> Tensor:
    if _is_channel_gate(block):
        return gates[0](x)
    z = _logits(block, x)
    return gates[z.shape[2:] in (x.shape[2:], torch.Size((1, 1)))](x, z=z)


def _first_map(m: nn.Module, new) -> tuple[Tensor]:
    """Of any channels where there is no layer."""
    return (new(next((layer.in_channels for layer in m.modules() if isinstance(layer, nn.Conv2d)), 8)),)


@gate(
    "timm.layers.gather_excite.GatherExcite",
    children="gather mlp gate",
    attributes="gather add_maxpool extent gk gs",
    inline=_forward,
    arguments=_first_map,
)
def _gather_excite(m):
    if m.extent != 0:
        raise ValueError(f"its extent is {m.extent}: means of windows at a stride have no kernel")
    return _channel_gate(m) if _is_channel_gate(m) else _product(m)
