"""The parts of the README and of the pages in docs/ that are generated: between `<!-- generated:NAME -->` and
`<!-- end:NAME -->`.

`families`, `gates` and `ops` come from the catalog, `headlines`, `results`, `training`, `scenes` and `models` from the
records under perf/results, `predicted`, `small`, `bars` and `curves` from those of perf/predicted: none typed by hand.
`python -m segattn_triton.perf.report.render.readme README.md` writes them, those of docs/ beside it too.
"""

import json
import os
import re
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from ....catalog import BY_NAME, ROWS, Op
from ....draft import write_text
from ....runtime.checks import DTYPES
from ...compiler import problems
from ...options import MODES
from ...records import load
from . import gates, predicted, whole, words
from .frame import from_records
from .page import REHEARSAL, facts, gpu_name
from .predicted import table
from .tables import headline, lines

PART = re.compile(r"(<!-- generated:(\w+) -->\n).*?(<!-- end:\2 -->)", re.DOTALL)
NO_RESULTS = "No GPU numbers yet."


def update(readme: Path, check: bool = False) -> bool:
    """Whether a generated part of the README, or of a page beside it, is out of date; unless `check`, write it anew."""
    pages = [readme, *sorted((readme.parent / "docs").glob("*.md"))]
    return any([_update(page, readme.parent, check) for page in pages])


def _update(page: Path, root: Path, check: bool) -> bool:
    old = page.read_text(encoding="utf-8")
    made = {"families": families_table, "gates": gates_table, "ops": ops_table}
    made |= {"headlines": lambda: headlines_part(root), "results": lambda: results_part(root, page)}
    made["scenes"] = lambda: gates.told(gates.read(root / "perf" / "results" / "cpu" / "gates.jsonl"))
    made |= {name: partial(predicted_part, root, name) for name in ("predicted", "small", "bars", "curves")}
    made |= {name: partial(whole_part, root, name) for name in ("training", "models")}

    def renew(part: re.Match) -> str:
        if part[2] not in made:
            raise ValueError(f"{page}: no part is called {part[2]!r}, expected one of {', '.join(made)}")
        return f"{part[1]}{made[part[2]]()}\n{part[3]}"

    new = PART.sub(renew, old)
    if new != old and not check:
        write_text(page, new)
    return new != old


def families_table(rows: Iterable[Op] = ROWS) -> str:
    """What there is, a line per file of modules, or of functions alone: as its first row of the catalog says."""
    families: dict[str, list[Op]] = {}
    for row in rows:
        families.setdefault((row.module or row.reference).__module__.rpartition(".")[2], []).append(row)
    head = ("family", "modules and functions", "attends to", "when to use it")
    body = (
        (
            family.replace("_", " "), ", ".join(dict.fromkeys(f"`{_public_name(row)}`" for row in members)),
            members[0].attends_to, members[0].use,
        )
        for family, members in families.items()
    )  # fmt: skip
    return table(head, body)


def gates_table(rows: Iterable[Op] = tuple(BY_NAME.values())) -> str:
    """What there is and when to use it: a row per row of the catalog."""
    head = ("op", "equation", "attends to", "FLOP a value, forward / backward", "when to use it")
    return table(head, ((f"`{row.name}`", f"`{row.equation}`", row.attends_to, cost(row), row.use) for row in rows))


def ops_table(rows: Iterable[Op] = tuple(BY_NAME.values())) -> str:
    """What each is called and runs on: a row per row of the catalog."""
    head = ("op", "function", "module", "passes", "dtypes", "layouts", "spatial axes", "paper")
    dtypes = ", ".join(words.dtype(str(dtype).removeprefix("torch.")) for dtype in DTYPES)
    body = (
        (
            f"`{row.name}`", f"`{row.op.__name__}`", module_call(row), passes(row), dtypes,
            "NCHW, channels_last", ", ".join(map(str, row.dims)), row.paper,
        )
        for row in rows
    )  # fmt: skip
    return table(head, body)


def predicted_part(root: Path, name: str) -> str:
    """Of the records of perf/predicted: against torch.compile at two sizes, the bars, and over resolutions, with the
    pictures that are there, as a page of docs/ finds them."""
    folder = root / "perf" / "predicted"
    found = predicted.load(folder / "sm_90.jsonl")
    if name == "predicted":
        return predicted.against_part(found, problems.REFERENCE)
    if name in ("small", "bars"):
        return {"small": predicted.small_part, "bars": predicted.bars_part}[name](found)
    pictures = [
        f"![Share of the floor against resolution, {words.mode(mode)}](../perf/predicted/plots/curves_{mode}.png)"
        for mode in MODES
        if (folder / "plots" / f"curves_{mode}.png").exists()
    ]
    return "\n\n".join([predicted.curves_part(found), *pictures])


def passes(row: Op) -> str:
    """Forward / backward, and where cases in 16 bits have others, which."""
    others: dict[tuple[float, float], list[str]] = {}
    for case in row.cases:
        found = row.passes_at(case.sizes, 2)
        if found != row.passes:
            others.setdefault(found, []).append(f"{case.C}")
    beyond = [f"; {f:g} / {b:g} of {', '.join(channels)} channels" for (f, b), channels in others.items()]
    return f"{row.passes[0]:.3g} / {row.passes[1]:.3g}" + "".join(beyond)


