"""A rank of the tests of sharded maps: its part of each map through `sharded`, and what comes out."""

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from support import INTERPRETED
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from segattn_triton.catalog import BY_NAME
from segattn_triton.distributed import sharded

LIMIT = 60  # seconds that a rank waits for the others


def start(rank: int, world: int, path: str, seconds: int = LIMIT):
    torch.set_num_threads(1)
    timeout = timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=world, timeout=timeout)
    return init_device_mesh("cpu", (world,))


def parts_of(t, axis: int, sizes, rank: int):
    return t.split(list(sizes), axis)[rank]


def run(rank: int, world: int, path: str, cases) -> None:
    """Every case's y and gradients into a file of this rank."""
    mesh, found = start(rank, world, path), []
    for name, axis, sizes, tensors, dy, options in cases:
        row = BY_NAME[name]
        given = []
        for t, spec in zip(tensors, row.inputs.values(), strict=True):
            local = t if t is None or "*" not in spec else parts_of(t, axis, sizes, rank).clone()
            given.append(None if local is None else local.detach().requires_grad_())
        backend = "triton" if INTERPRETED else None
        y = sharded(row.op, mesh, dim=axis)(*given, backend=backend, **options)
        leaves = [t for t in given if t is not None]
        grads = torch.autograd.grad(y, leaves, parts_of(dy, axis, sizes, rank).contiguous())
        found.append((y.detach(), grads))
    torch.save(found, f"{path}/rank{rank}.pt")
    dist.destroy_process_group()


def dtensors(rank: int, world: int, path: str, case) -> None:
    """The same of a map that is a DTensor."""
    mesh = start(rank, world, path)
    name, axis, sizes, (x, *weights), dy, options = case
    local = parts_of(x, axis, sizes, rank).clone().requires_grad_()
    map_ = DTensor.from_local(local, mesh, [Shard(axis)], run_check=False, shape=x.shape, stride=x.stride())
    y = sharded(BY_NAME[name].op, dim=axis)(map_, *weights, **options)
    assert isinstance(y, DTensor) and y.shape == x.shape and y.placements == (Shard(axis),)
    y.to_local().backward(parts_of(dy, axis, sizes, rank).contiguous())
    torch.save([y.to_local().detach(), local.grad], f"{path}/rank{rank}.pt")
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
