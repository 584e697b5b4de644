"""What the account of time assumes of an H200 is what one measured, where one did."""

from pathlib import Path

import pytest

from segattn_triton import perf
from segattn_triton.perf.account import assumptions as assumed
from segattn_triton.perf.prepared import folder
from segattn_triton.perf.records import load

MEASURED = Path(perf.__file__).parent / "results" / "nvidia-h200"


def test_rates_and_a_launch_are_those_that_were_measured():
    facts = {name: fact["value"] for name, fact in folder.facts(MEASURED).items()}
    assert pytest.approx(1e-3 * assumed.DRAM, rel=0.01) == facts["bandwidth_gbs 1024 MB"]
    assert pytest.approx(1e-3 * assumed.L2, rel=0.01) == facts["bandwidth_gbs 32 MB"]
    assert pytest.approx(assumed.LAUNCH, rel=0.01) == facts["launch_us plain"]


def test_the_rate_of_products_is_that_of_the_largest():
    records = (r for r in load(MEASURED / folder.RECORDS) if r.point.op == "matmul")
    best = max(1e-3 * r.flops / r.ms for r in records if r.ms and r.point.dtype == "bfloat16")
    assert pytest.approx(assumed.MATRIX_RATE, rel=0.01) == best  # operations a microsecond
