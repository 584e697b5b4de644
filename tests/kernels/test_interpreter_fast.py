"""The interpreter as these tests speed it up computes what Triton's own computes: types, shapes and bits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.interpreter
WORKER = Path(__file__).parents[1] / "support" / "interpreter_worker.py"


def _results(*words: str) -> dict[str, str]:
    run = subprocess.run([sys.executable, WORKER, *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def test_every_operator_and_type():
    plain, fast = _results(), _results("fast")
    wrong = {name: (fast.get(name), result) for name, result in plain.items() if fast.get(name) != result}
    assert not wrong, dict(list(wrong.items())[:5])
    assert len(plain) == len(fast) > 4000 and len(set(plain.values())) > 500
