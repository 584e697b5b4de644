"""What the static guard excuses: a fault of a kernel on an architecture in these problems, and why it may have it.

A problem is `row case dtype layout`, and options beside the row's defaults. A word of it may be several with commas,
for all combinations, and `*` is any; `*` alone is every problem. A fault is known by its last words. A problem that an
exception names without a `*` has the fault: where it has not, or not any more, that is a fault in its turn.
"""

import itertools
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple


class Exemption(NamedTuple):
    kernel: str
    arch: int
    fault: str  # its last words
    why: str
    problems: tuple[str, ...]

    @property
    def exact(self) -> frozenset[str]:
        return _named(self.problems)

    def excuses(self, problem: str, arch: int | str, kernel: str, fault: str) -> bool:
        same = (self.kernel, self.arch) == (kernel, arch) and f" {fault}".endswith(f" {self.fault}")
        return same and (problem in self.exact or any(_is_like(problem, p) for p in self.problems))


@lru_cache(None)
def _named(problems: tuple[str, ...]) -> frozenset[str]:
    """The problems that are named in full."""
    full = (itertools.product(*map(_ways, problem.split())) for problem in problems if "*" not in problem)
    return frozenset(map(" ".join, itertools.chain(*full)))


def _ways(word: str) -> list[str]:
    return [word] if "=" in word else word.split(",")


def _is_like(problem: str, pattern: str) -> bool:
    words, wanted = problem.split(), pattern.split()
    if "*" not in pattern or wanted == ["*"]:
        return wanted == ["*"]
    return len(words) == len(wanted) and all(
        any(fnmatchcase(word, way) for way in _ways(ways)) for word, ways in zip(words, wanted, strict=True)
    )


def _exempt(
    kernels: Sequence[str], arches: Sequence[int], faults: Sequence[str], why: str, *problems: str
) -> Iterator[Exemption]:
    """One of each kernel, architecture and fault."""
    for kernel, arch, fault in itertools.product(kernels, arches, faults):
        yield Exemption(kernel, arch, fault, why, problems)


