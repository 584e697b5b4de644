"""A worker of made up pieces, for the tests of how processes share them."""

import os

from segattn_triton.perf.measure import child


def work(piece: dict) -> dict:
    if piece["exit"]:
        os._exit(7)
    return {"i": piece["i"]}


if __name__ == "__main__":
    child.serve(work)
