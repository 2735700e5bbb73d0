"""From a circuit and input voltages to the text of netlists; the base of every dialect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from imac_torch.base.units import ZERO_CELSIUS, spice_number
from imac_torch.circuit.topology import Circuit, LayerCircuit
from imac_torch.config.kinds import DIALECTS
from imac_torch.errors import NetlistError
from imac_torch.netlist.inverter import Inverter
from imac_torch.netlist.layer import AMPLIFIER_SUPPLIES, layer_text, supply_ports, wrap
from imac_torch.netlist.measures import AMPLIFIERS, SOURCES, crossings
from imac_torch.netlist.settings import NetlistSettings
from imac_torch.netlist.subcircuits import (
    AMPLIFIER_PORTS,
    INVERTER_PORTS,
    RAIL_PORTS,
    Subcircuit,
    defined_names,
    has_rails,
    parse_subcircuit,
    read_out_subcircuit,
    read_subcircuit,
)
from imac_torch.netlist.testbench import (
    BenchNetlist,
    TestBench,
    amplifier_digest,
    checked_subcircuit,
)
from imac_torch.periphery.neuron.base import NeuronSpec

FloatArray = NDArray[np.float64]

CIRCUIT_FOLDER: Final = "circuit"
"""Folder of a run directory with everything that does not depend on the inputs."""

# Terms of one power expression. HSPICE limits a line to 1024 characters.
_TERMS: Final = 12


@dataclass(frozen=True)
class BatchDeck:
    """One netlist: the circuit with a batch of images.

    Attributes:
        circuit: The circuit.
        inputs: (b, N) V.
        settings: Analysis and tolerances.
        stem: Name of the netlist file without suffix.
        rails: Whether there are amplifiers that take current from supplies.
    """

    circuit: Circuit
    inputs: FloatArray
    settings: NetlistSettings
    stem: str
    rails: bool = False

    @property
    def images(self) -> int:
        """Number of images, b."""
        return int(self.inputs.shape[0])

    @property
    def input_nodes(self) -> list[str]:
        """Nodes of the input sources; the source at ``x1`` is called ``Vx1``."""
        return [f"x{n}" for n in range(1, self.inputs.shape[1] + 1)]

    @property
    def output_nodes(self) -> list[str]:
        """Nodes of the last layer's outputs."""
        return [f"y{m}" for m in range(1, len(self.circuit.layers[-1].outputs) + 1)]

    @property
    def ends(self) -> list[float]:
        """End of every image's period, s."""
        return [time_of(k + 1, self.circuit.timing.period) for k in range(self.images)]

    @property
    def starts(self) -> list[float]:
        """Start of every image's period, s."""
        return [time_of(k, self.circuit.timing.period) for k in range(self.images)]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what delivers power."""
        return (*SOURCES, AMPLIFIERS) if self.rails else SOURCES

    @property
    def supply_powers(self) -> dict[str, str]:
        """Expressions for the power of the supplies, by their names in :attr:`sources`."""
        powers = {"supply": SUPPLY_POWER, "neurons": NEURON_POWER, AMPLIFIERS: AMPLIFIER_POWER}
        return {name: powers[name] for name in self.sources if name in powers}

    def input_power_terms(self) -> list[str]:
        """Expressions that add up to the power delivered by all input sources."""
        terms = [f"v({node})*i(v{node})" for node in self.input_nodes]
        return [f"-({'+'.join(terms[i : i + _TERMS])})" for i in range(0, len(terms), _TERMS)]


def time_of(k: int, period: float, offset: float = 0.0) -> float:
    """k·period + offset, s, by decimal arithmetic: three times 4e-9 s is 1.2e-08 to the digit."""
    return float(k * Decimal(repr(period)) + Decimal(repr(offset)))


Writer = TypeVar("Writer", bound="type[NetlistWriter]")

SUPPLY_POWER: Final = "-(v(vdd)*i(vdd))"
"""Power delivered by vdd to bias lines and neurons."""
NEURON_POWER: Final = "v(vdd)*i(vneurons)"
"""Power that passes the ammeter in the neurons' supply."""
AMPLIFIER_POWER: Final = "-(v(vdda)*i(vdda)+v(vssa)*i(vssa))"
"""Power delivered by the amplifiers' supplies, which are sources of their own."""


