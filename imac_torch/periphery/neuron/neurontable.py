"""A neuron as a table: currents over input and output voltage, from whatever measured them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.errors import DataError
from imac_torch.periphery.measured import MeasuredTable
from imac_torch.periphery.neuron.spline import SplineTable

__all__ = ["InterpolationError", "NeuronTable", "measure_interpolation"]

_TINY: Final = 1e-18
"""A. Currents below are taken for zero."""
_SCALES: Final = 13
"""Scales of asinh(current/scale) that are tried: the largest current, and 1 % of the last one."""


@dataclass(frozen=True)
class InterpolationError:
    """What interpolation costs: table against simulation in the middle of every cell.

    There an interpolation is worst. Every figure covers the whole table.

    Attributes:
        output: A, largest error of the output current.
        output_rms: A, its root mean square.
        input: A, largest error of the input current.
        supply: A, largest error of the supply current.
        voltage: V, largest error of the output current over the output conductance at the same
            point: what the output voltage is off by without a load, less with one.
        voltage_rms: V, its root mean square.
    """

    output: float
    output_rms: float
    input: float
    supply: float
    voltage: float
    voltage_rms: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"interpolation error at cell middles: output {self.output:.2g} A "
            f"(rms {self.output_rms:.2g} A), or {self.voltage:.2g} V unloaded "
            f"(rms {self.voltage_rms:.2g} V); input {self.input:.2g} A; supply {self.supply:.2g} A"
        )


@dataclass(frozen=True)
class NeuronTable(MeasuredTable):
    """A characterised neuron.

    Attributes:
        inputs: (P,) V, input voltages z, ascending and uniform, P >= 5.
        outputs: (Q,) V, output voltages u, likewise.
        currents: (P, Q, 3) float64, A: delivered to the output, drawn from the input, drawn from
            vdd.
        vdd: V at which it holds.
        temperature: K at which it holds.
        input_scale: A; the input current is interpolated as asinh(current/scale).
        supply_scale: A; likewise for the supply current.
        error: Measured interpolation error.
        subcircuit: Name of the sub-circuit.
        digest: Identifies the sub-circuit's file and parameters.
        simulator: Name and version of what measured it.
    """

    what = "neuron"
    maker = "imac_torch.tabulate_neuron(...)"
    errors = InterpolationError
    tensors = ("inputs", "outputs", "currents")
    figures_kept = (
        "vdd", "temperature", "input_scale", "supply_scale", "subcircuit", "digest", "simulator",
    )  # fmt: skip

    inputs: Tensor
    outputs: Tensor
    currents: Tensor
    vdd: float
    temperature: float
    input_scale: float
    supply_scale: float
    error: InterpolationError
    subcircuit: str
    digest: str
    simulator: str

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            DataError: They are not a table.
        """
        shape = (len(self.inputs), len(self.outputs), 3)
        if tuple(self.currents.shape) != shape:
            raise DataError(
                f"currents of a neuron table must be {shape} for its axes, got "
                f"{tuple(self.currents.shape)}"
            )
        for name in self.tensors:
            value = getattr(self, name)
            if value.dtype != torch.float64 or not bool(torch.isfinite(value).all()):
                raise DataError(f"{name} of a neuron table must be finite float64 values")
        if min(self.input_scale, self.supply_scale, self.vdd, self.temperature) <= 0.0:
            raise DataError("scales, vdd and temperature of a neuron table must be positive")

    @property
    def input_range(self) -> tuple[float, float]:
        """V. Inputs for which it holds."""
        return float(self.inputs[0]), float(self.inputs[-1])

    @property
    def output_range(self) -> tuple[float, float]:
        """V. Outputs for which it holds."""
        return float(self.outputs[0]), float(self.outputs[-1])

    def spline(self) -> SplineTable:
        """Output current, asinh(input current/scale), asinh(supply current/scale)."""
        functions = torch.stack(
            [
                self.currents[..., 0],
                torch.asinh(self.currents[..., 1] / self.input_scale),
                torch.asinh(self.currents[..., 2] / self.supply_scale),
            ],
            dim=-1,
        )
        return SplineTable.fit(self.inputs, self.outputs, functions)

    def check(self, *, vdd: float, temperature: float, where: str) -> None:
        """Refuse conditions other than those of the measurement.

        Raises:
            ConfigError: vdd or the temperature differs.
        """
        self.check_conditions(where, vdd=vdd, temperature=temperature)


def measure_interpolation(
    inputs: Tensor, outputs: Tensor, currents: Tensor, middle: Tensor
) -> tuple[float, float, InterpolationError]:
    """Choose the scales of a table and measure its interpolation error.

    A current that spans decades is smooth as asinh(current/small scale), one that crosses zero
    as asinh(current/large scale), which is the current itself: of the largest current and the
    decades below, the scale with the least relative error in the middle of the cells is taken.

    Args:
        inputs: (P,) V, uniform.
        outputs: (Q,) V, uniform.
        currents: (P, Q, 3) A at the nodes.
        middle: (P-1, Q-1, 3) A in the middle of the cells.

    Returns:
        Scales of input and supply current, A, and the error with them.
    """
    points = torch.meshgrid(
        (inputs[1:] + inputs[:-1]) / 2, (outputs[1:] + outputs[:-1]) / 2, indexing="ij"
    )
    powers = 100.0 ** -torch.arange(_SCALES, dtype=torch.float64, device="cpu")
    # (2, D): candidates for input and supply current; a current of zero has any scale
    scales = currents[..., 1:].abs().amax((0, 1)).clamp(min=_TINY)[:, None] * powers
    compressed = torch.asinh(currents[..., 1:, None] / scales)
    functions = torch.cat([currents[..., :1], compressed.flatten(-2)], dim=-1)
    table = SplineTable.fit(inputs, outputs, functions)
    found = table.values(*points)
    restored = scales * torch.sinh(found[..., 1:].unflatten(-1, scales.shape))
    differences = (restored - middle[..., 1:, None]).abs()
    # Judged relative to the current, or to a typical one where it crosses zero: the largest one
    # may be of a corner where nothing ever works.
    size = middle[..., 1:].abs()
    size = size + size.flatten(0, 1).median(dim=0).values.clamp(min=_TINY)
    judged = (differences / size[..., None]).square().mean((0, 1))
    best = torch.where(torch.isfinite(judged), judged, torch.inf).argmin(-1, keepdim=True)
    errors = differences.amax((0, 1))
    chosen = scales.gather(1, best)[:, 0].tolist()
    least = errors.gather(1, best)[:, 0].tolist()
    difference = (found[..., 0] - middle[..., 0]).abs()
    # Differences of neighbouring nodes give the output conductance of a cell.
    step = float(outputs[1] - outputs[0])
    slope = currents[..., 0].diff(dim=1) / step
    conductance = ((slope[1:] + slope[:-1]) / 2).abs()
    voltage = difference / conductance.clamp(min=1e-30)
    error = InterpolationError(
        output=float(difference.max()),
        output_rms=float(difference.square().mean().sqrt()),
        input=least[0],
        supply=least[1],
        voltage=float(voltage.max()),
        voltage_rms=float(voltage.square().mean().sqrt()),
    )
    return chosen[0], chosen[1], error
