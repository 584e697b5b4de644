"""The page of a run: one HTML file with its pictures inside, no script, nothing from elsewhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from . import autotune, words
from .figures import FigureJob
from .frame import GPU_TIMERS, PROBLEM, by_catalog, catalog, missing, predictions, results
from .predicted import AGAINST
from .style import in_order, inline, share_of_width
from .tables import headline, lines, share

SUMMARIES = (
    ("events", "Large maps", "The largest size of the sweep, timed with GPU events, the L2 cache overwritten before."),
    ("graph", "Small maps", "Under a CUDA graph, where the launch costs nothing: what counts below a floor of 20 µs."),
    (
        "cpu",
        "CPU timings",
        "No GPU results: the reference beside the published code. Caches can beat the floor.",
    ),
    ("launch", "Launch overhead", "CPU time from the public function to the launched kernel."),
)
ONLY_WHOLE = "Whole models; no kernel was timed by itself."
LISTED_FILES = {  # that may lie beside the page, and what they hold
    "records.jsonl": "every record",
    "records.csv": "every column",
    "training.jsonl": "every training",
    "models.jsonl": "every time of a whole model",
    "model.json": "the times of your model",
    "model.md": "the same as a table",
    "maps.npz": "the gate maps",
    "autotune.json": "what the tuner timed",
    "plots": "each figure as PNG and SVG",
}
MADE_BY = "<title>segattn_triton: performance report</title>"  # what tells our page from another's
REHEARSAL = "rehearsal"  # the device of a run whose times are made up


class Forecast(NamedTuple):
    """What is predicted against torch.compile, from machine code."""

    body: list[tuple[str, ...]]
    pictures: list[Path]


class Tuning(NamedTuple):
    """What the tuner found."""

    body: list[list[str]]
    picture: Path | None


def build(
    df: pd.DataFrame,
    environment: Mapping[str, Any],
    figures: list[tuple[FigureJob, Path]],
    maps: Path | None,
    tuning: Tuning | None = None,
    whole: Sequence[Mapping[str, Any]] = (),
    files: Mapping[str, str] = MappingProxyType({}),
    sheet: Path | None = None,
    forecast: Forecast | None = None,
) -> str:
    env = Environment(
        loader=PackageLoader("segattn_triton.perf.report", "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(width=share_of_width, mode=words.mode, provider=words.provider)
    gpu = gpu_name(environment)
    only_whole = bool(whole) and df.empty
    timed, left_out = results(df), environment.get("left_out") or {}
    on_gpu = bool(timed.timer.isin(GPU_TIMERS).any())
    return env.get_template("index.html").render(
        sentence=ONLY_WHOLE if only_whole else headline(df, gpu),
        banner=None if only_whole else banner(on_gpu or bool((timed.timer == "launch").any()), environment),
        facts=facts(environment),
        conditions=conditions(environment),
        method=list(flat(environment.get("method") or {})),
        summaries=[(title, note, found) for t, title, note in SUMMARIES if (found := lines(df, [t]))],
        whole=whole,
        ops=[_op(name, df, figures) for name in _ops(df)],
        maps=Markup(inline(maps)) if maps else None,
        sheet=Markup(inline(sheet)) if sheet else None,
        tuned=tuning.body if tuning else [],
        tuned_head=autotune.AUTOTUNE_HEAD,
        tuned_picture=Markup(inline(tuning.picture)) if tuning and tuning.picture else None,
        checks=_checks(df),
        kernels=_kernels(df),
        missing=_missing(df),
        left_out=left_out,
        joined="merged_from" in environment,
        unfinished=bool(environment) and not only_whole and "finished" not in environment,
        complete=not (left_out or len(missing(df)) or any(part["left_out"] or part["failed"] for part in whole)),
        timed=len(timed),
        on_gpu=on_gpu,
        bands=bool((timed.timer != "launch").any()),
        errors=bool(timed.error.notna().any()),
        predicted=len(predictions(df)),
        forecast=forecast.body if forecast else [],
        forecast_head=AGAINST,
        forecast_pictures=[Markup(inline(picture)) for picture in forecast.pictures] if forecast else [],
        files=files,
    )


def gpu_name(environment: Mapping[str, Any]) -> str | None:
    if environment.get("device") == REHEARSAL:
        return "a GPU that is made up"
    gpu = environment.get("gpu")
    return gpu.get("name") if isinstance(gpu, Mapping) else gpu


def banner(on_gpu: bool, environment: Mapping[str, Any]) -> str | None:
    if environment.get("device") == REHEARSAL:
        return "A rehearsal: the times are made up. Nothing here is a result."
    return (
        None if on_gpu else "No GPU: predictions from machine code and CPU timings only; nothing here is a GPU result."
    )


def flat(values: Mapping[str, Any], prefix: str = ""):
    """Nested settings as (name, text) pairs."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name} ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            yield f"{prefix}{name}".replace("_", " "), "none" if value in (None, {}, [], "") else text


ON_GPU = ("gpu", "cuda", "hip", "cudnn", "driver", "tf32")  # conditions that a CPU's times do not depend on


