"""Why accuracy was lost: from the software model to the circuit in named steps.

Each step adds one thing to the one before, so that differences between neighbours are what that
thing costs:

====================  ============================================================================
``software``          the model that was converted
``clipping``          outputs that a neuron cuts off at vdd: those of a ReLU above what is vdd
``mapping``           conductances without states or levels limiting them, no wires, no loading
``quantisation``      weight levels and device states as configured
``variation``         spread and faults of the devices
``neuron``            the activation circuit's own curve instead of the ideal one, unloaded
``loading``           neurons loaded by the next layer: the whole circuit without wires
``wires``             wire resistances, arrays not partitioned
``partitioning``      arrays cut as configured, partitions averaged
``calibration``       trims of :func:`imac_torch.calibrate`, which take back part of
                      what all the others cost: the circuit
``noise``             noise drawn for every image, where it is asked for
====================  ============================================================================

Trims stand for what conductances anticipate of loading and wires, so no step before the last has
them: there they would be errors. Ranges and statistics of calibration are in every step but the
first.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.config import Config, Crossbar, Interconnect, WeightMapping
from imac_torch.datasets.batches import check_labels
from imac_torch.dc.transfer import transfer_curve
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.errors import ConversionError, ConversionWarning, DataError
from imac_torch.mapping.quantization import deviation
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import IMACNetwork
from imac_torch.model.segment import circuits_alone
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.activations import Unbounded
from imac_torch.results.solution import Solution

STEPS = (
    "software",
    "clipping",
    "mapping",
    "quantisation",
    "variation",
    "neuron",
    "loading",
    "wires",
    "partitioning",
    "calibration",
)
"""Names of the steps, in order; ``noise`` comes after them where it is asked for."""
ENOUGH_LEVELS: Final = 17
"""Levels beyond which continuous ones are what is left to advise."""
LARGE_SHARE: Final = 0.25
"""Part of the whole error from which a step is one to work on."""


@dataclass(frozen=True)
class AblationStep:
    """The network up to one effect.

    Attributes:
        name: One of :data:`STEPS`.
        accuracy: Share of correct labels, NaN without labels.
        output_error: Rms difference of the last layer's outputs from the software model's,
            relative to the rms of those about their mean (see :func:`relative_error`).
        layer_errors: The same for every layer, inputs being what the step's circuit gives.
        failed: Samples that did not converge; they count as wrong and not in errors.
    """

    name: str
    accuracy: float
    output_error: float
    layer_errors: tuple[float, ...]
    failed: int


@dataclass(frozen=True)
class LayerEffect:
    """What became of one layer's weights in the circuit.

    Attributes:
        layer: Path.
        wanted: (M, N+1) software weights, bias last.
        effective: (M, N+1) weights of the circuit's linear part, wires, spread and partitions
            included.
        error: Weight error (:func:`imac_torch.mapping.quantization.weight_error`), the bias left
            out.
        bias_error: The same of the bias; infinite where that is 0 and the circuit's is not.
        gain: Slope of the effective on the wanted weights by least squares, the bias left out:
            below 1 the signal is attenuated.
        worst: Row, column and difference of the cells that are furthest off.
    """

    layer: str
    wanted: Tensor
    effective: Tensor
    error: float
    bias_error: float
    gain: float
    worst: tuple[tuple[int, int, float], ...]


def software_activations(network: IMACNetwork, features: Tensor) -> list[Tensor]:
    """Activations of the software model on the analog layers' own weights.

    Args:
        network: A converted model.
        features: (B, N), what the digital part gives.

    Returns:
        Inputs of the first layer, then the outputs of every layer, (B, …) float64 each.
    """
    return activations(list(network.analog_layers()), features)


def activations(
    layers: Sequence[IMACLinear], features: Tensor, *, clipped: bool = False
) -> list[Tensor]:
    """:func:`software_activations` of layers.

    Args:
        layers: Of one network.
        features: (B, N) inputs of the first layer.
        clipped: Whether outputs are cut off where a circuit between its supplies does so.
    """
    found = [features.to(torch.float64)]
    for layer in layers:
        value = found[-1] @ layer.weight.to(torch.float64).T
        if layer.bias is not None:
            value = value + layer.bias.to(torch.float64)
        value = layer.activation.apply(value)
        function = layer.activation.function
        if clipped and isinstance(function, Unbounded):
            vdd, scale = layer.config.supplies.vdd, layer.scaling.output_scale
            volts = value * (vdd / scale)
            limited = function.limit(volts, vdd)
            value = torch.where(limited == volts, value, limited * (scale / vdd))
        found.append(value)
    return found


def relative_error(found: Tensor, wanted: Tensor, scale: float = 1.0) -> float:
    """Rms difference relative to the rms of what varies from sample to sample.

    Args:
        found: (B, M).
        wanted: (B, M).
        scale: What it is relative to where all wanted outputs are 0; where they only do not vary,
            that is their rms.

    Returns:
        Infinite if there is no sample.
    """
    if len(found) == 0:
        return math.inf
    rms = float(wanted.square().mean().sqrt())
    spread = float((wanted - wanted.mean(0)).square().mean().sqrt())
    reference = spread if spread > 1e-12 * rms else rms if rms > 0.0 else scale
    return float((found - wanted).square().mean().sqrt()) / reference


@lasting()
@circuits_alone
def ablate(
    network: IMACNetwork,
    inputs: Tensor,
    labels: Tensor | None = None,
    *,
    noise: torch.Generator | None = None,
) -> tuple[AblationStep, ...]:
    """Accuracy and output error in every step from software to the circuit.

    Args:
        network: A converted (and perhaps calibrated) model. It is not changed.
        inputs: (B, …) as the original model takes it.
        labels: (B,) int64 classes, or None.
        noise: What draws noise for a step more, as the configuration describes it; None: none.

    Raises:
        DataError: Labels and inputs do not match.
    """
    if len(inputs) == 0:
        raise DataError("there are no inputs")
    if labels is not None:
        labels = check_labels(labels, inputs, classes=network.classes)
    software = software_activations(network, network.features(inputs))
    free = _copy(network, levels="continuous", states=None, spread=False)
    nominal = _copy(network, spread=False)
    plain = _copy(network)
    results = [_step("software", network, software[1:], software, labels, 0)]
    limited = activations(list(network.analog_layers()), software[0], clipped=True)
    results.append(_step("clipping", network, limited[1:], software, labels, 0))
    for name, variant, real in (
        ("mapping", free, False),
        ("quantisation", nominal, False),
        ("variation", plain, False),
        ("neuron", plain, True),
    ):
        outputs = _unloaded(variant, software[0], circuit_curve=real)
        results.append(_step(name, network, outputs, software, labels, 0))
    ideal = Interconnect(resistance=False)
    for name, variant, wires, whole in (
        ("loading", plain, ideal, False),
        ("wires", plain, None, True),
        ("partitioning", plain, None, False),
        ("calibration", network, None, False),
    ):
        if name == "calibration" and not any(
            bool(layer.matrix.trim.any()) for layer in network.analog_layers()
        ):
            results.append(replace(results[-1], name=name))
            continue
        solution = _solve(variant, inputs, wires, whole)
        outputs = [layer.software_units(state.outputs) for layer, state in zip(
            network.analog_layers(), solution.layers, strict=True)]  # fmt: skip
        failed = ~solution.converged
        results.append(_step(name, network, outputs, software, labels, int(failed.sum()), failed))
    if noise is not None:
        segment, voltages = network.segment, network.voltages(inputs)
        shifts = segment.noise_draws(voltages).draw(len(voltages), noise)
        solution = segment.native.solve(segment.prepare(), voltages, power=False, noise=shifts)
        outputs = [layer.software_units(state.outputs) for layer, state in zip(
            network.analog_layers(), solution.layers, strict=True)]  # fmt: skip
        failed = ~solution.converged
        results.append(
            _step("noise", network, outputs, software, labels, int(failed.sum()), failed)
        )
    return tuple(results)


@dataclass
class Losses:
    """What a circuit loses and what would help: one warning, however much there is.

    Attributes:
        found: A line for each.
        advice: In order, each once.
    """

    found: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def add(self, text: str, advice: Sequence[str] = ()) -> None:
        """One more, and what would help against it."""
        self.found.append(text)
        self.advise(advice)

    def advise(self, advice: Sequence[str]) -> None:
        """What would help against what was found last."""
        self.advice += [item for item in advice if item not in self.advice]

    def warn(self, title: str, *, stacklevel: int) -> None:
        """Say all of it, if there is anything.

        Warns:
            ConversionWarning: There is.
        """
        if self.found:
            lines = "\n".join(self.found)
            helps = f"\nWhat helps: {'; '.join(self.advice)}" if self.advice else ""
            text = f"{lines}\nThat is {title}.{helps}"
            warnings.warn(text, ConversionWarning, stacklevel=stacklevel + 1)


def finer(mapping: WeightMapping) -> list[str]:
    """Settings that would round weights less than a mapping does."""
    count = mapping.level_count
    if count is None:
        return []
    better = str(ENOUGH_LEVELS) if count < ENOUGH_LEVELS else "'continuous'"
    advice = [f"more levels (mapping.levels = {better})"]
    if mapping.slices == 1 and not isinstance(mapping.levels, tuple):
        advice.append("for devices of two states more of them per weight (mapping.slices = 3)")
    return advice


def attribute(network: IMACNetwork, inputs: Tensor, losses: Losses) -> None:
    """Say which steps cost a network how much, and what would help against the largest.

    Args:
        network: A converted model.
        inputs: (B, …) as the original model takes it.
        losses: What it is added to.
    """
    steps = ablate(network, inputs)
    errors = {step.name: step.output_error for step in steps}
    costs = {name: errors[name] - errors[before] for before, name in pairwise(STEPS)}
    losses.add(
        "what each step adds to the error of outputs (imac_torch.ablate): "
        + ", ".join(f"{name} {cost:+.2f}" for name, cost in costs.items())
    )
    # Undivided arrays are not what is built: wires and partitioning are one to whoever builds them.
    costs["wires"] += costs.pop("partitioning")
    del costs["calibration"]
    limit = LARGE_SHARE * max(costs.values())
    configs = [layer.config for layer in network.analog_layers()]
    for name, cost in sorted(costs.items(), key=lambda item: -item[1]):
        if cost >= limit > 0.0:
            for config in configs:
                losses.advise(_remedies(name, config))
    losses.advise(["training through the circuit (the guide on fine-tuning)"])


def _remedies(step: str, config: Config) -> list[str]:
    """What would make a step cost less, as far as it is not so already."""
    device, advice = config.device, []
    if step == "clipping":
        advice.append("samples for calibration that reach what inputs reach later")
    elif step == "mapping":
        if config.amplifier.gain is not None:
            advice.append("amplifier.gain = None, which lets the gain be chosen")
        advice.append("devices with a larger ratio of device.rhigh to device.rlow")
    elif step == "quantisation":
        advice += finer(config.mapping)
        if device.states is not None:
            advice.append(f"devices of more states (device.states is {device.states})")
    elif step == "variation":
        if device.variation > 0.0:
            advice.append(f"devices of less spread (device.variation is {device.variation:g})")
        advice.append("training with devices that vary (imac_torch.varied)")
    elif step in ("loading", "wires"):
        advice.append(
            f"devices of higher resistance (device.rlow is {device.rlow:g} Ω), which take less "
            "from neurons and wires"
        )
        if step == "wires" and min(config.crossbar.rows, config.crossbar.columns) > 1:
            advice.append(
                "smaller arrays (crossbar.columns and crossbar.rows are "
                f"{config.crossbar.columns} and {config.crossbar.rows})"
            )
    return advice


def _step(
    name: str,
    network: IMACNetwork,
    outputs: list[Tensor],
    software: list[Tensor],
    labels: Tensor | None,
    failures: int,
    failed: Tensor | None = None,
) -> AblationStep:
    good = outputs[-1].new_ones(len(outputs[-1]), dtype=torch.bool) if failed is None else ~failed
    errors = [
        relative_error(found[good], wanted[good], layer.scaling.output_scale)
        for layer, found, wanted in zip(
            network.analog_layers(), outputs, software[1:], strict=True
        )
    ]
    accuracy = float("nan")
    if labels is not None:
        volts = outputs[-1] / network.decode(torch.ones_like(outputs[-1]))
        correct = (network.answers(volts).to(labels.device) == labels) & good.to(labels.device)
        accuracy = float(correct.to(torch.float64).mean())
    return AblationStep(name, accuracy, errors[-1], tuple(errors), failures)


def _copy(
    network: IMACNetwork,
    *,
    levels: str | None = None,
    states: int | str | None = "keep",
    spread: bool = True,
) -> IMACNetwork:
    """The same network with other mappings, without trims.

    Gains are kept, but where levels or states have limited a 'matched' layer and no longer do, the
    gain that was a compromise with them is chosen anew (unless the configuration gives one).
    """
    result = copy.deepcopy(network)
    for layer in result.analog_layers():
        config = layer.config
        gain = layer.matrix.gain()
        layer.matrix.trim.zero_()
        if levels is not None:
            config = config.replace(mapping=config.mapping.replace(levels=levels))
            if not layer.matrix.matched:
                # Another full scale goes with other levels, and the gain with it.
                gain = gain * _full_scale_ratio(layer)
        if states != "keep":
            config = config.replace(device=config.device.replace(states=states))
        if not spread:
            config = config.replace(device=config.device.replace(variation=0.0, effects=None))
        before = layer.config
        limited = before.mapping.level_count is not None or before.device.states is not None
        chosen = layer.matrix.matched and config.amplifier.gain is None
        free = levels is not None and limited and chosen
        layer.config = config
        if free:
            layer.matrix.choose_gain()
        else:
            layer.config = config.replace(amplifier=config.amplifier.replace(gain=gain))
        if not spread:
            layer.matrix.devices, layer.matrix.sample = (), None
    return result


def _full_scale_ratio(layer: IMACLinear) -> float:
    before = layer.matrix.quantized().scale
    other = copy.deepcopy(layer)
    other.config = layer.config.replace(
        mapping=layer.config.mapping.replace(levels="continuous")
    )
    return float(other.matrix.quantized().scale / before)


def _unloaded(network: IMACNetwork, features: Tensor, *, circuit_curve: bool) -> list[Tensor]:
    """Outputs of every layer, no wires, no loading; the circuit's own curve or the ideal one."""
    found = []
    value = features
    for layer in network.analog_layers():
        value = _through_curve(layer, value) if circuit_curve else layer(value)
        found.append(value)
    return found


