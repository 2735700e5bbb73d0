"""Values of the names of a Python script, found without running it.

Statements are gone through in order. Those made of nothing but arithmetic, lists, branches, loops
and a few harmless functions are computed by Python itself, within bounds of time and memory. Of all
others (a file that is read, a function of the script's own) only what they may change is looked
for, and becomes unknown, with the line and the reason. That errs on one side: a name is known only
if nothing unknown may have changed it.
"""

from __future__ import annotations

import ast
import copy
import math
import operator
import os.path
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

__all__ = ["LARGEST_SCRIPT", "Module", "Names", "Unknown", "script_values"]

LARGEST_SCRIPT: Final = 300_000
"""Bytes; such scripts have thousands."""
STEPS: Final = 100_000
"""Of everything together: items, characters, nodes of the syntax tree."""
LENGTH: Final = 10_000
"""Items of a list with all that is in it, characters of a text."""
BITS: Final = 1100
"""Of integers: as large as floating-point numbers."""

_PLAIN: Final = (
    ast.Expr, ast.Assign, ast.AugAssign, ast.If, ast.For, ast.While, ast.Break, ast.Continue,
    ast.Pass, ast.Assert, ast.Module, ast.Expression, ast.NamedExpr, ast.Constant, ast.Name,
    ast.List, ast.Tuple, ast.Dict, ast.Starred, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare,
    ast.IfExp, ast.Subscript, ast.Slice, ast.Attribute, ast.Call, ast.keyword, ast.ListComp,
    ast.comprehension, ast.JoinedStr, ast.FormattedValue, ast.expr_context,
    ast.boolop, ast.unaryop, ast.cmpop, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv,
    ast.Mod, ast.Pow,
)  # fmt: skip
_BINARY: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "Add": operator.add, "Sub": operator.sub, "Mult": operator.mul, "Div": operator.truediv,
    "FloorDiv": operator.floordiv, "Mod": operator.mod, "Pow": operator.pow,
}  # fmt: skip
_CHANGES: Final = {"append", "extend", "insert", "pop", "remove", "clear", "reverse", "sort"}
_IN_PLACE: Final = _CHANGES | {"update", "setdefault", "popitem", "__setitem__", "__delitem__"}
_ON_ARGUMENTS: Final = {"shuffle", "heapify", "heappush", "heappop", "setitem", "delitem"}
_RUNS_CODE: Final = {"exec", "eval", "globals", "locals", "vars", "getattr", "setattr", "delattr"}
_NUMBERS: Final = {"int", "float", "bool", "str", "len", "abs", "round", "range", "print"}
"""Functions whose results hold no list of their arguments."""
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Module(SimpleNamespace):
    """A module, with what is known of it."""


_MATH: Final = {
    name: getattr(math, name)
    for name in ("ceil", "floor", "sqrt", "log", "log2", "log10", "exp", "pi", "e", "inf")
}
_NUMPY: Final = _MATH | {"ceil": lambda x: float(math.ceil(x)), "floor": lambda x: x // 1.0}
_PATH: Final = Module(join=os.path.join)
_MODULES: Final[Mapping[str, Module]] = {
    "math": Module(**_MATH), "numpy": Module(**_NUMPY), "os": Module(path=_PATH), "os.path": _PATH,
}  # fmt: skip
_ATTRIBUTES: Final = _CHANGES | _MATH.keys() | {"copy", "index", "count", "path", "join"}


class Unknowable(Exception):  # noqa: N818 - it is no error: the script is fine
    """A statement or expression is not computed."""


@dataclass(frozen=True)
class Unknown:
    """A name without a known value.

    Attributes:
        line: Where it became unknown.
        reason: Why.
    """

    line: int
    reason: str


class Names(dict[str, Any]):
    """Values by name; once anything may have been bound, all others are unknown.

    Attributes:
        others: What names are that are not here; None: not there.
    """

    others: Unknown | None = None

    def find(self, name: str) -> Any:  # noqa: ANN401
        """The value of a name, :class:`Unknown`, or None if there is no such name."""
        return self.get(name, self.others)


def script_values(source: bytes, *, end: str = "") -> Names:
    """What names stand for at the end of a script.

    Args:
        source: Of the script, its encoding declared as Python wants it.
        end: Of what the script is for: names set in or behind the statement that first calls this
            function, by its dotted name, are unknown.

    Returns:
        Numbers, texts, lists, tables or :class:`Unknown`, by name.

    Raises:
        SyntaxError: It is not Python, or larger or deeper than any such script.
    """
    if len(source) > LARGEST_SCRIPT:
        raise SyntaxError(f"{len(source)} bytes are too long for such a script")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the script's own style
            tree = ast.parse(source)
    except (RecursionError, MemoryError, ValueError) as error:
        raise SyntaxError(f"it cannot be parsed ({type(error).__name__})") from None
    script = _Script(tree)
    for index, statement in enumerate(tree.body):
        calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call))
        if end and any(_dotted(call.func) == end for call in calls):
            script.line = statement.lineno
            script.forget(tree.body[index:], f"set after {end} has run")
            break
        script.carry_out(statement)
        if script.steps < 0:
            script.forget_everything("the script computes for too long")
            break
    return script.names


