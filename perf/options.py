"""The options of `segattn report`, and the one-line errors of every command."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..catalog import BY_NAME, ROWS

OPS = tuple(row.name for row in ROWS)  # by default: wide windows are asked for by name
PRESETS = {"quick": 270.0, "full": 3600.0}  # budget in seconds
DTYPE_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}
LAYOUT_NAMES = {"nchw": "contiguous", "nhwc": "channels_last"}
MODES = ("fwd", "bwd")
LAUNCH_MODE = "launch"  # the CPU time of a call, instead
LEAST_BUDGET = 60.0  # seconds: the page alone takes some


class Usage(Exception):
    """Wrong usage, in one line that names the option, what was given and what is wanted."""


class Failure(Exception):
    """What a command found wrong, or could not do, in one line."""


@dataclass(frozen=True)
class Options:
    """What `segattn report` measures. An empty tuple stands for all of it, as the preset and the machine choose."""

    ops: Sequence[str] = ()
    preset: str = "quick"
    dtypes: Sequence[str] = ()
    layouts: Sequence[str] = ()
    modes: Sequence[str] = ()
    image: Path | None = None
    budget: float | None = None
    out: Path = field(default=Path("report"))
    resume: bool = False
    cpu: bool = False
    tune: bool = True
    sides: Sequence[int] = ()  # resolutions, most valuable first
    channels: Sequence[int] = ()

    def checked(self) -> "Options":
        """The same with full names and every choice made, or a Usage error."""
        choose("--preset", [self.preset], PRESETS)
        budget = PRESETS[self.preset] if self.budget is None else self.budget
        check_budget(budget, LEAST_BUDGET)
        return replace(
            self,
            ops=choose_ops(self.ops),
            dtypes=choose("--dtype", self.dtypes, DTYPE_NAMES.values(), DTYPE_NAMES),
            layouts=choose("--layout", self.layouts, LAYOUT_NAMES.values(), LAYOUT_NAMES)
            or tuple(LAYOUT_NAMES.values()),
            modes=choose("--mode", self.modes, (*MODES, LAUNCH_MODE)) or MODES,
            image=readable_image(self.image),
            budget=float(budget),
            out=writable(Path(self.out)),
        )

    def told(self) -> dict[str, Any]:
        """What a report says that it was asked for: not where on a machine its own folder and the image lie."""
        values = asdict(self)
        del values["out"]
        return values | {"image": self.image and Path(self.image).name}


def check_budget(budget: float, least: float) -> None:
    if not least <= budget < math.inf:
        raise Usage(f"--budget: got {budget:g}, expected at least {least:g} seconds")


def short(value: int) -> str:
    """A number in a line, however long it is."""
    return f"a number of {value.bit_length()} bits" if value.bit_length() > 64 else str(value)


def choose(option: str, given: Sequence[str], allowed, aliases=()) -> tuple[str, ...]:
    """The given values without repeats, aliases spelt out."""
    chosen = [dict(aliases).get(value, value) for value in given]
    for value, full in zip(given, chosen, strict=True):
        if full not in allowed:
            also = f" (or {', '.join(aliases)})" if aliases else ""
            raise Usage(f"{option}: got {value!r}, expected one of {', '.join(allowed)}{also}")
    return tuple(dict.fromkeys(chosen))


def choose_ops(given: Sequence[str]) -> tuple[str, ...]:
    return choose("--op", given, BY_NAME) or OPS


def writable(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Usage(f"--out: cannot write to {out}: {error.strerror}; expected a folder that can be written") from None
    return out


def readable_image(path: Path | None) -> Path | None:
    if path is None:
        return None
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise Usage(f"--image: cannot read {path}: {reason}; expected an image, such as a JPEG or PNG file") from None
    return Path(path)
