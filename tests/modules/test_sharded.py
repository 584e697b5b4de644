"""Gates of maps that are sharded over ranks: the whole map's results and gradients, for shards of any sizes."""

import copy
from dataclasses import replace

import pytest
import sharded_worker
import torch
from sharded_worker import Case, parts_of
from support import INTERPRETED
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

import segattn_triton as sat
from segattn_triton import functional
from segattn_triton.catalog import BY_NAME, ROWS
from segattn_triton.distributed import sharded
from segattn_triton.distributed.gates import SHARDING_RULES, _pooled
from segattn_triton.testing import make_inputs, matches

pytestmark = pytest.mark.interop
UNEVEN = {2: (6, 4), 4: (4, 5, 4, 6)}
VARIANTS = {
    "squeeze_excite": ({"pool": "max"}, {"pool": "avg+max", "ties": "split", "out_act": "relu"}),
    "squeeze_excite_norm": ({"pool": "max"}, {"pool": "avgmax", "ties": "split", "out_act": "relu"}),
    "squeeze_excite_norms": ({"pool": "avgmax", "ties": "split", "out_act": "relu"},),
    "channel_gate": ({"pool": "avgmax"},),
    "scse": ({"reduce": "max"},),
    "eca": ({"circular": True},),
    "cbam": ({"ties": "split", "residual": True}, {"spatial_pool": "mean,max", "pool": "avg"}),
    "cbam_norm": ({"ties": "split", "residual": True},),
    "local_pool_gate": ({"pool": "max"}, {"pool": "max", "ties": "split"}),
    "neighborhood_attention": (
        *({"border": "mask"}, {"border": "zero"}, {"kernel_size": 5}),
        *({"is_causal": (True, False)}, {"is_causal": (False, True)}),  # along the axis that is sharded
    ),
}
SHARDED = [row for row in ROWS if row.op.__name__ in SHARDING_RULES]
SIXTEEN = (torch.float16, torch.bfloat16)


def case_of(row, world: int, i: int, dtype, options: dict, dims: int = 2) -> Case:
    """Along the first axis and the last in turn, contiguous and channels_last; the first by kernels."""
    sizes = UNEVEN[world]
    axis = (1 if row.name == "neighborhood_attention" else 2) + i % 2 * (dims - 1)
    S = (sum(sizes), 7) if i % 2 == 0 else (7, sum(sizes))
    S = S if dims == 2 else (2, 3, sum(sizes))
    known = {"N": 2, "C": 4, "S": S, "Cr": 2, "heads": 2, "T": S, **({"k": 7} if "cbam" in row.name else {})}
    if row.name == "neighborhood_attention":
        known["T"] = 2 * options.get("kernel_size", 3) - 1  # of the bias's table
    layout = ("contiguous", "channels_last")[(i + world // 2) % 2]
    tensors = make_inputs(row, known, dtype, layout=layout, seed=i)
    if "max" in options.get("pool", "") or options.get("ties") == "split":
        tensors[0] = tensors[0].mul(2).round().div(2)  # maxima that are reached more than once
    options = {**row.both, **options}
    outputs = row.reference(*tensors, **options)
    generator = torch.Generator().manual_seed(1)  # as `matches` draws them
    douts = [torch.randn(o.shape, generator=generator).to(dtype) for o in outputs]
    kernels = (
        INTERPRETED and SHARDING_RULES[row.op.__name__] is not _pooled and not row.over_batch and (world, i) == (2, 0)
    )
    return Case(row.name, axis, sizes, tensors, douts, options, "triton" if kernels else None)


def cases(world: int) -> list[Case]:
    """Every kind of option in float32; 16 bits; volumes."""
    made = []
    for place, row in enumerate(SHARDED):
        made += [case_of(row, world, i, torch.float32, o) for i, o in enumerate(({}, *VARIANTS.get(row.name, ())))]
        made += [case_of(row, world, place % 2 + 1 + i, dtype, {}) for i, dtype in enumerate(SIXTEEN)]
        if 3 in row.dims:
            made.append(case_of(row, world, 1, torch.float32, {}, dims=3))
    return made


def test_a_row_is_sharded_or_refused():
    for row in (row for row in ROWS if row not in SHARDED):
        with pytest.raises(ValueError, match=f"function: got {row.op.__name__}"):
            sharded(row.op)
    assert len(SHARDED) >= 20


class Recorded(torch.autograd.Function):
    """What the ranks gave, as a function of the inputs."""

    @staticmethod
    def forward(ctx, outputs, grads, *inputs):
        ctx.grads = grads
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *douts):
        return None, None, *ctx.grads


def whole(case: Case, row, parts: list, rank: int) -> tuple[list, list]:
    """(outputs, gradients) of the map, from the parts of all; what every rank has is this one's."""
    outputs = [
        torch.cat(each, case.axis) if "*" in spec else each[rank]
        for each, spec in zip(zip(*(p[0] for p in parts), strict=True), row.outputs.values(), strict=False)
    ]
    grads, found = [], zip(*(p[1] for p in parts), strict=True)
    for t, spec in zip(case.tensors, row.inputs.values(), strict=True):
        each = None if t is None else next(found)
        grads.append(each if t is None else torch.cat(each, case.axis) if "*" in spec else each[rank])
    return outputs, grads


@pytest.mark.parametrize("world", UNEVEN)
def test_equal_to_the_whole_map(world, tmp_path):
    """Every output and gradient, on every rank, within the budget of the whole map."""
    every = cases(world)
    sharded_worker.spawned(sharded_worker.run, (str(tmp_path), every), world)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(world)]
    wrong = []
    for case, *parts in zip(every, *found, strict=True):
        row = BY_NAME[case.name]
        for rank in range(world):
            given = whole(case, row, parts, rank)
            recorded = replace(row, op=lambda *leaves, given=given, backend, **_: Recorded.apply(*given, *leaves))
            bad = [m for m in matches(recorded, *case.tensors, **case.options) if not m.ok]
            wrong += [f"{case.name} {case.tensors[0].dtype} {case.options} {m.name} {rank}: {m.detail}" for m in bad]
            if all("*" in spec for spec in (*row.inputs.values(), *row.outputs.values())):
                break  # the ranks have nothing in common
    assert not wrong, "\n".join(wrong)


