"""What people run today for attention to the pixels around: unfolded, by shifted reads, FlexAttention, NATTEN.

q, k, v (N, H, W, heads, D); windows of K x K pixels that are moved inside the image.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 128  # pixels of a block of FlexAttention's mask
NATTEN = importlib.util.find_spec("natten") is not None and torch.cuda.is_available()  # its kernels need a GPU


def _first_keys(size: int, kernel_size: int, device) -> Tensor:
    """Where the window of every position of an axis starts."""
    return _first_key(torch.arange(size, device=device), size, kernel_size, 1)


def _first_key(i: Tensor, size: int, kernel_size: int, dilation: int) -> Tensor:
    """The same of positions i, whose keys are those that lie whole dilations away."""
    first = i - kernel_size // 2 * dilation
    if dilation == 1:
        return first.clamp(0, size - kernel_size)
    last = size - 1 - (size - 1 - i) % dilation - (kernel_size - 1) * dilation
    return first.maximum(i % dilation).minimum(last)


def _softmax_sum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """k and v (N, H, W, heads, D, K * K) around every pixel."""
    p = torch.softmax((q[..., None] * k).sum(4) * q.shape[4] ** -0.5, -1)
    return (p[..., None, :] * v).sum(5)


def listing(q: Tensor, k: Tensor, v: Tensor, *, kernel_size: int) -> Tensor:
    """Keys and values unfolded around every pixel, as most code without a library does it."""
    rows, cols = (_first_keys(size, kernel_size, q.device) for size in q.shape[1:3])
    around = [t.unfold(1, kernel_size, 1).unfold(2, kernel_size, 1)[:, rows][:, :, cols].flatten(5) for t in (k, v)]
    return _softmax_sum(q, *around)


def shifted(q: Tensor, k: Tensor, v: Tensor, *, kernel_size: int) -> Tensor:
    """Shifted reads of the keys and of the values, which Inductor fuses into few kernels."""
    rows, cols = (_first_keys(size, kernel_size, q.device) for size in q.shape[1:3])
    taps = [(rows + y, cols + x) for y in range(kernel_size) for x in range(kernel_size)]
    scores = torch.stack([(q * k[:, y][:, :, x]).sum(4) for y, x in taps], -1)
    p = torch.softmax(scores * q.shape[4] ** -0.5, -1)
    return sum(p[..., i, None] * v[:, y][:, :, x] for i, (y, x) in enumerate(taps))


@dataclass(frozen=True)
class Flex:
    """FlexAttention: pixels in one row, a mask of the pairs; tensors heads first, as it takes them."""

    kernel_size: int
    dilation: int = 1

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *known: Tensor) -> Tensor:
        """known: the blocks of the mask, which are made once a resolution, outside of what is compiled and timed."""
        from torch.nn.attention.flex_attention import flex_attention

        H, W = q.shape[1:3]
        mask = self.mask(H, W, *(known or self.beside(q)))
        first = [t.flatten(1, 2).transpose(1, 2) for t in (q, k, v)]
        y = flex_attention(*first, block_mask=mask)
        return y.transpose(1, 2).unflatten(1, (H, W))

    def mask(self, H: int, W: int, count: Tensor, keys: Tensor, count_back: Tensor, queries: Tensor):
        """Right for H != W, as attention-gym's is not."""
        from torch.nn.attention.flex_attention import BlockMask

        K, d = self.kernel_size, self.dilation

        def near(batch, head, query, key):
            below = key // W - _first_key(query // W, H, K, d)
            right = key % W - _first_key(query % W, W, K, d)
            inside = (below >= 0) & (below < K * d) & (right >= 0) & (right < K * d)
            return inside if d == 1 else inside & (below % d == 0) & (right % d == 0)

        none = dict.fromkeys(("full_kv_num_blocks", "full_kv_indices", "full_q_num_blocks", "full_q_indices"))
        back = dict(q_num_blocks=count_back, q_indices=queries)
        size = dict(seq_lengths=(H * W, H * W), BLOCK_SIZE=(BLOCK, BLOCK))
        return BlockMask(kv_num_blocks=count, kv_indices=keys, mask_mod=near, **none, **back, **size)

    def beside(self, q: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        """What else it reads; values even where q has none."""
        device = torch.device("cpu") if q.is_meta else q.device
        return blocks(*q.shape[1:3], self.kernel_size, self.dilation, device)


@lru_cache(8)
def blocks(H: int, W: int, kernel_size: int, dilation: int, device: torch.device) -> tuple[Tensor, ...]:
    """Of every block of queries: how many blocks of keys it meets, and which, in order; and of every block of keys the
    same of queries. From what a window meets: the mask of all pairs would not fit."""
    rows, cols = (_first_key(torch.arange(size), size, kernel_size, dilation) for size in (H, W))
    taps = torch.arange(kernel_size) * dilation
    first = (rows[:, None, None] + taps) * W + cols[:, None]  # [H, W, K]: in every row of a window
    total = -(-H * W // BLOCK)
    query = (torch.arange(H * W) // BLOCK).view(H, W, 1)
    met = torch.zeros(total, total, dtype=torch.bool)
    for tap in taps:
        met[query.expand_as(first), (first + tap) // BLOCK] = True
    found = []
    for each in (met, met.T):
        found += [each.sum(1, dtype=torch.int32), each.int().argsort(stable=True, dim=1, descending=True).int()]
    return tuple(t[None, None].contiguous().to(device) for t in found)


def natten(kernel_size: int) -> Callable:
    from natten import na2d

    return lambda q, k, v: na2d(q, k, v, kernel_size=kernel_size)
