"""What is predicted and committed: the problems of the bars, and the sides of the curves.

The bars stand at 8 images, 64, 128 and 256 channels, 256 and 512 pixels a side, and at one map of a real-time network;
the curves at 8 images of 64 channels. torch.compile's kernels hold the sizes as constants, so each size of its is
compiled anew, which takes the most time: its curves have every second side; but for the reference size and the small
map, the form alone that was the faster there at the reference size stands for both.
"""

from collections.abc import Iterable
from itertools import product

from .sides import FORMS, OURS, Side, has
from .verdicts import SMALL_MAP

REFERENCE = "8x64x512x512"
BAR_SIZES = tuple(f"8x{C}x{side}x{side}" for side, C in product((512, 256), (64, 256, 128)))
CURVE = tuple(f"8x64x{side}x{side}" for side in (32, 64, 128, 256, 512, 1024, 2048))
COMPILED_SIZES = tuple(f"8x64x{side}x{side}" for side in (32, 128, 512, 2048))
PREDICTED_SIZES = tuple(dict.fromkeys((REFERENCE, SMALL_MAP, *BAR_SIZES, *CURVE)))  # the most valuable first
WITH_ALL_FORMS = 2  # of them, with all forms


def providers(op: str, size: str, layout: str, known: Iterable[Side]) -> tuple[str, ...]:
    """Who is asked for such a problem."""
    if size not in (SMALL_MAP, *BAR_SIZES, *COMPILED_SIZES):
        return (OURS,)
    forms = [form for form in FORMS if has(op, form)]
    if size in (REFERENCE, SMALL_MAP) or len(forms) < 2:
        return (OURS, *forms)
    times = dict.fromkeys(forms, 0.0)
    for side in known:
        if (side.op, side.size, side.layout) == (op, REFERENCE, layout) and side.provider in times:
            times[side.provider] += side.us[1]
    return (OURS, min(times, key=lambda form: times[form] or float("inf")))
