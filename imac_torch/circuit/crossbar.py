"""How a layer is cut into partitions, and everything its crossbars are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.cells import Cell, CellCapacitance, build_cell, cell_capacitance, series_resistance
from imac_torch.cells.capacitance import NO_CHARGE
from imac_torch.cells.parameters import device_with
from imac_torch.circuit.wires import segments
from imac_torch.config import Config, Crossbar
from imac_torch.errors import CircuitError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.mapping.slices import Slicing
from imac_torch.periphery.readout import ReadOut, build_read_out


def partition_ends(count: int, parts: int) -> tuple[int, ...]:
    """Last line (1-based) of every part when ``count`` lines are cut into ``parts``.

    Part k ends at ``int(count·k/parts + min((count mod parts)/k, 1))``: IMAC-Sim's rule, which
    makes some parts one line longer, evaluated in integers. It can leave parts empty when they
    are about as many as the lines (6 lines in 5 parts: 2, 0, 1, 2, 1); then the first parts are
    one line longer, and none is empty.

    Raises:
        CircuitError: There are more parts than lines.
    """
    if not 1 <= parts <= count:
        raise CircuitError(f"{count} lines cannot be cut into {parts} partitions")
    remainder = count % parts
    ends = []
    for k in range(1, parts + 1):
        # int(count·k/parts + min(remainder/k, 1)) over the common denominator parts·k
        addend = min(remainder * parts, parts * k)
        ends.append((count * k * k + addend) // (parts * k))
    if any(before >= after for before, after in pairwise((0, *ends))):
        return tuple(k * (count // parts) + min(k, remainder) for k in range(1, parts + 1))
    return tuple(ends)


@dataclass(frozen=True)
class CrossbarSpec(Brief):
    """The crossbars of one layer with their wires and amplifiers.

    Shapes: M outputs, L slices, N inputs, C = N+1 columns (the bias last), H and V partitions.

    A layer in G groups (a grouped convolution) is G such sets of crossbars, all cut alike, with
    M/G outputs and N inputs of its own each. They share nothing.

    Attributes:
        conductances: Pairs of shape (..., M·L, N+1), S; leading dimensions are samples. In groups
            it is (..., G, M·L/G, N+1).
        column_ends: Last column (1-based) of each of the H horizontal partitions.
        row_ends: Last of the M·L (in groups M·L/G) rows (1-based) of each of the V vertical
            partitions.
        input_segment: Ω (0-dimensional float64), per cell on an input line; 0 is an ideal wire.
        output_segment: Ω (0-dimensional float64), per cell on an I± line; 0 is an ideal wire.
        read_out: What every row of every horizontal partition ends in, and how they meet.
        cell: What its cells are, conductances being those of their memory devices at small
            voltages; None: resistors.
        groups: G.
        numbers: Those of ``cell`` that are differentiated, by their paths
            (:func:`imac_torch.cells.parameters.device_numbers`).
        capacitance: Of its cells.
    """

    conductances: ConductancePair
    column_ends: tuple[int, ...]
    row_ends: tuple[int, ...]
    input_segment: Tensor
    output_segment: Tensor
    read_out: ReadOut
    cell: Cell | None = None
    groups: int = 1
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    capacitance: CellCapacitance = NO_CHARGE

    def __post_init__(self) -> None:
        """Check that shapes chain and values are physical.

        Raises:
            CircuitError: They do not.
        """
        positive, negative = self.conductances.positive, self.conductances.negative
        if positive.shape != negative.shape or positive.ndim < 2:
            raise CircuitError(
                "conductances must be two tensors of the same (..., M, N+1) shape, got "
                f"{tuple(positive.shape)} and {tuple(negative.shape)}"
            )
        if self.groups > 1 and (positive.ndim < 3 or positive.shape[-3] != self.groups):
            raise CircuitError(
                f"conductances of {self.groups} groups are (..., {self.groups}, M/G, N+1), got "
                f"{tuple(positive.shape)}"
            )
        if positive.shape[-2] % self.slicing.count:
            raise CircuitError(
                f"{positive.shape[-2]} rows cannot be outputs of {self.slicing.count} slices each"
            )
        for name, ends, count in (
            ("column_ends", self.column_ends, positive.shape[-1]),
            ("row_ends", self.row_ends, positive.shape[-2]),
        ):
            ascending = all(a < b for a, b in pairwise((0, *ends)))
            if not ends or ends[-1] != count or not ascending:
                raise CircuitError(f"{name} = {ends} does not cut {count} lines")
        for name, tensor in (("positive", positive), ("negative", negative)):
            lowest, highest = (float(x) for x in torch.aminmax(tensor.detach()))
            if not (lowest >= 0.0 and highest < float("inf")):  # what is no number is neither
                raise CircuitError(
                    f"{name} conductances must be finite and >= 0 (0 is an open cell), got "
                    f"{lowest} to {highest} S"
                )
        for name in ("input_segment", "output_segment"):
            value = float(getattr(self, name).detach())
            if not 0 <= value < float("inf"):
                raise CircuitError(f"{name} = {value} Ω must be finite and >= 0")
        if self.read_out.combination.partitions != len(self.column_ends):
            raise CircuitError(
                f"the read-out combines {self.read_out.combination.partitions} partitions, "
                f"column_ends = {self.column_ends} makes {len(self.column_ends)}"
            )

    def select(self, sample: int) -> CrossbarSpec:
        """One of the samples of the conductances; a layer without samples is all of them."""
        positive, negative = self.conductances.positive, self.conductances.negative
        if positive.ndim == (2 if self.groups == 1 else 3):
            return self
        return replace(self, conductances=ConductancePair(positive[sample], negative[sample]))

    def group(self, number: int) -> CrossbarSpec:
        """One of its groups, a layer of its own."""
        pair = ConductancePair(*(x[..., number, :, :] for x in vars(self.conductances).values()))
        read_out, rows = self.read_out, pair.positive.shape[-2]
        real = read_out.imperfections
        if real is not None and len(real.offsets) > 1:
            own = real.offsets[number * rows : (number + 1) * rows]
            read_out = replace(read_out, imperfections=replace(real, offsets=own))
        return replace(self, conductances=pair, read_out=read_out, groups=1)

    @property
    def slicing(self) -> Slicing:
        """Rows of one output."""
        return self.read_out.combination.slicing

    @property
    def outputs(self) -> int:
        """M, of all groups."""
        return self.groups * int(self.conductances.positive.shape[-2]) // self.slicing.count

    @property
    def inputs(self) -> int:
        """N, of one group, the bias not counted."""
        return int(self.conductances.positive.shape[-1]) - 1

    @property
    def column_ranges(self) -> tuple[tuple[int, int], ...]:
        """Half-open 0-based column range of every horizontal partition."""
        return tuple(pairwise((0, *self.column_ends)))

    @property
    def row_ranges(self) -> tuple[tuple[int, int], ...]:
        """Half-open 0-based row range of every vertical partition."""
        return tuple(pairwise((0, *self.row_ends)))


def partitions(
    columns: int, rows: int, size: Crossbar
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Last columns and last rows (1-based) of the partitions of one layer.

    Args:
        columns: Lines, the bias among them.
        rows: Pairs of output lines.
        size: Of a per-layer configuration (:meth:`Config.for_layer`).

    Raises:
        CircuitError: The layer cannot be cut as asked.
    """
    horizontal = -(-columns // size.columns) if size.horizontal is None else size.horizontal
    vertical = -(-rows // size.rows) if size.vertical is None else size.vertical
    if not isinstance(horizontal, int) or not isinstance(vertical, int):
        raise CircuitError(
            f"crossbar.horizontal = {horizontal}, vertical = {vertical} are not resolved for one "
            "layer (Config.for_layer)"
        )
    return partition_ends(columns, horizontal), partition_ends(rows, vertical)


def build_crossbar(
    conductances: ConductancePair,
    config: Config,
    gain: float,
    groups: int = 1,
    offsets: Tensor | None = None,
    numbers: Mapping[str, Tensor] | None = None,
) -> CrossbarSpec:
    """Cut a layer and give it the wires and the read-out of its (per-layer) configuration.

    Args:
        conductances: Of memory devices, pairs of shape (..., M·L, N+1), S. Where rows share an
            I- line, those of the first row of every array are there, and no others.
        config: From :meth:`Config.for_layer`; partitions, slices and resistances are read.
        gain: Of the amplifiers.
        groups: G; each is cut as asked.
        offsets: (M·L, H, n) V of the amplifiers, besides ``amplifier.offset``.
        numbers: In place of those of the devices, by their paths; differentiable.

    Raises:
        CircuitError: The layer cannot be cut as asked, or values are not physical.
        ConfigError: There is no such read-out.
    """
    if groups > 1:
        conductances = ConductancePair(
            *(side.unflatten(-2, (groups, -1)) for side in vars(conductances).values())
        )
    rows, columns = conductances.positive.shape[-2:]
    column_ends, row_ends = partitions(columns, rows, config.crossbar)
    wire = segments(config.interconnect)
    device, numbers = conductances.positive.device, numbers or {}
    section = device_with(config.device, numbers)
    series: float | Tensor = series_resistance(section)
    if series > 0.0:
        (series,) = numbers.values() or (series,)
        conductances = ConductancePair(
            *(side / (1.0 + series * side) for side in vars(conductances).values())
        )

    read_out = build_read_out(config, gain, len(column_ends), device=device, offsets=offsets)
    if read_out.shared:
        read_out = read_out.on_rows(row_ends)
        own = torch.zeros(rows, 1, dtype=torch.bool, device=device)
        own[[0, *row_ends[:-1]]] = True
        none = conductances.negative.new_zeros(())
        conductances = replace(
            conductances, negative=torch.where(own, conductances.negative, none)
        )

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=device)

    return CrossbarSpec(
        conductances=conductances,
        column_ends=column_ends,
        row_ends=row_ends,
        input_segment=scalar(wire.input_line),
        output_segment=scalar(wire.output_line),
        read_out=read_out,
        cell=build_cell(section, config),
        groups=groups,
        numbers=numbers,
        capacitance=cell_capacitance(config.device, config),
    )
