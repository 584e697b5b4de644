"""Bad input gets an error that names the argument, what was given and what is wanted; nothing is silently wrong."""

import os
import subprocess
import sys

import pytest
import torch
from support import DEVICE, GATES, beside, each_gate, each_module, each_row, module_of, names, one_map, problem

from segattn_triton import SCSE, ChannelAttention, SqueezeExcite, functional
from segattn_triton.catalog import BY_NAME
from segattn_triton.testing import assert_matches_reference

pytestmark = pytest.mark.cheap
BACKENDS = (None, "triton", "reference")


def refuses(row, inputs, *said: str, error=(TypeError, ValueError), **options) -> None:
    """On every backend, and before anything runs."""
    for backend in BACKENDS:
        with pytest.raises(error) as caught:
            row.op(*inputs, **{"backend": backend, **options})
        for text in said:
            assert text in str(caught.value)


MAPS = {  # what is wrong with x -> (its values, what the message says)
    "list": (lambda x: x.tolist(), ("x: got list", "torch.Tensor")),
    "array": (lambda x: x.cpu().numpy(), ("x: got ndarray", "torch.Tensor")),
    "none": (lambda x: None, ("x: got NoneType", "torch.Tensor")),
    "integer": (lambda x: x.int(), ("x: got dtype torch.int32", "float16, bfloat16, float32 or float64")),
    "bool": (lambda x: x > 0, ("x: got dtype torch.bool", "float32")),
    "complex": (lambda x: x.to(torch.complex64), ("x: got dtype torch.complex64", "float32")),
    "fp8": (lambda x: x.to(torch.float8_e4m3fn), ("x: got dtype torch.float8_e4m3fn", "float32")),
    "sparse": (lambda x: x.to_sparse(), ("x: got layout torch.sparse_coo", "x.to_dense()")),
    "vector": (lambda x: x[0, :, 0, 0], ("x: got 1 axes, shape (5)", "expected (N, C")),
    "matrix": (lambda x: x[:, :, 0, 0], ("x: got 2 axes, shape (2, 5)", "expected (N, C")),
    "six_axes": (lambda x: x[..., None, None], ("x: got 6 axes, shape (2, 5, 5, 6, 1, 1)", "expected (N, C")),
    "no_channel": (lambda x: x[:, :0], ("x: got shape (2, 0, 5, 6)", "at least one channel and one pixel")),
    "no_pixel": (lambda x: x[..., :0], ("x: got shape (2, 5, 5, 0)", "at least one channel and one pixel")),
}


@pytest.mark.parametrize("wrong", MAPS)
@each_gate
def test_maps(row, wrong):
    x, *parameters = problem(row)
    change, said = MAPS[wrong]
    refuses(row, [change(x), *parameters], *said)


PARAMETERS = {
    "integer": (lambda t: t.int(), ("{name}: got dtype torch.int32", "float16, bfloat16, float32 or float64")),
    "half": (lambda t: t.half(), ("{name}: got dtype torch.float16", "expected {map}'s torch.float32")),
    "list": (lambda t: t.tolist(), ("{name}: got list", "torch.Tensor")),
    "sparse": (lambda t: t.to_sparse(), ("{name}: got layout torch.sparse_coo", "{name}.to_dense()")),
    "meta": (lambda t: t.to("meta"), ("{name}: is on meta, {map} is on", "one device")),
    "one_more": (lambda t: torch.cat([t, t]), ("{name}: got shape (", "expected (", "for {map} of shape (2, 5, 5, 6)")),
    "another_axis": (lambda t: t[..., None].expand(*t.shape, 2), ("{name}: got shape (", "expected (")),
    "fewer_axes": (lambda t: t.sum(), ("{name}: got shape ()", "expected (")),
}
each_parameter = pytest.mark.parametrize(
    ("row", "name"),
    [pytest.param(row, n, id=f"{row.name}-{n}") for row in GATES for n in names(row) if n not in row.maps],
)


HIDDEN = {"w1": ("w2", "w_h"), "wx": ("wg",)}  # the parameter that says how many hidden channels there are, and others


def _also_hidden(row, name: str) -> str | None:
    """Another parameter of as many hidden channels."""
    return next((other for other in HIDDEN.get(name, ()) if other in names(row)), None)


