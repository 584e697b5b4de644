"""The operations with a norm over the batch. Their images depend on each other, so that they are rows by themselves:
what tests say of one image, and of an image among others, is true of `rows.ROWS` alone.
"""

from dataclasses import replace

from .. import flops, functional, modules, reference
from .row import Case
from .windows import BY_NAME

BISENET_TRAINING = (  # CoinCheung's BiSeNetV1, 8 crops of 1024 x 1024 a GPU
    Case("bisenetv1-arm16-1024", 8, 128, (64, 64), 128),
    Case("bisenetv1-ffm-1024", 8, 256, (128, 128), 256),
)
REXNET_TRAINING = (  # timm's rexnet_100 at 512 x 512
    Case("rexnet100-stage3", 16, 228, (64, 64), 19),
    Case("rexnet100-stage6", 16, 1044, (16, 16), 87),
)

_SE, _CBAM, _SPATIAL = (BY_NAME[name] for name in ("squeeze_excite", "cbam", "cbam_spatial_gate"))
_FIRST = {"x": "N C *S", "w1": "Cr Cs", "b1?": "Cr", "norm_weight": "Cr", "norm_bias?": "Cr"}
_WINDOW = {"norm_weight": "1", "norm_bias?": "1"}

NORMED = (
    replace(
        _SE,
        name="squeeze_excite_norm",
        op=functional.squeeze_excite_norm,
        reference=reference.squeeze_excite_norm,
        inputs={**_FIRST, "w2": "C Cr", "b2?": "C", "source?": "N Cs *T", "shortcut?": "N C *S"},
        parameters={**_SE.parameters, "norm_weight": "bn.weight", "norm_bias": "bn.bias"},
        options={**_SE.options, "pool": ("avg", "max", "avgmax")},
        flops=flops.squeeze_excite_norm,
        fixed={**_SE.fixed, "norm": True},
        equation="y = out_act(x * gate(W2 act(norm(W1 pool(source) + b1)) + b2) + shortcut)",
        paper="Han et al. 2021, arXiv:2007.00992 (ReXNet)",
        cases=REXNET_TRAINING,
    ),
    replace(
        _SE,
        name="effective_se_norm",
        op=functional.squeeze_excite_norm,
        reference=reference.squeeze_excite_norm,
        module=modules.EffectiveSE,
        inputs={**_FIRST, "w1": "C C", "b1?": "C", "norm_weight": "C", "norm_bias?": "C"},
        parameters={"w1": "fc.weight", "b1": "fc.bias", "norm_weight": "bn.weight", "norm_bias": "bn.bias"},
        options={"gate": _SE.options["gate"]},
        flops=flops.squeeze_excite_norm,
        passes=(3, 4),
        fixed={"gate": "sigmoid", "norm": True},
        equation="y = x * gate(norm(W1 pool(x) + b1))",
        paper="Yu et al. 2018, arXiv:1808.00897 (BiSeNet's ARM)",
        cases=BISENET_TRAINING,
    ),
    replace(
        _SPATIAL,
        name="cbam_spatial_gate_norm",
        inputs={**_SPATIAL.inputs, **_WINDOW},
        fixed={"kernel_size": 3},
        cases=_SPATIAL.cases[:1],
    ),
    replace(
        _CBAM,
        name="cbam_norm",
        inputs={**_CBAM.inputs, **_WINDOW},
        fixed={"reduction": 2, "kernel_size": 3},
        cases=_CBAM.cases[:1],
    ),
)
