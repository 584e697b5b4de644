"""Gates of a channel by its neighbours."""

from ... import flops, functional, modules, reference
from ...reference.activations import GATES
from ..row import Case, Op
from .shared import MAP, VOLUME

ECA = (
    Case("ecaresnet50d-stage1", 8, 256, (128, 128)),
    Case("ecaresnet50d-stage4", 8, 2048, (16, 16)),
)

ROWS = (
    Op(
        name="eca",
        op=functional.eca,
        reference=reference.eca,
        module=modules.ECA,
        inputs={"x": MAP, "weight": "1 1 k", "bias?": "1"},
        parameters={"weight": "conv.weight", "bias": "conv.bias"},
        outputs={"y": MAP, "map": "N C"},
        options={"circular": (False, True), "gate": GATES},
        flops=flops.eca,
        passes=(3, 4),
        dims=(1, 2, 3),
        fixed={"bias": True},
        derived=lambda sizes: {"k": 3},
        equation="y = x * gate(conv1d_k(mean(x)) + b)",
        attends_to="channels, by what the whole image holds of their neighbours in the order of channels",
        use="as the channel gate, with a handful of parameters",
        paper="Wang et al. 2020, arXiv:1910.03151 (ECA)",
        cases=ECA + VOLUME,
    ),
)
