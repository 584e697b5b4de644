"""What a type checker sees of the package: the parameters of every public function, under each supported Python."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segattn_triton import functional

ROOT = Path(__file__).parents[2]
PUBLIC = [n for n, f in vars(functional).items() if inspect.isfunction(f) and f.__module__ == functional.__name__]
PYTHONS = ("3.10", "3.13")


def checked(tmp_path: Path, text: str, *options: str) -> str:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(text)
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--follow-imports=silent", "--cache-dir"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(
        [*command, str(tmp_path / "cache"), *options, str(snippet)], capture_output=True, text=True, env=environment
    ).stdout


@pytest.mark.interop
@pytest.mark.parametrize("version", PYTHONS)
def test_a_type_checker_sees_the_parameters(version, tmp_path):
    """Through the decorator: a name that a function does not have is an error, and so is a wrong type."""
    lines = ["from segattn_triton import functional as F", "import torch", "x = torch.zeros(1, 2, 3, 4)"]
    for name in PUBLIC:
        required = sum(p.default is p.empty for p in inspect.signature(getattr(functional, name)).parameters.values())
        given = ", ".join(["x"] * required)
        lines += [f"F.{name}({given})", f"F.{name}({given}, nothing=1)", f"F.{name}({given}, backend=3)"]
    said = checked(tmp_path, "\n".join(lines), "--python-version", version)
    errors = [line for line in said.splitlines() if "snippet.py" in line and "error:" in line]
    assert len(errors) == 2 * len(PUBLIC), said
    for name in PUBLIC:
        assert any("nothing" in e and f'"{name}"' in e for e in errors), name
        assert any("backend" in e and f'"{name}"' in e for e in errors), name


@pytest.mark.parametrize("version", PYTHONS)
def test_every_file_is_python_of_every_supported_version(version):
    minor = int(version.partition(".")[2])
    for folder in ("segattn_triton", "reference", "perf"):
        for path in (ROOT / folder).rglob("*.py"):
            ast.parse(path.read_text(), str(path), feature_version=(3, minor))
