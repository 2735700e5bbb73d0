"""Noise added up over frequency: the variance of every neuron's input and output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from imac_torch.config import Noise
from imac_torch.errors import CircuitError, SolverError
from imac_torch.noise.circuit import PARTS, PLACES, LayerDensity, NoisyCircuit, taken
from imac_torch.noise.neurons import SmallSignal
from imac_torch.noise.result import LayerNoise, NoiseReport
from imac_torch.numeric.budget import fitting
from imac_torch.results.solution import Solution, failures_in_words

NODES: Final = 4
"""Of Gauss and Legendre's rule, per decade of the frequency. Spectra of poles on the real axis are
integrated to 2e-4 by 4."""
BELOW: Final = 100.0
"""How far below the slowest corner spectra are taken as flat: there they are, to 1e-4."""
BEYOND: Final = 30.0
"""How far above the fastest corner they are gone through at least."""
FURTHER: Final = 6
"""Decades that they go on where noise does not fall yet."""
ALONE: Final = (0.0, 0.0)
"""Band of a circuit that is not noisy itself."""
LEFT: Final = 1e-3
"""Of the variance: how much the extrapolated tail of an output's spectrum may be."""
FALLING: Final = 1.2
"""Power of the frequency that spectra must fall with to have an integral worth the name."""


@dataclass(frozen=True)
class LayerVariance:
    """Variances of one layer's neurons by part.

    Attributes:
        gates: (P, B, M) V², of what the neurons see, behind their input resistors; inf where
            nothing limits it.
        outputs: (P, B, M) V².
    """

    gates: Tensor
    outputs: Tensor


@dataclass
class _Sum:
    """Integrals under way, per layer."""

    layers: list[LayerVariance]

    def add(self, density: Sequence[LayerDensity], weight: float) -> None:
        if not self.layers:
            self.layers = [
                LayerVariance(0.0 * item.gates, 0.0 * item.outputs) for item in density
            ]
        for total, item in zip(self.layers, density, strict=True):
            total.gates.add_(item.gates, alpha=weight)
            total.outputs.add_(item.outputs, alpha=weight)


def _panels(low: float, high: float, nodes: int) -> Iterator[tuple[float, float]]:
    """Frequencies and weights of ∫ S df between two frequencies, in ln f, decade by decade."""
    count = max(1, math.ceil(math.log10(high / low)))
    roots, weights = _legendre(nodes)
    step = math.log(high / low) / count
    for panel in range(count):
        for root, weight in zip(roots, weights, strict=True):
            frequency = low * math.exp(step * (panel + 0.5 * (1.0 + root)))
            yield frequency, 0.5 * step * weight * frequency


def _legendre(nodes: int) -> tuple[list[float], list[float]]:
    """Gauss and Legendre's rule from its Jacobi matrix (Golub and Welsch, 1969)."""
    k = torch.arange(1, nodes, dtype=torch.float64, device="cpu")
    beside = k / (4.0 * k * k - 1.0).sqrt()
    found, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return found.tolist(), (2.0 * vectors[0].square()).tolist()


def variances(
    circuit: NoisyCircuit,
    signals: Sequence[SmallSignal],
    settings: Noise,
    *,
    nodes: int = NODES,
) -> tuple[list[LayerVariance], tuple[float, float]]:
    """Integrate noise at operating points.

    Args:
        circuit: The circuit.
        signals: Of :meth:`NoisyCircuit.linearised`.
        settings: What to count.
        nodes: Of the quadrature, per decade.

    Returns:
        Per layer, and the band in Hz that was gone through, or was asked for (:data:`ALONE` where
        inputs alone are noisy).

    Raises:
        CircuitError: Nothing in the circuit limits the bandwidth of its outputs, and no bandwidth
            is given.
    """
    inputs = of_inputs(circuit, signals, settings.inputs)
    if not settings.circuit:
        return [
            LayerVariance(_alone(item.gates), _alone(item.outputs)) for item in inputs
        ], ALONE
    found, (_, high) = integrals(circuit, signals, settings, nodes=nodes)
    chosen = _chosen(settings)
    return [
        LayerVariance(
            torch.cat([first.gates, item.gates * chosen]),
            torch.cat([first.outputs, item.outputs * chosen]),
        )
        for first, item in zip(inputs, found, strict=True)
    ], (settings.lowest, high)


