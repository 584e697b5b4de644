"""What is saved for a backward has values, not a layout; and what a first call leaves behind knows no mode."""

import subprocess
import sys
import textwrap

import pytest
import torch
from support import DEVICE, assert_equal, each_row, problem

LAYOUTS = {
    "every other element": lambda t: torch.stack([t, t], -1)[..., 0],
    "last axis first": lambda t: t.movedim(-1, 0).contiguous().movedim(0, -1) if t.dim() else t,
    "a copy": lambda t: t.clone(memory_format=torch.contiguous_format),
}


def gradients(row, unpack, layout="contiguous"):
    inputs = [t.requires_grad_() for t in problem(row, layout=layout)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), unpack):
        outputs = row.op(*inputs, backend="triton", **row.both)
    douts = [torch.randn(o.shape, generator=torch.Generator().manual_seed(3)).to(o) for o in outputs]
    return torch.autograd.grad(outputs, inputs, douts)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("how", LAYOUTS)
@each_row
def test_saved_tensors_come_back_in_other_strides(row, how, layout):
    """As from an offloading or compressing hook: the same gradients within their accuracy."""
    plain, changed = gradients(row, lambda t: t, layout), gradients(row, LAYOUTS[how], layout)
    for got, expected in zip(changed, plain, strict=True):
        assert got.stride() == expected.stride() or got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@each_row
def test_one_empty_tensor_in_several_places(row):
    """A later call with several empty tensors has all of its gradients."""
    empty = [
        t[:0].detach() if name in row.maps else t
        for name, t in zip(row.shapes({"N": 2, "C": 5, "S": (5, 6), "Cr": 2}), problem(row), strict=True)
    ]
    shared = {t.shape: t for t in empty}
    for one in (False, True, False, True):
        inputs = [(shared[t.shape] if one else t.clone()).detach().requires_grad_() for t in empty]
        if one:
            same = {t.shape: t for t in inputs}
            inputs = [same[t.shape] for t in inputs]
        y = row.op(*inputs, backend="triton")
        for t, g in zip(inputs, torch.autograd.grad(y.sum(), inputs), strict=True):
            assert g.shape == t.shape


@each_row
def test_several_gradients_at_once(row):
    """autograd.grad(is_grads_batched=True), as Jacobians are computed, is one gradient after the other."""
    inputs = [t.requires_grad_() for t in problem(row)]
    y = row.op(*inputs, backend="triton")
    dys = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(5)).to(y)
    together = torch.autograd.grad(y, inputs, dys, is_grads_batched=True, retain_graph=True)
    for i, dy in enumerate(dys):
        for got, expected in zip(together, torch.autograd.grad(y, inputs, dy, retain_graph=True), strict=True):
            assert_equal(got[i], expected)


FIRST = {  # how the first call of a process is made
    "inference": "with torch.inference_mode(): row.op(*inputs, backend='triton')",
    "no_grad": "with torch.no_grad(): row.op(*inputs, backend='triton')",
    "default_dtype": "torch.set_default_dtype(torch.float64); row.op(*inputs, backend='triton'); "
    "torch.set_default_dtype(torch.float32)",
    "device": "with torch.device('meta'): row.op(*[t.to('meta') for t in inputs], backend='triton')",
    "autocast": "with torch.autocast('cpu', torch.bfloat16): row.op(*inputs, backend='triton')",
    "grad": "torch.func.grad(lambda x: row.op(x, *inputs[1:], backend='triton').sum())(inputs[0])",
    "vmap": "torch.func.vmap(lambda x: row.op(x, *inputs[1:], backend='triton'))(inputs[0][None])",
    "fake": "with FakeTensorMode(allow_non_fake_inputs=True) as m: "
    "row.op(*[m.from_tensor(t) for t in inputs], backend='triton')",
    "export": "torch.export.export(Module(row), tuple(inputs), strict=False)",
    "deterministic": "torch.use_deterministic_algorithms(True); row.op(*inputs, backend='triton'); "
    "torch.use_deterministic_algorithms(False)",
}
SCRIPT = """
    import os
    os.environ["TRITON_INTERPRET"] = "{interpret}"
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from segattn_triton.catalog import OPS
    from segattn_triton.testing import make_inputs

    class Module(torch.nn.Module):
        def __init__(self, row):
            super().__init__()
            self.op = row.op
        def forward(self, *inputs):
            return self.op(*inputs, backend="triton")

    for row in OPS:
        sizes = dict(N=1, C=4, S=(max(4, row.smallest),) * 2, Cr=2)
        inputs = make_inputs(row, sizes, torch.float32, device="{device}")
        {first}
    for row in OPS:
        sizes = dict(N=1, C=4, S=(max(4, row.smallest),) * 2, Cr=2)
        leaves = [t.requires_grad_() for t in make_inputs(row, sizes, torch.float32, device="{device}")]
        grads = []
        for f, more in ((row.op, dict(backend="triton")), (row.reference, dict())):
            grads.append(torch.autograd.grad(f(*leaves, **more).square().sum(), leaves))
        for got, expected in zip(*grads):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4, msg=lambda m: row.name + m)
"""


@pytest.mark.parametrize("first", FIRST)
def test_a_first_use_leaves_no_mode_behind(first):
    """Training after a first call in a mode, for every operation, in a fresh process."""
    script = textwrap.dedent(SCRIPT).format(first=FIRST[first], device=DEVICE, interpret=int(DEVICE == "cpu"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
