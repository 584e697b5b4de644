"""Channels by their responses."""

from ... import flops, functional, modules, reference
from ..row import Case, Op
from .shared import MAP

CONVNEXT = (  # ConvNeXt V2 tiny at 512 x 512
    Case("convnextv2-t-grn-stage1", 8, 384, (128, 128)),
    Case("convnextv2-t-grn-stage3", 8, 1536, (32, 32)),
)

ROWS = (
    Op(
        name="global_response_norm",
        op=functional.global_response_norm,
        reference=reference.global_response_norm,
        module=modules.GlobalResponseNorm,
        inputs={"x": MAP, "weight": "C", "bias?": "C"},
        parameters={"weight": "weight", "bias": "bias"},
        outputs={"y": MAP, "map": "N C"},
        options={},
        flops=flops.global_response_norm,
        passes=(3, 5),
        dims=(1, 2, 3),
        equation="y = x + w (x r) + b, r = norm(x) / (mean_c norm(x) + eps)",
        attends_to="channels, by how strong each is in the whole image beside the others",
        use="channels become alike: wide layers of convolutional encoders, as in ConvNeXt V2",
        paper="Woo et al. 2023, arXiv:2301.00808 (ConvNeXt V2)",
        cases=CONVNEXT,
    ),
)
