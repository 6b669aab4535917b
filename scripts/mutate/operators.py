"""The changes that are tried: conditions, boundaries, and/or, min/max, raises, calls, named limits.

The name of a Mutant has its module, function, source text and change, and never a line number. So a
recorded verdict, and a line in the list of equivalents, stay valid while other lines move.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Function = ast.FunctionDef | ast.AsyncFunctionDef
BOUNDARIES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


@dataclass(frozen=True)
class Mutant:
    """One change of one place. `function` is a qualified name, or "" for a named limit. `count`
    tells equal texts in one function apart. `apply` changes `tree`, the module, in place, so the
    process must end afterwards."""

    module: str
    function: str
    lines: tuple[int, int]
    text: str
    change: str
    count: int
    tree: ast.Module = field(repr=False, compare=False)
    place: ast.AST | None = field(default=None, repr=False, compare=False)
    replace: Callable[[ast.AST], ast.AST] | None = field(default=None, repr=False, compare=False)
    limit: tuple[str, int] | None = None

    @property
    def name(self) -> str:
        number = f" #{self.count}" if self.count else ""
        return f"{self.module}:{self.function}: {self.text}{number} → {self.change}"

    def apply(self) -> ast.Module:
        """The changed module. It can be called only once."""
        assert self.place is not None and self.replace is not None
        changed = _Replace(self.place, self.replace).visit(self.tree)
        assert isinstance(changed, ast.Module)
        return ast.fix_missing_locations(changed)


def mutants(module: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of the lines."""
    tree = ast.parse(source)
    seen: Counter[tuple[str, str, str]] = Counter()
    found: list[Mutant] = []
    for function, node in _functions(tree):
        for place, change, replace in _changes(node):
            text = " ".join(ast.unparse(place).split())[:160]
            key = (function, text, change)
            lines = (place.lineno, place.end_lineno or place.lineno)
            count = seen[key]
            found.append(Mutant(module, function, lines, text, change, count, tree, place, replace))
            seen[key] += 1
    return found + list(_limits(module, tree))


def _functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """The outermost functions and methods. A function inside one of them belongs to it."""
    stack: list[tuple[str, ast.stmt]] = [("", node) for node in tree.body]
    while stack:
        prefix, node = stack.pop(0)
        if isinstance(node, Function):
            yield f"{prefix}{node.name}", node
        elif isinstance(node, ast.ClassDef):
            stack += [(f"{prefix}{node.name}.", child) for child in node.body]


Change = tuple[ast.expr | ast.stmt, str, Callable[[ast.AST], ast.AST]]


def _changes(function: Function) -> Iterator[Change]:
    done: set[int] = set()
    for statement in function.body:
        for node in ast.walk(statement):
            yield from _of_node(node, done)


def _of_node(node: ast.AST, done: set[int]) -> Iterator[Change]:
    if isinstance(node, ast.If):
        done |= {id(last) for last in node.body if isinstance(last, ast.Raise)}  # as if False
    yield from _of_condition(node, done)
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("min", "max"):
        other = {"min": "max", "max": "min"}[ast.unparse(node.func)]
        yield node, other, _renamed(other)
    if isinstance(node, ast.Raise) and id(node) not in done:
        yield node, "no raise", _nothing
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, "no call", _nothing


def _of_condition(node: ast.AST, done: set[int]) -> Iterator[Change]:
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield from _condition(node.test, (True, False), done)
    if isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield from _condition(test, (True, False), done)
    if isinstance(node, ast.BoolOp):
        is_and = isinstance(node.op, ast.And)
        yield node, "or" if is_and else "and", _other_bool
        for value in node.values:  # as if that part were not there
            yield from _condition(value, (is_and,), done)
    if isinstance(node, ast.Compare):
        yield from _condition(node, (True, False), done)
        for at, op in enumerate(node.ops):
            if type(op) in BOUNDARIES:
                yield node, f"boundary {at + 1}", _boundary(at)


def _condition(test: ast.expr, values: tuple[bool, ...], done: set[int]) -> Iterator[Change]:
    if id(test) in done or isinstance(test, ast.Constant):
        return
    done.add(id(test))
    for value in values:
        yield test, str(value), _constant(value)


def _constant(value: bool) -> Callable[[ast.AST], ast.AST]:
    return lambda node: ast.Constant(value)


def _other_bool(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.BoolOp)
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return node


def _boundary(at: int) -> Callable[[ast.AST], ast.AST]:
    def change(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.Compare)
        node.ops[at] = BOUNDARIES[type(node.ops[at])]()
        return node

    return change


def _renamed(name: str) -> Callable[[ast.AST], ast.AST]:
    def change(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        node.func.id = name
        return node

    return change


def _nothing(node: ast.AST) -> ast.AST:
    """The statement stays in the text, so that the function keeps its cells (of `super`)."""
    assert isinstance(node, ast.stmt)
    return ast.If(ast.Constant(False), [node], [])


def _limits(module: str, tree: ast.Module) -> Iterator[Mutant]:
    """For each integer of the module with a name in capitals, the value plus one and minus one."""
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name, value = node.targets[0].id, _integer(node.value)
        if value is None or not name.lstrip("_").isupper():
            continue
        for step in (1, -1):
            lines = (node.lineno, node.end_lineno or node.lineno)
            text, change = f"{name} = {value}", f"{step:+d}"
            yield Mutant(module, "", lines, text, change, 0, tree, limit=(name, value + step))


def _integer(node: ast.expr) -> int | None:
    """The value of `64`, `4 * 1024` or `1 << 20`."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.LShift | ast.Pow):
        left, right = _integer(node.left), _integer(node.right)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Mult):
            return left * right
        return left << right if isinstance(node.op, ast.LShift) else int(left**right)
    return None


class _Replace(ast.NodeTransformer):
    def __init__(self, marked: ast.AST, replace: Callable[[ast.AST], ast.AST]) -> None:
        self._marked, self._replace = marked, replace

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self._marked:
            return ast.copy_location(self._replace(node), node)
        return super().generic_visit(node)
