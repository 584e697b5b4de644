"""What is deployed: ONNX by both exporters, run by ONNX Runtime and by OpenVINO, and AOTInductor's package, run by a
program without Python. Every row of the catalog, and models whose gates are accelerated."""

import copy
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
import torchvision_cpu
from network import C, assert_all_close, images, network
from support import Alone, each_row, module_of
from torch import Tensor, nn
from torch.export import Dim

import segattn_triton as sat
from segattn_triton.catalog import ROWS
from segattn_triton.testing import make_inputs

pytestmark = pytest.mark.interop
HERE = Path(__file__).parents[1]
AXES = {0: "N", 2: "H", 3: "W"}
SIZES = ((2, (5, 6)), (3, (8, 7)))


def trained(module: nn.Module) -> nn.Module:
    """In eval, the norms of the batch with statistics that they moved to."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(generator=generator)
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
    return module.eval()


class Gated(nn.Module):
    """A gate between convolutions, and its own input added."""

    def __init__(self, row, backend: str | None):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 2, 1)
        self.gate = trained(Alone(row, module_of(row, C, backend=backend).cpu()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.gate(x))


def _torchvision() -> nn.Module:
    from torchvision import models

    return models.mobilenet_v3_small(weights=None)


def _timm() -> nn.Module:
    import timm

    return timm.create_model("resnet10t", block_args=dict(attn_layer="cbam"), num_classes=3)


def _smp() -> nn.Module:
    import segmentation_models_pytorch as smp

    options = dict(encoder_weights=None, encoder_depth=3, decoder_channels=(32, 16, 16), decoder_attention_type="scse")
    return smp.Unet("tu-mobilenetv3_small_050", **options)


MODELS = {"torchvision": _torchvision, "timm": _timm, "smp": _smp}
each_model = pytest.mark.parametrize("name", MODELS)
each_exporter = pytest.mark.parametrize("exporter", ["export", "trace"])
RESOLUTIONS = ((2, (64, 64)), (3, (96, 64)))


def model(name: str) -> tuple[nn.Module, nn.Module]:
    """(as it is, accelerated)"""
    torchvision_cpu.install()
    torch.manual_seed(0)
    plain = MODELS[name]().eval()
    accelerated = sat.accelerate(copy.deepcopy(plain))
    assert any(row.status == "accelerated" for row in sat.acceleration_report(accelerated))
    return plain, accelerated


def onnx_of(module: nn.Module, x: Tensor, exporter: str, file: Path) -> Path:
    """The file, with N, H and W dynamic: by torch.export, or by the older exporter, which traces."""
    pytest.importorskip("onnxscript")
    names = dict(input_names=["x"], output_names=["y"], verbose=False)
    if exporter == "trace":
        torch.onnx.export(module, (x,), file, dynamo=False, dynamic_axes={"x": AXES}, **names)
    else:
        shapes = ({axis: Dim.DYNAMIC for axis in AXES},)
        program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=shapes, optimize=False, **names)
        program.save(file)
    return file


def by_onnxruntime(file: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def by_openvino(file: Path):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(file), "CPU", exact)
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])


@each_exporter
@each_row
def test_onnx(row, exporter, tmp_path):
    """The definition is exported, also where kernels are asked for; ONNX Runtime gives its numbers at other sizes."""
    run = by_onnxruntime(onnx_of(Gated(row, "triton").eval(), images(2).cpu(), exporter, tmp_path / "gate.onnx"))
    for N, S in SIZES:
        x = images(N, S).cpu()
        assert_all_close([run(x)], [Gated(row, "reference").eval()(x).detach()])


class Called(nn.Module):
    """A function with its parameters and options as constants, of its maps."""

    def __init__(self, row, inputs: dict[str, Tensor], options: dict):
        super().__init__()
        self.op, self.inputs, self.options, self.maps = row.op, inputs, options, row.maps

    def forward(self, *maps: Tensor):
        tensors = {**self.inputs, **dict(zip(self.maps, maps, strict=True))}
        return self.op(*tensors.values(), **self.options)


@each_row
def test_onnx_of_every_option(row, tmp_path):
    """Traced, each value of each option: an image more is no other graph, and the second output is one."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    sizes = {"C": C, "S": (6, 7), "Cr": 2}
    asked = [{name: value} for name, values in row.options.items() for value in values[1:]] + [dict(row.both)]
    for options in asked:
        given = []
        for N in (2, 3):
            known = {**sizes, "N": N}
            given.append(dict(zip(row.shapes(known), make_inputs(row, known, torch.float32), strict=True)))
        names, file = [*row.maps], tmp_path / "op.onnx"
        maps = [tuple(inputs[name].detach() for name in names) for inputs in given]
        held = {name: t.detach() for name, t in given[0].items()}
        dynamic = {name: {0: "N"} for name in names}
        torch.onnx.export(
            Called(row, held, options), maps[0], file, dynamo=False, input_names=names, dynamic_axes=dynamic
        )
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        found = session.run(None, {name: t.numpy() for name, t in zip(names, maps[1], strict=True)})
        expected = Called(row, held, {**options, "backend": "reference"})(*maps[1])
        expected = expected if isinstance(expected, tuple) else (expected,)
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(got), want, rtol=1e-4, atol=1e-5, msg=lambda m, o=options: f"{o}: {m}"
            )


