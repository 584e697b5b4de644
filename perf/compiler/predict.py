"""Without a GPU: the time of our kernels on an H200, predicted from machine code (`perf/account`). Never a result.

Plans come from tensors without memory, compilation is ahead of time for sm_90, in a child process because Triton may
interpret in this one. A library that is called beside the kernels is taken by the rule for libraries (`sides`).
"""

from collections.abc import Iterator
from dataclasses import asdict

from ..account import assumptions as assumed
from ..measure import child, plan
from ..records import Point, Record

ARCH = 90


def records(points: list[Point], seconds: float) -> Iterator[Record]:
    """A record for every point whose kernels were compiled within the time."""
    pieces = [asdict(point) for point in points]
    for point, answer in zip(
        points, child.results(__name__, pieces, {"TRITON_INTERPRET": None}, seconds), strict=False
    ):
        died = answer.get("failure") or answer.get(child.DIED)
        yield _record(point, answer.get("kernels"), f"failed: {died}" if died else "ok")


def _record(point: Point, kernels: list | None, status: str) -> Record:
    from ...catalog import BY_NAME

    row, sizes, backward = BY_NAME[point.op], plan.problem_of(point).sizes, point.mode == "bwd"
    planned = row.planned_bytes(sizes, plan.ITEMSIZE[point.dtype])[backward]
    us = sum(kernel["us"] + assumed.LAUNCH for kernel in kernels) if status == "ok" else None
    return Record(
        point,
        ms=None if us is None else us / 1e3,
        floor_bytes=plan.floor_bytes(point),
        planned_bytes=planned,
        flops=row.count_flops(sizes)[backward],
        status=status,
        extra={
            "predicted": "from machine code, by the account of perf/account, launches included: no measurement",
            "bandwidth": assumed.DRAM * 1e6,
            "matrix_rate": assumed.MATRIX_RATE * 1e6,
            "arch": f"sm_{ARCH}",
            "kernels": kernels or [],
        },
    )


def kernels_of(point: Point) -> list[dict]:
    """What the compiler makes of every kernel that the point launches, and the account of its time."""
    import torch

    from ... import compiled as static
    from ...catalog import BY_NAME
    from .sides import launched

    row, sizes, dtype = BY_NAME[point.op], plan.problem_of(point).sizes, getattr(torch, point.dtype)
    plans, calls = launched(row, sizes, point.layout, dtype)[point.mode == "bwd"]
    return [_describe(p, static.compile_plan(p, ARCH)) for p in plans] + [_called(c, point.layout) for c in calls]


def _called(call, layout: str) -> dict:
    from .sides import library

    time = library(call.name, call.nbytes, call.flops, layout)
    return {"name": time.name, "us": time.us[1], "limit": time.limit}


def _describe(planned, compiled) -> dict:
    from ..account.account import account_of
    from ..account.launch import launch_of

    config, account = planned.config, account_of(launch_of(compiled))
    return {
        "name": planned.name,
        "blocks": dict(config.blocks),
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
        "grid": planned.grid,
        "registers": compiled.registers,
        "spills": compiled.spills,
        "shared": compiled.shared,
        "us": account.time,
        "limit": account.limit,
    }


def _work(piece: dict) -> dict:
    try:
        return {"kernels": kernels_of(Point(**piece))}
    except Exception as error:
        return {"failure": child.one_line(error)}


if __name__ == "__main__":
    child.serve(_work)
