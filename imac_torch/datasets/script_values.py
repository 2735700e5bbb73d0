"""Values of the names of a Python script at its end, found without running it.

Statements are gone through in order, as Python would: assignments of every form, branches, loops.
What cannot be known (a file that is read, a function of the script's own) makes the names that
depend on it unknown, with the line and the reason, and so does whatever may have changed them
meanwhile. Time and memory are bounded.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Final

from imac_torch.datasets.script_expressions import (
    CHANGES,
    DEPTH,
    LENGTH,
    MODULES,
    STEPS,
    Expressions,
    Module,
    Names,
    Unknowable,
    Unknown,
    bound,
    parts,
    size,
)

__all__ = ["LARGEST_SCRIPT", "script_values"]

LARGEST_SCRIPT: Final = 300_000
"""Bytes; such scripts have thousands."""
_RUNS_CODE: Final = {"exec", "eval", "globals", "locals", "vars", "setattr", "delattr"}
_IN_PLACE: Final = CHANGES | {"update", "setdefault", "popitem", "__setitem__", "__delitem__"}
_ON_ARGUMENTS: Final = {"shuffle", "heapify", "heappush", "heappop", "setitem", "delitem"}

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def script_values(source: bytes, *, end: str = "") -> Names:
    """What names stand for at the end of a script.

    Args:
        source: Of the script, its encoding declared as Python wants it.
        end: Of what the script is for: names set behind the first call of this function, by its
            dotted name, are unknown.

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
    script = _Script(tree, end)
    script.run(tree.body)
    return script.names


class _Break(Exception):  # noqa: N818
    pass


class _Continue(Exception):  # noqa: N818
    pass


class _Stop(Exception):  # noqa: N818
    """Python would not go on."""


