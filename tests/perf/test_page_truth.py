"""Every sentence of a page is true of the records that it was made from: read from both, and compared."""

import dataclasses
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("rich")

from runs import RUNS

from segattn_triton.perf.report.render import render, whole, words
from segattn_triton.perf.report.render.your_model import ON_CPU

PROVIDERS = {name: said for said, name in words.PROVIDER_NAMES.items()}


class Text(HTMLParser):
    """The words of a page, its pictures left out, and its tables as lists of rows of cells."""

    def __init__(self, html: str):
        super().__init__()
        self.said, self.tables, self.inside, self.cell = [], [], 0, False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.inside += tag in ("svg", "style")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([dict(attrs).get("class", "")])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.inside -= tag in ("svg", "style")
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.cell:
            self.tables[-1][-1][-1] += data
        elif not self.inside:
            self.said.append(data)


@dataclasses.dataclass
class Page:
    folder: Path

    def __post_init__(self):
        parsed = Text((self.folder / "index.html").read_text(encoding="utf-8"))
        self.text, self.tables = " ".join(" ".join(parsed.said).split()), parsed.tables
        self.records, self.environment = self.lines("records"), self.json("environment")
        timed = [r for r in self.records if r["status"] == "ok" and r["point"]["op"] not in ("copy", "matmul")]
        self.predicted = [r for r in timed if r["point"]["timer"] == "predicted"]
        self.timed = [r for r in timed if r["ms"] and r not in self.predicted]

    def lines(self, name: str) -> list[dict]:
        path = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def json(self, name: str) -> dict:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def problems(self) -> dict[tuple, dict[str, dict]]:
        """What is measured -> provider -> record."""
        found: dict[tuple, dict] = {}
        for r in self.timed:
            point = dict(r["point"])
            provider = point.pop("provider")
            found.setdefault(tuple(point.items()), {})[provider] = r
        return found


@pytest.fixture(scope="module", params=RUNS)
def page(request, tmp_path_factory) -> Page:
    out = tmp_path_factory.mktemp("page") / "out"
    RUNS[request.param](out)
    path = out / "environment.json"
    if path.exists() and json.loads(path.read_text()).get("finished", "") is None:
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "finished"}))
    render(out)
    return Page(out)


TIMES = {"eager": "times eager", "compile": "times compiled", "compile-best": "times best compiled"}


def apart(a: dict, b: dict) -> bool:
    return a["ms_80"] < b["ms_20"] or b["ms_80"] < a["ms_20"]


def outcome(by: dict[str, dict]) -> str:
    """Of ours, by one provider after the other."""
    ours, rivals = by.get("segattn"), [r for p, r in by.items() if p not in ("segattn", "reference")]
    if ours is None or not rivals:
        return ""
    if any(apart(ours, r) and r["ms"] < ours["ms"] for r in rivals):
        return "lost"
    return "won" if all(apart(ours, r) for r in rivals) else "tied"


def test_the_headline_counts_what_is_there(page):
    if not page.timed:
        assert "Nothing was timed." in page.text or "Whole models; no kernel was timed by itself." in page.text
        return
    count = Counter(outcome(by) for by in page.problems().values())
    found = re.search(r"([\d,]+) points? timed", page.text)
    assert int(found[1].replace(",", "")) == len(page.timed)
    compared = re.search(r"ours the fastest at ([\d,]+) of ([\d,]+) compared(?:, a tie at ([\d,]+))?", page.text)
    wanted = [count["won"], count["won"] + count["tied"] + count["lost"], count["tied"]]
    assert [int((n or "0").replace(",", "")) for n in compared.groups()] == wanted if compared else not any(wanted)
    assert ("at worst" in page.text) == (count["lost"] > 0)
    worst = max((by["segattn"]["ms"] / min(r["ms"] for p, r in by.items() if p != "segattn"), by)
                for by in page.problems().values() if outcome(by) == "lost") if count["lost"] else None  # fmt: skip
    assert worst is None or f"at worst {words.times(1 / worst[0])} the speed" in page.text


def test_the_summary_calls_a_tie_what_overlaps(page):
    for head, *body in (t for t in page.tables if "fastest" in t[0] and "op" in t[0]):
        for colour, *cells in body:
            row = dict(zip(head[1:], cells, strict=True))
            by = next(
                by
                for key, by in page.problems().items()
                if (p := dict(key))["op"] == row["op"]
                and words.mode(p["mode"]) == row["pass"]
                and words.dtype(p["dtype"]) == row["dtype"]
                and words.layout(p["layout"]) == row["layout"]
                and words.size(p) == row["N×C×H×W"]
                and any(row["ms"] == words.significant(r["ms"]) for r in by.values())
            )
            subject = by[PROVIDERS.get(row.get("whose time", "ours"), "segattn")]
            assert row["20–80 %"] == f"{words.significant(subject['ms_20'])}–{words.significant(subject['ms_80'])}"
            for rival, name in TIMES.items():
                cell = row.get(name, "–")
                if rival in by and by[rival] is not subject:
                    tie = not apart(by[rival], subject)
                    assert cell == ("tie" if tie else words.times(by[rival]["ms"] / subject["ms"]))
                else:
                    assert cell == "–"
            first = min(by.values(), key=lambda r: r["ms"])
            tied = {words.provider(p) for p, r in by.items() if not apart(r, first)}
            said = row["fastest"].removesuffix(" wins")
            assert said == "–" if len(by) == 1 else set(said.removeprefix("tie: ").split(", ")) == tied
            assert said.startswith("tie") == (len(tied) > 1)
            assert (colour == "lost") == (outcome(by) == "lost") == row["fastest"].endswith(" wins")


