"""IMACLinear: a linear layer with its activation as crossbars, amplifiers and neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imac_torch.activations import Activation, circuit_kind
from imac_torch.circuit import NeuronSpec
from imac_torch.config import Config, Interconnect
from imac_torch.crossbar import CrossbarSpec, build_crossbar
from imac_torch.errors import ConversionError
from imac_torch.mapping import (
    ConductancePair,
    QuantizedWeights,
    join_bias,
    quantize,
    to_conductances,
    to_values,
    vary,
)
from imac_torch.ports import PortNetwork, eliminate_layer
from imac_torch.transfer import threshold_and_slope


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
    the read-out's divider and the activation, but no wires and no loading. It is differentiable,
    gradients pass straight through the quantisation, so training sees what the devices can
    store. :func:`imac_torch.convert` takes such layers as they are; the converted network
    solves all layers together, with wires and loading.

    Args:
        in_features: N.
        out_features: M.
        bias: Whether there is a bias line in use (its column exists either way).
        activation: What follows the weights.
        config: The layer's configuration; per-layer tuples must be resolved
            (:meth:`Config.for_layer`).
        scaling: Software units of vdd.
        name: The layer's path, for messages.
        dtype: Of the weights.

    Raises:
        ConversionError: A feature count is not positive, or the neuron cannot compute the
            activation.
    """

    positive_factor: Tensor
    negative_factor: Tensor

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
    ) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise ConversionError(f"{name}: {in_features}→{out_features} is not a layer")
        self.in_features = in_features
        self.out_features = out_features
        self.activation = Activation("identity") if activation is None else activation
        self.config = Config() if config is None else config
        self.scaling = Scaling() if scaling is None else scaling
        self.name = name
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype)) if bias else None
        shape = (out_features, in_features + 1)
        # What spread and faults make of the nominal conductances; 1 is ideal.
        self.register_buffer("positive_factor", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("negative_factor", torch.ones(shape, dtype=torch.float64))
        circuit_kind(self.activation, self.config.neuron.kind, where=name)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def extra_repr(self) -> str:
        """Shape, activation, levels."""
        return (
            f"{self.in_features}→{self.out_features}, activation={self.activation.kind}, "
            f"levels={self.config.mapping.levels}"
        )

    def neuron_spec(self) -> NeuronSpec:
        """The activation circuit, resistances following the device where not set."""
        options, device = self.config.neuron, self.config.device
        kind = circuit_kind(self.activation, options.kind, where=self.name)
        inverter = kind == "finfet"
        rlow = device.rlow if options.rlow is None else options.rlow
        rhigh = device.rhigh if options.rhigh is None else options.rhigh
        return NeuronSpec(
            kind=kind,
            input_resistance=rlow if inverter else 0.0,
            feedback_resistance=rhigh if inverter else math.inf,
            level_shift=options.level_shift if inverter else 0.0,
            vdd=self.config.supplies.vdd,
            temperature=self.config.temperature,
            options=options,
        )

    def volts_per_unit(self) -> float:
        """κ: change of the neuron's input voltage per unit of ``weight·x + bias``."""
        if self.activation.kind == "identity" or self.activation.kind == "relu":
            return self.config.supplies.vdd / self.scaling.output_scale
        _, slope = threshold_and_slope(self.neuron_spec())
        # The neuron is vdd·sigmoid(slope·(z - z0)), or vdd·tanh(slope·(z - z0)).
        return self.activation.slope / slope

    def quantized(self) -> QuantizedWeights:
        """Weights and bias in units of the device's full scale, and what rounding cost."""
        weight = self.weight.to(torch.float64) * self.scaling.input_scale
        bias = None if self.bias is None else self.bias.to(torch.float64)
        return quantize(join_bias(weight, bias), self.config.mapping, where=self.name)

    def conductances(self) -> ConductancePair:
        """(M, N+1) S, spread and faults included; differentiable in weights and bias."""
        values = self.quantized().values
        sign = -1.0 if self.volts_per_unit() < 0.0 else 1.0
        pair = to_conductances(
            sign * values, self.config.device, self.config.mapping, where=self.name
        )
        return ConductancePair(
            pair.positive * self.positive_factor, pair.negative * self.negative_factor
        )

    def gain(self) -> float:
        """The amplifiers' gain: the configuration's, or matched to the software layer."""
        gain = self.config.amplifier.gain
        if gain is None:
            return self._matched_gain()
        if not isinstance(gain, float):
            raise ConversionError(f"{self.name}: gain = {gain} is not resolved for one layer")
        return gain

    @torch.no_grad()
    def _matched_gain(self) -> float:
        """Gain for which the ideal circuit has the software layer's transfer, least squares.

        The read-out is a divider whose ratio depends on the gain through its loading, so the
        projection onto the wanted transfer is iterated; it converges in a few steps because the
        loading saturates with the gain.
        """
        quantized = self.quantized()
        kappa = self.volts_per_unit()
        wanted = kappa * quantized.scale * quantized.values / self.config.supplies.vdd
        power = float(wanted.square().sum())
        gain = 10.0
        if power == 0.0:
            return gain
        pair = self.conductances()
        for _ in range(50):
            transfer = self._ideal_ports(pair, gain).transfer
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

    def _ideal_ports(self, pair: ConductancePair, gain: float) -> PortNetwork:
        wireless = self.config.replace(interconnect=Interconnect(resistance=False))
        return eliminate_layer(build_crossbar(pair, wireless, gain))[0]

    def forward(self, x: Tensor) -> Tensor:
        """The ideal circuit in software units, for training.

        Args:
            x: (..., N).

        Returns:
            (..., M) in the dtype of ``x``.
        """
        ports = self._ideal_ports(self.conductances(), self.gain())
        lines = x.to(torch.float64) / self.scaling.input_scale
        lines = torch.cat([lines, lines.new_ones(*lines.shape[:-1], 1)], dim=-1)
        vdd = self.config.supplies.vdd
        combined = vdd * (lines @ ports.transfer.transpose(-1, -2))
        threshold, slope = threshold_and_slope(self.neuron_spec())
        kind = self.activation.kind
        if kind == "sigmoid":
            result = torch.sigmoid(slope * (combined - threshold))
        elif kind == "tanh":
            result = torch.tanh(slope * (combined - threshold))
        elif kind == "relu":
            result = combined.clamp(0.0, vdd) / vdd * self.scaling.output_scale
        else:
            result = combined / vdd * self.scaling.output_scale
        return result.to(x.dtype)

    @torch.no_grad()
    def spread(self, generator: torch.Generator) -> None:
        """Draw the devices' resistances anew around nominal (``device.variation``)."""
        ones = torch.ones_like(self.positive_factor)
        varied = vary(ConductancePair(ones, ones), self.config.device.variation, generator)
        self.positive_factor.copy_(varied.positive)
        self.negative_factor.copy_(varied.negative)

    @torch.no_grad()
    def effective_weights(self) -> tuple[Tensor, Tensor]:
        """The way back: software weights and bias that the devices stand for.

        Returns:
            (M, N) and (M,) float64, in the software layer's units, spread included, wires not.
        """
        sign = -1.0 if self.volts_per_unit() < 0.0 else 1.0
        values = sign * to_values(self.conductances(), self.config.device)
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
