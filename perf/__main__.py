"""`segattn`, and `python -m segattn_triton.perf`: the commands, or one line that says which extra they need."""

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
    commands()


if __name__ == "__main__":
    main()
