"""Where the project lives is known where it is released: python .github/home.py https://HOST/OWNER/NAME v1.2.3

Writes absolute links into README.md, so that PyPI shows it whole, and the project's URLs into pyproject.toml and
CITATION.cff. In the checkout that a release is built from, nowhere else.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<path>[^)#]+)(?P<part>#[^)]*)?(?=\))")


def absolute(text: str, home: str, tag: str) -> str:
    """Relative links of a README as a host shows them: pictures raw, pages as pages."""

    def link(found: re.Match) -> str:
        form = "raw" if found["path"].endswith(".png") else "blob"
        return f"{home}/{form}/{tag}/{found['path']}{found['part'] or ''}"

    return LINK.sub(link, text)


def urls(home: str, tag: str) -> str:
    pages = {
        "Homepage": home,
        "Documentation": f"{home}/blob/{tag}/docs/index.md",
        "Changelog": f"{home}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    return "\n[project.urls]\n" + "".join(f'{name} = "{page}"\n' for name, page in pages.items())


def main(home: str, tag: str, root: Path = ROOT) -> None:
    readme = root / "README.md"
    readme.write_text(absolute(readme.read_text(), home, tag))
    with (root / "pyproject.toml").open("a") as file:
        file.write(urls(home, tag))
    with (root / "CITATION.cff").open("a") as file:
        file.write(f"repository-code: {home}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
