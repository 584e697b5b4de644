"""Neighbourhood attention: how often its kernels load what, exactly, for the traffic of their plans.

A kernel loads a key once for every query that has it, and an entry of the relative bias once for every offset that a
tile visits. Along an axis both are sums over its classes of pixels (see `neighborhood`), which multiply.
"""

from collections.abc import Callable
from functools import lru_cache

from torch import Tensor

from .patch import Patch


def keys_per_query(t: Tensor, kernel_size: int, dilation: int, border: str) -> float:
    """The mean number of keys inside the image of t (N, H, W, ...), and of queries per key."""
    if border == "shift":
        return kernel_size * kernel_size
    reach = range(-(kernel_size // 2), kernel_size // 2 + 1)
    rows, cols = (sum(max(0, size - abs(tap) * dilation) for tap in reach) / size for size in t.shape[1:3])
    return rows * cols


def _first_key(i: int, length: int, kernel_size: int, border: str) -> int:
    first = i - kernel_size // 2
    return min(max(first, 0), length - kernel_size) if border == "shift" else first


def _last_query(j: int, length: int, kernel_size: int, border: str) -> int:
    reaches_end = border == "shift" and j >= length - kernel_size
    return length - 1 if reaches_end else min(j + kernel_size // 2, length - 1)


def _first_query(j: int, length: int, kernel_size: int, border: str) -> int:
    return 0 if border == "shift" and j < kernel_size else max(j - kernel_size // 2, 0)


def _offsets_to_keys(first: int, last: int, length: int, kernel_size: int, border: str) -> int:
    """Offsets that a tile of the queries first..last visits."""
    if border == "zero":
        return kernel_size
    low = max(_first_key(last, length, kernel_size, border), 0) - last
    return min(_first_key(first, length, kernel_size, border) + kernel_size, length) - first - low


def _offsets_to_queries(first: int, last: int, length: int, kernel_size: int, border: str) -> int:
    """Offsets that a tile of the keys first..last visits."""
    high = max(j - _first_query(j, length, kernel_size, border) for j in range(first, last + 1))
    return high - min(j - _last_query(j, length, kernel_size, border) for j in range(first, last + 1)) + 1


def _lengths(size: int, dilation: int) -> list[int]:
    """The pixels along an axis of every class that has one."""
    return [(size - g + dilation - 1) // dilation for g in range(min(dilation, size))]


@lru_cache(4096)
def _visited(count: Callable, size: int, tiles: int, block: int, kernel_size: int, dilation: int, border: str) -> int:
    """The offsets along an axis, over all tiles of all classes; a tile past the end of its class visits one."""
    lengths = _lengths(size, dilation)
    return sum(
        count(start, min(start + block, length) - 1, length, kernel_size, border)
        if start < length
        else kernel_size
        if border == "zero" and count is _offsets_to_keys
        else 1
        for length in lengths
        for start in range(0, tiles * block, block)
    )


def bias_loads(
    t: Tensor, size: tuple[int, ...], block_y: int, block_x: int, kernel_size: int, border: str, *, of_queries: bool
) -> float:
    """Loads of an entry of the bias by kernels whose tiles visit one offset after another: those of the queries to
    their keys, or of the keys to their queries. `size` of `neighborhood.tiles`."""
    H, W, _, dilation, _, _, tiles_y, tiles_x = size
    count = _offsets_to_keys if of_queries else _offsets_to_queries
    rows = _visited(count, H, tiles_y, block_y, kernel_size, dilation, border)
    return (
        t.shape[0]
        * rows
        * _visited(count, W, tiles_x, block_x, kernel_size, dilation, border)
        / (2 * kernel_size - 1) ** 2
    )


@lru_cache(4096)
def _patches(
    size: int, tiles: int, block: int, wide: int, lead: int, kernel_size: int, dilation: int, border: str
) -> int:
    """The keys along an axis that tiles of so many queries load, `wide` of them from a multiple of `lead` on, over all
    classes."""
    return sum(
        max(0, min(first + wide, length) - max(first, 0))
        for length in _lengths(size, dilation)
        for start in range(0, block * tiles, block)
        for first in (_first_key(start, length, kernel_size, border) // lead * lead,)
    )


def patch_loads(t: Tensor, size: tuple[int, ...], patch: Patch, block_t: int, kernel_size: int, border: str) -> float:
    """Loads of a key by tiles of queries, block_t of them one below the other, that load a patch of keys each."""
    H, W, _, dilation, _, _, tiles_y, tiles_x = size
    wide = patch.columns if patch.lead > 1 else patch.tile_x + kernel_size - 1
    window = kernel_size, dilation, border
    rows = _patches(H, tiles_y * block_t, patch.tile_y, patch.rows, 1, *window)
    return rows * _patches(W, tiles_x, patch.tile_x, wide, patch.lead, *window) / (H * W)


def _reaching(start: int, block: int, lead: int, length: int, kernel_size: int, border: str) -> int:
    """The queries along an axis that may have one of the keys from `start` on, in whole accesses of `lead`."""
    last = start + block - 1
    low = 0 if border == "shift" and start < kernel_size else max(start - kernel_size // 2, 0)
    moved = border == "shift" and last >= length - kernel_size
    high = length - 1 if moved else min(last + kernel_size // 2, length - 1)
    return high // lead * lead + lead - low // lead * lead


@lru_cache(4096)
def _queries(
    size: int, tiles: int, each: int, block: int, lead: int, step: int, kernel_size: int, dilation: int, border: str
) -> tuple[int, int]:
    """Along an axis and over all classes: the queries that programs of `each` tiles of keys load, and the steps that
    they take, as many as the tile with the most."""
    loads = steps = 0
    for length in _lengths(size, dilation):
        for start in range(0, tiles * each * block, each * block):
            found = [_reaching(start + i * block, block, lead, length, kernel_size, border) for i in range(each)]
            loads, steps = loads + sum(max(0, n) for n in found), steps + -(-max(0, *found, 0) // step)
    return loads, steps


def query_traffic(
    t: Tensor, size: tuple[int, ...], patch: Patch, block_t: int, block_j: int, kernel_size: int, border: str
) -> tuple[float, int]:
    """Loads of a query by tiles of keys, block_t of them one below the other, that load the queries which may have
    them; and the chunks of block_j of these, whole rows, over all programs of one head."""
    H, W, _, dilation, _, _, tiles_y, tiles_x = size
    window = kernel_size, dilation, border
    rows, down = _queries(H, tiles_y, block_t, patch.tile_y, 1, block_j // patch.columns, *window)
    cols, right = _queries(W, tiles_x, 1, patch.tile_x, patch.lead, patch.columns, *window)
    return rows * cols / (H * W), t.shape[0] * down * right


@lru_cache(4096)
def _in_strips(size: int, block: int, wide: int, lead: int, kernel_size: int, dilation: int, border: str) -> int:
    """The keys along an axis that the tiles of strips load, over all classes."""
    return sum(
        max(0, min(first + wide, length) - max(first, 0))
        for length in _lengths(size, dilation)
        for start in range(0, length, block)
        for first in (_first_key(start, length, kernel_size, border) // lead * lead,)
    )


def strip_loads(t: Tensor, patch: Patch, kernel_size: int, dilation: int, border: str) -> float:
    """Loads of a key by strips of tiles of queries."""
    wide = patch.columns if patch.lead > 1 else patch.tile_x + kernel_size - 1
    rows = _in_strips(t.shape[1], patch.tile_y, patch.rows, 1, kernel_size, dilation, border)
    cols = _in_strips(t.shape[2], patch.tile_x, wide, patch.lead, kernel_size, dilation, border)
    return rows * cols / (t.shape[1] * t.shape[2])


@lru_cache(4096)
def _to_strips(size: int, block: int, lead: int, kernel_size: int, dilation: int, border: str) -> int:
    """The queries along an axis that the tiles of strips of keys load, over all classes."""
    return sum(
        _reaching(start, block, lead, length, kernel_size, border)
        for length in _lengths(size, dilation)
        for start in range(0, length, block)
    )


def strip_query_loads(t: Tensor, patch: Patch, kernel_size: int, dilation: int, border: str) -> float:
    """Loads of a query by strips of tiles of keys."""
    rows = _to_strips(t.shape[1], patch.tile_y, 1, kernel_size, dilation, border)
    cols = _to_strips(t.shape[2], patch.tile_x, patch.lead, kernel_size, dilation, border)
    return rows * cols / (t.shape[1] * t.shape[2])


@lru_cache(4096)
def _rows_by_chunks(size: int, block: int, step: int, kernel_size: int, dilation: int, border: str) -> int:
    return sum(
        min(block, length - start) * -(-_reaching(start, block, 1, length, kernel_size, border) // step)
        for length in _lengths(size, dilation)
        for start in range(0, length, block)
    )


def strip_key_loads(t: Tensor, patch: Patch, block_j: int, kernel_size: int, dilation: int, border: str) -> float:
    """Loads of a key by strips of tiles of keys: once for each chunk of the queries of a head."""
    step = block_j // patch.columns
    return _rows_by_chunks(t.shape[1], patch.tile_y, step, kernel_size, dilation, border) / t.shape[1]
