"""Gates of maps that are sharded over ranks: the whole map's results and gradients, for shards of any sizes."""

import pytest
import sharded_worker
import torch
from sharded_worker import parts_of
from torch import nn

from segattn_triton import functional
from segattn_triton.catalog import BY_NAME, ROWS
from segattn_triton.distributed import sharded
from segattn_triton.distributed.gates import GATES
from segattn_triton.testing import make_inputs

pytestmark = pytest.mark.interop
UNEVEN = {2: (6, 3), 4: (3, 5, 2, 3)}
WIDE = {"cbam": 4, "cbam_light": 4, "cbam_spatial_gate": 4, "neighborhood_attention": 3}  # least rows of a shard
VARIANTS = {
    "squeeze_excite": ({"pool": "max"}, {"pool": "avg+max", "ties": "split", "out_act": "relu"}),
    "channel_gate": ({"pool": "avgmax"},),
    "scse": ({"reduce": "max"},),
    "eca": ({"circular": True},),
    "cbam": ({"ties": "split", "residual": True}, {"spatial_pool": "mean,max", "pool": "avg"}),
    "local_pool_gate": ({"pool": "max"}, {"pool": "max", "ties": "split"}),
    "neighborhood_attention": ({"border": "mask"}, {"border": "zero"}, {"kernel_size": 5}),
}


def cases(row, world: int) -> list[tuple]:
    """(name, axis, sizes, tensors, dy, options) for both axes, and every kind of option in turn."""
    made = []
    least = WIDE.get(row.name, 1)
    sizes = tuple(max(s, least) for s in UNEVEN[world])
    for i, options in enumerate(({}, *VARIANTS.get(row.name, ()))):
        first = 1 if row.name == "neighborhood_attention" else 2
        axis = first + i % 2
        S = (sum(sizes), 7) if i % 2 == 0 else (7, sum(sizes))
        known = {"N": 2, "C": 4, "S": S, "Cr": 2, "heads": 2, "T": S}
        if row.name == "neighborhood_attention":
            known["T"] = 2 * options.get("kernel_size", 3) - 1  # of the bias's table
        tensors = list(make_inputs(row, known, torch.float32))
        tensors += [None] * (len(row.inputs) - len(tensors))
        for place, name in enumerate(row.inputs):
            if name.removesuffix("?") in ("norm_weight", "norm_bias"):
                tensors[place] = None
        if "max" in options.get("pool", "") or options.get("ties") == "split":
            tensors[0] = tensors[0].mul(2).round().div(2)  # maxima that are reached more than once
        tensors = [t if t is None else t.detach() for t in tensors]
        dy = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(i))
        made.append((row.name, axis, sizes, tensors, dy, options))
    return made


SHARDED = [row for row in ROWS if row.op.__name__ in GATES]


def test_a_row_is_sharded_or_refused():
    for row in (row for row in ROWS if row not in SHARDED):
        with pytest.raises(ValueError, match=f"function: got {row.op.__name__}"):
            sharded(row.op)
    assert len(SHARDED) >= 16


@pytest.mark.parametrize("world", UNEVEN)
def test_equal_to_the_whole_map(world, tmp_path):
    every = [case for row in SHARDED for case in cases(row, world)]
    torch.multiprocessing.spawn(sharded_worker.run, (world, str(tmp_path), every), nprocs=world)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(world)]
    for i, (name, axis, sizes, tensors, dy, options) in enumerate(every):
        row = BY_NAME[name]
        leaves = [t if t is None else t.clone().requires_grad_() for t in tensors]
        y = row.reference(*leaves, **options)
        grads = iter(torch.autograd.grad(y, [t for t in leaves if t is not None], dy))
        for rank in range(world):
            _close(f"{name} {options} y", found[rank][i][0], parts_of(y.detach(), axis, sizes, rank))
        place = 0
        for t, (label, spec) in zip(leaves, row.inputs.items(), strict=True):
            if t is None:
                continue
            expected = next(grads)
            for rank in range(world):
                part = parts_of(expected, axis, sizes, rank) if "*" in spec else expected
                _close(f"{name} {options} d{label} rank {rank}", found[rank][i][1][place], part)
            place += 1


def test_of_a_dtensor(tmp_path):
    """Its mesh is used, and the result is one."""
    case = cases(BY_NAME["scse"], 2)[0]
    torch.multiprocessing.spawn(sharded_worker.dtensors, (2, str(tmp_path), case), nprocs=2)
    _, axis, sizes, (x, *weights), dy, _ = case
    x.requires_grad_()
    y = functional.scse(x, *weights, backend="reference")
    (dx,) = torch.autograd.grad(y, x, dy)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        for what, got, whole in zip(("y", "dx"), found, (y.detach(), dx), strict=True):
            _close(what, got, parts_of(whole, axis, sizes, rank))


def _close(what: str, got, expected) -> None:
    scale = max(expected.abs().max().item(), 1.0)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * scale, msg=lambda m: f"{what}: {m}")


def _map(*shape: int):
    return torch.randn(shape)


def _other_sizes(rank, mesh):
    sharded(functional.spatial_pool_gate, mesh)(_map(1, 4 + rank, 3, 5))


def _other_options(rank, mesh):
    sharded(functional.spatial_pool_gate, mesh)(_map(1, 4, 3, 5), pool="max" if rank else "mean")


def _too_narrow(rank, mesh):
    sharded(functional.local_gate, mesh)(_map(1, 4, 3 - 2 * rank, 5), _map(4, 1, 3, 3))


def _a_norm(rank, mesh):
    sharded(functional.cbam_spatial_gate, mesh)(_map(1, 4, 5, 5), _map(1, 2, 7, 7), None, _map(1))


def _not_spatial(rank, mesh):
    sharded(functional.spatial_pool_gate, mesh, dim=1)(_map(1, 4, 3, 5))


def _late(rank, mesh):
    """Last: a rank that never calls."""
    if rank == 0:
        sharded(functional.spatial_pool_gate, mesh)(_map(1, 4, 3, 5))


WRONG = {
    _other_sizes: "(1, 4, 5) on rank 0, (1, 5, 5) on rank 1",
    _other_options: "rank 1 disagrees with rank 0",
    _too_narrow: "rank 1 has 1 rows",
    _a_norm: "norm_weight: got a norm of the batch",
    _not_spatial: "dim: got 1",
}


def test_one_line_on_every_rank(tmp_path):
    torch.multiprocessing.spawn(sharded_worker.said, (2, str(tmp_path), [*WRONG, _late]), nprocs=2)
    for rank in range(2):
        lines = torch.load(tmp_path / f"rank{rank}.pt")
        for line, expected in zip(lines, WRONG.values(), strict=False):
            assert line.startswith("ValueError: ") and expected in line and "\n" not in line, line
    late = torch.load(tmp_path / "rank0.pt")[-1]
    assert late.startswith("RuntimeError: ") and "in time" in late and "\n" not in late, late


def test_what_is_refused_before():
    with pytest.raises(ValueError, match="function: got relu"):
        sharded(nn.functional.relu)
    with pytest.raises(ValueError, match="mesh: got int"):
        sharded(functional.scse, 2)
    with pytest.raises(ValueError, match="mesh: got None"):
        sharded(functional.spatial_pool_gate)(_map(1, 4, 3, 5))
