"""The kernels under another release of Triton or torch: compiled, and their numbers in its interpreter.

    python tests/support/versions.py FOLDER [--part numerics | compile] [--share N]

FOLDER holds that release: `pip install --no-deps --target FOLDER triton==3.6.0`, or with all that torch needs
`pip install --target FOLDER torch==2.11.0`; for Triton 3.6 `numpy==2.3.5` as well, because its interpreter fails with
numpy 2.4. Every kernel of every row is compiled as chosen for the row's first case: for sm_90 in each dtype and layout,
and with every other pool, tie or border; for AMD in float32 and bfloat16. Then every row is compared with the reference
on a small problem. `--share N` compiles one in N of the problems, chosen by their names: of each row some, and the
same ones everywhere. Exits 1 on any fault.
"""

import argparse
import itertools
import os
import subprocess
import sys
import zlib
from pathlib import Path

DTYPES, LAYOUTS = ("bfloat16", "float16", "float32"), ("contiguous", "channels_last")
PARTS = ("compile", "numerics")
SLOW = ("bytes of stack", "bytes in flight", " waves", "in 128-bit accesses")
AMD = ("gfx942", "gfx1100")  # warps of 64 threads, and of 32


def compiled(share: int) -> tuple[int, list[str]]:
    """(kernels, faults) of every row's first case, as compiled for sm_90 and for GPUs of AMD's."""
    import static_ledger
    from static_ledger import BY_NAME, Job

    rows = BY_NAME.values()
    jobs = [Job(row.name, row.cases[0].name, d, s, 90) for row in rows for d in DTYPES for s in LAYOUTS]
    amd = itertools.product(rows, ("float32", "bfloat16"), LAYOUTS, AMD)
    jobs += [Job(row.name, row.cases[0].name, *problem) for row, *problem in amd]
    chosen = [job for job in jobs if is_in_share(f"{job.problem} {job.arch}", share)]
    others = [job for job in static_ledger.variants() if is_in_share(job.problem, share)]
    found = list(itertools.chain(*(static_ledger.compiled((job, None)) for job in chosen)))
    optional = list(itertools.chain(*(static_ledger.compiled((job, None)) for job in others)))
    print(f"{len(chosen)} of {len(jobs)} problems, {len(others)} with other pools, ties or borders", flush=True)
    return len(found) + len(optional), list(itertools.chain(*map(_of_any_release, found + optional)))


def is_in_share(name: str, share: int) -> bool:
    return zlib.crc32(name.encode()) % share == 0


def _of_any_release(faults: list[str]) -> list[str]:
    """Without those of speed alone, of which the pinned release is free: 3.6 keeps 8 to 24 bytes of five kernels on the
    stack."""
    return [fault for fault in faults if not fault.endswith(SLOW)]


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


def _child(part: str, share: int) -> int:
    import torch
    import triton

    count, wrong = compiled(share) if part == "compile" else compared()
    for fault in wrong:
        print(fault)
    compiling = f"kernels compiled for sm_90, {' and '.join(AMD)}"
    noun = {"compile": compiling, "numerics": "tensors compared in the interpreter"}[part]
    print(f"torch {torch.__version__}, triton {triton.__version__}: {count} {noun}, {len(wrong)} faults", flush=True)
    return 1 if wrong or not count else 0


def main(folder: str, parts: tuple[str, ...], share: int) -> int:
    if not (Path(folder) / "triton").is_dir():
        print(
            f"FOLDER: got {folder!r}, expected one with triton in it: pip install --no-deps --target FOLDER triton==..."
        )
        return 2
    failed = False
    for part in parts:
        path = os.pathsep.join([str(Path(folder).resolve()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        variables = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1" if part == "numerics" else "0"}
        words = [sys.executable, __file__, folder, "--share", str(share), "--child", part]
        failed |= subprocess.run(words, env=variables).returncode != 0
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--part", choices=PARTS, action="append", help="one of them; otherwise both")
    parser.add_argument("--share", type=int, default=1, help="compile one in so many problems")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.exit(_child(options.child, options.share))
    sys.exit(main(options.folder, tuple(options.part or PARTS), options.share))
