"""What came back, into the places from which it is committed; and what it says, in few lines."""

import shutil
import tempfile
from pathlib import Path

from ...catalog import ROWS
from ...tuning import tables as tuned
from ..measure.rehearsal import Rehearsal
from ..options import Usage
from ..records import load
from . import folder, missed, run

SHOWN = 40  # points that missed


def keep(archive: Path, out: Path, tables: Path = Path(tuned.__file__).parent) -> str:
    """Records to OUT, its plots beside them, the tuned table to the shipped ones; what to do next.

    A rehearsal's times are made up: they are not kept.
    """
    with tempfile.TemporaryDirectory() as draft:
        folder.unpack(archive, Path(draft))
        if not (about := Path(draft) / "environment.json").is_file():
            raise Usage(f"{archive} holds no environment.json; expected the one that came back")
        if f'"device": "{Rehearsal.name}"' in about.read_text():
            raise Usage(f"{archive} is of a rehearsal, whose times are made up")
    folder.unpack(archive, out)
    kept = [f"records: {out}"]
    if (out / folder.TABLE).exists():
        table = tuned.read(out / folder.TABLE)
        kept.append(f"table: {shutil.copyfile(out / folder.TABLE, tables / f'{tuned.slug(table.device)}.json')}")
    kept.append(f"plots: {', '.join(path.name for path in plots(out))}")
    return "\n".join([*kept, "then: python -m segattn_triton.perf.report.render.readme README.md", "", summary(out)])


def plots(out: Path) -> list[Path]:
    """Those that the README shows, drawn anew from the records into OUT/plots."""
    from ..report.render import render

    wanted = {"sheet.png", *(f"{row.name}_fwd_bfloat16_contiguous_events_gbps.png" for row in ROWS)}
    with tempfile.TemporaryDirectory() as draft:
        page = Path(shutil.copytree(out, draft, dirs_exist_ok=True))
        render(page)
        (out / "plots").mkdir(exist_ok=True)
        found = sorted(path for path in (page / "plots").glob("*.png") if path.name in wanted)
        return [Path(shutil.copyfile(path, out / "plots" / path.name)) for path in found]


def summary(out: Path) -> str:
    """The steps, what was measured of the machine, prediction against measurement, and what missed: as markdown."""
    records = [*load(out / folder.RECORDS)]
    timed = [r for r in records if r.ms is not None]
    lines = ["| step | outcome | seconds |", "|---|---|--:|"]
    lines += [
        f"| {n['step']} | {n['outcome']} | {n.get('took', '')} |" for n in run.notes(out) if n["outcome"] != "begun"
    ]
    checks = [r for r in records if r.point.mode == "check"]
    lines += [
        "",
        f"{len(timed)} times; {sum(not r.failed for r in checks)} of {len(checks)} checks match the reference.",
    ]
    rates = missed.ceilings(timed)
    lines += [f"ceiling, {name}: {1e3 * rate / 1e12:.4g} T/s" for name, rate in rates.items()]
    for name, fact in folder.facts(out).items():
        assumed = "" if fact["assumed"] is None else f" (assumed {fact['assumed']:g})"
        lines.append(f"{name}: {fact['value']:.4g}{assumed}")
    lines += ["", "Time over the bound of the planned passes, by the ceilings measured:", ""]
    lines += ["| op | direction | layout | points | median | worst |", "|---|---|---|--:|--:|--:|"]
    lines += [
        f"| {op} | {mode} | {layout} | {count} | {middle:.2f} | {worst:.2f} |"
        for op, mode, layout, count, middle, worst in missed.predictions(timed)
    ]
    late = missed.points(timed)
    if late:
        lines += ["", f"{len(late)} points below {missed.SHARE:.0%} of a copy or behind a rival, the most lost first:"]
        of = {r.point: r for r in timed}
        lines += [f"- {_brief(of[p], rates)}" for p in late[:SHOWN]]
    return "\n".join(lines)


def _brief(record, rates) -> str:
    p, share = record.point, record.floor_bytes / rates["copy"] / record.ms
    return f"{p.op} {p.mode} {p.layout} {p.N}x{p.C}x{p.H}x{p.W}: {record.ms:.4g} ms, {share:.0%} of a copy"