def integrals(
    circuit: NoisyCircuit,
    signals: Sequence[SmallSignal],
    settings: Noise,
    *,
    nodes: int = NODES,
    places: bool = False,
) -> tuple[list[LayerVariance], tuple[float, float]]:
    """Spectra added up, of everything in the circuit.

    Below the slowest corner spectra are flat but for 1/f noise, which is integrated as what it is;
    above the fastest they fall with a power of the frequency, which is measured.

    Args:
        circuit: The circuit.
        signals: Of :meth:`NoisyCircuit.linearised`.
        settings: The band.
        nodes: Of the quadrature, per decade.
        places: Whether parts are those of :func:`imac_torch.noise.circuit.by_place`.

    Returns:
        Per layer, and where in Hz spectra were begun and ended with.

    Raises:
        CircuitError: See :func:`variances`.
    """
    low, high = _range(circuit.corners(signals), settings)
    given, lowest = settings.bandwidth, settings.lowest

    def density(frequency: float) -> list[LayerDensity]:
        return circuit.density(signals, frequency, places=places)

    total = _Sum([])
    if low > lowest:
        flat = density(low)
        total.add(flat, low - lowest)
        _below(total, flat, signals, low, lowest, places=places)
        exponents = {layer.flickers for layer in circuit.layers if layer.flickers is not None}
        for exponent in exponents:
            quiet = replace(circuit, layers=tuple(
                layer.without_flicker() if layer.flickers == exponent else layer
                for layer in circuit.layers
            ))  # fmt: skip
            white = quiet.density(signals, low, places=places)
            weight = _beyond_flat(low, lowest, exponent)
            for item, both, one in zip(total.layers, flat, white, strict=True):
                item.gates.add_(both.gates - one.gates, alpha=weight)
                item.outputs.add_(both.outputs - one.outputs, alpha=weight)
    for frequency, weight in _panels(low, high, nodes):
        total.add(density(frequency), weight)
    tails = [LayerVariance(0.0 * item.gates, 0.0 * item.outputs) for item in total.layers]
    for further in range(FURTHER + 1 if given is None else 0):
        half, end = (density(high * part) for part in (0.5, 1.0))
        tails = [
            LayerVariance(
                _tail(a.gates, b.gates, high, item.gates),
                _tail(a.outputs, b.outputs, high, item.outputs),
            )
            for a, b, item in zip(half, end, total.layers, strict=True)
        ]
        left = max(
            float((tail.outputs.sum(0) / item.outputs.sum(0).clamp(min=1e-300)).max())
            for tail, item in zip(tails, total.layers, strict=True)
        )
        if left <= LEFT or further == FURTHER:
            break
        for frequency, weight in _panels(high, 10.0 * high, nodes):
            total.add(density(frequency), weight)
        high *= 10.0
    for k, tail in enumerate(tails):
        if bool(torch.isinf(tail.outputs).any()):
            raise CircuitError(
                f"nothing limits the bandwidth of the noise at the outputs of layer {k + 1}: set "
                "noise.bandwidth, amplifier.pole, or a capacitance there "
                "(neuron.output_capacitance, timing.load_capacitance)"
            )
    return [
        LayerVariance(item.gates + tail.gates, item.outputs + tail.outputs)
        for item, tail in zip(total.layers, tails, strict=True)
    ], (low, high)


def _range(corners: Sequence[float], settings: Noise) -> tuple[float, float]:
    """Hz, from where spectra are flat to where they fall, or to the bandwidth.

    Raises:
        CircuitError: There is neither a corner nor a bandwidth, or the band is empty.
    """
    given, lowest = settings.bandwidth, settings.lowest
    if given is None and not corners:
        raise CircuitError(
            "nothing limits the bandwidth of this circuit's noise: it has no pole and no "
            "capacitance; set noise.bandwidth, amplifier.pole, neuron.output_capacitance and "
            "timing.load_capacitance, or interconnect.capacitance; or noise.circuit = false for "
            "noise of the inputs alone"
        )
    if given is not None and given <= lowest:
        raise CircuitError(
            f"noise.bandwidth = {given:g} Hz must be above noise.lowest = {lowest:g} Hz"
        )
    low = min([*([] if given is None else [given / 10.0]), *(item / BELOW for item in corners)])
    low = max(lowest, low)
    return low, max(max(corners) * BEYOND, 10.0 * low) if given is None else given


def _chosen(settings: Noise) -> Tensor:
    """(P, 1, 1), 1 for what counts."""
    neurons = float(settings.neurons)
    values = [1.0, 1.0, neurons, neurons, neurons * settings.flicker]
    return torch.tensor(values, dtype=torch.float64, device="cpu")[:, None, None]


def _below(
    total: _Sum,
    flat: Sequence[LayerDensity],
    signals: Sequence[SmallSignal],
    low: float,
    lowest: float,
    *,
    places: bool,
) -> None:
    """1/f noise between the lowest frequency and one where everything else is flat."""
    exponents = [item.noise.exponent for item in signals if item.noise is not None]
    weight = _beyond_flat(low, lowest, max(exponents, default=1.0))
    flicker = slice(PLACES - 1, None, PLACES) if places else slice(-1, None)
    for item, density in zip(total.layers, flat, strict=True):
        item.gates[flicker] += weight * density.gates[flicker]
        item.outputs[flicker] += weight * density.outputs[flicker]


