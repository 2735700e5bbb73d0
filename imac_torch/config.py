"""The complete, frozen, typed and validated description of a circuit and its surroundings.

All values are SI. Lengths that scale with the technology are given in metres or left ``None``,
in which case they follow from ``tech_node`` (λ) as documented per field. The correspondence to
the inputs of IMAC-Sim is in each field's text (``IMAC-Sim: name``).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeVar

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from imac_torch.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its name on Python 3.10
    import tomli as tomllib

SCHEMA: Final = 1
"""Version of the file format; files carry it and older readers refuse newer ones."""

BIT_CELL_LENGTHS: Final[Mapping[str, float]] = {"1T1R": 15.0, "2T1R": 23.0, "1TG1R": 48.0}
"""Length of a bit cell along the I± lines, in λ (one transistor, two, a transmission gate)."""

BIT_CELL_WIDTH: Final = 12.0
"""Width of a bit cell along the input line, in λ."""

DEVICES: Final[Mapping[str, tuple[float, float]]] = {
    "MRAM": (8.5e3, 25.5e3),
    "RRAM": (2.5e3, 100e3),
    "CBRAM": (10e3, 1e6),
    "PCM": (78e3, 202e3),
}
"""Low and high resistance (Ω) of the four devices that the IMAC papers compare."""

LARGEST_WEIGHT_BITS: Final = 20
"""Of sliced weights; all values of a weight are listed where weights are rounded."""

UNSET: Final = "none"
"""How files write an override that puts a field back to None."""

NODES: Final[tuple[float, ...]] = (7e-9, 9e-9, 10e-9, 14e-9, 16e-9, 20e-9, 22e-9, 32e-9, 45e-9)
"""Technology nodes (λ, m) with a preset; any other positive value is accepted too."""


class _Section(BaseModel):
    """A frozen section of the configuration that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)

    # Positional-only, so that a file with a field called "self" gets the error of any unknown one.
    def __init__(self, /, **values: Any) -> None:  # noqa: ANN401 - pydantic's own signature
        """Validate the fields.

        Raises:
            ConfigError: A field is unknown, missing, of the wrong type or out of range.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _config_error(type(self).__name__, error) from None

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: object, info: ValidationInfo) -> object:
        """True is 1 to Python, but no resistance and no number of rows."""
        fields = cls.model_fields
        if isinstance(value, bool) and fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"{value} is not a value for this field")
        return value

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401 - one type per field
        """A copy with some fields changed, validated again.

        Raises:
            ConfigError: A field is unknown or a value is not allowed.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**values, **changes})


def _config_error(section: str, error: ValidationError) -> ConfigError:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        place = f"{path}: " if path else ""
        reason = item.get("ctx", {}).get("error")
        if isinstance(reason, ValueError):  # a check of ours, which says what it got
            lines.append(f"{place}{reason}")
        else:
            lines.append(f"{place}{item['msg']} (got {item['input']!r})")
    return ConfigError(f"invalid {section}: " + "; ".join(lines))


class Supplies(_Section):
    """Supply voltages and the coding of inputs between them."""

    vdd: float = Field(
        0.8, gt=0, description="V. Supply of neurons and bias lines. IMAC-Sim: vdd."
    )
    vss: float = Field(
        -0.8,
        le=0,
        description="V. Input voltage of a software input of -1. An input of +1 is vdd, 0 is 0 V; "
        "linear between them, so that the circuit computes what software meant for negative "
        "inputs only if vss = -vdd. IMAC-Sim declares vss and ignores it. IMAC-Sim: vss.",
    )
    encoding: Literal["linear", "sign"] = Field(
        "linear",
        description="How software inputs become voltages: linear between vss, 0 V and vdd, or by "
        "sign only (what IMAC-Sim does silently).",
    )
    input_scale: float = Field(
        1.0, gt=0, description="Software input that is coded as vdd (full scale)."
    )


