"""Launches through Triton's own launcher, with a driver (libcuda.c) that notes them. Runs in processes of its own.

What a launch hands to the driver, byte by byte, is what its plan says; and a call that runs its program hands
over what it would have if it had been planned.

Run as a script, it prints the microseconds of this CPU from a public function to the driver, per call.
"""

import os
import sys

if "triton" not in sys.modules:  # not pytest's own process, where Triton interprets
    os.environ.pop("TRITON_INTERPRET", None)

import contextlib
import ctypes
import importlib.util
import re
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from segattn_triton import compiled
from segattn_triton.catalog import BY_NAME
from segattn_triton.kernels.common.activations import Activation
from segattn_triton.runtime import dispatch, known
from segattn_triton.runtime.plan import Plan, launch, recorded
from segattn_triton.runtime.program import Program
from segattn_triton.runtime.run import Run
from segattn_triton.testing import make_inputs
from segattn_triton.tuning import choice as tuning
from segattn_triton.tuning import target
from segattn_triton.tuning.tables import Table

torch.set_num_threads(1)
SIZES = {"N": 2, "C": 32, "S": (8, 64), "Cr": 6}
NUMBERS = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8}
DESCRIPTOR = 128  # bytes of a tensor map; the driver leaves the pointer in the first 8


class _Launch(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("function", "where")]
    _fields_ += [(n, ctypes.c_uint32) for n in ("programs", "threads", "shared", "size", "dependent", "padding")]


class Launched(NamedTuple):
    """What reached the driver."""

    function: int
    programs: int
    threads: int
    arguments: bytes
    dependent: bool = False  # on the GPU before what it follows has ended


class Driver:
    """Triton's driver for NVIDIA GPUs, of compute capability 9.0, on libcuda.c; CPU tensors pass for a GPU's."""

    def __init__(self):
        folder = Path(tempfile.mkdtemp())
        self.library = _build(folder)
        triton.knobs.nvidia.libcuda_path = str(folder)
        torch._C._cuda_getCurrentRawStream = lambda device: 0
        torch.cuda.current_device = lambda: 0
        torch.cuda.get_device_capability = lambda device=None: (9, 0)
        from triton.backends.nvidia.driver import CudaDriver

        driver.set_active(CudaDriver())
        triton.knobs.runtime.kernel_load_end_hook.add(self._loaded)
        dispatch._interpreting = lambda: True

    def _loaded(self, module, function, name, files, key) -> None:
        """Tell the library the sizes of the kernel's parameters, as its PTX declares them."""
        ptx = next(Path(path).read_text() for file, path in files.items() if file.endswith(".ptx"))
        declared = re.search(r"\.entry \w+\((.*?)\)", ptx, re.S).group(1)
        sizes = [
            int(count) if count else int(bits) // 8
            for bits, count in re.findall(r"\.param (?:\.align \d+ )?\.[bufs](\d+)[^,\[]*(?:\[(\d+)\])?", declared)
        ]
        self.library.fake_describe(ctypes.c_uint64(function), len(sizes), (ctypes.c_int * len(sizes))(*sizes))

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """A stream that captures a CUDA graph: the driver takes launches, and loads no kernel."""
        before, target.is_capturing = target.is_capturing, lambda device: True
        self.library.fake_capture(1)
        try:
            yield
        finally:
            self.library.fake_capture(0)
            target.is_capturing = before

    @property
    def loaded(self) -> int:
        """How many kernels were loaded."""
        return self.library.fake_loaded()

    def forget(self) -> None:
        self.library.fake_forget()

    def launched(self) -> list[Launched]:
        found = []
        for i in range(self.library.fake_launches()):
            its, arguments = _Launch(), ctypes.create_string_buffer(1 << 14)
            self.library.fake_launch(ctypes.c_uint64(i), ctypes.byref(its), arguments)
            found.append(
                Launched(its.function, its.programs, its.threads, arguments.raw[: its.size], bool(its.dependent))
            )
        return found


