"""What torch.compile would launch, generated without a GPU. Runs in processes in which Triton does not interpret."""

from collections.abc import Sequence

import static_ledger  # noqa: F401, before Triton: it decides that this process compiles
import torch

from segattn_triton.catalog.problem import make_map
from segattn_triton.perf.account.account import account_of
from segattn_triton.perf.compiler.flex import shares
from segattn_triton.perf.compiler.inductor import Kernel, generated
from segattn_triton.perf.compiler.libraries import Library
from segattn_triton.perf.compiler.sides import OURS, sides
from segattn_triton.perf.measure.windows import Flex


def generated_for(layout: str) -> dict[str, list]:
    """Of x * sigmoid(mean over channels): for each direction, the passes over the map that each kernel makes at least;
    and of a product of matrices, the library's call."""
    x = make_map((2, 64, 128, 128), layout, None, torch.bfloat16, "meta")
    both = generated(lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)), [x])
    found = {}
    for mode, calls in both._asdict().items():
        accounts = [account_of(next(call.launches())) for call in calls if isinstance(call, Kernel)]
        found[mode] = [account.dram_bytes / (2 * x.numel()) for account in accounts]
    a = torch.empty(256, 256, dtype=torch.bfloat16, device="meta")
    product = generated(lambda a, b: torch.sigmoid(a @ b), [a, a.clone()])
    found["library"] = [(c.name, c.nbytes, c.flops) for c in product.forward if isinstance(c, Library)]
    return found


def ours(op: str, layout: str, size: str, known: Sequence[str] = ()) -> list:
    return list(sides(op, layout, size, (OURS,), known))


def products_of_flex(kernel_size: int) -> dict[str, list[int]]:
    """Products of matrices that a warp of each of FlexAttention's kernels executes, forward and backward; rows of 128
    pixels, so that a block of the mask is a row."""
    q, k, v = (torch.empty(1, 32, 128, 1, 32, dtype=torch.bfloat16, device="meta") for _ in range(3))
    found: dict[str, list[int]] = {}
    for mode, calls in generated(Flex(kernel_size), [q, k, v])._asdict().items():
        launches = [next(call.launches()) for call in calls if "flex_attention" in call.tuner.fn.__name__]
        paths = [account_of(launch, share=share).path for launch in launches for share in shares(launch)]
        counts = [sum(path.code[i].name in ("HMMA", "HGMMA") for i in path.steps) for path in paths]
        found[mode] = [count for count in counts if count]
    return found
