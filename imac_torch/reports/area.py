"""Silicon area of a network by part; models are values with documented, sourced constants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from types import MappingProxyType
from typing import Final, Protocol

from imac_torch.errors import ConfigError
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import IMACNetwork
from imac_torch.periphery.neuron.base import kind_of

__all__ = [
    "AREA_MODELS",
    "FIN_PITCH",
    "GATE_PITCH",
    "Area",
    "AreaModel",
    "ImacSimArea",
    "LayerShape",
    "LayoutArea",
    "NetworkArea",
    "area_model",
    "layer_area",
    "layer_shape",
    "layer_shapes",
    "network_area",
]

# Published pitches (m) of the foundry technology that each PTM-MG node stands for.
# 7: ASAP7 (Clark et al., Microelectron. J. 53, 105, 2016); 10: Auth et al., IEDM 2017;
# 14: Natarajan et al., IEDM 2014; 16: Wu et al., IEDM 2013; 20: the 22 nm generation,
# Auth et al., VLSI Technology 2012.
FIN_PITCH: Final[Mapping[int, float]] = MappingProxyType(
    {7: 27e-9, 10: 34e-9, 14: 42e-9, 16: 48e-9, 20: 60e-9}
)
"""Fin pitch (m) by node (nm)."""
GATE_PITCH: Final[Mapping[int, float]] = MappingProxyType(
    {7: 54e-9, 10: 54e-9, 14: 70e-9, 16: 90e-9, 20: 90e-9}
)
"""Contacted gate pitch (m) by node (nm)."""


@dataclass(frozen=True)
class LayerShape:
    """What area models need to know of one layer.

    Attributes:
        name: The layer's path.
        inputs: N, the bias not counted.
        outputs: M.
        horizontal: H, partitions of the I± lines.
        vertical: V, partitions of the input lines.
        rows: Rows of one physical array.
        columns: Columns of one physical array, the bias included.
        cell: m², of one bit cell: its width times its length.
        read_out_resistance: Ω, sum of the resistors of one read-out.
        operational_amplifiers: Of one read-out.
        shared: Whether rows have one line, and those of an array one more for all of them.
        neuron: Kind of activation circuit.
        fins: Of each transistor of a FinFET neuron.
        node: Technology node of the transistors, nm.
        slices: Pairs of devices per weight, each with a row of its own.
        copies: Replicas of all of it, which share the work.
    """

    name: str
    inputs: int
    outputs: int
    horizontal: int
    vertical: int
    rows: int
    columns: int
    cell: float
    read_out_resistance: float
    neuron: str
    fins: int
    node: int
    slices: int = 1
    operational_amplifiers: int = 1
    copies: int = 1
    shared: bool = False

    @property
    def used_rows(self) -> int:
        """Rows with cells, and amplifiers per horizontal partition: M·L."""
        return self.outputs * self.slices

    @property
    def arrays(self) -> int:
        """Physical arrays: H·V."""
        return self.horizontal * self.vertical


@dataclass(frozen=True)
class Area:
    """Area by part, m²; None where the model says nothing about a part."""

    cells: float | None
    amplifiers: float | None
    neurons: float | None
    switches: float | None

    @property
    def total(self) -> float:
        """Sum of the parts that are modelled, m²."""
        return sum(value for value in self.parts().values() if value is not None)

    def parts(self) -> dict[str, float | None]:
        """The parts by name."""
        return dict(vars(self))

    @classmethod
    def sum(cls, areas: Sequence[Area]) -> Area:
        """The sum of layers; a part is None if it is for some layer."""

        def add(values: list[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return sum(known) if len(known) == len(values) else None

        return cls(*(add([getattr(area, part.name) for area in areas]) for part in fields(cls)))


class AreaModel(Protocol):
    """Area of one layer; give your own by providing these."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    def layer(self, shape: LayerShape) -> Area:
        """Area of one layer."""
        ...


@dataclass(frozen=True)
class ImacSimArea:
    """IMAC-Sim's formula: whole physical arrays and the switches of their lines.

    W·L·rows·columns + ``switch``·(rows + columns) for each of the H·V arrays, filled or not;
    amplifiers and neurons are not in it (testIMAC.py of https://github.com/iCAS-Lab/IMAC-Sim,
    "Area Calculation").

    Attributes:
        switch: m² per line. The 0.56 µm² is written there without a source, and it does not
            scale with the technology.
    """

    switch: float = 0.56e-12

    @property
    def name(self) -> str:
        """For reports."""
        return "imac-sim"

    def layer(self, shape: LayerShape) -> Area:
        """Area of one layer."""
        return Area(
            cells=shape.cell * shape.rows * shape.columns * shape.arrays,
            amplifiers=None,
            neurons=None,
            switches=self.switch * (shape.rows + shape.columns) * shape.arrays,
        )