class NetlistWriter(ABC):
    """Writes netlists in one dialect; a dialect of your own is a subclass.

    Attributes:
        name: The dialect's.
        suffix: Of netlist files.
        transistors: What it has for access transistors: ``"cards"`` of HSPICE's level 72,
            ``"tables"`` of two inputs as ngspice's, or ``"none"``.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    transistors: ClassVar[Literal["cards", "tables", "none"]] = "none"

    def __init__(
        self,
        *,
        amplifier: Path | None = None,
        inverter: Path | Inverter | None = None,
        trust: bool = False,
    ) -> None:
        """Read the sub-circuits that replace the package's.

        Args:
            amplifier: File with a sub-circuit of ports ``plus minus out``, or of these and
                ``vdd vss``; None: the package's.
            inverter: The transistors of FinFET neurons, or a file with a sub-circuit ``inverter``
                of ports ``g out vdd`` and a parameter ``fins``; None: the dialect's own.
            trust: Take sub-circuit files as they are, unchecked.

        Raises:
            NetlistError: A file cannot be read, its ports differ, or the inverter is for another
                dialect.
        """
        self._amplifier = (
            None
            if amplifier is None
            else read_subcircuit(amplifier, AMPLIFIER_PORTS, trust=trust, more=RAIL_PORTS)
        )
        self.trust = trust
        if isinstance(inverter, Path):
            inverter = Inverter(
                read_subcircuit(inverter, INVERTER_PORTS, name="inverter", trust=trust)
            )
        if inverter is not None and inverter.dialect not in (None, self.name):
            raise NetlistError(f"this inverter is for {inverter.dialect}, not for {self.name}")
        self._inverter = inverter

    # What a dialect has to provide

    @abstractmethod
    def options(self, deck: BatchDeck) -> list[str]:
        """Option and temperature-independent control lines."""

    @abstractmethod
    def analysis(self, deck: BatchDeck) -> list[str]:
        """Analysis, measures and output lines."""

    # What it may provide

    def input_sources(self, deck: BatchDeck) -> list[str]:
        """Sources of the input lines; of operating points those of the first image."""
        if deck.settings.analysis == "transient":
            return pwl_sources(deck)
        return [
            f"V{node} {node} 0 {spice_number(value)}"
            for node, value in zip(deck.input_nodes, deck.inputs[0].tolist(), strict=True)
        ]

    def own_inverter(self, spec: NeuronSpec) -> Inverter:
        """The transistors of FinFET neurons.

        Raises:
            NetlistError: The dialect has none.
        """
        raise NetlistError(
            f"netlists of {self.name} have no transistors of their own for FinFET neurons; give "
            "the neuron a sub-circuit (neuron.subcircuit), or take a behavioural one such as "
            "'logistic'"
        )

    def bench(self, bench: TestBench) -> BenchNetlist:
        """The netlist that measures a neuron's sub-circuit.

        Raises:
            NetlistError: The dialect has none.
        """
        raise NetlistError(f"netlists of {self.name} do not characterise neurons")

    def measures(self, deck: BatchDeck) -> tuple[str, ...]:
        """Names of the measures that the simulator must report; here none."""
        return ()

    def optional_measures(self, deck: BatchDeck) -> tuple[str, ...]:
        """Names of the measures that the simulator may report as failed."""
        if deck.settings.analysis == "dc" or not deck.settings.measure_latency:
            return ()
        return crossings(deck.output_nodes, deck.images)

    def waveform_files(self, deck: BatchDeck) -> tuple[str, ...]:
        """Names of the result files that the simulator writes, in order; here none."""
        return ()

    # What is common

    def circuit_files(self, circuit: Circuit) -> dict[str, str]:
        """Files that do not depend on the inputs, by path relative to the run directory.

        Raises:
            NetlistError: Something of the circuit cannot be written.
        """
        neurons = {
            layer.name: checked_subcircuit(layer.neurons.spec, trust=self.trust)
            for layer in circuit.layers
        }
        amplifiers = {layer.name: self.amplifier_of(layer) for layer in circuit.layers}
        operational = {
            layer.name: item
            for layer in circuit.layers
            if (item := self._operational(layer)) is not None
        }
        stems = {
            ("amplifier" if self._amplifier is not None else item.name): item
            for item in amplifiers.values()
        }
        for item in (*neurons.values(), *operational.values()):
            stem = item.name.lower()
            if stems.setdefault(stem, item).text != item.text:
                raise NetlistError(
                    f"two different files declare the sub-circuit {item.name}: "
                    f"{stems[stem].source} and {item.source}; rename one"
                )
        inverter = self._find_inverter(circuit)
        if inverter is not None:
            stems["inverter"] = inverter.subcircuit
        cells = [item.cell for layer in circuit.layers for item in layer.elements]
        parts = [item.part(self.transistors) for item in cells if item is not None]
        for part in filter(None, parts):
            path = Path(f"{part.name}.sp")
            stems[part.name] = parse_subcircuit(part.text, path, part.ports, name=part.name)
        files = {
            f"{CIRCUIT_FOLDER}/{stem}.sp": text
            for stem, text in _without_collisions(circuit, stems).items()
        }
        for part in filter(None, parts):
            files |= {f"{CIRCUIT_FOLDER}/{name}": text for name, text in part.files.items()}
        if inverter is not None:
            files |= {f"{CIRCUIT_FOLDER}/{name}": text for name, text in inverter.files.items()}
        for layer in circuit.layers:
            files[f"{CIRCUIT_FOLDER}/{layer.name}.sp"] = layer_text(
                layer, amplifiers[layer.name], neurons[layer.name]
            )
        return files

    def amplifier_of(self, layer: LayerCircuit) -> Subcircuit:
        """The sub-circuit that stands for a layer's read-outs."""
        return read_out_subcircuit(self._amplifier, layer.read_outs.read_out)

    def _operational(self, layer: LayerCircuit) -> Subcircuit | None:
        """The operational amplifier within a layer's read-outs, if that is a sub-circuit.

        Raises:
            NetlistError: Its file is not named, or has changed since it was measured.
        """
        real = layer.read_outs.read_out.imperfections
        if real is None or real.table is None or self._amplifier is not None:
            return None
        if real.subcircuit is None:
            raise NetlistError(
                "amplifiers given as a table have no netlist of their own; name the sub-circuit "
                "file that it was characterised from (amplifier.subcircuit)"
            )
        ports = (*AMPLIFIER_PORTS, *RAIL_PORTS)
        found = read_subcircuit(Path(real.subcircuit), ports, trust=self.trust)
        if amplifier_digest(found) != real.table.digest:
            raise NetlistError(
                f"{found.source} is not the file that amplifier.table was characterised from; "
                "characterise it again (imac_torch.tabulate_amplifier)"
            )
        return found

    def deck(
        self, circuit: Circuit, inputs: FloatArray, settings: NetlistSettings, stem: str
    ) -> BatchDeck:
        """A batch of images, for :meth:`deck_text`."""
        rails = any(has_rails(self.amplifier_of(layer)) for layer in circuit.layers)
        return BatchDeck(circuit, inputs, settings, stem, rails)

    def _find_inverter(self, circuit: Circuit) -> Inverter | None:
        specs = [
            layer.neurons.spec
            for layer in circuit.layers
            if layer.neurons.spec.has_inverter
        ]
        if not specs:
            return None
        inverter = self._inverter or self.own_inverter(specs[0])
        for spec in specs:
            for what, made_for, wanted in (
                ("fins", inverter.fins, spec.options.fins),
                ("vdd", inverter.vdd, spec.vdd),
                ("temperature", inverter.temperature, spec.temperature),
            ):
                if made_for not in (None, wanted):
                    raise NetlistError(
                        "a netlist holds one kind of transistor: the inverter was made for "
                        f"{what} = {made_for}, neurons have {wanted}"
                    )
            if self._inverter is None and self.own_inverter(spec) != inverter:
                raise NetlistError("a netlist holds one kind of transistor; layers ask for several")
        return inverter

    def deck_text(self, deck: BatchDeck, circuit_files: Mapping[str, str]) -> str:
        """The netlist of one batch, to be placed in a folder of the run directory.

        Args:
            deck: The batch.
            circuit_files: From :meth:`circuit_files`; they are included.
        """
        circuit = deck.circuit
        inverter = self._find_inverter(circuit)
        if inverter is not None and inverter.static and deck.settings.analysis != "dc":
            raise NetlistError(inverter.static)
        lines = [
            f"* imac_torch, {self.name}: {deck.stem}, {deck.images} images, "
            f"{deck.settings.analysis} analysis",
            *self.options(deck),
            f".temp {spice_number(_temperature(circuit) - ZERO_CELSIUS)}",
            *(inverter.lines if inverter is not None else ()),
            *(f".include '../{name}'" for name in circuit_files if name.endswith(".sp")),
            f"Vdd vdd 0 {spice_number(circuit.vdd)}",
            "* ammeter: what of the supply goes to the neurons",
            "Vneurons vdd vddn 0",
            *(_amplifier_supplies(circuit) if deck.rails else ()),
            *self.input_sources(deck),
        ]
        nodes = deck.input_nodes
        for k, layer in enumerate(circuit.layers):
            last = k == len(circuit.layers) - 1
            following = (
                deck.output_nodes
                if last
                else [f"{layer.name}_{m}" for m in range(1, len(layer.outputs) + 1)]
            )
            supplies = supply_ports(self.amplifier_of(layer))
            lines.append(wrap([*nodes, *following, *supplies, layer.name], f"X{layer.name}"))
            nodes = following
        lines.extend(load_lines(deck))
        lines.extend(self.analysis(deck))
        lines.append(".end")
        return "\n".join(lines) + "\n"