class _Script(Expressions):
    def __init__(self, tree: ast.Module, end: str) -> None:
        super().__init__()
        self.end = end
        self.ended = False
        self.own_globals, self.own_lists, self.own_code = _reach(tree)

    def run(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            try:
                self.statement(statement)
            except _Stop:
                return

    def statement(self, node: ast.stmt) -> None:
        self.line = node.lineno
        self.steps -= 1
        if self.steps < 0:
            self.forget_everything("the script computes for too long")
            raise _Stop
        if self.depth >= DEPTH:
            self.forget_all_of([node], "nested too deeply")
            return
        self.depth += 1
        try:
            method = getattr(self, f"do_{type(node).__name__}", None)
            if method is None:
                self.forget_all_of([node], f"set in a statement {type(node).__name__}")
            else:
                method(node)
        finally:
            self.depth -= 1

    def value(self, node: ast.expr) -> Any:  # noqa: ANN401
        """Of an expression; Unknown if it has none, and so is then what it may change."""
        try:
            return self.evaluate(node)
        except Unknowable as reason:
            self.forget_effects(node)
            return self.unknown(str(reason), [node])

    def unknown(self, reason: str, nodes: Iterable[ast.AST]) -> Unknown:
        """What became of statements or expressions: it may hold any list that they name."""
        lists: set[int] = set()
        for top in nodes:
            for node in ast.walk(top):
                if isinstance(node, ast.Name):
                    lists |= parts(self.names.find(node.id))
        return Unknown(self.line, reason, frozenset(lists))

    def bind(self, name: str, value: Any) -> None:  # noqa: ANN401
        if self.ended and not isinstance(value, Unknown):
            value = Unknown(self.line, f"set after {self.end} has run", frozenset(parts(value)))
        self.names[name] = value

    def assign(self, target: ast.expr, value: Any) -> None:  # noqa: ANN401
        if isinstance(target, ast.Name):
            self.bind(target.id, value)
        elif isinstance(target, ast.Tuple | ast.List):
            self.unpack(target.elts, value)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, value)
        elif isinstance(target, ast.Subscript):
            self.store(target, value)
        else:
            self.forget_root(target)
            self.forget_effects(target)

    def unpack(self, targets: list[ast.expr], value: Any) -> None:  # noqa: ANN401
        star = next((k for k, t in enumerate(targets) if isinstance(t, ast.Starred)), None)
        if not isinstance(value, list | tuple | str | range):
            known = Unknown(self.line, "not a sequence")
            values: list[Any] = [value if isinstance(value, Unknown) else known] * len(targets)
        elif star is not None and len(value) >= len(targets) - 1:
            items = list(value)
            stop = len(items) - (len(targets) - star - 1)
            values = [*items[:star], items[star:stop], *items[stop:]]
        elif star is None and len(value) == len(targets):
            values = list(value)
        else:
            values = [Unknown(self.line, "sides of different lengths")] * len(targets)
        for target, item in zip(targets, values, strict=True):
            self.assign(target, item)

    def store(self, target: ast.Subscript, value: Any) -> None:  # noqa: ANN401
        try:
            holder, index = self.evaluate(target.value), self.evaluate(target.slice)
            if isinstance(value, Unknown) or not isinstance(holder, list | dict):
                raise Unknowable("an item is not known")
            holder[index] = value
            self.changed(holder)
        except (Unknowable, LookupError, TypeError, ValueError):
            self.forget_any(
                parts(self.names.find(_root(target))), "an item of it is not known", parts(value)
            )
            self.forget_effects(target)

    def changed(self, value: list[Any] | dict[Any, Any]) -> None:
        if self.ended:
            self.forget_value(value, f"changed after {self.end} has run")
        elif size(value) > LENGTH:  # or it holds itself
            self.forget_value(value, "a list that is too long")

    # Statements

    def do_Assign(self, node: ast.Assign) -> None:  # noqa: N802 - as ast names them
        value = self.value(node.value)
        for target in node.targets:
            self.assign(target, value)

    def do_AnnAssign(self, node: ast.AnnAssign) -> None:  # noqa: N802
        if node.value is not None:
            self.assign(node.target, self.value(node.value))

    def do_AugAssign(self, node: ast.AugAssign) -> None:  # noqa: N802
        target = node.target
        load: ast.expr
        if isinstance(target, ast.Name):
            load = ast.Name(target.id, ast.Load())
        elif isinstance(target, ast.Subscript):
            load = ast.Subscript(target.value, target.slice, ast.Load())
        else:
            self.value(node.value)
            self.forget_root(target)
            return
        before, value = self.value(load), self.value(node.value)
        if isinstance(before, list) and isinstance(node.op, ast.Add):
            if isinstance(value, list | tuple | range | str) and size(value) <= LENGTH:
                before.extend(value)  # in place: its other names see it too
                self.changed(before)
            else:
                self.forget_any({id(before)}, "something unknown is added", parts(value))
            return
        if isinstance(before, list):
            self.forget_value(before, "changed in place")
        result = next((item for item in (before, value) if isinstance(item, Unknown)), None)
        if result is None:
            try:
                result = self.binary(node.op, before, value)
            except (Unknowable, TypeError) as reason:
                result = Unknown(self.line, str(reason))
        else:
            lists = frozenset(parts(before) | parts(value))
            result = Unknown(self.line, result.reason, lists)
        self.assign(target, result)

    def do_Expr(self, node: ast.Expr) -> None:  # noqa: N802
        self.value(node.value)

    def do_Assert(self, node: ast.Assert) -> None:  # noqa: N802
        self.value(node.test)

    def do_Pass(self, node: ast.Pass) -> None:  # noqa: N802
        pass

    do_Global = do_Nonlocal = do_Pass  # noqa: N815 - at the top they do nothing

    def do_Raise(self, node: ast.Raise) -> None:  # noqa: N802
        raise _Stop

    def do_Delete(self, node: ast.Delete) -> None:  # noqa: N802
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.bind(target.id, Unknown(self.line, "deleted"))
            else:
                self.forget_root(target)

    def do_Import(self, node: ast.Import) -> None:  # noqa: N802
        for item in node.names:
            first = item.name.partition(".")[0]
            self.bind(item.asname or first, Module(item.name if item.asname else first))

    def do_ImportFrom(self, node: ast.ImportFrom) -> None:  # noqa: N802
        module = node.module or "" if node.level == 0 else ""
        known = MODULES.get(module, {})
        for item in node.names:
            if item.name == "*" and module == "math":
                for name in (name for name in vars(math) if not name.startswith("_")):
                    self.bind(name, known.get(name, Unknown(self.line, "imported")))
            elif item.name == "*":
                self.forget_everything(f"anything may come from {node.module} import *")
            elif f"{module}.{item.name}" in MODULES:
                self.bind(item.asname or item.name, Module(f"{module}.{item.name}"))
            else:
                found = known.get(item.name, Unknown(self.line, "imported"))
                self.bind(item.asname or item.name, found)

    def do_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:  # noqa: N802
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.value(default)
        for decorator in node.decorator_list:
            self.forget_effects(decorator)
        self.bind(node.name, Unknown(self.line, "what the script's own function gives"))

    do_AsyncFunctionDef = do_FunctionDef  # noqa: N815

    def do_If(self, node: ast.If) -> None:  # noqa: N802
        test = self.value(node.test)
        if isinstance(test, Unknown):
            reason = f"set where a condition is not known ({test.reason})"
            self.forget_all_of([*node.body, *node.orelse], reason)
        else:
            for statement in node.body if test else node.orelse:
                self.statement(statement)

    def do_With(self, node: ast.With) -> None:  # noqa: N802
        for item in node.items:
            self.value(item.context_expr)
            if item.optional_vars is not None:
                given = self.unknown("set by a with statement", [item.context_expr])
                self.assign(item.optional_vars, given)
        for statement in node.body:
            self.statement(statement)

    def do_For(self, node: ast.For) -> None:  # noqa: N802
        try:
            items = iter(self.row(node.iter))
        except Unknowable as reason:
            self.forget_all_of([node], f"set in a loop over something unknown ({reason})")
            return

        def more() -> bool:
            for item in items:
                self.assign(node.target, item)
                return True
            return False

        self.loop(node, more)

    def do_While(self, node: ast.While) -> None:  # noqa: N802
        self.loop(node, lambda: bool(self.evaluate(node.test)))

    def loop(self, node: ast.For | ast.While, more: Callable[[], bool]) -> None:
        limit = self.steps - STEPS // 10
        try:
            while more():
                self.steps -= 1
                if self.steps < limit:
                    raise Unknowable("it takes too long")
                try:
                    for statement in node.body:
                        self.statement(statement)
                except _Continue:
                    continue
            for statement in node.orelse:
                self.statement(statement)
        except _Break:
            return
        except Unknowable as reason:
            self.forget_all_of([node], f"set in a loop ({reason})")

    def do_Break(self, node: ast.Break) -> None:  # noqa: N802
        raise _Break

    def do_Continue(self, node: ast.Continue) -> None:  # noqa: N802
        raise _Continue

    # What may have changed

    def forget_everything(self, reason: str) -> None:
        self.names.others = Unknown(self.line, reason)
        for name in self.names:
            if name != "__name__":
                self.names[name] = self.names.others

    def forget_value(self, value: object, reason: str) -> None:
        """A list or table that has changed: under all its names, and in all that holds it."""
        self.forget_any({id(value)}, reason)

    def forget_root(self, node: ast.AST) -> None:
        """The list or table of an expression that an item is set of, and all that is in it."""
        self.forget_any(parts(self.names.find(_root(node))), "changed in a way that is not known")

    def forget_any(self, lists: set[int], reason: str, added: Iterable[int] = ()) -> None:
        """Names that hold any of some lists.

        Args:
            lists: That have changed, by identity.
            reason: Why they are unknown.
            added: Lists that may be in them now.
        """
        if not lists:
            return
        held = {name: parts(value) for name, value in self.names.items()}
        self.steps -= sum(map(len, held.values())) + len(held)
        for name, own in held.items():
            if not lists.isdisjoint(own):
                known = frozenset(own | lists | set(added))
                self.names[name] = Unknown(self.line, reason, known)

    def forget_all_of(self, nodes: Iterable[ast.AST], reason: str) -> None:
        """Every name that statements bind, and every list that they change."""
        nodes = list(nodes)
        unknown = self.unknown(reason, nodes)
        for name in bound(nodes):
            self.names[name] = unknown
        for top in nodes:
            self.forget_effects(top)

    def forget_effects(self, top: ast.AST) -> None:
        """Whatever an expression or statement that is not followed may have changed."""
        for node in ast.walk(top):
            self.steps -= 1
            if isinstance(node, ast.NamedExpr):
                self.assign(node.target, self.unknown("set within an expression", [node.value]))
            elif isinstance(node, ast.Subscript | ast.Attribute):
                if not isinstance(node.ctx, ast.Load):
                    self.forget_root(node)
            elif isinstance(node, ast.AugAssign):
                self.forget_root(node.target)
            elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                self.forget_everything(f"anything may come from {node.module} import *")
            elif isinstance(node, ast.Call):
                self.forget_call(node)

    def forget_call(self, node: ast.Call) -> None:
        called, own = _dotted(node.func), _root(node.func)
        if called == self.end:
            self.ended = True
        name = called.rpartition(".")[2]
        if called in _RUNS_CODE:
            self.forget_everything(f"{called}() may change anything")
        if isinstance(node.func, ast.Attribute) and name in _IN_PLACE:
            self.forget_root(node.func.value)
        given = [*node.args, *(word.value for word in node.keywords)]
        if name in _ON_ARGUMENTS:
            for argument in given:
                self.forget_root(argument)
        if isinstance(self.names.find(own), Module):
            return  # of another module, which does not know this one's names
        if self.own_code:
            self.forget_everything("a function of the script's own may change anything")
        for changed in self.own_globals:
            self.names[changed] = Unknown(self.line, "a function of the script's own may set it")
        for changed in self.own_lists:
            self.forget_root(ast.Name(changed, ast.Load()))


