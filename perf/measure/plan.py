"""What a run measures, the most valuable first: a pure function of the options and of whether there is a GPU.

First the ceilings: device copy, matrix product. Then, per dtype, the numerics of every op, so that no time is taken
of an op that is wrong. Then the sweep outwards from the founding problem (C = 64 and 128, 512 x 512, bfloat16):
other resolutions, other C, other dtypes. Photographs follow the founding problem.

A CPU draws curves instead, one op at several sides before the next: the first op at four sides, each founding op at
two, then curve after curve; photographs, what the compiler makes of our kernels and compiled rivals come last.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ...catalog import BY_NAME, Problem
from ..options import LAUNCH_MODE, OPS, Options
from ..records import Point
from . import rivals
from .timing import GRAPH_BYTES

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
BATCH = 8
LARGEST_MAP = 2**32  # bytes: the batch shrinks where one map would be larger
COPY_BYTES = (500_000_000, 2_000_000_000, 100_000_000)
LAUNCH_SIZE = (2, 64, 16, 16)  # N, C, H, W
CHECK_SIZES = ((2, 64, 64, 64), (1, 128, 65, 33))  # N, C, H, W
GPU_GRIDS = {
    "quick": dict(sides=(512, 256, 1024, 128), channels=(64, 128), dtypes=("bfloat16",)),
    "full": dict(
        sides=(512, 256, 1024, 128, 2048, 64, 513, 65),
        channels=(64, 128, 256, 32, 512),
        dtypes=("bfloat16", "float32", "float16"),
    ),
}
FOUNDING = ("spatial_gate", "channel_gate", "local_gate", "neighborhood_attention")
CPU_GRIDS = {
    "quick": dict(sides=(128, 32, 512, 256, 64), channels=(32,), dtypes=("float32",)),
    "full": dict(sides=(128, 32, 512, 256, 64), channels=(32, 64), dtypes=("float32",)),
}
CURVES = {  # on a CPU, without --op; attention, which takes most time, last
    "quick": ("spatial_gate", "channel_gate", "local_gate", "squeeze_excite", "scse", "neighborhood_attention"),
    "full": OPS,
}
COMPILED_SIDES = 4  # of a curve, all by one dynamic graph
COMPILED = ("compile", "compile-best", "flex")


@dataclass(frozen=True)
class Job:
    """Points that are measured together."""

    kind: str  # "ceiling", "check", "launch", "time", "predict"
    points: tuple[Point, ...]
    rank: tuple

    @property
    def first(self) -> Point:
        return self.points[0]

    def only(self, points: Iterable[Point]) -> "Job":
        return replace(self, points=tuple(points))


def problem_of(point: Point) -> Problem:
    """All inputs but those that no rival takes."""
    size = point.N, point.C, (point.H, point.W)
    return Problem(point.op, point.dtype, point.layout, *size, absent=rivals.left_out(point.op))


def floor_bytes(point: Point) -> int:
    problem = problem_of(point)
    return problem.row.floor_bytes(problem.sizes, ITEMSIZE[point.dtype], problem.absent)[point.mode == "bwd"]


def map_bytes(point: Point) -> int:
    return point.N * point.C * point.H * point.W * ITEMSIZE[point.dtype]


def schedule(options: Options, *, gpu: bool, bfloat16: bool = True) -> list[Job]:
    """The jobs of a run, in order. `options` are checked."""
    presets = dict((GPU_GRIDS if gpu else CPU_GRIDS)[options.preset])
    if gpu and not bfloat16:
        presets["dtypes"] = tuple(d for d in presets["dtypes"] if d != "bfloat16") or ("float16",)
    grid = {k: tuple(getattr(options, k)) or v for k, v in presets.items()}
    jobs = [*_ceilings(grid["dtypes"][0], gpu)]
    if gpu:
        jobs += [*_sweep(options, grid), *_checks(options, grid["dtypes"]), *_launches(options, grid["dtypes"][0])]
    else:
        jobs += [*_curves(options, grid), _predictions(options)]
    return sorted(jobs, key=lambda job: job.rank)


def _ceilings(dtype: str, gpu: bool) -> Iterator[Job]:
    side = 8192 if gpu else 1024
    timer = "events" if gpu else "cpu"
    for i, size in enumerate(COPY_BYTES if gpu else COPY_BYTES[-1:]):
        point = Point("copy", "copy", "fwd", dtype, "contiguous", 1, 1, size // ITEMSIZE[dtype] // 1000, 1000, timer)
        yield Job("ceiling", (point,), (-2, i))
    point = Point("matmul", "matmul", "fwd", dtype, "contiguous", 1, side, side, side, timer)
    yield Job("ceiling", (point,), (-1,))


def _checks(options: Options, dtypes) -> Iterator[Job]:
    for (d, dtype), (o, op), layout, (s, size) in product(
        enumerate(dtypes), enumerate(options.ops), options.layouts, enumerate(CHECK_SIZES)
    ):
        N, *rest = size
        point = Point(op, "segattn", "check", dtype, layout, max(N, BY_NAME[op].fewest), *rest, timer="check")
        yield Job("check", (point,), (_dtype_rank(d) - 0.5, s, o))


def _launches(options: Options, dtype: str) -> Iterator[Job]:
    """Small problems whose time is the host's, without gradients and with them."""
    for (m, mode), (o, op) in product(enumerate(("fwd", "train")), enumerate(options.ops)):
        if LAUNCH_MODE in options.modes:
            first = Point(op, "segattn", mode, dtype, options.layouts[0], *LAUNCH_SIZE, timer="launch")
            yield Job(
                "launch", (first, *(replace(first, provider="eager") for _ in rivals.names(op)[:1])), (-0.4, m, o)
            )


