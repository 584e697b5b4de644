"""docs/models.md: the gates of models that people use, taken and left; `python tests/support/model_table.py` writes it.

The models are made without values, on the meta device, where their library can; nothing is downloaded.
"""

import functools
import importlib
import importlib.metadata
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

import segattn_triton as sat
from segattn_triton.perf.torchvision_cpu import install

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LIBRARIES = ("segmentation-models-pytorch", "torchvision", "timm", "monai")
SMP = """
Unet("resnet34", decoder_attention_type="scse")
UnetPlusPlus("resnet34", decoder_attention_type="scse")
Unet("se_resnet50", decoder_attention_type="scse")
Unet("se_resnext50_32x4d")
Unet("senet154")
Unet("efficientnet-b0")
Unet("mobileone_s4")
Unet("tu-efficientnet_b0", decoder_attention_type="scse")
Unet("tu-resnest14d")
MAnet("resnet34")
MAnet("se_resnet50")
PAN("resnet34")
PAN("efficientnet-b0")
DeepLabV3Plus("tu-regnety_002")
FPN("tu-mobilenetv3_large_100")
UPerNet("tu-convnextv2_atto")
Unet("resnet34")
"""
TORCHVISION = """
segmentation.lraspp_mobilenet_v3_large
segmentation.deeplabv3_mobilenet_v3_large
segmentation.deeplabv3_resnet50
mobilenet_v3_small
efficientnet_b0
efficientnet_v2_s
regnet_y_400mf
maxvit_t
"""
TIMM = """
seresnet50 legacy_senet154 seresnext50_32x4d seresnextaa101d_32x8d resnetrs50 ecaresnet50d eca_nfnet_l0 nfnet_f0
efficientnet_b0 tf_efficientnetv2_s mixnet_s tinynet_a mobilenetv3_large_100 fbnetv3_b lcnet_050 ghostnet_100
repghostnet_050 regnety_002 regnetz_b16 tresnet_m cs3se_edgenet_x maxvit_tiny_tf_224 coatnet_0_224 fastvit_t8 repvit_m1
efficientvit_m0 shvit_s1 ese_vovnet39b hgnet_tiny rdnet_tiny gcvit_xxtiny rexnet_100 gcresnet50t resnest14d skresnet18
convnext_tiny convnextv2_tiny swin_tiny_patch4_window7_224
"""
MONAI = """
SEResNet50(spatial_dims=2, in_channels=3)
SEResNet50(spatial_dims=3, in_channels=1)
SEResNext50(spatial_dims=3, in_channels=1)
SENet154(spatial_dims=3, in_channels=1)
Quicknat(se_block="CSE")
FlexibleUNet(in_channels=3, out_channels=2, backbone="efficientnet-b0")
EfficientNetBN("efficientnet-b0", spatial_dims=3, in_channels=1)
AttentionUnet(spatial_dims=3, in_channels=1, out_channels=2, channels=(8, 16, 32, 64), strides=(2, 2, 2))
BasicUNet()
"""
INTRODUCTION = """# Models and their gates

What `accelerate` takes of a model, by the function of `segattn_triton.functional` that runs it, and what it leaves.
"+ shortcut, act" ends a residual block in the same kernel. A gate that is left runs as before; its reason, which
`acceleration_report` gives gate by gate, says what would help. Written by `python tests/support/model_table.py`; a test
fails where the table is not what the installed libraries give.
"""
NOTES = """
## Copies

SE, ECA, sSE, scSE, CBAM and its halves of any class are known by the graph of their forward, whatever their names,
order and reshapes, linear layers or convolutions, modules or functions, `torch.max` or `amax`; `by` in the report
says "structure". CBAM is the gate of the channels, then that of the pixels of what it leaves, with a residual or
without; both share the gradients of ties in one way; light CBAM, half the sum of the mean and the maximum, is known,
too. Batch norms behind the layers of SE, either or both, are those of the batch in training; one that two pools go
through is folded in eval, and runs as it is in training. The attention gate takes two maps in either order,
by place or by name; which one is weighted the graph says. Left, with the reason, is a forward that takes more maps or
returns more than one, reads `self.training`, a global that can change inside or a switch of torch's, keeps state,
prints, imports, draws random numbers, branches on values or sizes, switches gradients or autocast, writes into the
map, calls a function of its own, reads a tensor beside its layers, asks for parameters or catches errors, or has a
layer with dropout or a norm elsewhere. Where an attribute, method or global that the forward read changes later, one
that was missing is there, or a layer or pool gets other strides, paddings or sizes, the own forward runs.
`accelerate(model, by_structure=False)` takes known classes only; `register_adapter` comes before both.

## Costs

What a gate costs, in passes over a map of its block, forward:

- MAnet's block multiplies a map by the sum of two gates. It runs as two gates, 7 passes where its own forward makes 4,
  in half of its launches; backward the traffic is the same. On large maps and many images measure before you keep it:
  `accelerate(model, filter_fn=lambda module, name: type(module).__name__ != "MFABBlock")` leaves it.
- PAN's vector goes through a batch norm, which is part of its gate: one call, the sum included, 3 passes in place of 5.
  The same holds of BiSeNetV1 and STDC, mmsegmentation's and CoinCheung's; with a SyncBatchNorm the layers of the vector
  run as they are, and the product and the sum are one kernel. LRASPP's gate is one kernel over the high map.
- timm's CBAM has a batch norm behind its convolution. It is one call, 4 passes, in training, where the norm is that
  of the batch, and in eval where no gradient of the norm is wanted; where it is, a folded norm's would be a sum that
  cancels, so that the half of the channels runs on the kernels, and that of the pixels as it is.
"""


