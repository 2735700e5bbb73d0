"""Draws of noise for operating points: what a circuit's outputs are at the moment they are read.

What of a source reaches the outputs is its density times the bandwidth that the rest of the circuit
leaves: both are measured at a few operating points, layer by layer. What a layer's crossbars,
read-outs and input resistors add, and what the neurons before put on its lines, is then one normal
vector at its neurons' inputs with a known covariance, the same for all images: a draw is one
product with its root, and the nonlinear circuit carries it on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.config import Noise
from imac_torch.noise.analysis import integrals, of_inputs
from imac_torch.noise.circuit import PLACES, NoisyCircuit
from imac_torch.noise.neurons import SmallSignal
from imac_torch.results.solution import Solution

COARSE: Final = 3
"""Nodes of the quadrature per decade: effective bandwidths to a percent."""
REFERENCES: Final = 4
"""Operating points that densities and bandwidths are the mean of."""
SIGNALS: Final = 256
"""Operating points whose differences are the signal beside the noise that is drawn."""
TOLD: Final = 2
"""Operating points of which it is told, part by part."""


@dataclass(frozen=True)
class NoiseDraws:
    """Normal vectors to draw; the last is that of the outputs.

    Attributes:
        covariances: (M, M) V² each: at the inputs of every layer's neurons, then at the outputs.
        roots: (M, M) V each, root·rootᵀ being the covariance.
        lines: V rms to be drawn at the input lines themselves: where amplifiers behind them can
            saturate, it is no normal vector at the neurons.
    """

    covariances: tuple[Tensor, ...]
    roots: tuple[Tensor, ...]
    lines: float = 0.0

    @classmethod
    def of(cls, circuit: NoisyCircuit, solution: Solution, settings: Noise) -> NoiseDraws:
        """Measure a circuit at operating points.

        Args:
            circuit: The circuit.
            solution: Solved samples, see :meth:`NoisyCircuit.linearised`. Where amplifiers are at
                rails covariances are the mean of these samples'.
            settings: What to count, and within which band.

        Raises:
            CircuitError: Nothing limits the bandwidth.
        """
        lines = settings.inputs if circuit.saturates else 0.0
        settings = settings.replace(inputs=settings.inputs - lines)
        parts = [
            cls._covariances(here, here.linearised(some, settings.neuron_voltage), settings)
            for here, some in circuit.by_point(solution)
        ]
        means = tuple(torch.stack(items).mean(0) for items in zip(*parts, strict=True))
        return cls(means, tuple(_root(item) for item in means), lines)

    @staticmethod
    def _covariances(
        circuit: NoisyCircuit, signals: Sequence[SmallSignal], settings: Noise
    ) -> list[Tensor]:
        if not settings.circuit:
            heard = of_inputs(circuit, signals, settings.inputs)
            sizes = [layer.gates.shape[-1] for layer in heard[1:] + heard[-1:]]
            driven = heard[0].combined[0].mean(0).real
            return [driven, *(driven.new_zeros(size, size) for size in sizes)]
        found, (low, _) = integrals(circuit, signals, settings, nodes=COARSE, places=True)
        still = circuit.density(signals, low, places=True)
        # Hz, of what reaches the last outputs: variance over density there, part by part.
        reached = still[-1].outputs.sum((-2, -1))
        band = found[-1].outputs.sum((-2, -1)) / reached.clamp(min=1e-300)
        covariances, before = [], None
        for k, (density, layer) in enumerate(zip(still, circuit.layers, strict=True)):
            first, white, flicker = range(PLACES * k, PLACES * (k + 1))
            own = density.combined[first].mean(0).real * band[first]
            if not settings.neurons:
                own = own - _input_resistor(signals[k], band[first], own)
            transfer = layer.at(0.0).transfer[:, :-1].real
            if before is None:
                before = torch.eye(layer.spec.inputs, dtype=own.dtype, device=own.device)
                before = settings.inputs**2 * before
            covariances.append(own + transfer @ before @ transfer.T)
            before = float(settings.neurons) * (
                density.covariance[white].mean(0).real * band[white]
                + float(settings.flicker) * density.covariance[flicker].mean(0).real * band[flicker]
            )
        assert before is not None  # noqa: S101 - there is a layer
        covariances.append(before)
        return covariances

    def draw(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """(count, M) V for every vector, anew.

        Args:
            count: Images.
            generator: On the CPU, whatever the circuit is on.
        """
        sizes = [len(root) for root in self.roots]
        values = torch.randn(
            count, sum(sizes), dtype=torch.float64, generator=generator, device="cpu"
        )
        parts = values.to(self.roots[0].device).split(sizes, dim=1)
        return [part @ root.T for part, root in zip(parts, self.roots, strict=True)]

    def at_lines(self, voltages: Tensor, generator: torch.Generator) -> Tensor:
        """(R, N) V on the input lines, with what is drawn there.

        Args:
            voltages: Without.
            generator: On the CPU.
        """
        if self.lines == 0.0:
            return voltages
        drawn = torch.randn(
            voltages.shape, dtype=torch.float64, generator=generator, device="cpu"
        )
        return voltages + self.lines * drawn.to(voltages)


def _input_resistor(signal: SmallSignal, band: Tensor, like: Tensor) -> Tensor:
    """(M, M) V² of the neurons' input resistors, which do not count where neurons are quiet."""
    identity = torch.eye(len(like), dtype=like.dtype, device=like.device)
    return signal.input_noise[1] * band * identity


def _root(covariance: Tensor) -> Tensor:
    """A root of a matrix that may be singular."""
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.T))
    return vectors * values.clamp(min=0.0).sqrt()
