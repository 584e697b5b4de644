"""Guard zones: every tensor that an operator allocates lies between two zones of a known pattern, as do its inputs.

    guards = Guards()
    x = guards.guarded(x)
    with guards:
        outputs = op.run_forward(x, ...)
    assert not guards.broken()

What a kernel writes outside its tensors, by at most a zone, is seen after it; so is what it changes in an input, or
between the elements of a strided one.
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
        self.inputs: list[tuple[Tensor, Tensor]] = []  # the bytes of zones and input, and what they were

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return self._between_zones(out) if func in ALLOCATES else out

    def _between_zones(self, t: Tensor) -> Tensor:
        """A tensor of t's shape and strides in new memory."""
        extent = 0 if t.numel() == 0 else 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
        size = extent * t.element_size()
        buffer = torch.full((2 * ZONE + size,), PATTERN, dtype=torch.uint8, device=t.device)
        self.buffers.append((buffer, size))
        whole = torch.empty(0, dtype=t.dtype, device=t.device)
        return whole.set_(buffer.untyped_storage(), ZONE // t.element_size(), t.shape, t.stride())

    def guarded(self, t: Tensor) -> Tensor:
        """A copy of an input between zones, in its own strides."""
        copy = self._between_zones(t).copy_(t)
        buffer, _ = self.buffers.pop()
        self.inputs.append((buffer, buffer.clone()))
        return copy

    def broken(self) -> list[str]:
        """What was written that must not be."""
        found = []
        for i, (buffer, size) in enumerate(self.buffers):
            for place, zone in (("before", buffer[:ZONE]), ("after", buffer[ZONE + size :])):
                if changed := int((zone != PATTERN).sum()):
                    found.append(f"{changed} bytes {place} allocation {i} of {size} bytes")
        for i, (buffer, before) in enumerate(self.inputs):
            if changed := int((buffer != before).sum()):
                found.append(f"{changed} bytes in or around input {i}")
        return found
