"""All gates in one network, in the company that networks keep: compilers, exporters, processes and threads."""

import copy
import io
import pickle
import re
import threading

import pytest
import torch
import torch.distributed as dist
from support import DEVICE, INTERPRETED, assert_equal, each_row, module_of, problem
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.export import Dim
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

import segattn_triton
from segattn_triton import _register, launch, ops
from segattn_triton.catalog import OPS
from segattn_triton.testing import make_map

C = 4
RESOLUTIONS = ((5, 6), (7, 4), (8, 9), (4, 4), (12, 5))


class Network(nn.Module):
    """A convolution, every gate of the catalog, a convolution."""

    def __init__(self, rows=OPS, backend: str | None = "triton"):
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        self.gates = nn.ModuleList(module_of(row, C, backend=backend) for row in rows)
        self.head = nn.Conv2d(C, 2, 1)

    def forward(self, x: Tensor, run=lambda gate, x: gate(x)) -> Tensor:
        x = self.stem(x)
        for gate in self.gates:
            x = x + run(gate, x)
        return self.head(x)


def network(rows=OPS, backend: str | None = "triton") -> Network:
    torch.manual_seed(0)
    return Network(rows, backend).to(DEVICE)


def images(N: int = 2, S=(5, 6), seed: int = 0) -> Tensor:
    return make_map((N, 3, *S), "contiguous", torch.Generator().manual_seed(seed), torch.float32, DEVICE)


def gradients(module: nn.Module, x: Tensor, run=None) -> list[Tensor]:
    module.zero_grad()
    y = (run or module)(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in module.parameters())]


def assert_all_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert_equal(a, b)


