"""What rows of several families have: shapes, options, and the networks that their cases are from."""

from ...functional.values import TIES as TIES
from ..row import Case

MAP, PIXEL_MAP = "N C *S", "N 1 *S"

UNET = tuple(  # the decoder gates of smp's Unet with decoder_attention_type="scse", 512 x 512 input
    Case(f"smp-unet-scse-d{i}", 8, C, (S, S), C // 16 or 1)
    for i, (C, S) in enumerate([(256, 32), (128, 64), (64, 128), (32, 256), (16, 512)], 1)
)
BISENET = (Case("bisenet-arm-1024x2048", 1, 128, (64, 128)), Case("bisenet-ffm-1024x2048", 1, 256, (128, 256), 64))
SE_NETS = (
    Case("se-resnet50-stage1", 8, 256, (128, 128), 16),
    Case("se-resnet50-stage4", 8, 2048, (16, 16), 128),
    Case("efficientnet-b0-stage3", 8, 144, (64, 64), 6),
    Case("lraspp-mobilenetv3-520", 8, 672, (33, 33), 168),
)
VOLUME = (Case("monai-unet3d-128", 2, 32, (64, 64, 64)),)
