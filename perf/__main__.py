"""`segattn`, and `python -m segattn_triton.perf`: the commands, or one line that says what is wrong."""

import sys

from .absent import advice


def main() -> None:
    try:
        from .commands import main as commands
    except ModuleNotFoundError as error:
        if (said := advice(error)) is None:
            raise
        print(f"segattn: {said}", file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(commands(prog_name="segattn", standalone_mode=False) or 0)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own: wrong usage
            raise
        said = error.format_message()
        print(
            said if "\n" in said else f"segattn: {said}", file=sys.stderr
        )  # of several lines: help, asked for by none
        sys.exit(2)


if __name__ == "__main__":
    main()
