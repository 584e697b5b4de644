"""All gates in one network, for the tests of the company that networks keep."""

import torch
from support import DEVICE, Alone, assert_equal, module_of
from torch import Tensor, nn

from segattn_triton.catalog import ROWS
from segattn_triton.testing import make_map

C = 4


class Network(nn.Module):
    """A convolution, every gate of the catalog, a convolution."""

    def __init__(self, rows=ROWS, backend: str | None = "triton"):
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        self.gates = nn.ModuleList(Alone(row, module_of(row, C, backend=backend)) for row in rows)
        self.head = nn.Conv2d(C, 2, 1)

    def forward(self, x: Tensor, run=lambda gate, x: gate(x)) -> Tensor:
        x = self.stem(x)
        for gate in self.gates:
            x = (x + run(gate, x)) / 2  # as large after any number of gates
        return self.head(x)


def network(rows=ROWS, backend: str | None = "triton") -> Network:
    torch.manual_seed(0)
    return Network(rows, backend).to(DEVICE)


def images(N: int = 2, S=(5, 6), seed: int = 0, device: str = DEVICE) -> Tensor:
    return make_map((N, 3, *S), "contiguous", torch.Generator().manual_seed(seed), torch.float32, device)


def gradients(module: nn.Module, x: Tensor, run=None) -> list[Tensor]:
    module.zero_grad()
    y = (run or module)(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in module.parameters())]


def assert_all_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert_equal(a, b)


def assert_all_close(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
