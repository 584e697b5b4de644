"""Where kernels run: compiled on a GPU if there is one, in Triton's interpreter on the CPU otherwise.

In either case new memory is filled with NaN (integers with their maximum), so that an output that a kernel does not
write is seen. In the interpreter bfloat16 is computed as on a GPU.
"""

import os
import subprocess
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

os.environ["TRITON_INTERPRET"] = str(int(not torch.cuda.is_available()))  # before the first import of triton

import interpreter_bf16
import interpreter_fast
import profiles  # noqa: F401, registers hypothesis' profiles
import pytest
import support
from estimate import Estimate
from smoke import Smoke

import segattn_triton.ops  # noqa: F401, every kernel is decorated here, before a test changes the environment
from segattn_triton import functional
from segattn_triton.acceleration.adapters import ADAPTERS, registry
from segattn_triton.catalog import ROWS

torch.set_num_threads(1)
if support.INTERPRETED:
    interpreter_bf16.install()
    interpreter_fast.install()


COLLECTED = pytest.StashKey[tuple[set[str], set[str]]]()  # names of the cases that can run here, and by default


@pytest.fixture(scope="session")
def commit() -> str:
    """What a test draws by, so that another commit tries others."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return git.stdout.strip() or "none"


@pytest.fixture
def in_turn(request):
    """Of rows, or other things, that a test goes over by itself those whose turn it is: one in three, all of them with
    --share 1. Those of one name are the same ones."""

    def chosen(things: Sequence, name: str = request.node.nodeid) -> list:
        whole = request.config.getoption("share") == 1
        return list(things) if whole else list(things)[_checksum(name) % 3 :: 3]

    return chosen


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """Deterministic mode fills what torch allocates uninitialised; and every test has the same random numbers."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def device() -> str:
    return support.DEVICE


NORMS = ("cbam_spatial_gate", "squeeze_excite_norm", "squeeze_excite_norms", "attention_gate_norm")


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """(kernel, options) of each call that an accelerated gate makes."""
    made: list[tuple] = []

    def spy_on(name: str, own):
        def spy(x, *args, **options):
            if x.dtype != torch.float64:  # that of the trial which accelerate makes once for each class
                made.append((name, options))
            return own(x, *args, **options)

        spy.__module__ = functional.__name__
        monkeypatch.setattr(functional, name, spy)

    for name in {gate.kernel for gate in ADAPTERS.values()} | {
        "channel_gate",
        "spatial_gate",
        "global_context_add",
        *NORMS,
    }:
        spy_on(name, getattr(functional, name))
    return made


@pytest.fixture
def own_adapters(monkeypatch):
    """What a test registers is gone after it."""
    before = dict(ADAPTERS)
    yield
    ADAPTERS.clear()
    ADAPTERS.update(before)
    registry.WITHOUT_READER.clear()


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Estimate(config))
    if seconds := config.getoption("smoke"):
        config.pluginmanager.register(Smoke(seconds))
    config.addinivalue_line("markers", "interpreter: kernels on CPU tensors, where there is no GPU")
    config.addinivalue_line("markers", "cheap: all cases take seconds together, so that no share leaves one out")
    config.addinivalue_line("markers", "gpu: kernels compiled and run on a GPU")
    config.addinivalue_line(
        "markers", "interop: needs another tool, such as an exporter, a type checker or an installed library"
    )
    config.addinivalue_line("markers", "huge: takes tens of gigabytes of a GPU's memory, so that one runs at a time")
    config.addinivalue_line("filterwarnings", "ignore:.* encountered in .*:RuntimeWarning:triton")


def pytest_addoption(parser):
    text = "run one in SHARE of the parametrised cases; 1 runs all; without it fewer, the more rows there are"
    parser.addoption("--share", type=int, help=text)
    parser.addoption("--smoke", type=float, help="a test of every file, none started after so many seconds")
    parser.addoption("--readme", type=Path, help="write what a run without failures has checked into this README")


def share(config) -> int:
    """One in how many cases runs: a new row makes the default run no longer. Smoke chooses of all."""
    return config.getoption("share") or (1 if config.getoption("smoke") else default_share())


def default_share() -> int:
    return max(8, len(ROWS) // 2)


def pytest_ignore_collect(collection_path, config):
    """With commands of their own, `make properties` and `make conformance`: in full runs, or asked for by name."""
    long = {"test_properties.py", "test_natten_conformance.py"}
    named = any(collection_path.name in argument for argument in config.args)
    return True if collection_path.name in long and config.getoption("share") != 1 and not named else None


def pytest_collection_modifyitems(config, items):
    for item in items:
        for marker, missing in (("interpreter", not support.INTERPRETED), ("gpu", support.INTERPRETED)):
            if missing and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"not the place of {marker} tests: {support.DEVICE}"))
    config.stash[COLLECTED] = _cases(items), _cases(_share_of(items, default_share()))
    kept = _share_of(items, share(config))
    if config.getoption("share") != 1 and "interop" not in config.getoption("markexpr"):
        kept -= {item for item in items if item.get_closest_marker("interop")}  # `make interop` has them
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def _cases(items) -> set[str]:
    """Without those that are skipped or have a command of their own."""
    others = "skip", "interop"
    return {item.nodeid for item in items if not any(map(item.get_closest_marker, others))}


def _share_of(items: list, share: int) -> set:
    """Of each test, and each variant of one, one in `share` of the cases that are not skipped, and at least one: in the
    order of their rows, so that these have equal shares, from a place that is the test's own; of cheap ones all."""
    tests = defaultdict(list)
    for item in items:
        variant = _parameter(item, "variant")
        tests[item.nodeid.partition("[")[0], variant].append(item)
    kept: set = set()
    for (name, _), cases in tests.items():
        running = [item for item in cases if not item.get_closest_marker("skip")]
        running.sort(key=lambda item: (getattr(_parameter(item, "row"), "name", ""), _checksum(item.nodeid)))
        kept.update(running[_checksum(name) % share % max(1, len(running)) :: share])
        kept.update(item for item in cases if "[" not in item.nodeid or item.get_closest_marker("cheap"))
    return kept


def _parameter(item, name: str):
    return item.callspec.params.get(name) if hasattr(item, "callspec") else None


def _checksum(name: str) -> int:
    return zlib.crc32(name.encode())


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a worker of pytest-xdist hands its count to the controller
        session.config.workeroutput["checked"] = sorted(support.checked)
        session.config.workeroutput["compared"] = support.compared


def pytest_testnodedown(node, error):
    output = getattr(node, "workeroutput", {})
    support.checked.update(map(tuple, output.get("checked", ())))
    support.compared += output.get("compared", 0)


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        for name, value in report.user_properties:
            support.properties[name].add(value)


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    if support.checked and not config.getoption("smoke"):
        terminalreporter.write_line(support.summary(share(config)))
    if config.getoption("readme") and exitstatus == 0:
        support.write_summary(config.getoption("readme"), share(config))
