"""All gates in one network, in the company that networks keep: compilers, exporters and training."""

import copy
import io
import pickle
import re
from pathlib import Path

import pytest
import torch
from network import C, assert_all_close, assert_all_equal, gradients, images, network
from support import DEVICE, Alone, assert_equal, each_row, module_of
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.export import Dim
from torch.export.passes import move_to_device_pass
from torch.utils.checkpoint import checkpoint

import segattn_triton
from segattn_triton.catalog import ROWS
from segattn_triton.runtime import operator

RESOLUTIONS = ((5, 6), (7, 4), (8, 9), (4, 4), (12, 5))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@each_row
def test_no_recompilation_storm(row, training):
    """torch.compile as people call it: one graph for the first resolution, one for all others."""
    torch._dynamo.reset()
    counter, module = CompileCounter(), network([row])
    compiled = torch.compile(module, backend=counter)
    with torch.set_grad_enabled(training):
        for S in RESOLUTIONS:
            assert_all_close([compiled(images(S=S))], [module(images(S=S))])
    assert 1 <= counter.frame_count <= 2


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"])
@each_row
def test_no_hidden_copy_inside_a_compiled_network(row, memory_format):
    """The operator is fed the very buffer that the convolution before it wrote, in the layout that it wrote; of a
    projected map, one buffer with queries, keys and values."""
    from torch._inductor.utils import run_and_get_code

    torch._dynamo.reset()
    module = nn.Sequential(nn.Conv2d(3, C, 3), Alone(row, module_of(row, C)), nn.Conv2d(C, 2, 3)).to(DEVICE)
    module = module.to(memory_format=memory_format).requires_grad_(False)
    x = images(S=(9, 10)).contiguous(memory_format=memory_format)
    seen: list[tuple[int, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        for op in operator.OPERATORS.values():

            def spy(tensors, options, allocate=op.allocate):
                seen.append(tensors[0].stride())
                return allocate(tensors, options)

            patch.setattr(op, "allocate", spy)
        y, (code,) = run_and_get_code(torch.compile(module, fullgraph=True), x)
    assert_all_close([y], [module(x)])
    convolved = re.findall(r"(\w+) = extern_kernels\.convolution\(", code)
    convolved += re.findall(r"(\w+) = torch\.ops\.(?:mkldnn|mkl)\._convolution_pointwise\S*\(", code)
    for new, old in re.findall(r"(\w+) = (\w+); +del ", code):  # the same buffer, its bias added in place
        convolved += [new] if old in convolved else []
    (call,) = re.findall(r"torch\.ops\.segattn\.\w+\.default\((.*)\)", code)
    if "q" in row.inputs:
        views = re.findall(r"reinterpret_tensor\((\w+)", call)
        assert len(views) == 3 and len(set(views)) == 1, code
        return
    fed = re.findall(r"^\w+", call)
    assert fed[0] in convolved, code
    stride = re.search(rf"assert_size_stride\({fed[0]}, \([\d, ]+\), \(([\d, ]+)\)", code)
    assert stride is None or tuple(map(int, stride[1].split(","))) == seen[-1]


def exported(module: nn.Module) -> torch.export.ExportedProgram:
    """From 3 pixels on: of every second one, as a resized gate is given here, torch keeps one apart from more."""
    axes = {0: Dim("N"), 2: Dim("H", min=3), 3: Dim("W", min=3)}
    return torch.export.export(module, (images(),), dynamic_shapes=(axes,))


def test_export_saved_and_loaded(in_turn):
    """With dynamic N, H and W, through a file, and as plain torch operators."""
    module = network(in_turn(ROWS))
    buffer = io.BytesIO()
    torch.export.save(exported(module), buffer)
    buffer.seek(0)
    program = torch.export.load(buffer)
    plain = program.run_decompositions(segattn_triton.decompositions())
    assert not any(getattr(n.target, "namespace", "") == "segattn" for n in plain.graph.nodes)
    for N, S in ((4, (3, 9)), (3, (8, 8))):  # a norm over images needs two
        expected = [module(images(N, S))]
        assert_all_close([program.module()(images(N, S))], expected)
        assert_all_close([plain.module()(images(N, S))], expected)


@pytest.mark.skipif(torch.__version__ < "2.13", reason="the file is of torch 2.13")
def test_what_0_1_0_saved_loads():
    """A module of all gates of that release, each on x, with their results as they were: schemas never change."""
    program = torch.export.load(Path(__file__).parents[1] / "support" / "saved-0.1.0.pt2")
    saved = {str(n.target) for n in program.graph.nodes if getattr(n.target, "namespace", "") == "segattn"}
    assert len(saved) == 9
    program = move_to_device_pass(program, DEVICE)
    ((x,), _), expected = program.example_inputs, program.state_dict["expected"]
    assert_all_close([program.module()(x.to(DEVICE))], [expected])
    plain = program.run_decompositions(segattn_triton.decompositions())
    assert_all_close([plain.module()(x.to(DEVICE))], [expected])


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant, in_turn):
    module, x = network(in_turn(ROWS)), images().requires_grad_()

    def run(gate, t):
        return checkpoint(gate, t, use_reentrant=use_reentrant)

    # a gate of two maps adds up x's gradients before the rest of the network does
    same = assert_all_close if use_reentrant else assert_all_equal
    same(gradients(module, x, lambda t: module(t, run)), gradients(module, x))


def test_deepcopy_and_pickle(in_turn):
    """Before and after a forward and backward: nothing that cannot be copied is kept."""
    module, x = network(in_turn(ROWS)), images()
    expected = gradients(module, x)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
        torch.optim.swa_utils.AveragedModel(module).module,
    ):
        assert_all_equal(gradients(twin, x), expected)
        with torch.no_grad():
            next(twin.parameters()).add_(1)
    assert_all_equal(gradients(module, x), expected)


def test_inference_mode(in_turn):
    module, x = network(in_turn(ROWS)), images()
    expected = module(x).detach()
    with torch.inference_mode():
        y = module(x)
        assert y.is_inference()
        assert_equal(module(images()), expected)
    assert_equal(y, expected)
    frozen = module(y[:, :1].clone().expand(-1, 3, -1, -1))  # a normal tensor made from an inference tensor
    assert frozen.requires_grad
