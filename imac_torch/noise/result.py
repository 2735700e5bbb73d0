"""What a noise analysis found, as numbers, text and a table for notebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

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
QUIETEST: Final = -200.0
"""dB below which there is no signal at all."""
MANY: Final = 3
"""Titles that are too many for one."""


@dataclass(frozen=True)
class LayerFigures:
    """Noise of one layer's neurons in numbers, over all of them and all samples.

    Attributes:
        input_rms: V at their inputs; inf where nothing limits the bandwidth.
        input_snr: dB, median of the neurons; NaN where it means nothing.
        output_rms: V at their outputs.
        output_snr: dB likewise.
        shares: Of the variance at the outputs, by part (:data:`ALL_PARTS`).
    """

    input_rms: float
    input_snr: float
    output_rms: float
    output_snr: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class NoiseFigures(Shown):
    """What a :class:`NoiseReport` says, without its tensors: what reports and files keep.

    Attributes:
        layers: By name, in order.
        title: At what temperature, within which band, of how many samples.
        unknown: Kinds of neurons whose noise is not known and left out.
    """

    layers: Mapping[str, LayerFigures]
    title: str
    unknown: tuple[str, ...] = ()

    @classmethod
    def read(cls, content: Mapping[str, Any] | None) -> NoiseFigures | None:
        """From a file's ``asdict``; JSON has null for what is infinite or no number."""
        if content is None:
            return None
        layers = {}
        for name, item in content["layers"].items():
            shares = {str(part): float(share) for part, share in item["shares"].items()}
            layers[str(name)] = LayerFigures(
                _number(item["input_rms"], math.inf), _number(item["input_snr"], math.nan),
                _number(item["output_rms"], math.inf), _number(item["output_snr"], math.nan),
                shares,
            )  # fmt: skip
        return cls(layers, str(content["title"]), tuple(map(str, content["unknown"])))

    @classmethod
    def joined(cls, parts: Sequence[NoiseFigures]) -> NoiseFigures | None:
        """Of the circuits of a model, one after the other; None: there is none."""
        if not parts:
            return None
        titles = dict.fromkeys(item.title for item in parts)
        return cls(
            {name: layer for item in parts for name, layer in item.layers.items()},
            "; ".join(titles) if len(titles) < MANY else f"noise of {len(parts)} circuits",
            tuple(sorted({kind for item in parts for kind in item.unknown})),
        )

    def tables(self) -> tuple[Table]:
        """One, a row per layer."""
        kinds = ", ".join(self.unknown)
        notes = f"not known and left out: noise of neurons of kind {kinds}\n" if kinds else ""
        return (Table(self.title, self._rows(), HEADINGS, notes=notes),)

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for name, layer in self.layers.items():
            shares = sorted(layer.shares.items(), key=lambda item: -item[1])
            parts = [f"{part} {100 * share:.1f} %" for part, share in shares if share >= SHOWN]
            rows.append(
                (
                    name,
                    _volts(layer.input_rms), _decibels(layer.input_snr),
                    _volts(layer.output_rms), _decibels(layer.output_snr),
                    ", ".join(parts) or "nothing",
                )
            )  # fmt: skip
        return rows


@dataclass(frozen=True)
class LayerNoise(Brief):
    """Noise of one layer's neurons; B samples, M neurons, P parts.

    Attributes:
        name: Of the layer.
        gates: (P, B, M) V², variance at what each neuron sees: its input, behind the input
            resistor. inf where nothing limits the bandwidth.
        outputs: (P, B, M) V², variance at its output.
        gate_voltages: (S, M) V, of these samples or more.
        output_voltages: (S, M) V.
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

    def figures(self) -> LayerFigures:
        """In numbers."""
        return LayerFigures(
            float(self.gates.sum(0).mean().sqrt()), _median_decibels(self.input_snr),
            float(self.outputs.sum(0).mean().sqrt()), _median_decibels(self.output_snr),
            self.shares(),
        )  # fmt: skip


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
            no bandwidth was given. 0 to 0: inputs alone were noisy.
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
        return self.figures().tables()

    def figures(self) -> NoiseFigures:
        """In numbers."""
        low, high = (quantity(value, "Hz") for value in self.band)
        band = f"{low} to {high}" if self.limited else f"{low} up to where the circuit ends it"
        where = f"noise at {self.temperature:g} K, {band}" if self.band[1] else "noise of inputs"
        counts = sorted({item.outputs.shape[1] for item in self.layers})
        count = " to ".join(str(item) for item in (counts[0], counts[-1])[: len(counts)])
        title = f"{where}, mean of {count} samples"
        return NoiseFigures(
            {layer.name: layer.figures() for layer in self.layers}, title, self.unknown
        )


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else float(value)


def _volts(value: float) -> str:
    return "not limited" if math.isinf(value) else quantity(value, "V") + " rms"


def _median_decibels(ratio: Tensor) -> float:
    value = 10.0 * math.log10(max(float(torch.median(ratio)), 1e-300))
    return value if value >= QUIETEST else math.nan


def _decibels(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f} dB"
