"""Where a package is absent, all that does not need it works; what needs it says in one line how to install it."""

import subprocess
import sys
import textwrap

import pytest
import torch

from segattn_triton.perf.absent import EXTRAS
from segattn_triton.perf.measure import env

HIDE = """
    import importlib.machinery, importlib.metadata, sys
    class Finder(importlib.machinery.PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.partition(".")[0] == {hidden!r} else super().find_spec(name, path, target)
    sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
"""
EVERYTHING = """
    import segattn_triton
    from segattn_triton import *
    from segattn_triton import compat, functional, reference
    import torch
    x = torch.randn(1, 8, 5, 6)
    for gate in (SpatialAttention(8), ChannelAttention(8), SCSE(8, 2), ECA(8), LocalAttention(8), SqueezeExcite(16)):
        C = 16 if isinstance(gate, SqueezeExcite) else 8
        assert gate(torch.randn(1, C, 5, 6)).shape == (1, C, 5, 6)
    accelerate(torch.nn.Sequential(SpatialAttention(8)))
"""
PICTURE = """
    try:
        from segattn_triton import viz
        viz.plot_gates({"gate": viz.np.ones((1, 4))}, viz.np.ones((8, 8)))
    except ModuleNotFoundError as error:
        print(error)
"""
COMMANDS = """
    import contextlib, io, os
    os.chdir({folder!r})
    from segattn_triton.perf import __main__ as segattn
    for arguments in (["env"], ["env", "--json"], ["--help"], ["report", "--cpu", "--help"],
                      ["report", "--train", "--steps", "0"], ["compare", "a", "b"], ["spaces", "--op", "eca", "--help"],
                      ["tune"], ["kernels", "--op", "nothing"]):
        sys.argv = ["segattn", *arguments]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                segattn.main()
                code = 0
            except SystemExit as error:
                code = error.code
        said = err.getvalue().strip()
        said = "\\n".join(line for line in said.splitlines() if "Warning" not in line and line.strip()[:3] != "cpu")
        if code:
            assert code in (1, 2), (arguments, code)
            assert len(said.splitlines()) == 1 and said.startswith("segattn: "), (arguments, code, said)
        if {hidden!r} in said:
            assert "pip install" in said and code == 2, said
        print(arguments, code, said)
"""
PERF = [*EXTRAS["perf"], "pynvml"]


def run(*parts: str, **values) -> str:
    script = "\n".join(textwrap.dedent(part) for part in parts)
    for name, value in values.items():
        script = script.replace(f"{{{name}!r}}", repr(value))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("hidden", ["triton", *PERF])
def test_what_needs_no_kernel_works(hidden):
    """The public names, the modules on the reference, accelerate."""
    run(HIDE, EVERYTHING, hidden=hidden)


@pytest.mark.parametrize("hidden", ["numpy", "matplotlib", "pandas"])
def test_a_picture_names_the_extra_that_it_lacks(hidden):
    said = run(HIDE, PICTURE, hidden=hidden).strip()
    lacks = f'{hidden} is not installed: pip install "segattn_triton[perf]"'
    assert said == ("" if hidden == "pandas" else lacks)


def test_models_name_the_extra_that_they_lack():
    install = """
        from segattn_triton.perf import torchvision_cpu
        try:
            torchvision_cpu.install()
        except ModuleNotFoundError as error:
            print(error)
    """
    assert run(HIDE, install, hidden="torchvision").strip() == (
        'torchvision is not installed: pip install "segattn_triton[models]"'
    )


@pytest.mark.parametrize("hidden", ["triton", *PERF])
def test_a_command_works_or_says_in_one_line_what_to_install(hidden, tmp_path):
    said = run(HIDE, COMMANDS, hidden=hidden, folder=str(tmp_path))
    assert "Traceback" not in said
    if hidden in ("typer", "rich"):
        assert f'{hidden} is not installed: pip install "segattn_triton[perf]"' in said
    else:
        assert "['env'] 0" in said


@pytest.mark.parametrize("hidden", ["triton", "numpy"])
def test_a_check_without_what_runs_kernels_starts_nothing(hidden):
    """Triton's interpreter computes with numpy: without it no kernel is wrong, and no table says so."""
    check = """
        import sys
        import torch
        from segattn_triton.perf import __main__ as segattn
        torch.cuda.is_available = lambda: False
        sys.argv = ["segattn", "check", "--op", "eca"]
        sys.stderr = sys.stdout
        try:
            segattn.main()
        except SystemExit as error:
            print("exit", error.code)
    """
    line, ended = run(HIDE, check, hidden=hidden).splitlines()
    assert line.startswith(f"segattn: {hidden} is not installed") and "pip install" in line, line
    assert ended == "exit 2"


def test_a_report_without_triton(tmp_path):
    """The curves of a CPU need none; what the compiler makes of the kernels is left out, and says so."""
    report = """
        from segattn_triton.perf.report import job as report
        from segattn_triton.perf.records import load
        from pathlib import Path
        out = Path({folder!r})
        chosen = dict(ops=("spatial_pool_gate",), layouts=("contiguous",), modes=("fwd",), sides=(8,), channels=(4,))
        class NoCompiler(report.backends.Cpu):
            def compile(self, fn):
                return fn
            def now(self):
                return 0.0
            def sizes(self, *sizes):
                return tuple(min(size, 64) for size in sizes)
        report.run(backend=NoCompiler(), out=out, **chosen)
        found = list(load(out / "records.jsonl"))
        assert {r.point.provider for r in found if r.ms} >= {"reference", "eager"}
        predicted = {r.status for r in found if r.point.timer == "predicted"}
        assert predicted == {"skipped: triton is not installed, whose compiler this needs"}, predicted
    """
    run(HIDE, report, hidden="triton", folder=str(tmp_path))


@pytest.mark.parametrize(
    ("torch_version", "said"),
    [
        ("2.11.0+cu130", 'pip install "triton-windows>=3.6,<3.7"'),
        ("2.13.0", 'pip install "triton-windows>=3.7,<3.8"'),
        ("2.15.1.dev", 'pip install "triton-windows>=3.9,<3.10"'),
        ("3.0.0", "pip install triton-windows"),
    ],
)
def test_windows_gets_the_release_of_its_torch(torch_version, said, monkeypatch):
    monkeypatch.setattr(env.sys, "platform", "win32")
    monkeypatch.setattr(torch, "__version__", torch_version)
    assert env.triton_state()["install"] == said
