"""What transients need of a network besides its DC description, prepared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.config import Interconnect, Timing
from imac_torch.dc.curved import CurvedLayer
from imac_torch.dc.layer import PreparedLayer
from imac_torch.dc.network import eliminated
from imac_torch.elimination.ports import PortNetwork, refuse_real
from imac_torch.errors import SolverError
from imac_torch.numeric.budget import lines_bytes, require_memory
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.transient.amplifiers import RealLines
from imac_torch.transient.cells import CurvedLines
from imac_torch.transient.charged import ChargedLines
from imac_torch.transient.dynamics import FITS, DynamicBlocks, LineCapacitances, SeriesModel
from imac_torch.transient.lines import LEFT_OUT_FACTOR, ExactLines, ReducedLines
from imac_torch.transient.neuronstage import DynamicNeurons, NeuronTables, steepness
from imac_torch.transient.options import TransientOptions
from imac_torch.transient.panels import ReducedPanels
from imac_torch.transient.slow import SlowOutputs

EXACT_NODES = 2_000
"""Nodes of all crossbars (three per cell) above which ``auto`` reduces them."""
BOUND = 0.5
"""What reduced models whose order is not given may report to leave out, in tolerances, at inputs
that all change at once and at random; those of images change together, and make two to three times
as much of it."""
STEEPER = 2.0
"""How much steeper than its inputs' ramps a neuron is taken to be, in choosing an order."""


@dataclass(frozen=True)
class DynamicLayer:
    """One layer in time.

    Attributes:
        static: Its DC description.
        lines: Its crossbars.
        neurons: With what holds charge at them; their output capacitance includes pins of the
            next layer whose lines have no resistance.
        slow: What its read-outs pass in time.
        steepness: The most that an output changes by what its neuron amplifies.
    """

    static: PreparedLayer
    lines: ReducedLines | ExactLines | ChargedLines
    neurons: DynamicNeurons
    slow: SlowOutputs
    steepness: float

    @property
    def ports(self) -> PortNetwork:
        """Its crossbars between their lines and their ends, as a linear network."""
        return self.lines.ports

    @property
    def charged(self) -> bool:
        """Whether anything in it takes time: a charge, wires' capacitances, a pole."""
        level = torch.full_like(self.neurons.capacitance, 0.25)[None]
        held = self.neurons.state(level, 2.0 * level)
        wires = not isinstance(self.lines, ReducedLines) or self.lines.model.order > 0
        return self.slow.lag.order > 0 or wires or any(bool((part != 0.0).any()) for part in held)

    @cached_property
    def panels(self) -> ReducedPanels:
        """Its lines for the compiled step, where they are reduced ones."""
        if not isinstance(self.lines, ReducedLines):
            raise SolverError("only reduced wires have panels")
        return ReducedPanels(self.lines)

    def with_load(self, capacitance: float) -> DynamicLayer:
        """The same with a capacitance (F) from every output to ground besides."""
        total = self.neurons.capacitance + capacitance
        return replace(self, neurons=replace(self.neurons, capacitance=total))


