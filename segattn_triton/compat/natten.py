"""NATTEN's 2-D functions, run by `segattn_triton`: replace `from natten.functional import ...` by this module.

na2d takes tensors with heads last, (N, H, W, heads, D), as in NATTEN 0.17 and 0.21; the split functions of 0.17 take
them with heads first, (N, heads, H, W, D), and do not scale: queries come scaled. The border is NATTEN's, "shift".
Windows are square and odd, not causal, with stride 1 and no additional keys or values: anything else is a ValueError.
"""

from torch import Tensor

from .. import functional

_CHOOSE_A_KERNEL = {  # arguments of NATTEN 0.21's na2d that say how it computes, never what
    "attention_kwargs",
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


def _square(name: str, value) -> int:
    """The one value of an int or of a pair of equal ints."""
    if isinstance(value, tuple | list) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    if isinstance(value, tuple | list):
        raise ValueError(f"{name}: got {value!r}, expected one int, or two equal ones: windows are square")
    return value


def _unsupported(stride=1, is_causal=False, additional_keys=None, additional_values=None) -> None:
    if _square("stride", stride) != 1:
        raise ValueError(f"stride: got {stride!r}, expected 1")
    if any(is_causal) if isinstance(is_causal, tuple | list) else is_causal:
        raise ValueError(f"is_causal: got {is_causal!r}, expected False")
    for name, value in (("additional_keys", additional_keys), ("additional_values", additional_values)):
        if value is not None:
            raise ValueError(f"{name}: got {type(value).__name__}, expected None")


def _heads_last(name: str, t: Tensor) -> Tensor:
    """(N, heads, H, W, D) as (N, H, W, heads, D)."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: got {type(t).__name__}, expected a tensor")
    if t.dim() != 5:
        raise ValueError(f"{name}: got {t.dim()} axes, shape {tuple(t.shape)}, expected (N, heads, H, W, D)")
    return t.permute(0, 2, 3, 1, 4)


def _table(rpb, query) -> Tensor | None:
    """The table in the query's dtype or, of any other, in float32, as the function takes it."""
    floats = isinstance(rpb, Tensor) and isinstance(query, Tensor) and rpb.is_floating_point()
    return rpb.float() if floats and rpb.dtype != query.dtype else rpb


def na2d(
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
    """y (N, H, W, heads, D), with return_lse also lse (N, H, W, heads). `scale=None` is D^-0.5; 0.0 is 0.

    Name every argument after kernel_size: the fifth one is the dilation in NATTEN 0.17 and the stride in 0.21.
    The options of 0.21 that choose a kernel are accepted and have no effect.
    """
    if positional:
        raise ValueError(
            f"na2d: got {positional[0]!r} as the fifth positional argument, which is the dilation in NATTEN 0.17 "
            "and the stride in 0.21: name the arguments after kernel_size"
        )
    if unknown := options.keys() - _CHOOSE_A_KERNEL:
        raise TypeError(f"na2d: got an unexpected argument {min(unknown)!r}")
    _unsupported(stride, is_causal, additional_keys, additional_values)
    return functional.neighborhood_attention(
        query,
        key,
        value,
        kernel_size=_square("kernel_size", kernel_size),
        dilation=_square("dilation", dilation),
        rel_bias=_table(rpb, query),
        scale=scale,
        return_lse=return_lse,
    )


def na2d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size,
    dilation=1,
    additional_keys: Tensor | None = None,
    is_causal=False,
    rpb: Tensor | None = None,
) -> Tensor:
    """<q_i, k_j> + rpb, (N, heads, H, W, k*k)."""
    _unsupported(is_causal=is_causal, additional_keys=additional_keys)
    scores = functional.neighborhood_qk(
        _heads_last("query", query),
        _heads_last("key", key),
        kernel_size=_square("kernel_size", kernel_size),
        dilation=_square("dilation", dilation),
        rel_bias=_table(rpb, query),
        scale=1.0,
    )
    return scores.permute(0, 3, 1, 2, 4).contiguous()


def na2d_qkrpb(query: Tensor, key: Tensor, rpb: Tensor | None, kernel_size, dilation=1) -> Tensor:
    """<q_i, k_j> + rpb, (N, heads, H, W, k*k)."""
    return na2d_qk(query, key, kernel_size, dilation, rpb=rpb)


def na2d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size,
    dilation=1,
    additional_values: Tensor | None = None,
    is_causal=False,
) -> Tensor:
    """sum_j attn_ij v_j, (N, heads, H, W, D). As in NATTEN attn is taken in value's dtype: autocast has its softmax in
    float32."""
    _unsupported(is_causal=is_causal, additional_values=additional_values)
    attn, value = _heads_last("attn", attn), _heads_last("value", value)
    y = functional.neighborhood_av(
        attn.to(value.dtype),
        value,
        kernel_size=_square("kernel_size", kernel_size),
        dilation=_square("dilation", dilation),
    )
    return y.permute(0, 3, 1, 2, 4).contiguous()


natten2dqkrpb, natten2dqk, natten2dav = na2d_qkrpb, na2d_qk, na2d_av  # the names before NATTEN 0.17