def module_cases(world: int) -> list[tuple]:
    """(module, axis, sizes, maps, dy, whether its parameters are DTensors)"""
    even = (sum(UNEVEN[world]) // world,) * world
    gates = [
        (sat.SCSE(4, 2), {}),
        (sat.ChannelAttention(4), {}),
        (sat.SqueezeExcite(4, hidden=2, norm=True), {"shortcut": True}),
        (sat.SqueezeExcite(4, hidden=2, last_norm=True), {}),
        (sat.EffectiveSE(4, norm=True), {}),
        (sat.ECA(4), {}),
        (sat.CBAM(4, 2), {}),
        (sat.CBAM(4, 2).eval(), {}),
        (sat.CBAMSpatialAttention(3), {}),
        (sat.GlobalResponseNorm(4), {}),
        (sat.SpatialAttention(4), {}),
        (sat.LocalAttention(4, depthwise=True), {}),
        (sat.AttentionGate(4, norms=()), {"g": True}),
        (sat.AttentionGate(4), {"g": True}),
        (sat.NeighborhoodAttention2d(4, 2), {}),
    ]
    made = []
    for i, (module, others) in enumerate(gates):
        replicates = isinstance(module, sat.NeighborhoodAttention2d)
        sizes = even if replicates else UNEVEN[world]
        shape, axis = (2, 4, sum(sizes), 7), 2
        maps = {name: torch.randn(shape, generator=torch.Generator().manual_seed(i)) for name in ("x", *others)}
        made.append((module, axis, sizes, maps, torch.randn(shape), replicates))
    return made


@pytest.mark.parametrize("world", UNEVEN)
def test_modules_of_a_dtensor(world, tmp_path):
    """As they are: outputs, gradients, and the running statistics of norms are those of the whole map."""
    every = module_cases(world)
    twins = [copy.deepcopy(case[0]) for case in every]
    sharded_worker.spawned(sharded_worker.modules, (str(tmp_path), every), world)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(world)]
    for (_, axis, sizes, maps, dy, _), module, *each in zip(every, twins, *found, strict=True):
        leaves = {name: t.clone().requires_grad_() for name, t in maps.items()}
        y = module(leaves.pop("x"), **leaves)
        y.backward(dy)
        name = repr(module)
        for rank, (part, dmaps, grads, buffers) in enumerate(each):
            _close(f"{name} y", part, parts_of(y.detach(), axis, sizes, rank))
            for got, p in zip(grads, module.parameters(), strict=True):
                _close(f"{name} parameters", got, p.grad)
            for got, b in zip(buffers, module.buffers(), strict=True):
                _close(f"{name} buffers", got, b)
            for got, t in zip(dmaps[1:], leaves.values(), strict=True):
                _close(f"{name} maps", got, parts_of(t.grad, axis, sizes, rank))


