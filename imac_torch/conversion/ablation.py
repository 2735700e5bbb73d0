"""Why accuracy was lost: from the software model to the circuit in named steps.

Each step adds one thing to the one before, so that differences between neighbours are what that
thing costs:

====================  ============================================================================
``software``          the model that was converted
``clipping``          outputs that a neuron cuts off at vdd: those of a ReLU above what is vdd; in a
                      model of several circuits also inputs beyond full scale
``mapping``           conductances without states or levels limiting them, no wires, no loading
``quantisation``      weight levels and device states as configured
``variation``         spread and faults of the devices
``neuron``            the activation circuit's own curve instead of the ideal one, unloaded
``loading``           neurons loaded by the next layer: the whole circuit without wires
``wires``             wire resistances, arrays not partitioned
``partitioning``      arrays cut as configured, partitions averaged
``amplifiers``        offsets, swing and finite gain of amplifiers, where they have any
``calibration``       trims of :func:`imac_torch.calibrate`, which take back part of
                      what all the others cost: the circuit
``drivers``           inputs as drivers round them, where there are drivers
``converters``        outputs as converters round them, where there are converters
``noise``             noise drawn for every image, where it is asked for
====================  ============================================================================

A model of several circuits is run as a whole in every step, all of its circuits up to that effect.

Trims stand for what conductances anticipate of loading and wires, so no step before has
them: there they would be errors. Ranges and statistics of calibration are in every step but the
first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from imac_torch.config import Config, Crossbar, Noise
from imac_torch.conversion.losses import Losses, remedies
from imac_torch.conversion.outputs import Outputs, Scored, activations, relative_error
from imac_torch.datasets.metrics import Metric, samples_in_run
from imac_torch.dc.transfer import transfer_curve
from imac_torch.errors import DataError
from imac_torch.model.effective import NARROW
from imac_torch.model.inputs import Arguments
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import Chain, IMACNetwork
from imac_torch.model.noisy import hearing
from imac_torch.model.positions import Vectors
from imac_torch.model.ranges import instead
from imac_torch.model.segment import Segment, left_out
from imac_torch.model.walk import ROWS, draws, watching
from imac_torch.numeric.modes import lasting

__all__ = ["STEPS", "AblationStep", "ablate", "attribute"]

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
"""Steps of every circuit, in order; ``amplifiers``, ``drivers``, ``converters`` and ``noise`` are
among or after them where there is any."""
LARGE_SHARE: Final = 0.25
"""Part of the whole error from which a step is one to work on."""
DIAGNOSED: Final = 100
"""Samples that the steps' costs are looked up on, where a circuit does not carry its network."""

Answer = Callable[[Segment, Tensor], list[Tensor]]
"""What all layers of a circuit give for its inputs, in software units."""


@dataclass(frozen=True)
class AblationStep:
    """The network up to one effect.

    Attributes:
        name: One of :data:`STEPS`.
        accuracy: Share of correct labels, NaN without labels.
        output_error: Rms difference of the outputs from the software model's, relative to the rms
            of those about their mean (see :func:`imac_torch.conversion.outputs.relative_error`);
            of one circuit, of its last layer's outputs.
        layer_errors: The same for every layer, inputs being what the step's circuit gives; of
            several circuits on some of the input vectors that reach them, NaN where none does.
        failed: Samples that did not converge; they count as wrong and not in errors.
        score: By the metric that was given; the accuracy without one.
    """

    name: str
    accuracy: float
    output_error: float
    layer_errors: tuple[float, ...]
    failed: int
    score: float = math.nan


