"""How long the rest of a piece of work will take."""


def left(elapsed: float, done: int, total: int) -> str:
    """How long the rest will take, if it is as what is done."""
    if not done or done == total:
        return ""
    seconds = elapsed / done * (total - done)
    return f", about {seconds / 60:.0f} min left" if seconds >= 100 else f", about {max(seconds, 1):.0f} s left"