@each_parameter
def test_the_expected_shape_of_a_parameter(row, name):
    """The message states the shape that would have been right, channel by channel; hidden channels are free."""
    inputs = one_map(row, problem(row))
    right = dict(zip(names(row), inputs, strict=True))[name]
    if _also_hidden(row, name):
        wrong, expected = right[:, :-1], (right.shape[0], right.shape[1])
    else:
        wrong, expected = torch.cat([right, right]), right.shape
    changed = [wrong if n == name else t for n, t in zip(names(row), inputs, strict=True)]
    pattern = ", ".join(str(s) for s in expected).removesuffix(", 1, 1")
    for backend in BACKENDS:
        with pytest.raises(ValueError, match=rf"^{name}: .*expected \({pattern}(, 1)*(, \.\.\.)?\)"):
            row.op(*changed, backend=backend)


@pytest.mark.parametrize("wrong", PARAMETERS)
@each_parameter
def test_parameters(row, name, wrong):
    change, said = PARAMETERS[wrong]
    inputs = one_map(row, problem(row))
    changed = [change(t) if n == name else t for n, t in zip(names(row), inputs, strict=True)]
    if wrong == "one_more" and (other := _also_hidden(row, name)):
        name = {"w1": "b1"}.get(name, other)  # more rows mean more hidden channels, which another has not
    read = {"wg": "g"}.get(name, "x")  # the map that the parameter fits
    refuses(row, changed, *(s.format(name=name, map=read) for s in said))


OTHER_MAPS = {
    "list": (lambda t: t.tolist(), ("{name}: got list", "torch.Tensor")),
    "half": (lambda t: t.half(), ("{name}: got dtype torch.float16", "expected x's torch.float32")),
    "sparse": (lambda t: t.to_sparse(), ("{name}: got layout torch.sparse_coo", "{name}.to_dense()")),
    "meta": (lambda t: t.to("meta"), ("{name}: is on meta, x is on", "one device")),
    "one_image": (
        lambda t: t[:1],
        ("{name}: got shape (1, 5, {H}, {W})", "expected (2, ", "for x of shape (2, 5, 5, 6)"),
    ),
    "no_pixel": (lambda t: t[..., :0], ("{name}: got shape (2, 5, {H}, 0)", "expected (2, ")),
    "no_axes": (lambda t: t[:, :, 0, 0], ("{name}: got shape (2, 5)", "expected (2, ")),
    "a_channel_more": (lambda t: t[:, :1].expand(-1, 6, -1, -1), ("got shape (", "expected (", "of shape (2, ")),
}


@pytest.mark.parametrize("wrong", OTHER_MAPS)
@pytest.mark.parametrize(
    ("row", "name"), [pytest.param(row, n, id=f"{row.name}-{n}") for row in GATES for n in row.maps[1:]]
)
def test_other_maps(row, name, wrong):
    change, said = OTHER_MAPS[wrong]
    inputs = dict(zip(names(row), problem(row), strict=True))
    H, W = inputs[name].shape[2:]
    changed = [change(t) if n == name else t for n, t in inputs.items()]
    if (row.name, name, wrong) == ("gate_mul", "z", "one_image"):  # whose logits are then for all images
        assert row.op(*changed).shape == inputs["x"].shape
        return
    refuses(row, changed, *(s.format(name=name, H=H, W=W) for s in said))


def test_parameters_of_a_source():
    """Its channels are what the first layer has to fit, and what the message names."""
    x, w1, *others = problem(BY_NAME["squeeze_excite"])
    source = x[:, :3]
    refuses(
        BY_NAME["squeeze_excite"], [x, w1, *others[:3], source], "w1: got shape (2, 5)", "for source of shape (2, 3,"
    )


def test_taps_of_eca():
    row = BY_NAME["eca"]
    x, weight, _ = problem(row)
    for taps in (2, 4):
        refuses(row, [x, weight[..., :1].expand(1, 1, taps)], f"weight: got shape (1, 1, {taps})", "odd k")
    refuses(row, [x, weight[..., :1].expand(1, 1, 13)], "weight: got shape", "at most 11", circular=True)


def test_reduction_of_other_modules():
    for module, error in ((SCSE, "reduction: got 16 for in_channels 8"), (SqueezeExcite, "rule: got 'mine'")):
        options = {} if module is SCSE else {"rule": "mine"}
        with pytest.raises(ValueError, match=error):
            module(8, 16, **options)
    with pytest.raises(ValueError, match="source: given with slices=True"):
        SqueezeExcite(8, slices=True)(torch.ones(1, 8, 2, 2, 2), torch.ones(1, 8, 2, 2, 2))


with_channels = pytest.mark.parametrize("row", [r for r in GATES if r.counts_channels], ids=lambda row: row.name)


@with_channels
def test_channels_that_do_not_fit(row):
    fives, sixes = problem(row, C=5), problem(row, C=6)
    x, *parameters = [b if n in row.maps else a for n, a, b in zip(names(row), fives, sixes, strict=True)]
    parameters = parameters[: len(row.parameters) + len(beside(row, x))]
    first = next(n for n in names(row) if n not in row.maps)
    refuses(row, [x, *parameters], f"{first}: got shape (", "expected (", "for x of shape (2, 6, 5, 6)")


