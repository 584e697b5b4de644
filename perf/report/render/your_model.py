"""`segattn report --model`, from OUT/model.json: for terminal and page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import words

MODEL_FILE = "model.json"
WAYS = {  # that a model runs -> what tables call them
    "eager": "eager",
    "accelerated": "eager, accelerated",
    "compiled": "compiled",
    "both": "compiled, accelerated",
}
HEAD = ("how", "ms a step", "20–80 %", "times eager", "peak memory")
OVERLAP = ", bands overlap"  # the ratio may be noise
ON_CPU = "On a CPU accelerated gates run the reference in pure torch: no kernel ran, and this is no GPU result."


def load(out: Path) -> dict[str, Any] | None:
    """What OUT holds of a model; what cannot be read is nothing."""
    try:
        found = json.loads((out / MODEL_FILE).read_text(encoding="utf-8"))
        section_of(found)
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None


def title(values: Mapping[str, Any]) -> str:
    return f"{values['model']}, {'×'.join(map(str, values['input']))}"


def sentence(values: Mapping[str, Any]) -> str:
    """What the gates take of a step, and what faster ones allow."""
    gates = len(values["gates"])
    if not gates:
        return "No gate of this model can be accelerated."
    if values["share"] is None:
        return f"{gates} gates; their time is not known: {values['reason']}"
    limit = f"at most {values['limit']:.2f} times the speed" if values["limit"] else "any speed"
    taken = f"{gates} gates take {values['gates_ms']:.3g} ms of a step, {100 * values['share']:.1f} %"
    return f"{taken}: faster gates allow {limit}."


def lines(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Cells of `HEAD`, of the variants that ran."""
    eager = values["variants"]["eager"]
    return [
        (
            name,
            f"{v['ms']:.4g}",
            f"{v['ms_20']:.4g}–{v['ms_80']:.4g}",
            f"{eager['ms'] / v['ms']:.2f}" + OVERLAP * (name != "eager" and not _apart(eager, v)),
            words.amount(v["peak_memory"]),
        )
        for name in WAYS
        if (v := values["variants"].get(name))
    ]


def _apart(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return a["ms_80"] < b["ms_20"] or b["ms_80"] < a["ms_20"]


def markdown(values: Mapping[str, Any]) -> str:
    text = [f"## {title(values)}, {values['environment']['device']}", "", sentence(values), ""]
    text += [f"| {' | '.join(HEAD)} |", "|---|--:|--:|--:|--:|"]
    text += [f"| {' | '.join(cells)} |" for cells in lines(values)]
    text += [f"| {name} | failed: {reason} | | | |" for name, reason in values["failed"].items()]
    return "\n".join(text) + "\n"


def section(out: Path) -> dict[str, Any] | None:
    """As those of `whole.sections`."""
    return None if (values := load(out)) is None else section_of(values)


def section_of(values: Mapping[str, Any]) -> dict[str, Any]:
    environment = values["environment"]
    notes = [f"{title(values)}, on {environment.get('device')}, {str(environment.get('date'))[:10]}."]
    notes += [] if environment.get("gpu") else [ON_CPU]
    failed = [f"{name} failed: {reason}" for name, reason in values["failed"].items()]
    table = dict(headline=[sentence(values)], head=HEAD, body=lines(values), failed=failed, left_out=0, maps=None)
    return dict(name="model", title="Your model", notes=notes, **table)
