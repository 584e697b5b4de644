"""What a result or a bug report needs to know about the machine."""

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("segattn_triton", "torch", "triton", "numpy", "torchvision", "matplotlib", "nvidia-ml-py")
PREFIXES = ("TRITON_", "TORCH", "CUDA_", "NVIDIA_", "PYTORCH_", "OMP_NUM_THREADS")


def collect() -> dict[str, Any]:
    import torch

    return {
        "date": now(),
        "packages": versions(),
        "revision": revision(),
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": {"name": cpu_name(), "count": os.cpu_count(), "torch_threads": torch.get_num_threads()},
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "driver": driver_version(),
        "gpu": gpu(),
        "tf32": {
            "matmul": torch.backends.cuda.matmul.allow_tf32,
            "cudnn": torch.backends.cudnn.allow_tf32,
        },
        "triton": triton_state(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(PREFIXES) and "CACHE" not in k},
    }


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str | None]:
    """Of the packages that are installed, None for the others; torch's with its build, such as 2.13.0+cpu."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def revision() -> dict[str, Any] | None:
    """The git commit of the source that runs, if it runs from a checkout."""
    source = Path(__file__).resolve()

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", *args], cwd=source.parent, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", source.name) is None:
        return None
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def gpu() -> dict[str, Any] | None:
    """The GPU that torch uses, its limits and its state now."""
    import torch

    if not torch.cuda.is_available():
        return None
    index = torch.cuda.current_device()
    p = torch.cuda.get_device_properties(index)
    return {
        "name": p.name,
        "count": torch.cuda.device_count(),
        "capability": f"{p.major}.{p.minor}",
        "sms": p.multi_processor_count,
        "memory_bytes": p.total_memory,
        "l2_bytes": getattr(p, "L2_cache_size", None),
        **gpu_limits(index),
        "state": gpu_state(index),
    }


def _nvml(index: int, read) -> dict[str, Any]:
    """`read(nvml, handle)` where nvidia-ml-py is installed and finds torch's device, else nothing."""
    try:
        import pynvml as nvml
        import torch

        nvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(index).uuid
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except Exception:
        return {}
    found = {}
    for name, value in read(nvml, handle).items():
        try:
            found[name] = value()
        except (nvml.NVMLError, AttributeError):  # a driver, or a version of nvidia-ml-py, without it
            found[name] = None
    return found


def gpu_limits(index: int) -> dict[str, Any]:
    def read(nvml, h):
        return {
            "sm_mhz_max": lambda: nvml.nvmlDeviceGetMaxClockInfo(h, nvml.NVML_CLOCK_SM),
            "memory_mhz_max": lambda: nvml.nvmlDeviceGetMaxClockInfo(h, nvml.NVML_CLOCK_MEM),
            "power_limit_w": lambda: nvml.nvmlDeviceGetPowerManagementLimit(h) / 1000,
        }

    return _nvml(index, read)


def gpu_state(index: int) -> dict[str, Any]:
    """Clocks, power and temperature now."""

    def read(nvml, h):
        return {
            "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_SM),
            "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_MEM),
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(h) / 1000,
            "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(h, nvml.NVML_TEMPERATURE_GPU),
            "throttle_reasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(h),
        }

    return _nvml(index, read)


def driver_version() -> str | None:
    """Of the NVIDIA driver, asked without torch."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done and done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    try:
        import pynvml as nvml

        nvml.nvmlInit()
        return nvml.nvmlSystemGetDriverVersion() if nvml.nvmlDeviceGetCount() else None
    except Exception:
        return None


def unusable_gpu() -> str | None:
    """One line with the remedy if an NVIDIA GPU is here but torch cannot use it."""
    import torch

    if torch.cuda.is_available():
        return None
    driver = driver_version()
    if driver is None and not Path("/dev/nvidia0").exists():
        return None
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.version.cuda:
        remedy = "install a CUDA build of torch, see https://pytorch.org/get-started/locally"
    elif visible is not None and visible.strip() in ("", "-1"):
        remedy = f"CUDA_VISIBLE_DEVICES={visible!r} hides it: unset it"
    else:
        remedy = f"update the driver, or install a torch built for a CUDA version that driver {driver} supports"
    return (
        f"an NVIDIA GPU is here (driver {driver or 'not loaded'}), but torch {torch.__version__}, built {built}, "
        f"cannot use it; {remedy}; or measure the CPU with --cpu"
    )


def triton_state() -> dict[str, Any]:
    """Whether the kernels run here, in the interpreter or compiled, and what keeps them from running."""
    import torch

    from ...runtime.dispatch import _interpreting, _ops, _why_not_triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reason = _why_not_triton(torch.empty(1, device=device))
    interpreter = not isinstance(_ops(), ImportError) and _interpreting()
    compilers = map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))
    compiler = next(filter(None, compilers), None)
    found = {"runs": reason is None, "interpreter": interpreter, "reason": reason, "compiler": compiler}
    return found | ({"install": for_windows(torch.__version__)} if sys.platform == "win32" else {})


TRITON_OF = {(2, 11): "3.6", (2, 12): "3.7", (2, 13): "3.7", (2, 14): "3.8", (2, 15): "3.9"}  # torch -> Triton


def for_windows(torch_version: str) -> str:
    """How to install the release of triton-windows that goes with a torch; of a torch that is not known, the newest."""
    major, minor = (int(part) for part in torch_version.split(".")[:2])
    release = TRITON_OF.get((major, minor))
    if release is None:
        return "pip install triton-windows"
    series, number = release.split(".")
    return f'pip install "triton-windows>={release},<{series}.{int(number) + 1}"'


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()


def print_table(values: dict[str, Any]) -> None:
    from rich.table import Table

    from ..terminal import console

    table = Table(show_header=False, box=None)
    for name, value in _flat(values):
        table.add_row(name, "none" if value is None else str(value))
    console().print(table)


def _flat(values: dict[str, Any], prefix: str = ""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield prefix + name, value
