"""What the compiler makes of the kernels: of a share of the named cases here, of all of them in `make static`.

No spills, no atomics, wide accesses on aligned shapes, registers and shared memory within the architecture. Compiles
in processes of its own, because Triton interprets in this one.
"""

import os
import subprocess
from pathlib import Path

import pytest
import static_worker
from static_worker import DTYPES, LAYOUTS

from segattn_triton.catalog import OPS

pytestmark = pytest.mark.static
ROWS = [row.name for row in OPS]


@pytest.fixture(scope="module")
def ask():
    """ask(function of static_worker, [arguments]) -> results, from the processes that compile."""
    with static_worker.pool(os.cpu_count() or 1) as pool:
        yield lambda function, *arguments: list(pool.map(function, *arguments))


def test_kernels_have_no_faults(ask):
    jobs = [job for name in ROWS for job in static_worker.selection(name)] + static_worker.variants()
    found = ask(static_worker.findings, jobs)
    assert not (wrong := [fault for faults, _ in found for fault in faults]), "\n".join(wrong)
    assert not (empty := [job for job, (_, count) in zip(jobs, found, strict=True) if not count]), empty


def test_configs_that_were_not_chosen_compile(ask):
    """What a tuner may try: another one of every kernel for each commit."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    found = ask(static_worker.unchosen, [(name, git.stdout.strip()) for name in ROWS])
    assert not (wrong := [fault for faults, _ in found for fault in faults]), "\n".join(wrong)
    assert sum(count for _, count in found) > len(ROWS)


def test_dense_convolution_runs_on_tensor_cores(ask):
    """Warpgroup products of 16-bit operands that accumulate in float32; no spills."""
    variants = [("descriptors", "channels_last"), *(("pointers", layout) for layout in LAYOUTS)]
    each = [(variant, dtype, layout) for variant, layout in variants for dtype in ("bfloat16", "float16")]
    for case, found in zip(each, ask(static_worker.matrix_instructions, *zip(*each, strict=True)), strict=True):
        kind = {"bfloat16": "bf16", "float16": "f16"}[case[1]]
        assert found, case
        assert all(op.startswith("wgmma") and op.endswith(f"f32.{kind}.{kind}") for op in found), (case, found)


def test_neighborhood_attention_up_to_64_channels_a_head(ask):
    """No spills, 128-bit accesses where D is contiguous, tensor cores forward."""
    each = [("bfloat16", "channels_last", D) for D in (16, 32, 64)]
    each += [("bfloat16", "contiguous", 64), ("float16", "channels_last", 64), ("float32", "channels_last", 64)]
    for case, found in zip(each, ask(static_worker.attention_faults, *zip(*each, strict=True)), strict=True):
        assert not found, (case, found)


def test_the_split_pair_compiles_everywhere(ask):
    """What users of NATTEN's split functions launch is in no row: scores, weighted sums, and their gradients."""
    each = [("bfloat16", layout, 90, 3) for layout in LAYOUTS] + [("float32", "channels_last", 90, 3)]
    each += [("float16", "channels_last", arch, 7) for arch in (75, 120, "gfx942")]
    for case, found in zip(each, ask(static_worker.pair_faults, *zip(*each, strict=True)), strict=True):
        assert not found, (case, found)


def test_guard_can_fail(ask):
    """Kernels made to have a fault are caught with it, and with no other; too much memory takes too many registers."""
    planted = {"spilling": "of stack", "narrow": "128-bit", "atomic": "atomics", "greedy": "shared memory"}
    for (kernel, fault), found in zip(planted.items(), ask(static_worker.planted, planted), strict=True):
        assert any(fault in f for f in found), (kernel, found)
        assert kernel == "greedy" or len(found) == 1, (kernel, found)


def test_selection_covers_architectures_dtypes_and_layouts():
    chosen = [job for name in ROWS for job in static_worker.selection(name)]
    assert {job.arch for job in chosen} == set(static_worker.ARCHES)
    assert {(job.dtype, job.layout) for job in chosen} == {(d, layout) for d in DTYPES for layout in LAYOUTS}
    assert len(chosen) == len(set(chosen)) and set(chosen) < set(static_worker.jobs())