def _reach(tree: ast.Module) -> tuple[set[str], set[str], bool]:
    """Of all functions together: globals that they set, lists that they change, exec and such.

    A list may be changed under the name of an argument: then all that are handed over may be.
    """
    names: set[str] = set()
    lists: set[str] = set()
    code = False
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for function in ast.walk(tree):
        if not isinstance(function, Function):
            continue
        body = function.body if isinstance(function.body, list) else [function.body]
        given = function.args
        arguments = {
            item.arg
            for item in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg]
            if item is not None
        }
        local = bound(body)
        own: set[str] = set()
        for node in (item for part in body for item in ast.walk(part)):
            if isinstance(node, ast.Global):
                names.update(node.names)
                local -= set(node.names)
            elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
                own.add(_root(node))
            elif isinstance(node, ast.AugAssign):
                own.add(_root(node.target))
            elif isinstance(node, ast.Call):
                name = _dotted(node.func).rpartition(".")[2]
                code = code or _dotted(node.func) in _RUNS_CODE
                if isinstance(node.func, ast.Attribute) and name in _IN_PLACE:
                    own.add(_root(node.func.value))
                if name in _ON_ARGUMENTS:
                    own.update(map(_root, node.args))
        lists |= own - local - arguments
        if own & arguments:
            called = getattr(function, "name", None)
            for call in calls:
                if called is None or _dotted(call.func).rpartition(".")[2] == called:
                    handed = [*call.args, *(word.value for word in call.keywords)]
                    lists |= set(map(_root, handed))
    return names, lists - {""}, code


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
