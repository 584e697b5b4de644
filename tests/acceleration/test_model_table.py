"""docs/models.md is what the installed libraries give: no count of gates falls, and none is written by hand."""

import importlib.util

import model_table
import pytest


@pytest.mark.interop
def test_the_page_is_what_is_counted():
    """Of other releases than the page names, no model has fewer gates taken than it says."""
    for library in ("segmentation_models_pytorch", "torchvision", "timm", "monai"):
        if importlib.util.find_spec(library) is None:
            pytest.skip("the models extra is not installed")
    page, found = model_table.PAGE.read_text(), "\n".join(model_table.lines()) + "\n"
    written, counted = model_table.taken(page), model_table.taken(found)
    fallen = {name: (number, counted.get(name)) for name, number in written.items() if counted.get(name, 0) < number}
    assert not fallen
    if model_table.versions() in page:
        assert found == page, "run: python tests/support/model_table.py"


def test_a_page_of_counts():
    row = '| `Unet("se_resnet50")` | 10 scse; 16 squeeze_excite + shortcut, act | 4 `SplitAttn`: none computes it |'
    assert model_table.taken(f"| model | taken | left |\n{row}\n| `x` | none | it has none |\n") == {
        'Unet("se_resnet50")': 26,
        "x": 0,
    }
