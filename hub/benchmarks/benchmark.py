"""`kernels benchmark`: squeeze-and-excitation and scSE of a U-Net's largest map against their definitions in torch."""

import torch
from kernels.benchmark import Benchmark


class GateBenchmark(Benchmark):
    seed = 0

    def setup(self):
        N, C, H, W = (8, 64, 256, 256) if self.device != "cpu" else (1, 16, 32, 32)
        dtype = torch.bfloat16 if self.device != "cpu" else torch.float32
        self.x = torch.randn(N, C, H, W, device=self.device, dtype=dtype)
        self.w1 = torch.randn(C // 16, C, device=self.device, dtype=dtype) / C**0.5
        self.w2 = torch.randn(C, C // 16, device=self.device, dtype=dtype)
        self.weight = torch.randn(1, C, device=self.device, dtype=dtype) / C**0.5

    def benchmark_squeeze_excite(self):
        self.out = self.kernel.functional.squeeze_excite(self.x, self.w1, None, self.w2)

    def verify_squeeze_excite(self) -> torch.Tensor:
        return self.kernel.reference.squeeze_excite(self.x, self.w1, None, self.w2)

    def benchmark_scse(self):
        self.out = self.kernel.functional.scse(self.x, self.w1, None, self.w2, None, self.weight)

    def verify_scse(self) -> torch.Tensor:
        return self.kernel.reference.scse(self.x, self.w1, None, self.w2, None, self.weight)
