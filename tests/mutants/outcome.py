"""What came of the mutants: how many were found, of each part, and the place of every survivor."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import choice
from faults import Mutant

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read(results: Path, root: Path = ROOT) -> dict[Mutant, dict]:
    """What was tried of the present text."""
    found = {}
    for line in results.read_text().splitlines() if results.exists() else ():
        record = json.loads(line)
        path = root / record["path"]
        if path.exists() and digest(path.read_text()) == record["text"]:
            found[Mutant(*(record[name] for name in Mutant.__dataclass_fields__))] = record
    return found


def line(record: dict) -> str:
    place = f"{record['path']}:{record['line']} {record['function']}"
    late = " what its time allowed" * record["late"]
    return f"{record['by'] or 'SURVIVED' + late} <- {place}, {record['kind']}: {record['before']} -> {record['after']}"


def equivalent() -> dict[tuple[str, str, str, str], str]:
    """(file, function, before, after) -> why it is the same program, or one that is as right."""
    found = {}
    for block in EQUIVALENT.read_text().split("\n\n")[1:]:
        place, change, why = block.strip().split("\n", 2)
        before, after = change.split(" -> ")
        found[(*place.split(" "), before, after)] = why
    return found


def wilson(found: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share."""
    share, spread = found / of, z * z / of
    middle, half = share + spread / 2, z * math.sqrt(share * (1 - share) / of + spread / of / 4)
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


def was_found(record: dict, void: Collection[str] = ()) -> bool:
    return record["by"] not in {"", *void}


def card(records: Collection[dict], void: Collection[str] = ()) -> str:
    """A table of the parts, and every survivor with its place."""
    same = equivalent()
    records = [r for r in records if (r["path"], r["function"], r["before"], r["after"]) not in same]
    lines = ["| part | faults | found | |", "| --- | ---: | ---: | --- |"]
    planted = Counter(choice.part_of(r["path"]) for r in records)
    seen = Counter(choice.part_of(r["path"]) for r in records if was_found(r, void))
    for part in [*planted, "all"]:
        n, k = (planted.total(), seen.total()) if part == "all" else (planted[part], seen[part])
        low, high = wilson(k, n)
        lines.append(f"| {part} | {n} | {k} | {k / n:.0%}, 95 % interval {low:.0%} to {high:.0%} |")
    left = [r for r in records if not was_found(r, void)]
    return "\n".join([*lines, *map(line, left)])
