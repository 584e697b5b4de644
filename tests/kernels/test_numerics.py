"""Every output and every gradient agrees with the reference within the error budget of `segattn_triton.testing`."""

import itertools
from inspect import signature

import pytest
import support
import torch
from probe import faults, probe
from support import (
    DEVICE,
    assert_right,
    each_dense_variant,
    each_dtype,
    each_gate,
    each_option,
    each_perceptron,
    each_row,
    names,
    outputs_and_gradients,
    over_batch,
    problem,
    without,
)

from segattn_triton.catalog import BY_NAME, ROWS
from segattn_triton.kernels.common.dot import precision
from segattn_triton.kernels.conv import descriptors
from segattn_triton.kernels.conv.descriptors import takes_descriptors
from segattn_triton.ops import local_dense
from segattn_triton.runtime.maps import native
from segattn_triton.testing import LAYOUTS, make_inputs
from segattn_triton.tuning import choice as tuning
from segattn_triton.tuning.model import space
from segattn_triton.tuning.target import planning_for


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@each_row
def test_dtypes_and_layouts(row, dtype, layout):
    assert_right(row, *problem(row, S=(6, 8), dtype=dtype, layout=layout))


@each_dtype
@each_option
def test_options(row, options, dtype):
    assert_right(row, *problem(row, dtype=dtype, seed=3), **options)


@pytest.mark.parametrize("variant", [row.name for row in ROWS if "out_act" in row.options])
def test_an_activation_where_other_maps_want_nothing(variant):
    """Left out, or there without a gradient: what would be left in theirs has to go elsewhere."""
    row = BY_NAME[variant]
    others = [name in row.maps and f"{name}?" in row.inputs for name in names(row)]
    for out_act, there in itertools.product(row.options["out_act"], (False, True)):
        given = [t if there or not other else None for t, other in zip(problem(row), others, strict=True)]
        assert_right(row, *given, needs=[not other for other in others], out_act=out_act)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_row
def test_parameters_in_float32_beside_a_16_bit_map(row, dtype):
    inputs = problem(row, dtype=dtype, param_dtype=torch.float32)
    assert_right(row, *inputs)
    leaves = [t.requires_grad_() for t in inputs]
    for t, grad in zip(leaves, torch.autograd.grad(row.op(*leaves, backend="triton").sum(), leaves), strict=True):
        assert grad.dtype == t.dtype


@each_row
def test_optional_inputs_left_out(row):
    optional = [name.removesuffix("?") for name in row.inputs if name.endswith("?")]
    inputs = problem(row, C=4)
    for absent in {(), *((name,) for name in optional), tuple(optional)}:
        assert_right(row, *without(row, inputs, absent))


@each_perceptron
def test_one_layer(row):
    for absent in (("w2", "b2"), ("b1", "w2", "b2")):
        assert_right(row, *without(row, problem(row, C=6, Cr=6), absent))


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@over_batch
def test_norm_over_the_batch(row, layout, dtype):
    """Whichever gradients are wanted; and far from zero, where a variance as a difference of squares would be lost."""
    inputs = problem(row, S=(3, 5), N=4, dtype=dtype, layout=layout)
    assert_right(row, *inputs, **{name: 1e-3 for name in signature(row.op).parameters if name.startswith("eps")})
    assert_right(row, *without(row, inputs, [name.removesuffix("?") for name in row.inputs if name.endswith("?")]))
    for wanted in range(len(inputs)):
        assert_right(row, *inputs, needs=[i == wanted for i in range(len(inputs))])
    if dtype == torch.float32:
        lost = ("b1", "b2") if row.name == "squeeze_excite_norms" else ("bias", "b1")  # in the means
        assert_right(row, *(t + 1000 if name in lost else t for name, t in zip(names(row), inputs, strict=True)))


