"""NATTEN's modules, functions and switches, run by `segattn_triton`: replace `natten` in imports by this package.

    import natten                           from segattn_triton.compat import natten
    from natten import X                    from segattn_triton.compat.natten import X
    from natten.functional import X         from segattn_triton.compat.natten.functional import X

Names, argument names and layouts of NATTEN 0.14 to 0.21. What runs, and on what: docs/natten.md.
"""

from . import context, functional, utils
from .functional import *  # noqa: F403
from .modules import NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D

__version__ = "0.17.5"  # for code that asks: the last release with the split functions and the tables

__all__ = [
    "NeighborhoodAttention1D",
    "NeighborhoodAttention2D",
    "NeighborhoodAttention3D",
    "context",
    "functional",
    "utils",
    *functional.__all__,
]
