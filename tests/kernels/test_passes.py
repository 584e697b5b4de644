"""The passes that the catalog states are those that the plans count: of the attention gates whatever fits on chip."""

import itertools
import math

import pytest
import torch

from segattn_triton import compiled
from segattn_triton.catalog import ROWS, Op
from segattn_triton.runtime.plan import Plan
from segattn_triton.testing import make_inputs

GATES = [row for row in ROWS if row.passes_of is not None]
CHANNELS = [(64, 64), (32, 96), (64, 128), (128, 32), (96, 96), (256, 256)]  # C, G


def counted(plans: list[Plan], row: Op, sizes: dict) -> float:
    """Loads and stores of maps, of any number of channels but one, in passes over x; what is read again in one launch
    comes from the cache."""
    x, pixels = row.shapes(sizes)[row.maps[0]], sizes["N"] * math.prod(sizes["S"])
    total = 0.0
    for plan in plans:
        for name, (loads, stores) in plan.traffic.items():
            t = plan.args[name]
            if t is not None and t.dim() > 2 and t.numel() % pixels == 0 and t.numel() > pixels:
                total += (min(loads, 1) + min(stores, 1)) * t.numel() / math.prod(x)
    return total


# A convolution counts what it moves through descriptors; a bias whose gradient is asked for costs attention more.
OTHERWISE = ("local_gate", "neighborhood_attention")
COUNTED = [row for row in ROWS if row.passes_of is None and row.name not in OTHERWISE]
PLANES = {("simam", "contiguous"): (2, 3)}  # one launch each way, which reads twice what the row counts twice
FEW = 0.25  # of a pass over a large map: vectors, maps of one channel or fewer pixels, and halos


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("row", COUNTED, ids=lambda row: row.name)
def test_passes_of_a_row(row, layout):
    sizes = row.complete(row.cases[0].sizes)
    found = [counted(plans, row, sizes) for plans in compiled.plans(row, sizes, layout=layout)]
    passes = PLANES.get((row.name, layout), row.passes)
    assert all(n - 1e-6 <= c <= n + FEW for n, c in zip(passes, found, strict=True)), found


@pytest.mark.parametrize("row", [row for row in COUNTED if "shortcut?" in row.inputs], ids=lambda row: row.name)
def test_bytes_without_a_shortcut(row):
    """What is not given is neither moved nor counted."""
    sizes, absent = row.complete(row.cases[0].sizes), ("shortcut",)
    inputs = dict(zip(row.shapes(sizes), make_inputs(row, sizes, torch.bfloat16, device="meta"), strict=True))
    x = 2 * math.prod(row.shapes(sizes)[row.maps[0]])
    launched = compiled.planned(row.op, *(None if name in absent else t for name, t in inputs.items()))
    for plans, expected in zip(launched, row.planned_bytes(sizes, 2, absent), strict=True):
        assert expected <= counted(plans, row, sizes) * x <= expected + FEW * x
    both = zip(row.floor_bytes(sizes, 2), row.floor_bytes(sizes, 2, absent), strict=True)
    assert [whole - less for whole, less in both] == [x, 0]


@pytest.mark.parametrize("row", [row for row in ROWS if row.name != "local_gate"], ids=lambda row: row.name)
def test_no_less_than_the_floor_is_planned(row):
    """With all optional inputs and without; but for parameters, which the passes do not count."""
    optional = tuple(name.removesuffix("?") for name in row.inputs if name.endswith("?"))
    for case, absent in itertools.product(row.cases, ((), optional)):
        sizes = row.complete(case.sizes)
        shapes = row.shapes(sizes)
        x = math.prod(shapes[row.maps[0]])
        few = 2 * sum(math.prod(shape) for name, shape in shapes.items() if name not in row.maps) + FEW * x
        floor, planned = row.floor_bytes(sizes, 1, absent), row.planned_bytes(sizes, 1, absent)
        assert all(f <= p + few for f, p in zip(floor, planned, strict=True)), (case.name, floor, planned)


@pytest.mark.parametrize("F", [2, 16, 32, 33, 64, 300])
@pytest.mark.parametrize(("C", "G"), CHANNELS)
@pytest.mark.parametrize("row", GATES, ids=lambda row: row.name)
def test_passes_are_counted(row, C, G, F):
    for dtype, layout in itertools.product(
        (torch.bfloat16, torch.float32, torch.float64), ("contiguous", "channels_last")
    ):
        sizes = {"N": 2, "C": C, "G": G, "Cr": F, "S": (128, 96)}
        inputs = make_inputs(row, sizes, dtype, layout=layout, device="meta")
        found = [counted(plans, row, sizes) for plans in compiled.planned(row.op, *inputs)]
        assert found == pytest.approx(row.passes_at(sizes, dtype.itemsize))


def test_passes_without_norms():
    """Each norm that is left out saves a pass forward."""
    row = next(row for row in GATES if row.over_batch)
    sizes = row.complete({"N": 2, "C": 64, "Cr": 32, "S": (128, 96)})
    inputs = dict(zip(row.shapes(sizes), make_inputs(row, sizes, torch.bfloat16, device="meta"), strict=True))
    norms = ("norm_x", "norm_g", "norm_psi")
    for absent in itertools.chain.from_iterable(itertools.combinations(norms, n) for n in range(4)):
        given = [None if name in absent else t for name, t in inputs.items()]
        forward, backward = (counted(plans, row, sizes) for plans in compiled.planned(row.op, *given))
        assert (forward, backward) == (6 - len(absent), 8 if len(absent) < 3 else 5)


@pytest.mark.parametrize("row", GATES, ids=lambda row: row.name)
def test_the_headline_is_of_a_named_problem(row):
    assert row.passes in [row.passes_at(case.sizes, 2) for case in row.cases]
