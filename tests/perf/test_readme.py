"""The parts of the README that are generated: from the catalog, and from reports of GPUs alone."""

from pathlib import Path

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("rich")

from made_up import copies, sweep, write

from segattn_triton.catalog import BY_NAME, ROWS
from segattn_triton.perf.report.render import page, readme


@pytest.mark.parametrize("part", [readme.gates_table, readme.ops_table])
def test_tables_of_the_readme_have_no_empty_cell(part):
    head, _, *body = (line.strip("|").split(" | ") for line in part().splitlines())
    assert len(body) == len(BY_NAME)
    for cells in body:
        assert len(cells) == len(head) and all(cell.strip(" –") for cell in cells)


def test_readme_parts_are_replaced_and_checked(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(
        "a\n<!-- generated:ops -->\nold\n<!-- end:ops -->\n<!-- generated:results -->\n<!-- end:results -->\nz\n"
    )
    assert readme.update(path, check=True) and "old" in path.read_text()
    assert readme.update(path) and not readme.update(path)
    assert path.read_text().startswith("a\n") and path.read_text().endswith("\nz\n")
    assert readme.NO_RESULTS in path.read_text() and "\nold\n" not in path.read_text()
    write(tmp_path / "perf" / "results" / "imaginary", [*copies(), *sweep()], {"gpu": {"name": "Imaginary GPU"}})
    assert readme.update(path) and "On Imaginary GPU" in path.read_text() and readme.NO_RESULTS not in path.read_text()
    path.write_text("<!-- generated:other -->\n<!-- end:other -->\n")
    with pytest.raises(ValueError, match="other"):
        readme.update(path)


def test_readme_holds_no_result_of_a_cpu_or_a_rehearsal(tmp_path):
    write(tmp_path / "perf" / "results" / "cpu", [*copies("cpu"), *sweep(timer="cpu")], {"gpu": None})
    write(tmp_path / "perf" / "results" / "reh", [*copies(), *sweep()], {"gpu": None, "device": page.REHEARSAL})
    for text in (readme.results_part(tmp_path, tmp_path / "README.md"), readme.headlines_part(tmp_path)):
        assert text == readme.NO_RESULTS


def test_pages_beside_the_readme_are_written(tmp_path):
    """A picture's address is that from the page; a headline is a line a GPU."""
    (tmp_path / "docs").mkdir()
    path, page_of_docs = tmp_path / "README.md", tmp_path / "docs" / "report.md"
    path.write_text("<!-- generated:headlines -->\n<!-- end:headlines -->\n")
    page_of_docs.write_text("<!-- generated:results -->\n<!-- end:results -->\n")
    folder = tmp_path / "perf" / "results" / "imaginary"
    write(folder, [*copies(), *sweep()], {"gpu": {"name": "Imaginary GPU"}})
    (folder / "plots").mkdir()
    (folder / "plots" / "sheet.png").touch()
    assert readme.update(path, check=True) and readme.update(path) and not readme.update(path)
    headline = path.read_text().splitlines()[1]
    assert headline.startswith("- ") and "On Imaginary GPU" in headline
    text = page_of_docs.read_text()
    assert "(../perf/results/imaginary/plots/sheet.png)" in text and headline.removeprefix("- ") in text


def test_a_line_per_family():
    """Every module of the catalog is in one line of the README's table, and the table is short."""
    _, _, *body = readme.families_table().splitlines()
    for name in {row.module.__name__ if row.module else f"functional.{row.op.__name__}" for row in ROWS}:
        assert sum(f"`{name}`" in line for line in body) == 1
    assert len(body) <= 15


def test_readme_is_up_to_date():
    path = Path(__file__).parents[2] / "README.md"
    if not path.exists():
        pytest.skip("no README in this tree")
    assert not readme.update(path, check=True), "run python -m segattn_triton.perf.report.render.readme README.md"
