"""What every row launches, compared with another commit: for a change that is to leave all launches as they were.

    python tests/support/launches.py [COMMIT]        HEAD unless named; exits 1 where a launch differs

A launch is its kernel, its grid, its config, and each argument by its flattened name: a number, a tuple's numbers, an
activation's functions and constants, of a tensor its layout and which of the tensors before it shares its memory. All
is planned on meta tensors, forward and backward: every option of every row, dtypes, both memory orders, gradients of
everything, of the map and of the parameters alone, and calls without what is optional.
"""

import os
import sys

if "triton" not in sys.modules:  # a process that plans as a GPU's would: not pytest's own, where Triton interprets
    os.environ.pop("TRITON_INTERPRET", None)

import argparse
import itertools
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from triton import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from segattn_triton import compiled
from segattn_triton.catalog import ROWS, Op
from segattn_triton.runtime.plan import Plan
from segattn_triton.testing import make_inputs
from segattn_triton.tuning.target import planning_for

ROOT = Path(__file__).parents[2]
DTYPES = ((torch.float16, torch.float16), (torch.bfloat16, torch.float32), (torch.float32, torch.float32))
LAYOUTS = ("contiguous", "channels_last", "channel_slice_last")
ARCHES = (75, 90)


def flat(name: str, value: Any, known: dict[int, int]) -> Iterator[tuple[str, Any]]:
    """An argument as (flattened name, what it is); `known` numbers the memory that was seen."""
    if isinstance(value, Tensor):
        number = known.setdefault(value.untyped_storage()._cdata, len(known))
        yield name, [number, value.storage_offset(), list(value.shape), value.stride(), str(value.dtype)]
    elif isinstance(value, TensorDescriptor):
        yield f"{name}.how", [list(value.shape), list(value.strides), list(value.block_shape)]
        yield from flat(f"{name}.base", value.base, known)
    elif isinstance(value, tuple):
        for field, part in zip(getattr(value, "_fields", range(len(value))), value, strict=True):
            yield from flat(f"{name}.{field}", part, known)
    elif isinstance(value, JITFunction):
        yield name, value.fn.__name__
    else:
        yield name, value if isinstance(value, int | float | None) else str(value)


def launch(plan: Plan, known: dict[int, int]) -> dict[str, Any]:
    arguments = {"kernel": plan.name, "grid": plan.grid, **plan.config.launch_options}
    for name, value in plan.args.items():
        arguments |= flat(name, value, known)
    return arguments


def option_sets(row: Op) -> list[dict]:
    """The defaults, every other value of each option, and every pair of values of two that choose no activation."""
    found = [{}, *({name: value} for name, values in row.options.items() for value in values[1:])]
    names = [name for name in row.options if name not in ("act", "gate")]
    for a, b in itertools.combinations(names, 2):
        found += [{a: u, b: v} for u, v in itertools.product(row.options[a][1:], row.options[b][1:])]
    return found


def inputs_of(row: Op, dtypes: Sequence[torch.dtype], layout: str) -> list[Tensor]:
    return make_inputs(row, row.cases[0].sizes, dtypes[0], layout=layout, device="meta", param_dtype=dtypes[1])


def calls(row: Op, inputs: Sequence[Tensor]) -> Iterator[tuple[str, list[Tensor | None], list[bool]]]:
    """(what it is, tensors, who needs a gradient)"""
    given, first = [True] * len(inputs), [i == 0 for i in range(len(inputs))]
    yield "", [*inputs], given
    yield "dx alone", [*inputs], first
    if len(inputs) > 1:
        yield "without dx", [*inputs], [not f for f in first]
    for i, name in enumerate(row.inputs):
        if name.endswith("?"):
            yield f"no {name[:-1]}", [None if i == j else t for j, t in enumerate(inputs)], [i != j for j in given]


def launches() -> Iterator[tuple[str, list]]:
    """(the problem, its launches), or the error that it raises."""
    for row, dtypes, layout, arch in itertools.product(ROWS, DTYPES, LAYOUTS, ARCHES):
        if (arch, dtypes[0]) == (75, torch.bfloat16):
            continue
        inputs = inputs_of(row, dtypes, layout)
        for options, second in itertools.product(option_sets(row), (False, True)):
            options = {**row.defaults, **options, row.second: second}
            for what, tensors, needs in calls(row, inputs):
                problem = f"{row.name} {dtypes[0]} {layout} sm_{arch} {options} {what}"
                try:
                    with planning_for(arch):
                        both = compiled.planned(row.op, *tensors, needs=needs, **options)
                except (ValueError, RuntimeError) as error:
                    yield problem, [str(error)]
                else:
                    known: dict[int, int] = {}
                    yield problem, [launch(plan, known) for plan in itertools.chain(*both)]


def of_commit(commit: str) -> dict[str, list]:
    """The launches of another commit, in a process that imports the package as it was."""
    with tempfile.TemporaryDirectory() as folder:
        tree = subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", folder], stdin=tree.stdout, check=True)
        if tree.wait():
            raise SystemExit(f"{commit}: no commit of {ROOT}")
        for part in ("reference", "perf"):
            Path(folder, part).rename(Path(folder, "segattn_triton", part))
        command = [sys.executable, __file__, "--print"]
        printed = subprocess.run(command, env={**os.environ, "PYTHONPATH": folder}, stdout=subprocess.PIPE, check=True)
    return dict(map(json.loads, printed.stdout.splitlines()))


def differences(ours: Mapping[str, list], theirs: Mapping[str, list]) -> Iterator[str]:
    """A line for every problem of both whose launches are not equal."""
    for problem in ours.keys() & theirs.keys():
        if ours[problem] == theirs[problem]:
            continue
        a, b = ours[problem], theirs[problem]
        if len(a) != len(b):
            yield f"{problem}: {len(a)} launches, were {len(b)}"
            continue
        i, mine, other = next((i, u, v) for i, (u, v) in enumerate(zip(a, b, strict=True)) if u != v)
        if isinstance(mine, str) or isinstance(other, str):
            yield f"{problem}: {mine}, was {other}"
            continue
        names = sorted(n for n in {*mine, *other} if mine.get(n) != other.get(n))
        values = ", ".join(f"{n} {mine.get(n)}, was {other.get(n)}" for n in names)
        yield f"{problem}: launch {i}, {mine['kernel']}: {values}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", default="HEAD")
    parser.add_argument("--print", action="store_true", help="print the launches, a line of json per problem")
    args = parser.parse_args()
    if args.print:
        for one in launches():
            print(json.dumps(one))
        return 0
    ours, theirs = dict(json.loads(json.dumps([*launches()]))), of_commit(args.commit)
    wrong = sorted(differences(ours, theirs))
    print(*wrong[:20], sep="\n")
    both = ours.keys() & theirs.keys()
    print(f"{len(both)} problems, {sum(len(ours[p]) for p in both)} launches compared, {len(wrong)} problems differ")
    return bool(wrong or not both)


if __name__ == "__main__":
    sys.exit(main())
