"""What the definitions take of all pixels of an image. Of a sharded map, its ranks answer together."""

import contextlib
import threading
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_state = threading.local()


class Pixels:
    """Of a map that is whole."""

    def mean(self, x: Tensor) -> Tensor:
        """(N, C) of x (N, C, *S)."""
        return x.flatten(2).mean(2)

    def norm(self, x: Tensor) -> Tensor:
        """(N, C): the root of the sum of squares. The gradient of a norm of 0 is 0."""
        return torch.linalg.vector_norm(x.flatten(2), dim=2)

    def spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C): the mean, and the squares about it over one pixel less than there are; 0 / 0 of one."""
        mean = self.mean(x)
        d = x.flatten(2) - mean[:, :, None]
        return mean, d.square().sum(2) / (d.shape[2] - 1)

    def attended(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C): the means weighted by the softmax over the pixels of <weight, x_p>."""
        x = x.flatten(2)
        a = torch.softmax((x * weight[:, None]).sum(1), 1)
        return (x * a[:, None]).sum(2)

    def max(self, x: Tensor, ties: str) -> Tensor:
        """(N, C): the gradient goes to the first of equal maxima, or is split."""
        return x.flatten(2).amax(2) if ties == "split" else x.flatten(2).max(2).values

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The biased variance and the mean of all values of all images."""
        return moments(z, tuple(range(z.dim())))

    def moments_by_channel(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The biased variances and the means (F,) of the channels of h (N, F, pixels) over all images."""
        return moments(h, (0, 2))

    def convolve(self, t: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """k x k, as large as t (N, M, H, W), with zeros outside the image."""
        return F.conv2d(t, weight, bias, padding=weight.shape[2] // 2)


def moments(h: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The biased variance and the mean over these axes, with the arithmetic of h: torch.var_mean of float32 adds up in
    float64 on a CPU, and its error would be no measure of a float32 kernel's."""
    mean = h.mean(axes, keepdim=True)
    return (h - mean).square().mean(axes), mean.sum(axes)  # of one value each: a squeeze of several axes no ONNX has


_WHOLE = Pixels()


def pixels() -> Pixels:
    return getattr(_state, "pixels", _WHOLE)


@contextlib.contextmanager
def answered_by(other: Pixels) -> Iterator[None]:
    """Inside, the definitions ask `other`."""
    before = pixels()
    _state.pixels = other
    try:
        yield
    finally:
        _state.pixels = before
