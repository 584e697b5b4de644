"""The activation of the hidden channels between the strips and their logits, beside a norm's scale and shift.

h, a, da, dh (N, R, L), L the rows and the columns together; scale, shift (R,).

    forward   a = act(h scale + shift)
    backward  du = act'(h scale + shift) da
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import STEP, Config, space
from ...tuning.target import sms
from ..common.activations import Activation
from ..common.dependent import begin

SPACE = space(BLOCK=(128, 512, 1024), num_warps=(4, 8))


@triton.jit
def _coordinate_hidden_kernel(
    h_ptr,
    da_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    size,
    L,
    R: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The values of all images are one row: the channel of value i is i // L % R."""
    begin(DEPENDENT)
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < size
    channel = (offs // L % R).to(tl.int32)
    u = tl.load(h_ptr + offs, mask, other=0.0).to(ACC)
    if scale_ptr is not None:
        u *= tl.load(scale_ptr + channel, mask, other=0.0).to(ACC)
    if shift_ptr is not None:
        u += tl.load(shift_ptr + channel, mask, other=0.0).to(ACC)
    if da_ptr is None:
        out = ACT.f(u, ACT.a, ACT.b)
    else:
        out = ACT.df(tl.load(da_ptr + offs, mask, other=0.0).to(ACC), u, ACT.a, ACT.b)
    tl.store(out_ptr + offs, out, mask)


def plan_coordinate_hidden(
    h: Tensor, scale: Tensor | None, shift: Tensor | None, out: Tensor, act: Activation, da: Tensor | None = None
) -> Plan:
    """Fills out (N, R, L): with a, or with du where da is given."""
    size, (_, R, L), multiprocessors = h.numel(), h.shape, sms(h.device)

    def microseconds(config: Config) -> float:
        programs = -(-size // config.blocks["BLOCK"])
        return STEP * max(1.0, programs / (8 * multiprocessors)) + 1e-3 * config.blocks["BLOCK"] / 128

    config = config_for(SPACE, microseconds, "coordinate_hidden", h, C=R, pixels=size // max(R, 1), exact=size)
    args = dict(h_ptr=h, da_ptr=da, scale_ptr=scale, shift_ptr=shift, out_ptr=out)
    args |= dict(size=size, L=L, R=R, ACT=act, ACC=accumulator(h), DEPENDENT=config.dependent)
    each = size // R
    traffic = dict(h_ptr=(1, 0), da_ptr=(1, 0), scale_ptr=(each, 0), shift_ptr=(each, 0), out_ptr=(0, 1))
    return Plan(_coordinate_hidden_kernel, args, config, -(-size // config.blocks["BLOCK"]), traffic)
