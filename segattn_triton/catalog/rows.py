"""THE table: one row per operation. Tests, the perf suite and the README read it; `segattn_triton` itself does not.

See `segattn_triton.catalog.row` for what the columns mean, and for how shapes are written.
"""

import math
from collections.abc import Callable

from torch import Tensor

from .. import flops, functional, modules, reference
from ..reference.activations import ACTS, GATES, OUT_ACTS
from .norms import with_norms
from .passes import attention_gate_passes
from .row import Case, Op, Sizes


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


def _normed(sizes: Sizes) -> Sizes:
    """Hidden channels of a layer norm, whose results of a few values are rounding alone."""
    return {"R": max(8, sizes.get("Cr", 0))}


def _context_keys(mlp: str) -> dict[str, str]:
    keys = {"w1": "fc1.weight", "b1": "fc1.bias", "ln_weight": "norm.weight", "ln_bias": "norm.bias"}
    keys = {name: f"{mlp}.{key}" for name, key in (keys | {"w2": "fc2.weight", "b2": "fc2.bias"}).items()}
    return {"weight": "conv_attn.weight", "bias": "conv_attn.bias"} | keys


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
LOCAL = (
    Case("segnext-t-stage1", 8, 32, (128, 128)),
    Case("segnext-t-stage2", 8, 64, (64, 64)),
    Case("pidnet-s-pag", 1, 64, (128, 256)),
    Case("bisenetv2-bga", 1, 128, (64, 128)),
    Case("convnextv2-t-stage1", 8, 384, (128, 128)),
)
NEIGHBORHOODS = (  # stages at 512 x 512 input; their windows taken as 3 x 3
    Case("nat-mini-stage1", 8, 64, (128, 128), heads=2),
    Case("nat-mini-stage2", 8, 128, (64, 64), heads=4),
    Case("transnext-tiny-stage1", 8, 72, (128, 128), heads=3),
    Case("transnext-tiny-stage2", 8, 144, (64, 64), heads=6),
    Case("hdit-1024-level1", 1, 128, (256, 256), heads=2),
)

