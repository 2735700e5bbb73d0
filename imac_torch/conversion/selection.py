"""Which layers become analog: what users exclude and include, by name, class or function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from imac_torch.errors import ConversionError

__all__ = ["Choice", "Selection", "chosen_by", "named_layers"]

Item = str | type[nn.Module] | Callable[..., bool]
"""A path or a class of layers or of modules that hold them, or a function of a layer's path, or of
a path and the layer there."""
Choice = Item | Iterable[Item]


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


def chosen_by(
    choice: Choice, layers: Mapping[str, nn.Module], what: str, holders: Mapping[str, nn.Module]
) -> Selection:
    """What a choice stands for.

    Args:
        choice: As the user gave it.
        layers: The model's, by path.
        what: The argument, for errors.
        holders: All modules of the model by path, which may hold layers.

    Raises:
        ConversionError: A name or a class stands for no layer, or an item is something else.
    """
    items: tuple[Item, ...]
    items = (choice,) if isinstance(choice, str) or callable(choice) else tuple(choice)
    rules = []
    for item in items:
        if isinstance(item, nn.Module) or not (isinstance(item, str) or callable(item)):
            raise ConversionError(
                f"{what} takes paths, classes and functions, not {type(item).__name__} objects; "
                f"there are the layers {', '.join(layers) or 'none'}"
            )
        rule = _rule(item, holders)
        named = isinstance(item, str | type)
        if named and not any(rule(path, module) for path, module in layers.items()):
            word = item.__name__ if isinstance(item, type) else repr(item)
            raise ConversionError(
                f"{what} names {word}, which is no linear layer and holds none; there are "
                f"{', '.join(layers) or 'none'}"
            )
        rules.append(rule)

    def says(path: str, module: nn.Module) -> bool:
        return any(rule(path, module) for rule in rules)

    return Selection(says, not items)


def _rule(item: Item, holders: Mapping[str, nn.Module]) -> Callable[[str, nn.Module], bool]:
    """Whether an item of a choice stands for the layer at a path."""
    if isinstance(item, str):
        return lambda path, _: path == item or path.startswith(f"{item}.")
    if not isinstance(item, type):
        return _predicate(item)

    def of_class(path: str, module: nn.Module) -> bool:
        above = [path[:place] for place, letter in enumerate(path) if letter == "."]
        return isinstance(module, item) or any(
            isinstance(holders.get(one), item) for one in ("", *above)
        )

    return of_class


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