def register_dialect(writer: Writer) -> Writer:
    """Let a subclass of :class:`NetlistWriter` be chosen by its name; serves as its decorator.

    Raises:
        NetlistError: It is none, or its name is one of the package's.
    """
    if not (isinstance(writer, type) and issubclass(writer, NetlistWriter)):
        raise NetlistError(f"{writer!r} is no dialect: derive from NetlistWriter")
    DIALECTS.register(writer.name, writer)
    return writer


def _without_collisions(
    circuit: Circuit, stems: Mapping[str, Subcircuit]
) -> dict[str, str]:
    """Texts of sub-circuit files by stem; what two files define in the same words stands in one.

    Simulators take the first or the last of two sub-circuits of one name, with a warning or
    without, for everybody who calls it.

    Raises:
        NetlistError: Two files, or a file and the netlist itself, define a name differently.
    """
    names = [layer.name.lower() for layer in circuit.layers]
    if len(set(names)) != len(names):
        raise NetlistError(f"layers need names of their own, got {', '.join(names)}")
    known: dict[str, tuple[str, str]] = {
        name: ("", f"the layer {name}") for name in names
    }
    texts = {}
    for stem, item in stems.items():
        repeated = set()
        for name, text in defined_names(item).items():
            other, where = known.setdefault(name, (text, str(item.source)))
            if where == str(item.source):
                continue
            if other != text:
                raise NetlistError(
                    f"{item.source} and {where} both define {name}, differently; rename one"
                )
            repeated.add(text)
        kept = [part.text for part in item.definitions if part.text not in repeated]
        texts[stem] = "".join(kept) if repeated else item.text
    return texts


