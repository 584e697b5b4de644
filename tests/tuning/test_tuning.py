"""The choice of a config: deterministic, from the user's table, the shipped one, the nearest, the model; never from
a file that is no table of this package for this GPU."""

import itertools
import json
import logging
import multiprocessing
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import problem

from segattn_triton import compiled
from segattn_triton.catalog import BY_NAME, ROWS
from segattn_triton.tuning import choice as tuning
from segattn_triton.tuning import tables as tuned
from segattn_triton.tuning import target
from segattn_triton.tuning.tables import Table

GATE = BY_NAME["spatial_gate"]
SIZES = {"N": 8, "C": 64, "S": (128, 128), "Cr": 32}
H200 = dict(device="NVIDIA H200", capability=90)


each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def plans(row=GATE, sizes=SIZES, **how):
    return list(itertools.chain(*compiled.plans(row, sizes, **how)))


def table_of(plan, index, **fields) -> Table:
    """A table with one entry: for this plan's problem."""
    choice = plan.config.choice
    values = dict(
        spaces={choice.kernel: tuning.digest(tuning.SPACES[choice.kernel])},
        configs={choice.key: {choice.bucket: index}},
    )
    return Table(**{**H200, **values, **fields})


# the choice


@each_row
def test_every_plan_has_a_choice(row):
    for plan in plans(row, row.cases[0].sizes):
        choice = plan.config.choice
        space = tuning.SPACES[choice.kernel]
        assert choice.kernel == plan.name.replace("_patch_", "_") and len(space) >= 6  # of rows and patches, one space
        assert space[choice.index] == replace(plan.config, maxnreg=None) and not choice.tuned
        assert next(iter(choice.costs())) == choice.index


@each_row
def test_the_choice_does_not_depend_on_what_was_chosen_before(row):
    """Sizes of one key of the tables are still chosen one by one."""
    batches, sides = (row.fewest, 7, 8), (30, 62, 64, 120)
    sizes = [{"N": N, "C": 64, "S": (H, H + 2), "Cr": 32} for N in batches for H in sides]

    def chosen(order):
        tuning.forget()
        return {str(s): [p.config for p in plans(row, s)] for s in order}

    assert chosen(sizes) == chosen(sizes[::-1]) == chosen(random.Random(0).sample(sizes, len(sizes)))


def test_the_model_keeps_no_tensor():
    """Choices live on; the maps that they were made for do not."""
    for row in ROWS:
        for plan in plans(row):
            cells = plan.config.choice.model.__closure__ or ()
            assert not [c for c in cells if isinstance(c.cell_contents, torch.Tensor)], plan.name


def test_a_choice_is_made_once(monkeypatch):
    first = plans()[0].config
    with monkeypatch.context() as patched:
        patched.setattr(tuning, "_decide", lambda *_: pytest.fail("decided again"))
        assert plans()[0].config is first
    for key in itertools.count():
        tuning._chosen[key] = None
        if len(tuning._chosen) > tuning.MOST_CHOICES:
            break
    plans(sizes={**SIZES, "N": 3})
    assert len(tuning._chosen) < 10


# tables


def test_the_nearest_size_decides():
    """Of those for about as many pixels; of two as near the smaller; of none so near nothing."""
    table = Table("", 90, configs={"key": {7: 3, 10: 1, 14: 2}}, spaces={"kernel": "space"})
    chosen = [table.index("kernel", "space", "key", 2**power) for power in (11, 12, 13, 14, 40)]
    assert chosen == [1, 1, 2, 2, None]
    assert table.index("kernel", "another", "key", 2**11) is None


