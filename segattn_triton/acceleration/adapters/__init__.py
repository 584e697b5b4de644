"""How gates of other libraries compute: known by the qualified name of their class, checked for structure.

Nothing here imports those libraries. An adapter is a function that reads a module's parts and returns what a function
of `segattn_triton.functional` wants of them; a part that is not as known raises ValueError with the reason, and the
gate is left as it is.
"""

from . import (  # noqa: F401, they register
    bisenet,
    branches,
    context,
    fusion,
    gather_excite,
    mmseg,
    monai,
    multiscale,
    nnunet,
    openmmlab,
    simam,
    smp,
    strips,
    timm,
    torchvision,
    ultralytics,
)
from .norms import of_pixels, squeeze_excite_norm
from .parts import (
    Parts,
    activation,
    is_window,
    layer,
    part,
    pools_to_one,
    qualified_name,
    spec_of,
    window,
)
from .registry import ADAPTERS, BLOCKS, Block, Gate, Inline, check_readers, register_adapter

__all__ = [
    "ADAPTERS",
    "BLOCKS",
    "Block",
    "Gate",
    "Inline",
    "Parts",
    "activation",
    "check_readers",
    "is_window",
    "layer",
    "of_pixels",
    "part",
    "pools_to_one",
    "qualified_name",
    "register_adapter",
    "spec_of",
    "squeeze_excite_norm",
    "window",
]
