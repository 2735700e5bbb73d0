"""All sections together, overrides by layer, and the file format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import tomli_w
from pydantic import Field, field_serializer, field_validator, model_validator
from typing_extensions import Self

from imac_torch.base.files import parse_json, parse_toml, read_text, write_text
from imac_torch.config.array import Crossbar, Interconnect, Memristor
from imac_torch.config.borders import Converter, Driver
from imac_torch.config.mapping import WeightMapping
from imac_torch.config.operation import Noise, Supplies, Timing
from imac_torch.config.periphery import Amplifier, Neuron
from imac_torch.config.quantity import TEMPERATURE
from imac_torch.config.section import FrozenDict, Section
from imac_torch.errors import ConfigError

SCHEMA: Final = 1
"""Version of the file format; files carry it and older readers refuse newer ones."""

_FIRST_LINE: Final = "# Configuration of imac_torch; complete with its last line."
_LAST_LINE: Final = "# End of the configuration."
"""Half of a TOML file is mostly a TOML file too, with defaults in place of what is lost."""

UNSET: Final = "none"
"""How files write an override that puts a field back to None."""


def _plain_override(value: object) -> object:
    """A field of an override as it comes back from a file: see :class:`LayerConfig`."""
    if isinstance(value, list | tuple):
        return tuple(_plain_override(item) for item in value)
    if isinstance(value, Mapping):
        return FrozenDict({name: _plain_override(item) for name, item in value.items()})
    return None if value == UNSET else value


def _written_override(value: object) -> object:
    """The inverse."""
    if isinstance(value, Mapping):
        return {name: _written_override(item) for name, item in value.items()}
    return UNSET if value is None else list(value) if isinstance(value, tuple) else value


class LayerConfig(Section):
    """Overrides for one layer, by section; fields left out keep the network's value.

    None puts a field back to what it follows from (``amplifier={"gain": None}`` chooses this
    layer's gain although the network has a fixed one). Files write it as the word ``"none"``,
    because TOML has no null. Device effects add to the network's, those of the same label parameter
    by parameter; None takes one out.
    """

    device: dict[str, Any] = Field(default_factory=dict, description="Fields of Memristor.")
    crossbar: dict[str, Any] = Field(default_factory=dict, description="Fields of Crossbar.")
    amplifier: dict[str, Any] = Field(default_factory=dict, description="Fields of Amplifier.")
    neuron: dict[str, Any] = Field(default_factory=dict, description="Fields of Neuron.")
    mapping: dict[str, Any] = Field(default_factory=dict, description="Fields of mapping.")
    driver: dict[str, Any] = Field(default_factory=dict, description="Fields of Driver.")
    converter: dict[str, Any] = Field(default_factory=dict, description="Fields of Converter.")

    @field_validator("*", mode="after")
    @classmethod
    def _plain(cls, values: dict[str, Any]) -> dict[str, Any]:
        return FrozenDict({name: _plain_override(value) for name, value in values.items()})

    @field_serializer("*")
    def _without_null(self, values: dict[str, Any]) -> dict[str, Any]:
        return {name: _written_override(value) for name, value in values.items()}


class Config(Section):
    """Everything that determines the circuit; immutable."""

    supplies: Supplies = Field(default_factory=Supplies)
    device: Memristor = Field(default_factory=Memristor)
    interconnect: Interconnect = Field(default_factory=Interconnect)
    crossbar: Crossbar = Field(default_factory=Crossbar)
    amplifier: Amplifier = Field(default_factory=Amplifier)
    neuron: Neuron = Field(default_factory=Neuron)
    timing: Timing = Field(default_factory=Timing)
    mapping: WeightMapping = Field(default_factory=WeightMapping)
    noise: Noise = Field(default_factory=Noise)
    driver: Driver = Field(default_factory=Driver)
    converter: Converter = Field(default_factory=Converter)
    temperature: Annotated[float, TEMPERATURE] = Field(
        298.15, gt=0, description="K. Of the transistors, and of all that is noisy."
    )
    layers: dict[str, LayerConfig] = Field(
        default_factory=dict, description="Overrides by the layer's module path in the model."
    )

    @field_validator("layers", mode="after")
    @classmethod
    def _frozen_layers(cls, values: dict[str, LayerConfig]) -> dict[str, LayerConfig]:
        return FrozenDict(values)

    @model_validator(mode="after")
    def _overrides_are_valid(self) -> Self:
        for name in self.layers:
            try:
                self._override(name)
            except ConfigError as error:
                raise ValueError(f"layers.{name}: {error}") from None
        return self

    @model_validator(mode="after")
    def _amplifiers_within_supplies(self) -> Self:
        """An amplifier with supplies cannot put out more than these."""
        for name in ("", *self.layers):
            amplifier = self.amplifier
            if name:
                amplifier = amplifier.overridden(self.layers[name].amplifier)
            if amplifier.quiescent_current is None:
                continue
            low, high = self.supplies.vss, self.supplies.vdd
            place = f"layers.{name}: " if name else ""
            if amplifier.swing is None or amplifier.swing[0] < low or amplifier.swing[1] > high:
                raise ValueError(
                    f"{place}amplifier.quiescent_current = {amplifier.quiescent_current} A is of "
                    f"amplifiers between supplies.vss = {low} V and supplies.vdd = {high} V, "
                    "beyond which they cannot put out anything: set amplifier.swing within them, "
                    f"it is {amplifier.swing}"
                )
        return self

    def questions(self, name: str) -> list[str]:
        """See :class:`Section`; those of overrides too."""
        if name != "layers":
            return super().questions(name)
        return [
            f"layers.{layer}: {question}"
            for layer, override in self.layers.items()
            for key, section in self._override(layer).items()
            for field in getattr(override, key)
            for question in section.questions(field)
        ]

    def _override(self, name: str) -> dict[str, Section]:
        override = self.layers.get(name, LayerConfig())
        return {
            section: getattr(self, section).overridden(getattr(override, section))
            for section in type(override).model_fields
        }

    def for_layer(self, index: int, name: str, count: int) -> Config:
        """The configuration of one layer: overrides applied, per-layer tuples resolved.

        Args:
            index: Position of the layer, from 0.
            name: The layer's module path in the model.
            count: Number of analog layers.

        Raises:
            ConfigError: A per-layer tuple does not have ``count`` entries.
        """
        sections = self._override(name)
        for section, field in (
            ("crossbar", "horizontal"),
            ("crossbar", "vertical"),
            ("amplifier", "gain"),
        ):
            value = getattr(sections[section], field)
            if isinstance(value, tuple):
                if len(value) != count:
                    raise ConfigError(
                        f"{section}.{field} = {value} has {len(value)} entries for {count} analog "
                        "layers; give one number, or one per layer"
                    )
                sections[section] = sections[section].replace(**{field: value[index]})
        return self.replaced({**sections, "layers": {}})

    @classmethod
    def imac_sim(cls, **sections: Section) -> Config:
        """IMAC-Sim's circuit as published runs use it: PCM, 9 nm wires, 32×32, gains 30, 30, 10.

        Args:
            sections: Sections that replace the preset's.
        """
        return cls(**{"amplifier": Amplifier(gain=(30.0, 30.0, 10.0)), **sections})

    def to_dict(self, *, said: bool = False) -> dict[str, Any]:
        """The configuration as plain values, version included.

        Args:
            said: Leave out fields that nobody has set, whose defaults hold.
        """
        values = self.model_dump(mode="json", exclude_none=True, exclude_unset=said)
        return {"schema": SCHEMA, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: The version is missing or newer, or a field is not valid.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a configuration is a table, got {values!r}")
        content = dict(values)
        schema = content.pop("schema", None)
        if type(schema) is not int or schema != SCHEMA:  # true == 1 in Python
            raise ConfigError(
                f"configuration has schema = {schema!r}, this version reads schema = {SCHEMA}; "
                "add the line, or update imac_torch"
            )
        return cls(**content)

    def to_json(self) -> str:
        """The configuration as JSON text; numbers read back exactly."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_toml(self) -> str:
        """The configuration as TOML text, between two comments that tell a file cut short."""
        return f"{_FIRST_LINE}\n{tomli_w.dumps(self.to_dict())}\n{_LAST_LINE}\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Read :meth:`to_json`'s text.

        Raises:
            ConfigError: The text is not JSON or not a configuration.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ConfigError(f"configuration is not valid JSON: {error}") from None
        return cls.from_dict(values)

    def save(self, path: str | Path) -> None:
        """Write a ``.toml`` or ``.json`` file; an existing file is not overwritten.

        Raises:
            ConfigError: The suffix is neither, the file exists, or it cannot be written.
        """
        path = Path(path)
        if path.suffix not in {".toml", ".json"}:
            raise ConfigError(f"{path}: a configuration is a .toml or .json file")
        if not path.parent.is_dir():  # a mistyped one would be made
            raise ConfigError(
                f"cannot write the configuration {path}: there is no directory {path.parent}"
            )
        text = self.to_json() if path.suffix == ".json" else self.to_toml()
        try:
            # New: whatever has been written meanwhile is not lost either.
            write_text(path, text, new=True)
        except FileExistsError:
            raise ConfigError(f"{path} exists; choose another name or remove it first") from None
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"cannot write the configuration {path}: {reason}") from None

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read a ``.toml`` or ``.json`` file.

        Raises:
            ConfigError: The file cannot be read or is not a configuration.
        """
        path = Path(path)
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
            if isinstance(error, UnicodeDecodeError):
                raise ConfigError(f"{path} is not a text file in UTF-8") from None
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot read the configuration {path}: {reason}") from None
        try:
            if not text.strip():
                raise ConfigError("the file is empty; was it cut short?")
            if path.suffix == ".json":
                return cls.from_json(text)
            if text.startswith(_FIRST_LINE) and _LAST_LINE not in text.splitlines():
                raise ConfigError(
                    f"the file was cut short: its line {_LAST_LINE!r} is missing; write it again, "
                    "or remove the first line if the rest is what you want"
                )
            return cls.from_dict(parse_toml(text))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        except ValueError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
