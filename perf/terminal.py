"""Tables for a terminal of 80 columns, whatever they hold; and how far a long piece of work is."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from .estimate import left

WIDTH = 80
EMPTY_CELLS = ("", "–")


def console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


@dataclass(frozen=True)
class TableRow:
    cells: Sequence[str]
    style: str | None = None


def listing(
    title: str, head: Sequence[str], groups: Mapping[str, Sequence[TableRow]], left: Iterable[int] = (0,)
) -> Group:
    """A heading of its own over the rows of each group, columns that no row fills left out, words whole where they fit.

    left: the columns of words; numbers stand at the right. Text is shown as it is: nothing in it is markup.
    """
    rows = [row for group in groups.values() for row in group]
    filled = [i for i in range(len(head)) if any(row.cells[i] not in EMPTY_CELLS for row in rows)]
    widths = _widths([head[i] for i in filled], [[row.cells[i] for i in filled] for row in rows])

    def table(cells: Iterable[TableRow]) -> Table:
        made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
        for i, width in zip(filled, widths, strict=True):
            made.add_column(width=width, justify="left" if i in left else "right", overflow="fold", vertical="bottom")
        for row in cells:
            made.add_row(*(Text(row.cells[i]) for i in filled), style=row.style)
        return made

    parts = [Text(title, style="italic"), table([TableRow(head, "bold")])]
    for name, group in groups.items():
        parts += [Text(name, style="bold")] * bool(name) + [table(group)]
    return Group(*parts)


def _widths(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Of columns with a space between: as wide as their cells, the widest narrowed to its longest word, then more."""
    columns = [[row[i] for row in rows] for i in range(len(head))]
    words = [max(map(len, " ".join([h, *c]).split()), default=1) for h, c in zip(head, columns, strict=True)]
    widths = [max([w, *map(len, column)]) for w, column in zip(words, columns, strict=True)]
    most = WIDTH - len(head)
    for least in (words, [4] * len(head)):
        while sum(widths) > most and any(w > n for w, n in zip(widths, least, strict=True)):
            i = max((i for i, n in enumerate(least) if widths[i] > n), key=lambda i: widths[i])
            widths[i] -= 1
    return widths


class Progress:
    """Says on standard error how far work of `total` pieces is, and how long it will take: on a terminal in one line
    that changes, elsewhere in a new line after every `EVERY` seconds."""

    EVERY = 10.0

    def __init__(self, what: str, total: int, stream: TextIO | None = None, now=time.monotonic):
        self.what, self.total, self.stream, self.now = what, total, stream or sys.stderr, now
        self.begin = self.said = now()
        self.live = self.stream.isatty()

    def __call__(self, done: int) -> None:
        if self.live or self.now() - self.said >= self.EVERY:
            self.said = self.now()
            line = f"{self.what}: {done} of {self.total}{left(self.said - self.begin, done, self.total)}"
            print(f"\r\x1b[K{line}" if self.live else line, end="" if self.live else "\n", file=self.stream, flush=True)

    def end(self) -> None:
        """The line is gone."""
        if self.live:
            print("\r\x1b[K", end="", file=self.stream, flush=True)

    def of(self, pieces: Iterable) -> Iterator:
        """The pieces, as they come."""
        self(0)
        for i, piece in enumerate(pieces, 1):
            yield piece
            self(i)
        self.end()
