"""Attention of every pixel to its surroundings."""

import math

from ... import flops, functional, modules, reference
from ..row import Case, Op, Sizes


def _heads(sizes: Sizes) -> Sizes:
    """Of neighbourhood attention over C channels: D at most 64, of 16, 32, 48... channels two heads or more."""
    C = sizes["C"]
    first = 2 if C % 16 == 0 else 1
    heads = sizes.get("heads") or next(h for h in range(first, C + 1) if C % h == 0 and C // h <= 64)
    return {"heads": heads, "heads_kv": heads, "D": C // heads, "T": 5}


def _attention_bytes(sizes: Sizes, itemsize: int) -> tuple[int, int]:
    """Forward q, k, v, y and lse. Backward y and dy into delta; then q, k, v, dy, lse, delta into dq, dk, dv."""
    heads, heads_kv, D = sizes["heads"], sizes["heads_kv"], sizes["D"]
    pixels, row = sizes["N"] * math.prod(sizes["S"]), max(itemsize, 4)
    vectors = 2 * heads + 2 * heads_kv, 5 * heads + 4 * heads_kv
    rows = heads, 3 * heads
    return tuple(pixels * (v * D * itemsize + r * row) for v, r in zip(vectors, rows, strict=True))


NEIGHBORHOODS = (  # stages at 512 x 512 input; their windows taken as 3 x 3
    Case("nat-mini-stage1", 8, 64, (128, 128), heads=2),
    Case("nat-mini-stage2", 8, 128, (64, 64), heads=4),
    Case("transnext-tiny-stage1", 8, 72, (128, 128), heads=3),
    Case("transnext-tiny-stage2", 8, 144, (64, 64), heads=6),
    Case("hdit-1024-level1", 1, 128, (256, 256), heads=2),
)

ROWS = (
    Op(
        name="neighborhood_attention",
        op=functional.neighborhood_attention,
        reference=reference.neighborhood_attention,
        module=modules.NeighborhoodAttention2d,
        inputs={"q": "N *S heads D", "k": "N *S heads_kv D", "v": "N *S heads_kv D", "rel_bias?": "heads T T"},
        parameters={"rel_bias": "rpb"},
        outputs={"y": "N *S heads D", "lse": "N *S heads"},
        options={"border": ("shift", "mask", "zero")},
        flops=flops.neighborhood_attention,
        passes=(4, 13),
        rounding_points=("p", "ds", "y"),
        module_points=("qkv", "dqkv", "mid", "dmid", "proj"),
        second="return_lse",
        derived=_heads,
        floor=_attention_bytes,
        smallest=3,
        keeps_y=True,
        equation="y_i = sum_j softmax_j(scale <q_i, k_j> + b) v_j",
        attends_to="pixels, by their correlation to their 3x3 surroundings",
        use="what a pixel takes from each neighbour depends on both of them: transformer stages, refining of borders",
        paper="Hassani et al. 2023, arXiv:2204.07143",
        cases=NEIGHBORHOODS,
    ),
)
