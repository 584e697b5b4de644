"""What a product of matrices takes of the tensor cores and of shared memory, by an instruction of a warp."""

from .assumptions import Machine
from .sass import Instruction


def products(ins: Instruction, machine: Machine) -> float:
    """Cycles of an SM for a warp's share of m x n x k: all of its own, of a warpgroup's a quarter."""
    if ins.name.startswith("UTC"):
        raise NotImplementedError(f"{ins.opcode}: products in tensor memory have no account yet")
    rate = machine.matrix.get(ins.name)
    if rate is None:
        return 0.0
    if ins.name == "HGMMA":
        m, n, k = _shape(ins)
        return m * n * k / 4 / rate
    shape = next(m for m in ins.opcode.split(".") if m[:1].isdigit())
    m, n, k = 16, 8, int(shape[len("168") :])
    return m * n * k / rate


def operands(ins: Instruction) -> float:
    """Bytes of shared memory that its share reads: of a warpgroup's, whose operands have 16 bits."""
    if ins.name != "HGMMA":
        return 0.0
    m, n, k = _shape(ins)
    return (n + m * ins.operands[1].startswith("gdesc")) * k * 2 / 4


def _shape(ins: Instruction) -> tuple[int, ...]:
    """Rows, columns and depth of a warpgroup's product."""
    return tuple(int(size) for size in next(m for m in ins.opcode.split(".") if m[:1].isdigit()).split("x"))
