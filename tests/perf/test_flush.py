"""Before every timed call the cache is emptied, of what was loaded to stay as well."""

import subprocess
import sys

import pytest
import torch
from support import DEVICE

from segattn_triton.perf.measure import timing
from segattn_triton.perf.measure.backends import Cuda, TimedCall
from segattn_triton.perf.measure.flush import BLOCK, Flush
from segattn_triton.perf.measure.workload import Workload
from segattn_triton.perf.records import Point


def test_all_is_read_and_then_written():
    flush = Flush(3 * 4 * BLOCK + 4, DEVICE)
    flush.buffer.fill_(1)
    assert flush().tolist() == [BLOCK] * 4, "not read before it is written"
    assert not flush.buffer.any(), "its own lines stay, at the priority that they were read at"


PRIORITY = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from segattn_triton.perf.measure.flush import BLOCK, _read_kernel
types = {"x_ptr": "*i32", "sum_ptr": "*i32", "BLOCK": "constexpr"}
source = ASTSource(_read_kernel, types, {(2,): BLOCK}, {(0,): [["tt.divisibility", 16]]})
loads = [line for line in compile(source, GPUTarget("cuda", 90, 32)).asm["ptx"].splitlines() if "ld.global" in line]
assert loads and all("evict_last" in line for line in loads), loads
"""


@pytest.mark.static
def test_read_at_the_priority_of_what_shall_go(monkeypatch):
    """Lines of the same priority displace each other, lines of a lower one do not."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    subprocess.run([sys.executable, "-c", PRIORITY], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("op", ["squeeze_excite", "channel_gate", "scse"])
@pytest.mark.parametrize("side", [256, 512])
def test_ours_is_not_timed_warm(op, side):
    """The same inputs again, against inputs that are not used again before four caches of others."""
    torch.use_deterministic_algorithms(False)  # it would fill what the calls allocate
    backend = Cuda()
    workload = Workload(Point(op, "segattn", "fwd", "bfloat16", "contiguous", 8, 64, side, side), backend)
    again, fresh = workload.again_and_fresh("segattn", workload.function("segattn"))
    assert isinstance(again, TimedCall)
    found = timing.interleaved({"again": again, "fresh": fresh}, backend)
    assert found["again"].ms > 0.95 * found["fresh"].ms
