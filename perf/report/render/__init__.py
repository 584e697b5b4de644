"""From OUT/records.jsonl to OUT/records.csv, OUT/plots and OUT/index.html; the table for the terminal."""

import contextlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from ....draft import write_text
from ...compiler.problems import REFERENCE
from ...records import load
from ...terminal import TableRow, listing
from . import autotune, figures, frame, page, predicted, whole
from .tables import terminal_table

__all__ = ["render", "render_and_print", "terminal_table"]


def render(out: Path) -> Path:
    """Draw what OUT holds; the path of the page. Needs neither a GPU nor a whole run: any records will do."""
    path = out / "records.jsonl"
    df = frame.from_records(load(path))
    if path.exists():
        frame.write_csv(df, out / "records.csv")
    drawn = figures.draw(df, out)
    environment = _environment(out / "environment.json") or whole.environment(out)
    sheet = figures.draw_sheet(df, page.sources(environment), out / "plots")
    maps = figures.draw_maps(out / "maps.npz", out / "plots")
    found = autotune.load(out)
    tuning = page.Tuning(autotune.lines(found, df), figures.draw_spread(found, out / "plots"))
    index = out / "index.html"
    files = {name: what for name, what in page.LISTED_FILES.items() if (out / name).exists()}
    forecast = _forecast() if len(frame.predictions(df)) else None
    made = page.build(df, environment, drawn, maps, tuning, whole.sections(out), files, sheet, forecast)
    _set_aside(index)
    write_text(index, made)
    return index


def _forecast() -> page.Forecast:
    """Of the records and pictures that are committed."""
    return page.Forecast(predicted.against_lines(predicted.load(), REFERENCE), predicted.pictures())


def _set_aside(index: Path) -> None:
    """A page of another's making is kept under another name."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        if page.MADE_BY.encode() not in index.read_bytes():
            number = next(i for i in range(1, 10**6) if not index.with_stem(f"index-{i}").exists())
            index.rename(index.with_stem(f"index-{number}"))


def render_and_print(out: Path, console: Console) -> Path:
    """The page anew, and the tables on the terminal."""
    for section in whole.sections(out):
        groups: dict[str, list[TableRow]] = {}
        keys = whole.REPEATED_CELLS[section["name"]]  # the columns that head a group of rows
        for row in section["body"]:
            groups.setdefault(", ".join(row[:keys]), []).append(TableRow(row[keys:]))
        console.print(listing(section["title"], section["head"][keys:], groups))
        missing = [f"{section['left_out']} left out, --resume goes on"] * bool(section["left_out"])
        for note in [*section["headline"], *section["notes"], *section["failed"], *missing]:
            console.print(note, markup=False)
    page = render(out)
    console.print(f"the report: {page.resolve()}", markup=False, soft_wrap=True)
    return page


def _environment(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
