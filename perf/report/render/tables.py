"""What the terminal, the page and the README say about results, as lines of text; the terminal's own table."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

import pandas as pd
from rich import box
from rich.table import Table

from ...records import Record
from . import words
from .frame import GPU_TIMERS, GROUP, OURS, from_records, is_ours, results, summary


@dataclass(frozen=True)
class Line:
    """One comparison in words. `wins`: whether ours is the fastest; None where ours or any rival is missing."""

    op: str
    mode: str
    dtype: str
    layout: str
    size: str
    provider: str
    ms: str
    eager: str
    compiled: str
    best: str
    share: str
    fastest: str
    spread: str  # times the fastest rival, over all sizes
    wins: bool | None


def lines(df: pd.DataFrame, timers: Iterable[str]) -> list[Line]:
    chosen = summary(df)
    spreads = results(df).groupby([*GROUP, "provider"]).times_fastest.agg(["min", "max"])
    chosen = chosen[chosen.timer.isin(list(timers))]
    return [_line(row, spreads.loc[(*row[GROUP], row.provider)]) for _, row in chosen.iterrows()]


def _line(row: pd.Series, spread: pd.Series) -> Line:
    low, high = words.significant(spread["min"]), words.significant(spread["max"])
    compared = isinstance(row.fastest, str) and is_ours(row.provider) and words.known(row.times_fastest)
    return Line(
        op=row.op,
        mode=row["mode"],
        dtype=words.dtype(row["dtype"]),
        layout=words.layout(row.layout),
        size=words.size(row),
        provider=words.provider(row.provider),
        ms=words.significant(row.ms),
        eager=words.times(row.times_eager),
        compiled=words.times(row.times_compile),
        best=words.times(row["times_compile-best"]),
        share=share(row),
        fastest=words.provider(row.fastest) if isinstance(row.fastest, str) else words.NOTHING,
        spread=words.NOTHING if low == words.NOTHING else f"{low}×" if low == high else f"{low}–{high}×",
        wins=is_ours(row.fastest) if compared else None,
    )


def share(row: pd.Series) -> str:
    """Of the copy ceiling; of the matrix rate, and said so, where that is the lower one."""
    if words.known(row.matmul_ms) and not row.matmul_ms <= row.floor_ms:
        return f"{words.percent(row.share_matmul)} mm"
    return words.percent(row.share)


@dataclass(frozen=True)
class Comparison:
    """Ours against the fastest rival, over all points that have both."""

    points: int
    compared: int
    won: int
    slowest: pd.Series | None


def comparison(df: pd.DataFrame) -> Comparison:
    rows = results(df)
    own = rows[rows.provider == OURS].dropna(subset="times_fastest")
    slowest = own.loc[own.times_fastest.idxmin()] if len(own) else None
    return Comparison(len(rows), len(own), int((own.times_fastest >= 1).sum()), slowest)


def bulk_timers(df: pd.DataFrame) -> list[str]:
    """Whose times the main table shows: the GPU's events if there are any."""
    present = set(results(df).timer)
    for timers in (["events"], ["graph"], ["cpu"]):
        if present & set(timers):
            return timers
    return sorted(present)


def headline(df: pd.DataFrame, gpu: str | None = None) -> str:
    """The run in one sentence of plain words."""
    c, timers = comparison(df), bulk_timers(df)
    points = f"{c.points:,} point{'s' * (c.points != 1)}"
    if not c.points:
        return "Nothing was timed."
    if not set(timers) & set(GPU_TIMERS):
        return f"{points} timed on the CPU: the reference and the published code. Nothing here is a GPU result."
    text = f"On {gpu or 'a GPU'}: {points} timed"
    if not c.compared:
        return f"{text}, none of ours beside a rival."
    text += f"; ours the fastest at {c.won:,} of {c.compared:,} compared"
    if c.slowest is None:
        return f"{text}."
    row = c.slowest
    kind = f"{words.mode(row['mode'])}, {words.dtype(row['dtype'])}, {words.layout(row.layout)}"
    where = f"{row.op}, {kind}, {words.size(row)}"
    return f"{text}; at worst {words.times(row.times_fastest)} the speed of the fastest rival: {where}."


def terminal_table(records: Iterable[Record]) -> Table:
    """op, size, ms, times eager, times compiled, share of floor: within 100 columns. Yellow where a rival wins."""
    df = from_records(records)
    timers = bulk_timers(df)
    found = lines(df, timers)
    table = Table(title=headline(df), box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left")
    for name in ("op", "pass", "type", "size"):
        table.add_column(name, no_wrap=name != "op", overflow="fold")
    for name in ("ms", "times\neager", "times\ncompiled", "times\nbest", "share\nof floor"):
        table.add_column(name, justify="right", no_wrap=True)
    for line, following in zip_longest(found, found[1:]):
        kind = f"{line.dtype} {'NHWC' if line.layout == 'channels_last' else line.layout}"
        cells = (line.ms, line.eager, line.compiled, line.best, line.share)
        style, last = "yellow" if line.wins is False else None, following is not None and following.op != line.op
        table.add_row(line.op, line.mode, kind, line.size, *cells, style=style, end_section=last)
    who = {line.provider for line in found} - {"ours"}
    table.caption = f"times of: {', '.join(sorted(who))}" if who else None
    return table
