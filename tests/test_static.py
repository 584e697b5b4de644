"""What the compiler makes of the kernels: of a share of the named cases here, of all of them in `make static`.

No spills, no atomics, wide accesses on aligned shapes, registers and shared memory within the architecture. Compiles
in processes of its own, because Triton interprets in this one.
"""

import os

import pytest
import static_worker
from static_worker import DTYPES, LAYOUTS, Job
from support import each_row

pytestmark = pytest.mark.static


@pytest.fixture(scope="module")
def ask():
    """ask(function of static_worker, [arguments]) -> results, from the processes that compile."""
    shared = "PYTEST_XDIST_WORKER" in os.environ
    with static_worker.pool(1 if shared else os.cpu_count() or 1) as pool:
        yield lambda function, *arguments: list(pool.map(function, *arguments))


@each_row
def test_kernels_have_no_faults(row, ask):
    found = ask(static_worker.findings, static_worker.selection(row.name))
    assert not (wrong := [fault for faults, _ in found for fault in faults]), "\n".join(wrong)
    assert all(count for _, count in found), "a problem without kernels"


@each_row
def test_launch_compiles_what_the_plan_says(row, ask):
    """The launch of a GPU, with a driver that only listens: named tuples, stride tuples and None get through."""
    (wrong,) = ask(static_worker.launched_as_planned, [row.name])
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_dense_convolution_runs_on_tensor_cores(dtype, layout, ask):
    """Warpgroup products of 16-bit operands that accumulate in float32."""
    job = Job("local_gate", "segnext-t-stage2", dtype, layout, 90)
    (found,) = ask(static_worker.matrix_instructions, [job])
    kind = {"bfloat16": "bf16", "float16": "f16"}[dtype]
    assert found and all(op.startswith("wgmma") and op.endswith(f"f32.{kind}.{kind}") for op in found), found


def test_cache_key_follows_the_source_of_an_activation(ask):
    (counts,) = ask(static_worker.compiled_per_source, [None])
    assert counts == {"launches": 4, "keys": 3, "first again": 1}


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [("spilling", "of stack"), ("narrow", "128-bit"), ("atomic", "atomics"), ("greedy", "shared memory")],
)
def test_guard_can_fail(kernel, fault, ask):
    """A kernel made to have a fault is caught with it, and with no other but those that follow from it."""
    (found,) = ask(static_worker.planted, [kernel])
    assert any(fault in f for f in found), found
    assert kernel == "greedy" or len(found) == 1, found


def test_selection_covers_architectures_dtypes_and_layouts():
    chosen = [job for name in static_worker.BY_NAME for job in static_worker.selection(name)]
    assert {job.arch for job in chosen} == set(static_worker.ARCHES)
    assert {(job.dtype, job.layout) for job in chosen} == {(d, layout) for d in DTYPES for layout in LAYOUTS}
    assert len(chosen) == len(set(chosen)) and set(chosen) < set(static_worker.jobs())
