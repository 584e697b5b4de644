"""The faults that kernels and what is around them have, as edits of a source: one node of its syntax tree replaced.

Libraries of mutants know none of these kinds (a mask, a stride, `other=`, an accumulator, a tie), and rewrite functions
in a way that `triton.jit`, which reads their source, does not survive. What only words are made of is left alone:
annotations, docstrings, decorators, messages.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NEIGHBOURS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPPOSITES = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot}
NAMED = {"maximum": "minimum", "minimum": "maximum", "max": "min", "min": "max", "any": "all", "all": "any"}
WORDS = ("annotation", "returns", "decorator_list", "bases")  # fields of a node that compute nothing
TIES, KEYS = ("first", "peak", "tie"), ("key", "descri", "digest", "hash", "found")


@dataclass(frozen=True)
class Mutant:
    path: str
    line: int
    column: int
    function: str
    kind: str
    before: str
    after: str

    def applied(self, text: str) -> str:
        """The text with the fault; ValueError if it is another text than the one that the fault was found in."""
        lines = text.splitlines(keepends=True)
        begin = sum(map(len, lines[: self.line - 1])) + self.column
        if text[begin : begin + len(self.before)] != self.before:
            raise ValueError(f"{self.path}:{self.line}: expected {self.before!r}")
        return text[:begin] + self.after + text[begin + len(self.before) :]


def mutants(path: str, text: str) -> list[Mutant]:
    """All faults of a file, each of which is another program."""
    found, lines = [], text.splitlines()
    for node, function in _nodes(ast.parse(text), ""):
        for kind, old, new in _faults(node, function, Path(path).stem):
            before = ast.get_source_segment(text, old)
            column = len(lines[old.lineno - 1].encode()[: old.col_offset].decode())
            after = f"({new})" if isinstance(old, ast.expr) and " " in new and not new.endswith((")", "]")) else new
            if before and ast.unparse(old) != new:
                found.append(Mutant(path, old.lineno, column, function, kind, before, after))
    return found


def _nodes(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    """(node, name of the function around it), of code that computes."""
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in WORDS and not _is_words(child):
                inside = ".".join(filter(None, (function, getattr(child, "name", None))))
                inside = inside if isinstance(child, (ast.FunctionDef, ast.ClassDef)) else function
                if inside:
                    yield child, inside
                yield from _nodes(child, inside)


def _is_words(node: ast.AST) -> bool:
    node = node.value if isinstance(node, ast.Expr) else node
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).startswith(("log.", "warnings.", "logging."))
    text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return text or isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom))


def _faults(node: ast.AST, function: str, file: str) -> Iterator[tuple[str, ast.AST, str]]:
    """(kind, what is replaced, by what)."""
    if isinstance(node, ast.If):
        leaves = {ast.Raise: "check skipped", ast.Return: "early return"}.get(type(node.body[-1]))
        if leaves:
            yield leaves, node.test, "False"
        yield "wrong branch", node.test, f"not ({ast.unparse(node.test)})"
    elif of := _OF.get(type(node)):
        for kind, new in of(node, function, file):
            yield kind, node, new


def _call(node: ast.Call, function: str, file: str):
    name, args = ast.unparse(node.func), node.args
    for keyword in node.keywords:
        rest = [k for k in node.keywords if k is not keyword]
        if keyword.arg == "mask" or keyword.arg in ("propagate_nan", "tie_break_left"):
            yield ("mask dropped" if keyword.arg == "mask" else "NaN or tie rule"), _unparsed(name, args, rest)
        if keyword.arg == "other":
            one = ast.keyword("other", ast.Constant(1.0))
            yield "wrong other", _unparsed(name, args, [*rest, one])
    if name == "tl.load" and len(args) == 2:
        yield "mask dropped", _unparsed(name, args[:1], [k for k in node.keywords if k.arg != "other"])
    if name == "tl.store" and len(args) == 3:
        yield "mask dropped", _unparsed(name, args[:2], node.keywords)
    if name.endswith(".to") and len(args) == 1:
        kind = "missing int64" if "int64" in ast.unparse(args[0]) else "precision"
        yield kind, name.removesuffix(".to")
    if name in ("tl.zeros", "tl.full") and len(args) > 1:
        yield "accumulator's dtype", _unparsed(name, [*args[:-1], ast.parse("tl.float16").body[0].value], node.keywords)
    if name == "tl.where" and len(args) == 3:
        yield (
            "NaN or tie rule" if "!=" in ast.unparse(args[0]) else "wrong branch",
            _unparsed(name, [args[0], *args[:0:-1]], []),
        )
    if name.rpartition(".")[2] in NAMED and len(args) > 0:
        before, dot, last = name.rpartition(".")
        yield "wrong function", _unparsed(before + dot + NAMED[last], args, node.keywords)
    plain = [i for i in range(len(args) - 1) if all(isinstance(a, ast.Name) for a in args[i : i + 2])]
    for i in plain[:1]:
        yield "arguments swapped", _unparsed(name, [*args[:i], args[i + 1], args[i], *args[i + 2 :]], node.keywords)


def _unparsed(name: str, args: list, keywords: list) -> str:
    return f"{name}({', '.join(ast.unparse(a) for a in [*args, *keywords])})"


def _binary(node: ast.BinOp, function: str, file: str):
    left, right = ast.unparse(node.left), ast.unparse(node.right)
    if isinstance(node.op, (ast.BitAnd, ast.BitOr)):
        yield "mask widened", left
        yield "mask widened", right
    if isinstance(node.op, (ast.Add, ast.Sub)):
        step = isinstance(node.right, ast.Constant) and isinstance(node.right.value, int)
        yield ("off by one" if step else "term left out"), left
        yield "sign", ast.unparse(ast.BinOp(node.left, OPPOSITES[type(node.op)](), node.right))
    if isinstance(node.op, ast.Mult) and not isinstance(node.left, (ast.Constant, ast.List, ast.Tuple)):
        yield "term left out", left
        yield "term left out", right


def _compare(node: ast.Compare, function: str, file: str):
    if len(node.ops) != 1:
        return
    op = type(node.ops[0])
    left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
    if op is ast.NotEq and left == right:
        yield "NaN or tie rule", "False"
    for table in (NEIGHBOURS, OPPOSITES):
        if op in table:
            kind = (
                "NaN or tie rule"
                if any(word in function for word in TIES)
                else "off by one"
                if table is NEIGHBOURS
                else "wrong branch"
            )
            yield kind, ast.unparse(ast.Compare(node.left, [table[op]()], node.comparators))


def _subscript(node: ast.Subscript, function: str, file: str):
    index = node.slice
    if isinstance(index, ast.Constant) and isinstance(index.value, int):
        stride = "stride" in ast.unparse(node.value)
        yield (
            ("stride swapped" if stride else "off by one"),
            f"{ast.unparse(node.value)}[{index.value - 1 if index.value > 0 else 1}]",
        )


def _bool(node: ast.BoolOp, function: str, file: str):
    for i in range(len(node.values)):
        rest = [v for k, v in enumerate(node.values) if k != i]
        yield "condition left out", ast.unparse(rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest))


def _unary(node: ast.UnaryOp, function: str, file: str):
    if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield "sign", ast.unparse(node.operand)
    if isinstance(node.op, ast.Not):
        yield "wrong branch", ast.unparse(node.operand)


def _augmented(node: ast.AugAssign, function: str, file: str):
    yield "term left out", f"{ast.unparse(node.target)} = {ast.unparse(node.value)}"


def _tuple(node: ast.Tuple, function: str, file: str):
    if any(isinstance(e, ast.Slice) for e in node.elts):
        return  # an index, of neighbourhood attention's keys
    if any(word in function.lower() for word in KEYS) or file in ("description", "known"):
        for i in range(len(node.elts) if isinstance(node.ctx, ast.Load) and len(node.elts) > 1 else 0):
            yield (
                "wrong key",
                ast.unparse(ast.Tuple([*node.elts[:i], ast.Constant(None), *node.elts[i + 1 :]], ast.Load())),
            )


def _attribute(node: ast.Attribute, function: str, file: str):
    if node.attr in ("float32", "float64") and ast.unparse(node.value) in ("tl", "torch"):
        yield "accumulator's dtype", f"{ast.unparse(node.value)}.float16"


def _choice(node: ast.IfExp, function: str, file: str):
    yield "wrong branch", ast.unparse(node.orelse)
    yield "wrong branch", ast.unparse(node.body)


def _expression(node: ast.Expr, function: str, file: str):
    if isinstance(node.value, ast.Call) and "store" not in ast.unparse(node.value.func):
        yield "step left out", "pass"


_OF = {
    ast.Call: _call,
    ast.BinOp: _binary,
    ast.Compare: _compare,
    ast.Subscript: _subscript,
    ast.BoolOp: _bool,
    ast.UnaryOp: _unary,
    ast.AugAssign: _augmented,
    ast.Tuple: _tuple,
    ast.Attribute: _attribute,
    ast.IfExp: _choice,
    ast.Expr: _expression,
}
