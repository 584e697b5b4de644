"""What the machine can do at best: a device copy, and a matrix product."""

import torch

from ..records import Point
from .backends import Cpu, TimedCall
from .plan import ITEMSIZE


def traffic(point: Point) -> tuple[int, int]:
    """Bytes read and written, and FLOP."""
    values = point.H * point.W
    if point.op == "copy":
        return 2 * values * ITEMSIZE[point.dtype], 0
    return (values + point.C * (point.H + point.W)) * ITEMSIZE[point.dtype], 2 * values * point.C


def call(point: Point, backend: Cpu) -> TimedCall:
    """A copy of H x W values, or a product of (H, C) and (C, W), on random ones."""
    C, H, W = backend.sizes(point.C, point.H, point.W)
    generator = torch.Generator(backend.device).manual_seed(0)
    dtype = getattr(torch, point.dtype)

    def matrix(rows: int, columns: int):
        return torch.empty((rows, columns), dtype=dtype, device=backend.device).normal_(generator=generator)

    if point.op == "copy":
        source, target = matrix(H, W), matrix(H, W)
        return TimedCall(lambda: target.copy_(source), "copy", traffic(point)[0])
    a, b = matrix(H, C), matrix(C, W)
    return TimedCall(lambda: a @ b, "matmul", traffic(point)[0])