def test_a_table_decides():
    plan, index = plans()[0], 5
    assert plan.config.choice.index != index
    with tuning.using([table_of(plan, index)]):
        chosen = plans()[0].config
        assert chosen == tuning.SPACES["spatial_fwd"][index] and chosen.choice.tuned
        near = plans(sizes={**SIZES, "N": 2})[0].config  # a quarter of the pixels
        assert near.choice.index == index
        assert not plans(sizes={**SIZES, "N": 1})[0].config.choice.tuned
        assert not plans(dtype=torch.float32)[0].config.choice.tuned
        assert not plans(layout="channels_last")[0].config.choice.tuned
        assert not plans(sizes={**SIZES, "C": 32})[0].config.choice.tuned
        assert not plans(sizes={**SIZES, "S": (127, 129)})[0].config.choice.tuned
    assert plans()[0].config == plan.config


def test_the_first_table_with_an_entry_decides():
    plan = plans()[0]
    with tuning.using([table_of(plan, 5, configs={}), table_of(plan, 6), table_of(plan, 7)]):
        assert plans()[0].config.choice.index == 6


@pytest.mark.parametrize("change", [dict(spaces={}), dict(spaces={"spatial_fwd": "0"}), dict(configs={})])
def test_an_entry_of_another_space_is_no_entry(change):
    plan = plans()[0]
    with tuning.using([table_of(plan, 5, **change)]):
        assert plans()[0].config == plan.config


def test_an_entry_that_cannot_run_is_no_entry():
    plan = next(p for p in plans(BY_NAME["local_pool_gate"]) if p.name == "stencil_fwd")
    unfit = next(i for i in range(len(tuning.SPACES[plan.name])) if i not in plan.config.choice.costs())
    for index in (unfit, 10**6):
        with tuning.using([table_of(plan, index)]):
            assert plans(BY_NAME["local_pool_gate"])[0].config == plan.config


def test_a_forced_config():
    choice = plans()[0].config.choice
    with tuning.using(forced={choice.key: 3}):
        assert plans()[0].config.choice.index == 3
        assert plans(sizes={**SIZES, "S": (8, 8)})[0].config.choice.index == 3
    depthwise = BY_NAME["local_gate_depthwise"]
    choice = plans(depthwise)[0].config.choice
    unfit = next(i for i in range(len(tuning.SPACES[choice.kernel])) if i not in choice.costs())
    with (
        tuning.using(forced={choice.key: unfit}),
        pytest.raises(ValueError, match=f"config {unfit} of its space cannot"),
    ):
        plans(depthwise)


def test_results_do_not_depend_on_the_table():
    inputs = problem(GATE)
    y = GATE.op(*inputs, backend="triton")
    choice = plans(sizes={"N": 2, "C": 5, "S": (5, 6), "Cr": 2}, dtype=torch.float32)[0].config.choice
    for index in (0, 11, 20):
        with tuning.using(forced={choice.key.replace("a1", "a2"): index, choice.key: index}):
            torch.testing.assert_close(GATE.op(*inputs, backend="triton"), y)


