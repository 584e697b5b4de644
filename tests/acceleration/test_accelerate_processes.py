"""Accelerated gates in data parallel training: DDP and FSDP2 over gloo give the gradients of one process."""

import copy
import functools

import torch
import torch.distributed as dist
from gates import C, make
from support import INTERPRETED
from torch import Tensor, nn

import segattn_triton as sat
from segattn_triton import functional

GATES = ("timm", "torchvision", "scse", "eca", "senet")
RANKS = 2


def network() -> nn.Sequential:
    """An accelerated gate of each family between convolutions."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, kind in enumerate(GATES):
        layers += [nn.Conv2d(C if i else 3, C, 3, padding=1), make(kind)]
    return nn.Sequential(*layers)


def images() -> Tensor:
    return torch.randn(2 * RANKS, 3, 6, 7, generator=torch.Generator().manual_seed(1))


def _counted(called: list[str], own, *args, **options):
    called.append(own.__name__)
    return own(*args, **options, backend="triton" if INTERPRETED else None)


def _rank(rank: int, path: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    called: list[str] = []
    for name in ("squeeze_excite", "scse", "eca"):
        setattr(functional, name, functools.partial(_counted, called, getattr(functional, name)))
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=RANKS)
    part = images().chunk(RANKS)[rank]
    model = sat.accelerate(network())
    gates = [m for m in model if type(m).__name__.startswith("Accelerated")]
    assert len(gates) == len(model) // 2
    called.clear()  # those of the trials
    replicated = DistributedDataParallel(copy.deepcopy(model))
    replicated(part).square().sum().backward()
    sharded = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (RANKS,))
    for gate in sharded:
        fully_shard(gate, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    sharded(part).square().sum().backward()
    assert len(called) == 2 * len(gates), "a gate's own forward ran"
    found = {
        "ddp": [p.grad for p in replicated.parameters()],
        "fsdp": [p.grad.full_tensor() for p in sharded.parameters()],
    }
    if rank == 0:
        torch.save(found, f"{path}/gradients.pt")
    dist.destroy_process_group()


def test_gradients_are_those_of_one_process(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=RANKS)
    plain = network()
    plain(images()).square().sum().backward()
    found = torch.load(tmp_path / "gradients.pt")
    for kind in ("ddp", "fsdp"):
        for mean, p in zip(found[kind], plain.parameters(), strict=True):  # of sums over a part of the batch each
            expected = p.grad
            torch.testing.assert_close(RANKS * mean, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