def _through_curve(layer: IMACLinear, value: Tensor) -> Tensor:
    vdd = layer.config.supplies.vdd
    lines = torch.nn.functional.pad(value / layer.scaling.input_scale, (0, 1), value=1.0)
    combined = vdd * lines @ layer.matrix.transfer().T
    curve = transfer_curve(layer.neuron_spec(), combined.reshape(-1))
    return layer.software_units(curve.reshape(combined.shape))


def _parts_config(layer: IMACLinear, wires: Interconnect | None, whole: bool) -> Config:
    config = layer.config
    if wires is not None:
        config = config.replace(interconnect=wires)
    if whole:
        size = Crossbar(rows=layer.matrix.rows, columns=layer.matrix.columns)
        config = config.replace(crossbar=size)
    return config


def _solve(
    network: IMACNetwork, inputs: Tensor, wires: Interconnect | None, whole: bool
) -> Solution:
    parts = []
    for layer in network.analog_layers():
        pair, gain = layer.matrix.conductances(), layer.matrix.gain()
        if whole and layer.matrix.matched:
            # One array instead of several: conductances that mean the same there.
            single = copy.deepcopy(layer)
            single.config = _parts_config(layer, None, whole=True)
            single.config = single.config.replace(
                amplifier=layer.config.amplifier.replace(gain=None)
            )
            single.matrix.choose_gain()
            pair, gain = single.matrix.conductances(), single.matrix.gain()
        parts.append((
            build_crossbar(pair, _parts_config(layer, wires, whole), gain), layer.neuron_spec(),
        ))  # fmt: skip
    engine = network.segment.native
    return engine.solve(engine.prepare(parts), network.voltages(inputs), power=False)


