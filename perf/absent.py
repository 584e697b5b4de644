"""Packages that may be absent, and what brings them."""

import importlib.util

EXTRAS = {
    "perf": ("typer", "rich", "pandas", "jinja2", "matplotlib", "numpy", "PIL"),
    "models": ("torchvision", "timm", "segmentation_models_pytorch", "monai"),
}


def advice(error: ModuleNotFoundError) -> str | None:
    """One line that says how to install what is absent; None for what is none of these."""
    name = (error.name or "").partition(".")[0]
    if name == "triton":
        return "triton is not installed, and this needs kernels: pip install triton (on Windows, triton-windows)"
    for extra, packages in EXTRAS.items():
        if name in packages:
            return f'{name} is not installed: pip install "segattn_triton[{extra}]"'
    return None


def need(*packages: str) -> None:
    """Raise now for what would be missed at the end."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
