"""Figures of transistors, neurons and latency, drawn with matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from imac_torch.base.figures import Curve, curves, grid_of, histogram, new_figure, note
from imac_torch.base.shown import Brief
from imac_torch.base.units import quantity
from imac_torch.dc.transfer import sweep_neuron
from imac_torch.errors import ConfigError, SolverError
from imac_torch.finfet import FinFET
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.core import Core, CoreCurrents, CoreValues
from imac_torch.transient.inference_report import InferenceReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "LoadedCurve",
    "loaded_curve",
    "plot_finfet",
    "plot_latency",
    "plot_neuron",
    "plot_waveforms",
]

POINTS: Final = 401
"""Points of a curve."""
LOADS: Final = (0.0, 2e-5, 1e-4, 5e-4)
"""S. A row of 32 devices of 78 kΩ and 202 kΩ takes 2.9e-4 S from what drives it."""

FLOOR: Final = 1e-18
"""A. Smaller gate currents are not drawn."""


@dataclass(frozen=True)
class LoadedCurve(Brief):
    """A neuron over its input voltage, with a conductance at its output; tensors (B,) float64.

    Attributes:
        inputs: V, at the neuron's input z.
        outputs: V.
        gates: V, at the gate of the inverter; the input, for other kinds.
        supply_current: A, from vdd.
        conductance: S, of the load.
        voltage: V, to which the load goes.
    """

    inputs: Tensor
    outputs: Tensor
    gates: Tensor
    supply_current: Tensor
    conductance: float
    voltage: float


@dataclass(frozen=True)
class _LoadedCore:
    """A core and a conductance from its output to a fixed voltage."""

    core: Core
    conductance: float
    voltage: float

    def values(self, gate: Tensor, output: Tensor) -> CoreValues:
        values = self.core.values(gate, output)
        drawn = self.conductance * (output - self.voltage)
        return values._replace(output=values.output - drawn)

    def currents(self, gate: Tensor, output: Tensor) -> CoreCurrents:
        currents = self.core.currents(gate, output)
        drawn = self.conductance * (output - self.voltage)
        return currents._replace(
            output=currents.output - drawn,
            output_by_output=currents.output_by_output - self.conductance,
        )

    def start(self) -> tuple[float, float, float]:
        return self.core.start()

    def inside(self, gate: Tensor, output: Tensor) -> Tensor:
        return self.core.inside(gate, output)


@lasting()
def loaded_curve(
    spec: NeuronSpec,
    inputs: Tensor,
    *,
    conductance: float = 0.0,
    voltage: float = 0.0,
    exact: bool = False,
) -> LoadedCurve:
    """Sweep the input of a neuron that drives a conductance.

    Args:
        spec: The neuron.
        inputs: (B,) float64, V at the neuron's input.
        conductance: S, from the output to ``voltage``; 0: no load.
        voltage: V. Crossbars pull towards the weighted mean of their other lines.
        exact: The transistor model itself instead of the native engine's table.

    Raises:
        ConfigError: The conductance is negative or not finite.
        SolverError: An input did not converge, or is outside the range of the model.
    """
    if not (math.isfinite(conductance) and conductance >= 0.0 and math.isfinite(voltage)):
        raise ConfigError(f"a load of {conductance} S to {voltage} V is not one")
    plain = spec.model.core(spec) if exact else spec.model.tabulated_core(spec)
    core = _LoadedCore(plain, conductance, voltage)
    _, outputs, gates = sweep_neuron(spec, core, inputs)
    outside = ~core.inside(gates, outputs)
    if bool(outside.any()):
        worst = float(inputs[outside][0])
        raise SolverError(
            f"the {spec.kind} neuron leaves the range of its model at an input of {worst:g} V; "
            "take a smaller range of inputs, or exact=True"
        )
    supply = core.values(gates, outputs).supply
    return LoadedCurve(inputs, outputs, gates, supply, conductance, voltage)


@lasting()
def plot_finfet(
    device: FinFET,
    *,
    vdd: float = 0.8,
    drains: Sequence[float] = (0.05, 0.4, 0.8),
    gates: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    gate_limit: float = 1.4,
    title: str | None = None,
) -> Figure:
    """Characteristics of a transistor: Id-Vg, Id-Vd, and the gate current.

    Of a p transistor source-gate and source-drain voltages are drawn, so that it looks like an n
    transistor.

    Args:
        device: The transistor.
        vdd: V, end of the drain voltages.
        drains: V, of the curves over the gate voltage.
        gates: V, of the curves over the drain voltage.
        gate_limit: V, to which the gate current is drawn; tunnelling clamps overdriven gates.
        title: Written above the figure; None: the card's name.
    """
    figure, (left, middle, right) = new_figure(columns=3, width=440)
    sign = 1.0 if device.card.polarity == "n" else -1.0
    vd, vg = ("Vds", "Vgs") if sign > 0 else ("Vsd", "Vsg")
    gate_axis = torch.linspace(0.0, vdd, POINTS, dtype=torch.float64, device="cpu")
    drain_axis = torch.linspace(0.0, vdd, POINTS, dtype=torch.float64, device="cpu")
    wide = torch.linspace(-gate_limit, gate_limit, POINTS, dtype=torch.float64, device="cpu")

    colours = _colours(len(drains))
    for colour, drain in zip(colours, drains, strict=True):
        current = sign * device.currents(sign * drain, sign * gate_axis).drain
        left.semilogy(gate_axis, current.abs(), color=colour, label=f"{vd} = {drain:g} V")
        gate_current = device.currents(sign * drain, sign * wide).gate
        right.semilogy(wide, gate_current.abs(), color=colour, label=f"{vd} = {drain:g} V")
    for colour, gate in zip(_colours(len(gates)), gates, strict=True):
        current = sign * device.currents(sign * drain_axis, sign * gate).drain
        middle.plot(drain_axis, 1e3 * current, color=colour, label=f"{vg} = {gate:g} V")
    _label(left, f"gate voltage {vg} (V)", "drain current (A)", "Id over Vg")
    _label(middle, f"drain voltage {vd} (V)", "drain current (mA)", "Id over Vd")
    _label(right, f"gate voltage {vg} (V)", "gate current, absolute (A)", "Ig over Vg")
    right.set_ylim(bottom=FLOOR)
    figure.suptitle(device.card.name if title is None else title)
    return figure


def plot_neuron(
    spec: NeuronSpec,
    *,
    low: float = -1.0,
    high: float = 1.0,
    conductances: Sequence[float] = LOADS,
    voltage: float = 0.0,
    exact: bool = False,
    title: str | None = None,
) -> Figure:
    """Transfer curves of a neuron without and with load, and what it draws from vdd.

    Args:
        spec: The neuron.
        low: V, first input.
        high: V, last input.
        conductances: S, one curve each; 0: no load.
        voltage: V, to which the load goes.
        exact: As for :func:`loaded_curve`.
        title: Of the figure; None: the kind of neuron.

    Raises:
        ConfigError: A range or load is not one.
        SolverError: As for :func:`loaded_curve`.
    """
    if not low < high or not conductances:
        raise ConfigError(f"from {low} V to {high} V with {len(conductances)} loads is no figure")
    figure, (left, right) = new_figure(columns=2)
    inputs = torch.linspace(low, high, POINTS, dtype=torch.float64, device="cpu")
    for colour, conductance in zip(_colours(len(conductances)), conductances, strict=True):
        curve = loaded_curve(spec, inputs, conductance=conductance, voltage=voltage, exact=exact)
        label = f"{quantity(conductance, 'S')} to {voltage:g} V" if conductance else "no load"
        left.plot(inputs, curve.outputs, color=colour, label=label)
        right.plot(inputs, 1e6 * curve.supply_current, color=colour, label=label)
    left.axhline(spec.vdd / 2, color="0.7", linewidth=0.8, linestyle=":")
    _label(left, "input z (V)", "output (V)", "Transfer curve")
    _label(right, "input z (V)", "current from vdd (µA)", "Supply current")
    figure.suptitle(f"{spec.kind} neuron" if title is None else title)
    return figure


def plot_latency(timed: InferenceReport, *, bins: int = 40, title: str | None = None) -> Figure:
    """Distributions of latency: all outputs settled, and the class stable.

    Args:
        timed: From ``network.measure``, or ``report.timing``.
        bins: Bars of a histogram.
        title: Written above the figure.

    Raises:
        SolverError: No image settled.
    """
    figure, panels = new_figure(columns=2)
    percent = f"{100 * timed.latency.fraction:.3g} %"
    for axes, decision, name in zip(
        panels, (False, True), (f"all outputs within {percent}", "class stable"), strict=True
    ):
        values = (timed.latency.decision if decision else timed.latency.images).reshape(-1)
        values = values[torch.isfinite(values)]
        if not len(values):
            raise SolverError("no image settled: there is no latency to draw")
        found = timed.latency.quantiles((0.5, 0.99), decision=decision)
        marks = {f"{100 * level:g} %": at for level, at in found.items()}
        histogram(axes, values.tolist(), unit="s", x=name, marks=marks, bins=bins)
    if title is not None:
        figure.suptitle(title)
    return figure


def plot_waveforms(
    timed: InferenceReport, *, end: float | None = None, title: str | None = None
) -> Figure:
    """Outputs over time of the images whose waveforms were kept, and when they have settled.

    Args:
        timed: From ``network.measure``, or ``report.timing``.
        end: s, until when; None: all that was kept.
        title: Written above the figure.

    Raises:
        ConfigError: No waveforms were kept.
    """
    kept = timed.waveforms
    if kept is None:
        raise ConfigError("no waveforms were kept: measure with TimingOptions(waveforms=2)")
    figure, panels = new_figure(columns=len(kept.samples))
    shown = kept.time <= (float(kept.time[-1]) if end is None else end)
    time = kept.time[shown].tolist()
    for k, (axes, index) in enumerate(zip(panels, kept.samples.tolist(), strict=True)):
        winner = int(timed.settled[index].argmax())
        answer = f"output {winner}, the answer" if kept.outputs.shape[2] > 1 else "output"
        order = sorted(range(kept.outputs.shape[2]), key=lambda m: m == winner)
        curves(
            axes,
            time,
            [
                Curve(
                    answer if m == winner else f"output {m}",
                    kept.outputs[shown, k, m].tolist(),
                    "strong" if m == winner else "faint",
                )
                for m in order
            ],
            x=f"time, image {index}",
            y="output",
            x_unit="s",
            y_unit="V",
            marks={"settled": float(timed.latency.images[index, 0])},
        )
    if title is not None:
        figure.suptitle(title)
    return figure


def _colours(count: int) -> list[str]:
    """An ordered family: one hue from light to dark (after ColorBrewer's Blues)."""
    ramp = ("#9ecae1", "#6baed6", "#3182bd", "#1361a9", "#08306b")
    if count == 1:
        return [ramp[-1]]
    return [ramp[round(k * (len(ramp) - 1) / (count - 1))] for k in range(count)]


def _label(axes: Axes, x: str, y: str, title: str) -> None:
    axes.locator_params(axis="x", nbins=6)
    grid_of(axes)
    note(axes, x=x, y=y, title=title)
    axes.legend(frameon=False)