@lasting()
def layer_effects(network: IMACNetwork, worst: int = 10) -> tuple[LayerEffect, ...]:
    """Effective weights of every layer's crossbars against the wanted ones.

    Args:
        network: A converted model.
        worst: How many cells to name.

    Raises:
        ConversionError: ``worst`` is not positive.
    """
    if worst < 1:
        raise ConversionError(f"worst = {worst} must be at least 1")
    effects = []
    for layer in network.analog_layers():
        ports, _ = eliminate_layer(layer.matrix.crossbar())
        effective = layer.matrix.weights_of(ports.transfer)
        effective[:, :-1] /= layer.scaling.input_scale
        bias = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
        wanted = torch.cat([layer.weight, bias[:, None]], dim=1).to(torch.float64)
        difference = effective - wanted
        signal = wanted[:, :-1]
        power = signal.square().sum().clamp(min=1e-300)
        errors = deviation(effective, wanted)
        order = difference.abs().reshape(-1).argsort(descending=True)[:worst].tolist()
        columns = wanted.shape[1]
        named = tuple(
            (index // columns, index % columns, float(difference.reshape(-1)[index]))
            for index in order
        )
        effects.append(
            LayerEffect(
                layer.name,
                wanted,
                effective,
                errors.weights,
                errors.bias,
                float((effective[:, :-1] * signal).sum() / power),
                named,
            )
        )
    return tuple(effects)
