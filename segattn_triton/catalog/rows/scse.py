"""A gate of the channels beside one of the pixels."""

from ... import flops, functional, modules, reference
from ...reference.activations import ACTS, GATES
from ..row import Op
from .shared import MAP, PIXEL_MAP, UNET, VOLUME

ROWS = (
    Op(
        name="scse",
        op=functional.scse,
        reference=reference.scse,
        module=modules.SCSE,
        inputs={"x": MAP, "w1": "Cr C", "b1?": "Cr", "w2": "C Cr", "b2?": "C", "weight": "1 C", "bias?": "1"},
        parameters={
            **{"w1": "cSE.1.weight", "b1": "cSE.1.bias", "w2": "cSE.3.weight", "b2": "cSE.3.bias"},
            **{"weight": "sSE.0.weight", "bias": "sSE.0.bias"},
        },
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"act": ACTS, "gate": GATES, "reduce": ("sum", "max")},
        flops=flops.scse,
        passes=(3, 4),
        dims=(1, 2, 3),
        fixed={"reduction": 2},
        equation="y = x * gate(W2 act(W1 mean(x) + b1) + b2) + x * gate(<w, x_p> + b)",
        attends_to="channels, by what the whole image holds, beside pixels, by a learned direction in channel space",
        use="decoders: what matters in the image and where, at the cost of little more than either",
        paper="Roy et al. 2018, arXiv:1803.02579 (scSE)",
        cases=UNET + VOLUME,
    ),
)
