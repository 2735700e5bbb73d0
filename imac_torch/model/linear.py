"""IMACLinear: a linear layer with its activation as crossbars, amplifiers and neurons."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from imac_torch.base.memo import Memory
from imac_torch.circuit.crossbar import CrossbarSpec, build_crossbar, partitions
from imac_torch.config import Config
from imac_torch.dc.prediction import Prediction, least_by_octaves, output_resistance, predict
from imac_torch.dc.shape import fitted_threshold_and_slope
from imac_torch.dc.transfer import threshold_and_slope
from imac_torch.devices.effects import DeviceSample
from imac_torch.errors import CircuitError, ConversionError, ConversionWarning
from imac_torch.mapping.matching import Match, ReadOut
from imac_torch.mapping.quantization import (
    ConductancePair,
    QuantizedWeights,
    WeightErrors,
    deviation,
    join_bias,
    quantize,
    to_conductances,
    to_values,
    vary,
    without_bias,
)
from imac_torch.mapping.residual import match_slices
from imac_torch.mapping.slices import Slicing
from imac_torch.mapping.states import RANK, InputStatistics
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.activations import IDENTITY, Activation
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.choice import kind_for

SMALLEST_GAIN = 0.5
LARGEST_GAIN = 1024.0
"""Between these the scheme 'matched' chooses where no gain is given."""
FIRST_GAIN = 16.0
"""Where the choice begins."""
FIRST_LEAST_SQUARES = 10.0
LEAST_SQUARES_STEPS = 200
SMALLEST_LEAST_SQUARES = 1e-6
LARGEST_LEAST_SQUARES = 1e5
"""Of the other schemes; the largest is an operational amplifier's: rounding stays below 1 nV."""
TYPICAL_SPREAD = 0.005
"""Half width of the spread of resistances that the choice of a gain allows for at least: amplifiers
are built for devices that are not known one by one."""
DRIVER_RESISTANCE = 500.0
"""Ω. Source resistance of neurons that drive lines, as long as nothing is known of them."""
ROUNDING = 1e-12
"""Part of vdd that an error of a weight has to be worth at the neuron's input to be one."""
GAIN_ROWS = 32
"""Outputs that a gain is tried on at most, where an array has no more: rows ask for much alike."""


@dataclass(frozen=True)
class Scaling:
    """How one layer's software quantities relate to volts.

    Attributes:
        input_scale: Software input that is vdd on an input line.
        output_scale: Software output that is vdd at the neuron's output.
    """

    input_scale: float = 1.0
    output_scale: float = 1.0


