"""Steps of networks all of whose parts the compiled step knows.

:class:`TiledStepper` is :class:`imac_torch.transient.step.Stepper` with other hands: what that does
in torch, layer after layer, :mod:`imac_torch.kernels.march` does for tiles of images and for all
steps from corner to corner of the inputs, with the same results but for rounding and for what
Newton's method leaves. The state is in its arrays.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.dc.newton import LARGEST_STEP
from imac_torch.errors import SolverError
from imac_torch.kernels import places
from imac_torch.kernels.places import LANES
from imac_torch.periphery.readout import ReadOut
from imac_torch.transient.accuracy import CUBIC, LEFT, LEFT_BEHIND, SEEN, SMALLEST_PART
from imac_torch.transient.drive import RampDrive, Sequence
from imac_torch.transient.integrator import ERROR, FINE, MIDDLE, QUADRATURE, SPAN
from imac_torch.transient.kinks import BENT, HELD, MISSED
from imac_torch.transient.lines import LEFT_OUT_FACTOR, Ends, LineState, ReducedLines
from imac_torch.transient.options import TransientOptions
from imac_torch.transient.panels import LinePanels, NoPanels
from imac_torch.transient.power import Powers
from imac_torch.transient.preparation import DynamicLayer
from imac_torch.transient.state import NeuronState, present
from imac_torch.transient.step import FailedStep, Stepper, TriedStep

if TYPE_CHECKING:
    from imac_torch.kernels import march

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
SEEN_BY: Final = 0.1
"""Of outputs by an end, relative to the other end, from which on they tell what its voltage is."""
PLACES: Final = 64
"""Steps of which a group has room for records, until it gives them back."""


class March(NamedTuple):
    """Steps one after the other.

    Attributes:
        times: (n, 3) s, of their starts, stages and ends, from the start of the period.
        starts: (B, M) V of every layer that is saved, where the first one begins.
        outputs: (n, 2, B, M) V of these layers, at stages and ends.
        power: (6, B) W where the first one begins.
        powers: (n, 2, 6, B) W at stages and ends.
        energy: (6, B) J that sources have delivered.
        rejected: Steps that were taken back.
        wanted: s, the next step.
        finished: Whether there is nothing left to do.
        stuck: What could not be solved by any step, if there is something.
        step: s, tried last.
    """

    times: Tensor
    starts: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    power: Tensor
    powers: Tensor
    energy: Tensor
    rejected: int
    wanted: float
    finished: bool
    stuck: FailedStep | TriedStep | None
    step: float


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

    marches = True

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
        # Products take lines by fours.
        rows = [p.filters * p.width + 4 if p.filters else 0 for p in self._panels]
        self._held = [
            np.zeros((self._tiles, p.parts, places.HELD, count * LANES))
            for p, count in zip(self._panels, rows, strict=True)
        ]
        self._results = np.zeros((len(counts), self._tiles, places.RESULTS, LANES))
        self._sets, self._half = [0, 1, 2], 0
        self._corner = 2  # 1: behind a corner, 2: nor was there a step before
        self._length = 0.0  # of the step before
        for k, state in enumerate(self.neurons):
            for name, field in (*_FIELDS.items(), ("outputs", places.RECORDED)):
                self._field(k, field)[:] = self._in_tiles(getattr(state, name))
        for k, line in enumerate(self.lines[1:]):
            if self._panels[k].filters:
                self._held[k][:, :, places.VALUES, : -4 * LANES] = (
                    present(line).values[:, self._images]
                    .unflatten(1, (-1, LANES)).permute(1, 0, 3, 2).flatten(2)
                )  # fmt: skip
        self._saved = range(0 if options.save == "all" else len(counts) - 1, len(counts))
        self._arrays = self._of_layers()
        self._group = self._of_all_layers()
        self._begun = True

    def _of_layers(self) -> march.Layers:
        """Arrays of all layers."""
        from imac_torch.kernels import march  # imports numba

        parts = [self._layer(k) for k in range(len(self.layers))]
        fields: dict[str, Any] = {name: tuple(part[name] for part in parts) for name in parts[0]}
        for name in ("sizes", "scalars"):
            fields[name] = np.array(fields[name])
        return march.Layers(**fields, results=self._results)

    def _layer(self, k: int) -> dict[str, NDArray[Any]]:
        """Arrays of one layer, but for its results."""
        layer, behind = self.layers[k], self._panels[k]
        tables = present(layer.neurons.tables)
        parts, longest = behind.bias_currents.shape[1:]
        read_out = self.layers[k + 1].ports.read_out if k + 1 < len(self.layers) else None
        forms, direct, filtered = np.zeros((0, 3)), behind.ends_direct, behind.ends_filtered
        if read_out is not None and self.options.amplifiers:
            forms, asked = _forms(read_out, direct.shape[2] // 2)
            direct, filtered = (
                np.ascontiguousarray(side[:, :, :asked]) for side in (direct, filtered)
            )
        vectors = [np.zeros((parts, longest)) for _ in range(4)]
        return dict(  # noqa: C408 - as the fields are named
            kept=self._kept[k], passed=self._passed[k], following=self._passed[k + 1],
            lines=self._held[k],
            record=np.zeros((
                PLACES if k in self._saved else 0, 2, self._tiles, layer.ports.outputs, LANES
            )),
            sizes=np.array([
                k + 1 < len(self.layers), behind.width, behind.filters, *tables.table.shape[:2]
            ]),
            scalars=np.array([layer.steepness, float(layer.neurons.circuit.level_shift)]),
            table=tables.flat, grid=tables.grid,
            circuit=_circuit(layer, amplifiers=self.options.amplifiers),
            capacitance=layer.neurons.capacitance.contiguous().numpy(),
            first=behind.first, starts=behind.starts, poles=behind.poles,
            by_filter=behind.admittance, by_filter_bias=behind.bias_currents,
            by_filter_transfer=behind.transfer,
            admittance=np.zeros_like(behind.admittance[0]),
            left=vectors[0], across=vectors[1], own=vectors[2], bias_currents=vectors[3],
            inverse=np.zeros(behind.filters), through=np.zeros(behind.filters),
            transfer=np.zeros_like(behind.transfer[0]),
            onward=behind.onward, at_rest=behind.at_rest, missed=behind.missed,
            bias_row=behind.bias_row, bias_filtered=behind.bias_filtered,
            forms=forms, ends_direct=direct, ends_filtered=filtered,
        )  # fmt: skip

    def _of_all_layers(self) -> march.Group:
        """What belongs to all of them."""
        from imac_torch.kernels import march

        def zeros(*shape: int) -> NDArray[np.float64]:
            return np.zeros((*shape, LANES))

        tiles, kinds = self._tiles, march.POWERS
        alive = torch.nn.functional.pad(self.alive, (0, tiles * LANES - len(self.alive)))
        return march.Group(
            carried=zeros(tiles, places.CARRIED),
            alive=alive.to(torch.float64).unflatten(0, (-1, LANES)).numpy(),
            inside=zeros(tiles) + 1.0, left_out=zeros(tiles), largest=zeros(tiles, kinds),
            powers=zeros(3, tiles, kinds), moving=zeros(3, tiles, kinds),
            stored=zeros(2, tiles, kinds), past=zeros(tiles, kinds), energy=zeros(tiles, kinds),
            times=np.zeros((PLACES, 3)), totals=zeros(PLACES, 2, tiles, kinds),
        )  # fmt: skip

    def _in_lanes(self, values: Tensor) -> NDArray[np.float64]:
        """(..., B) → (tiles, ..., LANES)."""
        parted = values[..., self._images].unflatten(-1, (-1, LANES)).movedim(-2, 0)
        return parted.contiguous().numpy()

    def _of_lanes(self, values: NDArray[np.float64]) -> Tensor:
        """(tiles, n, LANES) → (n, B), copied."""
        found = torch.from_numpy(values).transpose(0, 1).flatten(1)
        return found[:, : len(self.alive)].clone()

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
        count = self._panels[k].filters * self._panels[k].width * LANES
        held = torch.from_numpy(self._held[k][:, :, field, :count])
        found = held.unflatten(-1, (-1, LANES))
        return found.permute(1, 0, 3, 2).flatten(1, 2)[:, : len(self.alive)]

    def _as_tensors(self) -> None:
        """Neurons and lines as those who ask for them expect them."""
        self.neurons, self.lines = [], [None]
        for k in range(len(self.layers)):
            fields = {name: self._of_tiles(self._field(k, at)) for name, at in _FIELDS.items()}
            none = fields["gates"].new_zeros(0)
            combined = self._of_tiles(self._passed[k][:, places.COMBINED + 1]).clone()
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
        if not self._begun or not isinstance(self.drive, RampDrive):
            super().corner()
            return
        if self._taken:
            self._corner = 1
        # Nothing but what inputs deliver jumps.
        total, charging, stored = self._now
        moving = torch.cat([self.drive.powers(), charging[2:]])
        self._now = Powers(total - charging + moving, moving, stored)

    def begin(self, period: int) -> None:
        """See :class:`Stepper`."""
        from imac_torch.kernels.drives import Drive

        super().begin(period)
        if not isinstance(self.drive, RampDrive):
            raise SolverError("the compiled steps know ramps only")
        basis, rows, kinds, filtered, slopes, poles = self.drive.parts()
        form = rows.new_zeros(0, 0, rows.shape[-1])
        if self.options.amplifiers:
            form = _form(self.layers[0].ports.read_out, self.drive.basis)
        self._drive = Drive(
            self._in_lanes(basis.permute(0, 2, 1)), self._in_lanes(rows), kinds.numpy(),
            self._in_lanes(form), filtered.numpy(), slopes.numpy(), poles.numpy(),
            np.array([self.sequence.timing.transition]),
        )  # fmt: skip

    def march(self, time: float, corner: float, wanted: float, longest: float) -> March:
        """Steps of a period from ``time`` to ``corner`` (s), or as many as there is room for.

        Args:
            time: s from the start of the period.
            corner: s, likewise.
            wanted: s, the first step.
            longest: s.
        """
        from imac_torch.kernels import march as kernels

        control, group, drive = self.options.control, self._group, self._drive
        before = self._now
        for target, values in (
            (group.powers[0], before.total - before.charging), (group.moving[0], before.charging),
            (group.stored[0], before.stored), (group.largest, self.largest),
        ):  # fmt: skip
            target[:] = self._in_lanes(values)
        # What inputs and their bias have delivered is counted by itself.
        group.stored[0, :, :2] = 0.0
        group.energy[:] = 0.0
        sets = np.array([*self._sets, self._half, self._corner])
        counts, failed = np.array([self._taken, 0, 0]), np.zeros(2, dtype=np.int64)
        clock = np.array([time, self._length, wanted, 0.0])
        starts = [self._of_tiles(self._field(k, places.RECORDED)).clone() for k in self._saved]
        how = kernels.march(
            self._arrays, drive, group, len(self.alive), self._numbers(),
            np.array([
                control.tolerance, control.smallest, longest, corner, FINE, self._shortest, SPAN,
                SMALLEST_PART, self.options.amplifiers, 2.0 * ERROR, SEEN, *QUADRATURE,
                LEFT_OUT_FACTOR,
            ]),
            clock, sets, counts, failed,
        )  # fmt: skip
        steps = int(counts[1])
        self._taken, self._length = int(counts[0]), float(clock[1])
        self._sets, self._half, self._corner = sets[:3].tolist(), int(sets[3]), int(sets[4])
        self._drive_to(float(clock[0]))
        self._now = Powers(*(
            self._of_lanes(part)
            for part in (
                group.powers[0] + group.moving[0], group.moving[0], group.stored[0]
            )
        ))  # fmt: skip
        self.largest = self._of_lanes(group.largest)
        self.inside &= self._of_lanes(group.inside[:, None])[0] > 0.0
        for left in (self._of_lanes(group.left_out[:, None])[0], self.drive.left_out()):
            self.reduction_error = torch.maximum(self.reduction_error, left)
        found = March(
            torch.from_numpy(group.times[:steps].copy()),
            tuple(starts),
            tuple(
                torch.from_numpy(self._arrays.record[k][:steps]).transpose(3, 4).flatten(2, 3)
                [:, :, : len(self.alive)].clone() for k in self._saved
            ),
            before.total,
            torch.from_numpy(group.totals[:steps]).transpose(2, 3).flatten(3)
            [..., : len(self.alive)].clone(),
            self._of_lanes(group.energy),
            int(counts[2]),
            float(clock[2]),
            how != kernels.FULL,
            None,
            float(clock[3]),
        )  # fmt: skip
        if how == kernels.STUCK_NEWTON:
            self._as_tensors()
            found = found._replace(stuck=FailedStep(int(failed[1]), int(failed[0])))
        if how == kernels.STUCK_ERROR:
            errors = torch.stack([self._result(k, places.ERROR) for k in range(len(self.layers))])
            power = self._now
            found = found._replace(
                stuck=TriedStep(errors / control.tolerance, [], [], [], (power, power))
            )
        return found

    def _numbers(self) -> NDArray[np.float64]:
        """Of :func:`imac_torch.kernels.steps.step_layer`; 0 where they are those of a step."""
        return np.array([
            0.0, 0.0, self.vdd,
            self.tolerance, self.options.max_iterations, LARGEST_STEP, MIDDLE,
            0.0, 0.0, 0.0, 0.0,
            1.0, CUBIC * SPAN, 0.0, LEFT, LEFT_BEHIND,
            0.0, MISSED, HELD, BENT,
        ])  # fmt: skip

    def _drive_to(self, time: float) -> None:
        """Let the first layer's inputs be where the compiled steps have brought them."""
        if isinstance(self.drive, RampDrive):
            self.drive.brought(time, torch.from_numpy(self._drive.filtered.copy()))
            self._drive.slopes[:] = self.drive.parts()[4].numpy()


