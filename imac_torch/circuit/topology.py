"""Nodes and elements of every layer, as netlists have them.

Netlists are written from these, and their stamped matrix is the oracle of the native solver, which
itself starts from :class:`imac_torch.circuit.crossbar.CrossbarSpec` and never sees them. Names of
indices: row ``r``, column ``c`` (input, the bias last), horizontal partition ``h``; all count from
1 in names. Every output has one row, or several whose amplifiers count differently
(:mod:`imac_torch.mapping.slices`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.cells import Cell, Series
from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.circuit.wires import input_line_capacitances, output_line_capacitance
from imac_torch.config import Config, Timing
from imac_torch.errors import CircuitError
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.readout import ReadOut
from imac_torch.periphery.readout.reference import array_starts

IndexArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

GROUND: Final = 0
"""Index of the ground node in every layer."""
SUPPLY: Final = 1
"""Index of the vdd node in every layer."""
SHORTEST_WIRE: Final = math.sqrt(2.0 * 2.0**-53)
"""Wire segments of less than this many times 1/(n·g) are nodes (n cells of up to g on a line).

In a nodal matrix a segment of resistance R adds 1/R to the diagonal on which a cell has g, and
rounding the sum to 53 bits loses a part 2^-53/(R·g) of the cell. Leaving the segments out loses
less than their whole drop, a part R·g·n²/2: they carry the currents of n, n - 1, … 1 cells. The
second is the smaller error where R·g·n < √(2·2^-53) = 1.5e-8, and is at most 0.7e-8·n there.
"""


@dataclass(frozen=True)
class NodeArray:
    """Consecutive nodes of a layer that share a name.

    Attributes:
        name: Prefix; node (i, j) is called ``{name}{i}_{j}``, counting from 1.
        shape: Of the index.
        start: Index of the first node in the layer, row-major from there.
    """

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def index(self) -> IndexArray:
        """Node indices in ``shape``."""
        count = int(np.prod(self.shape, dtype=np.int64))
        return (self.start + np.arange(count, dtype=np.int64)).reshape(self.shape)


@dataclass(frozen=True)
class ElementArray:
    """Many two-terminal elements of one kind.

    Attributes:
        kind: ``resistor`` (values in Ω), ``capacitor`` (F) or ``cell``: bit cells that are no
            resistors, values in Ω of their memory devices at small voltages.
        name: Prefix; element k is called ``{name}{label_0}_{label_1}…``.
        labels: (E, L) int64, 1-based indices that make names unique.
        nodes: (E, 2) int64, node indices of the layer.
        values: (E,) float64, Ω or F, finite and positive.
        cell: What they are; only of ``cell``.
    """

    kind: Literal["resistor", "capacitor", "cell"]
    name: str
    labels: IndexArray
    nodes: IndexArray
    values: FloatArray
    cell: Cell | None = None


@dataclass(frozen=True)
class ReadOutArray:
    """What the lines end in, one per row and horizontal partition.

    Attributes:
        labels: (E, 2) int64, row and horizontal partition.
        nodes: (E, 3) int64: I+ end, I- end, output.
        read_out: What each of them is.
        references: (E,) int64, the I- end of the first row of their array, which those have for
            reference that share it; None: they do not.
    """

    labels: IndexArray
    nodes: IndexArray
    read_out: ReadOut
    references: IndexArray | None = None


@dataclass(frozen=True)
class SumArray:
    """Ideal sums: ``v(output) = Σ factor·v(term)`` (only where partitions are summed).

    Attributes:
        labels: (E, 1) int64, output.
        terms: (E, L·H) int64 node indices.
        factors: (L·H,) float64, the same for all sums; 1 without slices.
        outputs: (E,) int64 node indices.
    """

    labels: IndexArray
    terms: IndexArray
    factors: FloatArray
    outputs: IndexArray


@dataclass(frozen=True)
class NeuronArray:
    """The neurons of a layer: (E, 2) nodes input z and output; vdd is the supply node."""

    labels: IndexArray
    nodes: IndexArray
    spec: NeuronSpec


@dataclass(frozen=True)
class LayerCircuit:
    """One layer between its input pins and its neuron outputs.

    Attributes:
        name: Sub-circuit name, ``layer1`` …
        node_arrays: Every node except ground (0) and vdd (1).
        node_count: Nodes, ground and vdd included.
        inputs: (N,) node indices of the input pins.
        outputs: (M,) node indices of the output pins.
        elements: Resistors and capacitors.
        read_outs: What the lines end in.
        sums: Present when partitions are summed instead of averaged.
        neurons: The activation circuits.
        notes: What was simplified, one sentence each.
    """

    name: str
    node_arrays: tuple[NodeArray, ...]
    node_count: int
    inputs: IndexArray
    outputs: IndexArray
    elements: tuple[ElementArray, ...]
    read_outs: ReadOutArray
    sums: SumArray | None
    neurons: NeuronArray
    notes: tuple[str, ...] = ()

    def node_names(self) -> NDArray[np.str_]:
        """Names of all nodes by index: ``0``, ``vdd``, then every array's."""
        names = ["0", "vdd"]
        for array in self.node_arrays:
            labels = np.indices(array.shape).reshape(len(array.shape), -1) + 1
            names.extend(array.name + "_".join(map(str, label)) for label in labels.T.tolist())
        return np.array(names, dtype=np.str_)

    def array(self, name: str) -> NodeArray:
        """The node array called ``name``.

        Raises:
            CircuitError: The layer has none (ideal wires merge nodes).
        """
        for array in self.node_arrays:
            if array.name == name:
                return array
        known = ", ".join(array.name for array in self.node_arrays)
        raise CircuitError(f"{self.name} has no nodes {name!r}; it has {known}")


