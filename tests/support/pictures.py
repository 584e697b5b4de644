"""Where the words of a matplotlib figure stand: what lies upon what, and what is cut off."""

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

LEAST = 2.0  # pixels, in both directions, that count as an overlap


def collisions(fig: Figure) -> list[str]:
    """Texts that lie upon each other, and those that the figure cuts off."""
    fig.canvas.draw()
    found = [(t.get_text(), t.get_window_extent(fig.canvas.get_renderer())) for t in _drawn(fig)]
    wrong = []
    for i, (a, box) in enumerate(found):
        for b, other in found[:i]:
            wide = min(box.x1, other.x1) - max(box.x0, other.x0)
            high = min(box.y1, other.y1) - max(box.y0, other.y0)
            if wide > LEAST and high > LEAST:
                wrong.append(f"{a!r} upon {b!r}")
    width, height = fig.canvas.get_width_height()
    for text, box in found:
        if box.x0 < -LEAST or box.y0 < -LEAST or box.x1 > width + LEAST or box.y1 > height + LEAST:
            wrong.append(f"{text!r} is cut off")
    return wrong


def _drawn(fig: Figure) -> Iterator[Text]:
    """Those that are seen: no tick beyond the axis, no label of axes without a frame."""
    unseen = {id(t) for ax in fig.findobj(Axes) for t in _unseen(ax)}
    yield from (t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in unseen)


def _unseen(ax: Axes) -> Iterator[Text]:
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not (ax.axison and low <= tick.get_loc() <= high):
                yield from (tick.label1, tick.label2)
        if not ax.axison:
            yield from (axis.label, axis.offsetText)
