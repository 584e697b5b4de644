"""How many programs a kernel that loops over tiles has: whole waves of what the SMs hold at a time.

A config says how many programs are on an SM at a time; with the SMs of the GPU that makes so many *slots*. More
programs than slots would wait for one to end, and a last wave of a few takes the time of a whole one.
"""

from math import ceil

from .model import Config

FULL = 0.9  # share of the slots that the last of several waves fills, at least
MANY = 10  # waves, of which the last is no tenth of the time, even if an SM holds some programs more than planned
TRIED = 64  # programs that share one unit of work, where units alone fill the slots


def evened(tiles: int, programs: int) -> int:
    """The fewest programs that take so many tiles in as many rounds: none has a tile less than it might."""
    return -(-tiles // -(-tiles // max(programs, 1))) if tiles else 0


def sharing(tiles: int, config: Config, sms: int, units: int = 1, most: int | None = None) -> int:
    """Programs that share the tiles of each of so many units, `most` at most.

    One wave that fills the slots; where units are more than slots, the fewest that make many waves, or fill the last.
    """
    slots, limit = config.programs * sms, min(tiles, max(tiles if most is None else most, 1))
    if units <= slots:
        return evened(tiles, min(limit, slots // max(units, 1)))
    waves = {p: p * units / slots for p in sorted({evened(tiles, p) for p in range(1, min(limit, TRIED) + 1)})} or {
        0: 0
    }
    enough = (p for p, w in waves.items() if w >= MANY and filled(w) >= FULL)
    return next(enough, max(waves, key=lambda p: filled(waves[p])))


def filled(waves: float) -> float:
    """Share of the slots that are filled until the last wave ends."""
    return waves / max(ceil(waves), 1)
