"""torchvision on a CPU build of torch: its wheel is a CUDA build, whose operators cannot be loaded.

`import torchvision` then fails at the first operator it describes. Declaring the two schemas that it asks for is
enough for its models, and for timm and segmentation_models_pytorch, which import it.
"""

import importlib.util
import sys

import torch

_library = None  # keeps the schemas registered


def install() -> None:
    """Import torchvision; where its operators are missing, declare them and import it again. ImportError without it."""
    global _library
    if importlib.util.find_spec("torchvision") is None:
        raise ModuleNotFoundError(
            'torchvision is not installed: pip install "segattn_triton[models]"', name="torchvision"
        )
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