def _dtype_rank(index: int) -> float:
    return (0, 10, 13, 16)[index]


def _batch(op: str, C: int, side: int, dtype: str) -> int:
    """Images that make no map larger than `LARGEST_MAP`, if the row does with fewer."""
    N = BATCH
    while BY_NAME[op].fewest < N and N * C * side * side * ITEMSIZE[dtype] > LARGEST_MAP:
        N //= 2
    return N


def _sweep(options: Options, grid: Mapping) -> Iterator[Job]:
    """On a GPU, a job for each problem; the first of an op, direction and dtype on a photograph, too."""
    for (d, dtype), (s, side), (c, C), (m, mode), (l, layout), (o, op) in product(
        *map(enumerate, (grid["dtypes"], grid["sides"], grid["channels"], options.modes, options.layouts, options.ops))
    ):
        if mode == LAUNCH_MODE:
            continue
        distance = _dtype_rank(d) + s + (0 if c < 2 else 4 + c)
        first = Point(op, "segattn", mode, dtype, layout, _batch(op, C, side, dtype), C, side, side, "events")
        points = [first, *(replace(first, provider=name) for name in rivals.names(op))]
        if s + c + l == 0:
            yield Job("time", tuple(replace(p, inputs="photo") for p in points), (distance + 0.25, m, c, l, o))
        if floor_bytes(first) < GRAPH_BYTES:
            points += [replace(p, timer="graph") for p in points]
        yield Job("time", tuple(points), (distance, m, c, l, o))


def _curves(options: Options, grid: Mapping) -> Iterator[Job]:
    """On a CPU, a job for each problem of a curve, ours the reference; a photograph of each op and direction."""
    ops = CURVES[options.preset] if options.ops == OPS else options.ops
    for (d, dtype), (c, C), (l, layout), (m, mode), (o, op), (s, side) in product(
        *map(enumerate, (grid["dtypes"], grid["channels"], options.layouts, options.modes, ops, grid["sides"]))
    ):
        first = Point(op, "reference", mode, dtype, layout, BY_NAME[op].fewest, C, side, side, "cpu")
        rival = [replace(first, provider=name) for name in rivals.names(op)]
        points = (first, *(p for p in rival if p.provider not in COMPILED))
        founding, lead = d + c + l + m == 0, o == 0 and s < 4
        tier = 0 if founding and lead else 1 if founding and s < 2 and op in FOUNDING else 2
        yield Job("time", points, (tier, d, c, o, m, l, s))
        if d + c + l + s == 0:
            yield Job("time", tuple(replace(p, inputs="photo") for p in points), (3, m, o))
            for i, p in enumerate(p for p in rival if p.provider in COMPILED):
                if (op in FOUNDING and p.provider == "compile") or options.preset == "full":
                    sides = grid["sides"][:COMPILED_SIDES]
                    yield Job("time", tuple(replace(p, H=side, W=side) for side in sides), (5, i, m, o))


def _predictions(options: Options) -> Job:
    """All points that a GPU would time, our kernels only; compiled ahead of time instead."""
    twin = replace(options, dtypes=(), sides=(), channels=())
    grid = GPU_GRIDS[options.preset] | dict(dtypes=options.dtypes or ("bfloat16",), channels=(64,))
    points = [
        replace(job.first, timer="predicted")
        for job in sorted(_sweep(twin, grid), key=lambda job: job.rank)
        if job.first.inputs == "normal"
    ]
    return Job("predict", tuple(dict.fromkeys(points)), (4,))


def memory_needed(points: Sequence[Point]) -> int:
    """Bytes that the points of one problem take together, by the number of maps that each keeps alive. Generous."""
    first, providers = points[0], {p.provider for p in points}
    inputs = len(BY_NAME[first.op].maps)
    maps = (3 + 5 * len(providers) if first.mode == "bwd" else 8) * inputs
    maps += rivals.most_maps(first.op) if len(providers) > 1 else 0
    images = first.N if first.inputs == "photo" else 1  # that the reference computes in float64
    exact = 6 * images * map_bytes(first) // first.N * 8 // ITEMSIZE[first.dtype]
    return maps * map_bytes(first) + exact


def describe(point: Point) -> str:
    shape = f"{point.N}x{point.C}x{point.H}x{point.W}"
    return f"{point.op} {point.mode} {point.dtype} {point.layout} {shape}" + (
        f" {point.inputs}" if point.inputs != "normal" else ""
    )


def work(p: Point) -> float:
    """What the time of a point grows with: bytes moved, arithmetic counted at a hundred FLOP a byte."""
    if p.op not in BY_NAME:
        return math.prod((p.N, p.C, p.H, p.W)) ** (2 / 3 if p.op == "matmul" else 1)
    return floor_bytes(p) + BY_NAME[p.op].count_flops(problem_of(p).sizes)[p.mode == "bwd"] / 100