@dataclass(frozen=True)
class LayoutArea:
    """An estimate of every part from layout rules; factors are fields, to be replaced by yours.

    A transistor of n fins takes n·fin pitch by ``gate_pitches`` contacted gate pitches (its own
    gate, and half of the dummy gate on either side).
    Amplifier: its operational amplifiers of ``opamp_fins`` each, and its resistors (R1…R4, or the
    feedback of transimpedance amplifiers) of sheet resistance ``sheet_resistance`` and width
    ``resistor_width``, with ``resistor_fill`` for ends and spacing.
    Neuron: the transistors, of the configuration's fins, and bit cells of its kind
    (:attr:`imac_torch.periphery.neuron.NeuronKind.layout`). Behavioural neurons have no layout:
    their area is None.
    Cells: one per pair; where rows share a reference line, half of one, because a pair has two
    lines, and half of one per column for the reference, which has an amplifier, too.
    Switches: a transmission gate of two transistors of ``switch_fins`` on each input line and
    each I± line of an array.

    Attributes:
        whole_arrays: Count cells and switches of whole physical arrays (as built), or only of
            the lines that are used.
        gate_pitches: Width of a transistor in contacted gate pitches.
        opamp_fins: Fins of all transistors of one operational amplifier together. The default is
            a two-stage amplifier of eight transistors (Allen and Holberg, "CMOS Analog Circuit
            Design", ch. 6) of 20 fins on average: an assumption, not a design.
        switch_fins: Fins of each transistor of a switch.
        sheet_resistance: Ω per square. Unsilicided polysilicon has 50 to 400 (Weste and Harris,
            "CMOS VLSI Design"): the middle is taken.
        resistor_width: m.
        resistor_fill: Area per resistor square relative to width².
    """

    whole_arrays: bool = True
    gate_pitches: float = 2.0
    opamp_fins: int = 160
    switch_fins: int = 4
    sheet_resistance: float = 200.0
    resistor_width: float = 100e-9
    resistor_fill: float = 2.0

    def __post_init__(self) -> None:
        """Check that every factor is positive.

        Raises:
            ConfigError: One is not.
        """
        for name, value in vars(self).items():
            if not isinstance(value, bool) and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"LayoutArea.{name} = {value} must be positive and finite")

    @property
    def name(self) -> str:
        """For reports."""
        return "layout" if self.whole_arrays else "layout, used lines only"

    def transistor(self, node: int, fins: int) -> float:
        """Area of one transistor, m².

        Raises:
            ConfigError: There are no pitches for the node.
        """
        if node not in FIN_PITCH:
            known = ", ".join(map(str, FIN_PITCH))
            raise ConfigError(f"no pitches of a {node} nm node; there are {known} nm")
        return fins * FIN_PITCH[node] * self.gate_pitches * GATE_PITCH[node]

    def layer(self, shape: LayerShape) -> Area:
        """Area of one layer."""
        if self.whole_arrays:
            along, across = shape.rows * shape.vertical, shape.columns * shape.horizontal
            inputs = shape.columns * shape.arrays
        else:
            along, across = shape.used_rows, shape.inputs + 1
            inputs = across * shape.vertical
        # Pairs of lines, of which a shared reference is half of one more in every array.
        pairs = (along + shape.vertical) / 2.0 if shape.shared else float(along)
        lines = inputs + 2.0 * pairs * shape.horizontal
        read_outs = (shape.used_rows + shape.shared * shape.vertical) * shape.horizontal
        squares = shape.read_out_resistance / self.sheet_resistance
        resistors = squares * self.resistor_width**2 * self.resistor_fill
        opamp = self.transistor(shape.node, self.opamp_fins)
        neuron, layout = None, kind_of(shape.neuron).layout
        if layout is not None:
            transistor = self.transistor(shape.node, shape.fins)
            neuron = layout.transistors * transistor + layout.cells * shape.cell
        amplifier = opamp * shape.operational_amplifiers + resistors
        return Area(
            cells=shape.cell * pairs * across,
            amplifiers=amplifier * read_outs,
            neurons=None if neuron is None else neuron * shape.outputs,
            switches=2.0 * self.transistor(shape.node, self.switch_fins) * lines,
        )


