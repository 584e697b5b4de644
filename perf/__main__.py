"""`segattn`, and `python -m segattn_triton.perf`: the commands, or one line that says which extra they need."""

import sys

from segattn_triton.perf.absent import advice


def main() -> None:
    try:
        from segattn_triton.perf.commands import main as commands
    except ModuleNotFoundError as error:
        if (said := advice(error)) is None:
            raise
        print(f"segattn: {said}", file=sys.stderr)
        sys.exit(2)
    commands()


if __name__ == "__main__":
    main()
