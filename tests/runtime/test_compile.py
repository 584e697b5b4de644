"""Under torch.compile and torch.export: one graph, any resolution, the same numbers."""

import pytest
import torch
from support import DEVICE, MODULES, Alone, assert_equal, each_row, made, module_of, names, problem
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

import segattn_triton
from segattn_triton.catalog import BY_NAME
from segattn_triton.runtime import dispatch
from segattn_triton.testing import make_map


def children_of(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers in it: what has parameters and no modules."""
    return [m for m in module.modules() if not [*m.children()] and [*m.parameters()]]


each_with_children = pytest.mark.parametrize(
    "row", [row for row in MODULES if children_of(made(row, 4))], ids=lambda row: row.name
)


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()


def step(row, inputs, run=None) -> list[torch.Tensor]:
    run = run or (lambda *t: row.op(*t, backend="triton", **row.both))
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in inputs]
    y, gate_map = run(*leaves)
    return [y, gate_map, *torch.autograd.grad(y.square().sum() + gate_map.sum(), leaves)]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_row
def test_compiled_whole(row, layout):
    """fullgraph=True: a graph break is an error. Forward and backward give eager's bits."""
    compiled = torch.compile(
        lambda *t: row.op(*t, backend="triton", **row.both), backend="aot_eager", fullgraph=True, dynamic=False
    )
    inputs = problem(row, layout=layout)
    for got, expected in zip(step(row, inputs, compiled), step(row, inputs), strict=True):
        assert_equal(got, expected)
        assert got.stride() == expected.stride()


@each_row
def test_compiled_once_for_all_resolutions(row, monkeypatch):
    """And where the compiled call is the first use of the package."""
    monkeypatch.setattr(dispatch, "_call", None)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda *t: row.op(*t, backend="triton", **row.both), backend=counter, fullgraph=True, dynamic=True
    )
    parameters, compilations = dict(zip(names(row), problem(row, C=11), strict=True)), set()
    for N, S in ((6, (13, 9)), (3, (10, 8)), (4, (8, 12))):  # at first no size equals another, which would tie them
        fresh = zip(names(row), problem(row, S=S, C=11, N=N), strict=True)
        inputs = [t if name in row.maps else parameters[name] for name, t in fresh]
        for got, expected in zip(step(row, inputs, compiled), step(row, inputs), strict=True):
            assert_equal(got, expected)
        compilations.add(counter.frame_count)
    assert len(compilations) == 1


@each_row
def test_compiled_inference(row):
    compiled = torch.compile(lambda *t: row.op(*t, backend="triton"), backend="aot_eager", fullgraph=True)
    inputs = problem(row)
    with torch.no_grad():
        assert_equal(compiled(*inputs), row.op(*inputs, backend="triton"))


def test_gradient_transform_inside():
    """The compiler does not see through func.grad to an operator: it must not drop the gradient."""
    row = BY_NAME["spatial_gate"]
    x, *parameters = problem(row)

    def gradient(fn):
        return torch.func.grad(lambda t: fn(t, *parameters).square().sum())

    compiled = torch.compile(gradient(lambda *t: row.op(*t, backend="triton")), backend="aot_eager")
    torch.testing.assert_close(compiled(x), gradient(row.reference)(x), rtol=1e-5, atol=1e-6)


def exported(row, C: int = 4, module=None):
    module = Alone(row, module_of(row, C)) if module is None else module
    x = make_map((2, C, 5, 6), "contiguous", torch.Generator().manual_seed(0), torch.float32, DEVICE)
    least = 3 if "N C *T" in row.inputs.values() else row.smallest  # torch keeps every second pixel, if one, apart
    least = {"min": least} if least > 1 else {}
    images = {"min": 2} if row.over_batch else {}  # whose norm is over them
    shapes = {"x": {0: Dim("N", **images), 2: Dim("H", **least), 3: Dim("W", **least)}}
    return module, torch.export.export(module, (x,), dynamic_shapes=shapes)


@each_row
def test_exported_with_dynamic_shape(row):
    module, program = exported(row)
    assert any(getattr(n.target, "namespace", "") == "segattn" for n in program.graph.nodes)
    for shape in ((1 + row.over_batch, 4, 3, 9), (4, 4, 8, 8)):
        x = make_map(shape, "contiguous", torch.Generator().manual_seed(1), torch.float32, DEVICE)
        assert_equal(program.module()(x), module(x))


@each_row
def test_exported_program_decomposes(row):
    """Where our operators are not installed: the reference in plain torch operators."""
    module, program = exported(row)
    plain = program.run_decompositions(segattn_triton.decompositions())
    assert not any(getattr(n.target, "namespace", "") == "segattn" for n in plain.graph.nodes)
    x = make_map((3, 4, 7, 5), "contiguous", torch.Generator().manual_seed(1), torch.float32, DEVICE)
    torch.testing.assert_close(plain.module()(x), module(x), rtol=1e-5, atol=1e-6)


@each_with_children
def test_exported_as_its_children(row):
    """A hook on a child keeps the kernels out: any N, too."""
    module = Alone(row, module_of(row, 4)).eval()
    children_of(module)[0].register_forward_hook(lambda *_: None)
    _, program = exported(row, module=module)
    x = make_map((3, 4, 7, 5), "contiguous", torch.Generator().manual_seed(1), torch.float32, DEVICE)
    torch.testing.assert_close(program.module()(x), module(x), rtol=1e-5, atol=1e-6)


def test_inductor():
    """Between convolutions, once: code is generated around the operator, forward and backward."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1),
        segattn_triton.SpatialAttention(6, backend="triton"),
        torch.nn.Conv2d(6, 2, 1),
    ).to(DEVICE)
    x = make_map((2, 3, 8, 10), "contiguous", torch.Generator().manual_seed(0), torch.float32, DEVICE)
    results = []
    for run in (network, torch.compile(network, fullgraph=True)):
        network.zero_grad()
        y = run(x)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad.clone() for p in network.parameters())])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
