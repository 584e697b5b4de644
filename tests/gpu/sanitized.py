"""What compute-sanitizer watches: every row of the catalog, forward and backward, on small shapes.

compute-sanitizer --tool memcheck python tests/gpu/sanitized.py [row ...]
"""

import sys

import torch

from segattn_triton.catalog import OPS
from segattn_triton.testing import make_inputs, matches

SIZES = ({"N": 2, "C": 5, "S": (7, 9), "Cr": 2}, {"N": 1, "C": 16, "S": (16, 16), "Cr": 4})
DTYPES = (torch.float32, torch.bfloat16)


def main(wanted: list[str], device: str = "cuda", layouts=("contiguous", "channels_last", "channel_slice")) -> int:
    """The number of tensors compared; SystemExit if one is wrong."""
    compared = 0
    for row in OPS:
        if wanted and row.name not in wanted:
            continue
        for sizes in SIZES:
            for dtype in DTYPES:
                for layout in layouts:
                    found = matches(row, *make_inputs(row, sizes, dtype, layout=layout, device=device), **row.both)
                    wrong = [m for m in found if not m.ok]
                    if wrong:
                        raise SystemExit(f"{row.name} {dtype} {layout} {sizes}: {wrong}")
                    compared += len(found)
    return compared


if __name__ == "__main__":
    print(main(sys.argv[1:]), "tensors compared")
