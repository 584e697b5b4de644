"""Where tables go: as wide as the terminal, or wide enough where there is none."""

import sys

from rich.console import Console


def console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)