EXEMPTIONS: tuple[Exemption, ...] = (
    # --- logits of another resolution
    *_exempt(
        ["blend_gather"],
        [75, 80, 86, 89, 90, 100, 120],
        ["128-bit accesses"],
        "neighbouring logits gather from pixels that lie apart",
        "*",
    ),
    *_exempt(
        ["blend_gather"],
        [90],
        ["in flight"],
        "its loop is over the few pixels that a logit reaches, which its neighbours have brought into the L1 cache",
        "gate_mul_resized * bfloat16,float16 *",
        "gate_mul_resized * bfloat16,float16 * *",
        "gate_mul_resized * float32 contiguous",
        "gate_mul_resized * float32 contiguous *",
    ),
    *_exempt(
        ["blend_gather"],
        [75, 80],
        ["8 bytes of stack"],
        "float32 in NCHW: the taps of both axes beside the sums",
        "gate_mul_resized * float32 contiguous",
    ),
    *_exempt(
        ["blend_gather"],
        [90],
        ["8 bytes of stack"],
        "as before Hopper, where a shortcut's activation is asked, too",
        "gate_mul_resized bisenetv2-bga-up-1024x2048 float32 contiguous out_act=relu",
    ),
    # --- refinement by affinity
    *_exempt(
        ["refinement_affinity", "refinement_step", "refinement_gather", "refinement_scores", "refinement_own"],
        [75, 80, 86, 89, 90, 100, 120],
        ["128-bit accesses"],
        "neighbours lie at any distance: a lane loads its own, from lines that others of them have brought",
        "*",
    ),
    *_exempt(
        ["refinement_resize", "refinement_unsize"],
        [75, 80, 86, 89, 90, 100, 120],
        ["128-bit accesses"],
        "values of the coarse mask and pixels of the image lie a scale apart",
        "*",
    ),
    *_exempt(
        ["refinement_fold"],
        [75, 80, 86, 89, 90, 100, 120],
        ["128-bit accesses"],
        "with its border a row of the image begins anywhere",
        "*",
    ),
    *_exempt(
        ["refinement_affinity", "refinement_step", "refinement_gather", "refinement_scores", "refinement_own"],
        [90],
        ["in flight", "waves"],
        "no loop over a map: a program has a tile, and loops over neighbours, channels or masks of its pixels",
        "*",
    ),
    *_exempt(
        ["refinement_unsize", "refinement_fold"],
        [90],
        ["in flight", "waves"],
        "no loop over a map: over the pixels that took from a value, and in few programs over the rows of the border",
        "*",
    ),
    *_exempt(
        ["window_fwd", "window_dq", "window_dkv", "window_table", "window_table_of", "window_dot", "window_sum"],
        [90],
        ["in flight", "waves"],
        "no loop over a map: over the window of a tile's pixels, most of which the tiles beside it have in cache",
        "*",
    ),
    # --- the additive gate
    *_exempt(
        ["additive_fwd", "additive_dz", "additive_bwd", "additive_moments"],
        [75],
        ["128-bit accesses"],
        "the operands of a product on ordinary cores are loaded a value at a time",
        "*",
    ),
    *_exempt(
        ["additive_sums"],
        [75, 100],
        ["128-bit accesses"],
        "with so many sums a tile is 16 or 32 pixels, whose operands are loaded a few bytes a thread",
        "attention_gate_norm * * *",
    ),
    *_exempt(
        ["additive_sums"],
        [80, 86, 89, 120],
        ["128-bit accesses"],
        "as before Ampere, of float32, whose products are on ordinary cores",
        "attention_gate_norm * float32 *",
    ),
    *_exempt(
        ["additive_bwd"],
        [90],
        ["8 bytes of stack"],
        "norms: ten vectors of F, both projections and the sums; as of 40 bytes in channels_last",
        "attention_gate_norm attention-unet-d4 bfloat16,float16 contiguous",
    ),
    *_exempt(
        ["additive_bwd"],
        [90],
        ["8 bytes of stack"],
        "norms: ten vectors of F, both projections and the sums",
        "attention_gate_norm monai-attentionunet3d-d3 float32 channels_last",
    ),
    *_exempt(
        ["additive_bwd"],
        [90],
        ["40 bytes of stack"],
        "as of 8 bytes in NCHW: two programs an SM have the time of one with twice the tile, and fill its gaps",
        "attention_gate_norm attention-unet-d4 bfloat16,float16 channels_last",
    ),
    *_exempt(
        ["additive_dz", "additive_sums"],
        [90],
        ["in flight"],
        "float32 in NCHW is turned on its way to the tensor cores: no asynchronous copies",
        "attention_gate* * float32 contiguous",
        "attention_gate* * float32 contiguous *",
    ),
    *_exempt(
        ["additive_fwd"],
        [100, 120],
        ["16 bytes of stack", "8 bytes of stack"],
        "float32 products in NCHW on ordinary cores: the smallest tile has a few values too many",
        "*",
    ),
    *_exempt(
        ["additive_fwd"],
        [90],
        ["waves"],
        "a program is one block of pixels: 1.3 and 5.2 waves of them, and nothing is summed over more",
        "attention_gate attention-unet-d1 float32 channels_last",
        "attention_gate attention-unet-d2 bfloat16,float16 contiguous,channels_last",
        "attention_gate attention-unet-d2 float32 channels_last",
    ),
    # --- neighbourhood attention
    *_exempt(
        ["neighborhood_patch_dq"],
        [80, 86, 89],
        ["8 bytes of stack"],
        "64 channels a head with a bias, the smallest chunk: a value or two too many for 255 registers",
        "neighborhood_attention* hdit-1024-level1 bfloat16,float16 *",
    ),
    *_exempt(
        ["neighborhood_patch_dkv"],
        [90],
        ["8 bytes of stack"],
        "64 channels a head with a bias, and the next queries on their way: a value or two too many",
        "neighborhood_attention hdit-1024-level1 float16 channels_last",
    ),
    *_exempt(
        ["neighborhood_bwd"],
        [80, 86, 89],
        ["16 bytes of stack"],
        "the gradient of a bias alone, 64 channels a head, W contiguous: the addresses of nine neighbours",
        "neighborhood_attention* hdit-1024-level1 bfloat16,float16 contiguous",
    ),
    *_exempt(
        ["neighborhood_bwd"],
        [90],
        ["16 bytes of stack"],
        "float32 in NCHW: the addresses of nine neighbours and the sums of two gradients",
        "neighborhood_attention* * float32 contiguous",
    ),
    *_exempt(
        ["neighborhood_bwd"],
        [75],
        ["16 bytes of stack"],
        "16 bits by rows, where later architectures have tensor cores for it",
        "neighborhood_attention* * float16 *",
    ),
    *_exempt(
        ["neighborhood_bwd"],
        [75, 80, 86, 89, 90, 100, 120],
        ["bytes of stack"],
        "float32 by rows with 169 keys: the chosen tile keeps more than its registers hold, still to be mended",
        "neighborhood_attention_13x13 * float32 channels_last",
    ),
    *_exempt(
        ["neighborhood_patch_fwd", "neighborhood_patch_dq", "neighborhood_patch_dkv", "neighborhood_bwd"],
        [90],
        ["in flight", "waves"],
        "products and exponentials limit it, and a program is one tile of queries or keys",
        "*",
    ),
    # --- the response norm
    *_exempt(
        ["response_apply"],
        [90],
        ["in flight", "waves"],
        "what loops are programs that finish the gradients of weight and bias beside it: of the map each has one tile",
        "global_response_norm * * *",
    ),
    # --- gates of channels
    *_exempt(
        ["pool_fwd"],
        [90],
        ["in flight"],
        "228 channels in 16 bits are aligned to 8 bytes: half as much a load, and with ties split a plain loop",
        "squeeze_excite_norm rexnet100-stage3 float16 channels_last pool=avgmax",
        "squeeze_excite_norm rexnet100-stage3 bfloat16 channels_last pool=max ties=split",
    ),
    *_exempt(
        ["pool_bwd"],
        [90],
        ["in flight"],
        "33 x 33 pixels in NCHW: loads of one element cannot be asynchronous, and a plain loop waits for each round",
        "channel_gate lraspp-mobilenetv3-520 float32 contiguous",
        "squeeze_excite lraspp-mobilenetv3-520 bfloat16,float16 contiguous",
    ),
    # --- gates of pixels
    *_exempt(
        ["chain_back"],
        [90],
        ["8 bytes of stack"],
        "float32, 256 channels of 16 pixels: the sums of both pools beside the tile",
        "cbam_light resnet50-cbam-stage1 float32 channels_last",
    ),
    *_exempt(
        ["chain_back"],
        [90],
        ["in flight"],
        "2048 channels of 8 x 16 x 16 pixels: 64 programs in all, with chunks of channels one by one",
        "cbam resnet50-cbam-stage4 bfloat16,float16 contiguous",
    ),
    *_exempt(
        ["chain_dx"],
        [90],
        ["in flight"],
        "2048 channels of 8 x 16 x 16 pixels: 16 values a thread take a third of the time of 32, by the account",
        "cbam_spatial_gate resnet50-cbam-stage4 float16 contiguous",
    ),
    # --- stencils
    *_exempt(
        ["stencil_fwd"],
        [75, 80, 86, 89, 90, 100, 120],
        ["128-bit accesses"],
        "a thread has four channels, 64 bits, of four rows: the weights of eight would fill its registers",
        "local_gate_depthwise,local_pool_gate * bfloat16,float16 channels_last",
        "local_gate_depthwise,local_pool_gate * bfloat16,float16 channels_last *",
        "local_pool_gate * bfloat16,float16 channels_last * *",
    ),
    *_exempt(
        ["stencil_fwd"],
        [90],
        ["128-bit accesses"],
        "as in 16 bits: two channels, 64 bits, of four rows",
        "local_gate_depthwise,local_pool_gate bisenetv2-bga float32 channels_last",
    ),
    *_exempt(
        ["stencil_fwd"],
        [90],
        ["waves"],
        "a program is one strip of rows; what the model takes for the programs of an SM is no whole number of them",
        "local_gate_depthwise convnextv2-t-stage1 float16 contiguous",
        "local_pool_gate convnextv2-t-stage1 bfloat16,float16 contiguous",
    ),
    *_exempt(
        ["stencil_bwd"],
        [90],
        ["waves"],
        "as forward: 1.21 and 2.42 waves",
        "local_gate_depthwise convnextv2-t-stage1 float32 channels_last",
        "local_pool_gate convnextv2-t-stage1 bfloat16,float16 channels_last",
    ),
    *_exempt(
        ["stencil_fwd", "stencil_bwd"],
        [75, 80, 86, 89, 90, 100, 120],
        ["128-bit accesses"],
        "windows wider than 3 x 3: a thread has two or four values, beside the rows and weights that wait for them",
        "local_gate_depthwise_* * * *",
    ),
    *_exempt(
        ["stencil_bwd"],
        [90],
        ["bytes of stack"],
        "121 sums beside ten rows of x, of dx and of windows: with weights in float32 and sums as chains four to eight "
        "values too many are left of 24; a tile of fewer values a thread would compute 12 columns of its 32",
        "local_gate_depthwise_5x5 convnext-t-stage2-11x11 * *",
    ),
    *_exempt(
        ["stencil_fwd", "stencil_bwd"],
        [90],
        ["in flight", "waves"],
        "25 products a value forward, 75 backward, and more: the loop issues longer than memory takes",
        "local_gate_depthwise_* * * *",
    ),
)


def excused(problem: str, arch: int | str, kernel: str, fault: str) -> bool:
    return any(e.excuses(problem, arch, kernel, fault) for e in EXEMPTIONS)


def named(problem: str, arch: int | str) -> list[tuple[str, str]]:
    """(kernel, end of a fault) that this problem has, as exceptions say that name it in full."""
    return [(e.kernel, e.fault) for e in EXEMPTIONS if e.arch == arch and problem in e.exact]