def assert_all_close(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# compilers and exporters


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@each_row
def test_no_recompilation_storm(row, training):
    """torch.compile as people call it: one graph for the first resolution, one for all others."""
    torch._dynamo.reset()
    counter, module = CompileCounter(), network([row])
    compiled = torch.compile(module, backend=counter)
    with torch.set_grad_enabled(training):
        for S in RESOLUTIONS:
            assert_all_close([compiled(images(S=S))], [module(images(S=S))])
    assert 1 <= counter.frame_count <= 2


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"])
@each_row
def test_no_hidden_copy_inside_a_compiled_network(row, memory_format):
    """The operator is fed the very buffer that the convolution before it wrote, in the layout that it wrote; of a
    projected map, one buffer with queries, keys and values."""
    from torch._inductor.utils import run_and_get_code

    torch._dynamo.reset()
    module = nn.Sequential(nn.Conv2d(3, C, 3), module_of(row, C), nn.Conv2d(C, 2, 3)).to(DEVICE)
    module = module.to(memory_format=memory_format).requires_grad_(False)
    x = images(S=(9, 10)).contiguous(memory_format=memory_format)
    seen: list[tuple[int, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        for op in _register.OPS.values():

            def spy(*args, allocate=op.allocate):
                seen.append(args[0].stride())
                return allocate(*args)

            patch.setattr(op, "allocate", spy)
        y, (code,) = run_and_get_code(torch.compile(module, fullgraph=True), x)
    assert_all_close([y], [module(x)])
    convolved = re.findall(r"(\w+) = extern_kernels\.convolution\(", code)
    convolved += re.findall(r"(\w+) = torch\.ops\.(?:mkldnn|mkl)\._convolution_pointwise\S*\(", code)
    (call,) = re.findall(r"torch\.ops\.segattn\.\w+\.default\((.*)\)", code)
    if not row.is_gate:
        views = re.findall(r"reinterpret_tensor\((\w+)", call)
        assert len(views) == 3 and len(set(views)) == 1, code
        return
    fed = re.findall(r"^\w+", call)
    assert fed[0] in convolved, code
    stride = re.search(rf"assert_size_stride\({fed[0]}, \([\d, ]+\), \(([\d, ]+)\)", code)
    assert stride is None or tuple(map(int, stride[1].split(","))) == seen[-1]


def exported(module: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(module, (images(),), dynamic_shapes=({0: Dim("N"), 2: Dim("H"), 3: Dim("W")},))


def test_export_saved_and_loaded():
    """With dynamic N, H and W, through a file, and as plain torch operators."""
    module = network()
    buffer = io.BytesIO()
    torch.export.save(exported(module), buffer)
    buffer.seek(0)
    program = torch.export.load(buffer)
    plain = program.run_decompositions(segattn_triton.decompositions())
    assert not any(getattr(n.target, "namespace", "") == "segattn" for n in plain.graph.nodes)
    for N, S in ((1, (3, 9)), (3, (8, 8))):
        expected = [module(images(N, S))]
        assert_all_close([program.module()(images(N, S))], expected)
        assert_all_close([plain.module()(images(N, S))], expected)


@pytest.mark.parametrize("backend", [None, "triton"])
@each_row
def test_onnx(row, backend, tmp_path):
    """The reference is exported, whatever the backend; onnxruntime gives torch's numbers at another size."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    module, x = network([row], backend).cpu().eval(), images(2).cpu()
    shapes = ({0: Dim("N"), 2: Dim("H"), 3: Dim("W")},)
    program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False, optimize=False)
    program.save(tmp_path / "gate.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "gate.onnx", options, providers=["CPUExecutionProvider"])
    expected = network([row], "reference").cpu()
    for N, S in ((2, (5, 6)), (3, (8, 7))):
        x = images(N, S).cpu()
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_all_close([torch.from_numpy(y)], [expected(x).detach()])


# training


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant):
    module, x = network(), images().requires_grad_()

    def run(gate, t):
        return checkpoint(gate, t, use_reentrant=use_reentrant)

    assert_all_equal(gradients(module, x, lambda t: module(t, run)), gradients(module, x))


def test_deepcopy_and_pickle():
    """Before and after a forward and backward: nothing that cannot be copied is kept."""
    module, x = network(), images()
    expected = gradients(module, x)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
        torch.optim.swa_utils.AveragedModel(module).module,
    ):
        assert_all_equal(gradients(twin, x), expected)
        with torch.no_grad():
            next(twin.parameters()).add_(1)
    assert_all_equal(gradients(module, x), expected)


def test_inference_mode():
    module, x = network(), images()
    expected = module(x).detach()
    with torch.inference_mode():
        y = module(x)
        assert y.is_inference()
        assert_equal(module(images()), expected)
    assert_equal(y, expected)
    frozen = module(y[:, :1].clone().expand(-1, 3, -1, -1))  # a normal tensor made from an inference tensor
    assert frozen.requires_grad


# processes


def _distributed(rank: int, path: str) -> None:
    """One of two ranks: the gradients of half of the batch each, averaged by DDP and by FSDP2."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    half = images(4).cpu()[2 * rank : 2 * rank + 2]
    module = network(backend=None if DEVICE == "cuda" else "triton").cpu()
    ddp = DistributedDataParallel(copy.deepcopy(module))
    averaged = gradients(ddp, half)[1:]
    sharded = copy.deepcopy(module)
    mesh = init_device_mesh("cpu", (2,))
    for gate in sharded.gates:
        if any(True for _ in gate.parameters()):
            fully_shard(gate, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    sharded(half).square().sum().backward()
    gathered = [p.grad.full_tensor() for p in sharded.parameters()]
    if rank == 0:
        torch.save({"ddp": averaged, "fsdp": gathered}, f"{path}/gradients.pt")
    dist.destroy_process_group()


def test_data_parallel_processes(tmp_path):
    """DDP and FSDP2 on gloo with two ranks: the gradients of one process with the whole batch."""
    torch.multiprocessing.spawn(_distributed, (str(tmp_path),), nprocs=2)
    module = network().cpu() if INTERPRETED else network(backend=None).cpu()
    expected = gradients(module, images(4).cpu())[1:]
    found = torch.load(tmp_path / "gradients.pt")
    for kind in ("ddp", "fsdp"):
        for half, whole in zip(found[kind], expected, strict=True):  # sums over half a batch each
            torch.testing.assert_close(2 * half, whole, rtol=1e-4, atol=1e-4 * whole.abs().max().item())


class Gated(Dataset):
    """Items that pass through a network in the worker."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        torch.set_num_threads(1)
        with torch.no_grad():
            return self.module(images(1, seed=index).cpu())[0]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_loader(context):
    """After kernels have run here: gates run in forked and in spawned workers."""
    rows = [OPS[0], OPS[-1]]
    network(rows)(images())
    dataset = Gated(network(rows, backend="triton" if INTERPRETED else None).cpu())
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=context, timeout=120)
    assert_all_equal([torch.cat(list(loader))], [torch.stack([dataset[i] for i in range(4)])])


# threads

THREADS, REPEATS = 4, 5


def in_threads(work) -> None:
    """`work(index)` in several threads that start together; the first error is raised here."""
    barrier, errors = threading.Barrier(THREADS), []

    def guarded(index: int) -> None:
        try:
            torch.set_num_threads(1)  # each thread has its own setting
            barrier.wait()
            for _ in range(REPEATS):
                work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@each_row
def test_threads_on_the_reference(row):
    """One module, many threads, as nn.DataParallel and servers use it."""
    module = module_of(row, C, backend="reference")
    inputs = [images(2, (5 + i, 6), seed=i).mean(1, keepdim=True).repeat(1, C, 1, 1) for i in range(THREADS)]

    def run(x: Tensor) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        return [y, *torch.autograd.grad(y.square().sum(), [leaf, *module.parameters()])]

    expected = [run(x) for x in inputs]
    in_threads(lambda i: assert_all_equal(run(inputs[i]), expected[i]))


class Mock:
    """A kernel without a body: notes its launches, by thread."""

    def __init__(self, name: str, made: threading.local):
        self.name, self.made = name, made

    def __getitem__(self, grid):
        def run(**kwargs):
            plain = {k: v for k, v in kwargs.items() if isinstance(v, (int, float, tuple))}
            shapes = {k: (v.shape, v.stride(), v.dtype) for k, v in kwargs.items() if isinstance(v, Tensor)}
            self.made.launches.append((self.name, grid, plain, shapes))

        return run


@pytest.mark.interpreter
@pytest.mark.parametrize("repeated", [False, True], ids=["planned", "repeated"])
@each_row
def test_threads_on_the_launch_path(row, repeated, monkeypatch):
    """Choosing, planning and launching share no state between threads: each sees its own launches, in order.

    The kernels are mocks, because the interpreter itself is not thread-safe.
    """
    from triton.runtime.interpreter import InterpretedFunction

    made = threading.local()
    monkeypatch.setattr(InterpretedFunction, "__getitem__", lambda kernel, grid: Mock(kernel.fn.__name__, made)[grid])
    inputs = [
        problem(row, S=(5 + i, 6), N=1 + i % 3, layout="channels_last" if i % 2 else "contiguous")
        for i in range(THREADS)
    ]

    def run(index: int) -> list:
        made.launches = []
        leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in inputs[index]]
        row.op(*leaves, backend="triton").sum().backward()
        return made.launches

    if not repeated:
        monkeypatch.setattr(_register, "signature", lambda *_: None)
    for _ in range(2):  # the second time as it was recorded
        expected = [run(i) for i in range(THREADS)]
    assert all(expected)

    def same(index: int) -> None:
        assert run(index) == expected[index]

    in_threads(same)


def test_the_package_keeps_no_state_per_call():
    """What a call leaves behind is caches of plain functions."""
    assert launch._recorder is None
    assert set(ops.OPS) == set(_register.OPS)
