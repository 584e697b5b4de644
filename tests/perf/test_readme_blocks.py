"""The README as printed: each block in its order, by one process; commands by their own parser; make's by make."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest

pytest.importorskip("typer")

import typer

from segattn_triton.perf.commands import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else ""
BLOCKS = [(m[1], m[2]) for m in re.finditer(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)]
LINES = [line.partition(" #")[0].strip() for kind, block in BLOCKS if not kind for line in block.splitlines()]
INLINE = [code for code in re.findall(r"`([^`\n]+)`", TEXT) if code.startswith(("segattn ", "make ", "pip install "))]


def printed(command: str) -> list[list[str]]:
    """The words of every line, and of every piece of code in the text, that begins with the command."""
    found = [shlex.split(line) for line in dict.fromkeys([*LINES, *INLINE]) if line.startswith(f"{command} ")]
    assert found, command
    return found


def run(*command: str, folder: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0", **variables}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_kind_of_block_is_read_here():
    assert {kind for kind, _ in BLOCKS} == {"", "python", "yaml"}
    assert {line.split()[0] for line in LINES if line} == {"pip", "make", "segattn"}


def test_python_blocks_run_in_their_order(tmp_path):
    """Those of the models without a network: from random weights, beside a CPU build of torch, too."""
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        pytest.skip("the models extra is not installed")
    code = "".join(block for kind, block in BLOCKS if kind == "python")
    said = run(sys.executable, "-W", "ignore", "-c", code, folder=tmp_path, MPLBACKEND="Agg")
    assert said.startswith("26 of 26 gates accelerated")
    assert (tmp_path / "attention.png").stat().st_size > 10_000


def test_the_workflow_runs(tmp_path):
    (block,) = (block for kind, block in BLOCKS if kind == "yaml")
    assert "OWNER" not in TEXT and 'TRITON_INTERPRET: "1"' in block
    install, check = re.findall(r"- run: (.*)", block)
    assert shlex.split(install, comments=True)[:2] == ["pip", "install"]
    python, *arguments = shlex.split(check)
    assert python == "python"
    run(sys.executable, *arguments, folder=tmp_path, TRITON_INTERPRET="1")


@pytest.mark.parametrize("words", printed("segattn"), ids=" ".join)
def test_commands_are_taken_as_printed(words):
    """By the command's own parser; what it does has tests of its own."""
    command = typer.main.get_command(main)
    _, name, *arguments = words
    command.commands[name].make_context(name, list(arguments))


@pytest.mark.parametrize("words", printed("make"), ids=" ".join)
def test_make_knows_its_targets(words):
    run("make", "--dry-run", *[w for w in words[1:] if w != "..."], folder=ROOT)


def test_extras_exist():
    extras = metadata("segattn_triton").get_all("Provides-Extra")
    named = {e for words in printed("pip install") for e in re.findall(r"\[([\w,]+)\]", " ".join(words))}
    assert {e for names in named for e in names.split(",")} <= set(extras) and named


def test_pages_link_to_what_is_there():
    for target in re.findall(r"\]\(([^)#][^)]*)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target.partition("#")[0]).exists(), target
    titles = {re.sub(r"[^\w -]", "", t).strip().lower().replace(" ", "-") for t in re.findall(r"^#+ (.*)$", TEXT, re.M)}
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= titles
