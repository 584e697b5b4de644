"""From a forward and a backward over plain tensors to a PyTorch operator: implementations, fakes, autograd.

`segattn::<name>` and `segattn::<name>_bwd` are two registered operators, with schemas of `schemas`. Above the forward
stands an `autograd.Function`; the backward is called through its own, whose backward raises, because without it a
double backward would be silently zero.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..kernels.common.activations import activation
from . import autograd
from .autograd import UNWANTED, watched
from .description import describe
from .maps import native
from .run import Run, perform, repeated
from .schema import Schema, library

OPERATORS: dict[str, "DifferentiableOp"] = {}


@dataclass(frozen=True)
class Call:
    """A call of an operator that is still to be made; with `both`, for all its results, or for some."""

    op: "DifferentiableOp"
    args: tuple
    both: bool | tuple[int, ...] = True

    def __call__(self) -> Any:
        return self.op.chosen(self.op(*self.args), self.both)


class DifferentiableOp:
    """One operation, whose operators do this. All are values by the names of the schema, options by their public ones;
    an option `act` or `gate` is the `Activation` that kernels take.

    allocate   (tensors, options) -> the outputs, empty; an output that is not wanted has no elements
    forward    (run, outputs, tensors, options) fills them
    backward   (run, grads, douts, saved, tensors, options) fills `grads`, one per tensor, None where not needed;
               douts are the gradients of the differentiable outputs: dy, then None for each that has none
    maps            the tensors that are feature maps: they come native, each in its own memory order
    views           how many leading tensors the kernels read in any strides: these are the maps then
    reference       the function of `segattn_triton.reference` that defines the op, where it has another name
    adds            (tensor, option, value): the tensor is added to y last where the option has that value. Its gradient
                    is dy itself, which the autograd function returns; the operator is not asked for it, because its
                    outputs may not alias its inputs
    """

    def __init__(
        self,
        schema: Schema,
        *,
        allocate: Callable,
        forward: Callable,
        backward: Callable,
        maps: Sequence[str] = ("x",),
        views: int = 0,
        reference: str | None = None,
        adds: tuple[str, str, str] | None = None,
    ):
        self.schema, self.tensors, self.outputs = schema, schema.tensors, schema.outputs
        self.name, self.name_bwd, self.op, self.op_bwd = schema.name, schema.name_bwd, schema.op, schema.op_bwd
        self.num_tensors, self.differentiable, self.saved = schema.num_tensors, schema.differentiable, schema.saved
        self.returned = schema.returned
        self.reference, self.views, self.adds = reference or schema.name, views, adds
        self.allocate, self._forward, self._backward = allocate, forward, backward
        self.maps = set(range(views)) if views else {self.tensors.index(name) for name in maps}
        _implement(self.name, self.run_forward, self._fake_forward)
        _implement(self.name_bwd, self.run_backward, self._fake_backward)
        self._function, backward = autograd.functions(self)
        eager = autograd.eager(self, backward)
        self._apply = super(torch.autograd.Function, eager).apply  # the C apply: a quarter of the overhead
        OPERATORS[self.name] = self

    def call(self, tensors: Sequence[Tensor | None], options: Mapping, both: bool | tuple[int, ...] = True) -> Call:
        """The call with these tensors and options, named as in the public function."""
        return Call(self, self.schema.arguments(tensors, options), both)

    def __call__(self, *args):
        """The outputs for the caller, one alone without a tuple; None for one that is not wanted."""
        if torch.compiler.is_compiling():
            if torch._C._are_functorch_transforms_active():
                torch._dynamo.graph_break()  # the compiler would lose the gradient of a transform
            return self.first(self._function.apply(*args) if self.wants_grad(args) else self.op(*args))
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
            return self.first(self._function.apply(*args))  # raises on a dual number, whose tangent would be lost
        return self.run(None if watched() else self.describe(args), args, self.wants_grad(args))

    def describe(self, args: Sequence) -> tuple | None:
        return describe(self.name, args)

    def run(self, key: tuple | None, args: Sequence, wants_grad: bool):
        """Call the operator outside the compiler and functorch's transforms; `key` is the description of the call."""
        if wants_grad:
            return self._apply(key, *args)
        return self.first(self.op(*args) if key is None else self._outputs(args, key))

    def wants_grad(self, args: Sequence) -> bool:
        return _requires_grad(args[: self.num_tensors])

    def first(self, outputs):
        """Those for the caller of all outputs, as the operator returns them or in a list."""
        if not isinstance(outputs, tuple | list):
            return outputs
        return outputs[0] if self.returned == 1 else tuple(outputs[: self.returned])

    def chosen(self, outputs, both: bool | tuple[int, ...]):
        """y alone, all outputs for the caller, or those of some places."""
        if isinstance(both, tuple):
            return tuple(outputs[i] for i in both)
        return outputs if both or self.returned == 1 else outputs[0]

    def run_forward(self, *args):
        """Allocate and fill the outputs, on a native copy of the map where it is not native itself."""
        return _unpacked(self._outputs(args, describe(f"{self.name} complete", args), complete=True))

    def _outputs(self, args: Sequence, key: tuple | None, complete: bool = False) -> list[Tensor | None]:
        """All that the schema returns; None for each output that nobody wants, unless they are to be complete."""
        given = args[: self.num_tensors]
        if (outputs := repeated(key, given)) is not None:
            return outputs

        return perform(key, given, lambda run: self.forward_by(run, args, complete))

    def forward_by(self, run: Run, args: Sequence, complete: bool = False) -> list[Tensor | None]:
        """What the forward does, through `run`: its outputs."""
        tensors, options = self._named(args)
        native_tensors = self._native(run, tensors)
        made = self.allocate(native_tensors, options)
        made = [t if t.shape == UNWANTED and not complete else run.empty(t) for t in made]
        self._forward(run, self.schema.Outputs(*made), native_tensors, options)
        if native_tensors[0] is not tensors[0]:
            expected = self.allocate(tensors, options)
            made = [_in_strides_of(run, e, o) for e, o in zip(expected, made, strict=True)]
        return [o if complete or o.shape != UNWANTED else None for o in made]

    def run_backward(self, *arguments):
        return _unpacked(self._gradients(arguments, describe(f"{self.name_bwd} complete", arguments), complete=True))

    def _gradients(self, arguments: Sequence, key: tuple | None, complete: bool = False) -> list[Tensor | None]:
        """One per tensor argument of the forward; None where it is not needed, unless they are to be complete."""
        given = arguments[: self.differentiable + len(self.saved) + self.num_tensors]
        if (grads := repeated(key, given)) is not None:
            return grads

        def work(run: Run) -> list[Tensor | None]:
            douts, saved, args, needs = self._backward_arguments(arguments)
            given_tensors, options = self._named(args)
            tensors = self._native(run, given_tensors)
            x_native = tensors[0]
            saved = self.schema.Saved(*[_as_made(run, s, x_native) for s in saved])
            dy, *others = douts
            if dy is None:
                y = self.allocate(tensors, options)[0]
                dy = run.call(_zeros, x_native, y.shape, y.stride())
            elif not self.views:
                dy = run.native(dy, x_native)
            others = [None if d is None or d.numel() == 0 else run.laid(Tensor.contiguous, d) for d in others]
            grads = self._empty_grads(tensors, needs)
            for grad in grads:
                if grad is not None:
                    run.empty(grad)
            self._backward(run, self.schema.Tensors(*grads), (dy, *others), saved, tensors, options)
            for i in self.maps:
                if tensors[i] is not given_tensors[i] and needs[i]:
                    grads[i] = _in_strides_of(run, torch.empty_like(given_tensors[i]), grads[i])
            if not complete:
                return grads
            return [run.empty(x_native.new_empty(UNWANTED)) if g is None else g for g in grads]

        return perform(key, given, work)

    def _fake_forward(self, *args):
        return _unpacked(self.allocate(*self._named(args)))

    def _fake_backward(self, *arguments):
        _, _, args, needs = self._backward_arguments(arguments)
        return _unpacked(_complete(self._empty_grads(args[: self.num_tensors], needs), args[0]))

    def _named(self, args: Sequence) -> tuple[Any, Any]:
        """The operator's arguments as the values that `allocate`, `forward` and `backward` take."""
        tensors, options = self.schema.named(args)
        return tensors, options._replace(**{o: activation(*getattr(options, o)) for o in self.schema.activations})

    def _native(self, run: Run, tensors: Sequence[Tensor | None]) -> Any:
        """The tensors as kernels get them: views as they lie, a feature map native, parameters contiguous."""
        return self.schema.Tensors(
            *(
                t if t is None or i < self.views else run.laid(native if i in self.maps else Tensor.contiguous, t)
                for i, t in enumerate(tensors)
            )
        )

    def _backward_arguments(self, arguments: Sequence):
        """douts, saved, the arguments of the forward, needs"""
        first, last = self.differentiable, self.differentiable + len(self.saved)
        return arguments[:first], arguments[first:last], arguments[last:-1], arguments[-1]

    def _empty_grads(self, tensors: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor | None]:
        """A map's gradient lies as the map; a parameter's is contiguous; None for one that is not needed."""
        formats = (
            torch.preserve_format if i in self.maps else torch.contiguous_format for i in range(self.num_tensors)
        )
        return [
            torch.empty_like(t, memory_format=f) if n else None for t, n, f in zip(tensors, needs, formats, strict=True)
        ]


