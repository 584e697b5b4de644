"""No loop of a device function carries a value that merely becomes another one which began as the same value.

MLIR takes such a pair for one value: `x0, x1 = x1, x2`, both zero at first, lost x0 in compiled code (Triton 3.6 and
3.7, seen on an H200), where the interpreter is right. Read from the source of every device function: what each name is
bound to is followed through assignments and both arms of every branch; a call or a sum is a value of its own.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import segattn_triton

KERNELS = Path(segattn_triton.__file__).parent / "kernels"
Names = dict[str, frozenset[str]]  # what a name may be bound to


class Flow:
    """Runs through a function; `found` gains (line, the name that is lost, the name whose value it becomes)."""

    def __init__(self):
        self.found: set[tuple[int, str, str]] = set()

    def value(self, node: ast.expr, names: Names) -> frozenset[str]:
        """A name stands for what it is bound to; of equal expressions of equal names the compiler makes one."""
        if isinstance(node, ast.Name):
            return names.get(node.id, frozenset({node.id}))
        bound = {n.id: min(names[n.id]) for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in names}
        return frozenset({f"{ast.unparse(node)} of {sorted(bound.items())}"})

    def bind(self, target: ast.expr, value: ast.expr | None, names: Names) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            parts = value.elts if isinstance(value, ast.Tuple | ast.List) else [None] * len(target.elts)
            new = [{}, *({} for _ in target.elts)]
            for part, each, to in zip(parts, target.elts, new, strict=False):
                before = dict(names)
                self.bind(each, part, before)
                to.update({k: v for k, v in before.items() if names.get(k) != v})
            for to in new:
                names.update(to)
        elif isinstance(target, ast.Name):
            own = frozenset({f"{target.id} at {target.lineno}:{target.col_offset}"})
            names[target.id] = own if value is None else self.value(value, names)

    def run(self, body: list[ast.stmt], names: Names) -> Names:
        for node in body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self.bind(target, node.value, names)
            elif isinstance(node, ast.AnnAssign):
                self.bind(node.target, node.value, names)
            elif isinstance(node, ast.AugAssign):
                self.bind(node.target, None, names)
            elif isinstance(node, ast.If):
                arms = self.run(node.body, dict(names)), self.run(node.orelse, dict(names))
                names = {k: arms[0].get(k, frozenset()) | arms[1].get(k, frozenset()) for k in arms[0] | arms[1]}
            elif isinstance(node, ast.For | ast.While):
                names = self.loop(node, names)
        return names

    def loop(self, node: ast.For | ast.While, before: Names) -> Names:
        if isinstance(node, ast.For) and "static_range" in ast.unparse(node.iter):
            self.bind(node.target, None, before)
            return self.run(node.body, before)
        carried = {k: frozenset({f"carried {k}"}) for k in _bound_in(node.body) & before.keys()}
        inside = {**before, **carried}
        if isinstance(node, ast.For):
            self.bind(node.target, None, inside)
        after = self.run(node.body, inside)
        for name in carried:
            for other in carried.keys() - {name}:
                if carried[other] & after[name] and before[other] & before[name]:
                    self.found.add((node.lineno, name, other))
        return after


def _bound_in(body: list[ast.stmt]) -> set[str]:
    nodes = [n for statement in body for n in ast.walk(statement)]
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _device_functions(source: str) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
            yield node


def lost(source: str) -> set[tuple[int, str, str]]:
    flow = Flow()
    for function in _device_functions(source):
        flow.run(function.body, {})
    return flow.found


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("*.py")), ids=lambda path: str(path.relative_to(KERNELS)))
def test_no_carried_value_is_lost(path):
    assert not lost(path.read_text())


LOOP = """
@triton.jit
def kernel(x_ptr, N):
    zero = tl.zeros([8], tl.float32)
    x0, x1 = {start}
    for i in tl.range(0, N, num_stages=3):
        x2 = tl.load(x_ptr + i)
        {body}
"""


@pytest.mark.parametrize(
    ("start", "body", "found"),
    [
        ("zero, zero", "x0, x1 = x1, x2", True),  # the backward of the stencil as it was
        ("zero, zero", "x0 = x1; x1 = x2", True),
        ("zero, zero", "kept = x1; x1 = x2; x0 = kept", True),
        ("tl.zeros([8], tl.float32), tl.zeros([8], tl.float32)", "x0, x1 = x1, x2", True),
        ("zero, zero", "if N > 1: x0, x1 = x1, x2", True),
        ("zero, zero", "x0, x1 = x1 + 0.0, x2", False),
        ("zero, zero + 1", "x0, x1 = x1, x2", False),
        ("zero, zero", "x0, x1 = x2, x1 + x2", False),
        ("zero, zero", "x0, x1 = x0, x2", False),
    ],
)
def test_the_flow_finds_what_is_lost(start, body, found):
    assert bool(lost(LOOP.format(start=start, body=body))) == found
