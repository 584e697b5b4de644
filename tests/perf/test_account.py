"""The account of time, tested before it judges: kernels whose time is known, and an account made by hand before it."""

import os
import zlib
from pathlib import Path

import account_worker
import pytest
import static_ledger

from segattn_triton.catalog import ROWS
from segattn_triton.perf.account import assumptions as assumed
from segattn_triton.perf.account.sass import parse

pytestmark = pytest.mark.static

# kernel, layout, C, side, config, warps, microseconds by hand: plain loops, N = 8, bfloat16
BY_HAND = [
    ("channel_gate", "pool_fwd", "channels_last", 64, 512, {"BLOCK_C": 32, "BLOCK_P": 256}, 4, 189),
    ("channel_gate", "pool_fwd", "channels_last", 128, 256, {"BLOCK_C": 128, "BLOCK_P": 64}, 4, 92),
    ("channel_gate", "pool_fwd", "contiguous", 128, 256, {"BLOCK_C": 32, "BLOCK_P": 256}, 4, 83),
    ("channel_gate", "pool_fwd", "contiguous", 256, 512, {"BLOCK_C": 2, "BLOCK_P": 4096}, 4, 313),
    ("channel_gate", "pool_bwd", "channels_last", 64, 512, {"BLOCK_C": 64, "BLOCK_P": 64}, 4, 205),
    ("channel_gate", "pool_bwd", "contiguous", 64, 512, {"BLOCK_C": 2, "BLOCK_P": 4096}, 8, 143),
    ("scse", "scse_bwd", "contiguous", 64, 512, {"BLOCK_P": 64}, 4, 246),
    ("scse", "apply_bwd", "contiguous", 64, 512, {"BLOCK_C": 1, "BLOCK_P": 4096}, 4, 280),
    ("scse", "apply_bwd", "contiguous", 64, 512, {"BLOCK_C": 16, "BLOCK_P": 256}, 4, 125),
    ("spatial_gate", "spatial_fwd", "contiguous", 64, 512, {"BLOCK_P": 128}, 4, 125),
    ("spatial_gate", "spatial_bwd", "contiguous", 64, 512, {"BLOCK_P": 64}, 4, 187),
]


@pytest.fixture(scope="module")
def ask():
    with static_ledger.pool(os.cpu_count() or 1) as pool:
        yield lambda function, *arguments: list(pool.map(function, *arguments))


def test_a_copy_takes_the_time_of_a_copy(ask):
    ((nbytes, time),) = ask(account_worker.copy, [None])
    assert nbytes == 2 * 2 * 2**27
    assert 1.0 <= time <= 1 / 0.95


def test_serial_loads_take_their_round_trips(ask):
    """A chase has all of its trips exposed, whatever a trip takes."""
    ((found),) = ask(account_worker.chase, [None])
    for trips, time in found.values():
        assert trips == account_worker.STEPS
        assert account_worker.STEPS <= time <= account_worker.STEPS * 1.1 + 1


def test_a_pipelined_loop_exposes_fewer_trips(ask):
    """A plain loop has no more in flight than ptxas unrolls, four rounds; of three stages the first wait is long."""
    plain, pipelined = ask(account_worker.rounds, [1, 3])
    assert plain[1] == pipelined[1] == 24 * 512 * 4
    assert 24 // 4 <= plain[0] <= 24 and pipelined[0] <= 24 // 2 + 1


def test_the_guard_of_loops_can_fail(ask):
    """Too few bytes in flight, and a last wave that is nearly empty, are found, each alone."""
    few, filled, late = ask(account_worker.loop_faults, [("gather", 132), ("sum", 132), ("sum", 132 * 16 + 1)])
    assert len(few) == 1 and few[0].endswith(" bytes in flight")
    assert filled == []
    assert len(late) == 1 and late[0].endswith(" waves")


def test_boxes_of_a_descriptor_are_loaded_and_waited_for(ask):
    """Of a dense gate: nine boxes of the map and of the weight a program, and the map again; what its products take;
    and the time is no less than the L2 cache takes to bring them."""
    ((found),) = ask(account_worker.descriptors, [None])
    assert found["boxes"] == 2 * 9 and found["waits"] == 9
    assert found["x"] == 10 * 128 * 64 * 2 and found["weight"] == 9 * 64 * 64 * 2
    assert found["matrix"] == pytest.approx(9 * 128 * 64 * 64 / assumed.MATRIX["HGMMA"])
    assert found["time"] >= found["L2"] > 0


def test_bytes_count_once_however_loads_overlap(ask):
    """Loads of two bytes, moved by an element and strided, before the same bytes at once."""
    ((loaded, size),) = ask(account_worker.overlapping, [None])
    assert loaded == size


def test_the_account_by_hand_is_met(ask):
    """Within 15 %."""
    *problems, by_hand = zip(*BY_HAND, strict=True)
    for line, hand, (time, limit) in zip(BY_HAND, by_hand, ask(account_worker.earlier, *problems), strict=True):
        assert abs(time / hand - 1) < 0.15, (line, time, limit)


def test_every_access_is_where_it_should_be(ask):
    """All warps of all programs of small problems: every address is known and lies in its buffer, and together they
    store all of y and dx. A few rows for each day's text of this file, all over time."""
    draw = zlib.crc32(Path(assumed.__file__).read_bytes())
    # of logits of another resolution the addresses follow from floating-point numbers, which the player does not keep
    rows = [row.name for i, row in enumerate(ROWS) if (i + draw) % 4 == 0 and row.name != "gate_mul_resized"]
    layouts = [static_ledger.LAYOUTS[(i + draw) % 2] for i in range(len(rows))]
    for row, wrong in zip(rows, ask(account_worker.covered, rows, layouts), strict=True):
        assert not wrong, (row, wrong)


def test_the_schedule_is_read():
    """Of an LDG of sm_90 that sets barrier 2, after it an instruction that waits for it."""
    text = """
        /*0000*/                   LDG.E.128 R4, desc[UR4][R2.64] ;       /* 0x0000000402047981 */
                                                                          /* 0x000ea2000c1e1d00 */
        /*0010*/              @!P0 FADD R8, R4, R5 ;                      /* 0x0000000504087221 */
                                                                          /* 0x004fca0000000000 */
    """
    load, add = parse(text)
    assert load.writes == ("R4", "R5", "R6", "R7") and load.bits == 128
    assert load.sets == (2, 7) and add.waits == [2] and add.stall == 5 and add.guard == "!P0"
