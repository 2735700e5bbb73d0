"""The reference has every public name, and everything in it exists and is described."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from itertools import pairwise
from pathlib import Path

import pytest

import imac_torch

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs" / "api").glob("*.rst"))


def documented() -> dict[str, str]:
    """Directive by the dotted name it describes, over all pages of the reference."""
    return {
        name: directive
        for path in PAGES
        for directive, name in re.findall(
            r"^\.\. auto(class|function|data|module|exception):: ([\w.]+)$",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }


def find(name: str, directive: str) -> object:
    """The object of a dotted name.

    Raises:
        AttributeError: There is none.
        ImportError: There is no such module.
    """
    if directive == "module":
        return importlib.import_module(name)
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def described_constants(module: object) -> set[str]:
    """Names of a module that are assigned and followed by a text."""
    body = ast.parse(inspect.getsource(module)).body  # type: ignore[arg-type]
    return {
        node.target.id if isinstance(node, ast.AnnAssign) else node.targets[0].id  # type: ignore
        for node, after in pairwise(body)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }


def test_the_reference_has_every_public_name() -> None:
    described = [find(name, directive) for name, directive in documented().items()]
    missing = [
        name for name in imac_torch.__all__
        if not any(getattr(imac_torch, name) is item for item in described)
    ]  # fmt: skip
    assert missing == []


@pytest.mark.parametrize("name", sorted(documented()))
def test_what_the_reference_names_exists_and_is_described(name: str) -> None:
    directive = documented()[name]
    found = find(name, directive)
    if directive == "data":
        module, _, attribute = name.rpartition(".")
        assert attribute in described_constants(importlib.import_module(module))
        return
    # What a class inherits, and what dataclass writes, is no description of it.
    text = vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__
    assert text and not re.match(r"\w+\(.*\)$", text.strip().splitlines()[0]), name
    kinds = {"class": inspect.isclass, "function": inspect.isfunction, "module": inspect.ismodule}
    assert kinds[directive](found), f"{name} is no {directive}"


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one, or a field of a class in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            if part in getattr(found, "__annotations__", {}):
                return True
            found = getattr(found, part, None)
        return found is not None
    return False


def test_what_texts_refer_to_exists() -> None:
    # Sphinx takes a reference that leads nowhere for the name of something elsewhere.
    assert exists("imac_torch.results.solution.Solution.converged")
    assert exists("imac_torch.results.solution.Solution.outputs")
    assert not exists("imac_torch.results.solution.Solution.volume")
    assert not exists("imac_torch.solutions.Solution")
    root = Path(imac_torch.__file__).parent
    missing = [
        f"{path.relative_to(root)}: {name}"
        for path in sorted(root.rglob("*.py"))
        for name in re.findall(r":\w+:`~?(imac_torch[\w.]*)`", path.read_text(encoding="utf-8"))
        if not exists(name)
    ]
    assert missing == []
