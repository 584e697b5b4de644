"""Checkpoints of other libraries' gates for the modules here, and back: the same tensors by other names.

A family is how a library names the layers of a gate, in the order in which the gate applies them.
"""

import itertools
from collections.abc import Mapping

from torch import Tensor, nn

from . import CBAM, ECA, SCSE, AttentionGate, ChannelAttention, EffectiveSE, SpatialAttention, SqueezeExcite

TWO_LAYERS = {
    "monai": ("fc.0", "fc.2"),  # also CGNet and the many copies of the first public listing
    "timm": ("fc1", "fc2"),  # also torchvision, SENet of timm and smp, nnU-Net, pytorch-3dunet
    "timm_efficientnet": ("conv_reduce", "conv_expand"),
    "smp_efficientnet": ("_se_reduce", "_se_expand"),
    "smp_mobileone": ("reduce", "expand"),
    "mmseg": ("conv1.conv", "conv2.conv"),  # also mmpretrain
    "sequential": ("se.1", "se.3"),  # pool, layer, activation, layer, gate in one nn.Sequential
    "catalyst": ("linear1", "linear2"),
    "catalyst_old": ("linear_1", "linear_2"),
}
TWO_LAYERS_AND_NORM = {
    "timm": ("fc1", "bn", "fc2"),
}
ONE_LAYER = {
    "timm": ("fc",),  # also ultralytics
    "timm_hgnet": ("conv",),
    "torchvision_lraspp": ("scale.1",),
    "parnet": ("sse.1",),
}
ONE_LAYER_AND_NORM = {
    "own": ("fc", "bn"),
    "mmseg_arm": ("atten_conv_layer.1.conv", "atten_conv_layer.1.bn"),
    "mmseg_ffm": ("conv_atten.0.conv", "conv_atten.0.bn"),
    "mmseg_stdc_arm": ("conv_attn.conv", "conv_attn.bn"),
    "bisenet_arm": ("conv_atten", "bn_atten"),
    "bisenet_ffm": ("conv", "bn"),
}
CHANNEL_AND_PIXEL = {
    "smp": ("cSE.1", "cSE.3", "sSE.0"),
    "quicknat": ("cSE.fc1", "cSE.fc2", "sSE.conv"),  # also pytorch-3dunet
    "toolbelt": ("spatial_gate.squeeze", "spatial_gate.expand", "channel_gate.squeeze"),  # where names say the opposite
}
CHANNEL_THEN_PIXEL = {  # the order of the two maps is the module's option: see `CBAM`
    "own": ("channel.fc1", "channel.fc2", "spatial.conv"),
    "external_attention": ("ca.se.0", "ca.se.2", "sa.conv"),
}
CHANNEL_THEN_PIXEL_AND_NORM = {
    "timm": ("channel.fc1", "channel.fc2", "spatial.conv.conv", "spatial.conv.bn"),
    "cbam": ("ChannelGate.mlp.1", "ChannelGate.mlp.3", "SpatialGate.spatial.conv", "SpatialGate.spatial.bn"),
    "own": ("channel.fc1", "channel.fc2", "spatial.conv", "spatial.bn"),
}
ONE_LAYER_THEN_PIXEL = {
    "ultralytics": ("channel_attention.fc", "spatial_attention.cv1"),
    "own": ("channel.fc1", "spatial.conv"),
}
PIXEL = {
    "own": ("conv",),  # also QuickNAT and pytorch-3dunet
    "smp": ("sSE.0",),
    "toolbelt": ("squeeze",),
}
SKIP = {  # the norms that a gate leaves out are left out of its family
    "own": ("W_g.0", "W_g.1", "W_x.0", "W_x.1", "psi.0", "psi.1"),  # also LeeJunHyun and PaddleSeg
    "monai_attention": ("W_g.0.conv", "W_g.1", "W_x.0.conv", "W_x.1", "psi.0.conv", "psi.1"),
}
BAND = {
    "timm": ("conv",),  # also the authors' ECA
}
MADE = {  # the table of families -> the modules that come in them
    "SqueezeExcite, ChannelAttention": TWO_LAYERS,
    "SqueezeExcite(norm=True)": TWO_LAYERS_AND_NORM,
    "EffectiveSE(norm=True)": ONE_LAYER_AND_NORM,
    "EffectiveSE": ONE_LAYER,
    "SCSE": CHANNEL_AND_PIXEL,
    "CBAM(norm=True)": CHANNEL_THEN_PIXEL_AND_NORM,
    "CBAM(norm=False)": CHANNEL_THEN_PIXEL,
    "CBAM(hidden=0)": ONE_LAYER_THEN_PIXEL,
    "AttentionGate": SKIP,
}
LINEAR = {
    "monai",
    "catalyst",
    "catalyst_old",
    "quicknat",
    "cbam",
}  # weights (out, in), those of the pixels' gate excepted
TENSORS = {name: name for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
TENSORS |= {"_mean": "running_mean", "_variance": "running_var"}  # Paddle's names
Family = tuple[str, ...]


def _families(module: nn.Module) -> tuple[dict[str, Family], Family] | None:
    """The key families of one of our gates, and its own layers."""
    if isinstance(module, EffectiveSE):
        return (ONE_LAYER, ("fc",)) if module.bn is None else (ONE_LAYER_AND_NORM, ("fc", "bn"))
    if isinstance(module, SqueezeExcite) and module.bn is not None:
        return TWO_LAYERS_AND_NORM, TWO_LAYERS_AND_NORM["timm"]
    if isinstance(module, CBAM):
        tables = CHANNEL_THEN_PIXEL if module.spatial.bn is None else CHANNEL_THEN_PIXEL_AND_NORM
        tables = ONE_LAYER_THEN_PIXEL if module.channel.fc2 is None else tables
        return tables, tables["own"]
    if isinstance(module, AttentionGate):
        there = [hasattr(module.get_submodule(layer[:-2]), layer[-1]) for layer in SKIP["own"]]
        tables = {name: tuple(itertools.compress(layers, there)) for name, layers in SKIP.items()}
        return tables, tables["own"]
    kinds = {
        ChannelAttention: (TWO_LAYERS, TWO_LAYERS["monai"]),
        SqueezeExcite: (TWO_LAYERS, TWO_LAYERS["timm"]),
        SCSE: (CHANNEL_AND_PIXEL, CHANNEL_AND_PIXEL["smp"]),
        SpatialAttention: (PIXEL, PIXEL["own"]),
        ECA: (BAND, BAND["timm"]),
    }
    return kinds.get(type(module))


def convert_state_dict(state_dict: Mapping[str, Tensor], module: nn.Module, to: str | None = None) -> dict[str, Tensor]:
    """The state_dict with the keys and shapes of `module`: gate.load_state_dict(convert_state_dict(theirs, gate)).

    module is a gate of segattn_triton or a model that holds some; where each stands, the keys of any known family are
    found and renamed, and weights of a Linear (Cr, C) and of a 1x1 convolution (Cr, C, 1, 1) reshaped to each other.
    Other keys and values pass as they are; values are shared, not copied. With `to`, the way back: a state_dict of
    `module` with the keys and shapes of that family; gates that do not come in that family keep
    their keys. Only names and shapes change: reduction, activations and gate are the module's options.
    Errors: TypeError for no module; ValueError for a module without gates that have families, for an unknown family,
    for a tensor of another size than the module's, naming the key, and for a checkpoint of another gate or with other
    biases, naming the module that it fits.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, expected a torch.nn.Module")
    gates_at = dict(module.named_modules())
    gates = {path: found for path, m in gates_at.items() if (found := _families(m)) is not None}
    if not gates:
        raise ValueError(f"module: {type(module).__name__} holds no gate of segattn_triton that comes in families")
    known = sorted({name for families, _ in gates.values() for name in families})
    if to is not None and to not in known:
        raise ValueError(f"to: got {to!r}, expected one of {', '.join(map(repr, known))}")
    wanted, converted = module.state_dict(), dict(state_dict)
    for path, (families, own) in gates.items():
        prefix = f"{path}." if path else ""
        source = own if to else _family_in(converted, prefix, families, own)
        target = families.get(to, own) if to else own
        for theirs, ours in zip(source, target, strict=True):
            _rename(converted, f"{prefix}{theirs}.", f"{prefix}{ours}.", wanted, to in LINEAR and ours != "sSE.conv")
        if not to:
            _check_biases(converted, prefix, own, wanted, type(gates_at[path]).__name__)
    return converted


def _family_in(state_dict: Mapping[str, Tensor], prefix: str, families: dict[str, Family], own: Family) -> Family:
    """The layers whose weights are all there; the gate's own, where no family's are."""
    for layers in (own, *families.values()):
        if _has(state_dict, prefix, layers):
            return layers
    for made, others in MADE.items():
        for layers in others.values():
            if _has(state_dict, prefix, layers):
                names = " and ".join(f"{prefix}{layer}.weight" for layer in layers)
                raise ValueError(f"state_dict: {names} are not of this gate, expected another module: {made}")
    return own


def _has(state_dict: Mapping[str, Tensor], prefix: str, layers: Family) -> bool:
    return all(f"{prefix}{layer}.weight" in state_dict for layer in layers)


def _check_biases(state_dict: Mapping, prefix: str, own: Family, wanted: Mapping, made: str) -> None:
    """A gate has as many biases as its checkpoint."""
    for layer in own:
        key = f"{prefix}{layer}.bias"
        if f"{prefix}{layer}.weight" in state_dict and (key in state_dict) != (key in wanted):
            there = key in state_dict
            raise ValueError(
                f"{key}: {'given' if there else 'missing'} in the checkpoint, expected a gate made with the same "
                f"biases: {made}(..., bias={there})"
            )


def _rename(state_dict: dict, source: str, target: str, wanted: Mapping[str, Tensor], linear: bool) -> None:
    """In place: the tensors of one layer, in the shape of the module's, or of a Linear or a 1x1 convolution."""
    for theirs, name in TENSORS.items():
        if f"{source}{theirs}" not in state_dict:
            continue
        value, like = state_dict.pop(f"{source}{theirs}"), wanted.get(f"{target}{name}")
        if like is not None and like.numel() != value.numel():
            raise ValueError(
                f"{source}{theirs}: got shape {tuple(value.shape)}, expected as many values as {tuple(like.shape)}"
            )
        if like is not None:
            value = value.reshape(like.shape)
        elif value.dim() >= 2 and value.shape[2:].numel() == 1:
            value = value.reshape(*value.shape[:2], *[1] * (0 if linear else 2))
        state_dict[f"{target}{name}"] = value