@with_channels
def test_channels_last_by_shape(row):
    """(N, H, W, C) where (N, C, H, W) is meant: the message gives the permute, which then works."""
    x, *parameters = one_map(row, problem(row, S=(7, 9), C=5))
    given = x.permute(0, 2, 3, 1)
    others = [t.permute(0, 2, 3, 1) for t in parameters[: len(beside(row, x))]]
    refuses(row, [given, *others, *parameters[len(others) :]], "x.permute(0, 3, 1, 2)", "(2, 7, 9, 5)")
    assert torch.equal(row.op(given.permute(0, 3, 1, 2), *parameters), row.op(x, *parameters))


OPTIONS = {
    **{"border": "wrap", "gate": "softmax", "act": "swish", "pool": "median", "ties": "last", "backend": "cuda"},
    **{"out_act": "gelu", "reduce": "mean", "circular": "yes"},
}


@pytest.mark.parametrize("option", OPTIONS)
@each_row
def test_options(row, option):
    if option in (*row.options, "backend"):
        refuses(row, problem(row), f"{option}: got {OPTIONS[option]!r}", "expected one of", **{option: OPTIONS[option]})


@pytest.mark.parametrize("option", ["gate", "act"])
@each_row
def test_constants(row, option):
    if option in row.options:
        for value in (("relu", 1.0), ("nothing", 1.0, 0.0), 3, ["relu", 0.0, 0.0]):
            refuses(row, problem(row), f"{option}: got", "expected", **{option: value})


def test_second_bias_without_second_layer():
    row = BY_NAME["channel_gate"]
    x, w1, b1, _, b2 = problem(row, C=4, Cr=4)
    refuses(row, [x, w1, b1, None, b2], "b2", "without w2")


def test_mixed_devices():
    x, weight, bias = problem(BY_NAME["spatial_gate"])
    refuses(BY_NAME["spatial_gate"], [x.to("meta"), weight, bias], "weight: is on", "x is on meta")


@pytest.mark.parametrize(
    ("reduction", "wanted"),
    [(r, "for in_channels 4") for r in (5, 100)] + [(r, ", expected an int of at least 1") for r in (0, -1)],
)
def test_reduction(reduction, wanted):
    with pytest.raises(ValueError, match=rf"reduction: got {reduction} ?{wanted}"):
        ChannelAttention(4, reduction=reduction)


@each_row
def test_an_unknown_argument(row):
    with pytest.raises(TypeError):
        row.op(*problem(row), gain=2)


@each_module
def test_modules_name_the_argument_too(row):
    module = module_of(row, 6)
    with pytest.raises(ValueError, match="x: got 2 axes"):
        module(torch.ones(2, 6, device=DEVICE), **beside(row, torch.ones(2, 6, 5, 6, device=DEVICE)))
    if row.counts_channels or not row.is_gate:
        with pytest.raises(ValueError, match=r"got shape \(.*expected \("):
            x = torch.ones(2, 8, 5, 6, device=DEVICE)
            module(x, **beside(row, x))


def test_assert_matches_reference_reports():
    x, weight, _ = problem(BY_NAME["spatial_gate"])
    with pytest.raises(KeyError, match="no row of the catalog fits"):
        assert_matches_reference(functional.spatial_gate, x, weight.expand(2, 5))
    with pytest.raises(TypeError, match="options: got gate with a module"):
        assert_matches_reference(torch.nn.Identity(), x, gate="relu")


WITHOUT_INTERPRETER = """
import torch
from segattn_triton import functional as F
x, weight = torch.randn(2, 3, 4, 4), torch.randn(1, 3)
assert torch.equal(F.spatial_gate(x, weight), F.spatial_gate(x, weight, backend="reference"))
try:
    F.spatial_gate(x, weight, backend="triton")
except RuntimeError as error:
    assert 'backend: "triton" cannot run here: x is on cpu' in str(error), error
else:
    raise SystemExit("no error")
"""


def test_triton_on_the_cpu_without_interpreter():
    """A named backend never falls back; unnamed, the reference runs."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", WITHOUT_INTERPRETER], env=environment, check=True)


def test_without_triton():
    """The package imports and computes where Triton is not installed, and says so where it is asked for."""
    hide = "import sys; sys.modules['triton'] = None\n"
    said = WITHOUT_INTERPRETER.replace("x is on cpu", "Triton cannot be imported")
    subprocess.run([sys.executable, "-c", hide + said], check=True)
