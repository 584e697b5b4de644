"""The README and the pages of docs/ as printed: the blocks of a page in their order, by one process; commands by their
own parser; make's by make."""

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
FILES = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if path.exists()]
FILES += [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "gallery.md"]  # made by the site
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
README = PAGES.get("README.md", "")
LIMIT = 140  # lines of the README


def blocks(text: str) -> list[tuple[str, str]]:
    """(kind, lines) of every block that is code."""
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(m[1], m[2]) for m in found if not m[1].startswith("{")]


BLOCKS = [block for text in PAGES.values() for block in blocks(text)]
LINES = [line.partition(" #")[0].strip() for kind, block in BLOCKS if not kind for line in block.splitlines()]
INLINE = [
    code
    for text in PAGES.values()
    for code in re.findall(r"`([^`\n]+)`", text)
    if code.startswith(("segattn ", "make ", "pip install "))
]


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


def with_python() -> list[str]:
    return [name for name, text in PAGES.items() if "python" in dict(blocks(text))]


def test_every_kind_of_block_is_read_here():
    assert {kind for kind, _ in BLOCKS} == {"", "python", "yaml"}
    assert {line.split()[0] for line in LINES if line} == {"pip", "make", "segattn"}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= LIMIT


@pytest.mark.interop
@pytest.mark.parametrize("page", with_python())
def test_python_blocks_run_in_their_order(page, tmp_path):
    """Those of the models without a network: from random weights, beside a CPU build of torch, too. A page may begin
    where the README ends."""
    code = "".join(block for kind, block in blocks(PAGES[page]) if kind == "python")
    if "segmentation_models_pytorch" in code and importlib.util.find_spec("segmentation_models_pytorch") is None:
        pytest.skip("the models extra is not installed")
    said = run(sys.executable, "-W", "ignore", "-c", code, folder=tmp_path, MPLBACKEND="Agg")
    for promised in re.findall(r"# (\d+ of \d+ gates accelerated)", code):
        assert said.startswith(promised)
    for picture in re.findall(r'savefig\("(.*?)"\)', code):
        assert (tmp_path / picture).stat().st_size > 10_000


@pytest.mark.interop
def test_the_workflow_runs(tmp_path):
    (block,) = (block for kind, block in BLOCKS if kind == "yaml")
    assert 'TRITON_INTERPRET: "1"' in block and not [name for name, text in PAGES.items() if "OWNER" in text]
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


def titles(text: str) -> set[str]:
    """The anchors of a page's headings."""
    return {re.sub(r"[^\w -]", "", t).strip().lower().replace(" ", "-") for t in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES)
def test_pages_link_to_what_is_there(page):
    for target in re.findall(r"\]\(([^)]*)\)", PAGES[page]):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in titles(path.read_text(encoding="utf-8")), target


def test_what_a_page_includes_is_there():
    """The pages in Chinese take their code and tables from the English ones."""
    found = 0
    for page, text in PAGES.items():
        for file, options in re.findall(r"^```\{include\} (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            source = ((ROOT / page).parent / file).read_text(encoding="utf-8")
            for mark in re.findall(r'"(<!-- .*? -->)"', options):
                assert mark in source, f"{page}: {mark} of {file}"
            found += 1
    assert found and not [page for page in PAGES if "/zh/" in page and blocks(PAGES[page])]


def two_clicks() -> set[str]:
    """What the README links to, and what those pages do."""
    found, here = set(), {"README.md"}
    for _ in range(2):
        beyond = set()
        for page in here & PAGES.keys():
            for target in re.findall(r"\]\(([^)#]+)", PAGES[page]):
                if not target.startswith("https://"):
                    path = ((ROOT / page).parent / target).resolve()
                    beyond.add(path.relative_to(ROOT.resolve()).as_posix())
        found |= beyond
        here = beyond
    return found


def test_every_page_is_two_clicks_from_the_readme():
    """Those that the site makes of a file above it are that file."""
    wrapped = {f"docs/{name}.md" for name in ("contributing", "changelog", "numerics", "performance", "security")}
    api = {page for page in PAGES if page.startswith("docs/api/")}  # of the site alone
    assert PAGES.keys() - {"README.md"} - wrapped - api <= two_clicks()
