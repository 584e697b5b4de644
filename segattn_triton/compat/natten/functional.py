"""NATTEN's functions: import them from `segattn_triton.compat.natten.functional` instead of `natten.functional`.

    na1d, na2d, na3d        y_i = sum_j softmax_j(scale <q_i, k_j> + rpb) v_j      heads last, (N, *S, heads, D)
    na1d_qk, ...            <q_i, k_j> + rpb, without a scale: queries come scaled  heads first, (N, heads, *S, D)
    na1d_av, ...            sum_j a_ij v_j                                         heads first

The border is NATTEN's, "shift". Windows are odd, with stride 1 and no keys beside them: anything else is a ValueError
that says what to use. All run on kernels.
"""

from torch import Tensor

from . import _run as run
from . import context
from ._window import AXES, no_additional, window
from .context import *  # noqa: F403

_CHOOSE_A_KERNEL = {  # arguments of NATTEN's na1d to na3d that say how they compute, never what
    "attention_kwargs",
    "xformers_kwargs",
    "backend",
    "q_tile_shape",
    "kv_tile_shape",
    "backward_q_tile_shape",
    "backward_kv_tile_shape",
    "backward_kv_splits",
    "backward_use_pt_reduction",
    "run_persistent_kernel",
    "kernel_schedule",
    "torch_compile",
}


def _whole(axes: int):
    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel_size,
        *positional,
        dilation=1,
        stride=1,
        is_causal=False,
        rpb: Tensor | None = None,
        scale: float | None = None,
        additional_keys: Tensor | None = None,
        additional_values: Tensor | None = None,
        return_lse: bool = False,
        **options,
    ):
        if positional:
            raise ValueError(
                f"na{axes}d: got {positional[0]!r} as the fifth positional argument, which is the dilation in NATTEN "
                "0.17 and the stride in 0.21: name the arguments after kernel_size"
            )
        if "border" in options:
            raise ValueError(
                f'border: got {options["border"]!r}, and NATTEN has "shift" only: use '
                "segattn_triton.functional.neighborhood_attention"
            )
        if unknown := options.keys() - _CHOOSE_A_KERNEL:
            raise TypeError(f"na{axes}d: got an unexpected argument {min(unknown)!r}")
        no_additional(additional_keys=additional_keys, additional_values=additional_values)
        around = window(axes, kernel_size, dilation, is_causal, stride)
        return run.attention(query, key, value, rpb, around, scale, return_lse)

    return _named(
        attention,
        f"na{axes}d",
        f"""y_i = sum_j softmax_j(scale <q_i, k_j> + rpb) v_j over the keys around i. `scale=None` is D^-0.5; 0.0 is 0.

        query, y (N, {AXES[axes]}, heads, D); key, value with as many heads or a divisor of them; with return_lse also
        lse (N, {AXES[axes]}, heads). kernel_size, dilation and is_causal: one value, or one for each axis. rpb
        (heads, {", ".join(["2k-1"] * axes)}), not with a causal axis. Name every argument after kernel_size: the fifth
        one is the dilation in NATTEN 0.17 and the stride in 0.21. Options of 0.21 that choose a kernel have no effect.
        """,
    )


def _scores(axes: int):
    def qk(
        query: Tensor,
        key: Tensor,
        kernel_size,
        dilation=1,
        additional_keys: Tensor | None = None,
        is_causal=False,
        rpb: Tensor | None = None,
    ) -> Tensor:
        no_additional(additional_keys=additional_keys)
        query, key = _heads_last(axes, "query", query), _heads_last(axes, "key", key)
        around = window(axes, kernel_size, dilation, is_causal)
        return run.scores(query, key, rpb, around, scale=1.0).movedim(-2, 1).contiguous()

    return _named(qk, f"na{axes}d_qk", f"<q_i, k_j> + rpb, (N, heads, {AXES[axes]}, taps).")


def _weighted(axes: int):
    def av(
        attn: Tensor,
        value: Tensor,
        kernel_size,
        dilation=1,
        additional_values: Tensor | None = None,
        is_causal=False,
    ) -> Tensor:
        no_additional(additional_values=additional_values)
        attn, value = _heads_last(axes, "attn", attn), _heads_last(axes, "value", value)
        around = window(axes, kernel_size, dilation, is_causal)
        return run.weighted(attn.to(value.dtype), value, around).movedim(-2, 1).contiguous()

    return _named(
        av,
        f"na{axes}d_av",
        f"""sum_j attn_ij v_j, (N, heads, {AXES[axes]}, D). As in NATTEN attn is taken in value's dtype: autocast has
        its softmax in float32.""",
    )


