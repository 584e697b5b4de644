"""A rank of the tests of sharded maps: its part of each map through `sharded`, and what comes out."""

import copy
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

import interpreter_bf16
import torch
import torch.distributed as dist
from support import INTERPRETED
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_module

from segattn_triton.catalog import BY_NAME
from segattn_triton.distributed import sharded

LIMIT = 60  # seconds that a rank waits for the others


class Case(NamedTuple):
    """A row's op on the parts of a map, `sizes` along `axis`, with the gradients of its outputs."""

    name: str
    axis: int
    sizes: Sequence[int]
    tensors: Sequence[Tensor | None]
    douts: Sequence[Tensor]
    options: dict
    backend: str | None

    def part(self, t: Tensor, rank: int, name: str = "") -> Tensor:
        """Those of a source have sizes of their own."""
        return parts_of(t, self.axis, self.sizes[::-1] if name.startswith("source") else self.sizes, rank)


def spawned(work: Callable, args: tuple, world: int, seconds: int = 300) -> None:
    """`work` on every rank; an error where they have not ended in time."""
    context, end = (
        torch.multiprocessing.spawn(work, (world, *args), nprocs=world, join=False),
        time.monotonic() + seconds,
    )
    while not context.join(timeout=max(0.0, end - time.monotonic())):
        if time.monotonic() > end:
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"{work.__name__}: the ranks have not ended after {seconds} seconds")


def start(rank: int, world: int, path: str, seconds: int = LIMIT):
    torch.set_num_threads(1)
    if INTERPRETED:
        interpreter_bf16.install()
    timeout = timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=world, timeout=timeout)
    return init_device_mesh("cpu", (world,))


def parts_of(t, axis: int, sizes, rank: int):
    return t.split(list(sizes), axis)[rank]


def run(rank: int, world: int, path: str, cases) -> None:
    """Every case's outputs and gradients into a file of this rank. What every rank has whole has its gradient on the
    first, because the loss is the sum over the ranks."""
    mesh, found = start(rank, world, path), []
    for case in cases:
        row = BY_NAME[case.name]
        given = []
        for t, (name, spec) in zip(case.tensors, row.inputs.items(), strict=True):
            part = t if t is None or "*" not in spec else case.part(t, rank, name).clone()
            given.append(None if part is None else part.detach().requires_grad_())
        outputs = sharded(row.op, mesh, dim=case.axis)(*given, backend=case.backend, **case.options)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        wanted = zip(case.douts, row.outputs.values(), strict=False)
        douts = [case.part(d, rank) if "*" in spec else d * (rank == 0) for d, spec in wanted]
        leaves = [t for t in given if t is not None]
        grads = torch.autograd.grad(outputs, leaves, [d.to(o) for d, o in zip(douts, outputs, strict=True)])
        found.append(([o.detach() for o in outputs], grads))
    torch.save(found, f"{path}/rank{rank}.pt")
    dist.destroy_process_group()


def as_dtensor(t, axis: int, sizes, rank: int, mesh) -> tuple:
    """(this rank's part, a leaf; the map that it is part of)"""
    local = parts_of(t, axis, sizes, rank).clone().requires_grad_()
    placed = dict(run_check=False, shape=t.shape, stride=t.stride())
    return local, DTensor.from_local(local, mesh, [Shard(axis)], **placed)


def modules(rank: int, world: int, path: str, cases) -> None:
    """Modules of maps that are DTensors: y, the maps' gradients, the parameters' gradients, and the buffers."""
    mesh, found = start(rank, world, path), []
    for module, axis, sizes, maps, dy, replicates in cases:
        module = copy.deepcopy(module)  # what is handed to processes lies in memory that they share
        module = distribute_module(module, mesh) if replicates else module
        leaves, given = zip(*[as_dtensor(t, axis, sizes, rank, mesh) for t in maps.values()], strict=True)
        x, *others = given
        y = module(x, **dict(zip([*maps][1:], others, strict=True)))
        assert isinstance(y, DTensor) and y.shape == x.shape and y.placements == (Shard(axis),)
        y.to_local().backward(parts_of(dy, axis, sizes, rank).contiguous())
        state = [p.grad for p in module.parameters()], [*module.buffers()]
        state = [[t.full_tensor() if isinstance(t, DTensor) else t for t in part] for part in state]
        found.append([y.to_local().detach(), [t.grad for t in leaves], *state])
    torch.save(found, f"{path}/rank{rank}.pt")
    dist.destroy_process_group()


def said(rank: int, world: int, path: str, what) -> None:
    """The errors of calls that are wrong, one line each."""
    mesh, lines = start(rank, world, path, 20), []
    for work in what:
        try:
            work(rank, mesh)
        except (ValueError, RuntimeError) as error:
            lines.append(f"{type(error).__name__}: {error}")
        else:
            lines.append("nothing")
    torch.save(lines, f"{path}/rank{rank}.pt")
    sys.stdout.flush()
    os._exit(0)  # a group in which a rank is late cannot be taken down in order
