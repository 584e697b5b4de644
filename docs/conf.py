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
    """Paragraphs with code in backticks; what is indented stays as it is."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        rows = block.splitlines()
        if any(row.startswith(" ") for row in rows):
            lines += ["::", "", *[f"    {row}" for row in rows], ""]
        else:
            code = re.split(r"`([^`]+)`", "\n".join(rows))
            plain = [re.sub(r"([*_|\\<>:])", r"\\\1", part) for part in code[::2]]
            spans = [f"``{part}``" for part in code[1::2]] + [""]
            lines += [*"".join(a + b for a, b in zip(plain, spans, strict=True)).splitlines(), ""]
    return lines


INCLUDED = re.compile(r"\]\(\.\./((?:\.\./)*)(CONTRIBUTING|NUMERICS|CHANGELOG)\.md")


def to_the_page(text: str) -> str:
    """Links to a file above this folder that a page of the site includes lead to that page."""
    return INCLUDED.sub(lambda m: f"]({m[1]}{m[2].lower()}.md", text)


def setup(app) -> None:
    def source(app, name, content):
        content[0] = to_the_page(content[0])

    def docstring(app, what, name, obj, options, lines):
        lines[:] = as_rst("\n".join(lines))

    app.connect("source-read", source)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("builder-inited", lambda app: gallery.write(HERE))
