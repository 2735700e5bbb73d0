"""The search for gains of amplifiers and ranges of layers, tried on the circuit.

Each of some settings is built, and its outputs are compared with the software model's on some of
the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.conversion.beyond import driving, room, sums
from imac_torch.conversion.outputs import relative_error
from imac_torch.dc.native import Eliminated, Prepared
from imac_torch.dc.network import eliminated
from imac_torch.mapping.states import InputStatistics
from imac_torch.model.linear import IMACLinear, Scaling
from imac_torch.model.segment import Segment
from imac_torch.periphery.neuron.base import NeuronSpec

HEADROOM: Final = (1.25, 2.5, 5.0, 10.0, 20.0)
"""Factors between the largest software output and the one that is vdd, for circuits whose scale
is free. A smaller scale asks for less of the rows, and less gain lets lines float less; the first
factor leaves room for samples not seen. What a hidden layer does not use of its swing, the next
one has to amplify."""
RANGE_STEP: Final = 1.6
"""Factor between ranges that calibration tries on the circuit."""
GAINS: Final = (2.0, 5.0, 12.5, 32.0, 80.0, 200.0)
"""Gains that calibration tries on the circuit, in every layer whose gain is free."""
SEARCH_SAMPLES: Final = 100
"""Samples on which gains and ranges are compared; rows have two numbers to fit to them."""
PASSES: Final = 3
"""Rounds through all gains and ranges at most; mostly the second changes nothing."""
WORK: Final = 3e6
"""Weights that the search may build: large networks get a shorter one."""
ENOUGH: Final = 0.01
"""Error of outputs, relative to what varies in them, that needs no search for a smaller one."""
SAME: Final = 1.05
"""Factor between errors below which a larger range has no advantage, nor another gain."""
RIDGE: Final = 1e-3
"""Regularisation of the row fits relative to the data, so that rows that hardly vary keep their
gain."""
LARGEST_GAIN_STEP: Final = 1.3
"""Row gains are corrected by at most this factor per round."""


def search(
    segment: Segment,
    software: Sequence[Tensor],
    advance: Callable[[int], None],
) -> None:
    """Leave a circuit with the gains and ranges with which it errs least, once it is trimmed.

    Args:
        segment: The circuit.
        software: Its inputs (B, G·N), then what every layer is to give, in software units.
        advance: Called with 1 for every circuit that was tried.
    """
    layers = list(segment.analog_layers())
    step = -(-len(software[0]) // SEARCH_SAMPLES)
    bench = _Bench(segment, software, [values[::step] for values in software])
    largest = [float(values.abs().max()) for values in software[1:]]
    ranged = [
        layer.activation.scale is None and top > 0.0
        for layer, top in zip(layers, largest, strict=True)
    ]
    gained = [layer.config.amplifier.gain is None for layer in layers]

    def tried(setting: _Setting) -> _Trial | None:
        return None if bench.built > WORK else arranged(setting)

    def place(setting: _Setting) -> None:
        for index, layer in enumerate(layers):
            scale = layer.scaling.output_scale
            if ranged[index]:
                scale = setting.factors[index] * largest[index]
            bench.set(index, scale, setting.gains[index] if gained[index] else None)

    def arranged(setting: _Setting) -> _Trial:
        place(setting)
        advance(1)
        error = bench.error()
        return _Trial(math.hypot(error, math.sqrt(bench.spread())), error, setting)

    def with_room(setting: _Setting) -> _Setting:
        """Ranges that keep amplifiers within their swing; the next layer has to amplify more."""
        for index in range(len(layers)):
            wider = bench.room(index) if ranged[index] and gained[index] else 1.0
            if wider > 1.0:
                setting = setting.widened(index, wider)
                place(setting)
        return setting

    gains = tuple(layer.matrix.gain() for layer in layers)
    kept = tuple(
        layer.scaling.output_scale / top if free else 1.0
        for layer, top, free in zip(layers, largest, ranged, strict=True)
    )
    usual = tuple(HEADROOM[1] if free else 1.0 for free in ranged)
    candidates = [_Setting(gains, kept), _Setting(gains, usual)]
    if any(gained):
        candidates += [_Setting((gain,) * len(layers), usual) for gain in GAINS]
    best = arranged(candidates[0])
    if (roomy := with_room(candidates[0])) != candidates[0]:
        candidates.append(roomy)
    for candidate in candidates[1:]:
        if best.error > ENOUGH and candidate != best.setting:
            found = tried(candidate)
            best = best if found is None or best.score <= found.score else found
    numbers = [
        (move, index)
        for index in reversed(range(len(layers)))
        for move, free in ((_range_moves, ranged), (_gain_moves, gained))
        if free[index]
    ]
    for _ in range(PASSES):
        before = best
        for move, index in numbers:
            if best.error > ENOUGH:
                best = _climb(best, partial(move, index=index), tried)
        if best is before:
            break
    arranged(best.setting)


@dataclass(frozen=True)
class _Built:
    """A layer as it is built with a setting.

    Attributes:
        part: Crossbars, of ohmic cells, and neurons.
        eliminated: The crossbars' ports.
        spread: Squared relative error that devices' spread is expected to add.
    """

    part: tuple[CrossbarSpec, NeuronSpec]
    eliminated: Eliminated
    spread: float


class _Bench:
    """Circuits with other gains and ranges, whose layers are built once for each of theirs.

    Trims are not built: what they do, to first order, is to give every row's output a factor and
    an offset, and those are fitted to the software model in front of the neurons.

    Args:
        segment: Its layers are changed.
        known: Outputs of all software layers for all samples, the first layer's inputs first.
        software: The same for some of them.
    """

    def __init__(
        self, segment: Segment, known: Sequence[Tensor], software: Sequence[Tensor]
    ) -> None:
        self.segment, self.software = segment, software
        self.layers = list(segment.analog_layers())
        self.volts = segment.voltages(software[0])
        self.statistics = [
            InputStatistics.of(layer.by_group(values))
            for layer, values in zip(self.layers, known[:-1], strict=True)
        ]
        self.memory: dict[tuple[int, float, float, float], _Built] = {}
        self.built = 0
        """Weights of all layers that were built."""

    def set(self, index: int, scale: float, gain: float | None) -> None:
        """Give a layer a range and, unless it is given, a gain; layers before it have theirs."""
        layer = self.layers[index]
        before = self.layers[index - 1].scaling.output_scale
        entry = before if index > 0 else layer.scaling.input_scale
        layer.scaling = Scaling(entry, scale)
        layer.matrix.set_input_statistics(self.statistics[index].over(entry))
        layer.matrix.trim.zero_()
        if gain is not None:
            layer.matrix.matched_gain.fill_(gain)

    def _now(self) -> list[_Built]:
        found = []
        for index, layer in enumerate(self.layers):
            scaling, gain = layer.scaling, layer.matrix.gain()
            key = (index, scaling.input_scale, scaling.output_scale, gain)
            if key not in self.memory:
                self.built += layer.weight.numel()
                crossbar = replace(layer.matrix.crossbar(), cell=None)
                self.memory[key] = _Built(
                    (crossbar, layer.neuron_spec()),
                    self.segment.native.eliminate(crossbar),
                    layer.matrix.expected(gain).spread,
                )
            found.append(self.memory[key])
        return found

    def _prepared(self) -> Prepared:
        built = self._now()
        return self.segment.native.prepare(
            [item.part for item in built], [item.eliminated for item in built]
        )

    @torch.no_grad()
    def room(self, index: int) -> float:
        """How much larger a range keeps a layer's amplifiers from their rails."""
        layer = self.layers[index]
        if layer.config.amplifier.linear:
            return 1.0
        volts = driving(self.layers, self.volts, self.software)[index]
        return room(eliminated(self._prepared().layers[index], layer.name), volts)

    def spread(self) -> float:
        """Squared relative error that devices' spread is expected to add to the outputs'."""
        return sum(built.spread for built in self._now())

    @torch.no_grad()
    def error(self) -> float:
        """Relative error of the circuit's outputs with the rows' best factors and offsets."""
        prepared, engine = self._prepared(), self.segment.native
        volts = self.volts
        good = volts.isfinite().all(-1)
        for index, (layer, ohmic) in enumerate(zip(self.layers, prepared.layers, strict=True)):
            vdd = layer.config.supplies.vdd
            lines = eliminated(ohmic, layer.name)
            combined, _ = sums(lines, volts, vdd)
            wanted = self.software[index + 1] / layer.scaling.output_scale * vdd
            outputs = engine.neuron_outputs(prepared, index, combined)
            good = good & outputs.isfinite().all(-1)
            if not bool(good.any()):
                return math.inf
            factor, offset = fit_rows(layer, combined[good], outputs[good], wanted[good])
            fitted = engine.neuron_outputs(prepared, index, factor * combined + offset)
            good = good & fitted.isfinite().all(-1)
            errors = [(item - wanted)[good].square().mean(0) for item in (outputs, fitted)]
            outputs = torch.where(errors[1] < errors[0], fitted, outputs)
            volts = torch.where(good[:, None], outputs, 0.0)
        last = self.layers[-1]
        scale = last.scaling.output_scale
        found = volts[good] / last.config.supplies.vdd * scale
        return relative_error(found, self.software[-1][good], scale)