def _smp() -> dict[str, Callable[[], nn.Module]]:
    import segmentation_models_pytorch as smp

    names = {name: functools.partial(made, encoder_weights=None) for name, made in vars(smp).items() if callable(made)}
    return {line: functools.partial(eval, line, names) for line in SMP.split("\n") if line}


def _torchvision() -> dict[str, Callable[[], nn.Module]]:
    def made(name: str) -> nn.Module:
        home, _, function = f"torchvision.models.{name}".rpartition(".")
        backbone = {"weights_backbone": None} if "segmentation" in name else {}
        return getattr(importlib.import_module(home), function)(weights=None, **backbone)

    return {name: functools.partial(made, name) for name in TORCHVISION.split()}


def _timm() -> dict[str, Callable[[], nn.Module]]:
    import timm

    made = {name: functools.partial(timm.create_model, name) for name in TIMM.split()}
    for layer in ("cbam", "lcbam"):
        options = dict(attn_layer=layer)
        name = f'resnet18, block_args=dict(attn_layer="{layer}")'
        made[name] = functools.partial(timm.create_model, "resnet18", block_args=options)
    return made


def _monai() -> dict[str, Callable[[], nn.Module]]:
    from monai.networks import nets

    return {line: functools.partial(eval, line, vars(nets)) for line in MONAI.split("\n") if line}


def _without_values(make: Callable[[], nn.Module]) -> nn.Module:
    try:
        with torch.device("meta"):
            return make()
    except (RuntimeError, NotImplementedError):  # it computes with values while it is made
        return make()


def _counted(rows: Counter) -> str:
    return "; ".join(f"{number} {what}" for what, number in sorted(rows.items()))


def row(name: str, model: nn.Module) -> str:
    report = sat.acceleration_report(sat.accelerate(model, verbose=False))
    taken = Counter(gate.kernel for gate in report if gate.status == "accelerated")
    left = Counter(f"`{gate.cls.rpartition('.')[2]}`: {gate.reason}" for gate in report if gate.status == "left")
    return f"| `{name}` | {_counted(taken) or 'none'} | {_counted(left) or '' if report else 'it has none'} |"


def versions() -> str:
    return "Counted with " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES) + "."


def lines() -> Iterator[str]:
    install()
    yield from INTRODUCTION.splitlines()
    yield from ("", versions())
    for title, makers in zip(LIBRARIES, (_smp(), _torchvision(), _timm(), _monai()), strict=True):
        yield from ("", f"## {title}", "", "| model | taken | left |", "| --- | --- | --- |")
        for name, make in makers.items():
            yield row(name, _without_values(make))
    yield from NOTES.splitlines()


def taken(page: str) -> dict[str, int]:
    """Model -> how many of its gates a page says are taken."""
    rows = re.findall(r"^\| `(.+?)` \| (.*?) \|", page, re.M)
    return {name: sum(map(int, re.findall(r"(?:^|; )(\d+) ", cell))) for name, cell in rows}


if __name__ == "__main__":
    PAGE.write_text("\n".join(lines()) + "\n")
