"""Choices of configs and the best of their spaces, compiled. Runs in processes in which Triton does not interpret."""

import random

import static_ledger

from segattn_triton.catalog import ROWS
from segattn_triton.perf.compiler import spaces


def drawn(seed: int, count: int) -> list[dict]:
    """So many choices that the seed draws, each of another row, with the two cheapest and two others of its space."""
    draw, found = random.Random(seed), []
    for row in draw.sample(ROWS, count):
        cases = draw.randint(1, len(row.cases))
        layout = draw.choice(static_ledger.LAYOUTS)
        one = draw.choice([c for c in spaces.choices([row.name], "bfloat16", [layout], cases)])
        found.append(spaces.work(spaces.piece_of(*one, most=2, drawn=2)))
    return found