class _Script:
    """A script on its way.

    Attributes:
        names: What they stand for.
        steps: That are left.
        line: Of the statement, now.
        handed: Identities of lists that something unknown may hold.
        own: All nodes of the script's own functions.
        safe: What plain statements may call; names that no script can write are the guards.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.names = Names({"__name__": "__main__"})
        self.steps = STEPS
        self.line = 0
        self.handed: set[int] = set()
        functions = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
        self.own = [node for function in functions for node in ast.walk(function)]
        self.safe: dict[str, Any] = {
            "math": _MODULES["math"],  # without it the script would not run at all
            "int": int, "float": float, "bool": bool, "str": _text, "len": len, "list": list,
            "tuple": tuple, "abs": abs, "min": min, "max": max, "sorted": sorted, "range": range,
            "round": lambda x, digits=None: round(x, digits and max(digits, -400)),
            "sum": lambda a: sum(map(_number, a)), "reversed": lambda a: list(reversed(a)),
            "enumerate": lambda *a: list(map(tuple, enumerate(*a))),
            "zip": lambda *a: list(zip(*a, strict=False)), "print": lambda *a, **k: None,
            "<small>": self.small, "<call>": self.call, "<binary>": self.binary,
            "<in place>": self.in_place, "<rows>": self.rows, "<text>": _text,
        }  # fmt: skip

    def carry_out(self, node: ast.stmt) -> None:
        """Do what a statement does, or forget what it may change."""
        self.line = node.lineno
        self.steps -= 20 + len(self.names) // 10
        try:
            match node:
                case ast.If(test=test, body=body, orelse=orelse):
                    for statement in body if self.compute(ast.Expression(test)) else orelse:
                        self.carry_out(statement)
                case ast.Import(names=names):
                    for item in names:
                        module = item.name if item.asname else item.name.partition(".")[0]
                        self.names[item.asname or module] = _MODULES.get(module, Module())
                case ast.ImportFrom(module=str(module), names=names, level=0):
                    self.take(module, names)
                case ast.FunctionDef(
                    args=ast.arguments(defaults=[], kw_defaults=[]), decorator_list=[]
                ):
                    self.names[node.name] = Unknown(self.line, "a function of the script's own")
                case ast.AnnAssign(annotation=ast.Name() | ast.Constant()):
                    if node.value is not None:
                        self.compute(ast.Module([ast.Assign([node.target], node.value)], []))
                case _:
                    self.compute(ast.Module([node], []))
        except Unknowable as reason:
            self.forget([node], str(reason))

    def take(self, module: str, names: list[ast.alias]) -> None:
        """``from module import`` names."""
        known = vars(_MODULES.get(module, Module()))
        if names[0].name == "*" and module != "math":
            raise Unknowable("all of another module")
        if names[0].name == "*":
            names = [ast.alias(name) for name in vars(math) if not name.startswith("_")]
        for item in names:
            name = item.asname or item.name
            self.names[name] = known.get(item.name, Unknown(self.line, "imported"))

    # What is computed

    def compute(self, node: ast.Module | ast.Expression) -> Any:  # noqa: ANN401
        """Let Python carry out plain statements, or an expression.

        Raises:
            Unknowable: It is not plain, needs what is not known, takes too long, or fails.
        """
        known = {name: v for name, v in self.names.items() if not isinstance(v, Unknown)}
        known["__builtins__"] = {} if self.names.others else self.safe
        value = None
        try:
            guarded = ast.fix_missing_locations(_Guard().visit(copy.deepcopy(node)))
            if isinstance(node, ast.Expression):
                value = eval(compile(guarded, "script", "eval"), known)  # noqa: S307 - only plain
            else:
                exec(compile(guarded, "script", "exec"), known)  # noqa: S102 - only plain
        except NameError as error:
            found = self.names.find(str(error.name))
            reason = f": {found.reason}" if isinstance(found, Unknown) else ""
            raise Unknowable(f"{error.name} is not known{reason}"[:200]) from None
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError,
                SyntaxError, TypeError, ValueError) as error:  # fmt: skip
            raise Unknowable(f"{type(error).__name__}: {error}"[:200]) from None
        bound = _bound(ast.walk(node)) & known.keys()
        self.names.update({name: self.small(known[name]) for name in bound})
        return value

    def small(self, value: Any) -> Any:  # noqa: ANN401
        """The value, its size taken from the steps that are left.

        Raises:
            Unknowable: It is too large, or no steps are left.
        """
        count = _size(value)
        self.steps -= 1 + count // 20
        if self.steps < 0:
            raise Unknowable("it takes too long")
        if count > LENGTH:
            raise Unknowable("a list or text that is too long")
        if isinstance(value, complex) or (isinstance(value, int) and value.bit_length() > BITS):
            raise Unknowable("a number that is too large or complex")
        return value

    def rows(self, items: Any) -> Iterator[Any]:  # noqa: ANN401
        """What a loop goes through."""
        for item in self.small(items):
            self.small(None)
            yield item

    def call(self, function: Any, *values: Any, **words: Any) -> Any:  # noqa: ANN401
        holder = getattr(function, "__self__", None)
        if isinstance(holder, str | tuple | dict | range | int | float):
            raise Unknowable("a method of something else than a list")
        for value in (holder, *values):
            self.small(value)
        return self.small(function(*values, **words))

    def binary(self, kind: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Numbers, and sums and multiples of lists and texts."""
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            row, count = (left, right) if isinstance(left, list | tuple | str) else (right, left)
            joined = kind == "Add" and type(left) is type(right)
            repeated = kind == "Mult" and isinstance(count, int)
            if not isinstance(row, list | tuple | str) or not (joined or repeated):
                raise Unknowable("arithmetic of something else than numbers")
            if repeated and _size(row) * max(count, 0) > LENGTH:
                raise Unknowable("a list or text that is too long")
        whole = isinstance(left, int) and isinstance(right, int)
        if kind == "Pow" and whole and left.bit_length() * abs(right) > BITS:
            raise Unknowable("a power that is too large")
        return self.small(_BINARY[kind](left, right))

    def in_place(self, kind: str, before: Any, value: Any) -> Any:  # noqa: ANN401
        """What is added to a value in place, if the result is not too large."""
        extended = isinstance(before, list) and kind == "Add"
        self.binary(kind, before, list(value) if extended else value)
        return value

    # What may have changed

    def forget_everything(self, reason: str) -> None:
        self.names.others = Unknown(self.line, reason)
        self.names.update({name: self.names.others for name in self.names if name != "__name__"})

    def forget(self, statements: Iterable[ast.stmt], reason: str) -> None:
        """What statements may change, and functions of the script's own, which they may call."""
        executed = list(_executed(statements))
        nodes = [*executed, *self.own]
        self.steps -= len(nodes)
        calls = {_dotted(node.func) for node in nodes if isinstance(node, ast.Call)}
        stars = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
        if calls & _RUNS_CODE:
            self.forget_everything(f"{min(calls & _RUNS_CODE)}() may change anything")
        elif stars:
            self.forget_everything(f"anything may come from {stars[0].module} import *")
        self.forget_lists(nodes)
        for name in _bound(executed):
            self.names[name] = Unknown(self.line, reason)
        for node in self.own:
            for name in node.names if isinstance(node, ast.Global) else ():
                self.names[name] = Unknown(self.line, "a function of the script's own may set it")

    def forget_lists(self, nodes: Iterable[ast.AST]) -> None:
        """Lists and tables that are changed in place, under whatever names they are.

        What is changed under a name that is not known may be any list that was handed on.
        """
        changed: set[str] = set()
        for node in nodes:
            for name in self.handed_on(node):
                self.handed |= _parts(self.names.get(name))
            changed |= _changed(node)
        lists: set[int] = set()
        for name in changed:
            lists |= _parts(self.names.get(name)) or self.handed
        for name, value in self.names.items() if lists else ():
            own = _parts(value)
            self.steps -= 1 + len(own)
            if not lists.isdisjoint(own):
                self.names[name] = Unknown(self.line, "changed in a way that is not known")

    def handed_on(self, node: ast.AST) -> set[str]:
        """Names whose lists get other names by a node, or into other lists.

        Items of a list without lists do not, nor does what other modules only look at.
        """
        looks = isinstance(node, ast.Call) and (
            isinstance(self.names.get(_root(node.func)), Module) or _dotted(node.func) in _NUMBERS
        )
        if looks or isinstance(node, ast.Compare):
            return set()
        items = isinstance(node, ast.Subscript | ast.For | ast.comprehension)
        names = [item.id for item in ast.iter_child_nodes(node) if isinstance(item, ast.Name)]
        return {name for name in names if not items or len(_parts(self.names.get(name))) > 1}


