"""How gates of other libraries compute: known by the qualified name of their class, checked for structure.

Nothing here imports those libraries. An adapter is a function that reads a module's parts and returns what a function
of `segattn_triton.functional` wants of them; a part that is not as known raises ValueError with the reason, and the
gate is left as it is.
"""

from segattn_triton.adapters import monai, nnunet, openmmlab, smp, timm, torchvision  # noqa: F401, they register
from segattn_triton.adapters.parts import Parts, qualified_name
from segattn_triton.adapters.registry import BLOCKS, GATES, Block, Gate, Inline, check_readers, register_adapter

__all__ = [
    "BLOCKS",
    "GATES",
    "Block",
    "Gate",
    "Inline",
    "Parts",
    "check_readers",
    "qualified_name",
    "register_adapter",
]