def needs_grad(tensors: Sequence[Tensor | None]) -> bool:
    """Whether a gradient may be wanted; inside a functorch transform a tensor does not show it."""
    if torch._C._are_functorch_transforms_active():
        return True
    return _requires_grad(tensors)


def _requires_grad(tensors: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _as_made(run: Run, saved: Tensor, x: Tensor) -> Tensor:
    """What was saved, as the forward laid it out: a hook may have handed back other strides of the same values."""
    if saved.shape != x.shape:
        return run.laid(Tensor.contiguous, saved)
    return _in_strides_of(run, torch.empty_like(x, dtype=saved.dtype), saved)


def _in_strides_of(run: Run, expected: Tensor, value: Tensor) -> Tensor:
    return value if value.stride() == expected.stride() else run.call(_copied, expected.shape, expected.stride(), value)


def _zeros(like: Tensor, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
    return like.new_empty_strided(shape, stride).zero_()


def _copied(shape: Sequence[int], stride: Sequence[int], value: Tensor) -> Tensor:
    return value.new_empty_strided(shape, stride).copy_(value)


def _unpacked(tensors: Sequence[Tensor]):
    return tuple(tensors) if len(tensors) > 1 else tensors[0]


def _implement(name: str, implementation: Callable, fake: Callable) -> None:
    for key in ("CUDA", "CPU"):
        library.impl(name, implementation, key)
    torch.library.register_fake(f"{library.ns}::{name}", fake, lib=library)


def _complete(grads: Sequence[Tensor | None], x: Tensor) -> list[Tensor]:
    return [x.new_empty(UNWANTED) if g is None else g for g in grads]
