"""Values of the expressions of a Python script that is not run: arithmetic, lists, few functions.

Steps, depth, numbers, lists and texts are bounded, so that no expression takes long.
"""

from __future__ import annotations

import ast
import math
import operator
import os.path
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "CHANGES", "DEPTH", "LENGTH", "MODULES", "STEPS", "Expressions", "Module", "Names",
    "Unknowable", "Unknown", "bound", "parts", "size",
]  # fmt: skip

STEPS: Final = 200_000
"""Of a whole script; a loop may take a tenth."""
DEPTH: Final = 80
"""Of nested expressions and statements."""
LENGTH: Final = 10_000
"""Of lists with all that is in them, and of texts."""
BITS: Final = 1100
"""Of integers: as large as floating-point numbers."""

_BINARY: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}  # fmt: skip
_UNARY: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
}  # fmt: skip
_COMPARE: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip


class Unknowable(Exception):  # noqa: N818 - it is no error: the script is fine
    """An expression has no value that is known."""


@dataclass(frozen=True)
class Unknown:
    """A name without a known value.

    Attributes:
        line: Where it became unknown.
        reason: Why.
        lists: Identities of lists and tables that may be in its value.
    """

    line: int
    reason: str
    lists: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Module:
    """An imported module.

    Attributes:
        name: Dotted.
    """

    name: str


class Names(dict[str, Any]):
    """Values by name; once anything may have been bound, all others are unknown.

    Attributes:
        others: What names are that are not here; None: not there.
    """

    others: Unknown | None = None

    def find(self, name: str) -> Any:  # noqa: ANN401
        """The value of a name, :class:`Unknown`, or None if there is no such name."""
        return self.get(name, self.others)


def _text(value: object = "") -> str:
    if isinstance(value, int | float | str):
        return str(value)
    raise Unknowable("text of something else than a number")


def _total(values: Iterable[Any], start: float = 0) -> Any:  # noqa: ANN401
    found = list(values)
    if not all(isinstance(value, int | float) for value in [*found, start]):
        raise Unknowable("a sum of something else than numbers")
    return sum(found, start)


_BUILTINS: Final[Mapping[str, Callable[..., Any]]] = {
    "int": int, "float": float, "bool": bool, "str": _text, "len": len, "list": list,
    "tuple": tuple, "abs": abs, "min": min, "max": max, "sum": _total, "round": round,
    "range": range, "sorted": sorted, "reversed": lambda a: list(reversed(a)),
    "enumerate": lambda *a: [tuple(item) for item in enumerate(*a)],
    "zip": lambda *a: list(zip(*a, strict=False)), "print": lambda *a, **k: None,
}  # fmt: skip
_MATH: Final = {
    name: getattr(math, name)
    for name in ("ceil", "floor", "sqrt", "log", "log2", "log10", "exp", "pi", "e", "inf")
}
_NUMPY: Final = {
    **_MATH,
    "ceil": lambda x: float(math.ceil(x)),
    "floor": lambda x: float(math.floor(x)),
}
MODULES: Final[Mapping[str, Mapping[str, Any]]] = {
    "math": _MATH, "numpy": _NUMPY, "os.path": {"join": os.path.join},
}  # fmt: skip
"""What is known of modules."""
CHANGES: Final = frozenset(
    {"append", "extend", "insert", "pop", "remove", "clear", "reverse", "sort"}
)
"""Methods of lists that change them, and are carried out."""


