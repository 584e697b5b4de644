"""The account of time, tested before it judges: kernels whose time is known, and an account made by hand before it."""

import os
import zlib

import account_worker
import pytest
import static_ledger

from segattn_triton.catalog import ROWS
from segattn_triton.perf.account import assumptions as assumed
from segattn_triton.perf.account.sass import Instruction, parse
from segattn_triton.perf.account.warp import Lost, play
from segattn_triton.perf.account.warp import Path as Played

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
    ("scse", "apply_bwd", "contiguous", 64, 512, {"BLOCK_C": 1, "BLOCK_P": 4096}, 4, 189),
    ("scse", "apply_bwd", "contiguous", 64, 512, {"BLOCK_C": 16, "BLOCK_P": 256}, 4, 125),
    ("spatial_gate", "spatial_fwd", "contiguous", 64, 512, {"BLOCK_P": 128}, 4, 125),
    ("spatial_gate", "spatial_bwd", "contiguous", 64, 512, {"BLOCK_P": 64}, 4, 187),
]


@pytest.fixture(scope="module")
def ask():
    with static_ledger.pool(os.cpu_count() or 1) as pool:
        yield lambda function, *arguments: list(pool.map(function, *arguments))


def test_a_copy_takes_the_time_of_a_copy(ask):
    for nbytes, time in ask(account_worker.copy, list(assumed.MACHINES)):
        assert nbytes == 2 * 2 * 2**27
        assert 1.0 <= time <= 1 / 0.95


def test_other_gpus_move_what_an_h200_moves(ask, commit):
    """Their machine code is another, and their choices are; a row's passes are not."""
    rows = ("spatial_gate", "channel_gate", "scse", "eca", "effective_se", "spatial_pool_gate", "gate_mul")
    others = [arch for arch in assumed.MACHINES if arch != 90]
    draw = zlib.crc32(commit.encode())
    each = [(rows[(draw + i) % len(rows)], ("contiguous", "channels_last")[i % 2], a) for i, a in enumerate(others)]
    for question, found in zip(each, ask(account_worker.passes_elsewhere, each), strict=True):
        assert all(passes == pytest.approx(of_h200, rel=0.06) for passes, of_h200 in found), (question, found)


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


def test_every_access_is_where_it_should_be(ask, commit, request):
    """All warps of all programs of small problems: every address is known and lies in its buffer, and together they
    store all of y and dx. Two rows for each commit, all over time.

    Not of coordinate attention: its vectors are parts of one tensor, of which only the first part's bytes are known.
    """
    draw, share = zlib.crc32(commit.encode()), request.config.getoption("share") or len(ROWS) // 2
    known = [not row.name.startswith("coordinate_attention") for row in ROWS]
    rows = [row.name for i, row in enumerate(ROWS) if (i + draw) % share == 0 and known[i]]
    layouts = [static_ledger.LAYOUTS[(i + draw) % 2] for i in range(len(rows))]
    for row, wrong in zip(rows, ask(account_worker.covered, rows, layouts), strict=True):
        assert not wrong, (row, wrong)


def played(*lines: str) -> tuple[Played, dict[str, list[int]]]:
    """The path of a warp, and of each kind of access the addresses of all lanes, in order."""
    code = []
    for i, line in enumerate(lines):
        guard, rest = line[1:].split(" ", 1) if line.startswith("@") else ("", line)
        opcode, _, operands = rest.partition(" ")
        words = tuple(word.strip() for word in operands.split(",") if word)
        code.append(Instruction(16 * i, guard, opcode, words))
    path = play(code, {}, (0, 0, 0))
    found: dict[str, list[int]] = {}
    for access in path.accesses.values():
        found.setdefault(access.kind, []).extend(access.starts.tolist())
    return path, found


def test_lanes_that_part_go_both_ways_and_meet():
    """Each with registers of its own: what one side loads does not reach the other's, and the end is played once."""
    path, found = played(
        "S2R R0, SR_TID.X",
        "MOV R3, 0x100",
        "MOV R2, 0x800",
        "ISETP.GE.AND P0, PT, R0, 0x10, PT",
        "@P0 BRA 0x80",
        "MOV R4, R2",
        "LDG.E R2, desc[UR4][R2.64]",
        "BRA 0xa0",
        "MOV R4, 0x400",
        "IADD3 R4, R4, R2, RZ",
        "LEA R4, R0, R4, 0x2",
        "MOV R5, 0x100",
        "STG.E desc[UR4][R4.64], R0",
        "EXIT",
    )
    base = 0x100 << 32
    assert found["load"] == [base + 0x800] * 16
    assert sorted(found["store"]) == [base + (0x800 if i < 16 else 0xC00) + 4 * i for i in range(32)]
    assert path.steps.count(12) == 1 and len(path.steps) == 14


def test_a_loop_turns_as_often_as_each_lane_wants():
    """The first lane loads once, the last 32 times; those that have left wait."""
    path, found = played(
        "S2R R0, SR_TID.X",
        "MOV R3, 0x100",
        "MOV R2, RZ",
        "LDG.E R7, desc[UR4][R2.64]",
        "ISETP.GE.AND P0, PT, R2, R0, PT",
        "IADD3 R2, R2, 0x1, RZ",
        "@!P0 BRA 0x30",
        "LEA R2, R0, R2, 0x8",
        "STG.E desc[UR4][R2.64], R0",
        "EXIT",
    )
    assert len(found["load"]) == sum(range(1, 33)) and path.steps.count(3) == 32
    assert found["store"] == [(0x100 << 32) + 256 * i + i + 1 for i in range(32)] and path.steps.count(8) == 1


