"""Gates of a channel by the whole image."""

from ... import flops, functional, modules, reference
from ...reference.activations import ACTS, GATES, OUT_ACTS
from ..row import Case, Op
from .shared import BISENET, MAP, SE_NETS, TIES, UNET, VOLUME

SE = (Case("pan-gau-512", 8, 32, (128, 128), 32),)
ONE_LAYER = (
    Case("ese-vovnet39b-stage2", 8, 256, (128, 128)),
    Case("ese-vovnet39b-stage5", 8, 1024, (16, 16)),
)

ROWS = (
    Op(
        name="channel_gate",
        op=functional.channel_gate,
        reference=reference.channel_gate,
        module=modules.ChannelAttention,
        inputs={"x": MAP, "w1": "Cr C", "b1?": "Cr", "w2": "C Cr", "b2?": "C"},
        parameters={"w1": "fc.0.weight", "b1": "fc.0.bias", "w2": "fc.2.weight", "b2": "fc.2.bias"},
        outputs={"y": MAP, "map": "N C"},
        options={"pool": ("avg", "max", "avgmax"), "act": ACTS, "gate": GATES, "ties": TIES},
        flops=flops.squeeze_excite,
        passes=(3, 4),
        dims=(1, 2, 3),
        equation="y = x * gate(W2 act(W1 pool(x) + b1) + b2)",
        attends_to="channels, by what the whole image holds",
        use="which channels matter depends on the whole image: encoder stages, fusion of branches",
        paper="Hu et al. 2018, arXiv:1709.01507 (SE)",
        cases=UNET + SE_NETS + BISENET + VOLUME,
    ),
    Op(
        name="squeeze_excite",
        op=functional.squeeze_excite,
        reference=reference.squeeze_excite,
        module=modules.SqueezeExcite,
        inputs={
            **{"x": MAP, "w1": "Cr Cs", "b1?": "Cr", "w2": "C Cr", "b2?": "C"},
            **{"source?": "N Cs *T", "shortcut?": MAP},
        },
        parameters={"w1": "fc1.weight", "b1": "fc1.bias", "w2": "fc2.weight", "b2": "fc2.bias"},
        outputs={"y": MAP, "map": "N C"},
        options={
            **{"pool": ("avg", "max", "avgmax", "avg+max"), "act": ACTS, "gate": GATES},
            **{"out_act": OUT_ACTS, "ties": TIES},
        },
        flops=flops.squeeze_excite,
        passes=(4, 4),
        dims=(1, 2, 3),
        fixed={"rule": "monai", "reduction": 2},
        derived=lambda sizes: {"Cs": sizes["C"], "T": sizes["S"]},
        equation="y = out_act(x * gate(W2 act(W1 pool(source) + b1) + b2) + shortcut)",
        attends_to="channels, by what the whole image holds, of the map itself or of another one",
        use="a checkpoint has such gates; a residual block ends with one; one branch of a decoder weights another",
        paper="Hu et al. 2018, arXiv:1709.01507 (SE); Li et al. 2018, arXiv:1805.10180 (PAN)",
        cases=SE + SE_NETS + VOLUME,
    ),
    Op(
        name="effective_se",
        op=functional.channel_gate,
        reference=reference.channel_gate,
        module=modules.EffectiveSE,
        inputs={"x": MAP, "w1": "C C", "b1?": "C"},
        parameters={"w1": "fc.weight", "b1": "fc.bias"},
        outputs={"y": MAP, "map": "N C"},
        options={"gate": GATES},
        flops=flops.squeeze_excite,
        passes=(3, 4),
        dims=(1, 2, 3),
        fixed={"gate": "sigmoid"},
        equation="y = x * gate(W1 pool(x) + b1)",
        attends_to="channels, by what the whole image holds, without a bottleneck",
        use="as the channel gate where channels are few, and on the branches of BiSeNet",
        paper="Lee and Park 2020, arXiv:1911.06667 (eSE); Yu et al. 2018, arXiv:1808.00897 (ARM)",
        cases=ONE_LAYER + BISENET,
    ),
)