SE = (Case("pan-gau-512", 8, 32, (128, 128), 32),)
ECA = (
    Case("ecaresnet50d-stage1", 8, 256, (128, 128)),
    Case("ecaresnet50d-stage4", 8, 2048, (16, 16)),
)
CBAM = (  # the authors' ResNet-50 with CBAM at 512 x 512; the decoder of a U-Net with it; YOLOv5s at 640 x 640
    Case("resnet50-cbam-stage1", 8, 256, (128, 128), 16, k=7),
    Case("resnet50-cbam-stage4", 8, 2048, (16, 16), 128, k=7),
    Case("unet-cbam-d1", 8, 256, (64, 64), 16, k=7),
    Case("unet-cbam-d3", 8, 64, (256, 256), 4, k=7),
    Case("yolov5s-cbam-p3-640", 1, 128, (80, 80), 8, k=7),
)
ATTENTION_UNET = tuple(  # the skips of LeeJunHyun's and PaddleSeg's at 512 x 512: G = C, F = C / 2
    Case(f"attention-unet-d{i}", N, C, (S, S), C // 2)
    for i, (N, C, S) in enumerate([(8, 512, 64), (8, 256, 128), (8, 128, 256), (4, 64, 512)], 1)
)
ATTENTION_UNET += (Case("monai-attentionunet3d-d3", 1, 32, (64, 64, 64), 16),)
ONE_LAYER = (
    Case("ese-vovnet39b-stage2", 8, 256, (128, 128)),
    Case("ese-vovnet39b-stage5", 8, 1024, (16, 16)),
)

PRODUCTS = (  # SegNeXt and VAN at 512 x 512, BiSeNetV2 at 1024 x 2048
    Case("segnext-t-msca-stage1", 8, 32, (128, 128)),
    Case("van-b0-lka-stage2", 8, 64, (64, 64)),
    Case("bisenetv2-bga-1024x2048", 1, 128, (128, 256)),
)
CONTEXT = (  # timm's gcresnet50t at 512 x 512; mmsegmentation's GCHead at 512 x 1024
    Case("gcresnet50t-stage1", 8, 256, (128, 128), 32),
    Case("gcresnet50t-stage4", 8, 2048, (16, 16), 256),
    Case("gcnet-r50-head-512x1024", 2, 512, (64, 128), 128),
)
SIMAM = (  # the authors' ResNet-18 at 512 x 512; YOLOv5s with it at 640 x 640
    Case("simam-resnet18-stage1", 8, 64, (128, 128)),
    Case("simam-resnet18-stage4", 8, 512, (16, 16)),
    Case("yolov5s-simam-p3-640", 1, 128, (80, 80)),
)
CONVNEXT = (  # ConvNeXt V2 tiny at 512 x 512
    Case("convnextv2-t-grn-stage1", 8, 384, (128, 128)),
    Case("convnextv2-t-grn-stage3", 8, 1536, (32, 32)),
)
RESIZED = (  # the logits at a quarter, and at an eighth, of the resolution
    Case("bisenetv2-bga-up-1024x2048", 1, 128, (128, 256)),
    Case("topformer-tiny-512", 8, 128, (64, 64)),
)
BLENDS = (  # at 1024 x 2048
    Case("pidnet-s-pag-1024x2048", 1, 64, (128, 256)),
    Case("pp-liteseg-uafm-1024x2048", 1, 64, (128, 256)),
)

CBAM_KEYS = {
    **{"w1": "channel.fc1.weight", "b1": "channel.fc1.bias", "w2": "channel.fc2.weight", "b2": "channel.fc2.bias"},
    **{"weight": "spatial.conv.weight", "bias": "spatial.conv.bias"},
}
MAP, PIXEL_MAP = "N C *S", "N 1 *S"
TIES = ("first", "split")
CONTEXT_INPUTS = {
    **{"x": MAP, "weight": "1 C", "bias?": "1", "w1": "R C", "b1?": "R"},
    **{"ln_weight": "R", "ln_bias?": "R", "w2": "C R", "b2?": "C"},
}

ROWS = (
    Op(
        name="spatial_gate",
        op=functional.spatial_gate,
        reference=reference.spatial_gate,
        module=modules.SpatialAttention,
        inputs={"x": MAP, "weight": "1 C", "bias?": "1"},
        parameters={"weight": "conv.weight", "bias": "conv.bias"},
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"gate": GATES},
        flops=flops.spatial_gate,
        passes=(2, 3),
        dims=(1, 2, 3),
        equation="y = x * gate(<w, x_p> + b)",
        attends_to="pixels, by a learned direction in channel space",
        use="where in the image matters, and one learned direction tells it: decoders, after a skip connection",
        paper="Roy et al. 2018, arXiv:1803.02579 (sSE)",
        cases=UNET + BISENET + VOLUME,
    ),
    Op(
        name="spatial_pool_gate",
        op=functional.spatial_pool_gate,
        reference=reference.spatial_pool_gate,
        module=modules.SpatialPoolAttention,
        inputs={"x": MAP},
        parameters={},
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"pool": ("mean", "max", "meanmax"), "gate": GATES, "ties": TIES},
        flops=flops.spatial_pool_gate,
        passes=(2, 3),
        dims=(1, 2, 3),
        equation="y = x * gate(pool_c x_p)",
        attends_to="pixels, by their mean or strongest response",
        use="as the spatial gate, without any parameter",
        paper="pooling of Woo et al. 2018, arXiv:1807.06521 (CBAM), without its convolution",
        cases=UNET + BISENET + VOLUME,
    ),
    Op(
        name="channel_gate",
        op=functional.channel_gate,
        reference=reference.channel_gate,
        module=modules.ChannelAttention,
        inputs={"x": MAP, "w1": "Cr C", "b1?": "Cr", "w2": "C Cr", "b2?": "C"},
        parameters={"w1": "fc.0.weight", "b1": "fc.0.bias", "w2": "fc.2.weight", "b2": "fc.2.bias"},
        outputs={"y": MAP, "map": "N C"},
        options={"pool": ("avg", "max", "avgmax"), "act": ACTS, "gate": GATES, "ties": TIES},
        flops=flops.squeeze_excite,
        passes=(3, 4),
        dims=(1, 2, 3),
        equation="y = x * gate(W2 act(W1 pool(x) + b1) + b2)",
        attends_to="channels, by what the whole image holds",
        use="which channels matter depends on the whole image: encoder stages, fusion of branches",
        paper="Hu et al. 2018, arXiv:1709.01507 (SE)",
        cases=UNET + SE_NETS + BISENET + VOLUME,
    ),
    Op(
        name="squeeze_excite",
        op=functional.squeeze_excite,
        reference=reference.squeeze_excite,
        module=modules.SqueezeExcite,
        inputs={
            **{"x": MAP, "w1": "Cr Cs", "b1?": "Cr", "w2": "C Cr", "b2?": "C"},
            **{"source?": "N Cs *T", "shortcut?": MAP},
        },
        parameters={"w1": "fc1.weight", "b1": "fc1.bias", "w2": "fc2.weight", "b2": "fc2.bias"},
        outputs={"y": MAP, "map": "N C"},
        options={
            **{"pool": ("avg", "max", "avgmax", "avg+max"), "act": ACTS, "gate": GATES},
            **{"out_act": OUT_ACTS, "ties": TIES},
        },
        flops=flops.squeeze_excite,
        passes=(4, 4),
        dims=(1, 2, 3),
        fixed={"rule": "monai", "reduction": 2},
        derived=lambda sizes: {"Cs": sizes["C"], "T": sizes["S"]},
        equation="y = out_act(x * gate(W2 act(W1 pool(source) + b1) + b2) + shortcut)",
        attends_to="channels, by what the whole image holds, of the map itself or of another one",
        use="a checkpoint has such gates; a residual block ends with one; one branch of a decoder weights another",
        paper="Hu et al. 2018, arXiv:1709.01507 (SE); Li et al. 2018, arXiv:1805.10180 (PAN)",
        cases=SE + SE_NETS + VOLUME,
    ),
    Op(
        name="effective_se",
        op=functional.channel_gate,
        reference=reference.channel_gate,
        module=modules.EffectiveSE,
        inputs={"x": MAP, "w1": "C C", "b1?": "C"},
        parameters={"w1": "fc.weight", "b1": "fc.bias"},
        outputs={"y": MAP, "map": "N C"},
        options={"gate": GATES},
        flops=flops.squeeze_excite,
        passes=(3, 4),
        dims=(1, 2, 3),
        fixed={"gate": "sigmoid"},
        equation="y = x * gate(W1 pool(x) + b1)",
        attends_to="channels, by what the whole image holds, without a bottleneck",
        use="as the channel gate where channels are few, and on the branches of BiSeNet",
        paper="Lee and Park 2020, arXiv:1911.06667 (eSE); Yu et al. 2018, arXiv:1808.00897 (ARM)",
        cases=ONE_LAYER + BISENET,
    ),
    Op(
        name="cbam_channel_gate",
        op=functional.cbam_channel_gate,
        reference=reference.cbam_channel_gate,
        module=modules.CBAMChannelAttention,
        inputs={"x": MAP, "w1": "Cr C", "b1?": "Cr", "w2": "C Cr", "b2?": "C"},
        parameters={"w1": "fc1.weight", "b1": "fc1.bias", "w2": "fc2.weight", "b2": "fc2.bias"},
        outputs={"y": MAP, "map": "N C"},
        options={"pool": ("avg+max", "avg", "max", "avgmax"), "act": ACTS, "gate": GATES, "ties": TIES},
        flops=flops.squeeze_excite,
        passes=(3, 4),
        dims=(1, 2, 3),
        fixed={"reduction": 2},
        equation="y = x * gate(mlp(mean(x)) + mlp(max(x)))",
        attends_to="channels, by the mean and the peak of the whole image",
        use="as the channel gate where a single strong response matters as much as the mean",
        paper="Woo et al. 2018, arXiv:1807.06521 (CBAM, its channel half)",
        cases=CBAM,
    ),
    Op(
        name="cbam_spatial_gate",
        op=functional.cbam_spatial_gate,
        reference=reference.cbam_spatial_gate,
        module=modules.CBAMSpatialAttention,
        inputs={"x": MAP, "weight": "1 2 k k", "bias?": "1"},
        parameters={"weight": "conv.weight", "bias": "conv.bias"},
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"pool": ("max,mean", "mean,max"), "gate": GATES, "ties": TIES},
        flops=flops.cbam_spatial_gate,
        passes=(3, 4),
        fixed={"kernel_size": 3, "bias": True, "norm": False},
        derived=lambda sizes: {"k": 3},
        equation="y = x * gate(conv_kxk(max_c x, mean_c x) + b)",
        attends_to="pixels, by the peak and the mean of their channels, and of their neighbours'",
        use="as the spatial gate, where surroundings decide and channels have no meaning of their own",
        paper="Woo et al. 2018, arXiv:1807.06521 (CBAM, its spatial half)",
        cases=CBAM,
    ),
    Op(
        name="cbam",
        op=functional.cbam,
        reference=reference.cbam,
        module=modules.CBAM,
        inputs={"x": MAP, "w1": "Cr C", "b1?": "Cr", "w2": "C Cr", "b2?": "C", "weight": "1 2 k k", "bias?": "1"},
        parameters=CBAM_KEYS,
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={
            **{"pool": ("avg+max", "avg", "max", "avgmax"), "spatial_pool": ("max,mean", "mean,max"), "act": ACTS},
            **{"gate": GATES, "ties": TIES, "residual": (False, True)},
        },
        flops=flops.cbam,
        passes=(4, 5),
        gates=2,
        fixed={"reduction": 2, "kernel_size": 3, "spatial_bias": True, "norm": False},
        derived=lambda sizes: {"k": 3},
        equation="y = x' * gate(conv_kxk(max_c x', mean_c x') + b), x' = x * gate(mlp(mean(x)) + mlp(max(x)))",
        attends_to="channels, by what the whole image holds, then pixels, by their surroundings",
        use="what matters and where, in encoders and detectors: the block that most checkpoints with attention hold",
        paper="Woo et al. 2018, arXiv:1807.06521 (CBAM)",
        cases=CBAM,
    ),
    Op(
        name="cbam_light",
        op=functional.cbam,
        reference=reference.cbam,
        module=modules.CBAM,
        inputs={"x": MAP, "w1": "Cr C", "b1?": "Cr", "w2": "C Cr", "b2?": "C", "weight": "1 1 k k", "bias?": "1"},
        parameters=CBAM_KEYS,
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"pool": ("avg+max", "avgmax"), "gate": GATES, "ties": TIES},
        flops=flops.cbam,
        passes=(4, 5),
        gates=2,
        fixed={"reduction": 2, "kernel_size": 3, "spatial_bias": True, "norm": False, "light": True},
        derived=lambda sizes: {"k": 3},
        equation="y = x' * gate(conv_kxk((max_c x' + mean_c x') / 2) + b), x' as of cbam",
        attends_to="as CBAM, by half the sum of both maps",
        use="a checkpoint of timm's LightCbam; half the taps",
        paper="timm's LightCbamModule, after Woo et al. 2018, arXiv:1807.06521",
        cases=CBAM[:1],
    ),
    Op(
        name="attention_gate",
        op=functional.attention_gate,
        reference=reference.attention_gate,
        module=modules.AttentionGate,
        inputs={"x": MAP, "g": "N G *S", "wx": "Cr C", "wg": "Cr G", "b?": "Cr", "weight": "1 Cr", "bias?": "1"},
        parameters={
            **{"wx": "W_x.0.weight", "wg": "W_g.0.weight", "b": "W_g.0.bias"},
            **{"weight": "psi.0.weight", "bias": "psi.0.bias"},
        },
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"gate": GATES},
        flops=flops.attention_gate,
        passes=(3, 5),
        passes_of=attention_gate_passes,
        rounding_points=("wx", "wg", "dprojected"),
        dims=(1, 2, 3),
        fixed={"norms": (), "bias_x": False},
        derived=lambda sizes: {"G": sizes["C"]},
        equation="y = x * gate(<w, relu(Wx x_p + Wg g_p + b)> + c)",
        attends_to="pixels of a skip connection, by what the decoder has found there",
        use="skip connections of a U-Net: the decoder says where the encoder's details matter",
        paper="Oktay et al. 2018, arXiv:1804.03999 (Attention U-Net)",
        cases=ATTENTION_UNET,
    ),
    Op(
        name="eca",
        op=functional.eca,
        reference=reference.eca,
        module=modules.ECA,
        inputs={"x": MAP, "weight": "1 1 k", "bias?": "1"},
        parameters={"weight": "conv.weight", "bias": "conv.bias"},
        outputs={"y": MAP, "map": "N C"},
        options={"circular": (False, True), "gate": GATES},
        flops=flops.eca,
        passes=(3, 4),
        dims=(1, 2, 3),
        fixed={"bias": True},
        derived=lambda sizes: {"k": 3},
        equation="y = x * gate(conv1d_k(mean(x)) + b)",
        attends_to="channels, by what the whole image holds of their neighbours in the order of channels",
        use="as the channel gate, with a handful of parameters",
        paper="Wang et al. 2020, arXiv:1910.03151 (ECA)",
        cases=ECA + VOLUME,
    ),
    Op(
        name="scse",
        op=functional.scse,
        reference=reference.scse,
        module=modules.SCSE,
        inputs={"x": MAP, "w1": "Cr C", "b1?": "Cr", "w2": "C Cr", "b2?": "C", "weight": "1 C", "bias?": "1"},
        parameters={
            **{"w1": "cSE.1.weight", "b1": "cSE.1.bias", "w2": "cSE.3.weight", "b2": "cSE.3.bias"},
            **{"weight": "sSE.0.weight", "bias": "sSE.0.bias"},
        },
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"act": ACTS, "gate": GATES, "reduce": ("sum", "max")},
        flops=flops.scse,
        passes=(3, 4),
        dims=(1, 2, 3),
        fixed={"reduction": 2},
        equation="y = x * gate(W2 act(W1 mean(x) + b1) + b2) + x * gate(<w, x_p> + b)",
        attends_to="channels, by what the whole image holds, beside pixels, by a learned direction in channel space",
        use="decoders: what matters in the image and where, at the cost of little more than either",
        paper="Roy et al. 2018, arXiv:1803.02579 (scSE)",
        cases=UNET + VOLUME,
    ),
    Op(
        name="gate_mul",
        op=functional.gate_mul,
        reference=reference.gate_mul,
        inputs={"x": MAP, "z": MAP, "shortcut?": MAP},
        parameters={},
        outputs={"y": MAP, "map": MAP},
        options={"gate": GATES, "out_act": OUT_ACTS},
        flops=flops.gate_mul,
        passes=(4, 5),
        dims=(1, 2, 3),
        equation="y = out_act(x * gate(z) + shortcut)",
        attends_to="single values, by whatever the logits z come from",
        use="a network makes the logits itself: large-kernel attention, two-branch networks",
        paper="Guo et al. 2022, arXiv:2209.08575 (SegNeXt); Yu et al. 2020, arXiv:2004.02147 (BiSeNetV2)",
        cases=PRODUCTS,
    ),
    Op(
        name="gate_mul_resized",
        op=functional.gate_mul_resized,
        reference=reference.gate_mul_resized,
        inputs={"x": MAP, "z": "N C *T", "shortcut?": MAP},
        parameters={},
        outputs={"y": MAP, "map": MAP},
        options={
            **{"resize": ("bilinear", "nearest"), "align_corners": (False, True)},
            **{"gate": GATES, "out_act": OUT_ACTS},
        },
        flops=flops.gate_mul_resized,
        passes=(3, 4),
        derived=lambda sizes: {"T": tuple(-(-s // 4) for s in sizes["S"])},
        equation="y = out_act(x * gate(up(z)) + shortcut)",
        attends_to="single values, by logits of a coarser map",
        use="one branch is coarse and says what counts in the fine one: two-branch networks",
        paper="Yu et al. 2020, arXiv:2004.02147 (BiSeNetV2); Zhang et al. 2022, arXiv:2204.05525 (TopFormer)",
        cases=RESIZED,
    ),
    Op(
        name="gate_blend",
        op=functional.gate_blend,
        reference=reference.gate_blend,
        inputs={"a": MAP, "b": MAP, "z": PIXEL_MAP},
        parameters={},
        outputs={"y": MAP, "map": PIXEL_MAP},
        options={"gate": GATES},
        flops=flops.gate_blend,
        passes=(3, 5),
        dims=(1, 2, 3),
        equation="y = g * a + (1 - g) * b, g = gate(z)",
        attends_to="one of two maps at every pixel, by whatever the logits z come from",
        use="two branches meet, details and context: real-time networks",
        paper="Xu et al. 2022, arXiv:2206.02066 (PIDNet); Peng et al. 2022, arXiv:2204.02681 (PP-LiteSeg)",
        cases=BLENDS,
    ),
    Op(
        name="global_response_norm",
        op=functional.global_response_norm,
        reference=reference.global_response_norm,
        module=modules.GlobalResponseNorm,
        inputs={"x": MAP, "weight": "C", "bias?": "C"},
        parameters={"weight": "weight", "bias": "bias"},
        outputs={"y": MAP, "map": "N C"},
        options={},
        flops=flops.global_response_norm,
        passes=(3, 5),
        dims=(1, 2, 3),
        equation="y = x + w (x r) + b, r = norm(x) / (mean_c norm(x) + eps)",
        attends_to="channels, by how strong each is in the whole image beside the others",
        use="channels become alike: wide layers of convolutional encoders, as in ConvNeXt V2",
        paper="Woo et al. 2023, arXiv:2301.00808 (ConvNeXt V2)",
        cases=CONVNEXT,
    ),
    Op(
        name="global_context",
        op=functional.global_context,
        reference=reference.global_context,
        module=modules.GlobalContext,
        inputs=CONTEXT_INPUTS,
        parameters=_context_keys("mlp_scale"),
        outputs={"y": MAP, "map": "N C"},
        options={"act": ACTS, "gate": GATES},
        flops=flops.global_context,
        passes=(3, 5),
        dims=(1, 2, 3),
        fixed={"hidden": 8},
        derived=_normed,
        equation="y = x * gate(W2 act(norm(W1 v + b1)) + b2), v = sum_p softmax_p(<w, x_p>) x_p",
        attends_to="channels, by what the image holds at the pixels that it attends to",
        use="as the channel gate where few pixels matter: late stages of encoders, heads",
        paper="Cao et al. 2019, arXiv:1904.11492 (GCNet), scaling",
        cases=CONTEXT,
    ),
    Op(
        name="global_context_add",
        op=functional.global_context_add,
        reference=reference.global_context_add,
        module=modules.GlobalContext,
        inputs=CONTEXT_INPUTS,
        parameters=_context_keys("mlp_add"),
        outputs={"y": MAP, "map": "N C"},
        options={"act": ACTS},
        flops=flops.global_context_add,
        passes=(3, 4),
        dims=(1, 2, 3),
        fixed={"hidden": 8, "fuse": "add"},
        derived=_normed,
        equation="y = x + W2 act(norm(W1 v + b1)) + b2, v = sum_p softmax_p(<w, x_p>) x_p",
        attends_to="the whole image, at the pixels that it attends to: the same is added to every pixel",
        use="pixels have to know the whole image, at a fraction of the cost of non-local attention",
        paper="Cao et al. 2019, arXiv:1904.11492 (GCNet)",
        cases=CONTEXT,
    ),
    Op(
        name="simam",
        op=functional.simam,
        reference=reference.simam,
        inputs={"x": MAP},
        parameters={},
        outputs={"y": MAP, "map": MAP},
        options={},
        flops=flops.simam,
        passes=(3, 5),
        dims=(1, 2, 3),
        equation="y = x * sigmoid((x - mean)^2 / (4 (var + eps)) + 1/2)",
        attends_to="single values, by how far they lie from the mean of their channel",
        use="values that stand out matter, and there shall be no parameter: encoder blocks",
        paper="Yang et al. 2021, proceedings.mlr.press/v139/yang21o (SimAM)",
        cases=SIMAM,
    ),
    Op(
        name="local_gate",
        op=functional.local_gate,
        reference=reference.local_gate,
        module=modules.LocalAttention,
        inputs={"x": MAP, "weight": "C C 3 3", "bias?": "C"},
        parameters={"weight": "conv.weight", "bias": "conv.bias"},
        outputs={"y": MAP, "map": MAP},
        options={"gate": GATES},
        flops=flops.local_gate,
        passes=(2, 12),
        rounding_points=("z", "dz", "dgate_x", "dconv_x", "conv_weight", "dconv_weight"),
        equation="y = x * gate(conv3x3(x) + b)",
        attends_to="single values, by all channels of their 3x3 surroundings",
        use="surroundings decide and the cost of a full convolution is acceptable: few channels, late stages",
        paper="the convolution gate of segmentation tutorials",
        cases=LOCAL,
    ),
    Op(
        name="local_gate_depthwise",
        op=functional.local_gate,
        reference=reference.local_gate,
        module=modules.LocalAttention,
        inputs={"x": MAP, "weight": "C 1 3 3", "bias?": "C"},
        parameters={"weight": "conv.weight", "bias": "conv.bias"},
        outputs={"y": MAP, "map": MAP},
        options={"gate": GATES},
        flops=flops.local_gate,
        passes=(2, 3),
        fixed={"depthwise": True},
        equation="y = x * gate(depthwise conv3x3(x) + b)",
        attends_to="single values, by their own channel's 3x3 surroundings",
        use="surroundings decide and every channel can decide alone: large maps, many channels",
        paper="the same with a depthwise convolution, as in SegNeXt, arXiv:2209.08575",
        cases=LOCAL,
    ),
    Op(
        name="local_pool_gate",
        op=functional.local_pool_gate,
        reference=reference.local_pool_gate,
        module=modules.LocalPoolAttention,
        inputs={"x": MAP},
        parameters={},
        outputs={"y": MAP, "map": MAP},
        options={"pool": ("avg", "max"), "gate": GATES, "ties": TIES},
        flops=flops.local_pool_gate,
        passes=(2, 3),
        equation="y = x * gate(pool3x3(x))",
        attends_to="single values, by the mean or peak of their 3x3 surroundings",
        use="as the depthwise local gate, without any parameter",
        paper="the pooling gate of segmentation tutorials",
        cases=LOCAL,
    ),
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
ROWS += with_norms({row.name: row for row in ROWS})


def row_of(op: Callable, *tensors: Tensor | None) -> Op:
    """The row of a public function called with these tensors."""
    for row in ROWS:
        if row.op is op and row.fits(*tensors):
            return row
    shapes = [tuple(t.shape) for t in tensors if t is not None]
    raise KeyError(f"{getattr(op, '__name__', op)}: no row of the catalog fits tensors of the shapes {shapes}")