@lasting()
def ablate(
    network: IMACNetwork,
    inputs: Any,  # noqa: ANN401 - as the model takes it
    labels: Any = None,  # noqa: ANN401 - as the metric takes it
    *,
    metric: Metric | None = None,
    noise: bool | Noise = False,
    generator: torch.Generator | None = None,
) -> tuple[AblationStep, ...]:
    """Accuracy and output error in every step from software to the circuit.

    Args:
        network: A converted (and perhaps calibrated) model. It is not changed.
        inputs: (B, …) as the original model takes it; of a model of several circuits also batches
            in a list, each a tensor, a tuple of several inputs or a dict of named ones.
        labels: (B,) int64 classes, or None; or what ``metric`` compares outputs with, batch by
            batch where inputs are batches.
        metric: See :func:`imac_torch.evaluate`; None: accuracy.
        noise: Whether there is a step more with noise drawn for every sample, as the configuration
            or another section of that name describes it.
        generator: Where noise comes from.

    Raises:
        DataError: Labels and inputs do not match.
        SolverError: Noise without a generator, or that is not known.
        CircuitError: Nothing limits the bandwidth of the noise.
    """
    if isinstance(inputs, Tensor) and len(inputs) == 0:
        raise DataError("there are no inputs")
    bench = _Bench(network, Scored.of(network, inputs, labels, metric))
    results = [bench.step("software", network, lambda segment, x: segment.software(x))]
    results.append(bench.step("clipping", network, _clipped))
    free = _copy(network, levels="continuous", states=None, spread=False)
    results.append(bench.step("mapping", free, _unloaded))
    del free
    results.append(bench.step("quantisation", _copy(network, spread=False), _unloaded))
    plain = _copy(network)
    results.append(bench.step("variation", plain, _unloaded))
    results.append(bench.step("neuron", plain, _unloaded_curve))
    layers = list(network.analog_layers())
    without = _ideal_amplifiers(plain)
    results.append(bench.step("loading", _without_wires(without)))
    results.append(bench.step("wires", _whole(without)))
    results.append(bench.step("partitioning", without))
    if without is not plain:
        results.append(bench.step("amplifiers", plain))
    if any(bool(layer.matrix.trim.any()) for layer in layers):
        results.append(bench.step("calibration", network))
    else:
        results.append(replace(results[-1], name="calibration"))
    del plain, without
    for name, drivers, converters in (("drivers", True, False), ("converters", True, True)):
        if any(getattr(layer.config, name[:-1]).kind != "ideal" for layer in layers):
            results.append(bench.step(name, network, drivers=drivers, converters=converters))
    if noise:
        with hearing(network.segments, noise, generator):
            results.append(bench.step("noise", network, drivers=True, converters=True))
    return tuple(results)


class _Bench:
    """Data on which the steps of a network are compared with software."""

    def __init__(self, network: IMACNetwork, data: Scored) -> None:
        self.network, self.data = network, data
        self.most = max(ROWS, data.samples) if isinstance(network.model, Chain) else ROWS
        self.software, drawn = self._run(network, software=True)
        self.wanted = {
            path: activations(list(network.segments[path].analog_layers()), rows)
            for path, rows in drawn.items()
        }

    def step(
        self,
        name: str,
        variant: IMACNetwork,
        answer: Answer | None = None,
        *,
        drivers: bool = False,
        converters: bool = False,
    ) -> AblationStep:
        """Run the data through the network up to one effect.

        Args:
            name: Of the step.
            variant: The network with what belongs to the step.
            answer: What its circuits do instead of being solved.
            drivers: Whether drivers round.
            converters: Whether converters do.
        """
        segments = variant.segments
        given = nullcontext() if answer is None else instead(
            segments, lambda _, segment, x: _like(x, answer(segment, x)[-1])
        )
        with _bordered(variant, drivers, converters), given:
            outputs, drawn = self._run(variant)
            errors = self._layer_errors(segments, drawn, answer)
        return self._step(name, outputs, errors)

    def _run(
        self, variant: IMACNetwork, *, software: bool = False
    ) -> tuple[Outputs, dict[str, Tensor]]:
        """Outputs, and input vectors by path of the circuit, the same places in all steps."""
        generator = torch.Generator().manual_seed(0)
        drawn = draws(variant.segments, self.most, generator)
        with watching(variant.segments, drawn):
            outputs = Outputs.of(variant, self.data.runs, software=software)
        return outputs, {path: item.rows for path, item in drawn.items() if item.calls}

    def _layer_errors(
        self, segments: Mapping[str, Segment], drawn: Mapping[str, Tensor], answer: Answer | None
    ) -> dict[str, float]:
        errors = {}
        for path, rows in drawn.items():
            if path not in self.wanted:
                continue
            segment = segments[path]
            alone = _alone(segment)
            found = _solved(alone, rows) if answer is None else answer(alone, rows)
            for layer, values, wanted in zip(
                segment.analog_layers(), found, self.wanted[path][1:], strict=True
            ):
                good, scale = values.isfinite().all(-1), layer.scaling.output_scale
                found_here = values[good].to(torch.float64)
                errors[layer.name] = relative_error(found_here, wanted[good], scale)
        return errors

    def _step(
        self, name: str, outputs: Outputs, errors: Mapping[str, float]
    ) -> AblationStep:
        layers = list(self.network.analog_layers())
        by_layer = tuple(errors.get(layer.name, math.nan) for layer in layers)
        accuracy, score, failed = self.data.scores(outputs)
        chain = isinstance(self.network.model, Chain)
        error = by_layer[-1] if chain else outputs.error(self.software)
        return AblationStep(name, accuracy, error, by_layer, failed, score)


