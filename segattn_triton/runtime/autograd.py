"""The autograd functions of an operator, whose `op` is a `DifferentiableOp` (see `operator`).

Above the forward stands one for the compiler and functorch's transforms, and one for eager calls, which may pass
torch's dispatcher by. The backward is called through a function of its own, whose backward raises: without it a double
backward would be silently zero.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .description import describe

UNWANTED = (0,)  # the shape of an output that an operator has to have and nobody wants


def watched() -> bool:
    """Whether something else wants to see each call, a mode or the profiler. Otherwise the dispatcher may be passed
    by, which takes as long as a small kernel."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._autograd._profiler_enabled()


def packed(tensors: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tensors if isinstance(tensors, tuple) else (tensors,)


def functions(op: Any) -> tuple[type[torch.autograd.Function], type[torch.autograd.Function]]:
    """What the compiler and functorch's transforms see: the forward's function, and the backward's."""
    # the classes close over plain values and operators: torch.compile cannot trace through `op`
    name, run, run_bwd, num, differentiable = op.name, op.op, op.op_bwd, op.num_tensors, op.differentiable
    saved, added_by = [op.outputs.index(s) for s in op.saved], _added_by(op)

    class Backward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args):
            return run_bwd(*args)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, *grads):
            raise RuntimeError(
                f"{name}: the gradient of a gradient is not implemented by the Triton kernels; "
                'call with backend="reference" for double backward'
            )

    class Forward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args):
            return run(*args)

        @staticmethod
        def setup_context(ctx, inputs, output):
            outputs = output if isinstance(output, tuple) else (output,)
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*outputs[differentiable:])
            ctx.save_for_backward(*(outputs[i] for i in saved), *inputs[:num])
            ctx.options = inputs[num:]

        @staticmethod
        def backward(ctx, *douts):
            added = added_by(ctx.options)
            needs = [bool(n) and i != added for i, n in enumerate(ctx.needs_input_grad[:num])]
            grads = [None] * num
            if any(needs):
                args = (*douts[:differentiable], *ctx.saved_tensors, *ctx.options, needs)
                # a compiled graph raises on a second derivative by itself
                grads = packed(run_bwd(*args) if torch.compiler.is_compiling() else Backward.apply(*args))
            wanted = [g if n else None for g, n in zip(grads, needs, strict=True)]
            if added is not None and ctx.needs_input_grad[added]:
                wanted[added] = douts[0]
            return (*wanted, *[None] * len(ctx.options))

    return Forward, Backward


def _added_by(op: Any) -> Callable[[Sequence], int | None]:
    """Of the operator's options: the place of the tensor whose gradient is dy itself."""
    if op.adds is None:
        return lambda options: None
    tensor, option, value = op.adds
    added, place = op.tensors.index(tensor), op.schema.flat.index(option)
    return lambda options: added if options[place] == value else None


def eager(op: Any, second: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """The function outside the compiler and functorch's transforms; `second` computes gradients that have none."""
    num, differentiable = op.num_tensors, op.differentiable
    saved, added_by = [op.outputs.index(s) for s in op.saved], _added_by(op)

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx, key, *args):
            outputs = op._outputs(args, key) if key is not None else packed(op.op(*args))
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(
                *[args[0].new_empty(UNWANTED) if outputs[i] is None else outputs[i] for i in saved], *args[:num]
            )
            ctx.mark_non_differentiable(*(o for o in outputs[differentiable : op.returned] if o is not None))
            ctx.options = args[num:]
            return op.first(outputs)

        @staticmethod
        def backward(ctx, *douts):
            added = added_by(ctx.options)
            needs = [n and i != added for i, n in enumerate(ctx.needs_input_grad[1 : num + 1])]
            args = (*douts[:differentiable], *ctx.saved_tensors, *ctx.options, needs)
            if not any(needs):
                grads = [None] * num
            elif torch.compiler.is_compiling():  # compiled autograd traces this, and raises by itself
                grads = packed(op.op_bwd(*args))
            else:
                transformed = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
                key = None if transformed or watched() else describe(op.name_bwd, args)
                grads = packed(second.apply(*args)) if key is None else op._gradients(args, key)
            wanted = [g if n else None for g, n in zip(grads, needs, strict=True)]
            if added is not None and ctx.needs_input_grad[added + 1]:
                wanted[added] = douts[0]
            return None, *wanted, *[None] * len(ctx.options)

    return Eager
