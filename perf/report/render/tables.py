"""What the terminal, the page and the README say about results, as lines of text; the terminal's own table."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from rich.console import Group

from ...records import SEGATTN, Record
from ...terminal import TableRow, listing
from . import words
from .frame import GROUP, from_records, results, summary


@dataclass(frozen=True)
class ResultLine:
    """One comparison in words. `outcome`: "won", "tied" or "lost" by ours; "" where ours or any rival is missing."""

    op: str
    mode: str
    dtype: str
    layout: str
    size: str
    provider: str
    ms: str
    band: str  # of the time, 20-80 %
    eager: str
    compiled: str
    best: str
    share: str
    fastest: str
    spread: str  # times the fastest rival, over all sizes
    outcome: str


def lines(df: pd.DataFrame, timers: Iterable[str]) -> list[ResultLine]:
    chosen = summary(df)
    alike = dict(list(results(df).groupby([*GROUP, "provider"])))
    chosen = chosen[chosen.timer.isin(list(timers))]
    return [_line(row, alike[(*row[GROUP], row.provider)]) for _, row in chosen.iterrows()]


def _line(row: pd.Series, alike: pd.DataFrame) -> ResultLine:
    return ResultLine(
        op=row.op,
        mode=row["mode"],
        dtype=words.dtype(row["dtype"]),
        layout=words.layout(row.layout),
        size=words.size(row),
        provider=words.provider(row.provider),
        ms=words.significant(row.ms),
        band=f"{words.significant(row.ms_20)}–{words.significant(row.ms_80)}",
        eager=times(row, "eager"),
        compiled=times(row, "compile"),
        best=times(row, "compile-best"),
        share=share(row),
        fastest=fastest(row),
        spread=_spread(alike),
        outcome=row.outcome,
    )


def times(row: pd.Series, rival: str) -> str:
    """How many times faster than a rival; where the bands overlap, a tie."""
    return words.TIE if row[f"tied_{rival}"] else words.times(row[f"times_{rival}"])


def fastest(row: pd.Series) -> str:
    """Who is; of a tie all."""
    if not isinstance(row.fastest, tuple):
        return words.DASH
    names = ", ".join(map(words.provider, row.fastest))
    return f"{words.TIE}: {names}" if len(row.fastest) > 1 else names


def _spread(rows: pd.DataFrame) -> str:
    """Least and largest times the fastest rival, of the points that are no tie."""
    apart = rows[rows.outcome.isin(("won", "lost"))].times_fastest
    low, high = words.significant(apart.min()), words.significant(apart.max())
    parts = [f"{low}×" if low == high else f"{low}–{high}×"] * bool(len(apart))
    return ", ".join(parts + [words.TIE] * bool((rows.outcome == "tied").any())) or words.DASH


def share(row: pd.Series) -> str:
    """Of the copy ceiling; of the matrix rate, and said so, where that is the lower one. "≈": within the band."""
    matrix = words.known(row.matmul_ms) and not row.matmul_ms <= row.floor_ms
    least, part = (row.matmul_ms, row.share_matmul) if matrix else (row.floor_ms, row.share)
    text = "≈ 100 %" if row.ms_20 <= least <= row.ms_80 else words.percent(part)
    return f"{text} mm" if matrix else text


@dataclass(frozen=True)
class Comparison:
    """Ours against the rivals, over all points that have both. `slowest`: of those that are lost."""

    points: int
    compared: int
    won: int
    tied: int
    slowest: pd.Series | None


def comparison(df: pd.DataFrame) -> Comparison:
    rows = results(df)
    own = rows[(rows.provider == SEGATTN) & (rows.outcome != "")]
    lost = own[own.outcome == "lost"]
    slowest = lost.loc[lost.times_fastest.idxmin()] if len(lost) else None
    won, tied = (int((own.outcome == outcome).sum()) for outcome in ("won", "tied"))
    return Comparison(len(rows), len(own), won, tied, slowest)


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
    if timers == ["cpu"]:
        return f"{points} timed on the CPU: the reference and the published code. Nothing here is a GPU result."
    text = f"On {gpu or 'a GPU'}: {points} timed"
    if not c.compared:
        return f"{text}, none of ours beside a rival."
    text += f"; ours the fastest at {c.won:,} of {c.compared:,} compared" + f", a tie at {c.tied:,}" * bool(c.tied)
    if c.slowest is None:
        return f"{text}; no rival is faster anywhere."
    row = c.slowest
    kind = f"{words.mode(row['mode'])}, {words.dtype(row['dtype'])}, {words.layout(row.layout)}"
    where = f"{row.op}, {kind}, {words.size(row)}"
    return f"{text}; at worst {words.times(row.times_fastest)} the speed of the fastest rival: {where}."


TERMINAL = ("", "size", "ms", "times eager", "times compiled", "times best", "share of floor")


def terminal_table(records: Iterable[Record]) -> Group:
    """Of each op size, ms, times eager, times compiled, share of floor. Yellow where a rival wins."""
    df = from_records(records)
    groups: dict[str, list[TableRow]] = {}
    for line in lines(df, bulk_timers(df)):
        kind = f"  {line.mode} {line.dtype} {'NHWC' if line.layout == 'channels_last' else line.layout}"
        whose = "" if line.provider == "ours" else f", {line.provider}"
        cells = (kind + whose, line.size, line.ms, line.eager, line.compiled, line.best, line.share)
        groups.setdefault(line.op, []).append(TableRow(cells, "yellow" if line.outcome == "lost" else None))
    return listing(headline(df), TERMINAL, groups, left=(0, 1))
