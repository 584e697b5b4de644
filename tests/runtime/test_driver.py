"""Launches as a GPU's driver gets them, through Triton's own launcher: where no GPU is, a driver only notes them."""

import itertools
import multiprocessing
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import driver_worker
import pytest
import torch

from segattn_triton.catalog import ROWS

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu launches on the real driver"),
    pytest.mark.skipif(
        not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler to build the driver with"
    ),
]
DOCS = Path(__file__).parents[2] / "docs"
PLACES = [("float16", "contiguous"), ("bfloat16", "channels_last"), ("float32", "contiguous")]
PROBLEMS = [(row.name, *PLACES[(i + j) % 3]) for i, row in enumerate(ROWS) for j in range(3)]


@pytest.fixture(scope="module")
def ask():
    """ask(function of driver_worker, arguments) -> results, from a process that compiles."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda function, arguments: list(pool.map(function, arguments))


@pytest.fixture
def problems(in_turn):
    """By default each row in one of its places: a kernel is compiled once for all of these tests."""
    return in_turn(PROBLEMS, __name__)


def test_launches_are_what_their_plans_say(ask, problems):
    """Grid, threads and every byte of the arguments: named tuples, stride tuples, descriptors and None get through."""
    wrong = list(itertools.chain(*ask(driver_worker.launched_as_planned, problems)))
    assert not wrong, "\n".join(wrong)


def test_a_repeated_call_launches_the_same(ask, problems):
    """From the third call on, a program runs: the same kernels and arguments, with the call's own pointers."""
    wrong = list(itertools.chain(*ask(driver_worker.repeated_as_planned, problems)))
    assert not wrong, "\n".join(wrong)


def test_captures(ask, problems):
    """A kernel that is not loaded is one error, which leaves all as it was; after the calls that the pages ask for, a
    capture launches what a call does."""
    wrong = list(itertools.chain(*ask(driver_worker.captured_as_planned, problems)))
    assert not wrong, "\n".join(wrong)


def test_the_pages_say_how_often_to_call_before_a_capture():
    word = {1: "once", 2: "twice"}[driver_worker.CALLS_BEFORE_CAPTURE]
    for page in ("deployment.md", "path-of-a-call.md"):
        section = (DOCS / page).read_text().partition("## CUDA graphs")[2].partition("\n## ")[0]
        assert re.search(rf"\bcall a module {word} with", section, re.I), page


def test_dependent_launches(ask):
    """By a tuned table: the attribute of what follows another launch, only where the kernel waits by itself."""
    gate = {"mlp_fwd", "mlp_bwd", "apply_bwd", "mlp_dw"}
    chain = {"mlp_fwd", "pair", "convolve_fwd", "chain_fwd", "convolve_bwd", "chain_back", "chain_dx", "mlp_bwd"}
    problems = {("scse", "float16", "contiguous"): gate, ("squeeze_excite", "bfloat16", "channels_last"): gate}
    problems |= {("cbam", "float16", "channels_last"): chain, ("local_gate_depthwise", "float16", "contiguous"): set()}
    ask(driver_worker.launched_as_planned, problems)  # the kernels are known from here on
    for (wrong, dependent), wanted in zip(
        ask(driver_worker.dependent_launches, problems), problems.values(), strict=True
    ):
        assert not wrong, "\n".join(wrong)
        assert wanted <= set(dependent)
        first = {"pool_fwd", "pool_bwd", "scse_bwd", "chain_sums", "stencil_fwd", "stencil_bwd"}  # of an op
        assert not first & set(dependent)


def test_the_prepared_step_has_early_launches(ask):
    """Every point of it, with its table on, and none with it off."""
    (found,) = ask(driver_worker.prepared_points, [None])
    assert len(found) > 20 and all(on and not off for _, off, on in found), found


def test_cache_key_follows_the_source_of_an_activation(ask):
    assert ask(driver_worker.compiled_per_source, [None]) == [[0, 1, 0]]


def test_other_launches_are_told_apart():
    """A launch with another integer, with swapped pointers, or none."""
    a, b, n = (2**45).to_bytes(8, "little"), (2**45 + 64).to_bytes(8, "little"), (7).to_bytes(4, "little")
    run = ([driver_worker.Launched(1, 2, 128, a + b + n)], [2**45, 2**45 + 64])
    assert not driver_worker._differences(run, run)
    for arguments in (a + b + (8).to_bytes(4, "little"), b + a + n, a + a + n):
        assert driver_worker._differences(([driver_worker.Launched(1, 2, 128, arguments)], run[1]), run), arguments
    assert driver_worker._differences(([driver_worker.Launched(1, 3, 128, a + b + n)], run[1]), run)
    side, far = (300).to_bytes(4, "little"), (2**46).to_bytes(8, "little")  # a side beside half a pointer is none
    near = [driver_worker.Launched(1, 2, 128, a + side + b + side)], []
    assert not driver_worker._differences(near, ([driver_worker.Launched(1, 2, 128, a + side + far + side)], []))
    assert driver_worker._differences(([], run[1]), run) and driver_worker._differences(([], []), ([], []))
