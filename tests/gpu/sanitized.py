"""What compute-sanitizer watches: our kernels of a row of the catalog, forward and backward, on small shapes.

compute-sanitizer --tool memcheck python tests/gpu/sanitized.py [row ...]

Other tests compare the results. Here nothing else runs on the device than what makes the inputs: no reference, and of
the dense local gate neither the library's convolution nor its gradients, in which the tools find things that are not
ours to mend.
"""

import sys

import torch

from segattn_triton.catalog import ROWS, Op
from segattn_triton.ops import local_dense
from segattn_triton.testing import make_inputs

SIZES = ({"N": 2, "C": 5, "S": (7, 9), "Cr": 2}, {"N": 1, "C": 16, "S": (16, 16), "Cr": 4})
DTYPES = (torch.float32, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last", "channel_slice")


def run(row: Op, inputs: list[torch.Tensor]) -> int:
    """Forward and backward; the number of tensors that came out."""
    library = row.name == "local_gate"
    leaves = [t.requires_grad_(not library or name == "bias?") for name, t in zip(row.inputs, inputs, strict=True)]
    outputs = row.op(*leaves, backend="triton", **row.both)
    wanted = [t for t in leaves if t.requires_grad]
    return len(outputs) + len(torch.autograd.grad(outputs, wanted, [torch.ones_like(o) for o in outputs]))


def main(wanted: list[str], device: str = "cuda", layouts=LAYOUTS) -> int:
    """The number of tensors computed."""
    local_dense.choose_variant = lambda x, _="auto": "pointers"
    rows = [row for row in ROWS if not wanted or row.name in wanted]
    return sum(
        run(row, make_inputs(row, sizes, dtype, layout=layout, device=device))
        for row in rows
        for sizes in SIZES
        for dtype in DTYPES
        for layout in layouts
    )


if __name__ == "__main__":
    count = main(sys.argv[1:])
    torch.cuda.synchronize()
    print(count, "tensors computed")
