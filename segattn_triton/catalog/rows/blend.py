"""Products and blends by logits that are given."""

import math

from ... import flops, functional, reference
from ...reference.activations import GATES, OUT_ACTS
from ..row import Case, Op, Sizes
from .shared import MAP, PIXEL_MAP

PRODUCTS = (  # SegNeXt and VAN at 512 x 512, BiSeNetV2 at 1024 x 2048
    Case("segnext-t-msca-stage1", 8, 32, (128, 128)),
    Case("van-b0-lka-stage2", 8, 64, (64, 64)),
    Case("bisenetv2-bga-1024x2048", 1, 128, (128, 256)),
)
RESIZED = (  # the logits at a quarter, and at an eighth, of the resolution
    Case("bisenetv2-bga-up-1024x2048", 1, 128, (128, 256)),
    Case("topformer-tiny-512", 8, 128, (64, 64)),
)
BLENDS = (  # at 1024 x 2048
    Case("pidnet-s-pag-1024x2048", 1, 64, (128, 256)),
    Case("pp-liteseg-uafm-1024x2048", 1, 64, (128, 256)),
)
BRANCHES = (  # ResNeSt's and SKNet's at 512 x 512, all branches' channels
    Case("resnest50d-stage1", 8, 128, (128, 128), R=2),
    Case("resnest50d-4s2x40d-stage2", 8, 640, (64, 64), R=4),
    Case("sknet-3-paths-stage3", 8, 768, (32, 32), R=3),
)


def _branches(sizes: Sizes) -> Sizes:
    """As many branches as the least number above 1 that divides the channels, of one channel one; T stands for all
    pixels."""
    C = sizes["C"]
    R = sizes.get("R") or next((r for r in range(2, C + 1) if C % r == 0), 1)
    return {"R": R, "B": C // R, "T": (1,) * len(sizes["S"])}


def _branch_bytes(sizes: Sizes, itemsize: int) -> tuple[int, int]:
    """Forward x and y; backward dy, x and dx."""
    values = sizes["N"] * sizes["B"] * math.prod(sizes["S"]) * itemsize
    return (sizes["R"] + 1) * values, (2 * sizes["R"] + 1) * values


ROWS = (
    Op(
        name="gate_mul",
        op=functional.gate_mul,
        reference=reference.gate_mul,
        inputs={"x": MAP, "z": MAP, "shortcut?": MAP},
        parameters={},
        outputs={"y": MAP, "map": MAP},
        options={"gate": GATES, "out_act": OUT_ACTS},
        flops=flops.gate_mul,
        passes=(4, 5),
        dims=(1, 2, 3),
        equation="y = out_act(x * gate(z) + shortcut)",
        attends_to="single values, by whatever the logits z come from",
        use="a network makes the logits itself: large-kernel attention, two-branch networks",
        paper="Guo et al. 2022, arXiv:2209.08575 (SegNeXt); Yu et al. 2020, arXiv:2004.02147 (BiSeNetV2)",
        cases=PRODUCTS,
    ),
    Op(
        name="gate_mul_resized",
        op=functional.gate_mul_resized,
        reference=reference.gate_mul_resized,
        inputs={"x": MAP, "z": "N C *T", "shortcut?": MAP},
        parameters={},
        outputs={"y": MAP, "map": MAP},
        options={
            **{"resize": ("bilinear", "nearest"), "align_corners": (False, True)},
            **{"gate": GATES, "out_act": OUT_ACTS},
        },
        flops=flops.gate_mul_resized,
        passes=(3, 4),
        derived=lambda sizes: {"T": tuple(-(-s // 4) for s in sizes["S"])},
        equation="y = out_act(x * gate(up(z)) + shortcut)",
        attends_to="single values, by logits of a coarser map",
        use="one branch is coarse and says what counts in the fine one: two-branch networks",
        paper="Yu et al. 2020, arXiv:2004.02147 (BiSeNetV2); Zhang et al. 2022, arXiv:2204.05525 (TopFormer)",
        cases=RESIZED,
    ),
    Op(
        name="gate_blend",
        op=functional.gate_blend,
        reference=reference.gate_blend,
        inputs={"a": MAP, "b": MAP, "z": PIXEL_MAP},
        parameters={},
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"gate": GATES},
        flops=flops.gate_blend,
        passes=(3, 5),
        dims=(1, 2, 3),
        equation="y = g * a + (1 - g) * b, g = gate(z)",
        attends_to="one of two maps at every pixel, by whatever the logits z come from",
        use="two branches meet, details and context: real-time networks",
        paper="Xu et al. 2022, arXiv:2206.02066 (PIDNet); Peng et al. 2022, arXiv:2204.02681 (PP-LiteSeg)",
        cases=BLENDS,
    ),
    Op(
        name="radix_blend",
        op=functional.radix_blend,
        reference=reference.radix_blend,
        inputs={"x": MAP, "z": "N R B *T"},
        parameters={},
        outputs={"y": "N B *S", "map": "N C"},
        options={},
        flops=flops.radix_blend,
        passes=(1.5, 2.5),
        dims=(1, 2, 3),
        derived=_branches,
        floor=_branch_bytes,
        equation="y = sum over r of a_r * x_r, a = softmax over r of z",
        attends_to="one of several branches in every channel, by whatever the logits z come from",
        use="branches of different windows or groups compete: ResNeSt, SKNet",
        paper="Zhang et al. 2020, arXiv:2004.08955 (ResNeSt); Li et al. 2019, arXiv:1903.06586 (SKNet)",
        cases=BRANCHES,
    ),
)
