"""Finds or makes the Python environment that `make` runs in, and prints the path of its interpreter.

An active environment whose torch is recent enough is used as it is: what is missing is added, its torch and triton
are pinned to what they are. Otherwise `.venv` is made from constraints.txt. Needs nothing but Python and pip.
"""

import argparse
import importlib.metadata as metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PYTHON_FLOOR = (3, 10)
TORCH_FLOOR = (2, 11)
KEPT = ("torch", "triton", "torchvision")
SILENCE = 15.0  # seconds


def fail(message: str) -> None:
    raise SystemExit(f"segattn_triton: {message}")


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def has_recent_torch() -> bool:
    version = version_of("torch")
    return version is not None and tuple(int(part) for part in version.split(".")[:2]) >= TORCH_FLOOR


def check_python() -> None:
    if sys.version_info < PYTHON_FLOOR:
        wanted = ".".join(map(str, PYTHON_FLOOR))
        fail(f"Python {sys.version.split()[0]} is too old, {wanted} or newer is needed: make PYTHON=/path/to/python3")


def check_venv() -> None:
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        fail(f"this Python cannot make a virtual environment ({error}): install python3-venv, or pass PYTHON=")


def check_compiler() -> None:
    """Triton builds a small launcher with the C compiler the first time it runs on a GPU."""
    if not Path("/dev/nvidia0").exists():
        return
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        fail("Triton needs a C compiler on a machine with a GPU: install gcc or clang, or set CC")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        fail(f"Triton needs {header} on a machine with a GPU: install python3-dev (or python3-devel)")


def say(text: str) -> None:
    print(f"segattn_triton: {text}", file=sys.stderr, flush=True)


def pip(python: Path | str, *arguments: str) -> None:
    """Install, and say what it is at: with each download, and after every `SILENCE` seconds without a word."""
    command = [str(python), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check", *arguments]
    begin, lines = time.monotonic(), ["pip starts"]
    done = threading.Event()

    def wait() -> None:
        while not done.wait(SILENCE):
            say(f"{time.monotonic() - begin:4.0f} s  still at: {lines[-1]}")

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        threading.Thread(target=wait, daemon=True).start()
        for line in running.stdout:
            lines.append(brief(line))
            if lines[-1].startswith(("Downloading", "Installing", "Building")) and ".metadata" not in lines[-1]:
                say(f"{time.monotonic() - begin:4.0f} s  {lines[-1]}")
        done.set()
    if running.returncode:
        print("\n".join(lines[-10:]), file=sys.stderr)
        fail(f"{' '.join(command)} failed")


def brief(line: str) -> str:
    """A line of pip's without the list of everything that it installs."""
    name, _, packages = line.strip().partition(": ")
    return f"{name}: {packages.count(',') + 1}" if name == "Installing collected packages" else line.strip()


def is_installed(python: Path | str, extras: str) -> bool:
    """Whether this checkout and all that the extras name are installed there."""
    code = (
        "import sys, importlib.metadata as m, pathlib\n"
        "from pip._vendor.packaging.requirements import Requirement as R\n"
        "d = m.distribution('segattn_triton')\n"
        "import segattn_triton\n"
        "assert pathlib.Path(segattn_triton.__file__).parents[1] == pathlib.Path(sys.argv[1])\n"
        "assert set(sys.argv[2].split(',')) <= set(d.metadata.get_all('Provides-Extra'))\n"
        "for r in map(R, d.requires):\n"
        "    if r.marker is None or any(r.marker.evaluate({'extra': e}) for e in sys.argv[2].split(',')):\n"
        "        assert m.version(r.name) in r.specifier\n"
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run([str(python), "-c", code, str(ROOT), extras], **quiet).returncode == 0


def into_active(extras: str) -> str:
    if not is_installed(sys.executable, extras):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
            kept.writelines(f"{name}=={version_of(name)}\n" for name in KEPT if version_of(name))
            kept.flush()
            pip(sys.executable, "-c", kept.name, "-e", f"{ROOT}[{extras}]")
    return sys.executable


def into_venv(extras: str) -> str:
    check_venv()
    python = ROOT / ".venv" / "bin" / "python"
    if not python.exists():
        say("no torch >= 2.11 in this Python: making .venv from constraints.txt, 2 GB, a minute or two on a fast line")
        subprocess.run([sys.executable, "-m", "venv", str(ROOT / ".venv")], check=True, stdout=sys.stderr)
    if not is_installed(python, extras):
        pip(python, "-c", str(ROOT / "constraints.txt"), "torch", "triton", "numpy")
        pip(python, "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[{extras}]")
    return str(python)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", default="perf,test", help="extras of pyproject.toml to install")
    extras = parser.parse_args().extras
    check_python()
    check_compiler()
    print(into_active(extras) if has_recent_torch() else into_venv(extras))


if __name__ == "__main__":
    main()