def module_call(row: Op) -> str:
    """`LocalAttention`, with the options that make it this row; the function of a row that has no module."""
    options = ", ".join(f"{name}={value!r}" for name, value in row.fixed.items())
    return f"`{_public_name(row)}{f'({options})' if options else ''}`"


def _public_name(row: Op) -> str:
    return row.module.__name__ if row.module else f"functional.{row.op.__name__}"


def cost(row: Op) -> str:
    """18 C + 1 / 36 C + 4: the catalog's FLOP at one pixel over C, as a line through two C's."""
    low, high = ([f / C for f in row.count_flops(_one_pixel(row, C))] for C in (64, 128))
    return " / ".join(_linear(a, b) for a, b in zip(low, high, strict=True))


def _one_pixel(row: Op, C: int) -> dict:
    return {"N": 1, "C": C, "S": (1,) * (2 if 2 in row.dims else row.dims[0]), "Cr": C // 2}


def _linear(at_64: float, at_128: float) -> str:
    slope = (at_128 - at_64) / 64
    rest = at_64 - 64 * slope
    if slope != round(slope):
        return f"{at_64:.3g} at C = 64"
    parts = [f"{slope:.0f} C"] * (slope != 0) + [f"{rest:.3g}"] * (rest != 0 or slope == 0)
    return " + ".join(parts)


def headlines_part(root: Path) -> str:
    """A line per GPU that was measured; without one, that there is none."""
    found = (_headline(folder) for folder in _measured(root))
    return "\n".join(f"- {line}" for line in filter(None, found)) or NO_RESULTS


def results_part(root: Path, page: Path) -> str:
    """A section per folder of perf/results that holds times of a GPU; without one, that there are none. The page shows
    the folder's pictures."""
    sections = (_section(page.parent, folder) for folder in _measured(root))
    return "\n\n".join(filter(None, sections)) or NO_RESULTS


def _measured(root: Path) -> list[Path]:
    return sorted((root / "perf" / "results").glob("*/"))


def whole_part(root: Path, name: str) -> str:
    """The table of the README: of the first folder of perf/results that has one, a GPU's before a CPU's. How fast
    models are is a matter of GPUs alone."""

    def on_gpu(folder: Path) -> bool:
        return bool((whole.about_run(folder / f"{name}.json").get("gpu") or {}).get("name"))

    folders = [path.parent for path in sorted((root / "perf" / "results").glob(f"*/{name}.jsonl"))]
    for folder in sorted(folders, key=on_gpu, reverse=True):
        found = [section for section in whole.sections(folder) if section["name"] == name]
        if found and (on_gpu(folder) or name == "training"):
            section = found[0]
            lead = ["\n".join(f"- {line}" for line in section["headline"])] if section["headline"] else []
            return "\n\n".join([" ".join(section["notes"]), *lead, table(section["head"], section["body"])])
    return NO_RESULTS


def _read(folder: Path):
    """The records of a GPU in a folder, their tables and where they come from; None where there are none."""
    df = from_records(load(folder / "records.jsonl"))
    try:
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = [(name, lines(df, [timer])) for name, timer in (("large maps", "events"), ("small maps, graph", "graph"))]
    if not any(body for _, body in found) or environment.get("device") == REHEARSAL:
        return None
    return df, found, environment


def _headline(folder: Path) -> str | None:
    if (read := _read(folder)) is None:
        return None
    df, _, environment = read
    return headline(df, gpu_name(environment))


def _section(beside: Path, folder: Path) -> str | None:
    if (read := _read(folder)) is None:
        return None
    df, found, environment = read
    parts = [f"**{headline(df, gpu_name(environment))}**", f"Conditions: {'; '.join(facts(environment))}."]
    plots = Path(os.path.relpath(folder, beside)) / "plots"
    sheet = folder / "plots" / "sheet.png"
    parts += [f"![times faster, against resolution]({(plots / sheet.name).as_posix()})"] * sheet.exists()
    parts.append("Share of floor: of the speed of a device copy of the same bytes; “mm”, of the matrix rate.")
    head = (
        "op", "pass", "dtype", "layout", "N×C×H×W", "ms", "times eager", "times compiled", "times best compiled",
        "share of floor", "fastest",
    )  # fmt: skip
    for name, body in found:
        if body:
            parts.append(f"Medians of one run, {name}:")
            parts.append(table(head, map(_cells, body)))
    pictures = [folder / "plots" / f"{row.name}_fwd_bfloat16_contiguous_events_gbps.png" for row in ROWS]
    parts += [f"![{p.stem.replace('_', ' ')}]({(plots / p.name).as_posix()})" for p in pictures if p.exists()]
    return "\n\n".join(parts)


def _cells(line) -> tuple[str, ...]:
    fastest = f"**{line.fastest}**" if line.outcome == "lost" else line.fastest
    return (
        f"`{line.op}`", words.mode(line.mode), line.dtype, line.layout, line.size, line.ms, line.eager, line.compiled,
        line.best, line.share, fastest,
    )  # fmt: skip


if __name__ == "__main__":
    stale = update(Path(sys.argv[1]), check="--check" in sys.argv[2:])
    if "--check" not in sys.argv[2:]:
        predicted.draw(predicted.load())
    sys.exit(int(stale and "--check" in sys.argv[2:]))
