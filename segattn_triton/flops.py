"""Floating-point operations of every op, (forward, backward), a multiply-add counted as two.

E = N * P * C elements of the map; the gate itself, a few operations per value of it, is not counted.
"""


def spatial_gate(pixels: int, C: int, Cr: int = 0) -> tuple[int, int]:
    E = pixels * C
    return 3 * E, 9 * E


def spatial_pool_gate(pixels: int, C: int, Cr: int = 0) -> tuple[int, int]:
    E = pixels * C
    return 2 * E, 6 * E


def channel_gate(pixels: int, C: int, Cr: int) -> tuple[int, int]:
    E = pixels * C
    return 2 * E, 5 * E


def squeeze_excite(pixels: int, C: int, Cr: int) -> tuple[int, int]:
    """With a source and a shortcut."""
    E = pixels * C
    return 3 * E, 4 * E


def scse(pixels: int, C: int, Cr: int) -> tuple[int, int]:
    E = pixels * C
    return 6 * E, 15 * E


def local_gate(pixels: int, C: int, Cr: int = 0) -> tuple[int, int]:
    E = pixels * C
    return 18 * E * C + E, 36 * E * C + 4 * E


def local_gate_depthwise(pixels: int, C: int, Cr: int = 0) -> tuple[int, int]:
    E = pixels * C
    return 19 * E, 58 * E


def local_pool_gate(pixels: int, C: int, Cr: int = 0) -> tuple[int, int]:
    E = pixels * C
    return 10 * E, 31 * E


def neighborhood_attention(pixels: int, C: int, Cr: int = 0) -> tuple[int, int]:
    """3 x 3 keys, C = heads * D. Backward as gathered: scores and dP once for the queries, once for the keys."""
    E = pixels * C
    return 36 * E, 128 * E
