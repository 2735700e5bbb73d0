"""Kinds by name: what a configuration's ``kind`` fields are looked up in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from imac_torch.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one noun's kinds; the first one registered is the default.

    Args:
        noun: For errors.
        field: Of the configuration that names a kind.
    """

    def __init__(self, noun: str, field: str) -> None:
        self.noun, self.field = noun, field
        self._kinds: dict[str, T] = {}

    def register(self, name: str, kind: T) -> T:
        """Add a kind.

        Raises:
            ConfigError: The name is taken by another one.
        """
        if self._kinds.setdefault(name, kind) is not kind:
            raise ConfigError(f"there is a {self.noun} {name!r} already; choose another name")
        return kind

    def unregister(self, name: str) -> None:
        """Forget a kind; nothing happens if there is none."""
        self._kinds.pop(name, None)

    def __getitem__(self, name: str) -> T:
        """The kind of a name.

        Raises:
            ConfigError: There is none.
        """
        if name not in self._kinds:
            known = ", ".join(self._kinds)
            raise ConfigError(f"{self.field} = {name!r}: there is no such {self.noun}; {known}")
        return self._kinds[name]

    def __contains__(self, name: object) -> bool:
        return name in self._kinds

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)