class _Guard(ast.NodeTransformer):
    """Plain statements, with every operation that may take long behind a check of its size.

    Raises:
        Unknowable: They are not plain.
    """

    def visit(self, node: ast.AST) -> Any:  # noqa: ANN401
        plain = isinstance(node, _PLAIN)
        match node:
            case ast.Name(id=name):
                plain = name == "__name__" or not name.startswith("__")
            case ast.Call(func=ast.Name(id="sum" | "min" | "max" | "list" | "tuple" | "sorted")):
                node.args = [_listed(item) for item in node.args]
            case ast.Constant(value=value):
                plain = value is None or isinstance(value, int | float | str)
            case ast.Attribute(attr=name, ctx=context):
                plain = name in _ATTRIBUTES and isinstance(context, ast.Load)
            case ast.FormattedValue(conversion=conversion, format_spec=layout):
                plain = conversion == -1 and layout is None
            case ast.Subscript(ctx=ast.Store()):
                plain = not any(isinstance(item, ast.Call) for item in ast.walk(node))
        if not plain:
            raise Unknowable(f"no plain arithmetic: {_short(node)}")
        before = _Load().visit(copy.deepcopy(getattr(node, "target", ast.Pass())))
        self.generic_visit(node)
        match node:
            case ast.BinOp(op=op, left=left, right=right):
                return _guarded("binary", ast.Constant(type(op).__name__), left, right)
            case ast.AugAssign(op=op, value=added):
                kind = ast.Constant(type(op).__name__)
                node.value = _guarded("in place", kind, self.visit(before), added)
            case ast.Call(func=func, args=args, keywords=words):
                return ast.Call(ast.Name("<call>", ast.Load()), [func, *args], words)
            case ast.For() | ast.comprehension():
                node.iter = _guarded("rows", node.iter)
            case ast.While():
                node.test = _guarded("small", node.test)
            case ast.FormattedValue():
                node.value = _guarded("text", node.value)
            case ast.List(ctx=ast.Load()) | ast.Tuple(ctx=ast.Load()) | ast.Dict() | ast.ListComp():
                return _guarded("small", node)
            case ast.Assign(targets=targets):
                stored = [item for item in targets if isinstance(item, ast.Subscript)]
                checks = [ast.Expr(_guarded("small", item.value)) for item in stored]
                return [node, *checks]
        return node


