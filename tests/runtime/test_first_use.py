"""What a first call of a process leaves behind knows nothing of the mode that the call was made in."""

import subprocess
import sys
from pathlib import Path

import pytest
from first_use_worker import DEVICE, MODES

from segattn_triton.catalog import ROWS

WORKER = Path(__file__).parents[1] / "support" / "first_use_worker.py"
IMPORTS = ["import segattn_triton", "from torch.utils.flop_counter import FlopCounterMode"]
COUNTING = """
import torch
{imports}
counter = FlopCounterMode(display=False)
from segattn_triton.catalog import BY_NAME
from segattn_triton.testing import make_inputs
for row in [BY_NAME[name] for name in {rows}]:
    sizes = dict(N=row.fewest, C=4, S=(max(4, row.smallest),) * 2, Cr=2)
    leaves = [t.requires_grad_() for t in make_inputs(row, sizes, torch.float32, device={device!r})]
    with counter:
        y = row.op(*leaves, backend="triton")
        dy = torch.ones_like(y)
        torch.autograd.grad(y, leaves, dy)
    counted = dict(counter.get_flop_counts()["Global"])
    assert sorted(counted.values()) == sorted(row.count_flops(sizes)), (row.name, counted)
"""


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("mode", MODES)
def test_training_after_a_first_call_in_a_mode(mode, in_turn):
    """Operation after operation, in a fresh process."""
    run(str(WORKER), mode, *(row.name for row in in_turn(ROWS)))


@pytest.mark.parametrize("imports", [IMPORTS, IMPORTS[::-1]], ids=["package first", "counter first"])
def test_a_counter_counts_the_first_call(imports, in_turn):
    """A counter that was made before any operator was called knows the formulas."""
    rows = [row.name for row in in_turn(ROWS)]
    run("-c", COUNTING.format(imports="\n".join(imports), device=DEVICE, rows=rows))