@pytest.mark.parametrize("backend", ["triton", "reference"])
@over_batch
def test_what_a_norm_takes_away_has_no_gradient(row, backend):
    """A bias that moves all values of a norm moves nothing: its gradient is zero, not what rounding leaves."""
    inputs = [t.requires_grad_() for t in problem(row, C=1, N=3, S=(1, 5))]
    gradients = torch.autograd.grad(row.op(*inputs, backend=backend).square().sum(), inputs)
    for i, (name, t) in enumerate(zip(names(row), inputs, strict=True)):
        moved = [*inputs[:i], t + 1, *inputs[i + 1 :]]
        if t.dim() == 1 and torch.allclose(row.reference(*moved), row.reference(*inputs)):
            assert not gradients[i].any(), name


@pytest.mark.parametrize("N", [2, 3, 17, 130])
@pytest.mark.parametrize("name", ["squeeze_excite_norm", "squeeze_excite_norms"])
def test_images_of_a_norm(name, N):
    """More of them than a block, and two, which differ by little or by much from the others."""
    row, sizes = BY_NAME[name], {"N": N, "C": 9, "S": (2,), "Cr": 40, "Cs": 7, "T": (2, 1)}
    assert_right(row, *make_inputs(row, sizes, device=DEVICE))
    if name == "squeeze_excite_norm":
        assert_right(row, *without(row, make_inputs(row, sizes | {"Cr": 9}, device=DEVICE), ("w2", "b2")))


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_norm_behind_the_second_layer_alone(layout, dtype):
    """Which adds up that layer's partial sums, of many programs an image where it has many hidden channels; whichever
    gradients are wanted."""
    row, absent = BY_NAME["squeeze_excite_norms"], ("norm_weight1", "norm_bias1")
    for C, R in ((5, 3), (40, 70)):
        sizes = {"N": 5, "C": C, "S": (3, 5), "Cr": R, "Cs": C + 2, "T": (7,)}
        inputs = without(row, make_inputs(row, sizes, dtype, layout=layout, device=DEVICE), absent)
        with probe() as launches:
            assert_right(row, *inputs, eps2=1e-3, pool="avgmax", ties="split", out_act="relu")
        assert launches and not faults(launches)
        stats = row.op(*inputs, backend="triton", return_stats=True)[1]
        assert stats.shape == (2 * C,)
        torch.testing.assert_close(stats, row.reference(*inputs, return_stats=True)[1], rtol=1e-5, atol=1e-6)
    inputs = problem(row, N=5, dtype=dtype, layout=layout)
    assert_right(row, *without(row, inputs, (*absent, "b1", "b2", "norm_bias2", "source", "shortcut")))
    given = [i for i, name in enumerate(names(row)) if name not in absent]
    for wanted in given:
        assert_right(row, *without(row, inputs, absent), needs=[i == wanted for i in range(len(inputs))])


@pytest.mark.parametrize("row", [r for r in ROWS if len(r.inputs) > len(r.maps)], ids=lambda row: row.name)
def test_of_no_image_gradients_of_parameters_are_zero(row):
    """Sums of nothing. The mean of no value, which is NaN, stays out of them."""
    inputs = problem(row, N=0, S=(2, 3))
    got = outputs_and_gradients(row.op, inputs, backend="triton")[-len(inputs) :]
    assert sum(t.numel() for t in got) > 0 and not any(t.any() for t in got)
    assert_right(row, *inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
@over_batch
def test_as_many_channels_as_pools(row, layout):
    """What is saved of the pixels has then as many values as the map, but not its strides."""
    for C in (1, 2):
        assert_right(row, *problem(row, C=C, layout=layout))


@pytest.mark.cheap
@over_batch
def test_statistics_of_the_norm(row):
    """Mean and biased variance, in float32 or wider, whatever the map; without a gradient."""
    for dtype in (torch.bfloat16, torch.float64):
        inputs = problem(row, S=(40, 41), N=3, dtype=dtype)
        y, got = row.op(*(t.requires_grad_() for t in inputs), backend="triton", return_stats=True)
        _, expected = row.reference(*inputs, return_stats=True)
        assert got.dtype == expected.dtype == torch.promote_types(dtype, torch.float32)
        assert y.requires_grad and not got.requires_grad and not expected.requires_grad
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("Cs", "T"), [(3, (4, 9)), (40, (2, 3, 5)), (7, (1,))], ids=str)
def test_a_source_of_another_shape(Cs, T, layout, dtype):
    """Of other channels, pixels and axes than the map it gates, with two layers and with one."""
    row, sizes = BY_NAME["squeeze_excite"], {"N": 2, "C": 9, "S": (5, 6), "Cr": 9, "Cs": Cs, "T": T}
    inputs = make_inputs(row, sizes, dtype, layout=layout, device=DEVICE)
    for pool, ties in (("avg", "first"), ("avgmax", "split")):
        assert_right(row, *inputs, pool=pool, ties=ties, out_act="relu")
    assert_right(row, *without(row, inputs, ("w2", "b2", "shortcut")), pool="max")


