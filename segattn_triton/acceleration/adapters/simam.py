"""SimAM: the authors' own class, and that of a collection of attention modules. Neither has parameters."""

from torch import Tensor, nn

from .parts import Parts, only, wide_as_autocast
from .registry import gate


def _forward(block: nn.Module, gates, names: dict, x: Tensor):
    """Squares under autocast are float32 on a GPU, and so is the product."""
    return gates[0](wide_as_autocast(x))


@gate(
    "networks.attentions.simam_module.simam_module",
    "model.attention.SimAM.SimAM",
    kernel="simam",
    children="activaton",
    attributes="e_lambda",
    inline=_forward,
    arguments=lambda m, new: (new(6),),
)
def _simam(m):
    only(m, "activaton", nn.Sigmoid)
    return Parts((), dict(eps=m.e_lambda), (2,))
