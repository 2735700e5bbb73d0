"""Steps of networks all of whose parts the compiled step knows.

:class:`TiledStepper` is :class:`imac_torch.transient.step.Stepper` with other hands: what that does
in torch, layer after layer, :mod:`imac_torch.kernels.steps` does for tiles of images, with the same
results but for rounding and for what Newton's method leaves. The state is in its arrays.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.dc.newton import LARGEST_STEP
from imac_torch.kernels import places
from imac_torch.kernels.places import LANES
from imac_torch.kernels.threads import run_blocks
from imac_torch.periphery.readout import ReadOut
from imac_torch.transient.accuracy import CUBIC, LEFT, LEFT_BEHIND, SEEN, Earlier, power_errors
from imac_torch.transient.drive import DrivePoint, RampDrive, Sequence
from imac_torch.transient.integrator import ERROR, GAMMA, MIDDLE, SPAN, shift
from imac_torch.transient.kinks import BENT, HELD, MISSED
from imac_torch.transient.lines import LEFT_OUT_FACTOR, Ends, LineState, ReducedLines
from imac_torch.transient.neuronstage import NeuronTables
from imac_torch.transient.options import TransientOptions
from imac_torch.transient.panels import LinePanels, NoPanels
from imac_torch.transient.power import Powers, assembled
from imac_torch.transient.preparation import DynamicLayer
from imac_torch.transient.state import NeuronState, present, with_bias
from imac_torch.transient.step import FailedStep, Stepper, TriedStep, extrapolation

_FIELDS: Final = {
    "gates": places.GATE,
    "outputs": places.OUTPUT,
    "gate_charge": places.GATE_CHARGE,
    "output_charge": places.OUTPUT_CHARGE,
    "supply_charge": places.SUPPLY_CHARGE,
    "gate_rate": places.GATE_RATE,
    "output_rate": places.OUTPUT_RATE,
    "supply_rate": places.SUPPLY_RATE,
    "gate_current": places.GATE_CURRENT,
    "supply_current": places.SUPPLY_CURRENT,
}
_START, _STAGE, _PRESENT, _MIDDLE = range(4)
"""What guesses are made of: the start and the stage of the step before, and those of this one."""


def tiled(layers: Items[DynamicLayer], options: TransientOptions) -> bool:
    """Whether the compiled step knows all of a network."""
    control = options.control
    return (
        control.adaptive
        and control.method == "tr-bdf2"
        and all(
            layer.neurons.tables is not None
            and type(layer.lines) is ReducedLines
            and not layer.slow.lag.order
            and layer.ports.read_out.rails is None
            for layer in layers
        )
    )


class TiledStepper(Stepper):
    """See :class:`imac_torch.transient.step.Stepper`."""

    def __init__(
        self, layers: Items[DynamicLayer], sequence: Sequence, options: TransientOptions
    ) -> None:
        self._begun = False
        super().__init__(layers, sequence, options)
        batch = len(self.alive)
        self._tiles = -(-batch // LANES)
        # The last image fills up the last tile.
        self._images = torch.arange(self._tiles * LANES, device="cpu").clamp(max=batch - 1)
        counts = [layer.ports.outputs for layer in self.layers]
        self._panels: list[LinePanels] = [*(layer.panels for layer in layers[1:])]
        self._panels.append(NoPanels(counts[-1]))
        self._kept = [
            np.zeros((self._tiles, count, 3 * places.KEPT, LANES)) for count in counts
        ]
        self._passed = [
            np.zeros((self._tiles, places.PASSED, count, LANES)) for count in (*counts, 0)
        ]
        self._held = [
            np.zeros((self._tiles, p.parts, places.HELD, p.filters * p.width * LANES))
            for p in self._panels
        ]
        self._carried = np.zeros((self._tiles, places.CARRIED, LANES))
        self._results = np.zeros((len(counts), self._tiles, places.RESULTS, LANES))
        self._tables = [_tables(layer) for layer in self.layers]
        self._circuits = [_circuit(layer) for layer in self.layers]
        self._level_shifts = torch.tensor(
            [circuit[2] for circuit in self._circuits], dtype=torch.float64, device="cpu"
        )
        self._sets, self._half = [0, 1, 2], 0
        self._corner = 2  # 1: behind a corner, 2: nor was there a step before
        self._length = 0.0  # of the step before
        self._stage_power: Tensor | None = None
        self._first_form = torch.zeros(0, dtype=torch.float64, device="cpu")
        for k, state in enumerate(self.neurons):
            for name, field in (*_FIELDS.items(), ("outputs", places.RECORDED)):
                self._field(k, field)[:] = self._in_tiles(getattr(state, name))
        for k, line in enumerate(self.lines[1:]):
            if self._panels[k].filters:
                self._held[k][:, :, places.VALUES] = (
                    present(line).values[:, self._images]
                    .unflatten(1, (-1, LANES)).permute(1, 0, 3, 2).flatten(2)
                )  # fmt: skip
        self._kept_layers = range(0 if options.save == "all" else len(counts) - 1, len(counts))
        self.recorded = [self.recorded[k] for k in self._kept_layers]
        if isinstance(self.drive, RampDrive):
            self.drive.sparing = True
        self._begun = True

    def _in_tiles(self, values: Tensor) -> Tensor:
        """(B, M) → (tiles, M, LANES)."""
        return values[self._images].unflatten(0, (-1, LANES)).transpose(1, 2)

    def _of_tiles(self, values: NDArray[np.float64]) -> Tensor:
        """(tiles, M, LANES) → (B, M)."""
        return torch.from_numpy(values).transpose(1, 2).flatten(0, 1)[: len(self.alive)]

    def _field(self, k: int, field: int, which: int = 1) -> NDArray[np.float64]:
        """(tiles, M, LANES) of layer k, of the step before (0), now (1) or next (2)."""
        return self._kept[k][:, :, self._sets[which] * places.KEPT + field]

    def _result(self, k: int, row: int) -> Tensor:
        """(B,) of layer k."""
        return torch.from_numpy(self._results[k, :, row]).flatten()[: len(self.alive)]

    def _values(self, k: int, field: int) -> Tensor:
        """(H, B, rows) of the lines behind layer k."""
        found = torch.from_numpy(self._held[k][:, :, field]).unflatten(-1, (-1, LANES))
        return found.permute(1, 0, 3, 2).flatten(1, 2)[:, : len(self.alive)]

    def _as_tensors(self) -> None:
        """Neurons and lines as those who ask for them expect them."""
        self.neurons, self.lines = [], [None]
        for k in range(len(self.layers)):
            fields = {name: self._of_tiles(self._field(k, at)) for name, at in _FIELDS.items()}
            none = fields["gates"].new_zeros(0)
            combined = self._of_tiles(self._passed[k][:, places.COMBINED + 1])
            self.neurons.append(
                NeuronState(**fields, combined=combined, lag=none, lag_rate=none)
            )
            if k + 1 < len(self.layers):
                values, rates = (
                    self._values(k, at + self._half) for at in (places.VALUES, places.RATES)
                )
                self.lines.append(LineState(values, rates))

    def corner(self) -> None:
        """See :class:`Stepper`."""
        if self._begun and self._taken:
            self._as_tensors()
            self._corner = 1
        super().corner()

    def begin(self, period: int) -> None:
        """See :class:`Stepper`."""
        super().begin(period)
        if self.options.amplifiers and isinstance(self.drive, RampDrive):
            self._first_form = _form(self.layers[0].ports.read_out, self.drive.basis)

    def _guesses(self, step: float) -> NDArray[np.float64]:
        """(2, 4) weights for both stages."""
        known = [(0.0, _PRESENT)]
        if self._taken:
            known = [(-self._length, _START), ((GAMMA - 1.0) * self._length, _STAGE), *known]
        found = np.zeros((2, 4))
        for stage in range(2):
            at = step if stage else GAMMA * step
            if stage:
                known = [*known[-2:], (GAMMA * step, _MIDDLE)]
            for place, weight in extrapolation([time for time, _ in known], at).items():
                found[stage, known[place][1]] = weight
        return found

    def _numbers(self, step: float) -> NDArray[np.float64]:
        rate = 2.0 * ERROR * step
        unseen = 0.0 if self._corner else SEEN * step / self._length
        return np.array([
            step, shift(step), self.vdd,
            self.tolerance, self.options.max_iterations, LARGEST_STEP, MIDDLE,
            rate / GAMMA, -rate / (GAMMA * (1.0 - GAMMA)), rate / (1.0 - GAMMA), unseen,
            1.0, CUBIC * SPAN, (1.0 - GAMMA) * self._length, LEFT, LEFT_BEHIND,
            0.0, MISSED, HELD, BENT,
        ])  # fmt: skip

    def attempt(self, time: float, step: float) -> TriedStep | FailedStep:
        """See :class:`Stepper`."""
        *points, _ = self.drive.try_step(time, step, "tr-bdf2", behind=bool(self._corner))
        for stage, point in enumerate(points):
            self._passed[0][:, places.COMBINED + stage] = self._in_tiles(point.combined)
        failed = self._step(step)
        if failed is not None:
            self._as_tensors()
            return failed
        powers = self._powers(points[0], 0), self._powers(points[1], 1)
        middle, ends = (
            [self._of_tiles(self._field(k, field, 2)).clone() for k in self._kept_layers]
            for field in (places.MIDDLE_OUTPUT, places.RECORDED)
        )
        errors = torch.stack([
            self._result(k, places.ERROR) for k in range(len(self.layers))
        ])
        if step > self._shortest:
            three = [power.total - power.charging for power in (self._now, *powers)]
            earlier = None
            if not self._corner and self._stage_power is not None:
                length = (1.0 - GAMMA) * self._length
                earlier = Earlier([], self._stage_power, length, [])
            relative = power_errors(step, (three[0], three[1], three[2]), earlier, self.largest)
            errors[0] = torch.maximum(errors[0], self.vdd * relative)
        errors = torch.where(self.alive, errors, 0.0) / self.options.control.tolerance
        return TriedStep(errors, [], [], [], powers, recorded=ends, between=middle)

    def _step(self, step: float) -> FailedStep | None:
        """The compiled one."""
        from imac_torch.kernels.steps import step_layer

        sets = np.array([*self._sets, self._half, self._corner])
        guesses, numbers = self._guesses(step), self._numbers(step)
        self._carried[:] = 0.0
        for k, layer in enumerate(self.layers):
            behind, tables, circuit = self._panels[k], self._tables[k], self._circuits[k]
            known = behind.at(step)
            numbers[11], circuit[3] = layer.steepness, shift(step)
            run_blocks(
                step_layer, self._tiles, torch.get_num_threads(), len(self.alive),
                self._kept[k], self._passed[k], self._passed[k + 1], self._held[k],
                self._carried, self._results[k], sets, guesses, numbers,
                tables.flat, tables.table.shape[:2], tables.grid, circuit,
                layer.neurons.capacitance.contiguous().numpy(), behind.first, behind.starts,
                known.admittance, known.left, known.across, known.own, known.bias_currents,
                k + 1 < len(self.layers), behind.width, known.inverse, known.through,
                behind.onward, known.transfer, behind.at_rest, behind.missed, behind.bias_row,
                behind.bias_filtered,
            )  # fmt: skip
            numbers[16] = known.largest
            failed = (self._result(k, places.FAILED) > 0.0) & self.alive
            if bool(failed.any()):
                return FailedStep(int(failed.nonzero()[0, 0]), k)
        return None

    def _powers(self, point: DrivePoint, stage: int) -> Powers:
        base = places.FIRST_SUM + places.SUMS * stage
        rows = torch.from_numpy(self._results[:, :, base : base + places.SUMS])
        sums = rows.permute(2, 0, 1, 3).flatten(2)[..., : len(self.alive)]  # (7, layers, B)
        supply, drawn, supply_rate, gate_rate, supply_charge, gate_charge, bias = sums
        level = self._level_shifts[:, None]
        nothing = torch.zeros_like(point.bias)
        delivered = torch.full_like(nothing, torch.nan)
        if self.options.amplifiers:
            delivered = self._delivered(point, stage)
        return assembled(
            point,
            point.bias + self.vdd * bias.sum(0),
            (self.vdd * supply.sum(0), (level * drawn).sum(0)),
            [self.vdd * supply_rate.sum(0), (level * gate_rate).sum(0)],
            [self.vdd * supply_charge.sum(0), (level * gate_charge).sum(0)],
            (delivered, nothing),
        )

    def _delivered(self, point: DrivePoint, stage: int) -> Tensor:
        """(B,) W of the amplifiers' outputs."""
        total = torch.zeros_like(point.bias)
        for k, layer in enumerate(self.layers):
            combined, drawn = (
                self._of_tiles(self._passed[k][:, field + stage])
                for field in (places.COMBINED, places.DRAWN)
            )
            read_out = layer.ports.read_out
            if k:
                raw = self._of_tiles(self._passed[k - 1][:, places.RAW_OUTPUT + stage])
                state = LineState(self._values(k - 1, places.MIDDLE + stage), None)
                ends = layer.lines.ends(state, with_bias(raw, self.vdd))
                power = read_out.power(ends.positive, ends.negative, combined, drawn)
            else:
                shares = present(point.shares)
                power = torch.einsum("i,j,ijb->b", shares, shares, self._first_form)
                power = power + read_out.combination.meeting_power(combined, drawn)
            total = total + power
        return total

    def accept(self, tried: TriedStep, step: float) -> None:
        """See :class:`Stepper`."""
        self.drive.accept()
        self._sets = [*self._sets[1:], self._sets[0]]
        self._half, self._corner, self._length = 1 - self._half, 0, step
        middle, self._now = tried.powers
        self._stage_power = middle.total - middle.charging
        for power in tried.powers:
            self.largest = torch.maximum(self.largest, power.total.abs())
        self._taken += 1
        self.recorded = tried.recorded
        for k in range(len(self.layers)):
            self.inside &= self._result(k, places.INSIDE) > 0.0
            left = (
                LEFT_OUT_FACTOR * self._result(k - 1, places.LEFT) if k else self.drive.left_out()
            )
            self.reduction_error = torch.maximum(self.reduction_error, left)


