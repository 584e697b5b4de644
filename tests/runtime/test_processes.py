"""Gates in several processes and threads: data parallel training, the workers of a loader, servers."""

import copy
import threading

import interpreter_bf16
import pytest
import torch
import torch.distributed as dist
from network import C, assert_all_equal, gradients, images, network
from support import INTERPRETED, Alone, each_row, module_of, problem
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from segattn_triton import ops
from segattn_triton.catalog import BY_NAME, ROWS
from segattn_triton.runtime import known, operator, plan

THREADS, REPEATS = 4, 5
BY_IMAGE = [row for row in ROWS if not row.over_batch]  # half of a batch has other statistics


def _distributed(rank: int, path: str, rows: list[str]) -> None:
    """One of two ranks: the gradients of half of the batch each, averaged by DDP and by FSDP2."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    half = images(4, device="cpu")[2 * rank : 2 * rank + 2]
    module = network([BY_NAME[name] for name in rows], backend="triton" if INTERPRETED else None).cpu()
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


def test_data_parallel_processes(tmp_path, in_turn):
    """DDP and FSDP2 on gloo with two ranks: the gradients of one process with the whole batch."""
    rows = in_turn(BY_IMAGE)
    torch.multiprocessing.spawn(_distributed, (str(tmp_path), [row.name for row in rows]), nprocs=2)
    module = network(rows, backend="triton" if INTERPRETED else None).cpu()
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
            return self.module(images(1, seed=index, device="cpu"))[0]


def _as_here(worker: int) -> None:
    """A spawned worker adds up as these tests do, bit by bit."""
    if INTERPRETED:
        interpreter_bf16.install()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_loader(context):
    """After kernels have run here: gates run in forked and in spawned workers."""
    rows = [ROWS[0], ROWS[-1]]
    network(rows)(images())
    dataset = Gated(network(rows, backend="triton" if INTERPRETED else None).cpu())
    how = dict(multiprocessing_context=context, worker_init_fn=_as_here, timeout=120)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, **how)
    assert_all_equal([torch.cat(list(loader))], [torch.stack([dataset[i] for i in range(4)])])


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
    module = Alone(row, module_of(row, C, backend="reference"))
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

    monkeypatch.setattr(known, "enabled", repeated)
    for _ in range(3):  # the third time as its program
        expected = [run(i) for i in range(THREADS)]
    assert all(expected)

    def same(index: int) -> None:
        assert run(index) == expected[index]

    in_threads(same)


def test_the_package_keeps_no_state_per_call():
    """What a call leaves behind is caches of plain functions."""
    assert plan.collected is None
    assert set(ops.OPERATORS) == set(operator.OPERATORS)