@dataclass(frozen=True)
class _Setting:
    """Gain of every layer, and vdd in largest software outputs."""

    gains: tuple[float, ...]
    factors: tuple[float, ...]

    def widened(self, index: int, by: float) -> _Setting:
        """With a larger range of a layer, of which the next one makes what it made before."""
        gains, factors = list(self.gains), list(self.factors)
        factors[index] *= by
        gains[index] /= by
        if index + 1 < len(gains):
            gains[index + 1] *= by
        return _Setting(tuple(gains), tuple(factors))


def _gain_moves(setting: _Setting, up: bool, *, index: int) -> _Setting:
    gains = list(setting.gains)
    gains[index] *= 2.0 if up else 0.5
    return replace(setting, gains=tuple(gains))


def _range_moves(setting: _Setting, up: bool, *, index: int) -> _Setting:
    factors = list(setting.factors)
    factors[index] = max(HEADROOM[0], factors[index] * (RANGE_STEP if up else 1.0 / RANGE_STEP))
    return replace(setting, factors=tuple(factors))


@dataclass(frozen=True)
class _Trial:
    """A setting, the outputs' error with it, and that error with what spread is expected to add."""

    score: float
    error: float
    setting: _Setting


def _climb(
    best: _Trial,
    move: Callable[[_Setting, bool], _Setting],
    tried: Callable[[_Setting], _Trial | None],
) -> _Trial:
    """Downhill in one number, first one way, then, if that did not help, the other."""
    for up in (True, False):
        start = best
        while (following := move(best.setting, up)) != best.setting:
            found = tried(following)
            if found is None or not found.score * SAME < best.score:
                break
            best = found
        if best is not start:
            break
    return best


def fit_rows(
    layer: IMACLinear, combined: Tensor, outputs: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """Factor and offset (V) per row by least squares on the neurons' outputs, (M,) each.

    One Gauss-Newton step from the factor 1.

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
    return gain, step[:, 1] + (1.0 - gain) * mean
