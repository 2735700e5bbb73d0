"""Characterise a neuron: its transfer curve, currents and power over the input voltage."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.config import Config
from imac_torch.dc.transfer import sweep_neuron, threshold_and_slope
from imac_torch.errors import ConfigError
from imac_torch.periphery.activations import SIGMOID, Activation, Bounded
from imac_torch.periphery.neuron.base import NeuronSpec, kind_of
from imac_torch.periphery.neuron.choice import kind_for

__all__ = ["NeuronCurve", "characterize_neuron", "neuron_of"]


@dataclass(frozen=True)
class NeuronCurve(Brief):
    """An unloaded neuron over its input voltage; all tensors (B,) float64.

    Attributes:
        spec: The neuron with its values resolved.
        inputs: V, at the neuron's input z.
        outputs: V, of the neuron.
        gates: V, at the gate of the inverter (the input, for behavioural kinds).
        supply_current: A, from vdd.
        input_current: A, into the input.
        threshold: V, input at half of vdd; NaN for kinds without one.
        slope: 1/V: around the threshold the neuron is vdd·sigmoid(slope·(z - threshold)).
    """

    spec: NeuronSpec
    inputs: Tensor
    outputs: Tensor
    gates: Tensor
    supply_current: Tensor
    input_current: Tensor
    threshold: float
    slope: float

    @property
    def power(self) -> Tensor:
        """(B,) W from vdd; behavioural neurons draw nothing."""
        return self.spec.vdd * self.supply_current

    @property
    def steepest(self) -> float:
        """Largest ``|dV_out/dV_in|`` between neighbouring points."""
        return float((self.outputs.diff() / self.inputs.diff()).abs().max())

    def figures(self) -> dict[str, float]:
        """The numbers that describe the neuron; V, 1/V, W."""
        return {
            "vdd": self.spec.vdd,
            "threshold": self.threshold,
            "slope": self.slope,
            "steepest_gain": self.steepest,
            "output_high": float(self.outputs.max()),
            "output_low": float(self.outputs.min()),
            "mean_power": float(self.power.mean()),
            "largest_power": float(self.power.max()),
            "sigmoid_rms_error": self.sigmoid_error(),
        }

    def sigmoid_error(self) -> float:
        """Rms distance (V) from vdd·sigmoid(slope·(z - threshold)); NaN without a threshold."""
        if math.isnan(self.threshold):
            return math.nan
        ideal = self.spec.vdd * torch.sigmoid(self.slope * (self.inputs - self.threshold))
        return float((self.outputs - ideal).square().mean().sqrt())

    def to_csv(self) -> str:
        """The curves as CSV text with units in the header."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            ["input_V", "output_V", "gate_V", "supply_current_A", "input_current_A", "power_W"]
        )
        columns = (
            self.inputs, self.outputs, self.gates, self.supply_current, self.input_current,
            self.power,
        )  # fmt: skip
        writer.writerows(torch.stack(columns, dim=1).tolist())
        return stream.getvalue()


def neuron_of(config: Config) -> NeuronSpec:
    """The neuron of a configuration's ``neuron`` and ``device`` sections."""
    kind = config.neuron.kind
    model = kind_for(Activation(SIGMOID.name), None, where="") if kind is None else kind_of(kind)
    return model.spec(config)


def characterize_neuron(
    config: Config,
    *,
    low: float = -1.0,
    high: float = 1.0,
    points: int = 201,
    exact: bool = True,
) -> NeuronCurve:
    """Sweep the input of the unloaded neuron.

    Args:
        config: Its neuron, device, supplies and temperature are read.
        low: V, first input.
        high: V, last input.
        points: Number of inputs, equally spaced.
        exact: The transistor model itself; False: the table that the native engine uses.

    Raises:
        ConfigError: The range is empty.
        SolverError: An input did not converge.
    """
    if not low < high or points < 2:
        raise ConfigError(f"from {low} V to {high} V in {points} points is not a sweep")
    spec = neuron_of(config)
    core = spec.model.core(spec) if exact else spec.model.tabulated_core(spec)
    inputs = torch.linspace(low, high, points, dtype=torch.float64, device="cpu")
    neuron, outputs, gates = sweep_neuron(spec, core, inputs)
    supply = core.values(gates, outputs).supply
    drawn = neuron.static_power(spec.vdd, gates, outputs).drawn
    threshold, slope = math.nan, math.nan
    function = spec.model.activation
    if isinstance(function, Bounded):
        threshold, slope = threshold_and_slope(spec)
        if function.middle != 0.5:
            threshold = math.nan  # it crosses another voltage than half of vdd
    return NeuronCurve(
        spec, inputs, outputs, gates, supply, drawn, threshold, slope
    )
