"""Gates of rows and of columns."""

from ... import flops, functional, modules, reference
from ...reference.activations import ACTS, GATES
from ..row import Case, Op, Sizes
from .shared import MAP

COORDINATE = (  # the authors' MobileNetV2 at 512 x 512; YOLOv5s with it at 640 x 640
    Case("mobilenetv2-ca-stage2", 8, 144, (128, 128), 8),
    Case("mobilenetv2-ca-stage4", 8, 384, (32, 32), 12),
    Case("yolov5s-ca-p3-640", 1, 128, (80, 80), 8),
)


def _strips(sizes: Sizes) -> Sizes:
    """What stands for the rows, and for the columns."""
    H, W = sizes["S"]
    return {"U": (H, 1), "V": (1, W)}


ROWS = (
    Op(
        name="strip_gate",
        op=functional.strip_gate,
        reference=reference.strip_gate,
        inputs={"x": MAP, "z_h": "N C *U", "z_w": "N C *V"},
        parameters={},
        outputs={"y": MAP, "map": MAP},
        options={"combine": ("product", "sum"), "gate": GATES},
        flops=flops.strip_gate,
        passes=(2, 3),
        gates=2,
        derived=_strips,
        equation="y = x * gate(z_h) * gate(z_w)",
        attends_to="rows and columns of every channel, by whatever the logits come from",
        use="a network makes the logits itself, of the means of rows and columns: ELA, StripAttn",
        paper="Hou et al. 2021, arXiv:2103.02907, its last step; Xu and Wan 2024, arXiv:2403.01123 (ELA)",
        cases=COORDINATE,
    ),
    Op(
        name="coordinate_attention",
        op=functional.coordinate_attention,
        reference=reference.coordinate_attention,
        module=modules.CoordinateAttention,
        inputs={
            **{"x": MAP, "w1": "Cr C", "b1?": "Cr", "w_h": "C Cr", "b_h?": "C", "w_w": "C Cr", "b_w?": "C"},
        },
        parameters={
            **{"w1": "conv1.weight", "b1": "conv1.bias", "w_h": "conv_h.weight", "b_h": "conv_h.bias"},
            **{"w_w": "conv_w.weight", "b_w": "conv_w.bias"},
        },
        outputs={"y": MAP, "map": MAP},
        options={
            "combine": ("product", "sum"),
            "act": tuple(sorted(ACTS, key="hardswish".__ne__)),
            "gate": GATES,
        },
        flops=flops.coordinate_attention,
        passes=(3, 4),
        gates=2,
        fixed={"reduction": 2, "least": 1, "norm": False},
        equation="y = x * gate(W_h a_h + b_h) * gate(W_w a_w + b_w), a = act(W1 v + b1), v means of rows and columns",
        attends_to="rows and columns of every channel, by what they hold",
        use="as the channel gate where it matters where along each axis things are: mobile encoders, detectors",
        paper="Hou et al. 2021, arXiv:2103.02907 (coordinate attention)",
        cases=COORDINATE,
    ),
)