@contextmanager
def _bordered(network: IMACNetwork, drivers: bool, converters: bool) -> Iterator[None]:
    """Have drivers and converters of a network, or not."""
    if not drivers and not converters:
        with left_out(network):
            yield
        return
    segments = [] if converters else list(network.segments.values())
    before = [segment.range.seen for segment in segments]
    try:
        for segment in segments:
            segment.range.seen = []  # while a range is looked for nothing is converted
        yield
    finally:
        for segment, seen in zip(segments, before, strict=True):
            segment.range.seen = seen


def _alone(segment: Segment) -> Segment:
    """The segment for input vectors: a shallow copy whose positions are vectors."""
    found = copy.copy(segment)
    found.positions = Vectors(groups=segment.positions.groups)
    return found


def _clipped(segment: Segment, x: Tensor) -> list[Tensor]:
    """Outputs of software layers, cut off where circuits do so."""
    x = _within(segment, x)
    found: list[Tensor] = []
    for layer in segment.analog_layers():
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        x = _through(segment, x, layer.weight.to(x.dtype), bias, found)
        found.append(x := layer.limited(layer.activation.apply(x)))
    return found


def _like(x: Tensor, outputs: Tensor) -> Tensor:
    """Outputs in the type that a segment gives for such inputs."""
    return outputs.to(x.dtype) if x.is_floating_point() else outputs


def _within(segment: Segment, x: Tensor) -> Tensor:
    if not x.is_floating_point() or x.dtype in NARROW:
        x = x.to(torch.float32 if x.is_floating_point() else torch.float64)
    scale = segment.first.scaling.input_scale
    return x.clamp(-scale, scale) if segment.saturates else x


def _through(
    segment: Segment,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Sequence[Tensor],
) -> Tensor:
    """A layer's linear map at the segment's positions, later layers' of vectors."""
    if before:
        return Vectors().through(x, weight, bias)
    return segment.positions.through(x, weight, bias)


def _linear(segment: Segment, layer: IMACLinear, x: Tensor, before: Sequence[Tensor]) -> Tensor:
    """V of combined read-outs without wires."""
    transfer = layer.matrix.transfer().to(x.dtype)
    lines = x / layer.scaling.input_scale
    found = _through(segment, lines, transfer[:, :-1], transfer[:, -1], before)
    return layer.config.supplies.vdd * found


