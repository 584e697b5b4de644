"""segattn spaces: the choice without a table against the best of its space, by the account of time."""

import pytest
from typer.testing import CliRunner

from segattn_triton.perf.commands import main
from segattn_triton.perf.compiler import spaces


@pytest.mark.static
def test_the_choice_beside_the_best(capsys):
    times = spaces.report(("spatial_gate",), "bfloat16", ("channels_last",), 1, 2)
    said = capsys.readouterr().out
    assert len(times) == 3 and all(t >= 1.0 for t in times) and sorted(times)[1] < 1.25
    assert "spatial_fwd" in said and "finish" in said and "3 choices: " in said and "not measured" in said


@pytest.mark.parametrize("arguments, message", [(["--most", "0"], "--most: got 0"), (["--op", "x"], "--op: got 'x'")])
def test_wrong_usage(arguments, message):
    done = CliRunner().invoke(main, ["spaces", *arguments])
    assert done.exit_code == 2 and done.stderr.startswith("segattn: " + message)
