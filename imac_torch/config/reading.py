"""Which fields the present configuration reads: a table of conditions, and what it finds.

A field that stands in no row of :data:`CONDITIONS` is read in every configuration. The others are
read in layers where their condition holds. "Read" means that something the package computes
depends on it: operating points, transients, netlists, area.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imac_torch.config.borders import Converter, Driver
from imac_torch.config.config import Config, LayerConfig
from imac_torch.config.kinds import CONVERTER_KINDS, DRIVER_KINDS, NEURON_KINDS, READ_OUT_KINDS

__all__ = [
    "CONDITIONS",
    "NETLISTS_ONLY",
    "TRANSIENT_ONLY",
    "Condition",
    "Place",
    "Unread",
    "unread_settings",
]

PARAMETERS: Final = frozenset({"slope", "output_resistance", "fins"})
"""Of neurons: fields that a sub-circuit of the user's may declare as parameters."""


@dataclass(frozen=True)
class Place:
    """A layer as far as conditions ask about it.

    Attributes:
        name: Its path.
        config: Its own configuration (:meth:`Config.for_layer`).
        reads: Fields of the section ``neuron`` that its kind of neurons reads.
        ideal: Whether its neurons are shapes only, which draw nothing at their inputs.
        active: Whether the configuration is about them; else they are a read-out on its own.
        inputs: Without the bias.
        first: Whether it is the first layer of a circuit.
        last: Whether it is the last one.
        scaled: Whether supplies.input_scale is the scale of its inputs.
    """

    name: str
    config: Config
    reads: frozenset[str]
    ideal: bool
    active: bool
    inputs: int
    first: bool = False
    last: bool = False
    scaled: bool = False

    @property
    def parts(self) -> int:
        """Horizontal partitions."""
        size = self.config.crossbar
        if isinstance(size.horizontal, int):
            return size.horizontal
        return -(-(self.inputs + 1) // size.columns)

    @property
    def subcircuit(self) -> bool:
        """Whether netlists have a sub-circuit of the user's, which may declare any parameter."""
        return self.config.neuron.subcircuit is not None and self.active

    @property
    def adds(self) -> bool:
        """Whether results of passes, partitions or slices are added in software."""
        driver, parts = self.config.driver, self.parts * self.config.mapping.slices
        several = driver.kind != "ideal" and driver.sign == "two_pass"
        several = several or driver.kind == "bit_serial"
        return several or (self.config.converter.after == "partition" and parts > 1)

    @property
    def counted(self) -> bool:
        """Whether amplifiers have supplies."""
        return self.config.amplifier.quiescent_current is not None

    @property
    def draws(self) -> bool:
        """Whether a neuron draws current from the amplifiers, if only to charge a capacitance."""
        ideal = self.ideal and not self.subcircuit
        return not ideal or self.config.neuron.input_capacitance > 0.0


@dataclass(frozen=True)
class Condition:
    """When a field is read.

    Attributes:
        holds: Whether a layer reads it.
        needs: The same in words, for who set it in vain.
    """

    holds: Callable[[Place], bool]
    needs: str


def _neuron(field: str) -> Condition:
    """Some kinds of neuron read it."""
    return Condition(
        lambda place: field in place.reads or (place.subcircuit and field in PARAMETERS),
        f"neurons of a kind that reads it: {{{field}}}",
    )


def _amplifier(field: str) -> Condition:
    """Some read-outs read it."""
    return Condition(
        lambda place: field in READ_OUT_KINDS.get(place.config.amplifier.kind).reads,
        f"an amplifier.kind that reads it: {{amplifier_{field}}}",
    )


def _driver(field: str) -> Condition:
    """Some kinds of driver read it."""

    def holds(place: Place) -> bool:
        kind = DRIVER_KINDS.get(place.config.driver.kind)
        return place.first and kind is not None and field in kind.reads

    return Condition(holds, f"driver.kind = {{driver_{field}}} in the first layer of a circuit")


def _converter(
    field: str, more: Callable[[Place], bool] = lambda place: True, words: str = ""
) -> Condition:
    """Some kinds of converter read it, maybe only where more holds."""

    def holds(place: Place) -> bool:
        kind = CONVERTER_KINDS.get(place.config.converter.kind)
        return place.last and kind is not None and field in kind.reads and more(place)

    needs = f"converter.kind = {{converter_{field}}} in the last layer of a circuit{words}"
    return Condition(holds, needs)


def _by_samples(place: Place) -> bool:
    return place.config.converter.limits is None


_NO_ENDS: Final = ", and no converter.limits"
_SHARED: Final = (lambda place: place.config.converter.shared_by > 1, " and shared_by > 1")
_ADDED: Final = (
    lambda place: place.adds,
    " and something to add: a driver with several passes, or converter.after = 'partition' in a "
    "layer of several partitions",
)
_CAPACITANCE: Final = Condition(
    lambda place: place.config.interconnect.capacitance, "interconnect.capacitance = true"
)
_OF_CAPACITANCE: Final = (
    "interconnect.height", "interconnect.spacing", "interconnect.permittivity",
    "interconnect.imac_sim_capacitance",
)  # fmt: skip
_WIRES: Final = Condition(
    lambda place: place.config.interconnect.capacitance or place.config.interconnect.resistance,
    "interconnect.resistance or interconnect.capacitance = true",
)
_TEMPERATURE: Final = Condition(
    lambda place: not place.ideal or place.subcircuit, "neurons that are no ideal shapes, or noise"
)
_NOISY: Final = Condition(lambda place: place.config.noise.circuit, "noise.circuit")
_ACTIVE: Final = Condition(lambda place: place.active, "a layer with an activation")

CONDITIONS: Final[Mapping[str, Condition]] = {
    "supplies.input_scale": Condition(
        lambda place: place.scaled, "a first layer that is no IMACLinear with its own scaling"
    ),
    "device.states": Condition(
        lambda place: place.config.mapping.scheme == "matched", "mapping.scheme = 'matched'"
    ),
    "interconnect.metal": _WIRES,
    "interconnect.thickness": _WIRES,
    **dict.fromkeys(_OF_CAPACITANCE, _CAPACITANCE),
    "interconnect.resistivity": Condition(
        lambda place: place.config.interconnect.resistance, "interconnect.resistance = true"
    ),
    "amplifier.open_loop_gain": _amplifier("open_loop_gain"),
    "amplifier.open_loop_resistance": _amplifier("open_loop_resistance"),
    "amplifier.output_resistance": Condition(
        lambda place: place.config.amplifier.combine == "average"
        and (place.draws or (place.counted and place.parts > 1)),
        "amplifier.combine = 'average' and neurons that draw current at their inputs (kind "
        "'finfet' or 'table', or neuron.input_capacitance); but for noise, and for the power of "
        "partitions with amplifier.quiescent_current",
    ),
    "amplifier.combine": Condition(
        lambda place: place.parts > 1 or place.draws, "layers of more than one partition"
    ),
    "neuron.kind": _ACTIVE,
    **{f"neuron.{name}": _neuron(name) for name in (
        "rlow", "rhigh", "level_shift", "fins", "flavour", "model_directory", "slope",
        "quiescent_current", "table",
    )},
    "noise.neuron_voltage": Condition(
        lambda place: place.config.noise.circuit and "model_directory" not in place.reads,
        "neurons that have no transistors of their own, and noise.circuit",
    ),
    **{f"noise.{name}": _NOISY for name in (
        "bandwidth", "lowest", "neurons", "amplifier_voltage", "amplifier_current",
    )},
    "noise.flicker": Condition(
        lambda place: place.config.noise.circuit
        and (place.config.noise.neurons or not {"finfet", "read_transistor"}.isdisjoint(
            place.config.device.access or ())),
        "noise.circuit and noise.neurons, or transistors in cells",
    ),
    "neuron.output_resistance": Condition(
        lambda place: place.subcircuit
        or (
            "output_resistance" in place.reads
            and (
                not place.last
                or place.config.neuron.output_capacitance > 0.0
                or place.config.timing.load_capacitance > 0.0
            )
        ),
        "behavioural neurons that drive something: another layer, neuron.output_capacitance or "
        "timing.load_capacitance; but for noise",
    ),
    "neuron.input_capacitance": Condition(
        lambda place: not place.ideal
        or place.subcircuit
        or place.config.amplifier.combine == "average",
        "amplifier.combine = 'average', or neurons that are not behavioural: an ideal sum charges "
        "any capacitance at once",
    ),
    "neuron.osdi": Condition(
        lambda place: "osdi" in place.reads and not place.subcircuit,
        "neurons of a kind that reads it, without neuron.subcircuit: {osdi}",
    ),
    "neuron.subcircuit": _ACTIVE,
    "mapping.scale": Condition(
        lambda place: place.config.mapping.levels != "continuous",
        "mapping.levels that are not continuous",
    ),
    "mapping.slice_base": Condition(
        lambda place: place.config.mapping.slices > 1, "mapping.slices > 1"
    ),
    "device.access_capacitance": Condition(
        lambda place: bool(place.config.device.access), "device.access"
    ),
    "driver.kind": Condition(lambda place: place.first, "the first layer of a circuit"),
    **{f"driver.{name}": _driver(name) for name in Driver.model_fields if name != "kind"},
    "converter.kind": Condition(lambda place: place.last, "the last layer of a circuit"),
    **{
        f"converter.{name}": _converter(name) for name in Converter.model_fields
        if name not in ("kind", "after")
    },
    "converter.range": _converter("range", _by_samples, _NO_ENDS),
    "converter.coverage": _converter(
        "coverage",
        lambda place: _by_samples(place) and place.config.converter.range == "percentile",
        f", with converter.range = 'percentile'{_NO_ENDS}",
    ),
    "converter.hold_energy": _converter("hold_energy", *_SHARED),
    "converter.hold_area": _converter("hold_area", *_SHARED),
    "converter.add_energy": _converter("add_energy", *_ADDED),
    "converter.add_area": _converter("add_area", *_ADDED),
}  # fmt: skip
"""By field: when it is read."""


TRANSIENT_ONLY: Final = frozenset({
    *_OF_CAPACITANCE, "interconnect.capacitance", "amplifier.pole", "amplifier.second_pole",
    "amplifier.slew_rate", "neuron.input_capacitance", "neuron.output_capacitance",
    "timing.transition", "timing.load_capacitance", "device.capacitance",
    "device.access_capacitance",
})  # fmt: skip
"""Fields that operating points, their power and area do not depend on."""
_NOT_OF_NOISE: Final = frozenset({"amplifier.slew_rate", "timing.transition"})
"""Those of them that noise, small and of standing inputs, does not depend on either."""
NETLISTS_ONLY: Final = frozenset({"neuron.osdi", "neuron.subcircuit"})
"""Fields that the native engine does not know."""


@dataclass(frozen=True)
class Unread:
    """A setting that nothing reads.

    Attributes:
        path: The field, ``layers."name".section.field`` for an override.
        value: What it was set to.
        needs: What would make it count.
    """

    path: str
    value: Any
    needs: str

    def __str__(self) -> str:
        """As warnings name it."""
        return f"{self.path} = {self.value} (it needs {self.needs})"


def unread_settings(
    config: Config,
    places: Sequence[Place],
    *,
    transients: bool = True,
    netlists: bool = True,
    noise: bool = True,
) -> list[Unread]:
    """Settings that differ from their defaults although no layer reads them.

    Args:
        config: Of the network.
        places: Its layers, in order.
        transients: Whether anything is integrated in time.
        netlists: Whether a simulator is asked.
        noise: Whether noise is looked at.

    Returns:
        One by one, the network's own before those of single layers.
    """
    found = []
    for path, value, default in _settings(config):
        if value == default:
            continue
        follow = [place for place in places if not _overridden(config, place.name, path)]
        condition = _condition(path, transients, netlists, noise)
        if not follow:
            found.append(Unread(path, value, "a layer that config.layers does not override"))
        elif condition is not None and not any(map(condition.holds, follow)):
            found.append(Unread(path, value, _needs(condition)))
    for place in places:
        override = config.layers.get(place.name, LayerConfig())
        for section in LayerConfig.model_fields:
            for name, value in getattr(override, section).items():
                path = f"{section}.{name}"
                condition = _condition(path, transients, netlists, noise)
                same = value == getattr(getattr(config, section), name)
                if condition is not None and not same and not condition.holds(place):
                    full = f'layers."{place.name}".{path}'
                    found.append(Unread(full, value, _needs(condition)))
    return found


def _needs(condition: Condition) -> str:
    """With the kinds of neuron, read-out, driver or converter that read a field."""
    names: dict[str, list[str]] = {}
    for prefix, registry in (
        ("", NEURON_KINDS), ("amplifier_", READ_OUT_KINDS), ("driver_", DRIVER_KINDS),
        ("converter_", CONVERTER_KINDS),
    ):  # fmt: skip
        for name, kind in zip(registry.names, registry, strict=True):
            for field in () if kind is None else kind.reads:
                names.setdefault(prefix + field, []).append(name)
    return condition.needs.format(**{field: ", ".join(kinds) for field, kinds in names.items()})


def _condition(path: str, transients: bool, netlists: bool, noise: bool) -> Condition | None:
    if path in TRANSIENT_ONLY and not transients and (not noise or path in _NOT_OF_NOISE):
        return Condition(lambda place: False, "transients, which are not asked for (timing)")
    if path.startswith("noise.") and not noise:
        return Condition(lambda place: False, "noise, which is not asked for (noise)")
    if path == "temperature" and not noise:
        return _TEMPERATURE
    if path in NETLISTS_ONLY and not netlists:
        return Condition(lambda place: False, "a simulator: the native engine does not know it")
    return CONDITIONS.get(path)


def _settings(config: Config) -> list[tuple[str, Any, Any]]:
    """Path, value and default of every field but those of single layers."""
    rows, default = [], Config()
    for section in Config.model_fields:
        value, usual = getattr(config, section), getattr(default, section)
        if section == "layers":
            continue
        if not hasattr(usual, "replace"):
            rows.append((section, value, usual))
            continue
        rows += [
            (f"{section}.{name}", getattr(value, name), getattr(usual, name))
            for name in type(usual).model_fields
        ]
    return rows


def _overridden(config: Config, name: str, path: str) -> bool:
    section, _, field = path.partition(".")
    if field == "effects":
        return False  # an override adds to them
    override = config.layers.get(name)
    return override is not None and field in getattr(override, section, {})
