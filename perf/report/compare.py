"""Two reports of one machine type, point by point: what became slower, beyond the threshold and beyond the noise.

A point is slower where its median is by more than the threshold, and the 20-80 % bands of both runs are apart; a
point that was timed and now fails is slower, too. Only our own points decide; the rivals say how alike the two runs
were. Also the union of partial reports.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ...draft import replacing
from ..folder import Folder, identity, refuse_other_schema
from ..measure import plan
from ..options import Usage
from ..records import Point, Record, load

TIMERS = ("events", "graph", "launch", "cpu")


@dataclass(frozen=True)
class Change:
    point: Point
    base: Record
    new: Record

    @property
    def ratio(self) -> float:
        """Of the times: above 1 is slower."""
        return self.new.ms / self.base.ms if self.new.ms else float("inf")

    def slower(self, threshold: float) -> bool:
        return self.new.failed or (self.ratio > 1 + threshold and self.new.ms_20 > self.base.ms_80)

    def faster(self, threshold: float) -> bool:
        return not self.new.failed and 1 / self.ratio > 1 + threshold and self.new.ms_80 < self.base.ms_20


def environment(folder: Path, argument: str) -> dict[str, Any]:
    """environment.json of a report, or the one line that says what is wrong with the folder."""
    if not (folder / "records.jsonl").is_file():
        raise Usage(f"{argument}: {folder} holds no records.jsonl; expected the folder of a report")
    refuse_other_schema(folder / "records.jsonl", argument)
    try:
        found = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        identity(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Usage(f"{argument}: {folder}/environment.json does not describe a report") from None
    return found


def refuse_others(first: Mapping, second: Mapping, argument: str, *, same_package: bool) -> None:
    ours = identity(first)
    for name, value in identity(second).items():
        if ours[name] != value and (same_package or name != "segattn_triton"):
            raise Usage(f"{argument}: measured with {name} {value}, the other with {ours[name]}; expected the same")


def parse_threshold(text: str) -> float:
    """ "5%" -> 0.05"""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < 10:
        raise Usage(f"--threshold: got {text!r}, expected a percentage such as 5%")
    return value


def changes(base: Path, new: Path) -> list[Change]:
    """The points that both hold, timed before."""
    after = {r.point: r for r in load(new / "records.jsonl")}
    found = []
    for record in load(base / "records.jsonl"):
        other = after.get(record.point)
        if record.point.timer in TIMERS and _timed(record) and other and (_timed(other) or other.failed):
            found.append(Change(record.point, record, other))
    return found


def _timed(r: Record) -> bool:
    return r.status == "ok" and all(isinstance(t, (int, float)) and t > 0 for t in (r.ms, r.ms_20, r.ms_80))


def compare(base: Path, new: Path, threshold: float) -> tuple[str, bool]:
    """(markdown, whether anything of ours became slower)"""
    before, after = environment(base, "BASE"), environment(new, "NEW")
    refuse_others(before, after, "NEW", same_package=False)
    found = changes(base, new)
    ours = [c for c in found if c.point.provider.startswith("segattn")]
    if not ours:
        raise Usage(f"NEW: {new} and {base} have no timed point of ours in common")
    slower = sorted((c for c in ours if c.slower(threshold)), key=lambda c: -c.ratio)
    faster = sorted((c for c in ours if c.faster(threshold)), key=lambda c: c.ratio)
    device, commits = identity(after)["GPU"] or identity(after)["device"], [_commit(e) for e in (before, after)]
    rivals = [c.ratio for c in found if c not in ours and not c.new.failed]
    lines = [
        f"## {len(slower)} of {len(ours)} points slower, {len(faster)} faster",
        "",
        f"{device}: {commits[0]} to {commits[1]}; more than {100 * threshold:g} % and 20-80 % bands apart.",
    ]
    if rivals:
        lines.append(f"The rivals took {median(rivals):.3f} times as long in the second run, median of {len(rivals)}.")
    for title, chosen in (("Slower", slower), ("Faster", faster)):
        if chosen:
            lines += ["", f"### {title}", "", "| point | timer | before ms | now ms | times |", "|---|---|--:|--:|--:|"]
            lines += [_line(c) for c in chosen]
    return "\n".join(lines) + "\n", bool(slower)


def _commit(env: Mapping) -> str:
    revision = env.get("revision") or {}
    return f"{str(revision.get('commit') or env.get('date'))[:12]}{' (changed)' * bool(revision.get('dirty'))}"


def _line(c: Change) -> str:
    now = c.new.status if c.new.failed else f"{c.new.ms:.4g}"
    times = "" if c.new.failed else f"{c.ratio:.3f}"
    return f"| {plan.describe(c.point)} {c.point.provider} | {c.point.timer} | {c.base.ms:.4g} | {now} | {times} |"


def merge(folders: Sequence[Path], out: Path) -> Path:
    """One report of several, of one machine type and version set; the page's path."""
    if not folders:
        raise Usage("--merge: got no folder, expected those of the reports to join")
    if out.resolve() in [f.resolve() for f in folders]:
        raise Usage(f"--out: {out} is one of the reports to merge; expected another folder")
    environments = [environment(f, "--merge") for f in folders]
    for folder, env in zip(folders[1:], environments[1:], strict=True):
        refuse_others(environments[0], env, f"--merge: {folder}", same_package=True)
    joined = Folder(out, environments[0], resume=False)
    for record in _best(r for f in folders for r in load(f / "records.jsonl")):
        joined.save(record)
    joined.describe(left_out=dict(_left_out(environments)))
    joined.describe(merged_from=[f"{f}, {env.get('date')}" for f, env in zip(folders, environments, strict=True)])
    joined.write("autotune.json", [r for f in folders for r in _tuned(f)])
    if maps := next((f / "maps.npz" for f in folders if (f / "maps.npz").is_file()), None):
        with replacing(out / "maps.npz") as draft:
            draft.write_bytes(maps.read_bytes())
    from .render import render

    return render(out)


def _left_out(environments: Iterable[Mapping]) -> Counter:
    """Of all of them together: a point that one left out and another measured counts."""
    return sum((Counter(env.get("left_out") or {}) for env in environments), Counter())


def _best(records: Iterable[Record]) -> Iterable[Record]:
    """The latest of each point, but nothing without a time in place of one with."""
    found: dict[Point, Record] = {}
    for r in records:
        if r.point not in found or r.status == "ok" or found[r.point].status != "ok":
            found[r.point] = r
    return found.values()


def _tuned(folder: Path) -> list:
    try:
        found = json.loads((folder / "autotune.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []
