"""Channels scaled by how strong they are beside the others."""

import torch
from torch import Tensor, nn

from .. import functional as F
from ..runtime import checks as check
from ._gate import GateModule, by_rank


class GlobalResponseNorm(GateModule):
    """y = x + weight * (x * r) + bias, r the norms of the channels over their mean: Woo et al. 2023.

    x (N, C, *spatial). Keys: weight (C,), bias (C,), as of timm, zeros at first as the authors'; of the authors' own
    checkpoints, gamma and beta (1, 1, 1, C), these are the same numbers. See `functional.global_response_norm`.
    """

    def __init__(
        self,
        in_channels: int,
        eps: float = 1e-6,
        *,
        bias: bool = True,
        spatial_dims: int | None = None,
        backend=None,
        device=None,
        dtype=None,
    ):
        check.epsilon(eps)
        super().__init__(dict(in_channels=in_channels), spatial_dims, backend, eps=eps)
        self.weight = nn.Parameter(torch.zeros(in_channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(in_channels, device=device, dtype=dtype)) if bias else None

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        check.feature_map(x)
        check.channels(x, self.shown["in_channels"])
        options = dict(self.options, backend=self.backend, return_map=return_map)
        return F.global_response_norm(x, self.weight, self.bias, **options)
