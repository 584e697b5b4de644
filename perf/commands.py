"""The `segattn` commands. Exit codes: 0 done, 1 a mismatch or a failure, 2 wrong usage or no usable GPU."""

import contextlib
from pathlib import Path
from typing import Annotated, Optional

import typer

from .absent import advice, need
from .compiler.against import against
from .compiler.kernels import kernels
from .compiler.spaces import spaces

main = typer.Typer(
    help="Measure, check and describe the attention kernels of segattn_triton.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@main.callback(invoke_without_command=True)
def _about(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit()


Names = Optional[list[str]]  # noqa: UP045, typer of Python 3.10 reads it at run time


def _split(values: Names) -> tuple[str, ...]:
    """`--op a,b --op c` is a, b, c."""
    return tuple(name.strip() for value in values or () for name in value.split(","))


@contextlib.contextmanager
def _one_line():
    """Errors are one line on standard error: exit code 2 for wrong usage, 1 for a failure."""
    from .options import Failure, Usage

    try:
        yield
    except (Usage, Failure) as error:
        typer.echo(f"segattn: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, Usage) else 1) from None
    except ModuleNotFoundError as error:
        if (said := advice(error)) is None:
            raise
        typer.echo(f"segattn: {said}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        if error.filename is None:
            raise
        typer.echo(f"segattn: {error.filename}: {error.strerror}", err=True)
        raise typer.Exit(1) from None


@main.command()
def report(
    op: Annotated[Names, typer.Option(help="Ops, repeated or with commas; all by default.")] = None,
    preset: Annotated[str, typer.Option(help="quick (four and a half minutes) or full (an hour).")] = "quick",
    dtype: Annotated[Names, typer.Option(help="bfloat16, float16, float32, float64.")] = None,
    layout: Annotated[Names, typer.Option(help="contiguous, channels_last; both by default.")] = None,
    mode: Annotated[Names, typer.Option(help="fwd, bwd, both by default; launch: CPU time of a call.")] = None,
    image: Annotated[Optional[Path], typer.Option(help="A photograph for errors and gate maps.")] = None,  # noqa: UP045
    budget: Annotated[Optional[float], typer.Option(help="Seconds; the most valuable points come first.")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option(help="The folder for records, plots and page.")] = Path("report"),
    resume: Annotated[bool, typer.Option("--resume", help="Finish the report in the folder.")] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave the GPU alone.")] = False,
    model: Annotated[Optional[str], typer.Option(help="Time a step of your own: package.module:factory.")] = None,  # noqa: UP045
    input: Annotated[Optional[str], typer.Option(help="Of --model: 8x3x512x512.")] = None,  # noqa: UP045
    merge: Annotated[bool, typer.Option("--merge", help="Join the reports of FOLDERS in --out.")] = False,
    folders: Annotated[Optional[list[Path]], typer.Argument(help="Reports, for --merge.")] = None,  # noqa: UP045
    tune: Annotated[bool, typer.Option(help="Tune what is timed before, where there is a GPU.")] = True,
    train: Annotated[bool, typer.Option("--train", help="Train a U-Net plain, accelerated and without gates.")] = False,
    models: Annotated[bool, typer.Option("--models", help="Time whole models.")] = False,
    data: Annotated[Optional[Path], typer.Option(help="--train on train/ and val/, each images/ and labels/.")] = None,  # noqa: UP045
    ignore: Annotated[int, typer.Option(help="Of --data: the label that says nothing.")] = 255,
    steps: Annotated[Optional[int], typer.Option(help="Of --train; the preset's by default.")] = None,  # noqa: UP045
    seeds: Annotated[Optional[int], typer.Option(help="Of --train; the preset's by default.")] = None,  # noqa: UP045
    side: Annotated[Optional[int], typer.Option(help="Of --train: pixels of the square crops.")] = None,  # noqa: UP045
    encoder: Annotated[Optional[str], typer.Option(help="Of --train: an encoder of smp.")] = None,  # noqa: UP045
) -> None:
    """Throughput against resolution: ours, eager and torch.compile, on the GPU if there is one; plots and a page."""
    with _one_line():
        need("numpy", "pandas", "matplotlib", "jinja2")  # of the page, which comes last
        from .options import Usage, writable

        if not train:
            given = dict(data=data, steps=steps, seeds=seeds, side=side, encoder=encoder)
            for name, value in given.items():
                if value is not None:
                    raise Usage(f"--{name}: got {value} without --train, expected none")
        elif budget is not None and not models:
            raise Usage(f"--budget: got {budget:g} with --train, expected none: it takes its --steps")
        shared = dict(preset=preset, out=out, resume=resume, cpu=cpu)
        if train:
            from .models import train as training

            training.run(**shared, data=data, ignore=ignore, steps=steps, seeds=seeds, side=side, encoder=encoder)
        if models:
            from .models import known as known_models

            known_models.run(**shared, budget=budget)
        if train or models:
            return
        from .report import job as command

        if merge:
            from .report import compare

            typer.echo(f"the report: {compare.merge(folders or [], writable(out)).resolve()}")
            return
        if model or input:
            if not (model and input):
                raise Usage("--model and --input: got one of them, expected both")
            if budget is not None:
                raise Usage(f"--budget: got {budget:g} with --model, expected none: each variant has the same rounds")
            from .models import yours as your_model

            typer.echo(f"the report: {your_model.run(model, input, writable(out), cpu=cpu).resolve()}")
            return
        if folders:
            raise Usage(f"FOLDERS: got {folders[0]} without --merge, expected none")
        command.run(
            ops=_split(op),
            preset=preset,
            dtypes=_split(dtype),
            layouts=_split(layout),
            modes=_split(mode),
            image=image,
            budget=budget,
            out=out,
            resume=resume,
            cpu=cpu,
            tune=tune,
        )


@main.command()
def check(op: Annotated[Names, typer.Option(help="Ops, repeated or with commas; all by default.")] = None) -> None:
    """The kernels against the reference: on the GPU, or in Triton's interpreter on the CPU."""
    with _one_line():
        from .options import choose_ops

        ops = choose_ops(_split(op))
        from .measure import check as command

        raise typer.Exit(command.main(ops))


@main.command()
def tune(
    op: Annotated[Names, typer.Option(help="Ops, repeated or with commas; all by default.")] = None,
    dtype: Annotated[Names, typer.Option(help="bfloat16 (the default), float16, float32, float64.")] = None,
    layout: Annotated[Names, typer.Option(help="contiguous, channels_last; both by default.")] = None,
    budget: Annotated[float, typer.Option(help="Seconds; the most valuable problems come first.")] = 600.0,
    out: Annotated[Optional[Path], typer.Option(help="The table; the one of your home by default.")] = None,  # noqa: UP045
) -> None:
    """Find the fastest block sizes for this GPU, each verified against the reference, and write them into a table."""
    with _one_line():
        from . import options
        from .tune import command

        command.main(
            options.choose_ops(_split(op)),
            options.choose("--dtype", _split(dtype), options.DTYPE_NAMES.values(), options.DTYPE_NAMES)
            or ("bfloat16",),
            options.choose("--layout", _split(layout), options.LAYOUT_NAMES.values(), options.LAYOUT_NAMES)
            or tuple(options.LAYOUT_NAMES.values()),
            budget,
            out,
            say=typer.echo,
        )


@main.command()
def compare(
    base: Annotated[Path, typer.Argument(help="The folder of a report.")],
    new: Annotated[Path, typer.Argument(help="The folder of a later one.")],
    threshold: Annotated[str, typer.Option(help="What counts as slower.")] = "5%",
) -> None:
    """Two reports of one machine type, as markdown; exit code 1 where ours became slower."""
    with _one_line():
        from .report import compare as command

        text, slower = command.compare(base, new, command.parse_threshold(threshold))
        typer.echo(text)
        raise typer.Exit(int(slower))


@main.command()
def show(
    model: Annotated[str, typer.Option(help="package.module:factory.")] = "segattn_triton.perf.portrait:model",
    image: Annotated[Optional[Path], typer.Option(help="A photograph; by default the one that is shipped.")] = None,  # noqa: UP045
    names: Annotated[Names, typer.Option(help="Patterns of gates, such as 'decoder.*'; all by default.")] = None,
    side: Annotated[int, typer.Option(help="Pixels of the photograph's longer side that the model sees.")] = 256,
    out: Annotated[Path, typer.Option(help="The picture, PNG or SVG.")] = Path("attention.png"),
) -> None:
    """What a model's gates look at: their maps over a photograph."""
    with _one_line():
        from .models import show as command
        from .options import readable_image

        typer.echo(command.run(model, readable_image(image), _split(names), out, side).resolve())


@main.command()
def env(json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """All that a bug report needs: versions, GPU, driver, what keeps Triton from running."""
    from .measure import env as command

    values = command.collect()
    if json:
        from json import dumps

        typer.echo(dumps(values, indent=1, default=str))
    else:
        with _one_line():
            command.print_table(values)
    if problem := command.unusable_gpu():
        typer.echo(f"segattn: {problem}", err=True)


main.command()(_one_line()(kernels))
main.command()(_one_line()(spaces))
main.command()(_one_line()(against))
