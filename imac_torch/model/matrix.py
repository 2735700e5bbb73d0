"""ProgrammedMatrix: weights as pairs of conductances in crossbars, whatever layer they are of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from imac_torch.base.memo import Memory
from imac_torch.cells.seen import Seen
from imac_torch.circuit.crossbar import CrossbarSpec, build_crossbar, partitions
from imac_torch.config import Config
from imac_torch.config.kinds import READ_OUT_KINDS
from imac_torch.dc.prediction import Prediction, predict
from imac_torch.devices.model import draw_normal, relative_spread
from imac_torch.errors import (
    CircuitError,
    ConfigError,
    ConversionError,
    ConversionWarning,
    SolverError,
)
from imac_torch.mapping.divider import RowDivider
from imac_torch.mapping.matching import Match
from imac_torch.mapping.quantization import (
    ConductancePair,
    QuantizedWeights,
    WeightErrors,
    deviation,
    quantize,
    to_conductances,
    to_values,
    without_bias,
)
from imac_torch.mapping.residual import match_slices
from imac_torch.mapping.slices import Slicing
from imac_torch.mapping.states import RANK, InputStatistics
from imac_torch.model import gains
from imac_torch.model.devices import Devices
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.readout import ReadOut, build_read_out
from imac_torch.periphery.readout.reference import array_starts

LOOKED_AT: Final = 64
"""Outputs from which the error of a read-out is told."""
ROUNDING: Final = 1e-12
"""Part of vdd that an error of a weight has to be worth at a neuron's input to be one."""


@dataclass(frozen=True)
class Target:
    """What a layer wants of its matrix.

    Shapes: M outputs, N inputs.

    Attributes:
        weights: (M, N+1) float64, by lines at full scale, in any unit that suits the layer; the
            bias is the last column. Differentiable.
        unit: Transfer (combined amplifier voltage per line voltage) of a weight of 1; negative
            where what follows falls.
        bias: Whether there is a bias. Its column exists either way; without one it has no
            memristors, but for the scheme 'matched', which has the threshold there.
        threshold: Transfer that the scheme 'matched' adds to the bias column: what follows has
            its zero there.
        driver_resistance: Ω, of what drives the lines.
    """

    weights: Tensor
    unit: float
    bias: bool = True
    threshold: float = 0.0
    driver_resistance: float = 0.0