def _build(folder: Path) -> ctypes.CDLL:
    """libcuda.so.1, loaded under that name before anything else asks for it."""
    include = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    compiler, out = shutil.which("cc") or shutil.which("gcc"), folder / "libcuda.so.1"
    source = Path(__file__).with_name("libcuda.c")
    options = ["-O1", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", f"-I{include}"]
    subprocess.run([compiler, *options, str(source), "-o", str(out)], check=True)
    library = ctypes.CDLL(str(out), mode=ctypes.RTLD_GLOBAL)
    library.fake_launches.restype = library.fake_loaded.restype = ctypes.c_uint64
    return library


_driver: Driver | None = None  # one for the process: a kernel stays bound to the driver that it was loaded with


def active() -> Driver:
    global _driver
    _driver = _driver or Driver()
    _driver.forget()
    return _driver


def planned_bytes(plan: Plan) -> bytes:
    """The arguments that the driver should get for a plan: its pointers and integers, and two scratch pointers."""
    values = {**plan.args, **plan.config.blocks}
    parts = [_bytes(values[name], type_) for name, type_ in compiled.source_of(plan).signature.items()]
    return b"".join(parts) + bytes(16)


def _bytes(value, type_) -> bytes:
    if type_ == "constexpr":
        return b""
    if isinstance(type_, tuple):
        return b"".join(map(_bytes, value, type_))
    if isinstance(value, TensorDescriptor):
        pointer = value.base.data_ptr().to_bytes(8, "little")
        shape = b"".join(s.to_bytes(4, "little") for s in value.shape)
        return pointer + bytes(DESCRIPTOR - 8) + shape + b"".join(s.to_bytes(8, "little") for s in value.strides)
    if isinstance(value, Tensor):
        return value.data_ptr().to_bytes(8, "little")
    return int(value).to_bytes(NUMBERS[type_], "little", signed=True)


def launched_as_planned(problem: tuple[str, str, str]) -> list[str]:
    """Where the launches of (row, dtype, layout) differ from its plans, forward and backward."""
    (row, inputs, dy), gpu, wrong = _problem(*problem, seed=0), active(), []
    with recorded() as plans:
        y = row.op(*inputs, backend="triton", **row.defaults)
        torch.autograd.grad(y, inputs, dy)
    for plan, (_, programs, threads, arguments, dependent) in zip(plans, gpu.launched(), strict=True):
        if dependent != plan.options.get("launch_pdl", False):
            wrong.append(f"{plan.name}: launched dependently: {dependent}")
        if (programs, threads) != (plan.grid, 32 * plan.config.num_warps):
            wrong.append(f"{plan.name}: launched {programs} programs of {threads} threads")
        if arguments != (expected := planned_bytes(plan)):
            wrong.append(f"{plan.name}: launched with {arguments.hex(' ', 4)}, planned {expected.hex(' ', 4)}")
    return wrong if plans else ["nothing was launched"]


def repeated_as_planned(problem: tuple[str, str, str]) -> list[str]:
    """Where a call that runs its program launches anything but what it would if it were planned."""
    (row, *first), (_, *second) = (_problem(*problem, seed=seed) for seed in (0, 1))
    wrong = []
    _launches(row, *first, True)  # the first call of a process reads the tables, with which descriptions change
    for grad in (False, True):
        known.programs.clear()
        for _ in range(2):
            _launches(row, *first, grad)
        wrong += [f"no program of {key[0]}" for key, value in known.programs.items() if isinstance(value, str)]
        before = set(known.programs)
        repeated = _launches(row, *second, grad)
        if set(known.programs) != before:
            wrong.append("the third call did not run the second's program")
        known.programs.clear()
        planned = _launches(row, *second, grad)
        for ours, theirs in zip(repeated, planned, strict=True):
            wrong += _differences(ours, theirs)
    return wrong


def _launches(row, inputs: list[Tensor], dy: Tensor, grad: bool) -> list[tuple[list[Launched], list[int]]]:
    """Of a forward and, with gradients, of its backward: what was launched, and the pointers of the tensors known."""
    with _keeping_all():
        return _launches_of(row, inputs, dy, grad)


@contextlib.contextmanager
def _keeping_all() -> Iterator[None]:
    """No memory between kernels is another tensor's later: a call that is planned frees it as it goes."""
    kept, empty = [], Run.empty

    def keeping(run: Run, made: Tensor) -> Tensor:
        kept.append(made)
        return empty(run, made)

    with patch.object(Run, "empty", keeping):
        yield


def _launches_of(row, inputs: list[Tensor], dy: Tensor, grad: bool) -> list[tuple[list[Launched], list[int]]]:
    gpu, runs = active(), []
    with torch.set_grad_enabled(grad):
        y = row.op(*inputs, backend="triton", **row.defaults)
    runs.append((gpu.launched(), [t.data_ptr() for t in (*inputs, y)]))
    if grad:
        gpu.forget()
        grads = torch.autograd.grad(y, inputs, dy)
        runs.append((gpu.launched(), [t.data_ptr() for t in (*inputs, y, dy, *grads)]))
    return runs


def _differences(repeated: tuple, planned: tuple) -> list[str]:
    """Of two runs: all is equal but the pointers, and what stands for one pointer never stands for another."""
    (launches, ours), (expected, theirs) = repeated, planned
    if len(launches) != len(expected) or not launches:
        return [f"{len(launches)} launches, planned {len(expected)}"]
    pairs, wrong = dict(zip(ours, theirs, strict=True)), []
    for a, b in zip(launches, expected, strict=True):
        u, v = (_without_pointers(run.arguments) for run in (a, b))
        if (*a[:3], a.dependent) != (*b[:3], b.dependent) or u != v:
            wrong.append(f"launched {a[:3]} with {u.hex(' ', 4)}, planned {b[:3]} with {v.hex(' ', 4)}")
        found, known_as = (dict(_pointers(run.arguments)) for run in (a, b))
        for at in sorted(found.keys() & known_as.keys()):
            if pairs.setdefault(found[at], known_as[at]) != known_as[at]:
                wrong.append(f"a pointer at byte {at} is another tensor's")
    return wrong


def _pointers(arguments: bytes) -> Iterator[tuple[int, int]]:
    """Places and values. Half of one and the integer beside it are none, whatever they look like."""
    at = 0
    while at + 8 <= len(arguments):
        value = int.from_bytes(arguments[at : at + 8], "little")
        if 1 << 40 < value < 1 << 48:
            yield at, value
            at += 4
        at += 4


def _without_pointers(arguments: bytes) -> bytes:
    out = bytearray(arguments)
    for at, _ in _pointers(arguments):
        out[at : at + 8] = bytes(8)
    return bytes(out)


CALLS_BEFORE_CAPTURE = 1  # as the pages say
TOO_EARLY = "captures a CUDA graph; expected the same call"


def captured_as_planned(problem: tuple[str, str, str]) -> list[str]:
    """What is wrong with captures of (row, dtype, layout), forward and backward: before any call, after a forward,
    after as many calls as the pages say; and with calls after that."""
    (row, inputs, dy), gpu = _problem(*problem, seed=0), active()

    def run() -> list[tuple[list[Launched], list[int]]]:
        return _launches(row, inputs, dy, True)

    with recorded() as plans:
        run()
    known.programs.clear()
    for plan in plans:
        plan.kernel.device_caches.clear()  # and so its next launch loads it
    wrong, error = _captured(run)
    wrong += [f"before any call: {error}"] if TOO_EARLY not in str(error) or "\n" in str(error) else []
    row.op(*inputs, backend="triton", **row.defaults)
    found, error = _captured(run)
    wrong += found + ([f"after a forward alone: {error}"] if error and TOO_EARLY not in str(error) else [])
    for _ in range(CALLS_BEFORE_CAPTURE):
        planned = run()
    with gpu.capture():
        captured = run()
    for launched in (captured, run(), run(), run()):
        for ours, theirs in zip(launched, planned, strict=True):
            wrong += _differences(ours, theirs)
    return wrong


def _captured(run: Callable[[], Any]) -> tuple[list[str], RuntimeError | None]:
    """What a capture loaded and wrote, and why it failed."""
    gpu, error = active(), None
    before = gpu.loaded, _programs()
    with gpu.capture():
        try:
            run()
        except RuntimeError as raised:
            error = raised
    after = gpu.loaded, _programs()
    return [] if after == before else [f"a capture: {after} kernels loaded and programs, before {before}"], error


def _programs() -> int:
    return sum(isinstance(value, Program) for value in known.programs.values())


def _problem(name: str, dtype: str, layout: str, seed: int):
    row = BY_NAME[name]
    inputs = make_inputs(row, SIZES, getattr(torch, dtype), layout=layout, seed=seed)
    inputs = [t.requires_grad_() for t in inputs]
    with torch.no_grad():
        dy = torch.zeros_like(row.reference(*inputs, **row.defaults))
    return row, inputs, dy


def dependent_launches(problem: tuple[str, str, str]) -> tuple[list[str], list[str]]:
    """Where launches differ from their plans, and from a repeated call's, with every kernel dependent that can be; and
    those that were launched so."""
    with tuning.using([Table("", 90, dependent=dict.fromkeys(tuning.SPACES, True))]):
        wrong = launched_as_planned(problem) + repeated_as_planned(problem)
        row, inputs, dy = _problem(*problem, seed=0)
        with recorded() as plans:
            torch.autograd.grad(row.op(*inputs, backend="triton", **row.defaults), inputs, dy)
    return wrong, [plan.name for plan in plans if plan.options.get("launch_pdl")]


def prepared_points(_) -> list[tuple[str, list[str], list[str]]]:
    """Of each point of the prepared step: its name, and what is launched early with its table off, and on."""
    from segattn_triton.perf.measure.rehearsal import Rehearsal
    from segattn_triton.perf.prepared import dependent

    backend, found = Rehearsal(), []
    for p in dependent.points():
        each = []
        for on in (False, True):
            with dependent.choosing(dependent.kernels_of(p, backend), on, backend):
                each.append(dependent.early(p, backend))
        found.append((dependent.name(p), *each))
    return found


def compiled_per_source(_) -> list[int]:
    """The kernels that one plan launches under sources z + a, z - a and again z + a of its gate, numbered."""
    gpu, row = active(), BY_NAME["spatial_pool_gate"]
    with recorded() as plans:
        row.op(torch.zeros(1, 8, 4, 4), backend="triton", **row.defaults)
    gpu.forget()
    with tempfile.TemporaryDirectory() as folder:
        for body in ("z + a", "z - a", "z + a"):
            args = {**plans[0].args, "GATE": _gate(Path(folder), body)}
            launch(Plan(plans[0].kernel, args, plans[0].config, plans[0].grid))
    functions = [launched.function for launched in gpu.launched()]
    return [functions.index(f) for f in functions]


def _gate(folder: Path, body: str) -> Activation:
    """An activation of a file whose text may change: f(z, a, b) = body."""
    file = folder / "gates.py"
    file.write_text(f"import triton\n\n\n@triton.jit\ndef f(z, a, b):\n    return {body}\n")
    spec = importlib.util.spec_from_file_location(f"gates_{zlib.crc32(body.encode())}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Activation(module.f, module.f, 1.0, 0.0)


def microseconds(call: Callable[[], Any], repeats: int = 50, rounds: int = 40) -> float:
    """CPU time of a call, the least of some rounds: what else the machine does takes time from it, and gives none."""

    def one() -> float:
        start = time.process_time()
        for _ in range(repeats):
            call()
        return (time.process_time() - start) / repeats * 1e6

    return min(one() for _ in range(rounds))


def overheads(row) -> tuple[float, float, float]:
    """Microseconds of a call on a small map: without gradients, with them, and with the backward."""
    inputs = make_inputs(row, {"N": 1, "C": 32, "S": (8, 16), "Cr": 8}, torch.float16)
    leaves = [t.detach().requires_grad_() for t in inputs]

    def forward():
        return row.op(*leaves, backend="triton", **row.defaults)

    dy = torch.zeros_like(forward())
    with torch.no_grad():
        alone = microseconds(forward)
    return alone, microseconds(forward), microseconds(lambda: torch.autograd.grad(forward(), leaves, dy))


if __name__ == "__main__":
    active()
    print(f"{'microseconds of CPU per call':30s}{'no gradient':>12s}{'forward':>12s}{'and backward':>14s}")
    for row in BY_NAME.values():
        print(f"{row.name:30s}" + "{:12.1f}{:12.1f}{:14.1f}".format(*overheads(row)), flush=True)
