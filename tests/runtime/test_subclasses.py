"""Tensors of a class of their own: the result is right, and of the class that it has in plain torch."""

import pytest
import torch
from support import DEVICE, each_row, problem
from torch import Tensor, nn

import segattn_triton


class Strict(Tensor):
    """With a stricter constructor."""

    def new_empty(self, size, **kwargs):
        if not isinstance(size, tuple | torch.Size):
            raise TypeError("new_empty(): argument 'size' must be tuple of ints, not int")
        return super().new_empty(size, **kwargs)


class Named(Tensor):
    """Hands on what it carries, as image classes do."""

    name = "unnamed"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        names = [a.name for a in args if isinstance(a, Named)]
        for one in result if isinstance(result, tuple) else (result,):
            if isinstance(one, Named) and names:
                one.name = names[0]
        return result


class Silent(Tensor):
    """Its results are plain tensors."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class NoLayout(Tensor):
    """Its methods are not to be relied on."""

    def stride(self, *_):
        raise AssertionError("asked for its strides")

    def contiguous(self, *_, **__):
        raise AssertionError("asked for a copy")


def _of(cls):
    return lambda t: t.as_subclass(cls)


def metatensor(t):
    return pytest.importorskip("monai.data").MetaTensor(t, affine=2 * torch.eye(4))


def image(t):
    pytest.importorskip("torchvision_cpu").install()
    return pytest.importorskip("torchvision.tv_tensors").Image(t) if t.dim() > 2 else t


CLASSES = {
    **{cls.__name__: _of(cls) for cls in (Strict, Named, Silent, NoLayout)},
    "MetaTensor": metatensor,
    "Image": image,
    "Parameter": nn.Parameter,
}
each_class = pytest.mark.parametrize("make", CLASSES.values(), ids=list(CLASSES))


def trained(fn, inputs, **options):
    """Outputs, and what the leaves have as their gradients."""
    outputs = fn(*inputs, **options)
    sum(o.square().sum() for o in outputs).backward()
    return [*outputs, *(t.grad for t in inputs)]


def assert_as_in_plain_torch(row, made, **options):
    def leaves():
        return [t.requires_grad_() for t in made()]

    got, expected = (trained(f, leaves(), **row.both, **o) for f, o in ((row.op, options), (row.reference, {})))
    for a, b in zip(got, expected, strict=True):
        assert type(a) is type(b)
        torch.testing.assert_close(*(t.detach().as_subclass(Tensor) for t in (a, b)), rtol=1e-4, atol=1e-4)


@each_class
@each_row
def test_maps_of_a_class(row, make):
    """The gradients too: a leaf's is what eager's leaves have."""

    def made():
        inputs = dict(zip([n.removesuffix("?") for n in row.inputs], problem(row), strict=True))
        return [make(t) if name in row.maps else t for name, t in inputs.items()]

    for _ in range(2):
        assert_as_in_plain_torch(row, made, backend="triton")


@each_class
@each_row
def test_all_inputs_of_a_class(row, make):
    assert_as_in_plain_torch(row, lambda: [make(t) for t in problem(row)], backend="triton")


@each_row
def test_without_a_gradient(row):
    inputs = problem(row)
    y = row.op(inputs[0].as_subclass(Named), *inputs[1:], backend="triton")
    assert type(y) is Named
    torch.testing.assert_close(y.as_subclass(Tensor), row.reference(*inputs), rtol=1e-4, atol=1e-4)


@each_row
def test_a_class_hands_on_what_it_carries(row):
    x, *others = problem(row)
    x = x.as_subclass(Named)
    x.name = "ct"
    for y in row.op(x, *others, backend="triton", **row.both):
        assert y.name == "ct"


def test_accelerated_gates_keep_the_metadata():
    """As MONAI's loaders yield their volumes."""
    blocks = pytest.importorskip("monai.networks.blocks")
    block = blocks.ChannelSELayer(2, 4).to(DEVICE)
    x = metatensor(torch.randn(1, 4, 3, 3, device=DEVICE))
    expected = block(x)
    segattn_triton.accelerate(block)
    y = block(x)
    assert type(y) is type(expected)
    torch.testing.assert_close(y.affine, x.affine)
    torch.testing.assert_close(y.as_tensor(), expected.as_tensor())


@each_row
def test_a_class_compiled(row):
    x, *others = problem(row)
    gate = torch.compile(lambda *inputs: row.op(*inputs, backend="triton"), backend="eager")
    y = gate(x.as_subclass(Named), *others)
    assert type(y) is Named
    torch.testing.assert_close(y.as_subclass(Tensor), row.reference(x, *others), rtol=1e-4, atol=1e-4)
