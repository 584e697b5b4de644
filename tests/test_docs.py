"""The site, without building it: its API pages name what is public, its docstrings become reStructuredText, and the
files about the project agree. `make docs` builds it, and fails on a warning."""

import re
import runpy
from pathlib import Path

import pytest
import torch

import segattn_triton
from segattn_triton import modules
from segattn_triton.catalog import ROWS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_api_reference_names_everything_public():
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"auto(?:function|module):: segattn_triton\.([\w.]+)", pages))
    single = set(segattn_triton.__all__) - set(modules.__all__) - {"reference"}
    assert single | {"modules", "testing", "viz", "compat.natten"} <= documented


def test_every_page_is_in_the_table_of_contents():
    listed = set(re.findall(r"^[\w/-]+$", (DOCS / "index.md").read_text(), re.MULTILINE))
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    assert pages - {"index", "gallery"} == listed - {"gallery"}
    assert len(list((DOCS / "zh").glob("*.md"))) <= 3


def as_rst(text: str) -> list[str]:
    """That of docs/conf.py, which needs no Sphinx."""
    source = (DOCS / "conf.py").read_text()
    names: dict = {"re": re}
    exec(source[source.index("def as_rst") : source.index("PAGES =")], names)
    return names["as_rst"](text)


def test_docstrings_become_restructured_text():
    assert as_rst("y = x * gate(<w, x_p> + b), `a_b`") == [r"y = x \* gate(\<w, x\_p\> + b), ``a_b``", "", ""]
    assert as_rst("Both:\n- one,\n  or\n- `two`")[:5] == [r"Both\:", "", "- one,", "  or", "- ``two``"]
    assert as_rst("It is\n\n    y = *x*")[-4:] == ["::", "", "        y = *x*", ""]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_gallery_has_every_gate(row):
    """Whatever its module takes beside the map."""
    pytest.importorskip("matplotlib")
    gallery = runpy.run_path(str(DOCS / "gallery.py"))
    x = torch.randn(1, gallery["C"], 8, 8, generator=torch.Generator().manual_seed(0))
    gate_map = gallery["gate_map"](row, x)
    assert gate_map.shape[0] == 1 and gate_map.unique().numel() > 1
    assert f"```text\n{row.equation}\n```" in gallery["section"](row)


def test_the_version_is_one():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited and cited[1] == segattn_triton.__version__
    assert re.search(
        rf"^## {re.escape(segattn_triton.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


def test_workflows_are_what_they_say():
    """Publishing is by trust: an environment and a token of the run, no secret. What they use is pinned; CI is
    `.ci/run` alone."""
    yaml = pytest.importorskip("yaml")
    workflows = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}
    assert workflows.keys() == {"ci", "release"}
    publish = workflows["release"]["jobs"]["publish"]
    assert publish["environment"] == "pypi" and publish["permissions"] == {"id-token": "write"}
    assert [step["run"] for step in workflows["ci"]["jobs"]["ci"]["steps"] if "run" in step] == [".ci/run"]
    texts = [path.read_text() for path in (ROOT / ".github").rglob("*.yml")]
    assert not [text for text in texts if "secrets." in text]
    assert all(re.search("@[0-9a-f]{40} ", used) for text in texts for used in re.findall(r"uses: (.*)", text))
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    assert any("segattn env" in field["attributes"]["label"] for field in form["body"])


def test_a_release_knows_where_the_project_lives(tmp_path):
    """Its README has no relative link, so that PyPI shows it whole; each leads to a file of the release."""
    tomllib = pytest.importorskip("tomllib")
    for name in ("README.md", "pyproject.toml", "CITATION.cff"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    runpy.run_path(str(ROOT / ".github/home.py"))["main"]("https://host/o/n", "v1.2.3", tmp_path)
    links = re.findall(r"\]\(([^)]*)\)", (tmp_path / "README.md").read_text())
    assert links and all(re.match(r"https?://|#", link) for link in links)
    own = [re.match(r"https://host/o/n/(?:blob|raw)/v1\.2\.3/([^#]*)", link) for link in links]
    assert len(own) > 20 and all((ROOT / found[1]).exists() for found in own if found)
    assert "https://host/o/n/raw/v1.2.3/docs/attention.png" in links
    urls = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["urls"]
    assert {"Homepage", "Documentation", "Changelog", "Issues"} <= urls.keys()
    assert "repository-code: https://host/o/n\n" in (tmp_path / "CITATION.cff").read_text()
