"""The grids of kernels that loop: whole waves of what SMs hold, the same in every process on one model of GPU."""

import itertools
import os
import random
import subprocess
import sys

import torch
from support import each_gate

from segattn_triton import compiled
from segattn_triton.catalog import ROWS
from segattn_triton.tuning import target
from segattn_triton.tuning.grids import FULL, TRIED, filled, sharing
from segattn_triton.tuning.model import REGISTERS, Config

SIZES = {"N": 8, "C": 64, "S": (128, 130), "Cr": 16}


def looping(row, sms: int | None = None) -> list:
    """The plans of kernels that loop, for an H200 or one with other SMs."""
    with target.planning_for(90, sms):
        inputs = [torch.empty(row.shape(spec, row.complete(SIZES)), device="meta") for spec in row.inputs.values()]
        plans = itertools.chain(*compiled.planned(row.op, *inputs, **row.defaults))
        return [plan for plan in plans if plan.config.programs]


def test_programs_fill_whole_waves():
    """One wave that no program waits for; of more units than slots, a last wave that is nearly full if one can be."""
    draw, several = random.Random(0), 0
    for _ in range(2000):
        tiles, units = draw.randint(1, 400), draw.randint(1, 3000)
        programs, sms, most = (
            draw.choice((1, 2, 3, 4, 8, 16)),
            draw.choice((1, 14, 40, 108, 132, 188)),
            draw.randint(1, 500),
        )
        slots, share = programs * sms, sharing(tiles, Config({}, programs=programs), sms, units, most)
        assert 1 <= share <= min(tiles, most)
        if units <= slots:
            assert share * units <= slots
        else:
            best = max(filled(p * units / slots) for p in range(1, min(tiles, most, TRIED) + 1))
            assert filled(share * units / slots) >= FULL or best < FULL or tiles > share, (tiles, units, slots, share)
            several += filled(share * units / slots) >= FULL
        rounds = -(-tiles // share)
        assert share == 1 or -(-tiles // (share - 1)) > rounds  # one program less would take a round more
    assert several > 100
    assert sharing(0, Config({}, programs=4), 132) == 0


def test_planned_programs_fit_by_their_registers():
    """Whatever a compiler would take, a thread may not have more than leaves room for the programs of the config."""
    for row in ROWS:
        for plan in looping(row):
            config = plan.config
            limit = config.maxnreg or target.MOST_REGISTERS
            assert -(-limit // 8) * 8 * 32 * config.num_warps * config.programs <= REGISTERS, plan.name
            assert 8 <= config.num_warps * config.programs <= 32


@each_gate
def test_partial_sums_follow_the_gpu(row):
    """Their number is another on a GPU with other SMs, or on a slice of one; the same whatever was planned before."""
    grids = {sms: [(plan.name, plan.grid) for plan in looping(row, sms)] for sms in (132, 78, 16, 132)}
    assert grids[132] == [(plan.name, plan.grid) for plan in looping(row)]
    if grids[132]:
        assert grids[132] != grids[16]
    for sms, plans in ((sms, looping(row, sms)) for sms in grids):
        for plan in plans:
            assert plan.grid <= plan.config.programs * sms or filled(plan.grid / (plan.config.programs * sms)) >= FULL


def everything(rows) -> str:
    return repr([(p.name, p.grid, p.config) for row in rows for p in looping(row)])


def test_another_process_plans_the_same():
    """Of another hash seed, which plans in another order."""
    code = "import test_grids as t; t.everything(t.ROWS[::-1]); print(t.everything(t.ROWS))"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == everything(ROWS)


def test_the_sms_of_a_device_are_asked_once(monkeypatch):
    asked = []
    properties = type("Properties", (), {"multi_processor_count": 78})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: asked.append(index) or properties)
    target.sms_of.cache_clear()
    try:
        assert [target.sms(torch.device("cuda", i)) for i in (0, 1, 0)] == [78, 78, 78] and asked == [0, 1]
    finally:
        target.sms_of.cache_clear()
    assert target.sms(torch.device("cpu")) == target.sms(torch.device("meta")) == 132
    with target.planning_for(80):
        assert target.sms(torch.device("cuda")) == 108


def test_who_gets_all_registers():
    """A kernel with many live values on every GPU of NVIDIA's but Hopper, there where it is asked for."""
    config, device = Config({"BLOCK_P": 64}), torch.device("cpu")
    for arch, hopper, most in ((80, False, True), (90, False, False), (90, True, True), (100, False, True)):
        with target.planning_for(arch):
            given = target.with_all_registers(config, device, hopper).maxnreg
            assert given == (target.MOST_REGISTERS if most else None), (arch, hopper)
