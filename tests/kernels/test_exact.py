"""Where every intermediate is a short dyadic rational, kernels equal the exact result, rounded once: zero tolerance.

Integers, sizes that are powers of two and gates with dyadic constants make sums exact in any order. With weights that
cancel in pairs of equal channels z is exactly 0: the sigmoid is 1/2, its derivative 1/4.
"""

import pytest
import torch
import triton
import triton.language as tl
from support import DEVICE, GATES, assert_equal, option_sets, outputs_and_gradients, problem

from segattn_triton.catalog import BY_NAME
from segattn_triton.kernels.channel import apply
from segattn_triton.kernels.common.tile import store_tile
from segattn_triton.kernels.pixel import backward as pixel_backward
from segattn_triton.kernels.pixel import forward as pixel_forward
from segattn_triton.kernels.stencil import backward as stencil_backward
from segattn_triton.kernels.stencil import forward as stencil_forward
from segattn_triton.testing import matches

DYADIC = {
    "gate": ["identity", "relu", ("hard_sigmoid", 0.25, 0.5)],
    "act": ["relu", "identity", ("leaky_relu", 0.5, 0.0)],
}


def integers(row, S, seed: int) -> list[torch.Tensor]:
    """Small integers, few enough that no sum needs more than 24 bits."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [t.shape for t in problem(row, S=S, C=4, Cr=2)]
    x, *parameters = [torch.randint(-2, 3, shape, generator=generator).float().to(DEVICE) for shape in shapes]
    return [x, *(p.sign() for p in parameters)]


def cancelling(row, S, seed: int) -> list[torch.Tensor]:
    """Pairs of equal channels with opposite weights, no bias: z = 0 everywhere, and no gradient vanishes by it."""
    x, *parameters = integers(row, S, seed)
    x = x[:, :2].repeat_interleave(2, 1)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], device=DEVICE)
    paired = []
    for p in parameters:
        over_channels = p.dim() > 1 and p.shape[1] == 4
        paired.append(p * 0 + 2.0 * signs.reshape(1, 4, *[1] * (p.dim() - 2)) if over_channels else torch.zeros_like(p))
    return [x, *paired]


def cases():
    for row in GATES:
        # products of two gates need more bits than float32 has, and a norm divides by a root, which is no dyadic number
        inexact = row.gates > 1 or row.over_batch or "ln_weight" in row.inputs
        for options in () if inexact else option_sets(row):
            if not set(options) & {"gate", "act", "ties", "align_corners"}:  # by corners shares are no dyadic numbers
                for gate in DYADIC["gate"]:
                    yield row, {**options, "gate": gate}, integers
        if inexact and not row.parameters:
            for gate in DYADIC["gate"]:
                yield row, {"combine": "sum", "gate": gate}, integers
        for act in DYADIC["act"] if "act" in row.options and not inexact else ():
            yield row, {"act": act, "gate": "identity"}, integers
        if row.parameters:
            yield row, {}, cancelling


def label(row, options, inputs) -> str:
    return "-".join([row.name, inputs.__name__, *(str(v[0] if isinstance(v, tuple) else v) for v in options.values())])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("row", "options", "inputs"), [pytest.param(*case, id=label(*case)) for case in cases()])
def test_exact(row, options, inputs, dtype):
    averages = row.outputs["map"] == row.outputs["y"] and row.defaults.get("pool") == "avg"
    S = (2, 2) if averages and "pool" not in options else (4, 8)  # windows of 4 values, not of 6 and 9
    values = inputs(row, S, seed=len(options))
    generator = torch.Generator().manual_seed(5)
    shapes = [o.shape for o in row.reference(*values, **row.both)]
    douts = [torch.randint(-2, 3, shape, generator=generator).float().to(DEVICE) for shape in shapes]

    def run(fn, wanted, **backend):
        return outputs_and_gradients(
            fn, [t.to(wanted) for t in values], [d.to(wanted) for d in douts], **options, **backend
        )

    exact = run(row.reference, torch.float64)
    for single, double in zip(run(row.reference, torch.float32), exact, strict=True):
        assert_equal(single.double(), double)  # the case itself is exact
    for got, want in zip(run(row.op, dtype, backend="triton"), exact, strict=True):
        assert_equal(got, want.to(dtype))


@triton.jit
def store_with_a_term_more(ptr, stride, n, offs_c, offs_p, value, mask, LAYOUT: tl.constexpr):
    store_tile(ptr, stride, n, offs_c, offs_p, value + value * 1.1920929e-07, mask, LAYOUT)  # 2^-23 of it


FAMILIES = [
    (pixel_forward, "spatial_gate"),
    (pixel_backward, "spatial_gate"),
    (apply, "channel_gate"),
    (stencil_forward, "local_gate_depthwise"),
    (stencil_backward, "local_gate_depthwise"),
]


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("family", "name"), [pytest.param(*each, id=each[0].__name__.partition("kernels.")[2]) for each in FAMILIES]
)
def test_a_term_that_the_budget_forgives_is_found(family, name, monkeypatch):
    """In each family: a wrong term of a rounding's size is within the tolerance, and not exact."""
    row = BY_NAME[name]
    monkeypatch.setattr(family, "store_tile", store_with_a_term_more)
    assert all(match.ok for match in matches(row, *problem(row), **row.both))
    with pytest.raises(AssertionError):
        test_exact(row, {"gate": "identity"}, integers, torch.float32)


def test_every_gate_has_an_exact_case():
    assert {row.name for row in GATES} == {row.name for row, _, _ in cases()}
