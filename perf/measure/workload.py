"""The tensors and the calls of one problem: an op, a direction, a dtype, a layout, a size."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from ...catalog.problem import make_map
from ...testing import without_tf32
from ..records import Point
from . import photo, plan, rivals
from .backends import Cpu, TimedCall, tuned_convolutions
from .timing import GRAPH_CACHES

MOST_SETS = 64  # of tensors in a CUDA graph
EXACT_FLOPS = 1e12  # above, the reference in float64 takes too long
CANCELLED = 2.0**-40  # of the largest gradient: less is the rounding of a sum in float64
WRONG = 0.05  # an error of this share of the largest value is no rounding


def _of_photo(image: Path | None, shape: Sequence[int]) -> Tensor:
    return photo.activations(image, *shape)


class Workload:
    def __init__(self, point: Point, backend: Cpu, image: Path | None = None):
        C, H, W = backend.sizes(point.C, point.H, point.W)
        self.point, self.backend, self.image = point, backend, image
        self.problem = replace(plan.problem_of(point), C=C, S=(H, W))
        self.row, self.sizes, self.names = self.problem.row, self.problem.sizes, self.problem.names
        self.backward = point.mode == "bwd"
        self.inputs = self.make_inputs(0)

    def make_inputs(self, seed: int) -> list[Tensor]:
        """Those that are given, seeded, made on the device."""
        draw, device = None, self.backend.device
        if self.point.inputs == "photo":
            draw = partial(_of_photo, self.image)
        made = self.problem.inputs(device, seed=seed, drawn_on=device, draw=draw)
        return [t.requires_grad_(self.backward) for t in made if t is not None]

    @cached_property
    def dy(self) -> Tensor:
        generator = torch.Generator(self.backend.device).manual_seed(1)
        spec = self.row.outputs["y"]
        dtype, shape = getattr(torch, self.point.dtype), self.row.map_shape(spec, self.sizes)
        dy = make_map(shape, self.point.layout, generator, dtype, self.backend.device)
        return self.row.view(spec, dy, self.sizes)

    def function(self, provider: str) -> Callable[..., Tensor]:
        """The forward of a provider, on the row's inputs."""
        if provider == "segattn":
            return partial(self.row.op, backend=self.backend.kernels)
        if provider == "reference":
            return self.row.reference
        return rivals.make(self.row.name, provider, self.backend.compile)

    def call(self, provider: str, fn: Callable, inputs: list[Tensor] | None = None) -> TimedCall:
        """What is timed: the forward, or the backward alone of a forward that is run here."""
        inputs = self.inputs if inputs is None else inputs
        if self.backward:
            run = partial(torch.autograd.grad, fn(*inputs), inputs, self.dy, retain_graph=True)
        else:
            run = partial(fn, *inputs)
        return TimedCall(run, provider, plan.floor_bytes(self.point))

    def whole(self, provider: str, fn: Callable) -> TimedCall:
        """What takes memory: the forward, and with it the backward."""
        return TimedCall(lambda: self._results(fn, self.inputs), provider, plan.floor_bytes(self.point))

    def graph(self, provider: str, fn: Callable) -> tuple[TimedCall, int]:
        """A CUDA graph of calls on sets of tensors that together outgrow the cache, and their number."""
        sets = -(-GRAPH_CACHES * self.backend.l2_bytes // plan.floor_bytes(self.point))
        sets = max(1, min(MOST_SETS, sets))
        return self.backend.capture([lambda: self.call(provider, fn, self._copied())] * sets), sets

    def _copied(self) -> list[Tensor]:
        """New memory, not new values."""
        return [t.detach().clone().requires_grad_(self.backward) for t in self.inputs]

    def again_and_fresh(self, provider: str, fn: Callable) -> tuple[TimedCall, TimedCall]:
        """The call that is timed, and one whose tensors were last used before others of several caches."""
        sets = 1 + -(-GRAPH_CACHES * self.backend.l2_bytes // plan.floor_bytes(self.point))
        calls = itertools.cycle([self.call(provider, fn, self._copied()) for _ in range(max(2, sets))])
        again = self.call(provider, fn)
        return again, TimedCall(lambda: next(calls)(), provider, again.bytes)

    def _results(self, fn: Callable, inputs: list[Tensor], dy: Tensor | None = None) -> dict[str, Tensor]:
        y = fn(*inputs)
        if not self.backward:
            return {"y": y}
        grads = torch.autograd.grad(y, inputs, self.dy if dy is None else dy)
        return {f"d{name}": g for name, g in zip(self.names, grads, strict=True)}

    @cached_property
    def _exact(self) -> dict[str, Tensor] | None:
        """The reference in float64: of a photograph everything, and of what is normalised over the batch; else what
        belongs to the last image."""
        whole = self.point.inputs == "photo" or self.row.over_batch
        images = slice(None) if whole else slice(-1, None)
        given = zip(self.names, (t.detach() for t in self.inputs), strict=True)
        some = [t[images] if name in self.row.maps else t for name, t in given]
        sizes = self.sizes | {"N": some[0].shape[0]}
        if self.row.count_flops(sizes)[self.backward] > EXACT_FLOPS:
            return None
        wide = [t.double().requires_grad_(self.backward) for t in some]
        with without_tf32(), tuned_convolutions(False):
            exact = self._results(self.row.reference, wide, self.dy[images].double() if self.backward else None)
        kept = (
            exact if images == slice(None) else {k: v for k, v in exact.items() if k == "y" or k[1:] in self.row.maps}
        )
        return {k: v.detach() for k, v in kept.items()}

    def errors(self, fn: Callable) -> dict[str, float]:
        """Largest error over largest value, for every output or gradient that the exact ones are known of; over the
        largest of all, where it is zero but for float64's rounding, as the gradient of a bias before a norm."""
        if self._exact is None:
            return {}
        poison = [torch.full_like(self.inputs[0], float("nan")) for _ in range(2)]
        del poison  # what is allocated next holds NaN wherever nothing is written
        got = self._results(fn, self.inputs)
        largest = {name: float(y64.abs().max()) for name, y64 in self._exact.items()}
        of_all = max(largest.values())
        over = {name: most if most > CANCELLED * of_all else of_all for name, most in largest.items()}
        return {
            name: float((got[name][-len(y64) :].double() - y64).abs().max()) / max(over[name], 1e-300)
            for name, y64 in self._exact.items()
        }