def _close(what: str, got, expected) -> None:
    scale = max(expected.abs().max().item(), 1.0)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * scale, msg=lambda m: f"{what}: {m}")


def _map(*shape: int):
    return torch.randn(shape)


def _dtensor(t, mesh, axis: int):
    return DTensor.from_local(t, mesh, [Shard(axis)], run_check=False)


def _other_sizes(rank, mesh):
    sharded(functional.spatial_pool_gate, mesh)(_map(1, 4 + rank, 3, 5))


def _other_options(rank, mesh):
    sharded(functional.spatial_pool_gate, mesh)(_map(1, 4, 3, 5), pool="max" if rank else "mean")


def _too_narrow(rank, mesh):
    sharded(functional.local_gate, mesh)(_map(1, 4, 3 - 2 * rank, 5), _map(4, 1, 3, 3))


def _other_norms(rank, mesh):
    norm = _map(1) if rank else None
    sharded(functional.cbam_spatial_gate, mesh)(_map(1, 4, 5, 5), _map(1, 2, 7, 7), None, norm)


def _other_shapes_of_a_module(rank, mesh):
    sat.SCSE(4 + 4 * rank, 2)(_dtensor(_map(1, 4 + 4 * rank, 5, 5), mesh, 2))


def _along_channels(rank, mesh):
    sat.SCSE(4, 2)(_dtensor(_map(1, 4, 5, 5), mesh, 1))


def _too_narrow_for_a_norm(rank, mesh):
    sat.CBAM(4, 2)(_dtensor(_map(1, 4, 3 + 2 * rank, 5), mesh, 2))


def _wrong_argument(rank, mesh):
    sharded(functional.scse, mesh)(_map(1, 4, 3, 5), _map(2, 3), None, _map(4, 2), None, _map(1, 4))


def _another_mesh(rank, mesh):
    """A map on a mesh of its own."""
    of_one = DeviceMesh("cpu", [rank])
    sharded(functional.spatial_pool_gate, mesh)(_dtensor(_map(1, 4, 3, 5), of_one, 2))


def _not_in_the_mesh(rank, mesh):
    """A mesh of one rank, on two."""
    sharded(functional.spatial_pool_gate, DeviceMesh("cpu", [0]))(_map(1, 4, 3, 5))
    raise ValueError("mesh: rank 0 alone gets so far")


def _kernels_that_pool(rank, mesh):
    try:
        sharded(functional.eca, mesh)(_map(1, 4, 3, 5), _map(1, 1, 3), backend="triton")
    except RuntimeError as error:
        raise ValueError(error) from None


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
    _other_norms: "rank 1 disagrees with rank 0",
    _other_shapes_of_a_module: "(1, 4, 5) on rank 0, (1, 8, 5) on rank 1",
    _along_channels: "dim: got 1",
    _too_narrow_for_a_norm: "rank 0 has 3 rows",
    _wrong_argument: "w1: got shape (2, 3)",
    _another_mesh: "mesh: got DeviceMesh",
    _not_in_the_mesh: "mesh: ",
    _kernels_that_pool: 'backend: "triton" cannot run here',
    _not_spatial: "dim: got 1",
}


def test_one_line_on_every_rank(tmp_path):
    sharded_worker.spawned(sharded_worker.said, (str(tmp_path), [*WRONG, _late]), 2)
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
