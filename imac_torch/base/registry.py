"""Registries: what a name stands for, without importing it before it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Generic, TypeVar

from imac_torch.errors import ConfigError, ImacError

__all__ = ["Registry"]

Item = TypeVar("Item")


class Registry(Generic[Item]):
    """Items by name, in the order in which they were named; plug-ins add theirs.

    Args:
        what: What an item is, for errors.
        built_in: The package's own: an item, or its place ``"package.module:Class"``. A place is
            imported when the item is first asked for, so that a module low in the order of
            imports can hold the names of what stands above it.
        instantiate: Whether an item is an instance of the class in its place, else the class.
        error: Raised for an unknown name.

    Attributes:
        what: What an item is.
        built_in: Names of the package's own items, which nobody replaces.
    """

    def __init__(
        self,
        what: str,
        built_in: Mapping[str, Item | str],
        *,
        instantiate: bool = True,
        error: type[ImacError] = ConfigError,
    ) -> None:
        self.what = what
        self._instantiate = instantiate
        self._items: dict[str, Item | str] = dict(built_in)
        self.built_in = frozenset(built_in)
        self._error = error

    def __contains__(self, name: object) -> bool:
        """Whether there is an item of that name."""
        return name in self._items

    def __iter__(self) -> Iterator[Item]:
        """Every item."""
        return iter([self.get(name) for name in self._items])

    @property
    def names(self) -> tuple[str, ...]:
        """Every name; nothing is imported."""
        return tuple(self._items)

    def unknown(self, name: object) -> str:
        """What an error says of a name that is not here."""
        return (
            f"no {self.what} {name!r}; there are {', '.join(self._items)}. One of your own is "
            "known once the module that registers it has been imported"
        )

    def get(self, name: str) -> Item:
        """The item of a name.

        Raises:
            ImacError: There is none; of the class given to the registry.
        """
        if name not in self._items:
            raise self._error(self.unknown(name))
        item = self._items[name]
        if isinstance(item, str):
            module, _, attribute = item.partition(":")
            found = getattr(import_module(module), attribute)
            made: Item = found() if self._instantiate else found
            self._items[name] = item = made
        return item

    def register(self, name: str, item: Item) -> None:
        """Add an item, or replace one that was added before.

        Raises:
            ImacError: The name is no identifier, or one of the package's own.
        """
        if not name.isidentifier() or name in self.built_in:
            raise self._error(
                f"{name!r} cannot name a {self.what} of your own: it is no identifier, or one of "
                f"the package's ({', '.join(sorted(self.built_in))})"
            )
        self._items[name] = item

    def remove(self, name: str) -> None:
        """Take an added item out again; the package's own stay."""
        if name not in self.built_in:
            self._items.pop(name, None)
