"""Guard zones: every tensor that an operator allocates lies between two zones of a known pattern, as do its inputs.

    with Guards() as guards:
        x = guards.guarded(x)
        outputs = op.run_forward(x, ...)
    assert not guards.broken()

What a kernel writes outside its tensors, by at most a zone, is seen after it; so are inputs that it changes.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ZONE, PATTERN = 4096, 0xA5  # bytes, a multiple of every alignment that kernels are compiled for
ALLOCATES = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}


class Guards(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.buffers: list[tuple[Tensor, int]] = []  # bytes of zone, tensor, zone; and the tensor's bytes
        self.inputs: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return self._between_zones(out) if func in ALLOCATES else out

    def _between_zones(self, t: Tensor) -> Tensor:
        """A tensor of t's shape and strides in new memory."""
        extent = 0 if t.numel() == 0 else 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
        size = extent * t.element_size()
        buffer = torch.full((2 * ZONE + size,), PATTERN, dtype=torch.uint8, device=t.device)
        self.buffers.append((buffer, size))
        values = buffer.untyped_storage()
        return torch.empty(0, dtype=t.dtype, device=t.device).set_(
            values, ZONE // t.element_size(), t.shape, t.stride()
        )

    def guarded(self, t: Tensor) -> Tensor:
        """A copy of an input between zones, in its own strides."""
        copy = self._between_zones(t).copy_(t)
        self.inputs.append((copy, t))
        return copy

    def broken(self) -> list[str]:
        """What was written that must not be."""
        found = []
        for i, (buffer, size) in enumerate(self.buffers):
            for place, zone in (("before", buffer[:ZONE]), ("after", buffer[ZONE + size :])):
                if changed := int((zone != PATTERN).sum()):
                    found.append(f"{changed} bytes {place} allocation {i} of {size} bytes")
        for i, (copy, t) in enumerate(self.inputs):
            if not torch.equal(copy.nan_to_num(7.0), t.nan_to_num(7.0)):
                found.append(f"input {i} changed")
        return found
