"""`make mutants`: faults are planted one at a time into a copy of this tree, and the tests have to find each.

    python tests/mutants --sample 100 --seed 1 [--results FILE]    draw faults and try each that FILE does not hold
    python tests/mutants --card FILE                               what came of them, and every survivor
    python tests/mutants --touch                                   note which functions each test runs, for what follows

A mutant meets tests of the default run (`choice`), until the first that fails or for SECONDS of a processor, then for
kernels the static guard. Noting takes a default run; without it rows and names choose. FILE has a JSON line
each, with the digest of the text that it was made of: what another text says is not counted. Exits 1 if not one fault
was found: then the tests do not see the copy.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import choice
import outcome
import touched
from faults import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
TOUCHED = ROOT / "build" / "touched"
SECONDS, HANGS = 120, 300  # of a processor, of tests for a mutant; of the clock, for a test
GUARD = """
import sys
import static_ledger as ledger
import static_worker
rows = [ledger.BY_NAME[name] for name in sys.argv[1:]]
places = [("float32", "contiguous", 90), ("float16", "channels_last", 75)]
jobs = [ledger.Job(row.name, row.cases[0].name, *place) for row in rows for place in places]
print("\\n".join(fault for job in jobs for found in ledger.compiled((job, None)) for fault in found))
"""


def sites(root: Path = ROOT) -> dict[str, dict[str, list[Mutant]]]:
    """part -> kind -> every fault of it."""
    found: dict[str, dict[str, list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for part in choice.FOLDERS:
        for path in sorted((root / "segattn_triton" / part).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            for mutant in mutants(name, path.read_text()):
                found[part][mutant.kind].append(mutant)
    return found


def drawn(count: int, seed: str, found: dict[str, dict[str, list[Mutant]]]) -> list[Mutant]:
    """One part after the other; of it any kind, of the kind any place. The first of more are the same."""
    chosen: dict[Mutant, None] = {}
    parts, draw = list(found), random.Random(seed)
    while len(chosen) < count:
        kinds = found[parts[len(chosen) % len(parts)]]
        chosen[draw.choice(kinds[draw.choice(sorted(kinds))])] = None
    return list(chosen)


def copied(folder: Path) -> Path:
    """This tree without what git ignores; its parts that are installed from elsewhere lie inside the package."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in ("perf", "reference"):
        (folder / "segattn_triton" / name).symlink_to(folder / name)
    return folder


def in_child(folder: Path, work: Callable[[], dict], seconds: float) -> dict:
    """What `work` returns in a process of its own in that folder, which knows torch already; "died" how, if it did."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    if (child := os.fork()) == 0:
        os.setsid()
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        try:
            os.chdir(folder)
            os.environ["PYTHONPATH"] = str(folder)
            sys.path[:0] = [str(folder), str(folder / "tests/support")]
            answer.write_text(json.dumps(work()))
        except BaseException as error:
            answer.write_text(json.dumps({"died": type(error).__name__}))
        os._exit(0)
    end = time.time() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.time() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"died": "hangs"}
        time.sleep(0.05)
    return json.loads(answer.read_text()) if answer.exists() else {"died": "crash"}


def tested(plugin, arguments: list[str]) -> dict:
    """What the tests say: in the process that runs them."""
    import pytest

    options = ["-q", "-n0", "-p", "no:cacheprovider", "--timeout", str(HANGS), *arguments]
    code = pytest.main(options, plugins=[plugin])
    broken = code in (3, 4) or (code == 2 and not plugin.failed)
    failed = plugin.failed or ["no test could be collected"] * broken
    return {"failed": failed, "tests": plugin.count, "late": plugin.late}


def guarded(folder: Path, rows: list[str]) -> str:
    """What the static guard says of the first named case of some rows."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{folder / 'tests/support'}"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", GUARD, *rows[:2]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout.strip().partition("\n")[0] or ("" if done.returncode == 0 else "the guard cannot plan it")


def tried(mutant: Mutant, folder: Path, rows: dict[str, list[str]], seconds: float, running: Sequence[str]) -> dict:
    """A mutant in the copy: who found it, or nobody. running: the tests that run its function."""
    begin, path = time.time(), folder / mutant.path
    clean, part = path.read_text(), choice.part_of(mutant.path)
    own = rows.get(mutant.path) if part in choice.OF_ROWS else None
    path.write_text(mutant.applied(clean))
    try:
        plugin = choice.Choice(mutant.path, mutant.function, own and set(own), seconds, running)
        work = partial(tested, plugin, ["-x", *choice.FOLDERS[part]])
        found = in_child(folder, work, 20 * seconds + HANGS)
        by = found.get("died") or "".join(found["failed"][:1])
        if not by and part == "kernels" and own:
            by = guarded(folder, own) and "static guard"
    finally:
        path.write_text(clean)
    told = {"by": by, "tests": found.get("tests"), "late": found.get("late", False)}
    return {**told, "seconds": round(time.time() - begin, 1)}


def run(options) -> int:
    os.environ.update(TRITON_INTERPRET="1", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    import hypothesis  # noqa: F401, what every child would import
    import torch._dynamo
    import triton.language  # noqa: F401

    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    done, todo = outcome.read(options.results), drawn(options.sample, options.seed, sites())
    noted = touched.read(TOUCHED)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(Path(temporary))
        rows = in_child(folder, partial(choice.rows_of, str(folder)), 600)
        assert "died" not in rows, (folder / "output.txt").read_text()[-3000:]
        for i, mutant in enumerate(todo):
            if mutant not in done:
                text = outcome.digest((folder / mutant.path).read_text())
                running = [test for _, test in noted.get((mutant.path, mutant.function), ())]
                found = tried(mutant, folder, rows, options.seconds, running)
                done[mutant] = {**asdict(mutant), "text": text, "commit": commit, "seed": options.seed, **found}
                with options.results.open("a") as file:
                    file.write(json.dumps(done[mutant]) + "\n")
                print(f"{i + 1} of {len(todo)}: {outcome.line(done[mutant])}", flush=True)
        void = wrong_finders(folder, [done[m]["by"] for m in todo])
    records = [done[m] for m in todo]
    print(outcome.card(records, void))
    return int(not any(outcome.was_found(r, void) for r in records))  # survivors are for whoever reads the card


def wrong_finders(folder: Path, names: list[str]) -> set[str]:
    """Tests that fail without a fault, too: what they found counts for nothing."""
    tests = {name for name in names if "::" in name}
    files = sorted({name.partition("::")[0] for name in tests})
    return set(in_child(folder, partial(tested, choice.Named(tests), files), 3600)["failed"]) if tests else set()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="how many faults")
    parser.add_argument("--seed", default="1", metavar="S", help="which; any text")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutants.jsonl", help="goes on where it ends")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of tests for each")
    parser.add_argument("--card", type=Path, metavar="FILE", help="say what FILE holds, and try nothing")
    parser.add_argument("--touch", action="store_true", help="note which functions each test of the default run runs")
    options = parser.parse_args()
    if options.touch:
        return touched.write(TOUCHED)
    if options.card:
        print(outcome.card(list(outcome.read(options.card).values())))
        return 0
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
