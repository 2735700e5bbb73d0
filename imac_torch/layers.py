"""IMACLinear: a linear layer with its activation as crossbars, amplifiers and neurons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from imac_torch.activations import IDENTITY, Activation
from imac_torch.config import Config
from imac_torch.crossbar import CrossbarSpec, build_crossbar, partition_ends
from imac_torch.dc.shape import fitted_threshold_and_slope
from imac_torch.dc.transfer import threshold_and_slope
from imac_torch.devices import DeviceSample
from imac_torch.errors import ConversionError
from imac_torch.mapping.matching import Match, ReadOut
from imac_torch.mapping.quantization import (
    ConductancePair,
    QuantizedWeights,
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
from imac_torch.memory import Memory
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.choice import kind_for

GAINS = (1.0, 2.0, 4.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 55.0, 75.0, 100.0, 150.0, 250.0, 500.0)
"""Amplifier gains that the scheme 'matched' chooses from where none is given."""
TYPICAL_SPREAD = 0.02
"""Relative spread of conductances that the choice of a gain allows for at least."""
DRIVER_RESISTANCE = 500.0
"""Ω. Source resistance of neurons that drive lines, as far as the choice of a gain is concerned."""
COMMON_LOAD = 0.1
"""Weight of what loading takes from all lines alike, which larger weights can give back; beside it
counts what loading takes from some lines more than from others."""
GAIN_ROWS = 24
"""Outputs that a gain is tried on at most: a layer's rows ask for much the same."""


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
        # Ω, of what drives the lines: conversion sets it to 0 where that are the inputs' sources.
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
        self._matches: Memory[Match] = Memory(2 * len(GAINS))
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
        """Partitions, mapping and its error, gain and neuron, as the layer is now."""
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
            f"({self.rounding()}), "
            f"gain {self.gain():.4g}, neuron {self.neuron_spec().kind}{clipped}"
        )

    def rounding(self) -> str:
        """What rounding to levels did to weights and bias, in words with their definition."""
        found = self.quantized()
        bias = ""
        if self.bias is not None:
            off = 100 * found.bias_error
            bias = f", of the bias {off:.2g} %" if math.isfinite(off) else ", of a bias of 0: no 0"
        return f"rms error of the weights {100 * found.error:.2g} % of their rms{bias}"

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
        """Tell the mapping what the inputs are like (see :mod:`imac_torch.calibration`)."""
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

    def read_out(self, gain: float) -> ReadOut:
        """What the rows end in, for a given gain."""
        size, amplifier = self.config.crossbar, self.config.amplifier
        columns = self.in_features + 1
        parts = -(-columns // size.columns) if size.horizontal is None else size.horizontal
        if not isinstance(parts, int):
            raise ConversionError(f"{self.name}: crossbar.horizontal is not resolved for one layer")
        return ReadOut(
            gain,
            amplifier.input_resistance,
            partition_ends(columns, parts),
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
        lines; much gain uses little of the devices' window, so that states and spread weigh more.
        The least root of the sum of squares is taken, all relative to what varies in the outputs.
        """
        every = -(-self.out_features // GAIN_ROWS)
        target = self.wanted_transfer()[::every]

        def shortcoming(gain: float) -> float:
            if every == 1:
                return self._shortcoming(self.match(gain), target)
            arguments = (self.config.device, self.read_out(gain), self.statistics)
            return self._shortcoming(match_slices(target, *arguments, where=self.name), target)

        chosen = min(GAINS, key=shortcoming)
        self.matched_gain.fill_(chosen)
        return chosen

    def _shortcoming(self, found: Match, target: Tensor) -> float:
        """What speaks against a match of some rows: its error, sensitivity to spread, load."""
        positive, negative = found.pair.positive, found.pair.negative
        shares = self.slicing.row_shares(positive, len(positive))[:, None]
        signal = self.slicing.join(positive - negative).square().mean().sqrt()
        power = shares.square() * (positive.square() + negative.square())
        noise = (power.sum() / target.numel()).sqrt()
        spread = max(self.config.device.variation, TYPICAL_SPREAD) * float(noise / signal)
        columns = (positive + negative).sum(dim=0)[:-1] * (self.out_features / len(target))
        left = 1.0 / (1.0 + self.driver_resistance * columns)
        uneven = float((left - left.mean()).square().mean().sqrt())
        load = math.hypot(uneven, COMMON_LOAD * (1.0 - float(left.mean())))
        error = found.error * self.statistics.contrast(target)
        return math.sqrt(error**2 + spread**2 + load**2)

    @lasting()
    def _matched_gain(self) -> float:
        """Gain for which the ideal circuit has the software layer's transfer, least squares.

        Amplifiers are built for nominal devices, whatever spread makes of them. The read-out is a
        divider whose ratio depends on the gain through its loading, so the projection onto the
        wanted transfer is iterated; it converges in a few steps because the loading saturates
        with the gain.
        """
        quantized = self.quantized()
        kappa = self.volts_per_unit()
        wanted = kappa * quantized.scale * quantized.values / self.config.supplies.vdd
        power = float(wanted.square().sum())
        gain = 10.0
        if power == 0.0:
            return gain
        pair = self.nominal_conductances()
        for _ in range(50):
            transfer = self.read_out(gain).transfer(pair)
            found = float((transfer * wanted).sum()) / power
            if found <= 0.0:
                raise ConversionError(
                    f"{self.name}: the circuit's transfer has no component along the weights "
                    "(are all conductances equal?); set amplifier.gain"
                )
            gain, before = gain / found, gain
            if abs(gain / before - 1.0) < 1e-12:
                break
        return gain

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
