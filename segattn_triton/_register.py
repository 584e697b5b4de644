"""From a forward and a backward over plain tensors to a PyTorch operator: schemas, implementations, fakes, autograd.

`segattn::<name>` and `segattn::<name>_bwd` are two registered operators. Above the forward stands an
`autograd.Function`; the backward is called through its own, whose backward raises, because without it a double
backward would be silently zero.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from segattn_triton.kernels.tile import native

_library = torch.library.Library("segattn", "DEF")
OPS: dict[str, "DifferentiableOp"] = {}


class DifferentiableOp:
    """One operation.

    tensors    names of the tensor arguments, the feature map first; a trailing "?" marks an optional one
    options    schema of the arguments after them: "str gate, float gate_a"
    outputs    names of the outputs: first y, then the map, then what the backward wants saved
    allocate   (*arguments) -> the outputs, empty; an output that is not wanted has no elements
    forward    (outputs, *arguments) fills them
    backward   (grads, douts, saved, *arguments) fills `grads`, one per tensor argument, None where not needed;
               douts are dy and dmap (None if there is none)
    flops      (*arguments) -> forward FLOP, backward FLOP
    """

    def __init__(
        self,
        name: str,
        *,
        tensors: Sequence[str],
        options: str,
        outputs: Sequence[str],
        allocate: Callable,
        forward: Callable,
        backward: Callable,
    ):
        self.name, self.options = name, [o.split()[1] for o in options.split(", ")]
        self.tensors = [t.removesuffix("?") for t in tensors]
        self.outputs, self.num_tensors = list(outputs), len(tensors)
        self.allocate, self._forward, self._backward = allocate, forward, backward
        typed = [f"Tensor? {t[:-1]}" if t.endswith("?") else f"Tensor {t}" for t in tensors]
        saved = [f"Tensor {o}" for o in outputs[2:]]
        returned = ", ".join(f"Tensor {o}" for o in outputs)
        self.op = _define(name, f"({', '.join(typed)}, {options}) -> ({returned})", self.run_forward, allocate)
        douts, grads = ["Tensor? dy", "Tensor? dmap"], ", ".join(["Tensor"] * self.num_tensors)
        grads = f"({grads})" if self.num_tensors > 1 else grads
        self.op_bwd = _define(
            f"{name}_bwd",
            f"({', '.join([*douts, *saved, *typed])}, {options}, bool[] needs) -> {grads}",
            self.run_backward,
            self._fake_backward,
        )
        self._function = _function(self)
        self._apply = super(torch.autograd.Function, self._function).apply  # the C apply: a quarter of the overhead
        OPS[name] = self

    def __call__(self, *args):
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return self._function.apply(*args)
        if needs_grad(args[: self.num_tensors]):
            return self._apply(*args)
        return self.op(*args)

    def run_forward(self, *args):
        """Allocate and fill the outputs, on a native copy of the map where it is not native itself."""
        x, *params = args[: self.num_tensors]
        args_native = (native(x), *map(_contiguous, params), *args[self.num_tensors :])
        outputs = self.allocate(*args_native)
        self._forward(outputs, *args_native)
        if args_native[0] is x:
            return outputs
        return tuple(_in_strides_of(e, o) for e, o in zip(self.allocate(*args), outputs, strict=True))

    def run_backward(self, dy, dmap, *rest):
        num_saved = len(self.outputs) - 2
        saved, args, needs = rest[:num_saved], rest[num_saved:-1], rest[-1]
        x, *params = args[: self.num_tensors]
        x_native = native(x)
        args_native = (x_native, *map(_contiguous, params), *args[self.num_tensors :])
        dy = torch.zeros_like(x_native) if dy is None else native(dy, like=x_native)
        dmap = None if dmap is None or dmap.numel() == 0 else dmap.contiguous()
        grads = _empty_grads((x_native, *params), needs)
        self._backward([g if n else None for g, n in zip(grads, needs, strict=True)], (dy, dmap), saved, *args_native)
        if x_native is not x and needs[0]:
            grads[0] = _in_strides_of(torch.empty_like(x), grads[0])
        return tuple(grads) if self.num_tensors > 1 else grads[0]

    def _fake_backward(self, dy, dmap, *rest):
        num_saved = len(self.outputs) - 2
        grads = _empty_grads(rest[num_saved : num_saved + self.num_tensors], rest[-1])
        return tuple(grads) if self.num_tensors > 1 else grads[0]


def needs_grad(tensors: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def _in_strides_of(expected: Tensor, value: Tensor) -> Tensor:
    return value if value.stride() == expected.stride() else expected.copy_(value)


def _empty_grads(tensors: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor]:
    """The map's gradient lies as the map; a parameter's is contiguous; one that is not needed has no elements."""
    x = tensors[0]
    formats = [torch.preserve_format] + [torch.contiguous_format] * (len(tensors) - 1)
    return [
        torch.empty_like(t, memory_format=f) if n else x.new_empty(0)
        for t, n, f in zip(tensors, needs, formats, strict=True)
    ]


def _define(name: str, schema: str, implementation: Callable, fake: Callable):
    # flexible_layout: a compiled network hands over the layout it computes in, without a copy to the eager one
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout))
    for key in ("CUDA", "CPU"):
        _library.impl(name, implementation, key)
    torch.library.register_fake(f"segattn::{name}", fake, lib=_library)
    return getattr(torch.ops.segattn, name).default


def _function(op: DifferentiableOp) -> type[torch.autograd.Function]:
    num = op.num_tensors

    class Backward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args):
            return op.op_bwd(*args)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, *grads):
            raise RuntimeError(
                f"{op.name}: the gradient of a gradient is not implemented by the Triton kernels; "
                'call with backend="reference" for double backward'
            )

    class Forward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args):
            return op.op(*args)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*output[2:])
            ctx.save_for_backward(*output[2:], *inputs[:num])
            ctx.options = inputs[num:]

        @staticmethod
        def backward(ctx, dy, dmap, *_):
            needs = [bool(n) for n in ctx.needs_input_grad[:num]]
            grads = Backward.apply(dy, dmap, *ctx.saved_tensors, *ctx.options, needs)
            grads = grads if num > 1 else (grads,)
            wanted = (g if n else None for g, n in zip(grads, needs, strict=True))
            return (*wanted, *[None] * len(ctx.options))

    return Forward