AREA_MODELS: Final[Mapping[str, AreaModel]] = MappingProxyType(
    {
        "imac-sim": ImacSimArea(),
        "layout": LayoutArea(),
        "layout-used": LayoutArea(whole_arrays=False),
    }
)
"""Models by name, with their default constants."""


@dataclass(frozen=True)
class NetworkArea:
    """Area of a network.

    Attributes:
        model: Name of the model.
        layers: Area by layer path.
        borders: m² of ``drivers`` and ``converters``, of all circuits, by the figures of their
            configuration; None where they are ideal.
    """

    model: str
    layers: Mapping[str, Area] = field(default_factory=dict)
    borders: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def total(self) -> Area:
        """Sum over layers."""
        return Area.sum(list(self.layers.values()))

    @property
    def whole(self) -> float:
        """m² of everything that is known, borders included."""
        return self.total.total + sum(value or 0.0 for value in self.borders.values())

    def in_words(self) -> str:
        """The whole, its parts, and what is in none of them, in µm²."""
        parts = {**self.total.parts(), **self.borders}
        known = [f"{name} {1e12 * value:.4g}" for name, value in parts.items() if value]
        missing = [name for name, value in self.total.parts().items() if value is None]
        ideal = [name for name, value in self.borders.items() if value is None]
        rest = [
            f"{words}: {', '.join(names)}"
            for words, names in (("not modelled", missing), ("ideal, not counted", ideal))
            if names
        ]
        return f"{self.whole * 1e12:.4f} µm² ({'; '.join([', '.join(known), *rest])})"


def layer_shape(layer: IMACLinear) -> LayerShape:
    """What area models need to know of one layer."""
    matrix, config = layer.matrix, layer.config
    column_ends, row_ends = matrix.partitions()
    read_out = matrix.read_out(matrix.gain(), matrix.trim.device)
    # Explicit partitions may make arrays larger than the configured size.
    rows = max(last - first for first, last in pairwise((0, *row_ends)))
    columns = max(last - first for first, last in pairwise((0, *column_ends)))
    return LayerShape(
        name=layer.name,
        inputs=matrix.columns - 1,
        outputs=matrix.outputs,
        horizontal=len(column_ends),
        vertical=matrix.groups * len(row_ends),
        rows=max(rows, config.crossbar.rows),
        columns=max(columns, config.crossbar.columns),
        cell=config.interconnect.cell_width * config.interconnect.cell_length,
        read_out_resistance=read_out.resistance_total,
        neuron=layer.neuron_spec().kind,
        fins=config.neuron.fins,
        node=config.neuron.transistor_node,
        slices=matrix.slicing.count,
        operational_amplifiers=read_out.operational_amplifiers,
        shared=read_out.shared,
        copies=config.crossbar.copies,
    )


def layer_area(shape: LayerShape, model: AreaModel) -> Area:
    """Of one layer with all of its copies."""
    return Area.sum([model.layer(shape)] * shape.copies)


def layer_shapes(network: IMACNetwork) -> list[LayerShape]:
    """Of a network's layers, in order."""
    return [layer_shape(layer) for layer in network.analog_layers()]


def area_model(name: str) -> AreaModel:
    """The model of a name in :data:`AREA_MODELS`.

    Raises:
        ConfigError: There is none.
    """
    if name not in AREA_MODELS:
        raise ConfigError(f"no area model {name!r}; there are {', '.join(AREA_MODELS)}")
    return AREA_MODELS[name]


def network_area(network: IMACNetwork, model: AreaModel | str = "imac-sim") -> NetworkArea:
    """Area of every layer of a network.

    Args:
        network: A converted model.
        model: A model, or the name of one in :data:`AREA_MODELS`.

    Returns:
        m² by layer and part, and of borders.

    Raises:
        ConfigError: There is no model of that name, or it lacks the technology node.
    """
    if isinstance(model, str):
        model = area_model(model)
    return NetworkArea(
        model.name,
        {shape.name: layer_area(shape, model) for shape in layer_shapes(network)},
        _borders(network),
    )


def _borders(network: IMACNetwork) -> dict[str, float | None]:
    found: dict[str, float | None] = {"drivers": None, "converters": None}
    for segment in network.segments.values():
        copies, costs = segment.first.config.crossbar.copies, segment.border_costs
        for name, ideal, area in (
            ("drivers", segment.borders.driver is None, costs.driver_area),
            ("converters", segment.borders.converter is None, costs.converter_area),
        ):
            if not ideal:
                found[name] = (found[name] or 0.0) + copies * area
    return found