class Expressions:
    """Evaluates expressions over names; statements are a subclass's.

    Attributes:
        names: What is bound.
        steps: That are left.
        depth: Of nesting, now.
        line: Of the statement, now.
    """

    def __init__(self) -> None:
        self.names = Names({"__name__": "__main__"})
        self.steps = STEPS
        self.depth = 0
        self.line = 0

    def assign(self, target: ast.expr, value: Any) -> None:  # noqa: ANN401
        """Bind what stands on the left."""
        raise NotImplementedError

    def changed(self, value: list[Any]) -> None:
        """A list has been changed in place."""
        raise NotImplementedError

    def evaluate(self, node: ast.expr) -> Any:  # noqa: ANN401
        """The value of an expression.

        Raises:
            Unknowable: It has none that is known.
        """
        self.steps -= 1
        if self.steps < 0:
            raise Unknowable("too long a computation")
        if self.depth >= DEPTH:
            raise Unknowable("nested too deeply")
        method = getattr(self, f"of_{type(node).__name__}", None)
        if method is None:
            raise Unknowable(f"no plain arithmetic: {short(node)}")
        self.depth += 1
        try:
            value = method(node)
            return value if isinstance(node, ast.Name) else self.bounded(value)
        except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise Unknowable(f"{short(node)} fails: {error}"[:200]) from None
        finally:
            self.depth -= 1

    def bounded(self, value: Any) -> Any:  # noqa: ANN401
        """The value, its size taken from the steps that are left.

        Raises:
            Unknowable: It is too large.
        """
        count = size(value)
        if count > LENGTH:
            raise Unknowable("a list or text that is too long")
        self.steps -= count // 20
        if isinstance(value, int) and value.bit_length() > BITS:
            raise Unknowable("a number that is too large")
        if isinstance(value, complex):
            raise Unknowable("a complex number")
        return value

    def of_Constant(self, node: ast.Constant) -> Any:  # noqa: ANN401, D102, N802
        if node.value is None or isinstance(node.value, int | float | str):
            return node.value
        raise Unknowable(f"no number or text: {short(node)}")

    def of_Name(self, node: ast.Name) -> Any:  # noqa: ANN401, D102, N802
        if node.id not in self.names and self.names.others is None and node.id in _BUILTINS:
            return _BUILTINS[node.id]
        if node.id not in self.names and self.names.others is None:
            if node.id == "math":  # without it the script would not run at all
                return Module("math")
            raise Unknowable(f"{node.id} is not known")
        value = self.names.find(node.id)
        if isinstance(value, Unknown):
            raise Unknowable(f"{node.id} is not known: {value.reason}"[:200])
        return value

    def of_NamedExpr(self, node: ast.NamedExpr) -> Any:  # noqa: ANN401, D102, N802
        value = self.evaluate(node.value)
        self.assign(node.target, value)
        return value

    def items(self, nodes: list[ast.expr]) -> list[Any]:
        """Values of several expressions, with starred ones in place."""
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                found.extend(self.row(node.value))
            else:
                found.append(self.evaluate(node))
        return found

    def row(self, node: ast.expr) -> list[Any]:
        """What a loop over an expression goes through.

        Raises:
            Unknowable: It is no list, tuple, text or range.
        """
        value = self.evaluate(node)
        if not isinstance(value, list | tuple | range | str):
            raise Unknowable(f"no list: {short(node)}")
        return list(value)

    def of_List(self, node: ast.List) -> Any:  # noqa: ANN401, D102, N802
        return self.items(node.elts)

    def of_Tuple(self, node: ast.Tuple) -> Any:  # noqa: ANN401, D102, N802
        return tuple(self.items(node.elts))

    def of_Dict(self, node: ast.Dict) -> Any:  # noqa: ANN401, D102, N802
        if any(key is None for key in node.keys):
            raise Unknowable("a table of tables")
        keys = [self.evaluate(key) for key in node.keys if key is not None]
        return dict(zip(keys, self.items(node.values), strict=True))

    def of_JoinedStr(self, node: ast.JoinedStr) -> Any:  # noqa: ANN401, D102, N802
        parts = []
        for item in node.values:
            inner: ast.expr = item
            if isinstance(item, ast.FormattedValue):
                if item.format_spec is not None or item.conversion != -1:
                    raise Unknowable(f"a formatted text: {short(node)}")
                inner = item.value
            parts.append(_text(self.evaluate(inner)))
        return "".join(parts)

    def of_UnaryOp(self, node: ast.UnaryOp) -> Any:  # noqa: ANN401, D102, N802
        if type(node.op) not in _UNARY:
            raise Unknowable(f"no plain arithmetic: {short(node)}")
        return _UNARY[type(node.op)](self.evaluate(node.operand))

    def of_BinOp(self, node: ast.BinOp) -> Any:  # noqa: ANN401, D102, N802
        left = self.evaluate(node.left)
        return self.binary(node.op, left, self.evaluate(node.right))

    def binary(self, kind: ast.operator, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Numbers, and sums and multiples of lists and texts.

        Raises:
            Unknowable: The result is not known, or too large.
        """
        if type(kind) not in _BINARY:
            raise Unknowable("an operator that is no plain arithmetic")
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            row, count = (left, right) if isinstance(left, list | tuple | str) else (right, left)
            joined = isinstance(kind, ast.Add) and type(left) is type(right)
            repeated = isinstance(kind, ast.Mult) and isinstance(count, int)
            if not isinstance(row, list | tuple | str) or not (joined or repeated):
                raise Unknowable("arithmetic of something else than numbers")
            if repeated and size(row) * max(count, 0) > LENGTH:
                raise Unknowable("a list or text that is too long")
        whole = isinstance(left, int) and isinstance(right, int)
        if isinstance(kind, ast.Pow) and whole and left.bit_length() * abs(right) > BITS:
            raise Unknowable("a power that is too large")
        try:
            return self.bounded(_BINARY[type(kind)](left, right))
        except ArithmeticError as error:
            raise Unknowable(str(error)) from None

    def of_BoolOp(self, node: ast.BoolOp) -> Any:  # noqa: ANN401, D102, N802
        wanted = isinstance(node.op, ast.Or)
        value: Any = None
        for item in node.values:
            value = self.evaluate(item)
            if bool(value) is wanted:
                break
        return value

    def of_Compare(self, node: ast.Compare) -> Any:  # noqa: ANN401, D102, N802
        left = self.evaluate(node.left)
        for kind, item in zip(node.ops, node.comparators, strict=True):
            right = self.evaluate(item)
            self.steps -= (size(left) + size(right)) // 20
            if not _COMPARE[type(kind)](left, right):
                return False
            left = right
        return True

    def of_IfExp(self, node: ast.IfExp) -> Any:  # noqa: ANN401, D102, N802
        return self.evaluate(node.body if self.evaluate(node.test) else node.orelse)

    def of_Subscript(self, node: ast.Subscript) -> Any:  # noqa: ANN401, D102, N802
        holder = self.evaluate(node.value)
        if not isinstance(holder, list | tuple | str | dict | range):
            raise Unknowable(f"no list: {short(node)}")
        return holder[self.evaluate(node.slice)]

    def of_Slice(self, node: ast.Slice) -> Any:  # noqa: ANN401, D102, N802
        ends = (node.lower, node.upper, node.step)
        return slice(*(None if end is None else self.evaluate(end) for end in ends))

    def of_Attribute(self, node: ast.Attribute) -> Any:  # noqa: ANN401, D102, N802
        holder = self.evaluate(node.value)
        if isinstance(holder, Module):
            full = f"{holder.name}.{node.attr}"
            if full in MODULES:
                return Module(full)
            known = MODULES.get(holder.name, {})
            if node.attr in known:
                return known[node.attr]
        if isinstance(holder, list) and node.attr in CHANGES | {"copy", "index", "count"}:
            return getattr(holder, node.attr)
        raise Unknowable(f"{short(node)} is not known")

    def of_Call(self, node: ast.Call) -> Any:  # noqa: ANN401, D102, N802
        function = self.evaluate(node.func)
        if not callable(function):
            raise Unknowable(f"{short(node)} cannot be called")
        words = {}
        for word in node.keywords:
            if word.arg is None:
                raise Unknowable(f"its arguments are not known: {short(node)}")
            words[word.arg] = self.evaluate(word.value)
        values = self.items(node.args)
        self.steps -= sum(map(size, values))
        result = function(*values, **words)
        holder = getattr(function, "__self__", None)
        if isinstance(holder, list):
            self.changed(holder)
        return result

    def comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> list[Any]:
        """All values; the variables are the comprehension's own."""
        found: list[Any] = []
        own = bound([item.target for item in node.generators])
        kept = {name: self.names[name] for name in own if name in self.names}

        def go(level: int) -> None:
            if level == len(node.generators):
                found.append(self.evaluate(node.elt))
                if len(found) > LENGTH:
                    raise Unknowable("a list that is too long")
                return
            part = node.generators[level]
            for item in self.row(part.iter):
                self.assign(part.target, item)
                if all(self.evaluate(test) for test in part.ifs):
                    go(level + 1)

        try:
            go(0)
        finally:
            for name in own:
                self.names.pop(name, None)
            self.names.update(kept)
        return found

    of_ListComp = of_GeneratorExp = comprehension  # noqa: N815


def size(value: object) -> int:
    """Items of a list with all that is in it, characters of a text; counted to :data:`LENGTH`."""
    if isinstance(value, str | range):
        return len(value)
    if not isinstance(value, list | tuple | dict):
        return 0
    count = 0
    pending: list[Any] = [value]
    while pending and count <= LENGTH:
        item = pending.pop()
        if isinstance(item, str):
            count += len(item)
        elif isinstance(item, list | tuple | dict):
            count += len(item)
            if len(item) <= LENGTH:
                pending.extend(item.values() if isinstance(item, dict) else item)
    return count


def parts(value: object) -> set[int]:
    """Identities of a list or table and of all that are in it; tuples count as well."""
    found: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Unknown):
            found |= item.lists
        elif isinstance(item, list | tuple | dict) and id(item) not in found:
            found.add(id(item))
            pending.extend(item.values() if isinstance(item, dict) else item)
    return found


def bound(nodes: Iterable[ast.AST]) -> set[str]:
    """Names that statements bind, without what functions and classes bind inside."""
    found: set[str | None] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            found.add(node.name)
        elif isinstance(node, ast.MatchMapping):
            found.add(node.rest)
        pending.extend(ast.iter_child_nodes(node))
    return {name for name in found if name}


def short(node: ast.AST) -> str:
    """An expression as text for a message."""
    if sum(1 for _ in zip(ast.walk(node), range(200), strict=False)) == 200:
        return "a long expression"
    try:
        text = ast.unparse(node)
    except RecursionError:
        return "a long expression"
    return text if len(text) <= 60 else f"{text[:57]}..."