def _unloaded(segment: Segment, x: Tensor) -> list[Tensor]:
    """No wires, no loading, ideal neurons."""
    x, found = _within(segment, x), list[Tensor]()
    for layer in segment.analog_layers():
        x = layer.ideal(_linear(segment, layer, x, found)).to(x.dtype)
        found.append(x)
    return found


def _unloaded_curve(segment: Segment, x: Tensor) -> list[Tensor]:
    """The same with the neurons' own curves, where activations are circuits."""
    if segment.borders.in_software:
        return _unloaded(segment, x)
    x, found = _within(segment, x), list[Tensor]()
    for layer in segment.analog_layers():
        volts = _linear(segment, layer, x, found)
        curve = transfer_curve(layer.neuron_spec(), volts.reshape(-1).to(torch.float64))
        x = layer.software_units(curve.reshape(volts.shape)).to(x.dtype)
        found.append(x)
    return found


def _solved(segment: Segment, rows: Tensor) -> list[Tensor]:
    """What all layers give for input vectors, solved, borders as they are."""
    layers = list(segment.analog_layers())
    if len(layers) == 1:
        return [segment(rows)]
    solution = segment.operated(rows)
    return [
        torch.where(
            solution.converged[:, None], layer.software_units(state.outputs), math.nan
        )
        for layer, state in zip(layers, solution.layers, strict=True)
    ]


def attribute(network: IMACNetwork, runs: Sequence[Arguments], losses: Losses) -> None:
    """Say which steps cost a network how much, and what would help against the largest.

    Args:
        network: A converted model.
        runs: Arguments of its forward.
        losses: What it is added to.
    """
    some, count = [], 0
    for positional, named in runs:
        if count < DIAGNOSED:
            some.append(named or positional)
            count += samples_in_run((positional, named))
    inputs: Any = some
    if isinstance(network.model, Chain):
        ((inputs,),) = some
        inputs = inputs[:DIAGNOSED]
    steps = ablate(network, inputs)
    errors = {step.name: step.output_error for step in steps}
    costs = {name: errors[name] - errors[before] for before, name in pairwise(errors)}
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
                losses.advise(remedies(name, config))
    losses.advise(["training through the circuit (the guide on fine-tuning)"])


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


def _ideal_amplifiers(network: IMACNetwork) -> IMACNetwork:
    """The network with amplifiers without offsets, swing and with unlimited gain; itself if so."""
    ideal = {
        "offset": 0.0, "offset_spread": 0.0, "swing": None, "open_loop_gain": None,
        "open_loop_resistance": None, "quiescent_current": None, "table": None,
        "subcircuit": None,
    }  # fmt: skip

    def changed(config: Config) -> Config:
        return config.replace(amplifier=config.amplifier.replace(**ideal))

    if all(changed(layer.config) == layer.config for layer in network.analog_layers()):
        return network
    result = copy.deepcopy(network)
    for layer in result.analog_layers():
        layer.config, layer.matrix.offsets = changed(layer.config), None
    return result


def _without_wires(network: IMACNetwork) -> IMACNetwork:
    result = copy.deepcopy(network)
    for layer in result.analog_layers():
        wires = layer.config.interconnect.replace(resistance=False)
        layer.config = layer.config.replace(interconnect=wires)
    return result


def _whole(network: IMACNetwork) -> IMACNetwork:
    """The network with one array per layer and group, which means the same without wires."""
    result = copy.deepcopy(network)
    for layer in result.analog_layers():
        matrix, config = layer.matrix, layer.config
        slope = matrix.transfer_slope()
        size = Crossbar(rows=matrix.rows // matrix.groups, columns=matrix.columns)
        whole = config.replace(crossbar=size)
        if matrix.matched:
            layer.config = whole.replace(amplifier=config.amplifier.replace(gain=None))
            matrix.choose_gain()
        else:
            layer.config = whole
            factor = slope / matrix.transfer_slope() if slope > 0.0 else 1.0
            gain = matrix.gain() * factor
            layer.config = whole.replace(amplifier=config.amplifier.replace(gain=gain))
    return result