def decided_by_memory(branch):
    return played(
        "MOV R3, 0x100",
        "MOV R2, 0x800",
        "LDG.E R4, desc[UR4][R2.64]",
        "FSETP.NEU.AND P0, PT, R4, RZ, PT",
        branch,
        "STG.E desc[UR4][R2.64], R4",
        "EXIT",
    )


@pytest.mark.parametrize(("branch", "stores"), [("@P0 EXIT", 0), ("@P0 BRA 0x60", 0), ("@PT BRA 0x50", 1)])
def test_what_a_number_in_memory_decides_is_passed_by(branch, stores):
    """As a fallback for what is not finite: not gone into, also where it ends the program."""
    path, found = decided_by_memory(branch)
    assert len(found["load"]) == 32 and len(found.get("store", ())) == 32 * stores
    assert len(path.steps) == len(set(path.steps))


def test_a_loop_that_memory_decides_has_no_time():
    with pytest.raises(Lost, match="whether BRA at 0x40 goes back is unknown"):
        decided_by_memory("@P0 BRA 0x0")


def test_a_compare_and_swap_succeeds_at_once():
    path, _ = played(
        "MOV R3, 0x100",
        "MOV R2, 0x800",
        "ATOMG.E.CAS.STRONG.GPU PT, R5, [R2], R4, R6",
        "ISETP.NE.U32.AND P0, PT, R5, R4, PT",
        "@P0 BRA 0x20",
        "EXIT",
    )
    assert path.steps.count(2) == 1


def test_a_loop_turns_by_a_bit_of_a_register_that_was_never_written_whole():
    """As a compiler keeps a predicate that it has no place for."""
    path, _ = played(
        "MOV R3, RZ",
        "IADD3 R3, R3, 0x1, RZ",
        "ISETP.GE.AND P2, PT, R3, 0x5, PT",
        "LOP3.LUT R5, R5, 0xbfffffff, RZ, 0xc0, !PT",
        "@P2 LOP3.LUT R5, R5, 0x40000000, RZ, 0xfc, !PT",
        "LOP3.LUT P0, RZ, R5, 0x40000000, RZ, 0xc0, !PT",
        "@!P0 BRA 0x10",
        "EXIT",
    )
    assert path.steps.count(1) == 5


@pytest.mark.parametrize("u", ["", "U"])
def test_predicates_that_wait_in_a_word(u):
    """Of a thread and of a warp: packed, and unpacked once they have meant something else."""
    compare = f"{u}ISETP.{{}}.AND {u}P{{}}, {u}PT, {u}RZ, {{}}, {u}PT".format
    pack, unpack = ("P2R", "R2P") if not u else ("UP2UR", "UR2UP")
    _, found = played(
        "MOV R3, 0x100",
        "MOV R2, 0x800",
        compare("EQ", 1, f"{u}RZ"),
        compare("NE", 2, f"{u}RZ"),
        f"{pack} {u}R6, {u}PR, {u}RZ, 0x6",
        compare("NE", 1, f"{u}RZ"),
        compare("EQ", 2, f"{u}RZ"),
        f"{unpack} {u}PR, {u}R6, 0x6",
        f"@{u}P1 LDG.E R4, desc[UR4][R2.64]",
        f"@{u}P2 STG.E desc[UR4][R2.64], R4",
        f"{u}ISETP.NE.AND {u}P3, {u}PT, {u}R6, 0x2, {u}PT",
        f"@!{u}P3 STG.E desc[UR4][R2.64+0x100], R4",
        "EXIT",
    )
    base = (0x100 << 32) + 0x800
    assert found == {"load": [base] * 32, "store": [base + 0x100] * 32}


def test_places_that_follow_from_floating_point_numbers():
    """Of 32 pixels of a row at 0.75 of its scale, in both widths: floor((x + 0.5) 3 / 4 - 0.5), none below zero."""
    ends = ("LEA R4, R6, 0x800, 0x2", "MOV R5, 0x100", "LDG.E R8, desc[UR4][R4.64]", "EXIT")
    narrow = (
        "I2FP.F32.U32 R1, R0",
        "FADD R1, R1, 0.5",
        "FFMA R1, R1, 0.75, -0.5",
        "FMNMX R1, RZ, R1, !PT",
        "FSETP.GEU.AND P0, PT, |R1|, 1000, PT",
        "FSEL R1, R1, -R1, !P0",
    )
    wide = ("I2F.F64.U32 R10, R0", "DADD R10, R10, 0.5", "DFMA R10, R10, 0.75, -0.5", "F2F.F32.F64 R1, R10")
    wanted = [max(0, int((x + 0.5) * 0.75 - 0.5)) for x in range(32)]
    for way in (narrow, (*wide, "FMNMX R1, RZ, R1, !PT")):
        _, found = played("S2R R0, SR_TID.X", *way, "F2I.TRUNC.NTZ R6, R1", *ends)
        assert found["load"] == [(0x100 << 32) + 0x800 + 4 * place for place in wanted]


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
