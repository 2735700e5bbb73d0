"""Device effects in a configuration: by their names, with parameters; the code is elsewhere."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imac_torch.config.kinds import DEVICE_EFFECTS
from imac_torch.config.quantity import Quantity
from imac_torch.config.section import FrozenDict
from imac_torch.errors import ConfigError

__all__ = [
    "build_effect",
    "effect_parameters",
    "effect_paths",
    "frozen_effects",
    "merge_effects",
    "quantity_of",
]

KIND = "kind"
"""Parameter that names the effect where its label does not: two may be of one kind."""


def effect_parameters(kind: str) -> dict[str, Any]:
    """Annotations by name of what a configuration can say of an effect; tensors it cannot.

    Raises:
        ConfigError: There is no such effect.
    """
    effect = DEVICE_EFFECTS.get(kind)
    hints = typing.get_type_hints(effect, include_extras=True)
    found = {field.name: hints[field.name] for field in dataclasses.fields(effect) if field.init}
    return {
        name: hint for name, hint in found.items()
        if getattr(hint, "__origin__", hint) in (float, int, bool, str)
    }  # fmt: skip


def quantity_of(kind: str, parameter: str) -> Quantity | None:
    """What a parameter measures, if it is a physical quantity."""
    if kind not in DEVICE_EFFECTS:
        return None
    metadata = getattr(effect_parameters(kind).get(parameter), "__metadata__", ())
    return next((item for item in metadata if isinstance(item, Quantity)), None)


def effect_paths() -> Iterator[tuple[str, str]]:
    """Path and unit of every parameter of every effect that there is."""
    for kind in DEVICE_EFFECTS.names:
        for name in effect_parameters(kind):
            quantity = quantity_of(kind, name)
            unit = "" if quantity is None or quantity.unit == "1" else f"{quantity.unit}. "
            yield f"device.effects.{kind}.{name}", f"{unit}Of the effect {kind}."


def build_effect(label: str, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any class
    """The effect that a table of a configuration stands for.

    Args:
        label: Its key.
        settings: Its parameters, and its kind where that is not the label.

    Raises:
        ConfigError: There is no such effect, or a parameter is unknown, missing or not allowed.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{label}: parameters of an effect are a table, got {settings!r}")
    kind = settings.get(KIND, label)
    if not isinstance(kind, str) or kind not in DEVICE_EFFECTS:
        raise ConfigError(DEVICE_EFFECTS.unknown(kind))
    known, values = effect_parameters(kind), {}
    for name, value in settings.items():
        if name == KIND:
            continue
        if name not in known:
            raise ConfigError(f"{label}.{name}: {kind} has {', '.join(known) or 'no parameters'}")
        try:
            values[name] = TypeAdapter(known[name]).validate_python(value, strict=True)
        except ValidationError as error:
            quantity = quantity_of(kind, name)
            number = quantity.read(value) if quantity and isinstance(value, str) else None
            hint = "" if number is None else f"; write {number:.12g}"
            reason = error.errors()[0]["msg"]
            raise ConfigError(f"{label}.{name}: {reason} (got {value!r}{hint})") from None
    required = [
        field.name for field in dataclasses.fields(DEVICE_EFFECTS.get(kind))
        if field.init
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{label} needs {', '.join(missing)}")
    try:
        return DEVICE_EFFECTS.get(kind)(**values)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None


def frozen_effects(effects: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same, as immutable as a section is."""
    return FrozenDict({label: FrozenDict(settings) for label, settings in effects.items()})


def merge_effects(
    effects: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, dict[str, Any]]:
    """Effects with some changed: labels and parameters left out stay, None takes one out."""
    merged = {label: dict(settings) for label, settings in effects.items()}
    for label, settings in changes.items():
        if settings is None:
            merged.pop(label, None)
        elif isinstance(settings, Mapping):
            merged[label] = {**merged.get(label, {}), **settings}
        else:
            raise ConfigError(f"effects.{label}: parameters are a table, got {settings!r}")
    return merged
