"""What torch.compile would launch, generated without a GPU. Runs in processes in which Triton does not interpret."""

import static_ledger  # noqa: F401, before Triton: it decides that this process compiles
import torch

from segattn_triton.catalog.problem import make_map
from segattn_triton.perf.account.account import account_of
from segattn_triton.perf.compiler.against import sides
from segattn_triton.perf.compiler.inductor import Kernel, generated
from segattn_triton.perf.compiler.libraries import Library


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


def ours(op: str, layout: str, C: int, side: int) -> list:
    return list(sides(op, layout, C, side, ()))
