"""`segattn kernels`: what the compiler makes of every kernel, compiled ahead of time; no GPU is needed, none is used.

One line a kernel of each op's first named case. "wide" is the share of feature-map bytes in accesses of 128 bits or
more; "per SM" the programs that a multiprocessor holds; "issue" the picoseconds an element of the map below which the
instructions cannot be issued, counted once each as if nothing looped; "DRAM" those below which the plan's traffic of
the maps cannot move. Both floors are computed for an H200, not measured.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated, Optional

import typer
from rich.table import Table

COLUMNS = (
    "op",
    "layout",
    "kernel",
    "config",
    "registers",
    "spills",
    "shared",
    "wide",
    "matrix",
    "per SM",
    "inst/elem",
    "issue ps",
    "DRAM ps",
)
LEFT = ("op", "layout", "kernel", "config", "matrix")
Names = Optional[list[str]]  # noqa: UP045, typer of Python 3.10 reads it at run time


def kernels(
    op: Annotated[Names, typer.Option(help="Ops, repeated or with commas; all by default.")] = None,
    arch: Annotated[str, typer.Option(help="Compute capability, 75 to 120, or gfx942.")] = "90",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16, float32, float64.")] = "bfloat16",
    layout: Annotated[Names, typer.Option(help="contiguous, channels_last; both by default.")] = None,
) -> None:
    """Registers, spills, access widths and floors of every kernel, as compiled; no GPU needed."""
    from ...tuning.target import SHARED
    from .. import options, terminal

    ops, layouts = (tuple(name.strip() for v in values or () for name in v.split(",")) for values in (op, layout))
    ops = options.choose_ops(ops)
    layouts = options.choose("--layout", layouts, options.LAYOUTS.values(), options.LAYOUTS)
    (dtype,) = options.choose("--dtype", [dtype], options.DTYPES.values(), options.DTYPES)
    options.choose("--arch", [arch], (*map(str, SHARED), "gfx942"))
    if (arch, dtype) == ("75", "bfloat16"):
        raise options.Usage("--dtype: got bfloat16 for --arch 75, which has none; expected float16 or float32")
    terminal.console().print(
        table(ops, int(arch) if arch.isdigit() else arch, dtype, layouts or tuple(options.LAYOUTS.values()))
    )


def table(
    ops: Sequence[str],
    arch: int | str = 90,
    dtype: str = "bfloat16",
    layouts: Sequence[str] = ("contiguous", "channels_last"),
) -> Table:
    """The kernels of these ops, forward and backward, for their first named case. Compiles in this process."""
    from triton import knobs

    from ...catalog import BY_NAME
    from ..options import Usage

    if knobs.runtime.interpret:
        raise Usage("TRITON_INTERPRET: set, so that nothing would be compiled; expected it unset")
    name = f"sm_{arch}" if isinstance(arch, int) else f"{arch}, compiled, never run"
    result = Table(title=f"Kernels for {name}, {dtype}", title_justify="left")
    for column in COLUMNS:
        justify = "left" if column in LEFT else "right"
        result.add_column(column, justify=justify, overflow="fold", no_wrap=column in ("op", "kernel"))
    for op in ops:
        for layout in layouts:
            for line in _lines(BY_NAME[op], arch, dtype, layout):
                result.add_row(op, {"contiguous": "NCHW", "channels_last": "NHWC"}.get(layout, layout), *line)
        result.add_section()
    return result


def _lines(row, arch: int | str, dtype: str, layout: str) -> Iterator[list[str]]:
    import torch

    from ... import compiled as static

    sizes = row.cases[0].sizes
    maps = static.map_sizes(row, sizes)
    for plan in chain(*static.plans(row, sizes, getattr(torch, dtype), layout, arch)):
        config = " ".join(f"{k.removeprefix('BLOCK_')}{v}" for k, v in plan.config.blocks.items())
        compiled = static.compile_plan(plan, arch)
        line = [plan.name, f"{config} w{plan.config.num_warps} s{plan.config.num_stages}"]
        if not isinstance(arch, int):
            yield line + ["-", "-", str(compiled.shared)] + ["-"] * 6
            continue
        wide, elements = compiled.wide_share(maps), compiled.elements(maps)
        yield line + [
            str(compiled.registers),
            f"[red]{compiled.spills}[/red]" if compiled.spills else "0",
            str(compiled.shared),
            "-" if wide is None else f"{wide:.0%}",
            ", ".join(compiled.matrix) or "-",
            str(compiled.programs_per_sm),
            *(
                "-" if value is None else f"{value:.3g}"
                for value in (
                    compiled.instructions / elements if elements else None,
                    compiled.issue_floor(maps),
                    compiled.dram_floor(maps),
                )
            ),
        ]
