"""One look for every plot: Okabe-Ito colours that any eye tells apart, one width, PNG at 150 dpi and SVG.

The SVG keeps text as text and its neutral colours as placeholders, so that the page can follow a dark scheme.
"""

import re
import zlib
from functools import wraps
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

WIDTH = 10.5  # inches
INK, MUTED, RULE, SHADE = "#1c2026", "#5b6470", "#d5d9de", "#eef0f3"
CSS = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", SHADE: "var(--shade)", "#0072b2": "var(--ours)"}

_FIXED = {
    "segattn": ("#0072B2", "o"),
    "eager": ("#D55E00", "s"),
    "compile": ("#009E73", "^"),
    "compile-best": ("#CC79A7", "D"),
    "flex": ("#56B4E9", "P"),
    "natten": ("#999933", "X"),
    "reference": ("#E69F00", "v"),
}
_SPARE = (("#8B6BB8", "h"), ("#A0522D", "<"), ("#7F7F7F", "*"))

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.minor.size": 0,
    "text.color": INK,
    "text.parse_math": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "segattn",
}


def look(provider: str) -> dict[str, str]:
    """The colour and marker of a provider, the same in every figure."""
    colour, marker = _FIXED.get(provider) or _SPARE[sum(map(ord, provider)) % len(_SPARE)]
    return {"color": colour, "marker": marker}


def in_order(providers) -> list[str]:
    """Ours first, then the rivals, then others by name."""
    known = list(_FIXED)
    return sorted(set(providers), key=lambda p: (known.index(p) if p in known else len(known), p))


def styled(draw):
    """A function that draws in this style, whatever the process has set."""

    @wraps(draw)
    def drawn(*args, **kwargs):
        with plt.rc_context(RC):
            return draw(*args, **kwargs)

    return drawn


def figure(title: str, panels: int, height: float, *, columns: int = 3, margins=(0.7, 0.9), note: str = ""):
    """A figure of the common width, or half of it for one panel: rows of panels `height` inches high with axis titles.

    margins: inches beside each panel, left for its ticks, right for the names of its lines. Unused places stay empty.
    """
    rows = max(1, -(-panels // columns))
    width, head = (WIDTH, 0.35) if panels > 1 else (WIDTH / 2, 0.55)
    total, cell = rows * height + head, WIDTH / columns if panels > 1 else width
    fig = plt.figure(figsize=(width, total))
    axes = []
    for i in range(panels):
        left, bottom = (i % columns) * cell + margins[0], total - head - (i // columns + 1) * height + 0.45
        box = (left / width, bottom / total, (cell - sum(margins)) / width, (height - 0.75) / total)
        axes.append(fig.add_axes(box))
    title = title if panels > 1 else title.replace(": ", "\n", 1)
    fig.text(0.1 / width, 1 - 0.12 / total, title, va="top", fontsize=10 if panels > 1 else 9, color=INK)
    fig.text(1 - 0.1 / width, 1 - 0.14 / total, note, va="top", ha="right", fontsize=7, color=MUTED)
    return fig, axes


def file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


@styled
def save(fig: Figure, folder: Path, name: str) -> Path:
    """NAME.png on white and NAME.svg without a background; the path of the SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / file_name(name)
    fig.savefig(f"{stem}.png", dpi=150, facecolor="white")
    fig.savefig(f"{stem}.svg", metadata={"Date": None, "Creator": None})
    plt.close(fig)
    return Path(f"{stem}.svg")


def share_of_width(svg: str) -> float:
    """Of the common width, from an inline SVG's viewBox in points."""
    return round(float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1]) / (72 * WIDTH), 3)


def inline(svg: Path) -> str:
    """The SVG as part of a page: sized by the page, in its colours and font, without what a page does not need."""
    text = svg.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r"font-family: [^;\"]*; ", "", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    for colour, variable in CSS.items():
        text = text.replace(colour, variable)
    prefix = f"{zlib.crc32(svg.stem.encode()):x}"  # ids are unique in one figure, not in a page
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\1#{prefix}", text)
    return re.sub(r"\n\s*", "\n", text)
