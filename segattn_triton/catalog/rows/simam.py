"""Values by how far they lie from the mean of their channel."""

from ... import flops, functional, reference
from ..row import Case, Op
from .shared import MAP

SIMAM = (  # the authors' ResNet-18 at 512 x 512; YOLOv5s with it at 640 x 640
    Case("simam-resnet18-stage1", 8, 64, (128, 128)),
    Case("simam-resnet18-stage4", 8, 512, (16, 16)),
    Case("yolov5s-simam-p3-640", 1, 128, (80, 80)),
)

ROWS = (
    Op(
        name="simam",
        op=functional.simam,
        reference=reference.simam,
        inputs={"x": MAP},
        parameters={},
        outputs={"y": MAP, "map": MAP},
        options={},
        flops=flops.simam,
        passes=(3, 5),
        dims=(1, 2, 3),
        equation="y = x * sigmoid((x - mean)^2 / (4 (var + eps)) + 1/2)",
        attends_to="single values, by how far they lie from the mean of their channel",
        use="values that stand out matter, and there shall be no parameter: encoder blocks",
        paper="Yang et al. 2021, proceedings.mlr.press/v139/yang21o (SimAM)",
        cases=SIMAM,
    ),
)
