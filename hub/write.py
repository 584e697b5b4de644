"""Write the repository of the Kernel Hub, as its builder takes it, and what the builder would make of it.

    python hub/write.py FOLDER

FOLDER gets the files of `hub/`, the package without its command line under torch-ext/, and under build/ one variant for
each backend with its metadata.json: of a kernel without compiled code the builder copies the same. Nothing is uploaded.
Of a tree with changes that are not committed nothing is written: a build is named by its commit.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:
    raise SystemExit("hub: expected Python 3.11 or newer, which reads build.toml") from None

ROOT = Path(__file__).resolve().parents[1]


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def commit() -> str:
    try:
        changed = git("status", "--porcelain", "--untracked-files=all")
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(f"hub: {ROOT} is no git repository: a build is named by its commit") from None
    if changed:
        first, count = changed.splitlines()[0].split(maxsplit=1)[1], len(changed.splitlines())
        files = "1 file is" if count == 1 else f"{count} files are"
        raise SystemExit(f"hub: {files} not committed, the first {first}: commit or stash, then again")
    return git("rev-parse", "HEAD")


def package(target: Path) -> None:
    """segattn_triton with its reference, without its perf and without compiled files."""
    ignored = shutil.ignore_patterns("__pycache__", "py.typed")
    shutil.copytree(ROOT / "segattn_triton", target, ignore=ignored)
    shutil.copytree(ROOT / "reference", target / "reference", ignore=ignored)


def metadata(general: dict, backend: str, revision: str) -> dict:
    python_name = general["name"].replace("-", "_")
    return {
        "name": general["name"],
        "id": f"_{python_name}_{backend}_{revision[:7]}",
        "version": general["version"],
        "license": general["license"],
        "python-depends": [],
        "kernel-depends": [],
        "backend": {"type": backend},
    }


def write(folder: Path) -> None:
    revision = commit()
    if folder.exists():
        raise SystemExit(f"hub: {folder} exists: remove it, or name another folder")
    shutil.copytree(ROOT / "hub", folder, ignore=shutil.ignore_patterns("__pycache__", "write.py"))
    shutil.copy(ROOT / "LICENSE", folder)
    (folder / ".gitignore").write_text("__pycache__\nresult\n")
    general = tomllib.loads((folder / "build.toml").read_text())["general"]
    package(folder / "torch-ext" / general["name"].replace("-", "_"))
    for backend in general["backends"]:
        variant = folder / "build" / f"torch-{backend}"
        package(variant)
        (variant / "metadata.json").write_text(json.dumps(metadata(general, backend, revision), indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    write(Path(sys.argv[1]))
