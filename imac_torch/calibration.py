"""Calibration of a converted network on a few batches of data.

Three things are learnt, in this order, all without labels:

1. ranges: where the activation has no fixed scale (ReLU, identity), the software output that is
   vdd, so that nothing clips and the rows can be realised;
2. statistics of every layer's inputs, which weigh what the mapping cannot make exact;
3. trims: gain and offset of every row, fitted so that the neurons of the circuit as it is built,
   with wires, partitions and loading, answer as the software layer does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from imac_torch.analog import IMACNetwork
from imac_torch.errors import ConversionError, MappingError
from imac_torch.layers import IMACLinear
from imac_torch.mapping.states import InputStatistics
from imac_torch.numeric.modes import lasting

HEADROOM: Final = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0)
"""Factors between the largest software output and the one that is vdd, for circuits whose scale
is free. The smallest whose rows can be realised is taken."""
RANGE_TOLERANCE: Final = 2e-3
"""Relative error of a layer's output that is no reason for more headroom."""
RIDGE: Final = 1e-3
"""Regularisation of the row fits relative to the data, so that rows that hardly vary keep their
gain."""
LARGEST_GAIN_STEP: Final = 1.3
"""Row gains are corrected by at most this factor per round."""


@dataclass(frozen=True)
class LayerCalibration:
    """What calibration did to one layer, and what is left.

    Attributes:
        layer: Path.
        input_scale: Software input that is vdd.
        output_scale: Software output that is vdd.
        gain: Of the amplifiers.
        error_before: Rms difference of the neurons' outputs from the software activations,
            relative to the activations' rms about their mean, after ranges and statistics.
        error_after: The same after trimming.
    """

    layer: str
    input_scale: float
    output_scale: float
    gain: float
    error_before: float
    error_after: float


def software_activations(network: IMACNetwork, features: Tensor) -> list[Tensor]:
    """Activations of the software model on the analog layers' own weights.

    Args:
        network: A converted model.
        features: (B, N), what the digital part gives.

    Returns:
        Inputs of the first layer, then the outputs of every layer, (B, …) float64 each.
    """
    found = [features.to(torch.float64)]
    for layer in network.analog_layers():
        value = found[-1] @ layer.weight.to(torch.float64).T
        if layer.bias is not None:
            value = value + layer.bias.to(torch.float64)
        found.append(layer.activation.apply(value))
    return found


@lasting()
def calibrate(
    network: IMACNetwork,
    batches: Iterable[Tensor] | Tensor,
    *,
    rounds: int = 3,
    trim: bool = True,
) -> tuple[LayerCalibration, ...]:
    """Adapt ranges, mapping and trims of a network to data; the network is changed in place.

    Args:
        network: A converted model whose layers have the mapping scheme 'matched'.
        batches: Model inputs, (B, …) each; a few hundred samples are enough.
        rounds: Repetitions of the row fits.
        trim: Whether to fit rows (step 3). Without, the circuit is not solved at all.

    Returns:
        A record per layer.

    Raises:
        MappingError: A layer has another mapping scheme, or there are no data.
        ConversionError: An input is beyond what ``supplies.input_scale`` codes as vdd.
    """
    layers = list(network.analog_layers())
    for layer in layers:
        if not layer.matched:
            raise MappingError(
                f"{layer.name}: calibration adapts conductances row by row, which the scheme "
                f"{layer.config.mapping.scheme!r} does not; set mapping.scheme = 'matched'"
            )
    inputs = _join(batches)
    software = software_activations(network, network.features(inputs))
    _set_ranges(layers, software)
    before = _errors(network, inputs, software) if trim else [float("nan")] * len(layers)
    if trim:
        for index, layer in enumerate(layers):
            _trim(network, layer, index, inputs, software, rounds)
    after = _errors(network, inputs, software) if trim else before
    return tuple(
        LayerCalibration(
            layer.name,
            layer.scaling.input_scale,
            layer.scaling.output_scale,
            layer.gain(),
            before[index],
            after[index],
        )
        for index, layer in enumerate(layers)
    )


def _join(batches: Iterable[Tensor] | Tensor) -> Tensor:
    parts = [batches] if isinstance(batches, Tensor) else list(batches)
    if not parts or sum(len(part) for part in parts) == 0:
        raise MappingError("calibration needs at least one sample")
    return torch.cat(parts)