class ProgrammedMatrix(Devices):
    """(M, N+1) weights as pairs of memristors, their wires and read-outs.

    It holds what belongs to devices and amplifiers: what became of the cells, trims, a gain that
    was chosen, what is known of the inputs. What it should compute it asks the layer for, whose
    parameters change while it is trained. Buffers are float64 whatever type the weights have.

    Args:
        outputs: M.
        columns: N+1, the bias line is the last one.
        config: Of this layer (:meth:`Config.for_layer`).
        target: Asked for what is wanted, whenever it matters.
        name: For messages.
        groups: G; each has M/G outputs and N inputs of its own.

    Attributes:
        config: As given; another one holds from then on.
        warned: Whether it was said that no gain is large enough.
        foreign: The file that it came from, while it may not name further ones.
    """

    trim: Tensor
    matched_gain: Tensor
    input_mean: Tensor
    input_variance: Tensor
    input_factor: Tensor
    offsets: Tensor | None

    def __init__(
        self,
        outputs: int,
        columns: int,
        config: Config,
        target: Callable[[], Target],
        *,
        name: str,
        groups: int = 1,
    ) -> None:
        super().__init__(config, name)
        self.groups = groups
        self.outputs = outputs
        self.columns = columns
        self.target = target
        self.foreign: str | None = None
        self.warned = False
        # Read by the scheme 'matched'. Volts at the neuron per volt on a line, added to what the
        # weights ask for; set by calibration. On the CPU whatever the default device is; `.to`
        # moves a layer as a whole.
        trim = torch.zeros(outputs, columns, dtype=torch.float64, device="cpu")
        self.register_buffer("trim", trim)
        # NaN until it is first needed: amplifiers are built once, training must not move them.
        self.register_buffer("matched_gain", trim.new_tensor(math.nan))
        # None: no amplifier differs from the others.
        self.register_buffer("offsets", self._no_offsets())
        self.set_input_statistics(InputStatistics.independent(columns - 1))
        self._matches: Memory[Match] = Memory(4)
        self._quantized: Memory[QuantizedWeights] = Memory()
        self._seen: Memory[Seen | None] = Memory()
        self._gains: Memory[tuple[float, str]] = Memory()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ProgrammedMatrix:
        """Move the matrix; another type is for software weights, what is here keeps its own."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self.get_buffer(name)
            if after.dtype != buffer.dtype:
                self.register_buffer(name, buffer.to(after.device))
        return self

    @property
    def slicing(self) -> Slicing:
        """The pairs of a weight, which are rows of one output."""
        return Slicing.of(self.config.mapping, self.config.device)

    @property
    def rows(self) -> int:
        """M·L, all slices of all outputs."""
        return self.outputs * self.slicing.count

    @property
    def matched(self) -> bool:
        """Whether conductances are solved for row by row (scheme 'matched')."""
        return self.config.mapping.scheme == "matched"

    @property
    def statistics(self) -> InputStatistics:
        """What is known of the lines' voltages; independent and uniform unless calibrated."""
        return InputStatistics(self.input_mean, self.input_variance, self.input_factor)

    @lasting()
    def set_input_statistics(self, statistics: InputStatistics) -> None:
        """Tell the mapping what the inputs are like (:mod:`imac_torch.conversion.calibration`)."""
        missing = RANK - statistics.factor.shape[1]
        factor = torch.nn.functional.pad(statistics.factor, (0, missing))
        self.register_buffer("input_mean", statistics.mean.clone())
        self.register_buffer("input_variance", statistics.variance.clone())
        self.register_buffer("input_factor", factor.clone())

    def partitions(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Last columns and last rows (1-based) of the arrays that a group is cut into.

        Raises:
            ConversionError: It cannot be cut as asked.
        """
        try:
            return partitions(self.columns, self.rows // self.groups, self.config.crossbar)
        except CircuitError as error:
            raise ConversionError(f"{self.name}: {error}") from None

    def divider(self, gain: float) -> RowDivider:
        """What the rows compute without wires, for a given gain."""
        cpu = torch.device("cpu")  # a divider is made of numbers
        return self.read_out(gain, cpu).divider(self.partitions()[0])

    def read_out(self, gain: float, device: torch.device) -> ReadOut:
        """What the rows end in, for a given gain; its tensors are on the device."""
        self._check_files()
        return build_read_out(self.config, gain, len(self.partitions()[0]), device=device)

    def _check_files(self) -> None:
        """Refuse files that another file brought along.

        Raises:
            ConfigError: Nobody asked to use them.
        """
        name = self.config.amplifier.table
        if self.foreign is not None and name is not None:
            raise ConfigError(
                f"{self.foreign} names another file, amplifier.table = {name!r}, which is not used "
                "unasked: load the network with files=True (on the command line --trust) if you "
                "trust it"
            )

    def quantized(self) -> QuantizedWeights:
        """Weights and bias in units of the device's full scale, and what rounding cost."""
        return self._quantized_of(self.target())

    def _quantized_of(self, target: Target) -> QuantizedWeights:
        settings = (self.config.mapping, self.slicing)
        found = self._quantized.get(
            (*settings, target.bias),
            (target.weights,),
            lambda: quantize(
                target.weights.detach(), *settings, where=self.name, bias=target.bias
            ),
        )
        tracked = target.weights.requires_grad and torch.is_grad_enabled()
        return found.follow(target.weights) if tracked else found

    def wanted_transfer(self) -> Tensor:
        """(M, N+1): combined amplifier voltage per line voltage that the rounded weights mean.

        The bias line, last, is at vdd; the threshold is in its column, and so is what calibration
        has trimmed.
        """
        target, quantized = self.target(), self.quantized()
        column = torch.zeros_like(self.trim)
        column[:, -1] = target.threshold
        return target.unit * quantized.scale * quantized.values + column + self.trim

    @property
    def seen(self) -> Seen | None:
        """What lines see of the cells' conductances; None: these themselves."""
        if self.config.device.ohmic:
            return None
        known = self.statistics
        factor = known.factor.square().sum(-1)

        def made() -> Seen | None:
            rms = (known.mean.square() + known.variance + factor).sqrt()
            return Seen.of(self.config, self.config.supplies.vdd * rms)

        return self._seen.get(self.config, (known.mean, known.variance, known.factor), made)

    def _as_seen(self, pair: ConductancePair) -> ConductancePair:
        return pair if self.seen is None else self.seen.by_lines(pair)

    def match(self, gain: float | None = None) -> Match:
        """Conductances of the scheme 'matched', and what range and states cost.

        Args:
            gain: Of the amplifiers; None: the matrix's.
        """
        gain = self.gain() if gain is None else gain
        wanted, moments, seen = self.wanted_transfer(), self.statistics, self.seen
        device = self.config.device if seen is None else seen.device
        arguments = (device, self.divider(gain), moments)

        def found(wanted: Tensor) -> Match:
            match = match_slices(wanted, *arguments, where=self.name)
            return match if seen is None else replace(match, pair=seen.to_program(match.pair))

        if wanted.requires_grad and torch.is_grad_enabled():
            return found(wanted)
        return self._matches.get(
            (self.config.device, *arguments[:2]),
            (wanted, moments.mean, moments.variance, moments.factor),
            lambda: found(wanted.detach()),
        )

    @property
    def shared(self) -> bool:
        """Whether the rows of an array share one line of reference cells.

        Raises:
            ConversionError: The mapping is for pairs.
        """
        amplifier, mapping = self.config.amplifier, self.config.mapping
        if not READ_OUT_KINDS.get(amplifier.kind).shared:
            return False
        if mapping.scheme != "balanced":
            raise ConversionError(
                f"{self.name}: amplifier.kind = {amplifier.kind!r} has one device per weight, and "
                f"mapping.scheme = {mapping.scheme!r} sets two; take mapping.scheme = 'balanced'"
            )
        return True

    def _first(self) -> list[int]:
        """By row, the first one of its array, which has the cells of reference."""
        size, starts = self.rows // self.groups, array_starts(self.partitions()[1])
        return [group * size + start for group in range(self.groups) for start in starts]

    def conductances(self) -> ConductancePair:
        """See :class:`Devices`; where rows share an I- line, each has its cells."""
        pair = super().conductances()
        if not self.shared:
            return pair
        return replace(pair, negative=pair.negative[..., self._first(), :])

    def nominal_conductances(self) -> ConductancePair:
        """(M·L, N+1) S, as programmed without error; differentiable in the weights.

        L slices of one output are neighbours (:mod:`imac_torch.mapping.slices`). Rows that share
        their I- line with one before them have no cells there: 0 S.
        """
        if self.matched and not self.shared:
            return self.match().pair
        target = self.target()
        pair = self._nominal_of(target, self._quantized_of(target))
        if not self.shared:
            return pair
        own = [row == first for row, first in enumerate(self._first())]
        real = torch.tensor(own, device=pair.negative.device)[:, None]
        return replace(pair, negative=torch.where(real, pair.negative, 0.0))

    def _nominal_of(
        self, target: Target, quantized: QuantizedWeights, outputs: Tensor | None = None
    ) -> ConductancePair:
        """Of all outputs, or of some of them, by number."""
        if self.matched:
            pair = self.match().pair
            return pair if outputs is None else pair.of_rows(self.slicing.rows_of(outputs))
        mapping = self.config.mapping
        values = quantized.values if outputs is None else quantized.values[outputs]
        values = math.copysign(1.0, target.unit) * values
        if not target.bias:
            # A pair of equal cells would not do: the read-out weighs the two sides of a row alike
            # only where their sums are.
            values = values[:, :-1]
        digits = self.slicing.digits(values, mapping.level_count)
        pair = to_conductances(digits, self.config.device, mapping, where=self.name)
        if self.shared:
            pair = replace(pair, negative=(pair.positive.detach() + pair.negative.detach()) / 2.0)
        return pair if target.bias else without_bias(pair)

    def forget(self) -> None:
        """Let go of tensors that are remembered; they are computed anew when they are asked for."""
        self._matches.clear()
        self._quantized.clear()
        self._seen.clear()

    def sources(self) -> tuple[Tensor, ...]:
        """Buffers that the circuit depends on, the gain (what lines see of cells that bend) too."""
        if self.matched or not self.config.device.ohmic:
            return tuple(self.buffers())
        return () if self.offsets is None else (self.offsets,)

    def transfer(self) -> Tensor:
        """(M, N+1): combined amplifier voltage per line voltage of the devices, without wires."""
        return self.divider(self.gain()).transfer(self._as_seen(self.conductances()))

    def crossbar(self) -> CrossbarSpec:
        """The crossbars as they are built, wires included."""
        self._check_files()
        return build_crossbar(
            self.conductances(), self.config, self.gain(), self.groups, self.offsets, self.numbers
        )

    def seen_crossbar(self) -> CrossbarSpec:
        """The same of resistors, as lines see the cells; see :mod:`imac_torch.cells.seen`.

        Raises:
            SolverError: Inputs hold gates: lines see no resistors.
        """
        spec = self.crossbar()
        if spec.cell is None:
            return spec
        if spec.cell.gated:
            raise SolverError(
                f"{self.name}: inputs hold gates of its cells ({spec.cell}), which no resistors "
                "stand for: there are no weights to tell"
            )
        device = self.config.device.replace(bend=None, cell=None, access=None)
        config = self.config.replace(device=device)
        pair = self._as_seen(self.conductances())
        return build_crossbar(pair, config, self.gain(), self.groups, self.offsets)

    def _no_offsets(self) -> Tensor | None:
        """(M·L, H, n) V of amplifiers that are not drawn yet; None: they do not differ."""
        if self.config.amplifier.offset_spread == 0.0:
            return None
        kind = READ_OUT_KINDS.get(self.config.amplifier.kind)
        shape = self.rows, len(self.partitions()[0]), kind.operational_amplifiers
        return self.trim.new_zeros(shape)

    @lasting()
    def drawn_offsets(self, generator: torch.Generator | None) -> Tensor | None:
        """(M·L, H, n) V of other amplifiers, see :meth:`draw`; None: they do not differ."""
        offsets, spread = self._no_offsets(), self.config.amplifier.offset_spread
        if offsets is None:
            return None
        if generator is None:
            raise self.needs_generator(f"amplifier.offset_spread = {spread} needs")
        return spread * draw_normal(offsets, generator)

    @property
    def varies(self) -> bool:
        """Whether there is anything to :meth:`draw`."""
        return self.config.device.varies or self.config.amplifier.offset_spread > 0.0

    @lasting()
    def draw(self, generator: torch.Generator | None = None) -> None:
        """Take other amplifiers and devices, of the configuration's spreads; they stay.

        Args:
            generator: Moves on by what is drawn; needed if anything is.

        Raises:
            ConversionError: A generator is needed, and there is none.
        """
        self.offsets = self.drawn_offsets(generator)
        cell = self.trim.new_tensor(1.0 / self.config.device.rlow)
        self.draw_devices(cell.expand(self.rows, self.columns), generator)

    def least_squares_gain(self) -> tuple[float, str]:
        """See :func:`imac_torch.model.gains.least_squares`."""
        target = self.target()
        return self._gains.get(
            (self.config, target.unit, target.bias),
            (target.weights, *self.sources()),
            lambda: gains.least_squares(
                self._slope_by_gain(target), self.name, self.partitions()[0]
            ),
        )

    def gain(self) -> float:
        """The amplifiers' gain: the configuration's, or the one that suits the weights.

        With the scheme 'matched' it is determined once, when it is first needed, and then kept:
        :meth:`choose_gain` determines it again.

        Warns:
            ConversionWarning: No gain is large enough; said once.
        """
        gain = self.config.amplifier.gain
        if gain is None:
            if not self.matched:
                gain, lacking = self.least_squares_gain()
                if lacking and not self.warned:
                    self.warned = True
                    warnings.warn(lacking, ConversionWarning, stacklevel=2)
                return gain
            if bool(torch.isnan(self.matched_gain)):
                self.choose_gain()
            return float(self.matched_gain)
        if not isinstance(gain, float):
            raise ConversionError(f"{self.name}: gain = {gain} is not resolved for one layer")
        return gain

    @lasting()
    def choose_gain(self) -> float:
        """Determine the gain of the scheme 'matched' for the present weights and statistics.

        That of the least error of :meth:`expected`; where outputs are proportional to the gain,
        the one for which the largest weight takes the device's whole range.
        """
        kind = READ_OUT_KINDS.get(self.config.amplifier.kind)
        if kind.proportional:
            largest = float(self.wanted_transfer().abs().max())
            device = self.config.device if self.seen is None else self.seen.device
            chosen = gains.full_scale(largest, self.divider(1.0), device)
        else:
            chosen = gains.least_expected(lambda gain: self.expected(gain).total)
        self.matched_gain.fill_(chosen)
        return chosen

    def least_expected_error(self) -> float:
        """Relative rms error to expect of neuron inputs with the gain given, or with the best."""
        free = self.config.amplifier.gain is None
        return self.expected(self.choose_gain() if free else self.gain()).total

    @torch.no_grad()
    def expected(self, gain: float) -> Prediction:
        """Errors to expect of neuron inputs with a gain, relative to what varies in them.

        Of the circuit as it is built for nominal devices, wires, partitions and the lines' drivers
        included, and of devices that spread (see :mod:`imac_torch.dc.prediction`). Cells that are
        no resistors are taken as lines see them (:mod:`imac_torch.cells.seen`).
        """
        seen, parts = self.seen, self.groups * len(self.partitions()[1])
        device = self.config.device if seen is None else seen.device
        count = gains.tried_outputs(self.outputs, self.slicing.count, parts)
        chosen = torch.linspace(
            0, self.outputs - 1, count, dtype=torch.float64, device=self.trim.device
        )
        chosen = chosen.round().to(torch.int64)
        wanted = self.wanted_transfer()[chosen]
        found = match_slices(
            wanted, device, self.divider(gain), self.statistics, where=self.name
        )
        vertical = max(1, round(parts * count / self.outputs))
        config = self.config.replace(
            crossbar=self.config.crossbar.replace(vertical=vertical),
            device=device.replace(bend=None, cell=None, access=None),
        )
        programmed = found.pair if seen is None else seen.to_program(found.pair)
        spread = relative_spread(
            self.config.device, programmed, self.slicing.rows_of(chosen), (self.rows, self.columns)
        )
        return predict(
            build_crossbar(found.pair, config, gain), wanted, self.statistics,
            source_resistance=self.target().driver_resistance,
            load_factor=max(1.0, self.outputs / self.groups / count),
            spread=max(gains.LEAST_SPREAD, spread),
        )  # fmt: skip

    @lasting()
    def _slope_by_gain(self, target: Target) -> Callable[[float], float] | None:
        """:meth:`transfer_slope` of any gain; None where all weights are 0."""
        quantized = self._quantized_of(target)
        wanted = quantized.scale * quantized.values
        largest = torch.linalg.vector_norm(wanted, math.inf)
        if float(largest) == 0.0:
            return None
        wanted /= largest
        power, unit = float(wanted.square().sum()), target.unit * float(largest)
        nominal = self._as_seen(self._nominal_of(target, quantized))
        component = self.divider(1.0).component(nominal, wanted)
        return lambda gain: component(self.divider(gain)) / power / unit

    @lasting()
    def transfer_slope(self) -> float:
        """Slope of the nominal transfer on the wanted one, least squares; 0 where that is 0."""
        slope = self._slope_by_gain(self.target())
        return 0.0 if slope is None else slope(self.gain())

    @lasting()
    def read_out_error(self) -> float:
        """How far the ideal circuit's transfer is from the (rounded) weights, relative, rms.

        At the best common factor, so that it is the read-out's divider alone: rows whose
        conductances add up differently count differently. Of many outputs some are looked at.
        """
        gain, target = self.gain(), self.target()
        quantized = self._quantized_of(target)
        count = min(self.outputs, LOOKED_AT)
        step = self.outputs / count
        some = torch.tensor([int(k * step) for k in range(count)], device=self.trim.device)
        pair = self._as_seen(self._nominal_of(target, quantized, some))
        transfer = self.divider(gain).transfer(pair)
        scale = quantized.scale if quantized.scale.ndim == 0 else quantized.scale[some]
        wanted = scale * quantized.values[some]
        one, two = transfer / transfer.abs().max(), wanted / wanted.abs().max().clamp(min=1e-300)
        power = float(one.square().sum() * two.square().sum())
        if power == 0.0:
            return 0.0
        return math.sqrt(max(0.0, 1.0 - float((one * two).sum()) ** 2 / power))

    @lasting()
    def weights_of(self, transfer: Tensor) -> Tensor:
        """(M, N+1): weights, in the target's unit, that a transfer computes; trims are not in."""
        target = self.target()
        joined = transfer - self.trim
        if self.matched:
            joined[:, -1] -= target.threshold
        return joined / target.unit

    @lasting()
    def effective(self) -> Tensor:
        """(M, N+1): weights, in the target's unit, that the devices stand for; wires are not in."""
        if self.matched:
            # Here the meaning of a cell depends on its row: it is the ideal transfer.
            return self.weights_of(self.transfer())
        digits = to_values(self.conductances(), self.config.device)
        digits = 2.0 * digits if self.shared else digits
        values = math.copysign(1.0, self.target().unit) * self.slicing.join(digits)
        return values * self.quantized().scale

    @lasting()
    def weight_errors(self) -> WeightErrors:
        """Errors of the weights and the bias that the devices stand for, as they are now.

        Levels, states, limits and spread of the devices are in them, wires and trims are not.
        """
        target, found = self.target(), self.effective()
        # What moves no neuron is no error: 0 is solved for to rounding only.
        least = ROUNDING / abs(target.unit)
        wanted = target.weights
        return deviation(torch.where((found - wanted).abs() <= least, wanted, found), wanted)
