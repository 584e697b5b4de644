"""Gates of a pixel by its channels."""

from ... import flops, functional, modules, reference
from ...reference.activations import GATES
from ..row import Op
from .shared import BISENET, MAP, PIXEL_MAP, TIES, UNET, VOLUME

ROWS = (
    Op(
        name="spatial_gate",
        op=functional.spatial_gate,
        reference=reference.spatial_gate,
        module=modules.SpatialAttention,
        inputs={"x": MAP, "weight": "1 C", "bias?": "1"},
        parameters={"weight": "conv.weight", "bias": "conv.bias"},
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"gate": GATES},
        flops=flops.spatial_gate,
        passes=(2, 3),
        dims=(1, 2, 3),
        equation="y = x * gate(<w, x_p> + b)",
        attends_to="pixels, by a learned direction in channel space",
        use="where in the image matters, and one learned direction tells it: decoders, after a skip connection",
        paper="Roy et al. 2018, arXiv:1803.02579 (sSE)",
        cases=UNET + BISENET + VOLUME,
    ),
    Op(
        name="spatial_pool_gate",
        op=functional.spatial_pool_gate,
        reference=reference.spatial_pool_gate,
        module=modules.SpatialPoolAttention,
        inputs={"x": MAP},
        parameters={},
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"pool": ("mean", "max", "meanmax"), "gate": GATES, "ties": TIES},
        flops=flops.spatial_pool_gate,
        passes=(2, 3),
        dims=(1, 2, 3),
        equation="y = x * gate(pool_c x_p)",
        attends_to="pixels, by their mean or strongest response",
        use="as the spatial gate, without any parameter",
        paper="pooling of Woo et al. 2018, arXiv:1807.06521 (CBAM), without its convolution",
        cases=UNET + BISENET + VOLUME,
    ),
)
