"""Channels by what the image holds at the pixels that it attends to."""

from ... import flops, functional, modules, reference
from ...reference.activations import ACTS, GATES
from ..row import Case, Op, Sizes
from .shared import MAP


def _normed(sizes: Sizes) -> Sizes:
    """Hidden channels of a layer norm, whose results of a few values are rounding alone."""
    return {"R": max(8, sizes.get("Cr", 0))}


def _context_keys(mlp: str) -> dict[str, str]:
    keys = {"w1": "fc1.weight", "b1": "fc1.bias", "ln_weight": "norm.weight", "ln_bias": "norm.bias"}
    keys = {name: f"{mlp}.{key}" for name, key in (keys | {"w2": "fc2.weight", "b2": "fc2.bias"}).items()}
    return {"weight": "conv_attn.weight", "bias": "conv_attn.bias"} | keys


CONTEXT = (  # timm's gcresnet50t at 512 x 512; mmsegmentation's GCHead at 512 x 1024
    Case("gcresnet50t-stage1", 8, 256, (128, 128), 32),
    Case("gcresnet50t-stage4", 8, 2048, (16, 16), 256),
    Case("gcnet-r50-head-512x1024", 2, 512, (64, 128), 128),
)
CONTEXT_INPUTS = {
    **{"x": MAP, "weight": "1 C", "bias?": "1", "w1": "R C", "b1?": "R"},
    **{"ln_weight": "R", "ln_bias?": "R", "w2": "C R", "b2?": "C"},
}

ROWS = (
    Op(
        name="global_context",
        op=functional.global_context,
        reference=reference.global_context,
        module=modules.GlobalContext,
        inputs=CONTEXT_INPUTS,
        parameters=_context_keys("mlp_scale"),
        outputs={"y": MAP, "map": "N C"},
        options={"act": ACTS, "gate": GATES},
        flops=flops.global_context,
        passes=(3, 5),
        dims=(1, 2, 3),
        fixed={"hidden": 8},
        derived=_normed,
        equation="y = x * gate(W2 act(norm(W1 v + b1)) + b2), v = sum_p softmax_p(<w, x_p>) x_p",
        attends_to="channels, by what the image holds at the pixels that it attends to",
        use="as the channel gate where few pixels matter: late stages of encoders, heads",
        paper="Cao et al. 2019, arXiv:1904.11492 (GCNet), scaling",
        cases=CONTEXT,
    ),
    Op(
        name="global_context_add",
        op=functional.global_context_add,
        reference=reference.global_context_add,
        module=modules.GlobalContext,
        inputs=CONTEXT_INPUTS,
        parameters=_context_keys("mlp_add"),
        outputs={"y": MAP, "map": "N C"},
        options={"act": ACTS},
        flops=flops.global_context_add,
        passes=(3, 4),
        dims=(1, 2, 3),
        fixed={"hidden": 8, "fuse": "add"},
        derived=_normed,
        equation="y = x + W2 act(norm(W1 v + b1)) + b2, v = sum_p softmax_p(<w, x_p>) x_p",
        attends_to="the whole image, at the pixels that it attends to: the same is added to every pixel",
        use="pixels have to know the whole image, at a fraction of the cost of non-local attention",
        paper="Cao et al. 2019, arXiv:1904.11492 (GCNet)",
        cases=CONTEXT,
    ),
)