def conditions(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was recorded and applies: nothing that is absent, and of a GPU only where there is one."""
    elsewhere = ("method", "left_out", *(() if environment.get("gpu") else ON_GPU))
    found = flat({k: v for k, v in environment.items() if k not in elsewhere})
    return [(name, text) for name, text in found if text != "none"]


def facts(environment: Mapping[str, Any]) -> list[str]:
    """The conditions that every reader asks for first."""
    known = dict(flat(environment))
    wanted = {
        "GPU": ("gpu name", "gpu"),
        "CPU": ("cpu name", "cpu"),
        "driver": ("driver",),
        "CUDA": ("cuda",),
        "torch": ("packages torch", "torch"),
        "triton": ("packages triton", "triton"),
        "SM clock": ("gpu state sm mhz", "clocks sm mhz"),
        "measured": ("date",),
    }
    first = {}
    for label, names in wanted.items():
        first[label] = next((known[name] for name in names if known.get(name, "none") != "none"), "")
    return [f"{label} {text}{' MHz' * (label == 'SM clock')}" for label, text in first.items() if text]


def sources(environment: Mapping[str, Any]) -> list[str]:
    """The facts that a picture carries by itself; of a rehearsal, that it is one."""
    said = ["a rehearsal: the times are made up"] * (environment.get("device") == REHEARSAL)
    return said + facts(environment)


def _ops(df: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(by_catalog(df[~df.ceiling]).op))


def _op(name: str, df: pd.DataFrame, figures: list[tuple[FigureJob, Path]]) -> dict[str, Any]:
    row = catalog().get(name)
    own = [(job.caption, Markup(inline(svg)), job.main) for job, svg in figures if job.op == name]
    return {
        "name": name,
        "equation": row.equation if row else "",
        "attends_to": row.attends_to if row else "",
        "paper": row.paper if row else "",
        "figures": [(caption, svg) for caption, svg, main in own if main],
        "folded": [(caption, svg) for caption, svg, main in own if not main],
        "kinds": ", ".join(dict.fromkeys(caption.partition(":")[0] for caption, _, main in own if not main)),
        "points": _points(results(df)[lambda d: d.op == name]),
    }


def _points(rows: pd.DataFrame) -> dict[str, Any]:
    """A line per problem, the milliseconds of each provider, the fastest marked."""
    providers = in_order(rows.provider)
    body = []
    for problem, part in by_catalog(rows).groupby(PROBLEM, sort=False):
        p = dict(zip(PROBLEM, problem, strict=True))
        part = part.set_index("provider")
        own = next((name for name in ("segattn", "reference") if name in part.index), part.index[0])
        one = part.loc[own]
        cells = [
            (words.significant(part.ms[name]) if name in part.index else words.DASH, part.fastest.iloc[0] == (name,))
            for name in providers
        ]
        what = [p["mode"], words.dtype(p["dtype"]), words.layout(p["layout"]), words.size(p), words.timer(p["timer"])]
        what[-1] += ", photograph" if p["inputs"] == "photo" else ""
        band = f"{words.significant(one.ms_20)}–{words.significant(one.ms_80)}"
        body.append((what, cells, [band, words.significant(one.gbps), share(one), words.scientific(one.error)]))
    return {"providers": [words.provider(p) for p in providers], "body": body}


def _checks(df: pd.DataFrame) -> list[list[str]]:
    """The records without a time that say whether the kernels match the reference."""
    body = []
    for _, r in by_catalog(df[(df.timer == "check") & ~df.status.str.startswith("skipped")]).iterrows():
        used = words.percent(r.extra.get("budget_used"))
        body.append([r.op, words.dtype(r["dtype"]), words.layout(r.layout), words.size(r), used, r.status])
    return body


def _kernels(df: pd.DataFrame) -> list[list[str]]:
    """Figures of the compiler, each once: in `extra` of a point as such, or as its list `kernels`."""
    found: dict[tuple, None] = {}
    for _, row in by_catalog(df).iterrows():
        listed = row.extra.get("kernels")
        for k in listed if isinstance(listed, list) else [row.extra]:
            if not isinstance(k, Mapping) or "registers" not in k:
                continue
            blocks = k.get("blocks") or {}
            config = [*(f"{n.removeprefix('BLOCK_')} {v}" for n, v in blocks.items())]
            config += [f"{k[n]} {n.removeprefix('num_')}" for n in ("num_warps", "num_stages") if n in k]
            target = str(k.get("target") or row.extra.get("arch") or words.DASH)
            what = [row.op, row["mode"], words.dtype(row["dtype"]), words.layout(row.layout)]
            name = str(k.get("name") or k.get("kernel") or words.DASH)
            figures = [str(k.get(n, words.DASH)) for n in ("registers", "spills", "shared")]
            found[(*what, name, ", ".join(config) or words.DASH, target, *figures)] = None
    return [list(line) for line in found]


def _missing(df: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Reasons, the most frequent first, and the points of each."""
    groups: dict[str, list[str]] = {}
    for _, r in by_catalog(missing(df)).iterrows():
        what = [r.op, words.provider(r.provider), r["mode"], words.dtype(r["dtype"]), words.layout(r.layout)]
        groups.setdefault(r.status, []).append(f"{' '.join(what)} {words.size(r)} ({words.timer(r.timer)})")
    return sorted(groups.items(), key=lambda item: -len(item[1]))