def _set_ranges(layers: Sequence[IMACLinear], software: Sequence[Tensor]) -> None:
    """Steps 1 and 2, in the order of layers: a layer's output range is the next one's input."""
    for index, layer in enumerate(layers):
        if index > 0:
            scale = layers[index - 1].scaling.output_scale
            layer.scaling = replace(layer.scaling, input_scale=scale)
        lines = software[index] / layer.scaling.input_scale
        largest = float(lines.abs().max())
        if index == 0 and largest > 1.0 + 1e-9:
            raise ConversionError(
                f"{layer.name}: inputs reach {largest:g} times supplies.input_scale; scale the "
                "data or set supplies.input_scale"
            )
        layer.set_input_statistics(InputStatistics.of(lines))
        layer.trim.zero_()
        free = not layer.activation.function.bounded
        largest = float(software[index + 1].abs().max()) if free else 0.0
        if not free or largest == 0.0:
            layer.matched_gain.fill_(float("nan"))
            layer.gain()
            continue
        results = []
        for factor in HEADROOM:
            layer.scaling = replace(layer.scaling, output_scale=factor * largest)
            layer.matched_gain.fill_(float("nan"))
            results.append((layer.match().error, factor))
            if layer.match().range_error <= RANGE_TOLERANCE:
                break
        least = min(error for error, _ in results)
        factor = next(factor for error, factor in results if error <= 1.05 * least)
        layer.scaling = replace(layer.scaling, output_scale=factor * largest)
        layer.matched_gain.fill_(float("nan"))
        layer.gain()


def _errors(network: IMACNetwork, inputs: Tensor, software: Sequence[Tensor]) -> list[float]:
    solution = network.solve(inputs, power=False)
    found = []
    vdd = network.config.supplies.vdd
    for index, layer in enumerate(network.analog_layers()):
        wanted = software[index + 1] / layer.scaling.output_scale * vdd
        good = solution.converged
        difference = (solution.layers[index].outputs - wanted)[good]
        spread = (wanted - wanted.mean(0))[good]
        found.append(float(difference.square().mean().sqrt() / spread.square().mean().sqrt()))
    return found


def _trim(
    network: IMACNetwork,
    layer: IMACLinear,
    index: int,
    inputs: Tensor,
    software: Sequence[Tensor],
    rounds: int,
) -> None:
    """Fit the rows of one layer repeatedly; every row keeps its best trim."""
    best = torch.full((layer.out_features,), torch.inf, dtype=torch.float64, device="cpu")
    best = best.to(layer.trim.device)
    kept = layer.trim.clone()
    for step in range(rounds + 1):
        solution = network.solve(inputs, power=False)
        good = solution.converged
        state = solution.layers[index]
        wanted = software[index + 1][good] / layer.scaling.output_scale
        wanted = wanted * layer.config.supplies.vdd
        error = (state.outputs[good] - wanted).square().mean(0)
        better = error < best
        best = torch.where(better, error, best)
        kept = torch.where(better[:, None], layer.trim, kept)
        if step < rounds:
            layer.trim.copy_(kept)
            _fit_rows(layer, state.combined[good], state.outputs[good], wanted, better)
    layer.trim.copy_(kept)


def _fit_rows(
    layer: IMACLinear, combined: Tensor, outputs: Tensor, wanted: Tensor, rows: Tensor
) -> None:
    """Gain and offset per row by least squares on the neurons' outputs (one Gauss-Newton step).

    With u the neuron's output, z its input and f' = du/dz, the step minimises
    Σ (u + f'·((γ - 1)·(z - z̄) + β) - u_wanted)² per row. f' is taken from the activation's own
    shape at u, which the circuit's neuron follows closely enough for a step.
    """
    vdd = layer.config.supplies.vdd
    slope = layer.activation.function.steepness(outputs, layer.threshold_and_slope()[1], vdd)
    mean = combined.mean(0)
    columns = torch.stack([slope * (combined - mean), slope], dim=-1)  # (B, M, 2)
    missing = wanted - outputs
    normal = torch.einsum("bmi,bmj->mij", columns, columns)
    right = torch.einsum("bmi,bm->mi", columns, missing)
    ridge = RIDGE * normal.diagonal(dim1=-2, dim2=-1)
    ridge = ridge + 1e-9 * ridge.amax() + 1e-30
    step = torch.linalg.solve(normal + torch.diag_embed(ridge), right[..., None])[..., 0]
    gain = (1.0 + step[:, 0]).clamp(1.0 / LARGEST_GAIN_STEP, LARGEST_GAIN_STEP)
    offset = step[:, 1] + (1.0 - gain) * mean
    target = layer.wanted_transfer()
    trimmed = target * gain[:, None]
    trimmed[:, -1] += offset / vdd
    layer.trim += torch.where(rows[:, None], trimmed - target, torch.zeros_like(target))
