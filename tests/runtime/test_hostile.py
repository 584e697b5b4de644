"""Input that nobody should pass: each gives the documented error or the right answer, never a silently wrong one.

`HOSTILE` is the table: what is done to a valid call, and what must come of it. Every test records the property
("hostile", name), so that the tests that passed are the inputs tried.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support import (
    DEVICE,
    GATES,
    INTERPRETED,
    as_y,
    assert_right,
    each_gate,
    each_row,
    images_of_a_norm,
    names,
    outputs_and_gradients,
    problem,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from segattn_triton.catalog import ROWS

C, S = 4, (5, 6)
RIGHT, FORWARD, OUT_OF_BAND = "right", "right forward", "its own check"
OTHER_DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64),
    *(torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2),
)
Inputs = list[Tensor | None]


class Sub(Tensor):
    """A subclass without anything of its own."""


def replaced(inputs: Inputs, index: int, change: Callable) -> Inputs:
    """With one input changed."""
    return [change(t) if i == index else t for i, t in enumerate(inputs)]


def x_is(change: Callable) -> Callable:
    return lambda inputs: replaced(inputs, 0, change)


def maps_are(change: Callable) -> Callable:
    """Every map changed: x and what has its shape; of what stands for rows or columns as many as x then has."""

    def changed(inputs):
        x, first = inputs[0], change(inputs[0])
        strips = [t.dim() == x.dim() and t.shape[:2] == x.shape[:2] and 1 in t.shape[2:] for t in inputs]
        cut = tuple(slice(0, size) for size in first.shape)
        pairs = zip(inputs, strips, strict=True)
        return [change(t) if t.shape == x.shape else t[cut] if strip else t for t, strip in pairs]

    return changed


def parameter_is(change: Callable) -> Callable:
    """The first parameter changed; rows without parameters have no such case."""
    return lambda inputs: replaced(inputs, 1, change)


def every(change: Callable) -> Callable:
    return lambda inputs: [change(t) for t in inputs]


def quantized(t: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(t.cpu(), 0.1, 0, torch.qint8)


def nested(t: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor(list(t))


def csr(t: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return t[0, 0].to_sparse_csr()


def overlapping(t: Tensor) -> Tensor:
    """Rows that share all but one of their elements."""
    N, channels, H, W = t.shape
    return t.flatten()[: N + channels + H + W].as_strided(t.shape, (1, 1, 1, 1))


def far_apart(t: Tensor) -> Tensor:
    """Images further apart than an int32 offset reaches; the memory between them is never touched."""
    image, step = t[0].numel(), 2**31 + 8
    storage = torch.UntypedStorage((step * (len(t) - 1) + image) * t.element_size(), device=t.device)
    far = torch.empty(0, dtype=t.dtype, device=t.device).set_(storage, 0, t.shape, (step, *t[0].stride()))
    return far.copy_(t)


def unaligned(t: Tensor) -> Tensor:
    """Memory that starts at an odd byte: numpy and files make such tensors, and only on the CPU."""
    data = bytearray(t.numel() * t.element_size() + 1)
    odd = torch.frombuffer(data, dtype=t.dtype, offset=1).view(t.shape)
    return odd.copy_(t.cpu())


def with_value(value: float) -> Callable:
    def change(t: Tensor) -> Tensor:
        t = t.clone()
        t[0, 1, 2, t.shape[3] - 1] = value
        return t

    return change


HOSTILE: dict[str, tuple[Callable, object]] = {
    # ndim and sizes
    "x without axes": (x_is(lambda t: t[0, 0, 0, 0]), ValueError),
    "x with one axis": (x_is(lambda t: t[0, 0, 0]), ValueError),
    "x with two axes": (x_is(lambda t: t[:, :, 0, 0]), ValueError),
    "x with six axes": (x_is(lambda t: t[..., None, None]), ValueError),
    "x without channels": (x_is(lambda t: t[:, :0]), ValueError),
    "x without rows": (x_is(lambda t: t[:, :, :0]), ValueError),
    "x without columns": (x_is(lambda t: t[..., :0]), ValueError),
    "x without images": (x_is(lambda t: t[:0]), OUT_OF_BAND),
    "a channel more than the parameter": (x_is(lambda t: t[:, :1].expand(-1, C + 1, -1, -1)), ValueError),
    "a channel fewer than the parameter": (x_is(lambda t: t[:, : C - 1]), ValueError),
    "channels last, not permuted": (x_is(lambda t: t.movedim(1, -1)), ValueError),
    "a parameter with an axis too many": (parameter_is(lambda t: t[None]), ValueError),
    "a parameter with an axis too few": (parameter_is(lambda t: t[0]), ValueError),
    "a parameter of one value": (parameter_is(lambda t: t.flatten()[:1]), ValueError),
    "a parameter without values": (parameter_is(lambda t: t[:, :0]), ValueError),
    "a parameter of a 5 x 4 kernel": (parameter_is(lambda t: t.new_zeros(*t.shape[:2], 5, 4)), ValueError),
    "a parameter of a scalar": (parameter_is(lambda t: t.flatten()[0]), ValueError),
    # dtypes
    **{
        f"x in {str(dtype)[6:]}": (x_is(lambda t, dtype=dtype: t.to(dtype)), TypeError) for dtype in OTHER_DTYPES
    },
    "x quantized": (x_is(quantized), TypeError),
    "a parameter in int32": (parameter_is(lambda t: t.int()), TypeError),
    "a parameter in complex64": (parameter_is(lambda t: t.to(torch.complex64)), TypeError),
    "a parameter in float64": (parameter_is(Tensor.double), TypeError),
    "a parameter in float16": (parameter_is(Tensor.half), TypeError),
    "x in float16, a parameter in bfloat16": (lambda i: [i[0].half(), i[1].bfloat16(), *i[2:]], TypeError),
    "x in float16, parameters in float32": (maps_are(Tensor.half), RIGHT),
    # devices and layouts
    "a parameter on meta": (parameter_is(lambda t: t.to("meta")), ValueError),
    "x on meta": (x_is(lambda t: t.to("meta")), ValueError),
    "everything on meta": (every(lambda t: t.to("meta")), OUT_OF_BAND),
    "everything fake": (every(lambda t: t), OUT_OF_BAND),
    "x sparse": (x_is(Tensor.to_sparse), TypeError),
    "x in CSR": (x_is(csr), TypeError),
    "x nested": (x_is(nested), TypeError),
    "x in mkldnn's layout": (x_is(lambda t: t.cpu().to_mkldnn()), TypeError),
    "a parameter sparse": (parameter_is(Tensor.to_sparse), TypeError),
    # what is no tensor
    "x is numpy's": (x_is(lambda t: t.cpu().numpy()), TypeError),
    "x is numpy's, backwards": (x_is(lambda t: t.cpu().numpy()[..., ::-1]), TypeError),
    "x is a list": (x_is(Tensor.tolist), TypeError),
    "x is None": (x_is(lambda t: None), TypeError),
    "x is a number": (x_is(lambda t: 1.0), TypeError),
    "a parameter is None": (parameter_is(lambda t: None), TypeError),
    "a parameter is a number": (parameter_is(lambda t: 1.0), TypeError),
    # subclasses and lazy tensors
    "x is a subclass": (x_is(lambda t: t.as_subclass(Sub)), RIGHT),
    "x is a Parameter": (x_is(torch.nn.Parameter), RIGHT),
    "x lazily negated": (x_is(lambda t: torch.complex(t, -t).conj().imag), RIGHT),
    "x lazily zero": (x_is(lambda t: torch._efficientzerotensor(t.shape, device=t.device)), RIGHT),
    "a parameter lazily negated": (parameter_is(lambda t: torch.complex(t, -t).conj().imag), RIGHT),
    # memory
    "x expanded over all": (x_is(lambda t: t[:1, :1, :1, :1].expand_as(t)), RIGHT),
    "x expanded over images": (x_is(lambda t: t[:1].expand_as(t)), RIGHT),
    "x expanded over channels": (x_is(lambda t: t[:, :1].expand_as(t)), RIGHT),
    "x expanded over pixels": (x_is(lambda t: t[:, :, :1, :1].expand_as(t)), RIGHT),
    "x overlapping itself": (x_is(overlapping), RIGHT),
    "x with images far apart": (x_is(far_apart), RIGHT),
    "x at an odd element": (x_is(lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)), RIGHT),
    **({"x at an odd byte": (x_is(unaligned), RIGHT)} if INTERPRETED else {}),
    "x transposed": (x_is(lambda t: t.mT.contiguous().mT), RIGHT),
    "x with its axes in reverse": (x_is(lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)), RIGHT),
    "x and a parameter in one memory": (lambda i: _shared(i), RIGHT),
    "a parameter expanded": (parameter_is(lambda t: t.flatten()[0].expand(t.shape)), RIGHT),
    "a parameter strided": (parameter_is(lambda t: torch.stack([t, t], -1)[..., 0]), RIGHT),
    "one channel of a channels_last map": (lambda i: _channel_of(i), OUT_OF_BAND),
    "one row of a map": (maps_are(lambda t: t[:, :, 2:3]), RIGHT),
    "one pixel of a map": (maps_are(lambda t: t[:, :, 2:3, 3:4]), RIGHT),
    # values
    "NaN": (x_is(with_value(math.nan)), FORWARD),
    "infinity": (x_is(with_value(math.inf)), FORWARD),
    "minus infinity": (x_is(with_value(-math.inf)), FORWARD),
    "minus zero": (x_is(lambda t: t * 0.0), RIGHT),
    "a subnormal": (x_is(with_value(2.0**-149)), RIGHT),
    "subnormals only": (x_is(lambda t: t * 2.0**-130), RIGHT),
    "the largest float16": (lambda i: [t.half() for t in x_is(with_value(65504.0))(i)], FORWARD),
    "NaN in a parameter": (parameter_is(lambda t: t * math.nan), FORWARD),
    "infinity in a parameter": (parameter_is(lambda t: t + math.inf), FORWARD),
}  # fmt: skip


def _shared(inputs: Inputs) -> Inputs:
    """The parameter is a view of the map."""
    x, first, *others = inputs
    memory = torch.cat([x.flatten(), first.flatten()])
    return [memory[: x.numel()].view(x.shape), memory[-first.numel() - 3 : -3].view(first.shape), *others]


def _channel_of(inputs: Inputs) -> Inputs:
    return [inputs[0].to(memory_format=torch.channels_last)[:, 1:2], *inputs[1:]]


OF_ATTENTION = {  # cases that mean something for a query (N, H, W, heads, D), too
    *(name for name in HOSTILE if name.startswith("x is ") or name.startswith("x lazily") or name.startswith("x in ")),
    *(
        "x quantized",
        "x on meta",
        "x sparse",
        "x expanded over all",
        "x expanded over images",
        "x with images far apart",
    ),
    *("x at an odd element", "x at an odd byte", "NaN", "infinity", "minus infinity", "minus zero", "subnormals only"),
} - {"x in CSR", "x in mkldnn's layout", "x in float16, a parameter in bfloat16", "x in float16, parameters in float32"}


def applies(row, name: str) -> bool:
    """Whether a case means something for a row: one without parameters takes any number of channels."""
    if not row.is_gate:
        return name in OF_ATTENTION and (len(row.inputs) > 1 or name != "x on meta")
    if row.over_batch and "far apart" in name:  # a norm's images would lie over 60 GB
        return False
    if "fewer" in name or "more" in name or name == "channels last, not permuted":
        return row.counts_channels
    return bool(row.parameters) or not ("parameter" in name or name == "x on meta")


each_case = pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(row, name, id=f"{row.name}-{name}")
        for row in ROWS
        for name, (_, expected) in HOSTILE.items()
        if expected != OUT_OF_BAND and applies(row, name)
    ],
)


@each_case
def test_hostile_input(row, name, record_property):
    record_property("hostile", f"{row.name}: {name}")
    change, expected = HOSTILE[name]
    alone = images_of_a_norm((1,)) if row.over_batch else 2  # for the cases that leave a pixel of an image
    inputs = change(problem(row, C=C, S=S, N=alone))
    if expected in (RIGHT, FORWARD):
        needs = [expected == RIGHT and t is not None for t in inputs]
        assert_right(row, *[t.detach() for t in inputs], needs=needs)
        return
    for backend in ("triton", "reference", None):
        with pytest.raises(expected, match=r"^\w+: (got|is on) "):
            row.op(*inputs, backend=backend)


OPTIONS = {
    "a gate that does not exist": {"gate": "nope"},
    "a gate of two parts": {"gate": ("sigmoid", 1.0)},
    "a gate that is a number": {"gate": 3},
    "a gate that is None": {"gate": None},
    "a gate of no name": {"gate": (None, 0.0, 0.0)},
    "a gate with a word for a number": {"gate": ("hard_sigmoid", "a", 0.5)},
    "an activation that is no gate": {"gate": "silu"},
    "a pool that does not exist": {"pool": "median"},
    "a pool that is None": {"pool": None},
    "ties that do not exist": {"ties": "last"},
    "an act that does not exist": {"act": "nope"},
    "a backend that does not exist": {"backend": "cuda"},
    "a backend that is a number": {"backend": 0},
}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(row, name, id=f"{row.name}-{name}")
        for row in ROWS
        for name, options in OPTIONS.items()
        if set(options) <= {*row.options, "backend"}
    ],
)
def test_hostile_option(row, name, record_property):
    record_property("hostile", f"{row.name}: {name}")
    with pytest.raises((ValueError, TypeError)):
        row.op(*problem(row, C=C, S=S), **{"backend": "triton", **OPTIONS[name]})


@pytest.mark.parametrize("constant", [math.nan, math.inf, -0.0, 1e38, 1e-45])
@each_gate
def test_hostile_constants_of_a_gate(row, constant, record_property):
    record_property("hostile", f"{row.name}: the constant {constant}")
    x, *parameters = problem(row, C=C, S=S)
    for gate in (("hard_sigmoid", constant, 0.5), ("hard_sigmoid", 0.25, constant)):
        got = row.op(x, *parameters, gate=gate, backend="triton")
        torch.testing.assert_close(got, row.reference(x, *parameters, gate=gate), rtol=1e-5, atol=1e-6, equal_nan=True)


@each_row
def test_no_memory_at_all(row, record_property):
    """Meta and fake tensors: shapes, strides and dtypes, and nothing runs."""
    record_property("hostile", f"{row.name}: everything on meta")
    inputs = problem(row, C=C, S=S)
    expected = torch.empty_like(as_y(row, inputs))
    y = row.op(*(t.to("meta") for t in inputs), backend="triton")
    assert (y.device.type, y.shape, y.stride()) == ("meta", expected.shape, expected.stride())
    with FakeTensorMode() as mode:
        y = row.op(*map(mode.from_tensor, inputs), backend="triton")
    assert isinstance(y, FakeTensor)
    assert (y.device.type, y.shape, y.stride()) == (DEVICE, expected.shape, expected.stride())


@each_row
def test_empty_batch(row, record_property):
    record_property("hostile", f"{row.name}: no image")
    inputs = problem(row, N=0, C=C, S=S)
    y, gate_map, dx, *grads = outputs_and_gradients(row.op, inputs, backend="triton")
    assert (y.shape, dx.shape) == (as_y(row, inputs).shape, inputs[0].shape)
    assert gate_map.numel() == 0
    assert not any(g.any() for g in grads)


@each_gate
def test_one_channel_in_any_order(row, record_property):
    """With C = 1 or one pixel a map is contiguous and channels_last at once, whatever its strides say."""
    record_property("hostile", f"{row.name}: one channel of a channels_last map")
    for x in (
        problem(row, C=C, S=S, layout="channels_last")[0][:, 1:2],
        problem(row, C=C, S=S)[0][:, 1:2],
        problem(row, C=C, S=(1, 1), layout="channels_last")[0],
        problem(row, C=1, S=S)[0].as_strided((2, 1, *S), (S[0] * S[1], 7919, S[1], 1)),
        problem(row, C=1, S=S)[0].as_strided((2, 1, *S), (S[0] * S[1], 1, S[1], 1)),
    ):
        assert_right(row, x, *problem(row, C=x.shape[1], S=x.shape[2:])[1:])


GRADIENTS = {
    "expanded": lambda t: torch.ones(1, device=t.device).expand_as(t),
    "expanded over channels": lambda t: t[:, :1].expand_as(t),
    "transposed": lambda t: t.mT.contiguous().mT if t.dim() == 4 else t,
    "cropped": lambda t: torch.nn.functional.pad(t, (1, 1))[..., 1:-1],
    "channels_last": lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t,
    "zero": torch.zeros_like,
    "lazily zero": lambda t: torch._efficientzerotensor(t.shape, device=t.device),
    "lazily negated": lambda t: torch.complex(t, -t).conj().imag,
    "huge": lambda t: t * 1e15,
    "subnormal": lambda t: t * 2.0**-130,
}


@pytest.mark.parametrize("kind", GRADIENTS)
@each_row
def test_hostile_gradients(row, kind, record_property):
    record_property("hostile", f"{row.name}: a gradient {kind}")
    inputs = problem(row, C=C, S=S)
    generator = torch.Generator().manual_seed(3)
    shapes = [o.shape for o in row.reference(*inputs, **row.both)]
    douts = [GRADIENTS[kind](torch.randn(s, generator=generator).to(DEVICE)) for s in shapes]
    got = outputs_and_gradients(row.op, inputs, douts, backend="triton")
    expected = outputs_and_gradients(row.reference, [t.double() for t in inputs], [d.double() for d in douts])
    scale = max(d.abs().max().item() for d in douts)
    for a, b in zip(got[2:], expected[2:], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=max(1e-4 * scale, 2.0**-140))


@pytest.mark.parametrize("index", [0, 1])
@each_row
def test_no_gradient_and_nan(row, index, record_property):
    """One output without a gradient; and NaN in one value of an image stays in this image, but for a norm over all."""
    record_property("hostile", f"{row.name}: gradient {index} alone, then NaN")
    inputs = problem(row, C=C, S=S, dtype=torch.float64)
    results = []
    for fn, options in ((row.op, {"backend": "triton"}), (row.reference, {})):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = fn(*leaves, **row.both, **options)[index]
        zero = dict(allow_unused=True, materialize_grads=True)
        results.append(torch.autograd.grad(out, leaves, torch.ones_like(out), retain_graph=True, **zero))
        spoiled = torch.ones_like(out)
        spoiled[0, 1 % out.shape[1]] = math.nan
        results.append(torch.autograd.grad(out, leaves, spoiled, **zero))
    for a, b in zip((*results[0], *results[1]), (*results[2], *results[3]), strict=True):
        finite = a.isfinite()
        assert not (finite & ~b.isfinite()).any()  # where a gate is flat torch may drop a NaN: test_ties_nan
        torch.testing.assert_close(a[finite], b[finite], rtol=1e-9, atol=1e-11)
    assert all(g.isfinite().all() for g in results[0])
    assert row.over_batch or results[1][0][1].isfinite().all()


@each_row
def test_what_autograd_must_refuse(row, record_property):
    """An input changed before the backward, and a second derivative."""
    record_property("hostile", f"{row.name}: changed before the backward")
    inputs = [t.requires_grad_() for t in problem(row, C=C, S=S)]
    for i in range(len(inputs)):
        values = [t * 1 for t in inputs]
        y = row.op(*values, backend="triton")
        if i == 0 or any(values[i] is t for t in y.grad_fn.saved_tensors):
            values[i].mul_(2)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
    (dx, *_) = torch.autograd.grad(row.op(*inputs, backend="triton").square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        dx.sum().backward()


def test_what_torch_refuses():
    """Cases of the list that cannot reach the package: torch itself raises."""
    with pytest.raises(ValueError, match="negative"):
        torch.from_numpy(np.zeros((2, 3, 4, 5), np.float32)[..., ::-1])
    with pytest.raises(RuntimeError, match="floating point"):
        torch.zeros(2, 3, 4, 5, dtype=torch.int32).requires_grad_()


@each_row
def test_distributed_tensor(row, record_property, monkeypatch):
    """One on every rank: an error of torch, which has no sharding rule, or with `segattn_triton.distributed` imported
    one that names the argument."""
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    import segattn_triton.distributed  # noqa: F401
    from segattn_triton.runtime import dispatch

    record_property("hostile", f"{row.name}: DTensor")
    inputs = problem(row, C=C, S=S)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh(DEVICE, (1,))
        spread = [distribute_tensor(t, mesh, [Replicate()]) for t in inputs]
        with pytest.raises(ValueError, match=r"^\w+: got .*, expected "):
            row.op(*spread, backend="triton")
        monkeypatch.delitem(dispatch.BEYOND, DTensor)
        with pytest.raises(NotImplementedError, match="sharding"):
            row.op(*spread, backend="triton")
    finally:
        torch.distributed.destroy_process_group()


def test_every_name_of_the_table_is_used():
    """A case that no row takes would count for nothing."""
    used = {name for row in GATES for name in HOSTILE if applies(row, name)}
    assert used == set(HOSTILE)
    assert all(names(row)[0] == "x" for row in GATES)