def _amplifier_supplies(circuit: Circuit) -> list[str]:
    """Sources of the amplifiers, apart from vdd to measure what they deliver."""
    return [
        f"{node} {node} 0 {spice_number(volts)}"  # sources are called as their nodes
        for node, volts in zip(AMPLIFIER_SUPPLIES, (circuit.vdd, circuit.vss), strict=True)
    ]


def _temperature(circuit: Circuit) -> float:
    temperatures = {layer.neurons.spec.temperature for layer in circuit.layers}
    if len(temperatures) != 1:
        raise NetlistError(f"a netlist has one temperature, the layers have {temperatures} K")
    return temperatures.pop()


def load_lines(deck: BatchDeck) -> list[str]:
    """What the outputs of the network have to drive."""
    load = deck.circuit.timing.load_capacitance
    if load == 0.0:
        return []
    value = spice_number(load)
    return [f"C{node} {node} 0 {value}" for node in deck.output_nodes]


def pwl(voltages: Sequence[float], period: float, transition: float) -> list[str]:
    """Corner points of one input line: time and voltage words, alternating.

    The line starts at 0 V, ramps to each voltage within ``transition`` at the start of its
    period, and holds it to the end.
    """
    words = ["0", "0"]
    for k, voltage in enumerate(voltages):
        value = spice_number(voltage)
        if k:
            # Corner at the end of the previous period: the previous voltage holds until here.
            words += [spice_number(time_of(k, period)), spice_number(voltages[k - 1])]
        words += [spice_number(time_of(k, period, transition)), value]
    return [*words, spice_number(time_of(len(voltages), period)), spice_number(voltages[-1])]


def pwl_sources(deck: BatchDeck) -> list[str]:
    """The input sources of a transient."""
    timing = deck.circuit.timing
    return [
        wrap([*pwl(values, timing.period, timing.transition), ")"], f"V{node} {node} 0 pwl(")
        for node, values in zip(deck.input_nodes, deck.inputs.T.tolist(), strict=True)
    ]


def transient_line(deck: BatchDeck, *, with_limit: bool) -> str:
    """The ``.tran`` line, with the largest step where the dialect takes it."""
    timing, settings = deck.circuit.timing, deck.settings
    step = timing.transition / 5 if settings.step is None else settings.step
    limit = timing.period / 40 if settings.max_step is None else settings.max_step
    # A little longer than the last period: its end, where outputs are measured, must not be lost
    # to the rounding of time steps. The sources hold their last values.
    stop = deck.ends[-1] + timing.transition / 100
    line = f".tran {spice_number(step)} {spice_number(stop)}"
    return f"{line} 0 {spice_number(limit)}" if with_limit else line
