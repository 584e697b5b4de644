"""NATTEN's switches. What is here is fused already, so they choose nothing: a backbone with a branch of its own for
`is_fused_na_enabled` is told what it said last, and whatever it then calls has the same result."""

_fused = False  # NATTEN's default: such branches take the split pair, which has a dropout


def use_fused_na(mode: bool = True, **options) -> None:
    """Remembers `mode` for `is_fused_na_enabled`. The options of NATTEN 0.17 have no effect."""
    global _fused
    _fused = bool(mode)


def enable_fused_na(**options) -> None:
    """use_fused_na(True)"""
    use_fused_na(True)


def disable_fused_na() -> None:
    """use_fused_na(False)"""
    use_fused_na(False)


def is_fused_na_enabled() -> bool:
    """What `use_fused_na` said last."""
    return _fused


def has_fused_na(device_index=None) -> bool:
    """True: it is always fused."""
    return True


def use_gemm_na(mode: bool = True) -> None:
    """No effect: NATTEN's choice among kernels of its own."""


use_tiled_na = use_autotuner = enable_autotuner = disable_autotuner = use_gemm_na
use_fna, enable_fna, disable_fna = use_fused_na, enable_fused_na, disable_fused_na
is_fna_enabled, has_fna = is_fused_na_enabled, has_fused_na

__all__ = [
    *("disable_autotuner", "disable_fna", "disable_fused_na", "enable_autotuner", "enable_fna", "enable_fused_na"),
    *("has_fna", "has_fused_na", "is_fna_enabled", "is_fused_na_enabled"),
    *("use_autotuner", "use_fna", "use_fused_na", "use_gemm_na", "use_tiled_na"),
]