@dataclass(frozen=True)
class Circuit:
    """The whole network: layers in series, supplies and the timing of inputs.

    The outputs of a layer's neurons are the input pins of the next layer.

    Attributes:
        layers: At least one.
        vdd: V.
        timing: Period and transition of the input sequence, load of the last outputs.
        vss: V, the other supply of amplifiers that have supplies.
    """

    layers: tuple[LayerCircuit, ...]
    vdd: float
    timing: Timing
    vss: float = 0.0

    def __post_init__(self) -> None:
        """Check that layers chain.

        Raises:
            CircuitError: They do not.
        """
        if not self.layers:
            raise CircuitError("a circuit has at least one layer")
        for before, after in pairwise(self.layers):
            if len(before.outputs) != len(after.inputs):
                raise CircuitError(
                    f"{before.name} has {len(before.outputs)} outputs, {after.name} has "
                    f"{len(after.inputs)} inputs"
                )


class _LayerBuilder:
    """Allocates nodes and collects elements of one layer."""

    def __init__(self) -> None:
        self.arrays: list[NodeArray] = []
        self.count = 2  # ground and vdd
        self.elements: list[ElementArray] = []

    def nodes(self, name: str, *shape: int) -> IndexArray:
        array = NodeArray(name, shape, self.count)
        self.arrays.append(array)
        self.count += int(np.prod(shape, dtype=np.int64))
        return array.index

    def add(
        self,
        kind: Literal["resistor", "capacitor", "cell"],
        name: str,
        labels: Sequence[IndexArray],
        ends: tuple[IndexArray, IndexArray],
        values: FloatArray | float,
        cell: Cell | None = None,
    ) -> None:
        """Add elements; arguments broadcast together; labels are 0-based here."""
        value, first, second, *label = np.broadcast_arrays(values, *ends, *labels)
        value = np.ascontiguousarray(value, dtype=np.float64).reshape(-1)
        if value.size == 0:
            return
        self.elements.append(
            ElementArray(
                kind=kind,
                name=name,
                labels=np.stack([item.reshape(-1) + 1 for item in label], axis=1),
                nodes=np.stack([first.reshape(-1), second.reshape(-1)], axis=1),
                values=value,
                cell=cell,
            )
        )


