"""Both sides of attention to windows (`stages`), by the account; as a script it renews the rivals' records.

Those are committed, and kept while they are of the same text by the same versions (`digests`). Rivals are given heads
of contiguous channels, as FlexAttention takes them: where W is contiguous it would have to copy them first, and its
time is no less. *Predicted* from machine code for sm_90, not measured.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...draft import write_text
from ..measure.child import one_line
from .sides import OURS, Side, merged, read, write
from .stages import RIVALS, WINDOW_STAGES, Stage, faults, rivals_of

THEIR_LAYOUT = "channels_last"
COMMITTED_WINDOWS = Path(__file__).parents[1] / "predicted" / "windows_sm_90.jsonl"


def forms(stage: Stage) -> dict[str, Callable]:
    """The rivals of a stage, as they are compiled."""
    from ..measure import windows

    by_name = {
        "flex": windows.Flex(stage.kernel_size, stage.dilation),
        "shifted": partial(windows.shifted, kernel_size=stage.kernel_size),
        "unfolded": partial(windows.listing, kernel_size=stage.kernel_size),
    }
    return {name: by_name[name] for name in RIVALS[stage.kernel_size]}


def inputs_of(stage: Stage, layout: str) -> list[Any]:
    """q, k and v as views of maps, without memory."""
    import torch

    from ...catalog.problem import make_map

    shape = (stage.N, stage.heads * stage.D, *stage.S)
    maps = (make_map(shape, layout, None, torch.bfloat16, "meta") for _ in range(3))
    return [t.unflatten(1, (stage.heads, stage.D)).permute(0, 3, 4, 1, 2) for t in maps]


def ours(stage: Stage, layout: str) -> Iterator[Side]:
    from ... import compiled as static
    from ...catalog import BY_NAME
    from ...tuning.target import planning_for
    from .predict import ARCH
    from .sides import launched_time

    window = dict(kernel_size=stage.kernel_size, dilation=stage.dilation)
    with planning_for(ARCH):
        both = static.planned(BY_NAME["neighborhood_attention"].op, *inputs_of(stage, layout), None, **window)
    for mode, plans in zip(("fwd", "bwd"), both, strict=True):
        yield Side(stage.name, stage.size, layout, mode, OURS, tuple(map(launched_time, plans)))


def made_of(stage: Stage, rival: str) -> str:
    """The digest of a rival's record, as it would be computed today."""
    from . import digests
    from .predict import ARCH

    return digests.of_rival(forms(stage)[rival], f"{stage.heads}x{stage.D}", stage.size, THEIR_LAYOUT, ARCH)


def theirs(stage: Stage, rival: str) -> Iterator[Side]:
    """Compiled; forward and backward."""
    from .inductor import generated
    from .sides import time_of

    both, made = generated(forms(stage)[rival], inputs_of(stage, THEIR_LAYOUT)), made_of(stage, rival)
    for mode, calls in zip(("fwd", "bwd"), both, strict=True):
        launches = tuple(time_of(call, THEIR_LAYOUT) for call in calls)
        yield Side(stage.name, stage.size, THEIR_LAYOUT, mode, rival, launches, made)


def missed(stage: Stage, layout: str, records: Sequence[Side]) -> list[str]:
    """What is wrong with the bars of a stage: ours as compiled now, the rivals as recorded."""
    known = {(s.op, s.mode, s.provider): s for s in records}
    wrong = []
    for own in ours(stage, layout):
        rivals = {name: known[stage.name, own.mode, name] for name in rivals_of(stage, layout)}
        wrong += faults(stage, own, rivals)
    return wrong


def old(records: Sequence[Side]) -> list[str]:
    """Rivals whose records are of another account, another text or other versions than today's."""
    made = {(s.op, s.provider): s.made for s in records}
    each = [(stage, rival) for stage in WINDOW_STAGES for rival in forms(stage)]
    return [f"{stage.name} {rival}" for stage, rival in each if made.get((stage.name, rival)) != made_of(stage, rival)]


def renewed(records: Sequence[Side]) -> Iterator[list[Side]]:
    """The records of today, after each that is new; of what cannot be computed, which is said, the one before."""
    wanted = set(old(records))
    for stage in WINDOW_STAGES:
        for rival in forms(stage):
            if f"{stage.name} {rival}" in wanted:
                try:
                    records = merged(records, theirs(stage, rival))
                except Exception as error:
                    print(f"{stage.name}, {rival}: {one_line(error)}", flush=True)
                yield records


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    for records in renewed(read(COMMITTED_WINDOWS.read_text()) if COMMITTED_WINDOWS.exists() else []):
        write_text(COMMITTED_WINDOWS, write(records))
