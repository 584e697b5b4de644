"""Values by their 3x3 surroundings."""

from ... import flops, functional, modules, reference
from ...reference.activations import GATES
from ..row import Case, Op
from .shared import MAP, TIES

LOCAL = (
    Case("segnext-t-stage1", 8, 32, (128, 128)),
    Case("segnext-t-stage2", 8, 64, (64, 64)),
    Case("pidnet-s-pag", 1, 64, (128, 256)),
    Case("bisenetv2-bga", 1, 128, (64, 128)),
    Case("convnextv2-t-stage1", 8, 384, (128, 128)),
)

ROWS = (
    Op(
        name="local_gate",
        op=functional.local_gate,
        reference=reference.local_gate,
        module=modules.LocalAttention,
        inputs={"x": MAP, "weight": "C C 3 3", "bias?": "C"},
        parameters={"weight": "conv.weight", "bias": "conv.bias"},
        outputs={"y": MAP, "map": MAP},
        options={"gate": GATES},
        flops=flops.local_gate,
        passes=(2, 12),
        rounding_points=("z", "dz", "dgate_x", "dconv_x", "conv_weight", "dconv_weight"),
        equation="y = x * gate(conv3x3(x) + b)",
        attends_to="single values, by all channels of their 3x3 surroundings",
        use="surroundings decide and the cost of a full convolution is acceptable: few channels, late stages",
        paper="the convolution gate of segmentation tutorials",
        cases=LOCAL,
    ),
    Op(
        name="local_gate_depthwise",
        op=functional.local_gate,
        reference=reference.local_gate,
        module=modules.LocalAttention,
        inputs={"x": MAP, "weight": "C 1 3 3", "bias?": "C"},
        parameters={"weight": "conv.weight", "bias": "conv.bias"},
        outputs={"y": MAP, "map": MAP},
        options={"gate": GATES},
        flops=flops.local_gate,
        passes=(2, 3),
        fixed={"depthwise": True},
        equation="y = x * gate(depthwise conv3x3(x) + b)",
        attends_to="single values, by their own channel's 3x3 surroundings",
        use="surroundings decide and every channel can decide alone: large maps, many channels",
        paper="the same with a depthwise convolution, as in SegNeXt, arXiv:2209.08575",
        cases=LOCAL,
    ),
    Op(
        name="local_pool_gate",
        op=functional.local_pool_gate,
        reference=reference.local_pool_gate,
        module=modules.LocalPoolAttention,
        inputs={"x": MAP},
        parameters={},
        outputs={"y": MAP, "map": MAP},
        options={"pool": ("avg", "max"), "gate": GATES, "ties": TIES},
        flops=flops.local_pool_gate,
        passes=(2, 3),
        equation="y = x * gate(pool3x3(x))",
        attends_to="single values, by the mean or peak of their 3x3 surroundings",
        use="as the depthwise local gate, without any parameter",
        paper="the pooling gate of segmentation tutorials",
        cases=LOCAL,
    ),
)
