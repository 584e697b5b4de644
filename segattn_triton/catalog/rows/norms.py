"""The rows of gates with a norm over the batch, each from its row without one.

What is true of an image whatever is beside it is not true of these: see `Op.over_batch`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from ... import flops, functional, modules, reference
from ..passes import attention_gate_passes
from ..row import Case, Op

BISENET_TRAINING = (  # CoinCheung's BiSeNetV1, 8 crops of 1024 x 1024 a GPU
    Case("bisenetv1-arm16-1024", 8, 128, (64, 64), 128),
    Case("bisenetv1-ffm-1024", 8, 256, (128, 128), 256),
)
REXNET_TRAINING = (  # timm's rexnet_100 at 512 x 512
    Case("rexnet100-stage3", 16, 228, (64, 64), 19),
    Case("rexnet100-stage6", 16, 1044, (16, 16), 87),
)

LITE_HRNET_TRAINING = (  # PaddleSeg's Lite-HRNet-18 at 512 x 1024, half of the channels of its second and last branch
    Case("litehrnet18-branch2-512x1024", 8, 40, (64, 128), 10),
    Case("litehrnet18-branch4-512x1024", 8, 160, (16, 32), 40),
)

_FIRST = {"x": "N C *S", "w1": "Cr Cs", "b1?": "Cr", "norm_weight": "Cr", "norm_bias?": "Cr"}
IN_A_GATE = "a checkpoint has a batch norm in its gate"
_WINDOW = {"norm_weight": "1", "norm_bias?": "1"}


def with_norms(rows: Mapping[str, Op]) -> tuple[Op, ...]:
    names = "squeeze_excite", "cbam_spatial_gate", "cbam", "attention_gate", "coordinate_attention"
    excite, window, both, additive, coordinate = (rows[name] for name in names)
    return (
        replace(
            excite,
            name="squeeze_excite_norm",
            op=functional.squeeze_excite_norm,
            reference=reference.squeeze_excite_norm,
            inputs={**_FIRST, "w2": "C Cr", "b2?": "C", "source?": "N Cs *T", "shortcut?": "N C *S"},
            parameters={**excite.parameters, "norm_weight": "bn.weight", "norm_bias": "bn.bias"},
            options={**excite.options, "pool": ("avg", "max", "avgmax")},
            flops=flops.squeeze_excite_norm,
            fixed={**excite.fixed, "norm": True},
            fewest=2,
            equation="y = out_act(x * gate(W2 act(norm(W1 pool(source) + b1)) + b2) + shortcut)",
            use=f"{IN_A_GATE}: ReXNet in training",
            paper="Han et al. 2021, arXiv:2007.00992 (ReXNet)",
            cases=REXNET_TRAINING,
        ),
        replace(
            excite,
            name="squeeze_excite_norms",
            op=functional.squeeze_excite_norms,
            reference=reference.squeeze_excite_norms,
            inputs={
                **{"x": "N C *S", "w1": "Cr Cs", "b1?": "Cr", "norm_weight1": "Cr", "norm_bias1?": "Cr"},
                **{"w2": "C Cr", "b2?": "C", "norm_weight2": "C", "norm_bias2?": "C"},
                **{"source?": "N Cs *T", "shortcut?": "N C *S"},
            },
            parameters={
                **{**excite.parameters, "norm_weight1": "bn.weight", "norm_bias1": "bn.bias"},
                **{"norm_weight2": "bn2.weight", "norm_bias2": "bn2.bias"},
            },
            options={**excite.options, "pool": ("avg", "max", "avgmax")},
            flops=flops.squeeze_excite_norms,
            fixed={**excite.fixed, "norm": True, "last_norm": True},
            fewest=2,
            equation="y = out_act(x * gate(norm(W2 act(norm(W1 pool(source) + b1)) + b2)) + shortcut)",
            use=f"{IN_A_GATE}, behind both layers: PaddleSeg's Lite-HRNet in training",
            paper="Yu et al. 2021, arXiv:2104.06403 (Lite-HRNet)",
            cases=LITE_HRNET_TRAINING,
        ),
        replace(
            excite,
            name="effective_se_norm",
            op=functional.squeeze_excite_norm,
            reference=reference.squeeze_excite_norm,
            module=modules.EffectiveSE,
            inputs={**_FIRST, "w1": "C C", "b1?": "C", "norm_weight": "C", "norm_bias?": "C"},
            parameters={"w1": "fc.weight", "b1": "fc.bias", "norm_weight": "bn.weight", "norm_bias": "bn.bias"},
            options={"gate": excite.options["gate"]},
            flops=flops.squeeze_excite_norm,
            passes=(3, 4),
            fixed={"gate": "sigmoid", "norm": True},
            fewest=2,
            equation="y = x * gate(norm(W1 pool(x) + b1))",
            attends_to="channels, by what the whole image holds, without a bottleneck",
            use=f"{IN_A_GATE}: BiSeNet's and STDC's branches in training",
            paper="Yu et al. 2018, arXiv:1808.00897 (BiSeNet's ARM)",
            cases=BISENET_TRAINING,
        ),
        replace(
            window,
            name="cbam_spatial_gate_norm",
            inputs={**window.inputs, **_WINDOW},
            parameters={**window.parameters, "norm_weight": "bn.weight", "norm_bias": "bn.bias"},
            fixed={**window.fixed, "norm": True},
            equation="y = x * gate(norm(conv_kxk(max_c x, mean_c x) + b))",
            use=f"{IN_A_GATE}: the authors' and timm's in training",
            cases=window.cases[:1],
        ),
        replace(
            both,
            name="cbam_norm",
            inputs={**both.inputs, **_WINDOW},
            parameters={
                **both.parameters,
                **{"norm_weight": "spatial.bn.weight", "norm_bias": "spatial.bn.bias"},
            },
            fixed={**both.fixed, "norm": True},
            equation="y = x' * gate(norm(conv_kxk(max_c x', mean_c x') + b)), x' as of cbam",
            use=f"{IN_A_GATE}: the authors' and timm's in training",
            cases=both.cases[:1],
        ),
        replace(
            coordinate,
            name="coordinate_attention_norm",
            inputs={**coordinate.inputs, "norm_weight": "Cr", "norm_bias?": "Cr"},
            parameters={**coordinate.parameters, "norm_weight": "bn1.weight", "norm_bias": "bn1.bias"},
            fixed={**coordinate.fixed, "norm": True},
            equation="y = x * gate(W_h a_h + b_h) * gate(W_w a_w + b_w), a = act(norm(W1 v + b1)), v as without a norm",
            use=f"{IN_A_GATE}: the authors' in training",
            cases=coordinate.cases[:1],
        ),
        replace(
            additive,
            name="attention_gate_norm",
            op=functional.attention_gate_norm,
            reference=reference.attention_gate_norm,
            inputs={**additive.inputs, "norm_x?": "Cr", "norm_g?": "Cr", "norm_psi?": "1"},
            parameters={
                **{"wx": "W_x.0.weight", "wg": "W_g.0.weight", "b": "W_g.1.bias", "weight": "psi.0.weight"},
                **{"bias": "psi.1.bias", "norm_x": "W_x.1.weight", "norm_g": "W_g.1.weight"},
                "norm_psi": "psi.1.weight",
            },
            flops=flops.attention_gate_norm,
            passes=(6, 8),
            passes_of=partial(attention_gate_passes, norms=True),
            fixed={"bias": False},
            equation="y = x * gate(norm(<w, relu(norm(Wx x_p) + norm(Wg g_p) + b)>) + c)",
            use=f"{IN_A_GATE}: Attention U-Net in training",
            cases=additive.cases[3:],
        ),
    )
