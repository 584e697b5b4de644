"""The gallery of gates, written when the site is built: of every row of the catalog what it computes, looks at, costs
and is for, and its map on the photograph that comes with matplotlib."""

import inspect
from pathlib import Path

import torch
from torch import nn

import segattn_triton
from segattn_triton import viz
from segattn_triton.catalog import ROWS, Op
from segattn_triton.perf.measure import photo
from segattn_triton.perf.report.render.readme import cost, module_call

C, SIZE = 32, 128
HEAD = """# Gallery

Every gate on one photograph, made a feature map by two fixed random convolutions. Its own parameters are random, too:
nothing was trained, so a map shows what a gate of this kind can tell apart, not what it learns.

"""


def write(folder: Path) -> None:
    pictures = folder / "maps"
    pictures.mkdir(exist_ok=True)
    image = photo.load(None, SIZE, SIZE)
    x = photo.activations(None, 2, C, SIZE, SIZE)  # the photograph, and for a norm over the batch another view of it
    text = HEAD
    for row in ROWS:
        fig = viz.plot_gates({row.name: gate_map(row, x[: row.fewest])}, image)
        fig.savefig(pictures / f"{row.name}.png", bbox_inches="tight")
        text += section(row)
    (folder / "gallery.md").write_text(text, encoding="utf-8")


@torch.no_grad()
def gate_map(row: Op, x: torch.Tensor) -> torch.Tensor:
    """That of the row's module, made from a fixed seed; a map that it needs beside is x in another order. Of a function
    without a module, its own map of such maps, of their means over channels, rows, columns or pixels, of a part of
    their pixels."""
    if row.module is None:
        given = [spec for name, spec in row.inputs.items() if not name.endswith("?")]
        made = {"N 1 *S": lambda: x.mean(1, keepdim=True), "N C *T": lambda: x[:, :, ::4, ::4]}
        made |= {"N C *U": lambda: x.mean(3, keepdim=True), "N C *V": lambda: x.mean(2, keepdim=True)}
        made["N R B *T"] = lambda: x.mean((2, 3)).unflatten(1, (2, -1))  # two branches
        others = [made.get(spec, lambda: x.flip(1))() for spec in given[1:]]
        gate = row.op(x, *others, **row.both)[1]
        return gate[:, None] if row.outputs["map"] == "N K *S" else gate  # of neighbours: as that of one head
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        known = inspect.signature(row.module).parameters
        sized = {name: value for name, value in {"in_channels": C, "num_heads": 2}.items() if name in known}
        module = row.module(**{**sized, **row.fixed})
    if row.fewest > 1:  # a norm over the batch
        x = torch.cat([x, *[x.flip(-1)] * (row.fewest - 1)])
    needed = inspect.signature(module.forward).parameters
    beside = {name: x.flip(1) for name in row.maps[1:] if name in needed and name in row.inputs}
    with segattn_triton.capture_attention(nn.ModuleDict({"gate": module})) as maps:
        module(x, **beside)
    return maps["gate"][:1]


def section(row: Op) -> str:
    return f"""## {row.name.replace("_", " ").capitalize()}

{module_call(row)}, {row.paper}:

```text
{row.equation}
```

![Map of {row.name}](maps/{row.name}.png)

- Attends to {row.attends_to}.
- Passes over the map, forward / backward: {row.passes[0]:.3g} / {row.passes[1]:.3g}; FLOP a value: {cost(row)}.
- When: {row.use}.

"""
