"""What the compiler makes of the kernels: of the named cases, by the ledger of `make static`.

No spills, no atomics, wide accesses on aligned shapes, registers and shared memory within the architecture. Compiles
in processes of its own, because Triton interprets in this one.
"""

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import static_exceptions
import static_ledger
import static_worker
import window_bars
from static_ledger import DTYPES, LAYOUTS
from support import kernel_modules

from segattn_triton.catalog import BY_NAME

pytestmark = pytest.mark.static
ROWS = tuple(BY_NAME)


@pytest.fixture(scope="module")
def ask():
    """ask(function of static_worker, [arguments]) -> results, from the processes that compile."""
    with static_ledger.pool(os.cpu_count() or 1) as pool:
        yield lambda function, *arguments: list(pool.map(function, *arguments))


def test_kernels_have_no_faults(commit):
    """All named problems for sm_90, a row's first elsewhere: compiled are those that the ledger lacks, and a share."""
    command = [sys.executable, static_ledger.__file__, "--sample", commit]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0 and run.stdout.endswith(" 0 problems with faults\n"), run.stdout[-10000:]


def test_ledger_knows_every_named_problem():
    """In every dtype and layout, and each value of every option; by the pinned Triton."""
    compiler, known = static_ledger.read()
    assert known.keys() == {(job.problem, str(job.arch)) for job in static_ledger.jobs()}
    assert len(known) == len(static_ledger.jobs())
    assert f"triton=={compiler}\n" in (Path(__file__).parents[2] / "constraints.txt").read_text()


def test_ledger_follows_what_compiled_code_follows_from(ask):
    """A hash is another with every change that may change the code, but not where a kernel moves in its file."""
    ((first, moved, *changed),) = ask(static_worker.hashes_of_changes, [None])
    assert moved == first
    assert len({first, *changed}) == 1 + len(changed) == 7


def test_ledger_can_fail(ask):
    """A problem with a fault is compiled and found where the ledger is old, and by the share of a commit where it is
    wrong; it is never written."""
    (found,) = ask(static_worker.lines_of_a_fault, [None])
    assert found["written"] == [("another", "75")] and found["unchanged"] == []
    for ledger in ("old", "wrong"):
        (count, fault) = found[ledger]
        assert count == 1 and fault.endswith("bytes of stack"), found
    # a fault, none, another kernel's: by an exception that names the problem, is like it, is not
    assert found["excused"] == [[0, 1, 2], [0, 0, 1], [1, 0, 1]]


def test_exceptions_are_of_problems_that_are():
    """Each names problems that there are; all are compiled for sm_90."""
    known = {job.problem for job in static_ledger.jobs()}
    for exemption in static_exceptions.EXEMPTIONS:
        where = exemption.kernel, exemption.arch, exemption.fault
        assert exemption.exact <= known, (where, exemption.exact - known)
        assert any(exemption.excuses(p, exemption.arch, *where[::2]) for p in known), where


def test_ledger_of_another_triton_is_not_asked():
    """There the share of the commit alone is compiled."""
    jobs = static_ledger.jobs()
    hashes, share = dict.fromkeys(jobs, "0"), static_ledger.drawn("some commit")
    assert static_ledger.chosen(hashes, None, commit="some commit") == share
    assert static_ledger.chosen(hashes, {}, commit="some commit")[: len(share)] == share
    assert len(static_ledger.chosen(hashes, {}, commit="some commit")) == len(jobs) > len(share)


def test_sample_covers_what_a_ledger_holds():
    drawn = [static_ledger.drawn(f"commit {i}") for i in range(150)]
    jobs = {job for chosen in drawn for job in chosen}
    assert all(
        len(set(chosen)) == len(chosen) and {j.arch for j in chosen} == set(static_ledger.ARCHES) for chosen in drawn
    )
    assert {(j.row, j.dtype, j.layout) for j in jobs} == {
        (r, d, layout) for r in ROWS for d in DTYPES for layout in LAYOUTS
    }
    assert len(jobs) > len(static_ledger.jobs()) / 2


def test_configs_that_were_not_chosen_compile(ask, commit, in_turn):
    """What a tuner may try: another one of every kernel, of rows that each commit draws."""
    rows = in_turn(in_turn(ROWS, commit), f"{commit} again")
    found = ask(static_worker.unchosen, [(name, commit) for name in rows])
    assert not (wrong := [fault for faults, _ in found for fault in faults]), "\n".join(wrong)
    assert sum(count for _, count in found) > len(rows)


def test_dense_convolution_runs_on_tensor_cores(ask):
    """Warpgroup products of 16-bit operands that accumulate in float32; no spills."""
    variants = [("descriptors", "channels_last"), *(("pointers", layout) for layout in LAYOUTS)]
    each = [(variant, dtype, layout) for variant, layout in variants for dtype in ("bfloat16", "float16")]
    for case, found in zip(each, ask(static_worker.matrix_instructions, *zip(*each, strict=True)), strict=True):
        kind = {"bfloat16": "bf16", "float16": "f16"}[case[1]]
        assert found, case
        assert all(op.startswith("wgmma") and op.endswith(f"f32.{kind}.{kind}") for op in found), (case, found)


