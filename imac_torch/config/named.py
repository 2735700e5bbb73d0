"""Tables of a configuration by names of a registry: effects, cells. The code is elsewhere.

Each is ``label = {parameters}``; the label is the name of a class that is a dataclass, or the table
says the name as ``kind``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imac_torch.base.registry import Registry
from imac_torch.config.kinds import NAMED
from imac_torch.config.quantity import Quantity
from imac_torch.config.section import FrozenDict
from imac_torch.errors import ConfigError

__all__ = [
    "build_named",
    "frozen",
    "merge_named",
    "named_paths",
    "quantity_of",
    "register_named",
]

KIND = "kind"
"""Parameter that names the class where the label does not: two effects may be of one kind."""


def _parameters(registry: Registry[Any], kind: str) -> dict[str, Any]:
    """Annotations by name of what a configuration can say of a class; tensors it cannot."""
    named = registry.get(kind)
    hints = typing.get_type_hints(named, include_extras=True)
    found = {field.name: hints[field.name] for field in dataclasses.fields(named) if field.init}
    return {name: hint for name, hint in found.items() if _plain(hint)}


def _plain(hint: Any) -> bool:  # noqa: ANN401 - a type
    """Whether a file can hold it; what is left out of one is None."""
    base = getattr(hint, "__origin__", hint)
    if isinstance(base, types.UnionType):
        return all(item is types.NoneType or _plain(item) for item in base.__args__)
    return base in (float, int, bool, str, tuple)


def quantity_of(registry: Registry[Any], kind: str, parameter: str) -> Quantity | None:
    """What a parameter measures, if it is a physical quantity."""
    if kind not in registry:
        return None
    metadata = getattr(_parameters(registry, kind).get(parameter), "__metadata__", ())
    return next((item for item in metadata if isinstance(item, Quantity)), None)


def named_paths() -> Iterator[tuple[str, str]]:
    """Path and unit of every parameter of everything that there is."""
    for field, registry in NAMED.items():
        for kind in registry.names:
            for name in _parameters(registry, kind):
                quantity = quantity_of(registry, kind, name)
                unit = "" if quantity is None or quantity.unit == "1" else f"{quantity.unit}. "
                yield f"device.{field}.{kind}.{name}", f"{unit}Of the {registry.what} {kind}."


def build_named(
    registry: Registry[Any], label: str, settings: Mapping[str, Any]
) -> Any:  # noqa: ANN401 - any class
    """What a table of a configuration stands for.

    Args:
        registry: Of the classes.
        label: Its key.
        settings: Its parameters, and its kind where that is not the label.

    Raises:
        ConfigError: There is no such class, or a parameter is unknown, missing or not allowed.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"{label}: parameters of the {registry.what} are a table, got {settings!r}"
        )
    kind = settings.get(KIND, label)
    if not isinstance(kind, str) or kind not in registry:
        raise ConfigError(registry.unknown(kind))
    known, values = _parameters(registry, kind), {}
    for name, value in settings.items():
        if name == KIND:
            continue
        if name not in known:
            raise ConfigError(f"{label}.{name}: {kind} has {', '.join(known) or 'no parameters'}")
        try:
            values[name] = TypeAdapter(known[name]).validate_python(
                value, strict=not isinstance(value, list)  # which a tuple is in a file
            )
        except ValidationError as error:
            quantity = quantity_of(registry, kind, name)
            number = quantity.read(value) if quantity and isinstance(value, str) else None
            hint = "" if number is None else f"; write {number:.12g}"
            reason = error.errors()[0]["msg"]
            raise ConfigError(f"{label}.{name}: {reason} (got {value!r}{hint})") from None
    required = [
        field.name for field in dataclasses.fields(registry.get(kind))
        if field.init
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{label} needs {', '.join(missing)}")
    try:
        return registry.get(kind)(**values)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None


def register_named(registry: Registry[Any], name: str, kind: type[Any]) -> None:
    """Add a class whose fields are the parameters of a table.

    Raises:
        ConfigError: It is no dataclass, or the name is no identifier or one of the package's own.
    """
    if not dataclasses.is_dataclass(kind):
        raise ConfigError(f"{kind.__name__} is no dataclass, whose fields would be parameters")
    registry.register(name, kind)


def frozen(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same, as immutable as a section is."""
    return FrozenDict({label: FrozenDict(settings) for label, settings in tables.items()})


def merge_named(
    tables: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, dict[str, Any]]:
    """Tables with some changed: labels and parameters left out stay, None takes one out."""
    merged = {label: dict(settings) for label, settings in tables.items()}
    for label, settings in changes.items():
        if settings is None:
            merged.pop(label, None)
        elif isinstance(settings, Mapping):
            merged[label] = {**merged.get(label, {}), **settings}
        else:
            raise ConfigError(f"{label}: parameters are a table, got {settings!r}")
    return merged
