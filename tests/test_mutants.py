"""The faults that `make mutants` plants are those that it names; its card counts what was found, and nothing else."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import choice
import faults
import outcome
import pytest
import touched

HERE = Path(__file__).parent

PLANTED = {  # code -> (kind, what becomes of it)
    "x = tl.load(p + i, mask=m, other=0.0)": [
        ("mask dropped", "x = tl.load(p + i, other=0.0)"),
        ("wrong other", "x = tl.load(p + i, mask=m, other=1.0)"),
    ],
    "tl.store(p, y, m)": [("mask dropped", "tl.store(p, y)")],
    "m = (a < n) & (b < k)": [("mask widened", "m = (a < n)"), ("off by one", "m = (a <= n) & (b < k)")],
    "p = x_stride[1]": [("stride swapped", "p = x_stride[0]")],
    "i = j.to(tl.int64) * n": [("missing int64", "i = j * n")],
    "z = tl.zeros([4], tl.float32)": [("accumulator's dtype", "z = tl.zeros([4], tl.float16)")],
    "y = a - b": [("sign", "y = (a + b)"), ("term left out", "y = a")],
    "y = a + 1": [("off by one", "y = a")],
    "y += a": [("term left out", "y = a")],
    "y = tl.where(x != x, x, y)": [("NaN or tie rule", "y = tl.where(x != x, y, x)")],
    "y = tl.maximum(a, b)": [("wrong function", "y = tl.minimum(a, b)"), ("arguments swapped", "y = tl.maximum(b, a)")],
    "if a is None:\n        return b\n    y = a": [("early return", "if False:\n        return b\n    y = a")],
    "if a:\n        raise ValueError(b)\n    y = a": [
        ("check skipped", "if False:\n        raise ValueError(b)\n    y = a")
    ],
}


@pytest.mark.parametrize("code", PLANTED)
def test_kinds(code):
    text = f"def f(a, b):\n    {code}\n"
    made = {(m.kind, without_parentheses(m.applied(text))) for m in faults.mutants("f.py", text)}
    for kind, changed in PLANTED[code]:
        assert (kind, without_parentheses(f"def f(a, b):\n    {changed}\n")) in made, sorted(made)


def without_parentheses(text: str) -> str:
    """But for those that it takes."""
    return ast.unparse(ast.parse(text))


def test_the_key_of_a_cache():
    text = "def key_of(a, b):\n    return (a, b)\n"
    assert {m.after for m in faults.mutants("f.py", text) if m.kind == "wrong key"} == {"(None, b)", "(a, None)"}


def test_words_are_left_alone():
    text = (
        'def f(a: int | None = 1 - x) -> int | str:\n    """a"""\n    log.info("%s", a - b)\n    raise E(f"{a - b}")\n'
    )
    assert {m.line for m in faults.mutants("f.py", text)} == {1}


def test_every_fault_is_a_program_and_another():
    """Of all files whose faults are planted; a text that has moved on is refused."""
    for part in choice.FOLDERS:
        for path in sorted((HERE.parent / "segattn_triton" / part).rglob("*.py"))[::5]:
            text = path.read_text()
            for mutant in faults.mutants(str(path), text)[::20]:
                changed = mutant.applied(text)
                assert compile(changed, str(path), "exec") and changed != text
                with pytest.raises(ValueError, match="expected"):
                    mutant.applied("\n" * 1000 + text)


RECORD = dict(line=1, column=0, function="f", kind="sign", before="a - b", after="(a + b)", tests=3, late=False)


def test_what_was_made_of_another_text_is_not_counted(tmp_path):
    (tmp_path / "a.py").write_text("a - b")
    kept = RECORD | {"path": "a.py", "by": "", "text": outcome.digest("a - b")}
    (tmp_path / "r").write_text(f"{json.dumps(kept)}\n{json.dumps(kept | {'line': 2, 'text': 'old'})}\n")
    assert [r["line"] for r in outcome.read(tmp_path / "r", tmp_path).values()] == [1]


def test_the_card_counts_what_was_found():
    """A test that fails without a fault finds none; survivors have their place."""
    found = [RECORD | {"path": f"segattn_triton/ops/{i}.py", "by": f"t::{i % 2}"} for i in range(8)]
    left = RECORD | {"path": "segattn_triton/tuning/t.py", "by": ""}
    said = outcome.card([*found, left], void={"t::1"}).splitlines()
    assert said[2].startswith("| ops | 8 | 4 | 50%") and said[3].startswith("| tuning | 1 | 0 | 0%")
    assert said[4].startswith("| all | 9 | 4 |") and len(said) == 5 + 5
    assert "SURVIVED <- segattn_triton/tuning/t.py:1 f, sign: a - b -> (a + b)" in said
    low, high = outcome.wilson(44, 51)
    assert (round(low, 2), round(high, 2)) == (0.74, 0.93)


def test_tests_of_the_rows_come_and_of_each_file_one_in_turn(tmp_path, monkeypatch):
    """And those without a row of a file that names the module."""
    monkeypatch.chdir(tmp_path)
    Path("x.py").write_text("import forward\n")
    Path("z.py").write_text("import backward\n")

    def item(name, row=None):
        return SimpleNamespace(nodeid=name, callspec=SimpleNamespace(params={"row": row} if row else {}))

    names = ["tests/kernels/test_a.py::1", "tests/kernels/test_a.py::2", "tests/kernels/test_b.py::1"]
    items = [*(item(name, "gate") for name in names), item("tests/kernels/test_b.py::other", "pool")]
    items += [item("x.py::y"), item("z.py::y")]
    chosen = choice.Choice("segattn_triton/kernels/pixel/forward.py", "f", {"gate"}, 1.0)
    chosen.pytest_collection_modifyitems(None, items)
    assert [i.nodeid for i in items] == [names[0], names[2], names[1], "x.py::y"]


def calls_wilson():
    outcome.wilson(1, 2)


def test_tests_that_call_the_function_come_before_those_of_its_module():
    """Whatever the place in their file."""
    here = Path(__file__).relative_to(touched.ROOT).as_posix()
    items = [SimpleNamespace(nodeid=f"{here}::{i}", function=test_kinds) for i in range(9)]
    items.append(SimpleNamespace(nodeid=f"{here}::calls", function=calls_wilson))
    chosen = choice.Choice("segattn_triton/tuning/outcome.py", "Card.wilson", None, 1.0)
    chosen.pytest_collection_modifyitems(None, items)
    assert items[0].function is calls_wilson and len(items) == 10


def test_tests_that_run_the_function_come_first(tmp_path):
    """As noted: the quickest of each file in turn, those of other rows and folders, too."""
    noted = {"tests": [["tests/a.py::slow", 2.0], ["tests/a.py::quick", 1.0], ["tests/b.py::other", 3.0]]}
    (tmp_path / "gw0.json").write_text(json.dumps(noted | {"found": [["p.py", "C.f", [0, 1, 2]]]}))
    running = [test for _, test in touched.read(tmp_path)["p.py", "C.f"]]
    assert running == ["tests/a.py::quick", "tests/a.py::slow", "tests/b.py::other"]
    items = [SimpleNamespace(nodeid=name) for name in ("tests/kernels/x.py::1", *running[::-1])]
    chosen = choice.Choice("segattn_triton/ops/p.py", "C.f", None, 1.0, running)
    chosen.rank = lambda item, file, turn: (turn,)
    chosen.pytest_collection_modifyitems(None, items)
    assert [i.nodeid for i in items] == [running[0], running[2], running[1], "tests/kernels/x.py::1"]


def test_a_test_notes_the_functions_that_it_runs():
    def inner():
        return [_ for _ in range(1)]

    file = Path(__file__).relative_to(touched.ROOT).as_posix()
    name = "test_a_test_notes_the_functions_that_it_runs.inner"
    assert touched._function(inner.__code__) == (file, name)
    assert touched._function(touched.write.__code__) == ("tests/mutants/touched.py", "write")