class _Load(ast.NodeTransformer):
    def visit_Store(self, _: ast.Store) -> ast.Load:
        return ast.Load()


def _listed(node: ast.expr) -> ast.expr:
    """A generator as the list that it gives: of a function that takes all of it at once."""
    if isinstance(node, ast.GeneratorExp):
        return ast.ListComp(node.elt, node.generators)
    return node


def _guarded(guard: str, *values: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(f"<{guard}>", ast.Load()), list(values), [])


def _executed(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements with all that is in them, except what functions do when they are called."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, _FUNCTIONS):
            pending += getattr(node, "decorator_list", [])
            pending += [*node.args.defaults, *(item for item in node.args.kw_defaults if item)]
        else:
            pending.extend(ast.iter_child_nodes(node))


def _changed(node: ast.AST) -> set[str]:
    """Names under which a node changes lists."""
    match node:
        case (
            ast.Subscript(ctx=ast.Store() | ast.Del()) | ast.Attribute(ctx=ast.Store() | ast.Del())
        ):
            return {_root(node)}
        case ast.AugAssign(target=target):
            return {_root(target)}
        case ast.Call(func=func, args=args):
            name = _dotted(func).rpartition(".")[2]
            # A name that is called may be a method of a list.
            changed = {_root(func)} if name in _IN_PLACE or isinstance(func, ast.Name) else set()
            return changed | (set(map(_root, args)) if name in _ON_ARGUMENTS else set())
    return set()


def _bound(nodes: Iterable[ast.AST]) -> set[str]:
    """Names that nodes bind or delete."""
    found: set[str | None] = set()
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                found.add(name)
            case ast.alias(name=name, asname=alias):
                found.add(alias or name.partition(".")[0])
            case ast.MatchMapping(rest=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.AsyncFunctionDef(name=name) | ast.ExceptHandler(name=name):
                found.add(name)
            case ast.MatchAs(name=name) | ast.MatchStar(name=name):
                found.add(name)
            case ast.Global(names=names):
                found.update(names)
    return {name for name in found if name}


def _text(value: object = "") -> str:
    if isinstance(value, int | float | str):
        return str(value)
    raise Unknowable("text of something else than a number")


def _number(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, int | float):
        return value
    raise Unknowable("a sum of something else than numbers")


def _size(value: object) -> int:
    """Items of a list with all that is in it, characters of a text; counted to :data:`LENGTH`."""
    count = 0
    pending: list[Any] = [value]
    while pending and count <= LENGTH:
        item = pending.pop()
        if isinstance(item, str | range | list | tuple | dict):
            count += len(item)
        if isinstance(item, list | tuple | dict) and len(item) <= LENGTH:
            pending.extend(item.values() if isinstance(item, dict) else item)
    return count


def _parts(value: object) -> set[int]:
    """Identities of a list or table and of all that are in it; tuples count as well."""
    found: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list | tuple | dict) and id(item) not in found:
            found.add(id(item))
            pending.extend(item.values() if isinstance(item, dict) else item)
        elif isinstance(holder := getattr(item, "__self__", None), list):
            pending.append(holder)  # of a method that has a name of its own
    return found


def _dotted(node: ast.AST) -> str:
    """``a.b.c`` of names and attributes; of others the attributes at the end."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


def _root(node: ast.AST) -> str:
    """The name that an expression of items, attributes and calls starts with, or nothing."""
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call | ast.Starred):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _short(node: ast.AST) -> str:
    """An expression as text for a message."""
    if sum(1 for _ in zip(ast.walk(node), range(200), strict=False)) == 200:
        return "a long expression"
    text = ast.unparse(node)
    return text if len(text) <= 60 else f"{text[:57]}..."
