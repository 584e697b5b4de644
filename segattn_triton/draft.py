"""A file that is never seen half written: a draft of it, which takes its place at once."""

import contextlib
import glob
import os
import time
from collections.abc import Iterator
from pathlib import Path

DEAD_SECONDS = 3600  # after which a draft's writer is not at work any more


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty draft, which becomes `path` at the end, on the disk as well; an error leaves what there was."""
    _sweep(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        draft.open("x").close()  # no link in its place is followed
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _sweep(path: Path) -> None:
    """Drafts that killed writers have left."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*"):
        with contextlib.suppress(OSError):
            if time.time() - draft.lstat().st_mtime > DEAD_SECONDS:
                draft.unlink()