def _beyond_flat(low: float, lowest: float, exponent: float) -> float:
    """Hz: ∫ of (low/f)^exponent between both, less that of a spectrum that is flat."""
    wanted = (
        math.log(low / lowest)
        if exponent == 1.0
        else (low ** (1.0 - exponent) - lowest ** (1.0 - exponent)) / (1.0 - exponent)
    )
    return low**exponent * wanted - (low - lowest)


def _tail(half: Tensor, end: Tensor, high: float, found: Tensor) -> Tensor:
    """∫ beyond a frequency, (P, B, M): it falls there as between half of the frequency and it.

    What does not fall is inf, unless up to here it made nearly nothing of what there is: milliohms
    between ideal sources are noisy at any frequency, too.
    """
    power = torch.log2(half.clamp(min=1e-300) / end.clamp(min=1e-300))
    tail = torch.where(power > FALLING, end * high / (power - 1.0), torch.inf)
    nothing = end * high <= LEFT * found.sum(0)
    return torch.where(nothing & torch.isinf(tail), torch.zeros_like(end), tail)


def _alone(inputs: Tensor) -> Tensor:
    """(P, B, M) of (1, B, M) where the circuit adds nothing."""
    return torch.cat([inputs, inputs.new_zeros(len(PARTS), *inputs.shape[1:])])


def of_inputs(
    circuit: NoisyCircuit, signals: Sequence[SmallSignal], amplitude: float
) -> list[LayerDensity]:
    """V² that voltages at the inputs make, which last as long as an image does."""
    lines = circuit.layers[0].spec.inputs
    like = signals[0].capacitance
    return circuit.density(signals, 0.0, torch.full_like(like[:1], amplitude**2).expand(lines))


def solved_only(solution: Solution) -> Solution:
    """The samples that have operating points.

    Raises:
        SolverError: There are none.
    """
    if not bool(solution.converged.any()):
        raise SolverError("no sample has an operating point, and so no noise")
    return taken(solution, solution.converged)


def in_batches(circuit: NoisyCircuit, solution: Solution) -> Iterator[Solution]:
    """A solution's samples, as many at a time as memory has room for."""
    count = len(solution.outputs)
    each = sum(16 * 8 * len(PARTS) * len(held) ** 2 for held in circuit.capacitances)
    size = min(fitting(count, each, solution.outputs.device), max(1, 2**28 // each))
    for first in range(0, count, size):
        yield taken(solution, slice(first, first + size))


def analyse(
    circuit: NoisyCircuit,
    names: Sequence[str],
    solution: Solution,
    settings: Noise,
    *,
    few: int | None = None,
    nodes: int = NODES,
) -> NoiseReport:
    """Noise at the operating points of a solution.

    Args:
        circuit: The circuit.
        names: Of its layers.
        solution: Of (B, N) input voltages, with the voltages inside.
        settings: What to count, and within which band.
        few: Samples whose noise counts, the first ones; all are signals. None: all.
        nodes: Of the quadrature, per decade.

    Raises:
        SolverError: A sample is not solved.
        CircuitError: Nothing limits the bandwidth.
    """
    if not bool(solution.converged.all()):
        first = int(torch.nonzero(~solution.converged)[0, 0])
        raise SolverError(
            f"{int((~solution.converged).sum())} of {len(solution.status)} samples have no "
            f"operating point (the first is {first}), and so no noise; leave them out, or: "
            f"{failures_in_words(solution.status)}"
        )
    parts: list[list[LayerVariance]] = []
    band, unknown = (0.0, 0.0), set()
    for batch in in_batches(circuit, taken(solution, slice(few))):
        for here, some in circuit.by_point(batch):
            signals = here.linearised(some, settings.neuron_voltage)
            unknown |= {
                item.spec.kind for item in signals if item.noise is None and not item.voltage
            }
            found, band = variances(here, signals, settings, nodes=nodes)
            parts.append(found)
    layers = tuple(
        LayerNoise(
            name,
            torch.cat([batch[k].gates for batch in parts], dim=1),
            torch.cat([batch[k].outputs for batch in parts], dim=1),
            voltages.gates.detach(),
            voltages.outputs.detach(),
        )
        for k, (name, voltages) in enumerate(zip(names, solution.layers, strict=True))
    )
    return NoiseReport(
        layers, band, settings.bandwidth is not None, circuit.layers[0].temperature,
        tuple(sorted(unknown)) if settings.neurons else (),
    )  # fmt: skip