def prepare_transient(
    layers: Sequence[tuple[CrossbarSpec, NeuronSpec]],
    interconnects: Sequence[Interconnect],
    prepared: Sequence[PreparedLayer],
    options: TransientOptions | None = None,
    timing: Timing | None = None,
) -> tuple[DynamicLayer, ...]:
    """Everything that does not depend on inputs.

    Args:
        layers: Crossbars and neurons.
        interconnects: Wires of every layer: whether they have capacitance, and how much.
        prepared: The DC description of the same layers.
        options: Settings.
        timing: How fast inputs change, which the number of terms of reduced models follows; None:
            the default configuration's.

    Raises:
        SolverMemoryError: Arrays are too large for what is free.
        SolverError: Conductances have sample dimensions, curved cells with charges are to have
            reduced wires, or numbers of layers differ.
    """
    options = TransientOptions() if options is None else options
    timing = Timing() if timing is None else timing
    if not len(layers) == len(interconnects) == len(prepared) > 0:
        raise SolverError(
            f"{len(layers)} layers, {len(interconnects)} interconnects, {len(prepared)} DC layers"
        )
    nodes = sum(3 * crossbar.conductances.positive.numel() for crossbar, _ in layers)
    exact = options.wires == "exact" or (options.wires == "auto" and nodes <= EXACT_NODES)
    lines: list[ReducedLines | ExactLines | ChargedLines] = []
    for (crossbar, spec), interconnect, static in zip(layers, interconnects, prepared, strict=True):
        if crossbar.conductances.positive.ndim != 2:
            raise SolverError(
                "transients take conductances (M, C), of one sample and in one group, got "
                f"{tuple(crossbar.conductances.positive.shape)}"
            )
        capacitances = LineCapacitances.of(interconnect, crossbar)
        if isinstance(static, CurvedLayer):
            if capacitances is None and not any(crossbar.capacitance):
                lines.append(CurvedLines(static))
                continue
            if options.wires == "reduced":
                raise SolverError(
                    "curved cells whose nodes hold charge have no reduced wires: wires='auto' or "
                    "'exact' steps every node"
                )
            lines.append(ChargedLines(static, capacitances, crossbar.capacitance))
            continue
        static = eliminated(static, "transients")
        feedback = static.ports.feedback
        if crossbar.read_out.table is not None:
            raise SolverError(
                "transients do not know amplifiers given as tables (amplifier.table), of which "
                "currents at rest were measured and no charges: describe them by open_loop_gain, "
                "swing, quiescent_current and a pole, or use what knows them: network.solve, "
                "evaluate, netlists"
            )
        if feedback is not None and feedback.notices:
            raise SolverError(
                "in transients amplifiers with a resistance in their loop do not drive neurons "
                "themselves: set amplifier.pole, whose buffer drives them, or combine = 'sum', or "
                "leave amplifier.open_loop_resistance out"
            )
        if capacitances is None and not crossbar.read_out.ideal:
            lines.append(RealLines(static))
            continue
        refuse_real(crossbar, "a transient with capacitances of wires (interconnect.capacitance)")
        if capacitances is None:
            lines.append(ReducedLines(SeriesModel.static(static.ports), static.ports))
            continue
        blocks = DynamicBlocks.of(crossbar, capacitances)
        if blocks.cells is not None and options.wires == "reduced":
            raise SolverError(
                "reduced wires are charged to ground, cells that hold charge (device.capacitance) "
                "are not: wires='auto' or 'exact' steps every node"
            )
        every = exact or blocks.cells is not None
        horizontal, vertical, rows, columns = blocks.layout.sizes
        require_memory(
            lines_bytes(
                horizontal * vertical, rows, columns, static.ports.inputs + 1, exact=every
            ),
            f"preparing arrays of {rows}×{columns} cells for transients",
            "take smaller arrays (crossbar.rows, crossbar.columns)"
            + (", or wires='reduced'" if exact and blocks.cells is None else ""),
            blocks.positive.device,
        )
        if every:
            lines.append(ExactLines(blocks, static.ports))
            continue
        # Inputs swing between -vdd and vdd, neurons within vdd, but those may be faster.
        free = options.order is None
        model = SeriesModel.of(
            blocks, static.ports, len(FITS) if options.order is None else options.order,
            swing=spec.vdd if lines else 2.0 * spec.vdd,
            transition=timing.transition / STEEPER if lines else timing.transition,
            target=BOUND * options.control.tolerance / LEFT_OUT_FACTOR if free else 0.0,
            loads=bool(lines),
        )  # fmt: skip
        lines.append(ReducedLines(model, static.ports))
    result: list[DynamicLayer] = []
    tables: dict[tuple[int, int], NeuronTables] = {}
    for k, ((crossbar, spec), static) in enumerate(zip(layers, prepared, strict=True)):
        ports = lines[k].ports
        device = ports.admittance.device
        capacitance = torch.full(
            (ports.outputs,), spec.output_capacitance, dtype=torch.float64, device=device
        )
        if k + 1 < len(layers):
            capacitance = capacitance + lines[k + 1].port_capacitance[:-1]
        neurons = DynamicNeurons.of(
            static.neuron,
            spec.model.charges(spec, device=device),
            spec.input_capacitance,
            capacitance,
            kernel=options.kernel,
            known=tables,
        )
        slow = SlowOutputs.of(crossbar.read_out, amplifiers=options.amplifiers)
        steep = steepness(static.neuron, ports.outputs, spec.vdd)
        result.append(DynamicLayer(static, lines[k], neurons, slow, steep))
    return tuple(result)