# files


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home, and a folder of shipped tables, for this test alone."""
    monkeypatch.setattr(tuned.Path, "home", staticmethod(lambda: tmp_path / "home"))
    shipped = tmp_path / "tuned"
    shipped.mkdir()
    monkeypatch.setattr(tuned, "__file__", str(shipped / "__init__.py"))
    return shipped


def test_the_order_of_the_tables(home, caplog):
    own, shipped = Table(**H200, triton="own"), Table(**H200, triton="shipped")
    ampere, ada = Table("NVIDIA A100", 80), Table("NVIDIA L40S", 89)
    assert tuned.tables("NVIDIA H200", 90) == []
    tuned.write(home / "nvidia_a100.json", ampere)
    tuned.write(home / "nvidia_l40s.json", ada)
    with caplog.at_level(logging.WARNING):
        assert tuned.tables("NVIDIA H200", 90) == [ada]
    (line,) = caplog.messages
    assert "NVIDIA H200" in line and "NVIDIA L40S" in line and "segattn tune" in line
    caplog.clear()
    tuned.write(home / "nvidia_h200.json", shipped)
    assert tuned.tables("NVIDIA H200", 90) == [shipped]
    tuned.write(tuned.user_path("NVIDIA H200"), own)
    assert tuned.tables("NVIDIA H200", 90) == [own, shipped]
    assert not caplog.messages


FULL = Table(
    **H200,
    triton="3.7.1",
    spaces={"a_fwd": "0123"},
    configs={"a_fwd bfloat16": {18: 3, 20: 5}},
    dependent={"a_fwd": True, "b": False},
)


def test_a_table_comes_back_as_written(tmp_path):
    tuned.write(tmp_path / "t.json", FULL)
    assert tuned.read(tmp_path / "t.json", "NVIDIA H200") == FULL
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == ["t.json"]


def test_a_table_of_the_first_schema_is_read(tmp_path):
    """Its entries hold, of every kernel whose space is what it was; nothing of it is launched dependently."""
    plan, path = plans()[0], tmp_path / "t.json"
    old = table_of(plan, 5)
    fields = dict(triton="", spaces=dict(old.spaces), configs={k: dict(v) for k, v in old.configs.items()})
    path.write_text(json.dumps({"schema": 1, **H200, **fields}))
    with tuning.using([tuned.read(path)]):
        assert plans()[0].config.choice.index == 5 and not plans()[0].config.dependent
    tuned.write(path, Table(**H200, dependent={"spatial_fwd": True}))
    assert tuned.read(path).configs == old.configs and tuned.read(path).dependent == {"spatial_fwd": True}


def test_writing_adds_to_what_is_there(tmp_path):
    path = tmp_path / "t.json"
    tuned.write(path, FULL)
    tuned.write(path, Table(**H200, spaces={"b": "7"}, configs={"b x": {3: 1}}))
    tuned.write(path, Table(**H200, spaces={"a_fwd": "0123"}, configs={"a_fwd bfloat16": {20: 9}}))
    found = tuned.read(path)
    assert found.configs == {"a_fwd bfloat16": {18: 3, 20: 9}, "b x": {3: 1}}
    tuned.write(path, Table(**H200, spaces={"a_fwd": "new"}, configs={"a_fwd fp": {1: 1}}))
    assert tuned.read(path).configs == {"a_fwd fp": {1: 1}, "b x": {3: 1}}  # indices into the old space mean nothing
    tuned.write(path, Table("NVIDIA L4", 89, configs={}))
    assert tuned.read(path) == Table("NVIDIA L4", 89)


def write_some(path, first):
    for i in range(first, first + 10):
        tuned.write(path, Table(**H200, spaces={"k": "1"}, configs={f"k C{i}": {10: i}}))


def test_concurrent_writers_lose_nothing(tmp_path):
    path = tmp_path / "t.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_some, args=(path, 10 * i)) for i in range(4)]
    for w in writers:
        w.start()
    while any(w.is_alive() for w in writers):
        if path.exists():
            tuned.read(path)  # never half written
    assert len(tuned.read(path).configs) == 40


WRONG = [
    b"",
    b"null",
    b"[1]",
    b"{}",
    b"\xff\xfe",
    b"[" * 100_000,
    json.dumps({"schema": 3, **H200, "triton": "", "spaces": {}, "configs": {}, "dependent": {}}).encode(),
    json.dumps({"schema": 2, **H200, "triton": "", "spaces": {}, "configs": {}}).encode(),
    json.dumps({"schema": 2, **H200, "triton": "", "spaces": {}, "configs": {}, "dependent": {"k": 1}}).encode(),
    json.dumps({"schema": 1, **H200, "capability": True, "triton": "", "spaces": {}, "configs": {}}).encode(),
    json.dumps({"schema": 1, **H200, "triton": "", "spaces": {}, "configs": {"k": {"3": -1}}}).encode(),
    json.dumps({"schema": 1, **H200, "triton": "", "spaces": {}, "configs": {"k": {"x": 1}}}).encode(),
    json.dumps({"schema": 1, **H200, "triton": "", "spaces": {}, "configs": {"k": {"3": "1"}}}).encode(),
    json.dumps({"schema": 1, **H200, "triton": "", "spaces": {}, "configs": {"k": 3}}).encode(),
    json.dumps({"schema": 1, **H200, "triton": "", "spaces": {"k": 3}, "configs": {}}).encode(),
    json.dumps({"schema": 1, **H200, "device": "NVIDIA L4", "triton": "", "spaces": {}, "configs": {}}).encode(),
]


@pytest.mark.parametrize("data", WRONG, ids=range(len(WRONG)))
def test_a_file_that_is_no_table_is_ignored_with_one_line(data, home, caplog):
    path = tuned.user_path("NVIDIA H200")
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert tuned.tables("NVIDIA H200", 90) == []
    (line,) = caplog.messages
    assert str(path) in line and "\n" not in line and len(line) < 400


def test_no_table_is_read_in_a_capture(home, monkeypatch):
    """One error, as often as it is tried; once they are read, a capture finds them."""
    gpu, state = torch.device("cuda", 0), {"capturing": True}
    tuned.write(tuned.user_path("NVIDIA H200"), own := Table("NVIDIA H200", 90, "3.6.0"))
    monkeypatch.setattr(target, "is_capturing", lambda device: state["capturing"])
    monkeypatch.setattr(target, "capability_of", lambda index: 90)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200")
    tuning.forget()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"tuned tables .* CUDA graph; expected the same call .* once"):
            tuning.tables(gpu)
    for state["capturing"] in (False, True):
        assert tuning.tables(gpu) == [own]
    tuning.forget()


def test_truncated_and_fuzzed_tables(home, tmp_path, caplog):
    """Whatever a file holds, planning goes on: with the model, or with a config of the space."""
    plan, path, rng = plans()[0], tuned.user_path("NVIDIA H200"), random.Random(0)
    tuned.write(path, table_of(plan, 5))
    whole = path.read_bytes()
    data = [whole[:n] for n in range(0, len(whole) - 1, 7)]
    for _ in range(150):
        fuzzed = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            fuzzed[rng.randrange(len(fuzzed))] = rng.choice(b'0129"{}[],:-e \x00\xff')
        data.append(bytes(fuzzed))
    ignored = 0
    for content in data:
        path.write_bytes(content)
        caplog.clear()
        found = tuned.tables("NVIDIA H200", 90)
        assert len(caplog.messages) == (not found)
        ignored += not found
        with tuning.using(found):
            assert plans()[0].config in tuning.SPACES["spatial_fwd"]
    assert len(whole) // 8 < ignored < len(data)


def test_shipped_tables_are_of_the_present_spaces():
    for path in tuned.Path(tuned.__file__).parent.glob("*.json"):
        table = tuned.read(path)
        assert path.stem == tuned.slug(table.device)
        for row in ROWS:
            plans(row)
        for kernel, digest in table.spaces.items():
            assert kernel not in tuning.SPACES or digest == tuning.digest(tuning.SPACES[kernel]), kernel


def test_keys_of_tables_do_not_change():
    """A changed key would lose the tables of users in silence: it comes with another schema, and then with a new
    tests/support/tuned_keys.txt."""
    found = set()
    for row, layout in itertools.product(BY_NAME.values(), ("contiguous", "channels_last")):
        for plan in plans(row, {"N": 2, "C": 32, "S": (16, 16), "Cr": 4}, layout=layout):
            found.add(plan.config.choice.key)
    known = (Path(__file__).parents[1] / "support" / "tuned_keys.txt").read_text().splitlines()
    assert [f"schema {tuned.SCHEMA}", *sorted(found)] == [known[0], *sorted(known[1:])]


@pytest.mark.parametrize("arch", [75, 90, 100])
def test_a_window_of_any_size_has_a_config(arch):
    """However many registers the model takes it to need."""
    row = BY_NAME["cbam_spatial_gate"]
    for k in (1, 31, 101):
        sizes = {**row.cases[0].sizes, "N": 1, "C": 8, "S": (9, 130), "k": k}
        both = compiled.plans(row, sizes, torch.float32, "contiguous", arch)
        assert {"convolve_fwd", "convolve_bwd"} <= {plan.name for plans in both for plan in plans}
