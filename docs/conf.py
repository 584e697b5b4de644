"""The site: `make docs`. Docstrings are plain text with code in backticks, which `as_rst` makes reStructuredText."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import gallery  # noqa: E402

import segattn_triton  # noqa: E402

project = "segattn_triton"
copyright = "2026, the segattn_triton authors"
version = release = segattn_triton.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["build"]
html_theme = "furo"
html_title = f"segattn_triton {version}"
html_copy_source = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 88


def as_rst(text: str) -> list[str]:
    """Paragraphs and lists with code in backticks; a block that is indented otherwise stays as it is."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        rows = block.splitlines()
        first = next((i for i, row in enumerate(rows) if row.startswith("- ")), len(rows))
        if any(row.startswith(" ") for row in rows[:first]) or not all(re.match("- |  ", row) for row in rows[first:]):
            lines += ["::", "", *[f"    {row}" for row in rows], ""]
        else:
            lines += [*escaped(rows[:first]), "", *escaped(rows[first:]), ""]
    return lines


def escaped(rows: list[str]) -> list[str]:
    code = re.split(r"`([^`]+)`", "\n".join(rows))
    plain = [re.sub(r"([*_|\\<>:])", r"\\\1", part) for part in code[::2]]
    spans = [*[f"``{part}``" for part in code[1::2]], ""]
    return "".join(a + b for a, b in zip(plain, spans, strict=True)).splitlines()


PAGES = {  # file above this folder -> the page of the site that includes it
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "NUMERICS.md": "numerics.md",
    "SECURITY.md": "security.md",
    "perf/NOTES.md": "performance.md",
}
ABOVE = "|".join(map(re.escape, PAGES))


def from_a_page(text: str) -> str:
    """Links of a page to a file above this folder lead to the page that includes it."""
    return re.sub(rf"\]\(((?:\.\./)*)\.\./({ABOVE})", lambda m: f"]({m[1]}{PAGES[m[2]]}", text)


def from_above(text: str) -> str:
    """Links of an included file lead to pages, too."""
    return re.sub(rf"\]\(({ABOVE})", lambda m: f"]({PAGES[m[1]]}", text).replace("](docs/", "](")


def setup(app) -> None:
    def source(app, name, content):
        content[0] = from_a_page(content[0])

    def included(app, file, page, content):
        content[0] = from_above(content[0])

    def docstring(app, what, name, obj, options, lines):
        lines[:] = as_rst("\n".join(lines))

    app.connect("source-read", source)
    app.connect("include-read", included)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("builder-inited", lambda app: gallery.write(HERE))
