"""A process that calls operations for the first time in some mode of torch, and trains afterwards.

python first_use_worker.py MODE ROW...: raises where training then differs from the reference.
"""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from segattn_triton.catalog import BY_NAME, Op
from segattn_triton.testing import make_inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def problem(row: Op) -> list[Tensor]:
    sizes = {"N": row.fewest, "C": 4, "S": (max(4, row.smallest),) * 2, "Cr": 2}
    return make_inputs(row, sizes, torch.float32, device=DEVICE)


def call(row: Op, *inputs: Tensor) -> Tensor:
    return row.op(*inputs, backend="triton")


def train(row: Op, *inputs: Tensor) -> list[Tensor]:
    """The gradients of every input, of all outputs."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    outputs = row.op(*leaves, backend="triton", **row.both)
    return [*torch.autograd.grad(sum(o.float().square().sum() for o in outputs), leaves)]


class Gate(nn.Module):
    def __init__(self, row: Op):
        super().__init__()
        self.row = row

    def forward(self, *inputs: Tensor) -> Tensor:
        return call(self.row, *inputs)


class Passing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class PassingFunctions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def switched(switch: Callable, on, off):
    switch(on)
    try:
        yield
    finally:
        switch(off)


def inside(mode: Callable, use: Callable) -> Callable:
    def first(row: Op, *inputs: Tensor) -> None:
        with mode():
            use(row, *inputs)

    return first


def refused(use: Callable) -> Callable:
    """What torch or the operators refuse, and say so: it leaves nothing behind either."""

    def first(row: Op, *inputs: Tensor) -> None:
        with contextlib.suppress(Exception):
            use(row, *inputs)

    return first


def to_meta(row: Op, *inputs: Tensor) -> None:
    train(row, *(t.to("meta") for t in inputs))


def fake(row: Op, *inputs: Tensor) -> None:
    with FakeTensorMode() as mode:
        train(row, *map(mode.from_tensor, inputs))


def func_grad(row: Op, x: Tensor, *others: Tensor) -> None:
    torch.func.grad(lambda x: call(row, x, *others).sum())(x)


def vmap(row: Op, x: Tensor, *others: Tensor) -> None:
    torch.func.vmap(lambda x: call(row, x, *others))(x[None])


def forward_mode(row: Op, x: Tensor, *others: Tensor) -> None:
    torch.func.jvp(lambda x: call(row, x, *others), (x,), (x,))


def functionalize(row: Op, *inputs: Tensor) -> None:
    torch.func.functionalize(lambda *inputs: call(row, *inputs))(*inputs)


def batched_backward(row: Op, x: Tensor, *others: Tensor) -> None:
    x.requires_grad_()
    y = call(row, x, *others)
    torch.autograd.grad(y, x, torch.ones(2, *y.shape, device=DEVICE), is_grads_batched=True)


def export(row: Op, *inputs: Tensor) -> None:
    torch.export.export(Gate(row), inputs, strict=False)


def export_strict(row: Op, *inputs: Tensor) -> None:
    torch.export.export(Gate(row), inputs, strict=True)


def traced(row: Op, *inputs: Tensor) -> None:
    make_fx(lambda *inputs: train(row, *inputs))(*inputs)


def jit_traced(row: Op, *inputs: Tensor) -> None:
    torch.jit.trace(Gate(row), inputs, check_trace=False)


def compiled(row: Op, *inputs: Tensor) -> None:
    gate = torch.compile(lambda *inputs: call(row, *inputs), backend="aot_eager")
    leaves = [t.requires_grad_() for t in inputs]
    torch.autograd.grad(gate(*leaves).sum(), leaves)


def compiled_backward(row: Op, *inputs: Tensor) -> None:
    with compiled_autograd._enable(functools.partial(torch.compile, backend="eager")):
        leaves = [t.requires_grad_() for t in inputs]
        call(row, *leaves).sum().backward()


def checkpointed(row: Op, *inputs: Tensor) -> None:
    leaves = [t.requires_grad_() for t in inputs]
    checkpoint(lambda *inputs: call(row, *inputs), *leaves, use_reentrant=False).sum().backward()


def threaded(row: Op, *inputs: Tensor) -> None:
    thread = threading.Thread(target=train, args=(row, *inputs))
    thread.start()
    thread.join()


deterministic = functools.partial(switched, torch.use_deterministic_algorithms, True, False)
MODES = {
    "none": train,
    "inference_mode": inside(torch.inference_mode, call),
    "no_grad": inside(torch.no_grad, call),
    "autocast": inside(lambda: torch.autocast(DEVICE, torch.bfloat16), train),
    "default_dtype": inside(functools.partial(switched, torch.set_default_dtype, torch.float64, torch.float32), train),
    "default_device": inside(functools.partial(switched, torch.set_default_device, "meta", None), train),
    "device_context": inside(lambda: torch.device("meta"), train),
    "meta_tensors": to_meta,
    "fake_tensors": fake,
    "deterministic": inside(deterministic, train),
    "matmul_precision": inside(
        functools.partial(switched, torch.set_float32_matmul_precision, "medium", "highest"), train
    ),
    "anomaly": inside(lambda: torch.autograd.detect_anomaly(check_nan=False), train),
    "saved_on_cpu": inside(torch.autograd.graph.save_on_cpu, train),
    "profiler": inside(torch.profiler.profile, train),
    "flop_counter": inside(lambda: FlopCounterMode(display=False), train),
    "dispatch_mode": inside(Passing, train),
    "function_mode": inside(PassingFunctions, train),
    "func_grad": func_grad,
    "vmap": vmap,
    "forward_mode": refused(forward_mode),
    "functionalize": refused(functionalize),
    "batched_backward": batched_backward,
    "export": export,
    "export_strict": export_strict,
    "make_fx": traced,
    "jit_trace": refused(jit_traced),
    "compile": compiled,
    "compiled_autograd": compiled_backward,
    "checkpoint": checkpointed,
    "thread": threaded,
}


def main(mode: str, *names: str) -> None:
    rows = [BY_NAME[name] for name in names]
    for row in rows:
        MODES[mode](row, *problem(row))
    for row in rows:
        leaves = [t.requires_grad_() for t in problem(row)]
        outputs = row.reference(*leaves, **row.both)
        expected = torch.autograd.grad(sum(o.square().sum() for o in outputs), leaves)
        for got, wanted in zip(train(row, *leaves), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4, msg=lambda m, row=row: f"{row.name}: {m}")


if __name__ == "__main__":
    main(*sys.argv[1:])
