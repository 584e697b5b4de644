"""The plugin that makes the GPU run resumable: outcomes as they come, and only what has not passed is run again."""

import json
import subprocess
import sys
from pathlib import Path

import resume

TESTS = """
import os, pytest
def test_right(): pass
def test_wrong(): assert os.path.exists("mended")
def test_skipped(): pytest.skip("no reason")
@pytest.mark.parametrize("text", ["a b", "ü"])
def test_text(text): pass
"""


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, int]]:
    command = [sys.executable, "-m", "pytest", "-p", "resume", "--results", "results.jsonl", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(Path(resume.__file__).parent), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    outcomes: dict[str, int] = {}
    for line in (folder / "results.jsonl").read_text().splitlines():
        outcome = json.loads(line)["outcome"]
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return done.returncode, outcomes


def test_only_what_has_not_passed_runs_again(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    assert run(tmp_path) == (1, {"passed": 3, "failed": 1, "skipped": 1})
    assert run(tmp_path) == (1, {"passed": 3, "failed": 2, "skipped": 1})
    (tmp_path / "mended").touch()
    assert run(tmp_path, "-n", "2") == (0, {"passed": 4, "failed": 2, "skipped": 1})
    assert run(tmp_path) == (0, {"passed": 4, "failed": 2, "skipped": 1})


def test_after_the_time_nothing_is_started(tmp_path):
    """And it has not passed: the next run goes on with it."""
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "mended").touch()
    assert run(tmp_path, "--until", "1") == (0, {"late": 5})
    assert run(tmp_path, "--until", "1", "-n", "2") == (0, {"late": 10})
    assert run(tmp_path) == (0, {"late": 10, "passed": 4, "skipped": 1})


def test_a_file_that_was_cut_off(tmp_path):
    lines = [{"id": "a", "outcome": "passed", "code": "1"}, {"id": "b", "outcome": "passed", "code": "0"}]
    lines += [{"id": "c", "outcome": "passed", "code": "1"}, {"id": "c", "outcome": "failed", "code": "1"}]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"id": "d", "outc')
    assert resume.done(path, "1") == {"a"}
    assert resume.done(tmp_path / "none.jsonl", "1") == set()


def test_the_code_is_known_by_its_content(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a.py").write_text("1")
    before = resume.digest(tmp_path)
    assert resume.digest(tmp_path) == before
    (tmp_path / "tests" / "a.py").write_text("2")
    assert resume.digest(tmp_path) != before
