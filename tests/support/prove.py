"""`make prove`: SentryWard looks for races and missing barriers in the PTX of kernels, in every schedule of a launch.

    python tests/support/prove.py [ROW ...]      a small problem of each row, all rows without a name

A verdict a kernel: `race_free`, with sizes and grid as they are; a finding, and in which memory; or why it stopped.
What it says of shared memory is no fault by itself: two warps that store equal values at one place, as Triton's changes
of layout do, are a race in its model. Exits 1 where it finds a race in global memory.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import static_ledger  # noqa: F401, before Triton: it decides that this process compiles
import torch
from sentryward import verify

from segattn_triton import compiled as static
from segattn_triton.catalog import BY_NAME
from segattn_triton.perf.account.launch import SIZES, Buffer, Launch, launch_of

SMALL = {"N": 2, "C": 32, "Cr": 8}


def input_of(launch: Launch, shared: int) -> dict:
    """What the tool wants to know of a launch: pointers have no value."""
    scalars = [(i, kind, value) for i, (kind, value) in enumerate(launch.arguments) if not isinstance(value, Buffer)]
    sizes = dict(cluster_dim=[1, 1, 1], grid_dim=list(launch.grid), block_dim=[32 * launch.warps, 1, 1])
    return {
        "schema": "spverify.kernel-input/v1",
        "launch": sizes | {"dynamic_shared_bytes": shared},
        "arguments": [
            dict(parameter=i, type=f"u{8 * max(4, SIZES[kind])}", value=int(value)) for i, kind, value in scalars
        ],
    }


def verdict(compiled: static.Compiled, seconds: float) -> str:
    """The tool's, and of a finding the memory."""
    launch = launch_of(compiled)
    with tempfile.TemporaryDirectory() as folder:
        ptx, given = Path(folder, "kernel.ptx"), Path(folder, "input.json")
        ptx.write_text(compiled.asm["ptx"])
        given.write_text(json.dumps(input_of(launch, compiled.shared)))
        found = verify(str(ptx), input=str(given), timeout_seconds=seconds)
    spaces = sorted({race["region"]["address_space"] for race in found.get("races") or ()})
    return " ".join([found["result"], *(["in", *spaces, "memory"] if spaces else [])])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", choices=[*BY_NAME, []])
    parser.add_argument("--seconds", type=float, default=60.0, help="for a kernel")
    options, told = parser.parse_args(), Counter()
    for row in (BY_NAME[name] for name in options.rows or BY_NAME):
        sizes = {**row.cases[0].sizes, **SMALL, "S": (12, 20, 4)[: len(row.cases[0].S)]}
        for plan in itertools.chain(*static.plans(row, sizes, torch.float32, "contiguous")):
            begin, said = time.monotonic(), verdict(static.compile_plan(plan), options.seconds)
            told[said] += 1
            print(f"{row.name} {plan.name}: {said}, {time.monotonic() - begin:.0f} s", flush=True)
    print(", ".join(f"{said}: {count}" for said, count in told.most_common()))
    return int(any("global" in said for said in told))


if __name__ == "__main__":
    sys.exit(main())