def test_neighborhood_attention_up_to_64_channels_a_head(ask, commit, in_turn):
    """No spills, 128-bit accesses where D is contiguous, tensor cores forward and backward."""
    each = [("bfloat16", "channels_last", D, 3) for D in (16, 32, 64)]
    each += [(dtype, "channels_last", 64, 3) for dtype in ("float16", "float32")]
    each += [("bfloat16", "channels_last", 32, 7), ("float16", "channels_last", 64, 13)]
    each += [("bfloat16", "contiguous", 64, 3), ("bfloat16", "contiguous", 32, 7), ("bfloat16", "contiguous", 32, 13)]
    # two registers too many since the next chunk is loaded ahead, as for the named problems of D = 64
    known = {("float16", "channels_last", 64, 3): ["neighborhood_patch_dkv: 8 bytes of stack"]}
    each = in_turn(each, commit)
    for case, found in zip(each, ask(static_worker.attention_faults, *zip(*each, strict=True)), strict=True):
        assert found == known.get(case, []), (case, found)


def test_windows_of_stages_meet_their_bars(ask, commit):
    """Of stages that a commit draws, one in each memory order; `make static` asks for all."""
    draw = random.Random(commit)
    drawn = [draw.choice([place for place in window_bars.ASKED if place[1] == layout]) for layout in LAYOUTS]
    found = [line for lines in ask(window_bars.missed, *zip(*drawn, strict=True)) for line in lines]
    assert not found, "\n".join(found)


def test_the_split_pair_compiles_everywhere(ask, commit, in_turn):
    """What users of NATTEN's split functions launch is in no row: scores, weighted sums, and their gradients."""
    each = [("bfloat16", layout, 90, 3) for layout in LAYOUTS] + [("float32", "channels_last", 90, 3)]
    each += [("float16", "channels_last", arch, 7) for arch in (75, 120, "gfx942")]
    each = in_turn(each, commit)
    for case, found in zip(each, ask(static_worker.pair_faults, *zip(*each, strict=True)), strict=True):
        assert not found, (case, found)


def test_dependent_kernels_wait_first(ask, commit, in_turn):
    """All that can be launched dependently, compiled in turn, and a kernel made to load before it waits."""
    rows = ["scse", "eca", "spatial_gate", "cbam", "squeeze_excite_norm", "cbam_spatial_gate_norm"]
    rows += ["local_gate_depthwise", "local_gate library", "local_gate pointers", "local_gate descriptors"]
    rows += ["gate_mul", "gate_mul vector", "gate_mul_resized", "gate_blend", "global_response_norm", "attention_gate"]
    rows += ["simam contiguous", "simam channels_last", "global_context", "global_context_add"]
    rows += ["coordinate_attention", "pixel_adaptive_refinement", "radix_blend"]
    assert not (wrong := list(itertools.chain(*ask(static_worker.dependent, in_turn(rows, commit))))), wrong
    kernels = [value for module in kernel_modules() for value in vars(module).values()]
    able = {k.fn.__name__ for k in kernels if "DEPENDENT" in getattr(k, "arg_names", ())} - {"begin"}
    names = itertools.chain(*ask(static_worker.names_of_dependent, rows))
    assert able == {f"_{name}_kernel" for name in names}
    assert ask(static_worker.loads_before_it_waits, [None]) == [False]


def test_loops_on_older_gpus(ask):
    """Asynchronous copies on sm_80, loads ahead of their use on sm_75 keep enough in flight; the ledger asks that
    of every named problem for sm_90."""
    each = [(name, arch) for arch in (80, 75) for name in ("channel_gate", "scse", "local_pool_gate")]
    found = ask(static_worker.thin_loops, *zip(*each, strict=True))
    assert not (wrong := [fault for faults, _ in found for fault in faults]), wrong
    assert all(count > 1 for _, count in found), found


def test_pipelining_changes_no_bit(ask):
    """Config and grid as they are, loops with and without loads ahead have the same arithmetic: operation by operation
    on the same values of each thread, fused alike. The interpreter knows no stages, and a GPU runs what is compared."""
    each = [("channel_gate", "channels_last"), ("squeeze_excite", "contiguous"), ("scse", "contiguous")]
    each += [("scse", "channels_last"), ("local_gate", "channels_last"), ("cbam", "channels_last")]
    each += [("attention_gate", "channels_last"), ("local_gate_depthwise", "channels_last")]
    found = ask(static_worker.pipelined, *zip(*each, strict=True))
    assert not (wrong := [fault for faults, _ in found for fault in faults]), wrong
    names = {name for _, some in found for name in some}
    assert {"pool_fwd", "pool_bwd", "scse_bwd", "conv_bwd", "chain_sums", "chain_back", "additive_dw"} <= names, names
    assert ask(static_worker.arithmetic_of_two_configs, [None]) == [False]


def test_guard_can_fail(ask):
    """Kernels made to have a fault are caught with it, and with no other; too much memory takes too many registers."""
    planted = {"spilling": "of stack", "narrow": "128-bit", "atomic": "atomics", "greedy": "shared memory"}
    for (kernel, fault), found in zip(planted.items(), ask(static_worker.planted, planted), strict=True):
        assert any(fault in f for f in found), (kernel, found)
        assert kernel == "greedy" or len(found) == 1, (kernel, found)
