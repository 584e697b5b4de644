"""`segattn kernels`: what the compiler makes of every kernel, compiled ahead of time; no GPU is needed, none is used.

One line a kernel of each op's first named case. "wide" is the share of feature-map bytes in accesses of 128 bits or
more; "per SM" the programs that a multiprocessor holds; "waves" the launch over what all of them hold; "trips" the
round trips to DRAM that a warp waits for with nothing else to do. Attention by tiles says beside its config how many
of the scores that it computes lie in windows, after padding. "us" is the account of the launch (`perf/account`)
for a common GPU of the architecture, "of floor" the time of its bytes alone over that, and "limit" what limits it:
predicted from machine code, not measured. sm_75, AMD and products in tensor memory have no account.
"""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from rich.console import Group

    from ..terminal import TableRow

HEAD = ("", "config", "registers", "spills", "shared", "wide", "per SM", "waves", "trips", "us", "of floor", "limit")
SHORT_LAYOUTS = {"contiguous": "NCHW", "channels_last": "NHWC"}
Names = Optional[list[str]]  # noqa: UP045, typer of Python 3.10 reads it at run time


def kernels(
    op: Annotated[Names, typer.Option(help="Ops, repeated or with commas; all by default.")] = None,
    arch: Annotated[str, typer.Option(help="Compute capability, 75 to 120, or gfx942, gfx1100.")] = "90",
    dtype: Annotated[str, typer.Option(help="bfloat16, float16, float32, float64.")] = "bfloat16",
    layout: Annotated[Names, typer.Option(help="contiguous, channels_last; both by default.")] = None,
) -> None:
    """Registers, spills, access widths and floors of every kernel, as compiled; no GPU needed."""
    from ...tuning.target import SHARED
    from .. import options, terminal

    ops, layouts = (tuple(name.strip() for v in values or () for name in v.split(",")) for values in (op, layout))
    ops = options.choose_ops(ops)
    layouts = options.choose("--layout", layouts, options.LAYOUT_NAMES.values(), options.LAYOUT_NAMES)
    (dtype,) = options.choose("--dtype", [dtype], options.DTYPE_NAMES.values(), options.DTYPE_NAMES)
    options.choose("--arch", [arch], (*map(str, SHARED), "gfx942", "gfx1100"))
    if (arch, dtype) == ("75", "bfloat16"):
        raise options.Usage("--dtype: got bfloat16 for --arch 75, which has none; expected float16 or float32")
    terminal.console().print(
        table(ops, int(arch) if arch.isdigit() else arch, dtype, layouts or tuple(options.LAYOUT_NAMES.values()))
    )


def table(
    ops: Sequence[str],
    arch: int | str = 90,
    dtype: str = "bfloat16",
    layouts: Sequence[str] = ("contiguous", "channels_last"),
) -> "Group":
    """The kernels of these ops, forward and backward, for their first named case. Compiles in this process."""
    import torch
    from triton import knobs

    from ... import compiled as static
    from ...catalog import BY_NAME
    from ..options import Usage
    from ..terminal import Progress, listing

    if knobs.runtime.interpret:
        raise Usage("TRITON_INTERPRET: set, so that nothing would be compiled; expected it unset")
    name = f"sm_{arch}" if isinstance(arch, int) else f"{arch}, compiled, never run"
    todo = [
        (op, layout, plan)
        for op in ops
        for layout in layouts
        for plan in chain(*static.plans(BY_NAME[op], BY_NAME[op].cases[0].sizes, getattr(torch, dtype), layout, arch))
    ]
    groups: dict[str, list[TableRow]] = {}
    for op, layout, plan in Progress("kernels compiled", len(todo)).of(todo):
        groups.setdefault(f"{op}, {SHORT_LAYOUTS.get(layout, layout)}", []).append(_row(BY_NAME[op], plan, arch))
    return listing(f"Kernels for {name}, {dtype}", HEAD, groups, left=(0, 1))


def _row(row, plan, arch: int | str) -> "TableRow":
    from ... import compiled as static
    from ..terminal import TableRow

    blocks = " ".join(f"{k.removeprefix('BLOCK_')}{v}" for k, v in plan.config.blocks.items())
    compiled = static.compile_plan(plan, arch)
    what = [f"  {plan.name}", f"{blocks} w{plan.config.num_warps} s{plan.config.num_stages}"]
    if not isinstance(arch, int):
        return TableRow([*what, "-", "-", str(compiled.shared), *["-"] * 7])
    wide = compiled.wide_share(static.map_sizes(row, row.cases[0].sizes))
    what[1] += "".join(f" {name}" for name in compiled.matrix) + _wanted(plan)
    cells = (
        *(str(compiled.registers), str(compiled.spills), str(compiled.shared)),
        *("-" if wide is None else f"{wide:.0%}", str(compiled.programs_per_sm)),
        *_account(compiled),
    )
    return TableRow([*what, *cells], "red" if compiled.spills else None)


def _wanted(plan) -> str:
    """Of attention by tiles: the share of its scores that the windows want; of the others, none."""
    if "PATCH" not in plan.args:
        return ""
    block_j = plan.args["BLOCK_J"] if "BLOCK_J" in plan.args else plan.config.blocks["BLOCK_J"]
    return f", {plan.args['PATCH'].wanted(plan.args['WINDOW'].kernel, block_j):.0%} of scores wanted"


def _account(compiled) -> list[str]:
    from ..account.account import account_of
    from ..account.assumptions import MACHINES
    from ..account.launch import launch_of

    if compiled.arch not in MACHINES or compiled.has(r"\bUTC\w*MMA"):
        return ["-"] * 5
    account = account_of(launch_of(compiled))
    share = account.floor / account.time
    return [f"{account.waves:.2f}", str(account.warp.trips), f"{account.time:.3g}", f"{share:.2f}", account.limit]
