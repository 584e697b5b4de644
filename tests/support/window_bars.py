"""The bars of attention to windows (`perf/compiler/stages`): ours compiled now, rivals as they are recorded.

As a script all stages, on all cores; exits 1 if a bar is missed that is not named, and says which records of rivals are
old (`make static`).
"""

import os
import sys

import static_ledger  # before Triton: it decides that this process compiles

from segattn_triton.perf.compiler import stages, windows
from segattn_triton.perf.compiler.sides import read

ASKED = tuple((stage.name, layout) for stage, layout in stages.asked())


def missed(name: str, layout: str) -> list[str]:
    """What is wrong with the bars of a stage."""
    (stage,) = (stage for stage in stages.WINDOW_STAGES if stage.name == name)
    return windows.missed(stage, layout, read(windows.COMMITTED_WINDOWS.read_text()))


def main() -> int:
    with static_ledger.pool(os.cpu_count() or 1) as workers:
        found = [line for lines in workers.map(missed, *zip(*ASKED, strict=True)) for line in lines]
    old = windows.old(read(windows.COMMITTED_WINDOWS.read_text()))
    print(*found, *(f"{which}: a record of an earlier account: make predicted" for which in old), sep="\n")
    print(f"{len(ASKED)} windows of stages by the account, {len(found)} bars missed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