@each_row
def test_openvino(row, tmp_path):
    run = by_openvino(onnx_of(Gated(row, None).eval(), images(2).cpu(), "export", tmp_path / "gate.onnx"))
    for N, S in SIZES:
        x = images(N, S).cpu()
        assert_all_close([run(x)], [Gated(row, "reference").eval()(x).detach()])


def shape_of(file: Path) -> list[tuple]:
    """A file's operators in order with their attributes, and the shapes of its constants: names aside."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(file).graph
    nodes = [(n.op_type, sorted(a.SerializeToString() for a in n.attribute)) for n in graph.node]
    return nodes + [(tuple(t.dims), t.data_type) for t in graph.initializer]


@each_exporter
@each_model
def test_onnx_of_accelerated_models(name, exporter, tmp_path):
    """The file of the accelerated model is that of the original, node names aside, and runs in both runtimes."""
    plain, accelerated = model(name)
    x = images(2, (64, 64)).cpu()
    files = [onnx_of(m, x, exporter, tmp_path / f"{i}.onnx") for i, m in enumerate((plain, accelerated))]
    assert shape_of(files[0]) == shape_of(files[1])
    runs = [by_onnxruntime(files[1])] + ([by_openvino(files[1])] if exporter == "export" else [])
    for N, S in RESOLUTIONS:
        x = images(N, S).cpu()
        with torch.no_grad():
            expected = plain(x)
        for run in runs:
            torch.testing.assert_close(run(x), expected, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """aoti_run, linked with torch alone."""
    target, root = tmp_path_factory.mktemp("program") / "aoti_run", Path(torch.__file__).parent
    include, lib = root / "include", root / "lib"
    words = ["-O1", "-std=c++20", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    words += [f"-I{include}", f"-I{include}/torch/csrc/api/include", f"-L{lib}", f"-Wl,-rpath,{lib}"]
    source = HERE / "support" / "aoti_run.cpp"
    compiler = (sysconfig.get_config_var("CXX") or "g++").split()[0]
    libraries = ["-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([compiler, *words, str(source), "-o", str(target), *libraries], check=True)
    return target


@pytest.mark.parametrize("name", ["rows", *MODELS])
def test_without_python(name, program, tmp_path):
    """Exported, saved, loaded, taken apart, packaged for a CPU, and run by a program that has no Python."""
    if name == "rows":
        module, expected = (trained(network(ROWS, backend).cpu()) for backend in ("triton", "reference"))
        example, sizes = images(2).cpu(), SIZES
    else:
        expected, module = model(name)
        example, sizes = images(2, (64, 64)).cpu(), RESOLUTIONS
    shapes = ({axis: Dim.DYNAMIC for axis in AXES},)
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=shapes), tmp_path / "exported.pt2")
    plain = torch.export.load(tmp_path / "exported.pt2").run_decompositions(sat.decompositions())
    package = torch._inductor.aoti_compile_and_package(plain, package_path=str(tmp_path / "compiled.pt2"))
    for N, S in sizes:
        x = images(N, S).cpu()
        torch.save(x, tmp_path / "x.pt")
        files = [package, tmp_path / "x.pt", tmp_path / "y.pt"]
        subprocess.run([program, *files], check=True, env={"OMP_NUM_THREADS": "1"}, timeout=120)
        with torch.no_grad():
            torch.testing.assert_close(torch.load(files[-1]), expected(x), rtol=1e-3, atol=1e-4)