def test_only_what_is_apart_is_marked_as_the_fastest(page):
    html = (page.folder / "index.html").read_text()
    wins = len(re.findall(r'<td class="number wins">', html))
    alone = 0
    for by in page.problems().values():
        first = min(by.values(), key=lambda r: r["ms"])
        alone += len(by) > 1 and sum(not apart(r, first) for r in by.values()) == 1
    assert wins == alone


def test_what_was_left_out_is_said_and_nothing_else(page):
    left = page.environment.get("left_out") or {}
    for name, number in left.items():
        assert f"{number} × {words.provider(name)}: left out for lack of time" in page.text
    training, models = page.json("training").get("settings", {}), page.json("models").get("settings", {})
    wanted = {"Training with the gates": 6 * training.get("seeds", 0) - len(page.lines("training"))}
    wanted["Whole models"] = 12 * len(models.get("sizes", ())) - len(page.lines("models"))
    for title, number in wanted.items():
        assert (f"{title}: {number} left out" in page.text) == (number > 0), title
    failed = [
        r["status"] for name in ("records", "training", "models") for r in page.lines(name) if r["status"] != "ok"
    ]
    failed += list(page.json("model").get("failed", {}).values())
    assert all(reason in page.text for reason in failed)
    unfinished = bool(page.environment) and "finished" not in page.environment
    assert ("did not come to its end" in page.text) == unfinished
    nothing = not left and not failed and not any(n > 0 for n in wanted.values()) and not unfinished
    assert ("Nothing failed and nothing was skipped" in page.text) == nothing


def test_the_files_that_it_names_are_those_that_are_there(page):
    footer = page.text.partition("Beside this page:")[2]
    there = {p.name for p in page.folder.iterdir()} - {"index.html", "environment.json", "training.json", "models.json"}
    named = {name for name in re.findall(r"[\w.]+(?= \()", footer)}
    assert named == there


def test_conditions_that_do_not_apply_are_not_printed(page):
    timers = {r["point"]["timer"] for r in page.timed}
    gpu = bool(timers & {"events", "graph"})
    method = page.text.partition("Conditions and method Every")[2] or page.text.rpartition("Conditions and method")[2]
    assert ("L2 cache overwritten before each GPU run" in " ".join(method.split())) == gpu
    assert ("repeated, interleaved runs" in method) == bool(page.timed)
    assert ("float64 over its largest value" in " ".join(method.split())) == any(
        r["error"] is not None for r in page.timed
    )
    assert ("machine code for sm_90" in method) == bool(page.predicted)
    assert f" {len(page.predicted)} points, none of them" in method or not page.predicted
    assert not re.search(r"\bnone\b(?! of)", method)
    abouts = [page.environment, page.json("models"), page.json("training"), page.json("model").get("environment", {})]
    if not any(about.get("gpu") for about in abouts):
        assert not re.search(r"\b(CUDA|cuda|driver|cudnn|tf32|GPU events)\b", page.text)
    memory = any(r["peak_memory"] for r in page.timed)
    assert ("More figures" not in page.text) or (("peak memory" in page.text.partition("More figures")[2]) == memory)


def test_a_cpu_is_never_a_gpu(page):
    """Whoever reads one sentence only reads that no kernel ran."""
    if page.records:
        none = not any(r["point"]["timer"] in ("events", "graph", "launch") for r in page.timed)
        assert ("nothing here is a GPU result" in page.text) == none
    for name, said in (("training", whole.CPU_TRAINING), ("models", whole.CPU_MODELS)):
        about = page.json(name)
        assert (said in page.text) == (bool(about) and not about["gpu"])
    assert (ON_CPU in page.text) == bool(page.json("model"))


def test_whole_models_tie_where_their_bands_overlap(page):
    rows = {(r["mode"], r["provider"]): r for r in page.lines("models") if r["status"] == "ok"}
    for (_, *head), *body in (t for t in page.tables if "images/s" in t[0]):
        for _, *cells in body:
            row = dict(zip(head, cells, strict=True))
            provider = next(p for p, said in whole.WAYS.items() if said == row["how"])
            own, eager = rows[row["mode"], provider], rows.get((row["mode"], "eager"))
            if eager is None:
                assert row["times eager"] == "–"
                continue
            tie = own["p20_ms"] <= eager["p80_ms"] and eager["p20_ms"] <= own["p80_ms"] and own is not eager
            assert row["times eager"] == ("tie" if tie else words.times(eager["p50_ms"] / own["p50_ms"]))
