"""Without a GPU: what the compiler makes of the kernels, and the time below which no H200 could go. Never a result.

Plans come from tensors without memory, compilation is ahead of time for sm_90, in a child process because Triton may
interpret in this one.
"""

from collections.abc import Iterator
from dataclasses import asdict

from ..measure import child, plan
from ..records import Point, Record

BANDWIDTH = 4.3e12  # bytes per second: a device copy on an H200
MATRIX_RATE = 790e12  # FLOP per second: its bfloat16 matrix product
ARCH = 90


def records(points: list[Point], seconds: float) -> Iterator[Record]:
    """A record for every point whose kernels were compiled within the time."""
    pieces = [asdict(point) for point in points]
    for point, answer in zip(
        points, child.results(__name__, pieces, {"TRITON_INTERPRET": None}, seconds), strict=False
    ):
        yield _record(point, answer.get("kernels"), answer.get("failure") or answer.get(child.DIED))


def _record(point: Point, kernels: list | None, failure: str | None) -> Record:
    from ...catalog import BY_NAME

    row, sizes, backward = BY_NAME[point.op], plan.problem_of(point).sizes, point.mode == "bwd"
    planned = row.planned_bytes(sizes, plan.ITEMSIZE[point.dtype])[backward]
    flops = row.count_flops(sizes)[backward]
    return Record(
        point,
        ms=None if failure else 1e3 * max(planned / BANDWIDTH, flops / MATRIX_RATE),
        floor_bytes=plan.floor_bytes(point),
        planned_bytes=planned,
        flops=flops,
        status=f"failed: {failure}" if failure else "ok",
        extra={
            "predicted": "bytes of the planned passes over the bandwidth, or FLOP over the matrix rate: no measurement",
            "bandwidth": BANDWIDTH,
            "matrix_rate": MATRIX_RATE,
            "arch": f"sm_{ARCH}",
            "kernels": kernels or [],
        },
    )


def kernels_of(point: Point) -> list[dict]:
    """What the compiler makes of every kernel that the point launches."""
    import torch

    from ... import compiled as static
    from ...catalog import BY_NAME

    row, sizes, dtype = BY_NAME[point.op], plan.problem_of(point).sizes, getattr(torch, point.dtype)
    plans = static.plans(row, sizes, dtype, point.layout, ARCH)[point.mode == "bwd"]
    return [_describe(p, static.compile_plan(p, ARCH)) for p in plans]


def _describe(planned, compiled) -> dict:
    config = planned.config
    return {
        "name": planned.name,
        "blocks": dict(config.blocks),
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
        "grid": planned.grid,
        "registers": compiled.registers,
        "spills": compiled.spills,
        "shared": compiled.shared,
    }


def _work(piece: dict) -> dict:
    try:
        return {"kernels": kernels_of(Point(**piece))}
    except Exception as error:
        return {"failure": child.one_line(error)}


if __name__ == "__main__":
    child.serve(_work)
