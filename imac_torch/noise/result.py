"""What a noise analysis found, as numbers, text and a table for notebooks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from imac_torch.base.figures import bars, bars_height, new_figure
from imac_torch.base.shown import Brief, Shown, Table
from imac_torch.base.units import quantity
from imac_torch.noise.circuit import PARTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL_PARTS: Final = ("inputs", *PARTS)
"""Kinds of sources; inputs are voltages that last as long as an image does."""
HEADINGS: Final = ("layer", "noise at inputs", "SNR", "noise at outputs", "SNR", "by")
SHOWN: Final = 0.005
"""Share of the variance from which a part is named."""


@dataclass(frozen=True)
class LayerNoise(Brief):
    """Noise of one layer's neurons; B samples, M neurons, P parts.

    Attributes:
        name: Of the layer.
        gates: (P, B, M) V², variance at what each neuron sees: its input, behind the input
            resistor. inf where nothing limits the bandwidth.
        outputs: (P, B, M) V², variance at its output.
        gate_voltages: (B, M) V.
        output_voltages: (B, M) V.
    """

    name: str
    gates: Tensor
    outputs: Tensor
    gate_voltages: Tensor
    output_voltages: Tensor

    @property
    def input_rms(self) -> Tensor:
        """(B, M) V, of all parts."""
        return self.gates.sum(0).sqrt()

    @property
    def output_rms(self) -> Tensor:
        """(B, M) V, of all parts."""
        return self.outputs.sum(0).sqrt()

    @property
    def input_snr(self) -> Tensor:
        """(M,) ratio of powers: how inputs differ between samples over their noise."""
        return _ratio(self.gate_voltages, self.gates)

    @property
    def output_snr(self) -> Tensor:
        """(M,) likewise of outputs."""
        return _ratio(self.output_voltages, self.outputs)

    def shares(self) -> dict[str, float]:
        """Part by part, of the variance of the outputs, all samples and neurons together."""
        total = self.outputs.sum().clamp(min=1e-300)
        return {
            part: float(self.outputs[k].sum() / total) for k, part in enumerate(ALL_PARTS)
        }


def _ratio(voltages: Tensor, variance: Tensor) -> Tensor:
    signal = voltages.var(0) if len(voltages) > 1 else voltages[0].square()
    return signal / variance.sum(0).mean(0)


@dataclass(frozen=True)
class NoiseReport(Shown):
    """Noise of a circuit at operating points.

    The signal-to-noise ratio of a node is the variance of its voltage over the samples by the mean
    variance of its noise; of a single sample it is the square of its voltage.

    Attributes:
        layers: In order.
        band: Hz, from where to where noise was counted; the upper end is where it has died out if
            no bandwidth was given.
        limited: Whether a bandwidth was given.
        temperature: K.
        unknown: Kinds of neurons whose noise is not known and left out.
    """

    layers: tuple[LayerNoise, ...]
    band: tuple[float, float]
    limited: bool
    temperature: float
    unknown: tuple[str, ...] = ()

    @classmethod
    def joined(cls, reports: Sequence[NoiseReport]) -> NoiseReport:
        """Of the circuits of a model, one after the other."""
        bands = [item.band for item in reports]
        return cls(
            tuple(layer for item in reports for layer in item.layers),
            (min(low for low, _ in bands), max(high for _, high in bands)),
            all(item.limited for item in reports),
            max(item.temperature for item in reports),
            tuple(sorted({kind for item in reports for kind in item.unknown})),
        )

    def plot(self) -> Figure:
        """V rms at the inputs and the outputs of each layer's neurons, mean over samples."""
        rows = {
            f"{layer.name}, {where}": {"rms": float(rms.square().mean().sqrt())}
            for layer in self.layers
            for where, rms in (("inputs", layer.input_rms), ("outputs", layer.output_rms))
        }
        figure, (axes,) = new_figure((bars_height(rows),))
        bars(axes, rows, unit="V")
        return figure

    def tables(self) -> tuple[Table]:
        """One, a row per layer."""
        return (Table(self._title(), self._rows(), HEADINGS, notes=self._notes()),)

    def _title(self) -> str:
        low, high = (quantity(value, "Hz") for value in self.band)
        band = f"{low} to {high}" if self.limited else f"{low} up to where the circuit ends it"
        counts = sorted({len(item.gate_voltages) for item in self.layers})
        count = " to ".join(str(item) for item in (counts[0], counts[-1])[: len(counts)])
        return f"noise at {self.temperature:g} K, {band}, mean of {count} samples"

    def _notes(self) -> str:
        if not self.unknown:
            return ""
        return f"not known and left out: noise of neurons of kind {', '.join(self.unknown)}\n"

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for layer in self.layers:
            shares = sorted(layer.shares().items(), key=lambda item: -item[1])
            parts = [f"{name} {100 * share:.1f} %" for name, share in shares if share >= SHOWN]
            inputs = layer.gates.sum(0).mean().sqrt()
            outputs = layer.outputs.sum(0).mean().sqrt()
            rows.append(
                (
                    layer.name,
                    _volts(float(inputs)), _decibels(layer.input_snr),
                    _volts(float(outputs)), _decibels(layer.output_snr),
                    ", ".join(parts) or "nothing",
                )
            )  # fmt: skip
        return rows

    def figures(self) -> dict[str, float]:
        """Of the last outputs: rms noise in V, SNR in dB (median of the outputs), shares."""
        last = self.layers[-1]
        return {
            "rms": float(last.outputs.sum(0).mean().sqrt()),
            "snr": _median_decibels(last.output_snr),
            **last.shares(),
        }


def _volts(value: float) -> str:
    return "not limited" if math.isinf(value) else quantity(value, "V") + " rms"


def _median_decibels(ratio: Tensor) -> float:
    return 10.0 * math.log10(max(float(torch.median(ratio)), 1e-300))


def _decibels(ratio: Tensor) -> str:
    value = _median_decibels(ratio)
    return "–" if math.isnan(value) or value < -200.0 else f"{value:.1f} dB"