@each_dtype
@pytest.mark.parametrize("other", ["contiguous", "channels_last"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("C", "G", "F"), [(5, 9, 3), (3, 2, 40), (1, 7, 1), (40, 66, 36)], ids=str)
def test_an_attention_gate_with_a_map_of_other_channels(C, G, F, layout, other, dtype):
    """And in another memory order; more projections than channels, and one; on chip and beyond."""
    row, sizes = BY_NAME["attention_gate"], {"N": 2, "C": C, "S": (5, 8), "Cr": F, "G": G}
    inputs = make_inputs(row, sizes, dtype, layout=layout, device=DEVICE)
    inputs[1] = make_inputs(row, sizes, dtype, layout=other, device=DEVICE, seed=1)[1]
    assert_right(row, *inputs)
    assert_right(row, *without(row, inputs, ("b", "bias")), gate="hard_sigmoid")


GAINS = ("norm_x", "norm_g", "norm_psi")


@each_dtype
@pytest.mark.parametrize("other", ["contiguous", "channels_last"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("C", "G", "F"), [(5, 9, 3), (3, 2, 40), (1, 7, 1), (40, 66, 36)], ids=str)
def test_an_attention_gate_with_norms_and_a_map_of_other_channels(C, G, F, layout, other, dtype):
    row, sizes = BY_NAME["attention_gate_norm"], {"N": 2, "C": C, "S": (5, 8), "Cr": F, "G": G}
    inputs = make_inputs(row, sizes, dtype, layout=layout, device=DEVICE)
    inputs[1] = make_inputs(row, sizes, dtype, layout=other, device=DEVICE, seed=1)[1]
    assert_right(row, *inputs)


@pytest.mark.parametrize(("C", "G", "F", "S"), [(5, 6, 4, (5, 6)), (40, 66, 36, (2, 3, 5)), (3, 4, 5, (9,))], ids=str)
@pytest.mark.parametrize("absent", [a for n in range(4) for a in itertools.combinations(GAINS, n)], ids="+".join)
def test_norms_of_an_attention_gate_left_out(absent, C, G, F, S):
    """Of float64, so that a term that is missing cannot hide; of one to three axes; any gradient alone."""
    row, sizes = BY_NAME["attention_gate_norm"], {"N": 3, "C": C, "S": S, "Cr": F, "G": G}
    inputs = make_inputs(row, sizes, torch.float64, device=DEVICE)
    assert_right(row, *without(row, inputs, absent))
    assert_right(row, *without(row, inputs, (*absent, "b", "bias")), gate="relu")
    if C < 40:
        for wanted in (w for w, name in enumerate(names(row)) if name not in absent):
            assert_right(row, *without(row, inputs, absent), needs=[i == wanted for i in range(len(inputs))])


@pytest.mark.parametrize("sms", [132, 1], ids=["one tile a program", "programs that loop"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_statistics_of_projections_far_from_zero(layout, sms):
    """A mean a thousand deviations away costs the variance no digits, as a difference of squares would."""
    row, sizes = BY_NAME["attention_gate_norm"], {"N": 2, "C": 20, "S": (23, 29), "Cr": 7, "G": 9}
    inputs = make_inputs(row, sizes, layout=layout, device=DEVICE)
    inputs[0], inputs[1] = inputs[0] + 1000, inputs[1] * 0.01 - 30
    with planning_for(90, sms):
        _, stats = row.op(*inputs, backend="triton", return_stats=True)
    _, exact = row.reference(*(t.double() for t in inputs), return_stats=True)
    torch.testing.assert_close(stats[:28].double(), exact[:28], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("out_act", ["identity", "relu"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_a_shortcut_in_another_memory_order(other, layout, out_act):
    row = BY_NAME["squeeze_excite"]
    inputs = problem(row, layout=layout, dtype=torch.bfloat16)
    inputs[-1] = problem(row, layout=other, seed=1, dtype=torch.bfloat16)[-1]
    for given in (inputs, without(row, inputs, ("source",))):
        assert_right(row, *given, out_act=out_act)


@pytest.mark.parametrize("out_act", ["identity", "relu"])
def test_one_map_as_x_source_and_shortcut(out_act):
    """The gradients of the three add up; and every subset of maps can be wanted beside any activation."""
    row = BY_NAME["squeeze_excite"]
    x, *parameters, _, _ = problem(row)
    assert_right(row, x, *parameters, x, x, out_act=out_act)
    for needs in itertools.product((True, False), repeat=3):
        for source in (None, x):
            wanted = [needs[0], *[False] * 4, needs[1] and source is not None, needs[2]]
            assert_right(row, x, *parameters, source, -x, needs=wanted, out_act=out_act)


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize(("k", "C"), [(1, 4), (5, 40), (7, 4), (9, 4), (3, 1)])
def test_taps_of_eca(k, C, circular):
    """More taps than channels, too."""
    row = BY_NAME["eca"]
    inputs = make_inputs(row, {"N": 3, "C": C, "S": (4, 5), "k": k}, device=DEVICE)
    assert_right(row, *inputs, circular=circular)


def test_ties_of_the_larger_gate():
    """Where both gates of a channel and a pixel are equal, and where x is zero, the gradient is halved."""
    row = BY_NAME["scse"]
    x, *parameters = problem(row, S=(4, 6))
    x = x.round()
    for gate in ("sigmoid", ("hard_sigmoid", 0.0, 0.5), "relu"):
        assert_right(row, x, *parameters, gate=gate, reduce="max")


@pytest.mark.parametrize("target, expected", [(75, "ieee"), (80, "tf32"), (90, "tf32")])
def test_products_in_tf32_where_a_gpu_has_it(target, expected):
    """And torch allows it. gfx1100, which counts as 75, refuses to compile it."""
    x, conv = torch.empty(1, 8, 2, 2, device="meta"), torch.backends.cudnn.conv
    before = conv.fp32_precision
    with planning_for(target):
        try:
            for conv.fp32_precision, found in (("tf32", expected), ("ieee", "ieee")):
                assert precision(x) == found and precision(x.half()) == "ieee"
        finally:
            conv.fp32_precision = before


@pytest.mark.parametrize("C", [24, 40])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_descriptors_over_several_blocks(rows, C, monkeypatch):
    """Tiles of a row, rows, images and blocks of output channels, more than one of each: all are decoded from one. A
    program's rows reach past the image's last."""
    small = space(ROWS=(rows,), BLOCK_P=(64,), BLOCK_C=(16,), BLOCK_K=(16,))
    monkeypatch.setattr(descriptors, "DESCRIPTORS", small)
    monkeypatch.setattr(local_dense, "choose_variant", lambda x, _="auto": "descriptors")
    with tuning.using():
        row = BY_NAME["local_gate"]
        assert_right(row, *problem(row, N=2, S=(5, 140), C=C, dtype=torch.float16, layout="channels_last"))


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_a_variant_that_is_asked_for(dtype, layout):
    """Is taken where it can run; where it cannot, or there is none of that name, the error says which are wanted."""
    x = native(problem(BY_NAME["local_gate"], S=(5, 16), C=16, dtype=dtype, layout=layout)[0])
    for variant in ("pointers", "library"):
        assert local_dense.choose_variant(x, variant) == variant
    if support.is_read_by_descriptors(layout, dtype):
        assert local_dense.choose_variant(x, "descriptors") == "descriptors"
    else:
        with pytest.raises(ValueError, match=r'variant: "descriptors" needs x in 16 bits, channels_last'):
            local_dense.choose_variant(x, "descriptors")
    with pytest.raises(ValueError, match="variant: got 'winograd', expected auto, pointers, descriptors, library"):
        local_dense.choose_variant(x, "winograd")


CHOSEN = [  # target, layout, C, W -> the variant for float16
    (90, "channels_last", 128, 64, "descriptors"),
    (90, "channels_last", 128, 66, "pointers"),  # a tile would reach into the next row
    (80, "channels_last", 128, 64, "pointers"),
    (75, "channels_last", 128, 64, "library"),
    (90, "channels_last", 136, 64, "library"),
    (90, "contiguous", 128, 64, "library"),
]


@pytest.mark.parametrize("target, layout, C, W, expected", CHOSEN)
def test_the_variant_that_is_chosen(target, layout, C, W, expected):
    order = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.empty(1, C, 2, W, device="meta", memory_format=order)
    with planning_for(target):
        assert local_dense.choose_variant(x.half()) == expected
        assert local_dense.choose_variant(x) == "library"


@each_dense_variant
def test_variants_of_the_dense_local_gate(variant, layout, dtype, monkeypatch):
    """Whichever of them the problem and the GPU would choose. Of descriptors, more tiles of a row than one."""
    row = BY_NAME["local_gate"]
    S = (9, 70) if variant == "descriptors" else (5, 9)
    inputs = problem(row, S=S, C=16, dtype=dtype, layout=layout)
    assert takes_descriptors(native(inputs[0])) == support.is_read_by_descriptors(layout, dtype)
    monkeypatch.setattr(local_dense, "choose_variant", lambda x, _="auto": variant)
    assert_right(row, *inputs)


@each_row
def test_images_of_very_different_scale(row):
    """A small image next to a large one: an error that is small for the batch is large for its image."""
    x, *parameters = problem(row, N=4)
    scales = torch.tensor([1.0, 1e-3, 8.0, 0.1], device=DEVICE).reshape(4, *[1] * (x.dim() - 1))
    for dtype in (torch.float32, torch.bfloat16):
        assert_right(row, (x * scales).to(dtype), *(p.to(dtype) for p in parameters))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_row
def test_many_tiles(row, layout, dtype):
    """More pixels and channels than one program holds, in several images."""
    assert_right(row, *problem(row, S=(19, 23), C=20, N=2, dtype=dtype, layout=layout))


@each_gate
def test_programs_that_loop_over_tiles(row):
    """On one SM a program takes several tiles, and adds up the partial sums of all of them."""
    with planning_for(90, sms=1):
        for layout in ("contiguous", "channels_last"):
            assert_right(row, *problem(row, S=(17, 29), C=3, N=5, layout=layout))


@each_row
def test_constants_of_the_gate(row):
    specs = {"gate": [("hard_sigmoid", 0.2, 0.4)], "act": [("leaky_relu", 0.2, 0.0), ("hardswish", 0.25, 0.5)]}
    for option in set(specs) & set(row.options):
        for spec in specs[option]:
            assert_right(row, *problem(row), **{option: spec})
