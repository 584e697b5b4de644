"""An accelerated gate never raises where the module's own forward does not: whatever dtypes and classes meet in it."""

import itertools

import pytest
import torch
from gates import each_kind, make, make_map
from torch import nn

import segattn_triton as sat

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def outcome(module: nn.Module, x: torch.Tensor, autocast: bool):
    """What the module returns, or the error that it raises."""
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return module(x)
    except (RuntimeError, TypeError, ValueError) as error:
        return error


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@each_kind
def test_dtypes_that_the_module_takes(kind, autocast):
    """Every dtype of the weights beside every dtype of the map; and one layer in another dtype than the other."""
    for weights, first, given in itertools.product(DTYPES, (None, torch.float32), DTYPES):
        plain = make(kind).to(weights)
        layer = next(m for m in plain.modules() if not list(m.children()) and list(m.parameters()))
        layer.to(first or weights)
        expected = outcome(plain, make_map().to(given), autocast)
        got = outcome(sat.accelerate(plain), make_map().to(given), autocast)
        case = f"weights {weights}, first layer {first}, map {given}"
        if isinstance(expected, Exception):
            continue
        assert isinstance(got, torch.Tensor), f"{case}: {got!r}"
        if weights == given and (not autocast or given != torch.float16):  # of autocast in bfloat16
            assert got.dtype == expected.dtype, case
        tolerance = 3e-2 if torch.bfloat16 in (weights, given) or autocast else 4e-3
        torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance, msg=case)


class Quantised(torch.Tensor):
    """Stands for a weight that a library has replaced by a tensor of its own class: it answers torch's calls only."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", "").startswith("segattn_triton"):
            raise TypeError("no kernel of this package knows this tensor")
        return super().__torch_function__(func, types, args, kwargs)


@each_kind
def test_weights_that_became_another_class(kind, monkeypatch):
    """After accelerate, as quantisation and sharding do it: the own forward runs, on the new weight."""
    gate, x = sat.accelerate(make(kind)), make_map()
    expected = make(kind)(x)
    torch.testing.assert_close(gate(x), expected)
    monkeypatch.setattr("segattn_triton._swap._run", lambda *_, **__: pytest.fail("a kernel got the weight"))
    for module in gate.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                weight = nn.Parameter(parameter.detach().as_subclass(Quantised), requires_grad=False)
                module._parameters[name] = weight
    torch.testing.assert_close(gate(x).as_subclass(torch.Tensor), expected)
