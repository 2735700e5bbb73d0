"""Which layers become analog: what users exclude and include, by name, class or function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from imac_torch.errors import ConversionError

__all__ = ["Choice", "Selection", "chosen_by", "named_layers"]

Choice = (
    str | type[nn.Module] | Iterable[str | type[nn.Module]] | Callable[..., bool]
)
"""Paths of layers or of modules that hold them, classes, or a function of a path, or of a path and
the module there."""


@dataclass(frozen=True)
class Selection:
    """Layers that a :data:`Choice` stands for.

    Attributes:
        says: Whether a layer, or the path of one, is among them.
        empty: Whether nothing was named.
    """

    says: Callable[[str, nn.Module], bool]
    empty: bool = False

    def __call__(self, path: str, module: nn.Module) -> bool:
        """Whether the layer at a path is among them."""
        return self.says(path, module)


def chosen_by(choice: Choice, layers: Mapping[str, nn.Module], what: str) -> Selection:
    """What a choice stands for.

    Args:
        choice: As the user gave it.
        layers: The model's, by path.
        what: The argument, for errors.

    Raises:
        ConversionError: A name or a class stands for no layer.
    """
    if callable(choice) and not isinstance(choice, type):
        return Selection(_predicate(choice))
    items: tuple[Any, ...] = (choice,) if isinstance(choice, str | type) else tuple(choice)
    for item in items:
        if isinstance(item, type):
            found, word = any(isinstance(part, item) for part in layers.values()), item.__name__
        else:
            found, word = any(_inside(path, item) for path in layers), repr(item)
        if not found:
            raise ConversionError(
                f"{what} names {word}, which is no linear layer and holds none; there are "
                f"{', '.join(layers) or 'none'}"
            )
    classes = tuple(item for item in items if isinstance(item, type))
    names = [item for item in items if not isinstance(item, type)]

    def says(path: str, module: nn.Module) -> bool:
        return isinstance(module, classes) or any(_inside(path, name) for name in names)

    return Selection(says, not items)


def named_layers(model: nn.Module, names: Iterable[str]) -> tuple[str | type[nn.Module], ...]:
    """A choice written as text: paths, and classes by their names.

    Args:
        model: Whose paths are paths; every other name is looked for among the classes of its
            modules, and what they are derived from: ``Conv2d`` or ``torch.nn.Conv2d``.
        names: What is neither stays as it is, to be refused as a path.
    """
    paths = dict(model.named_modules())
    kinds = [kind for part in paths.values() for kind in reversed(type(part).__mro__)]
    classes = {
        f"{prefix}{kind.__name__}": kind
        for kind in kinds if issubclass(kind, nn.Module)
        for prefix in ("", f"{kind.__module__}.")
    }
    # torch's classes are known by the name that they are imported under, not by their file.
    classes |= {
        f"torch.nn.{name}": kind for name, kind in tuple(classes.items())
        if getattr(nn, name, None) is kind
    }  # fmt: skip
    return tuple(name if name in paths else classes.get(name, name) for name in names)


def _inside(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _predicate(function: Callable[..., bool]) -> Callable[[str, nn.Module], bool]:
    """The function itself, or one that leaves the module out."""
    try:
        needed = [
            item for item in inspect.signature(function).parameters.values()
            if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
            and item.default is item.empty
        ]  # fmt: skip
    except (TypeError, ValueError):  # a built-in one
        needed = []
    if len(needed) == 2:
        return function
    return lambda path, _: function(path)
