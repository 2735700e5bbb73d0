"""An operational amplifier as a table: its currents over both inputs and its output.

With all three terminals forced, currents change smoothly, also where the output saturates: the
amplifier in a loop is where its output current is what the rest of the circuit takes. The
differential input is stretched, d = width·sinh(s) on a uniform grid of s, because a millivolt
decides what an output does while it works, and hundreds of them while it is at a rail.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from imac_torch.errors import DataError
from imac_torch.periphery.measured import MeasuredTable
from imac_torch.periphery.neuron.spline import SplineTable, coefficients_of_values, cubic_weights
from imac_torch.periphery.readout.opamp import AmplifierValues

__all__ = ["AmplifierTable", "InterpolationError"]


@dataclass(frozen=True)
class InterpolationError:
    """Table against simulation in the middle of every cell, where an interpolation is worst.

    Attributes:
        output: A, largest error of the output current.
        supply: A, likewise of the supply current.
        input: V, rms of what the output current is off by, as a voltage between the inputs: what
            an amplifier in a loop is off by there. Of cells within the supplies.
    """

    output: float
    supply: float
    input: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"interpolation error at cell middles: output {self.output:.2g} A, supply "
            f"{self.supply:.2g} A, or {self.input:.2g} V rms between the inputs"
        )


@dataclass(frozen=True)
class AmplifierTable(MeasuredTable):
    """A characterised operational amplifier.

    Attributes:
        pluses: (C,) V, of the input plus, ascending and uniform, C >= 5; or of one value where it
            is grounded.
        stretched: (P,) s, ascending and uniform; plus - minus is ``width``·sinh(s).
        outputs: (Q,) V, ascending and uniform.
        currents: (C, P, Q, 2) float64, A: out of the output, from vdd.
        width: V.
        vdd: V at which it holds.
        vss: V, likewise.
        temperature: K, likewise.
        gain: V/V, mean slope of the unloaded output over the middle half between the supplies.
        offset: V between the inputs that puts the unloaded output to the middle of the supplies.
        swing: V, lowest and highest output whose slope is a tenth of the largest or more.
        quiescent: W that both supplies deliver at that output, unloaded.
        error: Measured interpolation error.
        subcircuit: Name of the sub-circuit.
        digest: Identifies its file.
        simulator: Name and version of what measured it.
    """

    what = "amplifier"
    maker = "imac_torch.tabulate_amplifier(...)"
    errors = InterpolationError
    tensors = ("pluses", "stretched", "outputs", "currents")
    figures_kept = (
        "width", "vdd", "vss", "temperature", "gain", "offset", "swing", "quiescent",
        "subcircuit", "digest", "simulator",
    )  # fmt: skip

    pluses: Tensor
    stretched: Tensor
    outputs: Tensor
    currents: Tensor
    width: float
    vdd: float
    vss: float
    temperature: float
    gain: float
    offset: float
    swing: tuple[float, float]
    quiescent: float
    error: InterpolationError
    subcircuit: str
    digest: str
    simulator: str

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            DataError: They are not a table.
        """
        shape = (len(self.pluses), len(self.stretched), len(self.outputs), 2)
        if tuple(self.currents.shape) != shape or 1 < shape[0] < 5 or min(shape[1:3]) < 5:
            raise DataError(
                f"currents of an amplifier table must be {shape} for its axes, of at least 5 "
                f"values each (or one of the input plus), got {tuple(self.currents.shape)}"
            )
        for name in self.tensors:
            value = getattr(self, name)
            if value.dtype != torch.float64 or not bool(torch.isfinite(value).all()):
                raise DataError(f"{name} of an amplifier table must be finite float64 values")
        if min(self.width, self.vdd - self.vss, self.temperature, self.gain - 1.0) <= 0.0:
            raise DataError(
                "width, supplies and temperature of an amplifier table must be positive, its gain "
                "larger than 1"
            )

    def figures(self) -> dict[str, float]:
        """The numbers that describe it without load; V/V, V, W, A."""
        return {
            "gain": self.gain,
            "offset": self.offset,
            "swing_low": self.swing[0],
            "swing_high": self.swing[1],
            "quiescent_power": self.quiescent,
            "quiescent_current": self.quiescent / (self.vdd - self.vss),
            "input_error": self.error.input,
        }

    @property
    def grounded(self) -> bool:
        """Whether it holds for an input plus at one voltage only."""
        return len(self.pluses) == 1

    @cached_property
    def _spline(self) -> SplineTable:
        values = self.currents  # (C, P, Q, 2)
        if not self.grounded:
            along = coefficients_of_values(len(self.pluses))
            values = torch.einsum("ac,cpqt->apqt", along, values)
        functions = values.movedim(0, 2).flatten(2)  # (P, Q, C'·2)
        return SplineTable.fit(self.stretched, self.outputs, functions)

    def values(self, plus: Tensor, minus: Tensor, output: Tensor) -> AmplifierValues:
        """Currents at voltages of one shape, without a graph; linear beyond the table."""
        plus, minus, output = (item.detach() for item in (plus, minus, output))
        differential = plus - minus
        stretch = torch.asinh(differential / self.width)
        found = self._spline(stretch, output)
        parts = [item.unflatten(-1, (-1, 2)) for item in found]  # (..., C', 2)
        value, by_stretch, by_output = parts
        by_plus = torch.zeros_like(value[..., 0, :])
        if self.grounded:
            value, by_stretch, by_output = (item.squeeze(-2) for item in parts)
        else:
            low, count = float(self.pluses[0]), len(self.pluses)
            step = (float(self.pluses[-1]) - low) / (count - 1)
            index, weight, slope, over = cubic_weights(plus, low, step, count)
            near = index[..., None] + torch.arange(4, device=index.device)
            near = near[..., None].expand(*near.shape, 2)
            value, by_stretch, by_output, taken = (
                (item.gather(-2, near) * by[..., None]).sum(-2)
                for item, by in (
                    (value, weight), (by_stretch, weight), (by_output, weight), (value, slope)
                )
            )
            by_plus = taken
            value = value + over[..., None] * taken
        by_differential = by_stretch[..., 0] / (differential.square() + self.width**2).sqrt()
        return AmplifierValues(
            value[..., 0], value[..., 1], by_plus[..., 0] + by_differential, -by_differential,
            by_output[..., 0],
        )  # fmt: skip

    def inside(self, plus: Tensor, minus: Tensor, output: Tensor) -> Tensor:
        """Elementwise: whether it was measured there."""
        found = self._spline.inside(torch.asinh((plus - minus) / self.width), output)
        if self.grounded:
            return found
        return found & (plus >= self.pluses[0]) & (plus <= self.pluses[-1])

    def check(self, *, vdd: float, vss: float, temperature: float, where: str) -> None:
        """Refuse conditions other than those of the measurement.

        Raises:
            ConfigError: A supply or the temperature differs.
        """
        self.check_conditions(where, vdd=vdd, vss=vss, temperature=temperature)


def read_amplifier_table(name: str) -> AmplifierTable:
    """The table in a file, see :meth:`MeasuredTable.read`."""
    return AmplifierTable.read(name, "amplifier.table")
