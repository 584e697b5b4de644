"""Floating-point operations of every operator, (forward, backward), a multiply-add counted as two.

Each formula takes the shapes of the operator's tensors, None for one left out, and its options after them. E is the
number of elements of the map; the gate itself, a few operations per value of it, is not counted.
"""

from collections.abc import Sequence
from math import prod

Shape = Sequence[int]


def spatial_gate(x: Shape, *_) -> tuple[int, int]:
    E = prod(x)
    return 3 * E, 9 * E


def spatial_pool_gate(x: Shape, *_) -> tuple[int, int]:
    E = prod(x)
    return 2 * E, 6 * E


def squeeze_excite(
    x: Shape, w1: Shape, b1=None, w2=None, b2=None, source: Shape | None = None, shortcut: Shape | None = None, *_
) -> tuple[int, int]:
    """Without the perceptron, which is as small as a gate."""
    E = prod(x)
    pooled = E if source is None else prod(source)
    return pooled + E + E * (shortcut is not None), 3 * E + pooled * (1 if source else 2)


def squeeze_excite_norm(
    x: Shape, w1: Shape, b1, norm_weight, norm_bias=None, w2=None, b2=None, *maps
) -> tuple[int, int]:
    return squeeze_excite(x, w1, b1, w2, b2, *maps[:2])


def squeeze_excite_norms(
    x: Shape, w1: Shape, b1, norm_weight1, norm_bias1, w2, b2, norm_weight2, norm_bias2=None, *maps
) -> tuple[int, int]:
    return squeeze_excite(x, w1, b1, w2, b2, *maps[:2])


def cbam_spatial_gate(x: Shape, weight: Shape, *_) -> tuple[int, int]:
    """weight (1, 1 or 2, k, k): two flops a tap and pixel, twice as many backward."""
    E, window = prod(x), 2 * prod(x) // x[1] * prod(weight)
    return 3 * E + window, 6 * E + 2 * window


def cbam(x: Shape, w1: Shape, b1: Shape | None, w2: Shape | None, b2: Shape | None, weight: Shape, *_):
    """Without the perceptron: both pools of x, x times both gates, and the gate of the pixels."""
    E, window = prod(x), 2 * prod(x) // x[1] * prod(weight)
    return 7 * E + window, 16 * E + 2 * window


