"""Operators as kernels in a graph: what Inductor generates launches them as planned. Compiled, never run."""

import re

import graph_worker
import pytest
import static_ledger

from segattn_triton.runtime.graph import kernel_calls

PROBLEMS = [
    *((name, "contiguous") for name in ("spatial_gate", "squeeze_excite", "local_gate_depthwise")),
    ("scse", "channels_last"),
    ("cbam", "channels_last"),
]


@pytest.fixture(scope="module")
def worker():
    with static_ledger.pool(1) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


@pytest.mark.parametrize(("name", "layout"), PROBLEMS)
def test_the_wrapper_launches_what_is_planned(name, layout, worker):
    """By order, grid, arguments and warps; and the source in the wrapper compiles to the operator's machine code."""
    found = worker(graph_worker.both, name, layout)
    assert any("segattn" in target for target in found["before"])
    assert not any("segattn" in target for target in found["after"])
    assert found["after"].count("triton_kernel_wrapper_functional") == len(found["planned"]) > 0
    assert found["generated"] == found["planned"]
    assert not re.search(r"\.clone|copy_\(|triton_poi_|triton_red_|triton_per_", found["code"])  # nothing but ours


def test_what_is_left_off(worker):
    symbols, descriptors = worker(graph_worker.refused)
    assert "got symbolic sizes" in symbols and "got a tensor descriptor" in descriptors
    assert not worker(graph_worker.fuses_into_kernels)


@pytest.mark.interpreter
def test_not_where_triton_interprets():
    with pytest.raises(RuntimeError, match="Triton interprets"):
        kernel_calls(90)
