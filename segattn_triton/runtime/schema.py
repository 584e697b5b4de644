"""What a schema is: the operators of one operation and of its backward, defined for torch."""

import ast
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

# a build of the Kernel Hub is loaded under a name of its own, so that several can be in one process
_PACKAGE = __package__.partition(".")[0]
library = torch.library.Library("segattn" if _PACKAGE == "segattn_triton" else _PACKAGE, "DEF")


class Schema:
    """One operation and its backward.

    tensors    names of the tensor arguments, the feature map first; a trailing "?" marks an optional one
    options    schema of the arguments after them: "str gate, float gate_a"; one that a saved program has not, with its
               value there: "int dilation=1"; an int of such a program is a list of "int[1] dilation"
    outputs    names of the outputs: first y, then the map, then what the backward wants saved
    flops      the formula of `segattn_triton.flops`: (shapes of the tensors, options) -> forward, backward
    differentiable  how many outputs have a gradient: y and the map
    returned        how many are for the caller: those, and after them some without a gradient
    saved           the outputs that the backward wants; those after the differentiable ones
    """

    def __init__(
        self,
        name: str,
        *,
        tensors: Sequence[str],
        options: str,
        outputs: Sequence[str],
        flops: Callable,
        differentiable: int = 2,
        saved: Sequence[str] | None = None,
        returned: int | None = None,
    ):
        self.name, self.name_bwd = name, f"{name}_bwd"
        self.tensors, self.num_tensors = [t.removesuffix("?") for t in tensors], len(tensors)
        typed_options = options.split(", ") if options else []
        bare = [o.partition("=")[0] for o in typed_options]
        self.flat, self.outputs = [o.split()[1] for o in bare], list(outputs)
        self.defaults = [ast.literal_eval(o.partition("=")[2]) for o in typed_options if "=" in o]
        self.activations = [o for o in self.flat if f"{o}_a" in self.flat]
        self.options = [o for o in self.flat if o[:-2] not in self.activations]
        self.differentiable, self.returned = differentiable, returned or differentiable
        self.saved = list(outputs[differentiable:] if saved is None else saved)
        typed = [f"Tensor? {t[:-1]}" if t.endswith("?") else f"Tensor {t}" for t in tensors]
        results = ", ".join(f"Tensor {o}" for o in outputs)
        self.op = _define(name, f"({', '.join([*typed, *typed_options])}) -> ({results})")
        douts = [f"Tensor? d{o}" for o in outputs[:differentiable]]
        made = [f"Tensor saved_{o}" for o in self.saved]
        grads = ", ".join(["Tensor"] * self.num_tensors)
        grads = f"({grads})" if self.num_tensors > 1 else grads
        arguments = ", ".join([*douts, *made, *typed, *bare, "bool[] needs"])
        self.op_bwd = _define(self.name_bwd, f"({arguments}) -> {grads}")
        self.flops = flops
        self.Tensors, self.Options = namedtuple("Tensors", self.tensors), namedtuple("Options", self.options)
        self.Outputs, self.Saved = namedtuple("Outputs", self.outputs), namedtuple("Saved", self.saved)

    def arguments(self, tensors: Sequence, options: Mapping[str, Any]) -> tuple:
        """What the operator takes, of tensors and options by their public names."""
        if options.keys() != set(self.options):
            raise TypeError(f"{self.name}: got the options {', '.join(options)}, expected {', '.join(self.options)}")
        spread = [options[o] if o in self.activations else (options[o],) for o in self.options]
        return (*tensors, *[value for values in spread for value in values])

    def named(self, arguments: Sequence) -> tuple[Any, Any]:
        """The reverse: (tensors, options), each a value by public names; an activation is (name, a, b)."""
        given = arguments[self.num_tensors :]  # torch drops the last of them where they are defaults
        rest = iter((*given, *self.defaults[len(self.defaults) - len(self.flat) + len(given) :]))
        values = [(next(rest), next(rest), next(rest)) if o in self.activations else next(rest) for o in self.options]
        return self.Tensors(*arguments[: self.num_tensors]), self.Options(*values)


def _define(name: str, schema: str) -> torch._ops.OpOverload:
    # flexible_layout: a compiled network hands over the layout it computes in, without a copy to the eager one
    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout))
    return getattr(getattr(torch.ops, library.ns), name).default
