"""How names and numbers are written, in plots, tables and pages alike."""

import math

PROVIDER_NAMES = {
    "segattn": "ours",
    "eager": "eager",
    "compile": "compiled",
    "compile-best": "best compiled",
    "flex": "FlexAttention",
    "natten": "NATTEN",
    "reference": "reference",
}
SHORT_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}
SHORT_LAYOUTS = {"contiguous": "NCHW"}
MODE_NAMES = {"fwd": "forward", "bwd": "backward", "train": "forward in training", "check": "forward and backward"}
TIMERS = {
    "events": "GPU events, cold L2",
    "graph": "GPU, CUDA graph",
    "cpu": "CPU",
    "launch": "CPU time of a launch",
    "check": "numerics",
    "predicted": "predicted",
}
DASH = "–"
TIE = "tie"


def provider(name: str) -> str:
    if name.startswith("segattn-"):
        return f"ours, {name.removeprefix('segattn-')}"
    return PROVIDER_NAMES.get(name, name)


def dtype(name: str) -> str:
    return SHORT_DTYPES.get(name, name)


def layout(name: str) -> str:
    return SHORT_LAYOUTS.get(name, name)


def mode(name: str) -> str:
    return MODE_NAMES.get(name, name)


def timer(name: str) -> str:
    return TIMERS.get(name, name)


def known(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def integer(value) -> str:
    return f"{int(value)}" if known(value) else DASH


def significant(value, digits: int = 3) -> str:
    """0.04213 -> "0.0421", 1234.5 -> "1235" """
    if not known(value):
        return DASH
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def times(value) -> str:
    return f"{significant(value)}×" if known(value) else DASH


def percent(value) -> str:
    return f"{100 * value:.0f} %" if known(value) else DASH


def scientific(value) -> str:
    return f"{value:.1e}" if known(value) else DASH


def amount(value) -> str:
    """Bytes: 1572864 -> "1.5 MiB" """
    if not known(value):
        return DASH
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1024


def size(row) -> str:
    """8×64×512×512"""
    return "×".join(integer(row[name]) for name in ("N", "C", "H", "W"))