class Memristor(_Section):
    """The two end states of the memory device and its spread."""

    rlow: float = Field(78e3, gt=0, description="Ω. Low-resistance state. IMAC-Sim: rlow.")
    rhigh: float = Field(202e3, gt=0, description="Ω. High-resistance state. IMAC-Sim: rhigh.")
    variation: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Uniform relative spread of each resistance: R·(1 ± variation), drawn once "
        "from the generator given to convert. IMAC-Sim: weight_var, a percentage.",
    )
    states: int | None = Field(
        None,
        ge=2,
        description="Conductances a device can be programmed to, equally spaced from 1/rhigh to "
        "1/rlow; None: any. Read by the mapping scheme 'matched'; the others use the conductances "
        "of their weight levels.",
    )
    bend: float | None = Field(
        None,
        gt=0,
        description="V. v0 of cells with a curved characteristic i = v0/R·sinh(v/v0), rlow and "
        "rhigh being those at small voltages; None: ohmic. Native operating points know it, though "
        "not their gradients, and so do netlists; native transients do not.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.rlow >= self.rhigh:
            raise ValueError(f"rlow = {self.rlow} Ω must be below rhigh = {self.rhigh} Ω")
        return self

    @classmethod
    def preset(cls, name: str) -> Memristor:
        """The device ``name`` of :data:`DEVICES`.

        Raises:
            ConfigError: There is no such preset.
        """
        if name not in DEVICES:
            raise ConfigError(f"no device preset {name!r}; there are {', '.join(DEVICES)}")
        rlow, rhigh = DEVICES[name]
        return cls(rlow=rlow, rhigh=rhigh)


class Interconnect(_Section):
    """Geometry and material of the wires; resistances and capacitances follow (``wires.py``)."""

    tech_node: float = Field(9e-9, gt=0, description="m. λ of the layout. IMAC-Sim: tech_node.")
    metal: float | None = Field(
        None, gt=0, description="m. Width of a wire; None: 3 λ. IMAC-Sim: metal."
    )
    thickness: float = Field(22e-9, gt=0, description="m. Metal thickness. IMAC-Sim: T.")
    height: float = Field(
        20e-9, gt=0, description="m. Dielectric between the metal and the plane below. IMAC-Sim: H."
    )
    length: float | None = Field(
        None,
        gt=0,
        description="m. Bit-cell length, the segment of an I± line; None: 15 λ (1T1R). "
        "IMAC-Sim: L.",
    )
    width: float | None = Field(
        None,
        gt=0,
        description="m. Bit-cell width, the segment of an input line; None: 12 λ. IMAC-Sim: W.",
    )
    spacing: float | None = Field(
        None, gt=0, description="m. Distance of the I+ and I- lines; None: 5 λ. IMAC-Sim: D."
    )
    resistivity: float = Field(
        1.9e-8, gt=0, description="Ω·m. Bulk resistivity of the metal. IMAC-Sim: rho."
    )
    permittivity: float = Field(
        20 * 8.854e-12, gt=0, description="F/m. Permittivity of the dielectric. IMAC-Sim: eps."
    )
    resistance: bool = Field(True, description="Whether wires have resistance.")
    capacitance: bool = Field(
        False, description="Whether wires have capacitance (seen by transients only)."
    )
    imac_sim_capacitance: bool = Field(
        False,
        description="Take the bit-cell width instead of its length for the capacitance of I± "
        "lines, as IMAC-Sim's (commented) code does.",
    )

    @property
    def metal_width(self) -> float:
        """Wire width, m."""
        return 3.0 * self.tech_node if self.metal is None else self.metal

    @property
    def cell_length(self) -> float:
        """Segment of an I± line, m."""
        if self.length is not None:
            return self.length
        return BIT_CELL_LENGTHS["1T1R"] * self.tech_node

    @property
    def cell_width(self) -> float:
        """Segment of an input line, m."""
        return BIT_CELL_WIDTH * self.tech_node if self.width is None else self.width

    @property
    def line_spacing(self) -> float:
        """Distance of the I+ line from its I- line, m."""
        return 5.0 * self.tech_node if self.spacing is None else self.spacing

    @classmethod
    def preset(cls, tech_node: float, bit_cell: str = "1T1R") -> Interconnect:
        """The wires of a technology node with a bit cell of :data:`BIT_CELL_LENGTHS`.

        Raises:
            ConfigError: There is no such node or bit cell.
        """
        if not any(abs(tech_node - node) < 1e-12 for node in NODES):
            known = ", ".join(f"{node * 1e9:g}" for node in NODES)
            raise ConfigError(f"no preset for tech_node = {tech_node} m; there are {known} nm")
        if bit_cell not in BIT_CELL_LENGTHS:
            known = ", ".join(BIT_CELL_LENGTHS)
            raise ConfigError(f"no bit cell {bit_cell!r}; there are {known}")
        return cls(tech_node=tech_node, length=BIT_CELL_LENGTHS[bit_cell] * tech_node)


class Crossbar(_Section):
    """Size of one physical array and the partitioning of layers onto arrays."""

    rows: int = Field(
        32, ge=1, description="Outputs (rows) of one array, from which vertical cuts follow."
    )
    columns: int = Field(
        32,
        ge=1,
        description="Inputs (columns, the bias included) of one array, from which horizontal "
        "cuts follow.",
    )
    horizontal: int | tuple[int, ...] | None = Field(
        None,
        description="Parts into which the I± lines are cut, one number or one per layer; None: "
        "ceil((N+1)/columns). IMAC-Sim: hpar.",
    )
    vertical: int | tuple[int, ...] | None = Field(
        None,
        description="Parts into which the input lines are cut, one number or one per layer; "
        "None: ceil(M/rows). IMAC-Sim: vpar.",
    )

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for name in ("horizontal", "vertical"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            if any(number < 1 for number in numbers):
                raise ValueError(f"{name} = {value}: every number of partitions must be >= 1")
        return self


class Amplifier(_Section):
    """The differential amplifier at the end of every row of every partition."""

    gain: float | tuple[float, ...] | None = Field(
        None,
        description="R3/R1 = R4/R2, one number or one per layer; None: chosen per layer so that "
        "the analog layer computes what the software layer meant. IMAC-Sim: gain.",
    )
    input_resistance: float = Field(1e3, gt=0, description="Ω. R1 and R2.")
    output_resistance: float = Field(
        1e-3,
        ge=0,
        description="Ω. From each amplifier to the neuron input, where the partitions meet. "
        "IMAC-Sim's 1 mΩ averages ideal sources; a physical amplifier has more. With slices it is "
        "that of the most significant one; each further one has mapping.slice_base times more.",
    )
    pole: float | None = Field(
        None,
        gt=0,
        description="Hz. Single pole of the closed loop (seen by transients only): the amplifier's "
        "ideal output passes a buffered RC low-pass with 2π·R·C = 1/pole, then output_resistance "
        "(or the ideal sum). The lines are loaded as without it. None: infinitely fast.",
    )
    combine: Literal["average", "sum"] = Field(
        "average",
        description="How partitions meet: tied together through output_resistance (the mean), or "
        "an ideal sum.",
    )

    @model_validator(mode="after")
    def _valid(self) -> Self:
        gains = self.gain if isinstance(self.gain, tuple) else (self.gain,)
        if any(gain is not None and gain <= 0 for gain in gains):
            raise ValueError(f"gain = {self.gain}: every gain must be positive")
        if self.combine == "average" and self.output_resistance == 0:
            raise ValueError("averaging needs output_resistance > 0: ideal sources cannot be tied")
        return self


NeuronKind = Literal["finfet", "logistic", "tanh", "relu", "identity", "table"]
"""Activation circuits: the FinFET inverter, behavioural shapes, a characterised sub-circuit."""


class Neuron(_Section):
    """The activation circuit between an amplifier and the next layer."""

    kind: NeuronKind | None = Field(
        None,
        description="Circuit used for every layer; None: chosen from the software activation "
        "(Sigmoid: finfet; Tanh: tanh; ReLU: relu; none: identity).",
    )
    rlow: float | None = Field(
        None, gt=0, description="Ω. Input resistor of the inverter; None: the device's rlow."
    )
    rhigh: float | None = Field(
        None, gt=0, description="Ω. Feedback resistor of the inverter; None: the device's rhigh."
    )
    level_shift: float = Field(
        0.4, description="V. Added between the amplifier and the inverter's input resistor."
    )
    fins: int = Field(10, ge=1, description="Fins of both transistors of the inverter.")
    transistor_node: int = Field(
        14, description="nm. PTM-MG node of the transistors (7, 10, 14, 16, 20). IMAC-Sim: the "
        "hard-coded library."
    )
    flavour: Literal["hp", "lstp"] = Field("hp", description="PTM-MG flavour.")
    model_directory: str | None = Field(
        None,
        description="Directory of PTM-MG model cards; None: the built-in 14 nm HP set. "
        "IMAC-Sim: spice_dir.",
    )
    slope: float = Field(
        11.0, gt=0, description="1/V. Slope of the behavioural logistic and tanh neurons."
    )
    output_resistance: float = Field(
        1e3, gt=0, description="Ω. Output resistance of the behavioural neurons."
    )
    input_capacitance: float = Field(
        0.0,
        ge=0,
        description="F. Linear, to ground (seen by transients only): at the inverter's gate, "
        "behind its input resistor and level shift, besides the transistors' own charges; at the "
        "input z of a behavioural neuron, which has no charge of its own. A sub-circuit of the "
        "user's gets it as its parameter cin, if it declares one.",
    )
    output_capacitance: float = Field(
        0.0,
        ge=0,
        description="F. Linear, from every neuron's output to ground (seen by transients only), "
        "besides the transistors' own charges. A sub-circuit of the user's gets it as its "
        "parameter cout, if it declares one.",
    )
    table: str | None = Field(
        None, description="File with a characterised neuron (kind='table'), safetensors."
    )
    osdi: str | None = Field(
        None,
        description="Compiled BSIM-CMG 107 (.osdi) with which ngspice simulates FinFET neurons "
        "itself; None: a table of them. Needs an ngspice with OSDI (44 or later); untested there.",
    )
    subcircuit: str | None = Field(
        None,
        description="User's SPICE file that replaces the neuron sub-circuit in netlists; same "
        "ports (z out vdd).",
    )


class Timing(_Section):
    """The sequence of inputs, and what the outputs have to drive meanwhile."""

    period: float = Field(
        4e-9, gt=0, description="s. Time per input vector. IMAC-Sim: tsampling."
    )
    transition: float = Field(1e-10, gt=0, description="s. Ramp from one input to the next.")
    load_capacitance: float = Field(
        0.0,
        ge=0,
        description="F. From every output of the last layer to ground: what reads the result "
        "(seen by transients only).",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.transition >= self.period:
            raise ValueError(
                f"transition = {self.transition} s must be shorter than period = {self.period} s"
            )
        return self


class WeightMapping(_Section):
    """From software weights to conductance pairs."""

    levels: Literal["binary", "ternary", "continuous"] | int | tuple[float, ...] = Field(
        "ternary",
        description="Values a weight can take: binary {-1, 1}, ternary {-1, 0, 1}, a number of "
        "equally spaced levels in [-1, 1] (0 is one of them if it is odd), a list of levels in "
        "[-1, 1] in ascending order, or continuous.",
    )
    scheme: Literal["unilateral", "balanced", "matched"] = Field(
        "unilateral",
        description="unilateral: the weaker side of the pair leaves rlow (IMAC-Sim: 0 is "
        "(rlow, rlow)); balanced: both sides move around the middle; matched: conductances are "
        "solved for row by row so that the read-out, divider included, computes what the software "
        "layer meant, the neuron's threshold folded into the bias.",
    )
    scale: Literal["layer", "row"] = Field(
        "layer",
        description="One full scale for the weight levels of a layer, or one per row. Rows share "
        "an amplifier gain, so only the scheme 'matched' can have one per row.",
    )
    slices: int = Field(
        1,
        ge=1,
        description="Pairs of devices per weight (bit slicing); `levels` are then those of one "
        "pair. See mapping/slices.py for the circuit.",
    )
    slice_base: int | None = Field(
        None,
        ge=1,
        description="How much more a slice counts than the next; None: the number of levels of a "
        "pair, which has no redundancy, or device.states if the scheme 'matched' has fewer; 1 "
        "where pairs are continuous.",
    )

    @property
    def level_count(self) -> int | None:
        """Levels of one pair; None where they are continuous."""
        if self.levels == "continuous":
            return None
        if isinstance(self.levels, tuple):
            return len(self.levels)
        return {"binary": 2, "ternary": 3}.get(str(self.levels)) or int(self.levels)

    @model_validator(mode="after")
    def _slices_are_valid(self) -> Self:
        if self.slices == 1:
            return self
        if isinstance(self.levels, tuple):
            raise ValueError(
                f"levels = {self.levels}: slices need equally spaced levels; give their number"
            )
        count, base = self.level_count, self.slice_base
        if count is not None and base is not None and base > count:
            raise ValueError(
                f"slice_base = {base} leaves gaps between weights, because a pair has {count} "
                f"levels; use at most {count}"
            )
        if self.slices * math.log2(max(count or 1, base or 1)) > LARGEST_WEIGHT_BITS:
            raise ValueError(
                f"slices = {self.slices}: weights would have more than {LARGEST_WEIGHT_BITS} bits"
            )
        return self

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if isinstance(self.levels, int) and self.levels < 2:
            raise ValueError(f"levels = {self.levels}: at least 2 levels are needed")
        if isinstance(self.levels, tuple):
            ascending = all(a < b for a, b in zip(self.levels, self.levels[1:], strict=False))
            if len(self.levels) < 2 or not ascending or max(map(abs, self.levels)) > 1.0:
                raise ValueError(
                    f"levels = {self.levels}: a list needs at least 2 values in [-1, 1], ascending"
                )
        if self.scale == "row" and self.scheme != "matched":
            raise ValueError(
                f"scale = 'row' needs scheme = 'matched': with {self.scheme!r} all rows of a layer "
                "share the scale that their amplifiers' gain gives them"
            )
        return self


Key = TypeVar("Key")
Value = TypeVar("Value")


class _FrozenDict(dict[Key, Value]):
    """A dict inside a frozen section: as immutable as the section is."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a configuration does not change; make another one with replace(...)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[_FrozenDict[Key, Value]], tuple[dict[Key, Value]]]:
        return type(self), (dict(self),)


def _plain_override(value: object) -> object:
    """A field of an override as it comes back from a file: see :class:`LayerConfig`."""
    if isinstance(value, list | tuple):
        return tuple(_plain_override(item) for item in value)
    return None if value == UNSET else value


class LayerConfig(_Section):
    """Overrides for one layer, by section; fields left out keep the network's value.

    None puts a field back to what it follows from (``amplifier={"gain": None}`` chooses this
    layer's gain although the network has a fixed one). Files write it as the word ``"none"``,
    because TOML has no null.
    """

    device: dict[str, Any] = Field(default_factory=dict, description="Fields of Memristor.")
    crossbar: dict[str, Any] = Field(default_factory=dict, description="Fields of Crossbar.")
    amplifier: dict[str, Any] = Field(default_factory=dict, description="Fields of Amplifier.")
    neuron: dict[str, Any] = Field(default_factory=dict, description="Fields of Neuron.")
    mapping: dict[str, Any] = Field(default_factory=dict, description="Fields of mapping.")

    @field_validator("*", mode="after")
    @classmethod
    def _plain(cls, values: dict[str, Any]) -> dict[str, Any]:
        return _FrozenDict({name: _plain_override(value) for name, value in values.items()})

    @field_serializer("*")
    def _without_null(self, values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: UNSET if value is None else list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


class Config(_Section):
    """Everything that determines the circuit; immutable."""

    supplies: Supplies = Field(default_factory=Supplies)
    device: Memristor = Field(default_factory=Memristor)
    interconnect: Interconnect = Field(default_factory=Interconnect)
    crossbar: Crossbar = Field(default_factory=Crossbar)
    amplifier: Amplifier = Field(default_factory=Amplifier)
    neuron: Neuron = Field(default_factory=Neuron)
    timing: Timing = Field(default_factory=Timing)
    mapping: WeightMapping = Field(default_factory=WeightMapping)
    temperature: float = Field(298.15, gt=0, description="K. Temperature of the transistors.")
    layers: dict[str, LayerConfig] = Field(
        default_factory=dict, description="Overrides by the layer's module path in the model."
    )

    @field_validator("layers", mode="after")
    @classmethod
    def _frozen_layers(cls, values: dict[str, LayerConfig]) -> dict[str, LayerConfig]:
        return _FrozenDict(values)

    @model_validator(mode="after")
    def _overrides_are_valid(self) -> Self:
        for name in self.layers:
            try:
                self._override(name)
            except ConfigError as error:
                raise ValueError(f"layers.{name}: {error}") from None
        return self

    def _override(self, name: str) -> dict[str, _Section]:
        override = self.layers.get(name, LayerConfig())
        return {
            section: getattr(self, section).replace(**getattr(override, section))
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
        return self.replace(**sections, layers={})

    @classmethod
    def imac_sim(cls, **sections: _Section) -> Config:
        """IMAC-Sim's circuit as published runs use it: PCM, 9 nm wires, 32×32, gains 30, 30, 10.

        Args:
            sections: Sections that replace the preset's.
        """
        return cls(**{"amplifier": Amplifier(gain=(30.0, 30.0, 10.0)), **sections})

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, version included."""
        return {"schema": SCHEMA, **self.model_dump(mode="json", exclude_none=True)}

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

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Read :meth:`to_json`'s text.

        Raises:
            ConfigError: The text is not JSON or not a configuration.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
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
        text = self.to_json() if path.suffix == ".json" else tomli_w.dumps(self.to_dict())
        try:
            # Exclusive: whatever has been written meanwhile is not lost either.
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ConfigError(f"{path} exists; choose another name or remove it first") from None
        except OSError as error:
            raise ConfigError(f"cannot write the configuration {path}: {error.strerror}") from None

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read a ``.toml`` or ``.json`` file.

        Raises:
            ConfigError: The file cannot be read or is not a configuration.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is not a text file in UTF-8") from None
        try:
            if path.suffix == ".json":
                return cls.from_json(text)
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