def _heads_last(axes: int, name: str, t: Tensor) -> Tensor:
    """(N, heads, *S, D) as (N, *S, heads, D)."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: got {type(t).__name__}, expected a tensor")
    if t.dim() != axes + 3:
        form = f"(N, heads, {AXES[axes]}, D)"
        raise ValueError(f"{name}: got {t.dim()} axes, shape {tuple(t.shape)}, expected {form}")
    return t.movedim(1, -2)


def _named(function, name: str, doc: str):
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


na1d, na2d, na3d = map(_whole, (1, 2, 3))
na1d_qk, na2d_qk, na3d_qk = map(_scores, (1, 2, 3))
na1d_av, na2d_av, na3d_av = map(_weighted, (1, 2, 3))


# the names before NATTEN 0.17


def na1d_qk_with_bias(
    query: Tensor, key: Tensor, bias: Tensor | None, kernel_size, dilation=1, additional_keys=None
) -> Tensor:
    """<q_i, k_j> + bias, (N, heads, L, taps)."""
    return na1d_qk(query, key, kernel_size, dilation, additional_keys, rpb=bias)


def na2d_qk_with_bias(
    query: Tensor, key: Tensor, bias: Tensor | None, kernel_size, dilation=1, additional_keys=None
) -> Tensor:
    """<q_i, k_j> + bias, (N, heads, H, W, taps)."""
    return na2d_qk(query, key, kernel_size, dilation, additional_keys, rpb=bias)


def na2d_qkrpb(query: Tensor, key: Tensor, rpb: Tensor | None, kernel_size, dilation=1) -> Tensor:
    """<q_i, k_j> + rpb, (N, heads, H, W, taps)."""
    return na2d_qk(query, key, kernel_size, dilation, rpb=rpb)


def natten1dqkrpb(query: Tensor, key: Tensor, rpb: Tensor | None, *sizes, kernel_size=None, dilation=None) -> Tensor:
    """<q_i, k_j> + rpb, (N, heads, L, taps). `sizes`: kernel_size and dilation, or the dilation alone, as before
    NATTEN 0.14.5, where the window is that of rpb."""
    return na1d_qk(query, key, *_of_any_release("natten1dqkrpb", sizes, kernel_size, dilation, _of_table(rpb)), rpb=rpb)


def natten2dqkrpb(query: Tensor, key: Tensor, rpb: Tensor | None, *sizes, kernel_size=None, dilation=None) -> Tensor:
    """<q_i, k_j> + rpb, (N, heads, H, W, taps). `sizes`: kernel_size and dilation, or the dilation alone, as before
    NATTEN 0.14.5, where the window is that of rpb."""
    return na2d_qk(query, key, *_of_any_release("natten2dqkrpb", sizes, kernel_size, dilation, _of_table(rpb)), rpb=rpb)


def natten1dav(attn: Tensor, value: Tensor, *sizes, kernel_size=None, dilation=None) -> Tensor:
    """sum_j attn_ij v_j, (N, heads, L, D). `sizes`: kernel_size and dilation, or the dilation alone, as before NATTEN
    0.14.6, where the window is that of attn."""
    return na1d_av(attn, value, *_of_any_release("natten1dav", sizes, kernel_size, dilation, _of_weights(attn, 1)))


def natten2dav(attn: Tensor, value: Tensor, *sizes, kernel_size=None, dilation=None) -> Tensor:
    """sum_j attn_ij v_j, (N, heads, H, W, D). `sizes`: kernel_size and dilation, or the dilation alone, as before
    NATTEN 0.14.6, where the window is that of attn."""
    return na2d_av(attn, value, *_of_any_release("natten2dav", sizes, kernel_size, dilation, _of_weights(attn, 2)))


natten1dqk, natten2dqk = na1d_qk, na2d_qk


class NATTEN1DQKRPBFunction:
    """`apply` is natten1dqkrpb: for code of before NATTEN 0.15 that calls what it was made of."""

    apply = staticmethod(natten1dqkrpb)


class NATTEN1DAVFunction:
    """`apply` is natten1dav."""

    apply = staticmethod(natten1dav)


class NATTEN2DQKRPBFunction:
    """`apply` is natten2dqkrpb."""

    apply = staticmethod(natten2dqkrpb)


class NATTEN2DAVFunction:
    """`apply` is natten2dav."""

    apply = staticmethod(natten2dav)


def _of_any_release(name: str, sizes: tuple, kernel_size, dilation, derived) -> tuple:
    """(kernel_size, dilation): two positional ones, or the dilation alone and the window `derived` from a tensor."""
    missing = [key for key, value in (("kernel_size", kernel_size), ("dilation", dilation)) if value is None]
    missing = missing[-1:] if len(sizes) == 1 else missing
    if len(sizes) > len(missing):
        raise TypeError(f"{name}: got {len(sizes)} sizes, expected kernel_size and dilation, once each")
    given = {"kernel_size": kernel_size, "dilation": dilation, **dict(zip(missing, sizes, strict=False))}
    if given["kernel_size"] is None and derived is None:
        raise ValueError(f"{name}: got no kernel_size, and no tensor that tells it: name kernel_size and dilation")
    return given["kernel_size"] or derived, given["dilation"] or 1


def _of_table(rpb) -> tuple[int, ...] | None:
    return tuple((size + 1) // 2 for size in rpb.shape[1:]) if isinstance(rpb, Tensor) else None


def _of_weights(attn, axes: int) -> int | None:
    """The side of a square window with as many keys as there are weights."""
    taps = attn.shape[-1] if isinstance(attn, Tensor) and attn.dim() else 0
    side = round(taps ** (1 / axes))
    return side if taps and side**axes == taps else None


__all__ = [
    *("na1d", "na2d", "na3d", "na1d_qk", "na2d_qk", "na3d_qk", "na1d_av", "na2d_av", "na3d_av"),
    *("na1d_qk_with_bias", "na2d_qk_with_bias", "na2d_qkrpb"),
    *("natten1dqk", "natten2dqk", "natten1dqkrpb", "natten2dqkrpb", "natten1dav", "natten2dav"),
    *("NATTEN1DAVFunction", "NATTEN1DQKRPBFunction", "NATTEN2DAVFunction", "NATTEN2DQKRPBFunction"),
    *context.__all__,
]
