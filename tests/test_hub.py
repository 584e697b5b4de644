"""The form of the Kernel Hub: builds beside each other and beside an installed copy, and layers for `kernelize`."""

import ast
import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision_cpu
from gates import C, make_map, results
from support import assert_equal
from torch import nn

import segattn_triton as sat
from segattn_triton import layers

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def writer():
    pytest.importorskip("tomllib")  # Python 3.11
    spec = importlib.util.spec_from_file_location("hub_write", ROOT / "hub" / "write.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(writer, tmp_path, monkeypatch):
    """A repository of one commit, with all that a build reads."""
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("segattn_triton", "reference", "hub", "LICENSE"):
        (root / name).symlink_to(ROOT / name)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    monkeypatch.setattr(writer, "ROOT", root)
    return root


BOTH = """
import importlib.util, sys, torch
def load(name, folder):
    spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
copies = [load("_build_one", sys.argv[1]), load("_build_two", sys.argv[1])]
assert "segattn_triton" not in sys.modules
import segattn_triton
from torch.utils.flop_counter import FlopCounterMode
found = []
for module in (*copies, segattn_triton):
    torch.manual_seed(0)
    gate, x = module.SCSE(8, 2, backend="triton"), torch.randn(2, 8, 5, 6, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = gate(x)
        y.sum().backward()
    assert counter.get_total_flops() > 0
    found.append([y, x.grad])
for y, dx in found[1:]:
    assert torch.equal(y, found[0][0]) and torch.equal(dx, found[0][1])
for name in ("_build_one", "_build_two", "segattn"):
    assert hasattr(getattr(torch.ops, name), "scse"), name
try:
    copies[0].tune(gate, x)
except ModuleNotFoundError as error:
    assert "pip install" in str(error)
else:
    raise AssertionError("there is no tuner in it")
"""


def test_builds_beside_each_other(writer, tmp_path):
    """Each has operators of its own, and torch counts the operations of all; installed they are segattn's."""
    writer.package(tmp_path / "build")
    subprocess.run([sys.executable, "-c", BOTH, str(tmp_path / "build")], check=True, cwd=tmp_path)


def test_what_ships_imports_torch_and_triton_alone(writer, tmp_path):
    """Numpy and matplotlib only in the module that draws, and inside its functions or guarded there."""
    writer.package(tmp_path / "build")
    for path in (tmp_path / "build").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {n.partition(".")[0] for n in names} - sys.stdlib_module_names - {"torch", "triton"}:
                assert path.name == "viz.py" and name in ("numpy", "matplotlib"), f"{path}: {name}"


def test_layers_are_pure():
    """As `kernels` asks: a forward, two flags and nothing else."""
    found = [cls for cls in vars(layers).values() if isinstance(cls, type) and cls.__module__ == layers.__name__]
    assert len(found) >= 11
    for cls in found:
        allowed = {"forward", "can_torch_compile", "__module__", "__doc__", "__annotations__"}
        assert {n for n in vars(cls) if not n.startswith("__static") and n != "__firstlineno__"} <= allowed
        assert cls.__bases__ == (nn.Module,)


class OneConvolution(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return x * self.conv(x).sigmoid()


class Neighborhood(nn.Module):
    num_heads, kernel_size, dilation = 2, 3, 1

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, C // 2)).unbind(-3)
        return self.proj(sat.reference.neighborhood_attention(q, k, v).flatten(-2))


OWN = {
    "SpatialAttention": lambda: OneConvolution(nn.Conv2d(C, 1, 1)),
    "LocalAttention": lambda: OneConvolution(nn.Conv2d(C, C, 3, padding=1, groups=C)),
    "NeighborhoodAttention2D": Neighborhood,
}


@pytest.mark.parametrize("name", OWN)
def test_layers_of_own_forms(name):
    torch.manual_seed(0)
    plain, x = OWN[name](), make_map()
    x = x.movedim(1, -1) if name == "NeighborhoodAttention2D" else x
    replaced = copy.deepcopy(plain)
    replaced.forward = getattr(layers, name).forward.__get__(replaced)
    for got, expected in zip(results(replaced, x), results(plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_dirty_tree_is_refused(writer, tree, tmp_path):
    for count, name in enumerate(("a new.py", "another.py"), 1):
        (tree / name).write_text("")
        with pytest.raises(SystemExit) as raised:
            writer.write(tmp_path / "hub")
        (line,) = str(raised.value).splitlines()
        assert line.startswith(f"hub: {count} file") and "a new.py" in line and "commit" in line
        assert not (tmp_path / "hub").exists()


def test_what_is_written(writer, tree, tmp_path):
    writer.write(tmp_path / "hub")
    files = {p.relative_to(tmp_path / "hub").as_posix() for p in (tmp_path / "hub").rglob("*") if p.is_file()}
    expected = {"build.toml", "flake.nix", "CARD.md", "LICENSE", "tests/test_layers.py", "benchmarks/benchmark.py"}
    assert expected <= files
    assert {"torch-ext/segattn_triton/__init__.py", "torch-ext/segattn_triton/reference/scse.py"} <= files
    assert not any("perf" in name or "__pycache__" in name for name in files)
    shipped = {p.name for p in (ROOT / "segattn_triton" / "tuning" / "tables").glob("*.json")}
    assert {name.rpartition("/")[2] for name in files if "tuning/tables" in name and name.endswith(".json")} == shipped
    for backend in ("cpu", "cuda", "rocm"):
        about = json.loads((tmp_path / "hub" / "build" / f"torch-{backend}" / "metadata.json").read_text())
        assert about["id"].startswith(f"_segattn_triton_{backend}_") and about["python-depends"] == []
    with pytest.raises(SystemExit, match="exists"):
        writer.write(tmp_path / "hub")


def built(writer, folder: Path, name: str):
    """A build, loaded by the Hub's own package."""
    kernels = pytest.importorskip("kernels")
    writer.write(folder)
    about = folder / "build" / "torch-cpu" / "metadata.json"
    about.write_text(about.read_text().replace("_segattn_triton_cpu", f"_segattn_triton_{name}_cpu"))
    return kernels.get_local_kernel(folder)


@pytest.mark.interop
def test_loaded_by_the_hubs_package(writer, tree, tmp_path):
    """Two versions beside the installed copy, and the builder's own reader of build.toml."""
    kernels = pytest.importorskip("kernels")
    one, two = built(writer, tmp_path / "one", "one"), built(writer, tmp_path / "two", "two")
    assert len({one.__name__, two.__name__, sat.__name__}) == 3
    gates, x = [], make_map()
    for module in (one, two, sat):
        torch.manual_seed(0)
        gates.append(module.SCSE(C, 2, backend="triton" if x.device.type == "cpu" else None))
    for gate in gates[:2]:
        for got, expected in zip(results(gate, x), results(gates[2], x), strict=True):
            assert_equal(got, expected)
    assert kernels._rust.Build.open(tmp_path / "one").general.backends


@pytest.mark.interop
def test_what_a_build_brings_along(writer, tree, tmp_path):
    """Its own tests pass, and its benchmarks agree with what they verify against."""
    segattn = built(writer, tmp_path / "hub", "along")
    words = ["-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path / "hub", capture_output=True, text=True)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout
    spec = importlib.util.spec_from_file_location("hub_benchmark", tmp_path / "hub" / "benchmarks" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    benchmark = module.GateBenchmark()
    benchmark.kernel = segattn
    benchmark.setup()
    for name in ("squeeze_excite", "scse"):
        getattr(benchmark, f"benchmark_{name}")()
        torch.testing.assert_close(benchmark.out, getattr(benchmark, f"verify_{name}")(), rtol=1e-4, atol=1e-4)


@pytest.mark.interop
def test_kernelize(writer, tree, tmp_path):
    """A torchvision model with SE, for training and torch.compile: equal outputs and gradients, and no fallback."""
    kernels = pytest.importorskip("kernels")
    torchvision_cpu.install()
    from torchvision import models
    from torchvision.ops import SqueezeExcitation

    segattn = built(writer, tmp_path / "hub", "kernelize")
    layer = kernels.LocalLayerRepository(tmp_path / "hub", layer_name="SqueezeExcitation")
    torch.manual_seed(0)
    plain, x = models.mobilenet_v3_small(weights=None).eval(), torch.randn(2, 3, 32, 32)
    model = copy.deepcopy(plain)
    kernels.replace_kernel_forward_from_hub(SqueezeExcitation, "SqueezeExcitation")
    try:
        with kernels.use_kernel_mapping({"SqueezeExcitation": {"cpu": layer}}):
            mode = kernels.Mode.TRAINING | kernels.Mode.TORCH_COMPILE
            kernels.kernelize(model, mode=mode, device="cpu", use_fallback=False)
    finally:
        del SqueezeExcitation.kernel_layer_name, SqueezeExcitation.kernel_condition
    gates = [m for m in model.modules() if isinstance(m, SqueezeExcitation)]
    assert len(gates) == 9
    assert {m.forward.__func__ for m in gates} == {segattn.layers.SqueezeExcitation.forward}
    for got, expected in zip(results(model, x), results(plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    gate = nn.Sequential(gates[0])
    y = make_map(channels=gates[0].fc1.in_channels)
    compiled = torch.compile(gate, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(y), gate(y))
