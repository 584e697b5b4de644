"""Additive attention on skip connections."""

from ... import flops, functional, modules, reference
from ...reference.activations import GATES
from ..passes import attention_gate_passes
from ..row import Case, Op
from .shared import MAP, PIXEL_MAP

ATTENTION_UNET = tuple(  # the skips of LeeJunHyun's and PaddleSeg's at 512 x 512: G = C, F = C / 2
    Case(f"attention-unet-d{i}", N, C, (S, S), C // 2)
    for i, (N, C, S) in enumerate([(8, 512, 64), (8, 256, 128), (8, 128, 256), (4, 64, 512)], 1)
)
ATTENTION_UNET += (Case("monai-attentionunet3d-d3", 1, 32, (64, 64, 64), 16),)

ROWS = (
    Op(
        name="attention_gate",
        op=functional.attention_gate,
        reference=reference.attention_gate,
        module=modules.AttentionGate,
        inputs={"x": MAP, "g": "N G *S", "wx": "Cr C", "wg": "Cr G", "b?": "Cr", "weight": "1 Cr", "bias?": "1"},
        parameters={
            **{"wx": "W_x.0.weight", "wg": "W_g.0.weight", "b": "W_g.0.bias"},
            **{"weight": "psi.0.weight", "bias": "psi.0.bias"},
        },
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"gate": GATES},
        flops=flops.attention_gate,
        passes=(3, 5),
        passes_of=attention_gate_passes,
        rounding_points=("wx", "wg", "dprojected"),
        dims=(1, 2, 3),
        fixed={"norms": (), "bias_x": False},
        derived=lambda sizes: {"G": sizes["C"]},
        equation="y = x * gate(<w, relu(Wx x_p + Wg g_p + b)> + c)",
        attends_to="pixels of a skip connection, by what the decoder has found there",
        use="skip connections of a U-Net: the decoder says where the encoder's details matter",
        paper="Oktay et al. 2018, arXiv:1804.03999 (Attention U-Net)",
        cases=ATTENTION_UNET,
    ),
)