class IMACLinear(nn.Module):
    """``activation(weight·x + bias)`` on partitioned crossbars; trainable.

    In a model that is being trained, ``forward`` is the ideal circuit: quantised conductances,
    the read-out's divider and the activation, but ohmic cells, no wires and no loading. It is
    differentiable, gradients pass straight through the quantisation, so training sees what the
    devices can store. :func:`imac_torch.convert` takes such layers as they are; the converted
    network solves all layers together, with wires and loading.

    Args:
        in_features: N.
        out_features: M.
        bias: Whether there is a bias. Its column exists either way; without a bias it has no
            memristors, but for the scheme 'matched', which has the neuron's threshold there.
        activation: What follows the weights.
        config: The layer's configuration; per-layer tuples must be resolved
            (:meth:`Config.for_layer`).
        scaling: Software units of vdd.
        name: The layer's path, for messages.
        dtype: Of the weights.
        initialise: Whether to draw weights at random, as torch's Linear does, from torch's global
            generator; without, they are 0 until they are set.

    Raises:
        ConversionError: A feature count is not positive, or the neuron cannot compute the
            activation.
    """

    positive_factor: Tensor
    negative_factor: Tensor
    trim: Tensor
    matched_gain: Tensor
    input_mean: Tensor
    input_variance: Tensor
    input_factor: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        config: Config | None = None,
        scaling: Scaling | None = None,
        name: str = "IMACLinear",
        dtype: torch.dtype = torch.float64,
        initialise: bool = True,
    ) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise ConversionError(f"{name}: {in_features}→{out_features} is not a layer")
        self.in_features = in_features
        self.out_features = out_features
        self.activation = Activation(IDENTITY.name) if activation is None else activation
        self.config = Config() if config is None else config
        self.scaling = Scaling() if scaling is None else scaling
        self.name = name
        # The file that this layer came from, while it may not name further ones (storage.load).
        self.foreign: str | None = None
        # What has become of the devices in this training step: see imac_torch.varied.
        self.sample: DeviceSample | None = None
        # Ω, of what drives the lines: see connect().
        self.driver_resistance = DRIVER_RESISTANCE
        # On the CPU whatever the default device is; `.to` moves a layer as a whole.
        weight = torch.zeros(out_features, in_features, dtype=dtype, device="cpu")
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(out_features)) if bias else None
        shape = (out_features, in_features + 1)
        cells = (out_features * self.slicing.count, in_features + 1)
        # What spread and faults make of the nominal conductances; 1 is ideal.
        ideal = torch.ones(cells, dtype=torch.float64, device="cpu")
        self.register_buffer("positive_factor", ideal)
        self.register_buffer("negative_factor", ideal.clone())
        # Read by the scheme 'matched'. Volts at the neuron per volt on a line, added to what the
        # weights ask for; set by calibration.
        self.register_buffer("trim", torch.zeros(shape, dtype=torch.float64, device="cpu"))
        # NaN until it is first needed: amplifiers are built once, training must not move them.
        self.register_buffer("matched_gain", ideal.new_tensor(math.nan))
        self.set_input_statistics(InputStatistics.independent(in_features))
        self._matches: Memory[Match] = Memory(4)
        self._quantized: Memory[QuantizedWeights] = Memory()
        kind_for(self.activation, self.config.neuron.kind, where=name)
        if initialise:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> IMACLinear:
        """Move the layer, or give its weights another type: the circuit's buffers keep theirs.

        ``float()`` is about software weights; spread and trims belong to devices, in float64.
        """
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self.get_buffer(name)
            if after.dtype != buffer.dtype:
                self.register_buffer(name, buffer.to(after.device))
        return self

    def extra_repr(self) -> str:
        """Shape, activation, levels."""
        return (
            f"{self.in_features}→{self.out_features}, activation={self.activation.kind}, "
            f"levels={self.config.mapping.levels}"
        )

    def neuron_spec(self) -> NeuronSpec:
        """The activation circuit, resistances following the device where not set."""
        config, options = self.config, self.config.neuron
        kind = kind_for(self.activation, options.kind, where=self.name)
        if kind.activation.read_out and options.kind != kind.name:
            # A network-wide neuron is for activations; a read-out has no circuit of the user's.
            config = config.replace(neuron=options.replace(subcircuit=None, table=None))
        return replace(kind.spec(config), foreign=self.foreign)

    @lasting()
    def description(self) -> str:
        """Partitions, mapping, errors of the devices' weights, gain and neuron, as they are now."""
        spec = self.crossbar()
        mapping = self.config.mapping
        slicing = self.slicing
        levels = f"{mapping.levels}/{mapping.scheme}"
        if slicing.count > 1:
            levels += f" in {slicing.count} slices to base {slicing.base}"
        clipped = (
            f"; outputs above {self.scaling.output_scale:.3g} are clipped at vdd"
            if self.activation.function.clips
            else ""
        )
        return (
            f"{len(spec.column_ends)}×{len(spec.row_ends)} partitions of up to "
            f"{self.config.crossbar.columns}×{self.config.crossbar.rows}, mapping {levels} "
            f"({self.weight_errors().text(bias=self.bias is not None)}), "
            f"gain {self.gain():.4g}, neuron {self.neuron_spec().kind}{clipped}"
        )

    @lasting()
    def weight_errors(self) -> WeightErrors:
        """Errors of the weights and the bias that the devices stand for, as they are now.

        Levels, states, limits and spread of the devices are in them, wires and trims are not
        (:meth:`effective_weights`).
        """
        weight, bias = self.effective_weights()
        found = torch.cat([weight, bias[:, None]], dim=1)
        nominal = torch.zeros_like(bias) if self.bias is None else self.bias.to(bias.dtype)
        wanted = torch.cat([self.weight.to(weight.dtype), nominal[:, None]], dim=1)
        # What moves no neuron is no error: 0 is solved for to rounding only.
        unit = self.config.supplies.vdd / abs(self.volts_per_unit())
        least = torch.full_like(found[0], ROUNDING * unit / self.scaling.input_scale)
        least[-1] = ROUNDING * unit
        return deviation(torch.where((found - wanted).abs() <= least, wanted, found), wanted)

    def volts_per_unit(self) -> float:
        """κ: change of the neuron's input voltage per unit of ``weight·x + bias``."""
        if not self.activation.function.bounded:
            return self.config.supplies.vdd / self.scaling.output_scale
        _, slope = self.threshold_and_slope()
        # The neuron is vdd·f(slope·(z - z0)), f being the activation's function.
        return self.activation.slope / slope

    @property
    def slicing(self) -> Slicing:
        """The pairs of a weight, which are rows of one output."""
        return Slicing.of(self.config.mapping, self.config.device)

    @property
    def matched(self) -> bool:
        """Whether conductances are solved for row by row (scheme 'matched')."""
        return self.config.mapping.scheme == "matched"

    def threshold_and_slope(self) -> tuple[float, float]:
        """z0 (V) and k (1/V) of the activation that the neuron is taken for."""
        spec = self.neuron_spec()
        return fitted_threshold_and_slope(spec) if self.matched else threshold_and_slope(spec)

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

    def quantized(self) -> QuantizedWeights:
        """Weights and bias in units of the device's full scale, and what rounding cost."""
        weight = self.weight.to(torch.float64) * self.scaling.input_scale
        bias = None if self.bias is None else self.bias.to(torch.float64)
        joined = join_bias(weight, bias)
        settings = (self.config.mapping, self.slicing)
        found = self._quantized.get(
            settings,
            (joined,),
            lambda: quantize(
                joined.detach(), *settings, where=self.name, bias=self.bias is not None
            ),
        )
        tracked = joined.requires_grad and torch.is_grad_enabled()
        return found.follow(joined) if tracked else found

    def wanted_transfer(self) -> Tensor:
        """(M, N+1): combined amplifier voltage per line voltage that the software layer means.

        The bias line, last, is at vdd; the neuron's threshold is in its column, and so is what
        calibration has trimmed.
        """
        vdd = self.config.supplies.vdd
        quantized = self.quantized()
        wanted = self.volts_per_unit() / vdd * quantized.scale * quantized.values
        threshold, _ = self.threshold_and_slope()
        column = torch.zeros_like(self.trim)
        column[:, -1] = threshold / vdd
        return wanted + column + self.trim

    def partitions(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Last columns and last rows (1-based) of the arrays that the layer is cut into.

        Raises:
            ConversionError: It cannot be cut as asked.
        """
        rows = self.out_features * self.slicing.count
        try:
            return partitions(self.in_features + 1, rows, self.config.crossbar)
        except CircuitError as error:
            raise ConversionError(f"{self.name}: {error}") from None

    def read_out(self, gain: float) -> ReadOut:
        """What the rows end in, for a given gain."""
        amplifier = self.config.amplifier
        return ReadOut(
            gain,
            amplifier.input_resistance,
            self.partitions()[0],
            amplifier.combine == "average",
            self.slicing,
        )

    def match(self, gain: float | None = None) -> Match:
        """Conductances of the scheme 'matched', and what range and states cost.

        Args:
            gain: Of the amplifiers; None: the layer's.
        """
        gain = self.gain() if gain is None else gain
        target = self.wanted_transfer()
        arguments = (self.config.device, self.read_out(gain), self.statistics)
        if target.requires_grad and torch.is_grad_enabled():
            return match_slices(target, *arguments, where=self.name)
        moments = self.statistics
        return self._matches.get(
            arguments[:2],
            (target, moments.mean, moments.variance, moments.factor),
            lambda: match_slices(target.detach(), *arguments, where=self.name),
        )

    def nominal_conductances(self) -> ConductancePair:
        """(M·L, N+1) S, as programmed without error; differentiable in weights and bias.

        L slices of one output are neighbours (:mod:`imac_torch.mapping.slices`).
        """
        if self.matched:
            return self.match().pair
        sign = -1.0 if self.volts_per_unit() < 0.0 else 1.0
        mapping = self.config.mapping
        values = sign * self.quantized().values
        if self.bias is None:
            # A pair of equal cells would not do: the read-out weighs the two sides of a row alike
            # only where their sums are.
            values = values[:, :-1]
        digits = self.slicing.digits(values, mapping.level_count)
        pair = to_conductances(digits, self.config.device, mapping, where=self.name)
        return pair if self.bias is not None else without_bias(pair)

    def conductances(self) -> ConductancePair:
        """(M·L, N+1) S, spread and faults included; differentiable in weights and bias."""
        pair = self.nominal_conductances()
        pair = ConductancePair(
            pair.positive * self.positive_factor, pair.negative * self.negative_factor
        )
        return pair if self.sample is None else self.sample.of(pair, self.config.device)

    def gain(self) -> float:
        """The amplifiers' gain: the configuration's, or matched to the software layer.

        With the scheme 'matched' it is determined once, when it is first needed, and then kept:
        :meth:`choose_gain` determines it again.
        """
        gain = self.config.amplifier.gain
        if gain is None:
            if not self.matched:
                return self._matched_gain()
            if bool(torch.isnan(self.matched_gain)):
                self.choose_gain()
            return float(self.matched_gain)
        if not isinstance(gain, float):
            raise ConversionError(f"{self.name}: gain = {gain} is not resolved for one layer")
        return gain

    @lasting()
    def choose_gain(self) -> float:
        """Determine the gain of the scheme 'matched' for the present weights and statistics.

        Little gain cannot reach large weights and asks for conductances that load what drives the
        lines; with much gain so do wires and devices that spread: what they make of the lines'
        common voltage is amplified. The least error of :meth:`expected` is taken.
        """
        chosen = least_by_octaves(
            self._expected_error, SMALLEST_GAIN, LARGEST_GAIN, start=FIRST_GAIN
        )
        self.matched_gain.fill_(chosen)
        return chosen

    def least_expected_error(self) -> float:
        """Relative rms error to expect of neuron inputs with the gain given, or with the best."""
        gain = self.config.amplifier.gain
        return self._expected_error(self.choose_gain() if gain is None else self.gain())

    def _expected_error(self, gain: float) -> float:
        expected = self.expected(gain)
        return math.sqrt(expected.error + expected.spread)

    @torch.no_grad()
    def expected(self, gain: float) -> Prediction:
        """Errors to expect of neuron inputs with a gain, relative to what varies in them.

        Of the circuit as it is built for nominal devices, wires, partitions and the lines' drivers
        included, and of a spread of :data:`TYPICAL_SPREAD` or more (see
        :mod:`imac_torch.dc.prediction`). Curved cells are taken as ohmic.

        Args:
            gain: Of the amplifiers.
        """
        size, slices = self.config.crossbar, self.slicing.count
        rows, parts = self.out_features * slices, len(self.partitions()[1])
        count = min(self.out_features, max(GAIN_ROWS // slices, -(-rows // parts) // slices, 1))
        chosen = torch.linspace(
            0, self.out_features - 1, count, dtype=torch.float64, device=self.weight.device
        )
        target = self.wanted_transfer()[chosen.round().to(torch.int64)]
        arguments = (self.config.device, self.read_out(gain), self.statistics)
        found = match_slices(target, *arguments, where=self.name)
        vertical = max(1, round(parts * count / self.out_features))
        config = self.config.replace(
            crossbar=size.replace(vertical=vertical), device=self.config.device.replace(bend=None)
        )
        spread = max(self.config.device.variation, TYPICAL_SPREAD) / math.sqrt(3.0)
        return predict(
            build_crossbar(found.pair, config, gain), target, self.statistics,
            source_resistance=self.driver_resistance, load_factor=self.out_features / count,
            spread=spread,
        )  # fmt: skip

    @lasting()
    def _matched_gain(self) -> float:
        """Gain for which the ideal circuit has the software layer's transfer, least squares.

        Amplifiers are built for nominal devices, whatever spread makes of them. The read-out is a
        divider whose ratio depends on the gain through its loading, so the projection onto the
        wanted transfer is iterated; it converges in a few steps because the loading saturates
        with the gain.
        """
        gain = FIRST_LEAST_SQUARES
        pair = self.nominal_conductances()
        if float(self.quantized().values.abs().max()) == 0.0:
            return gain
        for _ in range(LEAST_SQUARES_STEPS):
            found = self._slope_of_transfer(gain, pair)
            if not found > 0.0:
                raise ConversionError(
                    f"{self.name}: the circuit's transfer has no component along the weights "
                    "(are all conductances equal?); set amplifier.gain"
                )
            gain, before = gain / found, gain
            if abs(gain / before - 1.0) < 1e-12:
                break
            if gain > LARGEST_LEAST_SQUARES:
                break
        if gain > LARGEST_LEAST_SQUARES or abs(gain / before - 1.0) > 1e-9:
            ends = (0, *self.read_out(gain).column_ends)
            text = (
                f"{self.name}: no gain makes the read-out compute what the weights mean; it gets "
                f"{LARGEST_LEAST_SQUARES:g}. I± lines of {max(b - a for a, b in pairwise(ends))} "
                "columns float with their inputs, or the weights are too large for the neuron: "
                "use more columns (crossbar.columns), smaller weights, or set amplifier.gain"
            )
            warnings.warn(text, ConversionWarning, stacklevel=2)
            return LARGEST_LEAST_SQUARES
        # Smaller ones move no neuron by a microvolt: the weights are as good as zero.
        return max(gain, SMALLEST_LEAST_SQUARES)

    def _slope_of_transfer(self, gain: float, pair: ConductancePair) -> float:
        """Least-squares slope of the ideal circuit's transfer on the wanted one."""
        quantized = self.quantized()
        values = quantized.scale * quantized.values
        largest = values.abs().max()
        wanted = values / largest
        unit = abs(self.volts_per_unit()) / self.config.supplies.vdd * float(largest)
        sign = -1.0 if self.volts_per_unit() < 0.0 else 1.0
        transfer = self.read_out(gain).transfer(pair)
        along = sign * float((transfer * wanted).sum()) / float(wanted.square().sum())
        return along / unit

    @torch.no_grad()
    def read_out_error(self) -> float:
        """How far the ideal circuit's transfer is from the (rounded) weights, relative, rms.

        At the best common factor, so that it is the read-out's divider alone: rows whose
        conductances add up differently count differently.
        """
        transfer = self.read_out(self.gain()).transfer(self.nominal_conductances())
        wanted = self.quantized().scale * self.quantized().values
        one, two = transfer / transfer.abs().max(), wanted / wanted.abs().max().clamp(min=1e-300)
        power = float(one.square().sum() * two.square().sum())
        if power == 0.0:
            return 0.0
        return math.sqrt(max(0.0, 1.0 - float((one * two).sum()) ** 2 / power))

    @torch.no_grad()
    def range_of_gain(self) -> float:
        """Software output that is vdd with the gain given, least squares; for free ranges."""
        slope = self._slope_of_transfer(self.gain(), self.nominal_conductances())
        zero = float(self.quantized().values.abs().max()) == 0.0
        if zero or not 0.0 < slope < math.inf:
            return self.scaling.output_scale
        return self.scaling.output_scale / slope

    def crossbar(self) -> CrossbarSpec:
        """The layer's crossbars as they are built, wires included."""
        return build_crossbar(self.conductances(), self.config, self.gain())

    def forward(self, x: Tensor) -> Tensor:
        """The ideal circuit in software units, for training.

        Args:
            x: (..., N).

        Returns:
            (..., M) in the type of ``x``, computed in float64; integers give float64.
        """
        transfer = self.read_out(self.gain()).transfer(self.conductances())
        lines = x.to(torch.float64) / self.scaling.input_scale
        lines = torch.cat([lines, lines.new_ones(*lines.shape[:-1], 1)], dim=-1)
        vdd = self.config.supplies.vdd
        combined = vdd * (lines @ transfer.transpose(-1, -2))
        threshold, slope = self.threshold_and_slope()
        function = self.activation.function
        result = function.ideal(combined, threshold, slope, vdd)
        if not function.bounded:
            result = result * self.scaling.output_scale
        return result.to(x.dtype) if x.is_floating_point() else result

    @lasting()
    def spread(self, generator: torch.Generator) -> None:
        """Draw the devices' resistances anew around nominal (``device.variation``)."""
        ones = torch.ones_like(self.positive_factor)
        varied = vary(ConductancePair(ones, ones), self.config.device.variation, generator)
        self.positive_factor.copy_(varied.positive)
        self.negative_factor.copy_(varied.negative)

    @lasting()
    def effective_weights(self) -> tuple[Tensor, Tensor]:
        """The way back: software weights and bias that the devices stand for.

        Returns:
            (M, N) and (M,) float64, in the software layer's units, spread included, wires not.
        """
        if self.matched:
            # Here the meaning of a cell depends on its row: it is the ideal transfer.
            vdd = self.config.supplies.vdd
            joined = self.read_out(self.gain()).transfer(self.conductances()) - self.trim
            joined[:, -1] -= self.threshold_and_slope()[0] / vdd
            joined = joined * vdd / self.volts_per_unit()
            return joined[:, :-1] / self.scaling.input_scale, joined[:, -1]
        sign = -1.0 if self.volts_per_unit() < 0.0 else 1.0
        digits = to_values(self.conductances(), self.config.device)
        values = sign * self.slicing.join(digits)
        joined = values * self.quantized().scale
        return joined[:, :-1] / self.scaling.input_scale, joined[:, -1]

    def get_extra_state(self) -> Tensor:
        """The configuration, as UTF-8 bytes in a tensor so that safetensors can hold it."""
        import json

        content = {
            "config": self.config.to_dict(),
            "activation": {"kind": self.activation.kind, "slope": self.activation.slope},
            "scaling": {
                "input_scale": self.scaling.input_scale,
                "output_scale": self.scaling.output_scale,
            },
            "name": self.name,
        }
        return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:  # noqa: ANN401 - torch's signature
        """Restore what :meth:`get_extra_state` stored.

        Raises:
            ConversionError: The state is not one of ours.
        """
        import json

        if not isinstance(state, Tensor) or state.dtype != torch.uint8:
            raise ConversionError(f"{self.name}: the state holds no configuration")
        content = json.loads(bytes(state.cpu().tolist()).decode())
        self.config = Config.from_dict(content["config"])
        self.activation = Activation(**content["activation"])
        self.scaling = Scaling(**content["scaling"])
        self.name = content["name"]


def connect(layers: Sequence[IMACLinear]) -> None:
    """Tell layers what drives their lines: ideal sources the first, neurons the others."""
    layers[0].driver_resistance = 0.0
    for before, after in pairwise(layers):
        if after.matched:
            after.driver_resistance = output_resistance(before.neuron_spec())
