"""Under autocast a gate returns x's dtype and computes as without it: it has no matrix product worth a cast."""

import pytest
import torch
from support import DEVICE, assert_equal, beside, each_gate_module, each_row, module_of, outputs_and_gradients, problem

from segattn_triton.testing import make_map

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@each_dtype
@each_row
def test_functions(row, dtype, backend):
    """Whatever autocast would choose; parameters in float32, as a trainer keeps them."""
    inputs = problem(row, dtype=dtype, param_dtype=torch.float32)
    plain = outputs_and_gradients(row.op, inputs, backend=backend)
    autocast = torch.autocast(DEVICE, torch.bfloat16)
    runs = [outputs_and_gradients(autocast(row.op), inputs, backend=backend)]  # as torch advises, the backward outside
    if backend == "triton":  # the definition's gradients are torch's own
        runs += [autocast(outputs_and_gradients)(row.op, inputs, backend=backend) for _ in range(3)]  # planned, written
    for cast in runs:
        for got, expected in zip(cast, plain, strict=True):
            assert got.dtype == expected.dtype
            assert_equal(got, expected)
        assert cast[0].dtype == dtype


@pytest.mark.parametrize("hooked", [False, True])
@each_dtype
@each_gate_module
def test_modules(row, dtype, hooked):
    """A child that is called, because it carries a hook, may compute in autocast's dtype; y is in x's."""
    module = module_of(row, 4)
    for child in module.modules():
        if hooked and not list(child.children()):
            child.register_forward_hook(lambda *_: None)
    x = make_map((2, 4, 5, 6), "contiguous", torch.Generator().manual_seed(0), dtype, DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        y, gate_map = module(x, **beside(row, x), return_map=True)
    assert y.dtype == gate_map.dtype == dtype
    expected = module(x, **beside(row, x))
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)