def attention_gate(x: Shape, g: Shape, wx: Shape, *_) -> tuple[int, int]:
    """wx (F, C): both projections, computed again backward, and two products of each for the gradients."""
    E, F = prod(x), wx[0]
    projections, logits = 2 * F * (E + prod(g)), 3 * F * (E // x[1])
    return projections + logits + E, 3 * projections + 2 * logits + 4 * E


def gate_mul(x: Shape, z: Shape, shortcut: Shape | None = None, *_) -> tuple[int, int]:
    E = prod(x)
    return E + E * (shortcut is not None), 2 * E + (E if prod(z) < E else 0)


def gate_mul_resized(x: Shape, z: Shape, shortcut: Shape | None = None, resize: str = "bilinear", *_):
    """The logits brought to the pixels: three blends of two; backward each share of four."""
    E, fine = prod(x), prod(x) // x[1] * z[1]
    up = resize == "bilinear"
    return E + E * (shortcut is not None) + 9 * fine * up, 2 * E + (E if z[1] < x[1] else 0) + (8 if up else 1) * fine


def strip_means(x: Shape, *_) -> tuple[int, int]:
    E = prod(x)
    return 2 * E, E


def strip_gate(x: Shape, *_) -> tuple[int, int]:
    """The product of both gates and that with x; backward dg, both sums, and dx."""
    E = prod(x)
    return 2 * E, 7 * E


def coordinate_attention(x: Shape, w1: Shape, *_) -> tuple[int, int]:
    """Of every row and column three products with (R, C) matrices, and twice as many backward; then the means and the
    gate."""
    E, strips = prod(x), x[0] * (x[2] + x[3])
    layers = 4 * strips * prod(w1[:2])
    return 4 * E + layers, 8 * E + 2 * layers


def pixel_adaptive_refinement(image: Shape, mask: Shape, dilations: Sequence[int] = (1,), steps: int = 1, *_):
    """Of each neighbour of a pixel: six operations a channel of the image, a product and a sum a channel of the mask
    and step. Backward both again, the gradients of both, and of the affinities."""
    pairs = prod(image) // image[1] * 8 * len(dilations)
    scores, sums = 6 * pairs * image[1], 2 * pairs * mask[1] * steps
    return scores + sums, 3 * scores + 3 * sums


def gate_blend(a: Shape, b: Shape, z: Shape, *_) -> tuple[int, int]:
    """g a + (1 - g) b: a product and a difference more, and of the gradients as well."""
    E = prod(a)
    return 4 * E, 5 * E + (E if prod(z) < E else 0)


def radix_blend(x: Shape, *_) -> tuple[int, int]:
    """A product and a sum for every value of every branch; backward its product with dy, and the sums."""
    E = prod(x)
    return 2 * E, 3 * E


def attention_gate_norm(x: Shape, g: Shape, wx: Shape, *_) -> tuple[int, int]:
    """Both projections twice forward, for the statistics first, and once more backward."""
    E, F = prod(x), wx[0]
    projections, values = 2 * F * (E + prod(g)), F * (E // x[1])
    return 2 * projections + 12 * values + E, 4 * projections + 30 * values + 6 * E


def eca(x: Shape, *_) -> tuple[int, int]:
    E = prod(x)
    return 2 * E, 5 * E


def global_response_norm(x: Shape, *_) -> tuple[int, int]:
    """Squares and their sum, a product and a sum; backward both sums, a product, and two terms."""
    E = prod(x)
    return 5 * E, 8 * E


def global_context(x: Shape, *_) -> tuple[int, int]:
    """Without the perceptron: logits, the weighted mean, a product; backward the sums, both dot products, three
    terms of dx, and dw."""
    E = prod(x)
    return 5 * E, 13 * E


def global_context_add(x: Shape, *_) -> tuple[int, int]:
    E = prod(x)
    return 5 * E, 11 * E


def simam(x: Shape, *_) -> tuple[int, int]:
    """The mean and the squares about it, the energy and a product; backward that again, both sums, and dx."""
    E = prod(x)
    return 8 * E, 17 * E


def scse(x: Shape, *_) -> tuple[int, int]:
    E = prod(x)
    return 6 * E, 15 * E


def local_gate(x: Shape, weight: Shape, *_) -> tuple[int, int]:
    """weight (C, inputs, K, K); a depthwise backward computes the convolution again."""
    E, taps = prod(x), prod(weight[1:])
    return 2 * E * taps + E, (4 * taps + 2 * taps * (weight[1] == 1) + 4) * E


def local_pool_gate(x: Shape, *_) -> tuple[int, int]:
    E = prod(x)
    return 10 * E, 31 * E


def neighborhood_attention(q: Shape, k: Shape, v: Shape, rel_bias=None, kernel_size=3, *_) -> tuple[int, int]:
    """Backward as gathered: scores and dP once for the queries, once for the keys."""
    E, keys = prod(q), _taps(q, kernel_size)
    return 4 * keys * E, (14 * keys + 2) * E


def neighborhood_qk(q: Shape, k: Shape, rel_bias=None, kernel_size=3, *_) -> tuple[int, int]:
    products = _taps(q, kernel_size) * prod(q)
    return 2 * products, 4 * products


def _taps(q: Shape, kernel_size) -> int:
    """The keys of a query of q (N, *S, heads, D), of one size for all axes or of one for each."""
    sizes = [kernel_size] if isinstance(kernel_size, int) else list(kernel_size)
    return prod(sizes * (len(q) - 3) if len(sizes) == 1 else sizes)


def neighborhood_av(attn: Shape, v: Shape, *_) -> tuple[int, int]:
    products = prod(attn) * v[-1]
    return 2 * products, 4 * products