def _form(read_out: ReadOut, basis: Ends) -> Tensor:
    """(J, J, B) W: what read-outs deliver of line ends Σ x_j·basis_j, but for what meets there.

    That is a quadratic form, known by its values at the ends and at their sums.
    """
    conductance = read_out.combination.conductance(basis.positive.shape[-2])

    def power(positive: Tensor, negative: Tensor) -> Tensor:
        sources = read_out.sources(positive, negative)
        found = conductance * sources[0][0].square()
        for volts, current in sources:
            found = found + volts * current
        return found.sum((-1, -2))

    sides = list(zip(basis.positive, basis.negative, strict=True))
    alone = [power(*side) for side in sides]
    form = basis.positive.new_empty(len(sides), len(sides), len(alone[0]))
    for i, one in enumerate(sides):
        for j in range(i + 1):
            both = power(one[0] + sides[j][0], one[1] + sides[j][1])
            form[i, j] = form[j, i] = 0.5 * (both - alone[i] - alone[j])
    return form


def _tables(layer: DynamicLayer) -> NeuronTables:
    """Those of its neurons, which :func:`tiled` has asked for."""
    return present(layer.neurons.tables)


def _circuit(layer: DynamicLayer) -> NDArray[np.float64]:
    """(5,) of its neurons, see :func:`imac_torch.kernels.transient.solve_stage`; σ is 0."""
    neurons = layer.neurons
    circuit = neurons.circuit
    return np.array([
        float(circuit.input_resistance),
        float(circuit.feedback_conductance),
        float(circuit.level_shift),
        0.0,
        neurons.gate_capacitance,
    ])
