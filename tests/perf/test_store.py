"""What a kill leaves: lines that are whole, and files that are the old one or the new one."""

import pytest

from segattn_triton.draft import replacing
from segattn_triton.perf.store import append_line, lines


def test_a_line_cut_short_costs_itself_alone(tmp_path):
    path = tmp_path / "found.jsonl"
    assert [*lines(path)] == []
    append_line(path, {"a": 1})
    with path.open("ab") as file:
        file.write(b'{"a": 2, "b')
    append_line(path, {"a": 3})
    path.open("ab").write(b"5\n[1]\n\xff\n")
    assert [*lines(path)] == [{"a": 1}, {"a": 3}]


def test_an_error_leaves_what_there_was(tmp_path):
    path = tmp_path / "about.json"
    with replacing(path) as draft:
        draft.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyError), replacing(path) as draft:
        draft.write_text("sec")
        raise KeyError("killed")
    assert path.read_text() == "first" and [*tmp_path.iterdir()] == [path]