def _form(read_out: ReadOut, basis: Ends) -> Tensor:
    """(J, J, B) W: what read-outs deliver of line ends Σ x_j·basis_j, but for what meets there."""
    one, cross, two = (
        part[:, None] for part in _squares(read_out, basis.positive.shape[-2]).unbind(-1)
    )
    plus, minus = basis.positive, basis.negative
    return torch.einsum("jbmh,kbmh->jkb", plus, one * plus + 0.5 * cross * minus) + (
        torch.einsum("jbmh,kbmh->jkb", minus, 0.5 * cross * plus + two * minus)
    )


def _squares(read_out: ReadOut, rows: int) -> Tensor:
    """(M·L, 3) W/V², what they deliver by p², p·q and q² of their ends, which are linear."""
    sides = read_out.positive_load.new_tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    plus, minus = sides.T[:, :, None, None].expand(2, 3, rows, 1)
    sources = read_out.sources(plus, minus)
    power = read_out.combination.conductance(rows) * sources[0][0].square()
    for volts, current in sources:
        power = power + volts * current
    one, two, both = power.sum(-1)
    return torch.stack([one, both - one - two, two], dim=-1)


def _forms(read_out: ReadOut, rows: int) -> tuple[NDArray[np.float64], int]:
    """The same for :func:`imac_torch.kernels.steps.step_layer`, and how many ends it takes."""
    found, asked, combination = _squares(read_out, rows), 2 * rows, read_out.combination
    sides = read_out.positive_load.new_tensor([1.0, 0.0])
    by_plus, by_minus = read_out.output(sides, 1.0 - sides).tolist()
    if combination.slicing.count == 1 and abs(by_minus) > SEEN_BY * abs(by_plus):
        # Outputs are known, so that I- ends follow: (output - a·plus)/b.
        one, cross, two = found.unbind(-1)
        ratio, scale, asked = by_plus / by_minus, by_minus * combination.weight, rows
        found = torch.stack(
            [
                one - ratio * cross + ratio**2 * two,
                (cross - 2.0 * ratio * two) / scale,
                two / scale**2,
            ],
            dim=-1,
        )
    return found.contiguous().numpy(), asked


def _circuit(layer: DynamicLayer, *, amplifiers: bool) -> NDArray[np.float64]:
    """(7,) of its neurons, see :func:`imac_torch.kernels.transient.solve_stage`; σ is 0.

    The last two are what its read-outs deliver to them, by input times current and by inputs².
    """
    neurons, combination = layer.neurons, layer.ports.read_out.combination
    circuit = neurons.circuit
    one = torch.ones_like(circuit.feedback_conductance).reshape(1)
    tied = -float(combination.meeting_power(one, 0.0 * one))
    onward = float(combination.meeting_power(one, one)) + tied
    return np.array([
        float(circuit.input_resistance),
        float(circuit.feedback_conductance),
        float(circuit.level_shift),
        0.0,
        neurons.gate_capacitance,
        *((onward, tied) if amplifiers else (0.0, 0.0)),
    ])