def build_layer(
    name: str, spec: CrossbarSpec, neuron: NeuronSpec, config: Config
) -> LayerCircuit:
    """Nodes and elements of one layer.

    Args:
        name: Sub-circuit name.
        spec: Crossbars without sample dimensions: conductances (M·L, N+1), or those of groups,
            whose rows and input pins follow one another.
        neuron: The activation circuit.
        config: Per-layer configuration; wire capacitances are read from it.

    Raises:
        CircuitError: The conductances have sample dimensions.
    """
    positive = _array(spec.conductances.positive)
    negative = _array(spec.conductances.negative)
    if spec.groups > 1:
        positive, negative = (
            side.reshape(*side.shape[:-3], -1, side.shape[-1]) for side in (positive, negative)
        )
    if positive.ndim != 2:
        raise CircuitError(
            f"{name}: a circuit holds one sample, conductances are {tuple(positive.shape)}; "
            "select one"
        )
    rows, columns = positive.shape
    outputs, slices = spec.outputs, spec.slicing.count
    row, column = np.indices((rows, columns))
    parts = len(spec.column_ends)
    part = np.searchsorted(np.array(spec.column_ends), np.arange(columns), side="right")

    builder = _LayerBuilder()
    pins = builder.nodes("in", spec.groups * (columns - 1))
    output_pins = builder.nodes("out", outputs)
    neuron_inputs = builder.nodes("z", outputs)
    # What drives each column, (G, C): an input pin of the group, or vdd for the bias.
    feeds = np.pad(
        pins.reshape(spec.groups, columns - 1), ((0, 0), (0, 1)), constant_values=SUPPLY
    )
    group = row[:, 0] // (rows // spec.groups)
    positive_end = builder.nodes("pe", rows, parts)
    negative_end = builder.nodes("ne", rows, parts)

    input_wire, output_wire, notes = _wires(spec, max(positive.max(), negative.max()))
    cell = feeds[group]
    if input_wire > 0.0:
        cell = builder.nodes("a", rows, columns)
        firsts = np.array([start for start, _ in spec.row_ranges])
        starts = np.add.outer(np.arange(spec.groups) * (rows // spec.groups), firsts).reshape(-1)
        before = np.concatenate([feeds[:1], cell[:-1]], axis=0)
        before[starts] = feeds[group[starts]]  # every vertical partition is driven again
        builder.add("resistor", "rw", (row, column), (before, cell), input_wire)
    sides: dict[str, IndexArray] = {}
    for side, end in (("p", positive_end), ("n", negative_end)):
        line = end[:, part]
        if output_wire > 0.0:
            line = builder.nodes(side, rows, columns)
            after = np.concatenate([line[:, 1:], line[:, :1]], axis=1)
            for h, last in enumerate(spec.column_ends):
                after[:, last - 1] = end[:, h]
            builder.add("resistor", f"rw{side}", (row, column), (line, after), output_wire)
        sides[side] = line
    for side, conductance in (("p", positive), ("n", negative)):
        present = conductance > 0.0  # an open cell is no element
        builder.add(
            "resistor" if spec.cell is None else "cell",
            f"r{side}",
            (row[present], column[present]),
            (cell[present], sides[side][present]),
            1.0 / conductance[present],
            spec.cell,
        )
        # With a node in between capacitors are the cell's own business, at its two parts.
        if spec.capacitance.memory > 0.0 and not isinstance(spec.cell, Series):
            builder.add(
                "capacitor",
                f"cc{side}",
                (row[present], column[present]),
                (cell[present], sides[side][present]),
                spec.capacitance.memory,
            )
    if config.interconnect.capacitance:
        ground = np.full((rows, columns), GROUND)
        of_input = np.empty(columns)
        for first, last in spec.column_ranges:
            of_input[first:last] = input_line_capacitances(config.interconnect, last - first)
        of_output = output_line_capacitance(config.interconnect)
        builder.add("capacitor", "cw", (row, column), (cell, ground), of_input[None, :])
        for side in ("p", "n"):
            builder.add(
                "capacitor", f"cw{side}", (row, column), (sides[side], ground), of_output
            )

    ends_row, ends_part = np.indices((rows, parts))
    amplifier_out = builder.nodes("o", rows, parts)
    sums = None
    meeting = spec.read_out.combination
    resistances = meeting.resistances(rows)
    if resistances is None:
        sums = SumArray(
            np.arange(outputs)[:, None] + 1,
            amplifier_out.reshape(outputs, slices * parts),
            np.array(meeting.factors),
            neuron_inputs,
        )
    else:
        builder.add(
            "resistor",
            "ro",
            (ends_row, ends_part),
            (amplifier_out, np.repeat(neuron_inputs, slices)[:, None]),
            _array(resistances)[:, None],
        )
    labels = np.stack([ends_row.reshape(-1), ends_part.reshape(-1)], axis=1) + 1
    ends = [item.reshape(-1) for item in (positive_end, negative_end, amplifier_out)]
    references = None
    if spec.read_out.shared:
        each = np.add.outer(
            np.arange(spec.groups) * (rows // spec.groups), array_starts(spec.row_ends)
        ).reshape(-1)
        references = negative_end[each].reshape(-1)
    return LayerCircuit(
        name=name,
        node_arrays=tuple(builder.arrays),
        node_count=builder.count,
        inputs=pins,
        outputs=output_pins,
        elements=tuple(builder.elements),
        read_outs=ReadOutArray(labels, np.stack(ends, axis=1), spec.read_out, references),
        sums=sums,
        neurons=NeuronArray(
            np.arange(outputs)[:, None] + 1, np.stack([neuron_inputs, output_pins], axis=1), neuron
        ),
        notes=notes,
    )


def _wires(spec: CrossbarSpec, conductance: float) -> tuple[float, float, tuple[str, ...]]:
    """Segments (Ω) of input and output lines, 0 for those that are nodes, and what to say of it.

    See :data:`SHORTEST_WIRE`. Both lines of an output carry a cell per column, an input line two
    per row.
    """
    kept, notes = [], []
    for what, segment, ranges, cells in (
        ("input", float(spec.input_segment), spec.row_ranges, 2),
        ("output", float(spec.output_segment), spec.column_ranges, 1),
    ):
        count = cells * max(stop - start for start, stop in ranges)
        limit = SHORTEST_WIRE / (count * conductance) if conductance > 0.0 else 0.0
        if 0.0 < segment < limit:
            notes.append(
                f"segments of {what} lines, {segment:.3g} ohm, are no elements: below "
                f"{limit:.3g} ohm they matter less than the rounding of a nodal matrix"
            )
            segment = 0.0
        kept.append(segment)
    return kept[0], kept[1], tuple(notes)


def _array(tensor: Tensor) -> FloatArray:
    return tensor.detach().cpu().numpy().astype(np.float64)
