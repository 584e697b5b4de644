"""The kernels under another release of Triton or torch: compiled, and their numbers in its interpreter.

    python tests/support/versions.py FOLDER [--numerics-only | --compile-only]

FOLDER holds that release: `pip install --no-deps --target FOLDER triton==3.6.0`, or with all that torch needs
`pip install --target FOLDER torch==2.11.0`; for Triton 3.6 `numpy==2.3.5` as well, because its interpreter fails with
numpy 2.4. Every kernel of every row is compiled as chosen for the row's first case: for sm_90 in each dtype and layout,
and with every other pool, tie or border; for AMD in float32 and bfloat16. Then every row is compared with the reference
on a small problem. Exits 1 on any fault.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

DTYPES, LAYOUTS = ("bfloat16", "float16", "float32"), ("contiguous", "channels_last")
AMD = ("gfx942", "gfx1100")  # warps of 64 threads, and of 32


def compiled() -> tuple[int, list[str]]:
    """(kernels, faults) of every row's first case, as compiled for sm_90 and for GPUs of AMD's."""
    import static_ledger
    from static_ledger import BY_NAME, Job

    jobs = [Job(r.name, r.cases[0].name, d, s, 90) for r in BY_NAME.values() for d in DTYPES for s in LAYOUTS]
    amd = itertools.product(BY_NAME.values(), ("float32", "bfloat16"), LAYOUTS, AMD)
    jobs += [Job(row.name, row.cases[0].name, *problem) for row, *problem in amd]
    found = list(itertools.chain(*(static_ledger.compiled((job, None)) for job in jobs)))
    others = list(itertools.chain(*(static_ledger.compiled((job, None)) for job in static_ledger.variants())))
    return len(found) + len(others), list(itertools.chain(*found, *map(_without_spills, others)))


def _without_spills(faults: list[str]) -> list[str]:
    """Other pools, ties and borders need not be free of them: 3.6.0 keeps 8 bytes of one on the stack."""
    return [fault for fault in faults if not fault.endswith("bytes of stack")]


def compared() -> tuple[int, list[str]]:
    """(tensors, mismatches) of every row on a small problem, in the interpreter."""
    import torch

    from segattn_triton.catalog import ROWS
    from segattn_triton.testing import make_inputs, matches

    torch.set_num_threads(1)
    count, wrong = 0, []
    for row in ROWS:
        for dtype, layout in ((torch.float32, "contiguous"), (torch.float16, "channels_last")):
            inputs = make_inputs(row, {"N": 2, "C": 5, "S": (5, 6), "Cr": 2}, dtype, layout=layout)
            try:
                found = matches(row, *inputs, **row.both, **row.defaults)
            except Exception as error:
                wrong.append(f"{row.name} {dtype} {layout}: {type(error).__name__}: {error}"[:300])
                continue
            count += len(found)
            wrong += [f"{row.name} {dtype} {layout}: {m.name}: {m.detail}" for m in found if not m.ok]
    return count, wrong


def _child(part: str) -> int:
    import torch
    import triton

    count, wrong = {"compile": compiled, "numerics": compared}[part]()
    for fault in wrong:
        print(fault)
    compiling = f"kernels compiled for sm_90, {' and '.join(AMD)}"
    noun = {"compile": compiling, "numerics": "tensors compared in the interpreter"}[part]
    print(f"torch {torch.__version__}, triton {triton.__version__}: {count} {noun}, {len(wrong)} faults", flush=True)
    return 1 if wrong or not count else 0


def main(folder: str, parts: tuple[str, ...]) -> int:
    if not (Path(folder) / "triton").is_dir():
        print(
            f"FOLDER: got {folder!r}, expected one with triton in it: pip install --no-deps --target FOLDER triton==..."
        )
        return 2
    failed = False
    for part in parts:
        path = os.pathsep.join([str(Path(folder).resolve()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        variables = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1" if part == "numerics" else "0"}
        failed |= subprocess.run([sys.executable, __file__, "--child", part], env=variables).returncode != 0
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(_child(sys.argv[2]))
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    only = sys.argv[2].removeprefix("--").removesuffix("-only") if len(sys.argv) == 3 else None
    sys.exit(main(sys.argv[1], (only,) if only else ("compile", "numerics")))
