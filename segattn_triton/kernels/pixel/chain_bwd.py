"""The backward of a gate of every pixel after one of every channel, of y = x * gc * gp, plus x if residual.

The gate of the pixels is a convolution of mean_c and max_c of x' = x * gc: see `pair` and `convolve`. With
dx' = dy gp + dmean / C + dmax at the maximum:

    sums    dgp_p = sum_c dy x gc + dmap,  dz = dgp gate'(z),    dgc_c = sum_p x dy gp, its first part    (read dy, x)
    back    dgc_c, its second part: sum_p x (dmean / C + dmax at the maximum)                             (read x)
    dx      dx = dx' gc + what the pool over the pixels gives, plus dy if residual: `chain_dx`            (read dy)

x, dy, dx (N, C, P); gc (N, C); z, dz, peak, found (N, P); dpools (N, 1 or 2, P). Program t of an image takes its tiles
t, t + T, ...: dgc (N, T1 + T2, C) is partial, the T1 rows of the first kernel before the T2 of the second. Shared ties
compare x with the maximum: the last kernel then reads x, too.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.target import sms
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.sums import add_chunk, by_lane, store_chunks, sum_lanes
from ..common.tile import WHOLE, channels_at_once, chunk_at, load_tile, load_vector, num_pixels
from .pair import d_pair
from .shared import at_peak, blocks, chain_stages, looping_config


@triton.jit
def _chain_sums_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    gc_ptr,
    z_ptr,
    dz_ptr,
    dgc_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    dy_stride, x_stride = strides
    pixels, tiles, share, rows = sizes
    n = tl.program_id(0) // share
    first = tl.program_id(0) % share
    P = num_pixels(pixels, LAYOUT)
    image = n.to(tl.int64) * P
    dgc = tl.zeros([CHUNKS, BLOCK_C, LANES], ACC)
    for tile in tl.range(first, tiles, share, num_stages=STAGES):
        offs_p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
        mask_p = offs_p < P
        z = tl.load(z_ptr + image + offs_p, mask_p, other=0.0)
        gp = GATE.f(z, GATE.a, GATE.b)
        dgp = tl.zeros([BLOCK_P], ACC)
        for chunk in range(0, C, BLOCK_C):
            offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
            dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            both = dy * x
            if dgc_ptr is not None:
                dgc = add_chunk(dgc, chunk, by_lane(both * gp[None, :], LANES, LAYOUT))
            if gc_ptr is not None:
                both *= load_vector(gc_ptr + n.to(tl.int64) * C, offs_c, C, ACC)[:, None]
            dgp += tl.sum(both, 0)
        if dmap_ptr is not None:
            dgp += tl.load(dmap_ptr + image + offs_p, mask_p, other=0.0).to(ACC)
        tl.store(dz_ptr + image + offs_p, GATE.df(dgp, z, GATE.a, GATE.b), mask_p)
    if dgc_ptr is not None:
        store_chunks(dgc_ptr + (n.to(tl.int64) * rows + first) * C, dgc, C)


@triton.jit
def _chain_back_kernel(
    x_ptr,
    gc_ptr,
    dpools_ptr,
    peak_ptr,
    found_ptr,
    dgc_ptr,
    x_stride,
    sizes,
    C: tl.constexpr,
    POOL: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    pixels, tiles, share, rows = sizes
    n = tl.program_id(0) // share
    first = tl.program_id(0) % share
    P = num_pixels(pixels, LAYOUT)
    image = n.to(tl.int64) * P
    dgc = tl.zeros([CHUNKS, BLOCK_C, LANES], ACC)
    for tile in tl.range(first, tiles, share, num_stages=STAGES):
        offs_p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
        mask_p = offs_p < P
        dmean, dmax = d_pair(dpools_ptr, n, offs_p, mask_p, P, C, POOL)
        found = tl.load(found_ptr + image + offs_p, mask_p, other=1)
        peak = dmax
        if peak_ptr is not None:
            peak = tl.load(peak_ptr + image + offs_p, mask_p, other=0.0)
        for chunk in range(0, C, BLOCK_C):
            offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
            scaled = x
            if peak_ptr is not None:
                scaled = x * load_vector(gc_ptr + n.to(tl.int64) * C, offs_c, C, ACC)[:, None]
            here = at_peak(scaled, offs_c, peak, found, peak_ptr is not None)
            dx = dmean[None, :] + dmax[None, :] * here
            dgc = add_chunk(dgc, chunk, by_lane(x * dx, LANES, LAYOUT))
    store_chunks(dgc_ptr + (n.to(tl.int64) * rows + first) * C, dgc, C)


def plan_chain_sums(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    gc: Tensor | None,
    z: Tensor,
    dz: Tensor,
    dpools: Tensor | None,
    peak: Tensor | None,
    found: Tensor,
    pool: str,
    gate: Activation,
) -> tuple[Plan, Plan | None, Tensor | None]:
    """The first plan fills dz; with dpools, which follow from dz, both fill the partial sums dgc (N, T, C), new."""
    m, block_c = maps(dy=dy, x=x), channels_at_once(x.shape[1])
    wide = m.C > WHOLE or m.layout.align == 1
    config = looping_config("chain_sums", m, x, loads=2, live=6.2 if wide else 1.5 if m.layout.channels_last else 1.8)
    tiles, share = blocks(m, config, sms(x.device))
    live = (4.2 if wide else 1.8) + (peak is not None)
    config_back = looping_config("chain_back", m, x, loads=1, live=live)
    tiles_back, share_back = blocks(m, config_back, sms(x.device))
    rows = share + share_back
    dgc = None if dpools is None else partials(x, m.N, rows, m.C)
    common = dict(
        x_ptr=x,
        gc_ptr=gc,
        C=m.C,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        CHUNKS=triton.next_power_of_2(-(-m.C // block_c)),
        BLOCK_C=block_c,
    )
    args = common | dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        z_ptr=z,
        dz_ptr=dz,
        dgc_ptr=None if dgc is None else dgc[:, :share],
        strides=m.strides_of("dy", "x"),
        sizes=(m.pixels, tiles, share, rows),
        GATE=gate,
        DEPENDENT=config.dependent,
        LANES=sum_lanes(m, block_c, config, x.element_size()),
        STAGES=chain_stages(x.device, x.element_size(), m, config, 2),
    )
    traffic = dict(
        dy_ptr=(1, 0), dmap_ptr=(1, 0), x_ptr=(1, 0), gc_ptr=(tiles, 0), z_ptr=(1, 0), dz_ptr=(0, 1), dgc_ptr=(0, 1)
    )
    first = Plan(_chain_sums_kernel, args, config, m.N * share, traffic)
    if dpools is None:
        return first, None, None
    args = common | dict(
        dpools_ptr=dpools,
        peak_ptr=peak,
        found_ptr=found,
        dgc_ptr=dgc[:, share:],
        x_stride=m.stride["x"],
        sizes=(m.pixels, tiles_back, share_back, rows),
        POOL=pool,
        DEPENDENT=config_back.dependent,
        LANES=sum_lanes(m, block_c, config_back, x.element_size()),
        STAGES=chain_stages(x.device, x.element_size(), m, config_back, 1),
    )
    traffic = dict.fromkeys(("x_ptr", "dpools_ptr", "peak_ptr", "found_ptr"), (1, 0))
    traffic |= dict(gc_ptr=(0 if peak is None else tiles_back, 0), dgc_ptr=(0, 1))
    return first, Plan(_chain_back_kernel, args, config_back, m.N * share_back, traffic), dgc
