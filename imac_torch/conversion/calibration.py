"""Calibration of a converted network on a few batches of data.

Three things are learnt, all without labels:

1. statistics of every layer's inputs, which weigh what the mapping cannot make exact;
2. trims: gain and offset of every row, fitted so that the neurons of the circuit as it is built,
   with wires, partitions and loading, answer as the software layer does;
3. gains of amplifiers and, where the activation has no fixed scale (ReLU, identity), ranges, the
   software output that is vdd: those with which the trimmed circuit errs least, tried one by one
   on some of the samples.

What came closest to the software model on the samples is kept, and if nothing came closer than the
network that was given, it stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import torch
from torch import Tensor

from imac_torch.base.progress import progress_bar
from imac_torch.conversion.ablation import attribute
from imac_torch.conversion.assumed import assume_ranges
from imac_torch.conversion.losses import Losses
from imac_torch.conversion.outputs import Outputs, activations, relative_error, runs_of
from imac_torch.conversion.search import fit_rows, search
from imac_torch.errors import ConversionError, MappingError
from imac_torch.model.converters import without_range
from imac_torch.model.inputs import Arguments
from imac_torch.model.linear import IMACLinear, Scaling
from imac_torch.model.network import Chain, IMACNetwork
from imac_torch.model.segment import Segment, left_out
from imac_torch.model.walk import walk
from imac_torch.numeric.modes import lasting
from imac_torch.results.solution import LayerSolution

CLOSE: Final = 0.5
"""Error of a single output, relative to what varies in it, up to which a circuit carries it."""
CARRIED: Final = 0.9
"""Share of samples with the software model's largest output from which a circuit carries it."""
CLOSE_ENOUGH: Final = 0.1
"""Error of outputs up to which other largest outputs are ties, more or less."""
ROUNDS: Final = 1
"""Repetitions of the row fits where a model is converted with samples."""


@dataclass(frozen=True)
class LayerCalibration:
    """What calibration did to one layer, and what is left.

    Attributes:
        layer: Path.
        input_scale: Software input that is vdd.
        output_scale: Software output that is vdd.
        gain: Of the amplifiers.
        error_before: Rms difference of the neurons' outputs from the software activations,
            relative to the activations' rms about their mean
            (:func:`imac_torch.conversion.outputs.relative_error`), in the network that was given.
            NaN where
            the circuit was not solved.
        error_after: The same in the network as it is now.
    """

    layer: str
    input_scale: float
    output_scale: float
    gain: float
    error_before: float
    error_after: float


@lasting()
def calibrate(
    network: IMACNetwork,
    batches: Iterable[Any] | Tensor | Mapping[str, Any],
    *,
    rounds: int = 3,
    trim: bool = True,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> tuple[LayerCalibration, ...]:
    """Adapt ranges, gains, mapping and trims of a network to data; it is changed in place.

    Of a model of several circuits, one after the other in the order in which they are called, each
    with :data:`imac_torch.model.walk.ROWS` of the input vectors that reach it behind those that are
    calibrated already; its outputs are fitted to what software gives at the same places. A position
    of a convolution, a time step, a token is such a vector.

    Args:
        network: A converted model whose layers have the mapping scheme 'matched'.
        batches: Model inputs, (B, …) each; a few hundred samples are enough. Of a model of several
            circuits as :func:`imac_torch.convert` takes ``samples``.
        rounds: Repetitions of the row fits.
        trim: Whether to fit rows (step 3). Without, the circuit is not solved at all, and what
            calibration did is not compared with what was before.
        generator: What draws input vectors where there are several circuits; it is left as it was.
            None: one seeded with 0.
        progress: Show a progress bar.

    Returns:
        A record per layer.

    Raises:
        MappingError: A layer has another mapping scheme, or there are no data, or software
            outputs are not finite.
        ConversionError: An input is beyond what ``supplies.input_scale`` codes as vdd.

    Warns:
        ConversionWarning: The circuit does not carry the network, calibrated as it is; with what
            the steps of :func:`imac_torch.ablate` cost, and what would help.
    """
    losses = Losses()
    chain = isinstance(network.model, Chain)
    if chain and isinstance(batches, Mapping):
        raise MappingError("samples of a model that is one circuit are tensors; it has one input")
    runs = runs_of(join_samples(cast("Iterable[Tensor]", batches)) if chain else batches)
    records = fit(
        network, runs, losses, rounds=rounds, trim=trim, generator=generator, progress=progress
    )
    # Two frames more: what keeps tensors of other modes out wraps this function.
    losses.warn("what this circuit loses", stacklevel=3)
    return records


@lasting()
def fit(
    network: IMACNetwork,
    runs: Sequence[Arguments],
    losses: Losses,
    *,
    rounds: int = 3,
    trim: bool = True,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> tuple[LayerCalibration, ...]:
    """:func:`calibrate` with arguments of runs; what is to be warned of is added to ``losses``."""
    layers = list(network.analog_layers())
    for layer in layers:
        if not layer.matrix.matched:
            raise MappingError(
                f"{layer.name}: calibration adapts conductances row by row, which the scheme "
                f"{layer.config.mapping.scheme!r} does not; set mapping.scheme = 'matched'"
            )
    if rounds < 0:
        raise MappingError(f"rounds = {rounds} must be at least 0")
    chain = isinstance(network.model, Chain)
    network.find_ranges(runs)
    if without_range(network.segments.values()):
        network.find_converter_ranges(runs)
    if not trim:
        _assume(network, runs[0][0][0] if chain else None)
        return _records(layers, None, None)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    before = None if chain else _Whole.of(network, runs)
    ranges = {path: segment.range.ends for path, segment in network.segments.items()}
    given: dict[str, _State] = {}
    found: dict[str, _State] = {}
    try:
        with progress_bar("calibrating", None, "circuits", shown=progress) as advance:
            for path, *states in _calibrated(network, runs, rounds, generator, advance):
                given[path], now = states
                found[path] = replace(now, buffers=())  # nobody goes back to it
        network.find_converter_ranges(runs)
        after = next(reversed(found.values())) if chain else _Whole.of(network, runs)
        worse = before is not None and not after.better_than(before)
    except BaseException:
        _restore(network, given, ranges)
        raise
    if before is not None and worse:
        _restore(network, given, ranges)
        found, after = given, before
    for path, state in found.items():
        own = network.segments[path].analog_layers()
        for layer, error in zip(own, state.errors, strict=True):
            layer.calibrated_error = error
    _explain(network, after, runs, losses)
    return _records(layers, _by_layer(network, given), _by_layer(network, found))


def _records(
    layers: Sequence[IMACLinear],
    before: Mapping[str, float] | None,
    after: Mapping[str, float] | None,
) -> tuple[LayerCalibration, ...]:
    nothing: Mapping[str, float] = {}
    return tuple(
        LayerCalibration(
            layer.name,
            layer.scaling.input_scale,
            layer.scaling.output_scale,
            layer.matrix.gain(),
            (before or nothing).get(layer.name, math.nan),
            (after or nothing).get(layer.name, math.nan),
        )
        for layer in layers
    )


def _by_layer(network: IMACNetwork, states: Mapping[str, _State]) -> dict[str, float]:
    return {
        layer.name: error
        for path, state in states.items()
        for layer, error in zip(
            network.segments[path].analog_layers(), state.errors, strict=True
        )
    }


def _assume(network: IMACNetwork, inputs: Tensor | None) -> None:
    """Ranges and statistics without solving; those of several circuits are known already."""
    if inputs is not None:
        layers = list(network.analog_layers())
        features = network.features(inputs)
        _check(network.segment, activations(layers, features), refuse=True)
        assume_ranges(layers, [True] * len(layers), features)


def _calibrated(
    network: IMACNetwork,
    runs: Sequence[Arguments],
    rounds: int,
    generator: torch.Generator,
    advance: Callable[[int], None],
) -> Iterator[tuple[str, _State, _State]]:
    """Fit the circuits of a model; gives path, and the circuit before and after."""
    with left_out(network):
        for path, segment, wanted in _circuits(network, runs, generator):
            yield (path, *_fit(segment, wanted, rounds, advance))


def _circuits(
    network: IMACNetwork, runs: Sequence[Arguments], generator: torch.Generator
) -> Iterator[tuple[str, Segment, list[Tensor]]]:
    """The circuits of a model, each with data.

    Gives path, circuit, and a list: what it gets (R, G·N) when those before have been calibrated,
    then what every layer is to give for it, float64.
    """
    if isinstance(network.model, Chain):
        features = network.features(runs[0][0][0])
        wanted = activations(list(network.analog_layers()), features)
        ((path, segment),) = network.segments.items()
        _check(segment, wanted, refuse=True)
        yield path, segment, wanted
        return
    for item in walk(network, runs, generator, anew=True):
        wanted = activations(list(item.segment.analog_layers()), item.software)
        _check(item.segment, wanted, refuse=False)
        yield item.path, item.segment, [item.rows.to(torch.float64), *wanted[1:]]


def _check(segment: Segment, wanted: Sequence[Tensor], *, refuse: bool) -> None:
    """Refuse data that nothing can be fitted to.

    Args:
        segment: The circuit.
        wanted: Its inputs and what its layers give, in software.
        refuse: Whether inputs beyond full scale are refused, too.
    """
    for layer, values in zip(segment.analog_layers(), wanted[1:], strict=True):
        if not bool(torch.isfinite(values).all()):
            raise MappingError(
                f"{layer.name}: the software layer's outputs are not all finite for these samples; "
                "calibration needs numbers (did training diverge?)"
            )
    reach = float(wanted[0].abs().max()) / segment.first.scaling.input_scale
    if refuse and reach > 1.0 + 1e-9:
        raise ConversionError(
            f"{segment.first.name}: inputs reach {reach:g} times supplies.input_scale; scale the "
            "data or set supplies.input_scale"
        )


def _fit(
    segment: Segment, wanted: Sequence[Tensor], rounds: int, advance: Callable[[int], None]
) -> tuple[_State, _State]:
    """Fit one circuit; what is no better is taken back.

    Args:
        segment: The circuit.
        wanted: Of :func:`_circuits`.
        rounds: Of row fits.
        advance: Called with every circuit that was solved.
    """
    layers = list(segment.analog_layers())
    with segment.reading(None):  # nothing is fitted to a read's noise
        given = _State.of(segment, wanted)
        try:
            search(segment, wanted, advance)
            for index, layer in enumerate(layers):
                _trim(segment, layer, index, wanted, rounds)
            advance(1)
            found = _State.of(segment, wanted)
        except BaseException:
            given.restore(layers)
            raise
    if not found.better_than(given):
        given.restore(layers)
        found = given
    return given, found


def _explain(
    network: IMACNetwork, whole: _Quality, runs: Sequence[Arguments], losses: Losses
) -> None:
    """Say where a network is lost that its circuits do not carry."""
    agreement, answers = None, ""
    if whole.agrees is not None:
        agreement = float(whole.agrees.to(torch.float64).mean())
        answers = (
            f"{100 * (1.0 - agreement):.0f} % of the samples have another largest output "
            "than in software, and "
        )
    close = CLOSE if agreement is None else CLOSE_ENOUGH
    if whole.error <= close or (agreement is not None and agreement >= CARRIED):
        return
    losses.add(
        f"calibrated, {answers}outputs are off by {100 * whole.error:.0f} % (rms) of what varies "
        "in them"
    )
    attribute(network, runs, losses)


@dataclass(frozen=True)
class _Quality:
    """How close outputs are to software's.

    Attributes:
        error: :func:`relative_error`.
        agrees: (B,) bool, whether the largest output is the same; None: there is one output, or
            no vector of them.
    """

    error: float
    agrees: Tensor | None

    def better_than(self, other: _Quality) -> bool:
        """Whether outputs are closer, and decisions not worse beyond chance.

        Decisions that differ between the two are as likely won as lost if neither is better; then
        their difference has the standard deviation of the square root of their number.
        """
        if self.agrees is None or other.agrees is None:
            return self.error < other.error
        lost = int((other.agrees & ~self.agrees).sum())
        won = int((self.agrees & ~other.agrees).sum())
        return self.error < other.error and lost - won <= 2.0 * math.sqrt(lost + won)


class _Whole(_Quality):
    """Of all of a model's outputs."""

    @classmethod
    def of(cls, network: IMACNetwork, runs: Sequence[Arguments]) -> _Whole:
        """The network as it is, its borders included."""
        found, wanted = (Outputs.of(network, runs, software=item) for item in (False, True))
        return cls(found.error(wanted), found.agrees(wanted))


@dataclass(frozen=True)
class _State(_Quality):
    """All that calibration changes in a circuit, and how good it is with it.

    Attributes:
        scalings: Of every layer.
        buffers: Of every layer.
        errors: As in :class:`LayerCalibration`.
    """

    scalings: tuple[Scaling, ...]
    buffers: tuple[dict[str, Tensor], ...]
    errors: tuple[float, ...]

    @classmethod
    def of(cls, segment: Segment, wanted: Sequence[Tensor]) -> _State:
        """The circuit as it is."""
        layers = list(segment.analog_layers())
        solution = segment.solve(wanted[0], power=False)
        good = solution.converged
        errors, found = [], wanted[-1]
        for layer, state, values in zip(layers, solution.layers, wanted[1:], strict=True):
            found = layer.software_units(_volts(segment, layer, state))
            errors.append(relative_error(found[good], values[good], layer.scaling.output_scale))
        agrees = None
        if len(layers[-1].weight) > 1:
            agrees = (found.argmax(-1) == wanted[-1].argmax(-1)) & good
        return cls(
            errors[-1],
            agrees,
            tuple(layer.scaling for layer in layers),
            tuple(
                {name: item.clone() for name, item in layer.named_buffers()} for layer in layers
            ),
            tuple(errors),
        )

    def restore(self, layers: Iterable[IMACLinear]) -> None:
        """Put layers back into this state."""
        for layer, scaling, buffers in zip(layers, self.scalings, self.buffers, strict=True):
            layer.scaling = scaling
            for name, buffer in buffers.items():
                layer.get_buffer(name).copy_(buffer)


def _restore(
    network: IMACNetwork,
    states: Mapping[str, _State],
    ranges: Mapping[str, tuple[float, float] | None],
) -> None:
    """Put circuits and the ranges of their converters back."""
    for path, segment in network.segments.items():
        if path in states:
            states[path].restore(segment.analog_layers())
        segment.range.ends = ranges[path]


def _volts(segment: Segment, layer: IMACLinear, state: LayerSolution) -> Tensor:
    """(R, M) V of a layer's outputs: those of its neurons, or what software makes of sums."""
    if not segment.borders.by_partition:
        return state.outputs
    vdd, function = layer.config.supplies.vdd, layer.activation.function
    if function.bounded:
        return vdd * function.ideal(state.combined, *layer.threshold_and_slope(), vdd)
    return vdd * function(state.combined / vdd)


def join_samples(batches: Iterable[Tensor] | Tensor) -> Tensor:
    """Batches of model inputs as one.

    Raises:
        MappingError: There is no sample.
    """
    parts = [batches] if isinstance(batches, Tensor) else list(batches)
    if not parts or sum(len(part) for part in parts) == 0:
        raise MappingError("calibration needs at least one sample")
    return torch.cat(parts)


def _trim(
    segment: Segment, layer: IMACLinear, index: int, software: Sequence[Tensor], rounds: int
) -> None:
    """Fit the rows of one layer repeatedly; every row keeps its best trim."""
    best = torch.full((layer.out_features,), torch.inf, dtype=torch.float64, device="cpu")
    best = best.to(layer.matrix.trim.device)
    kept = layer.matrix.trim.clone()
    for step in range(rounds + 1):
        solution = segment.solve(software[0], power=False)
        good = solution.converged
        state = solution.layers[index]
        outputs = _volts(segment, layer, state)[good]
        wanted = software[index + 1][good] / layer.scaling.output_scale
        wanted = wanted * layer.config.supplies.vdd
        error = (outputs - wanted).square().mean(0)
        better = error < best
        best = torch.where(better, error, best)
        kept = torch.where(better[:, None], layer.matrix.trim, kept)
        if step < rounds:
            layer.matrix.trim.copy_(kept)
            gain, offset = fit_rows(layer, state.combined[good], outputs, wanted)
            target = layer.matrix.wanted_transfer()
            trimmed = target * gain[:, None]
            trimmed[:, -1] += offset / layer.config.supplies.vdd
            layer.matrix.trim += torch.where(better[:, None], trimmed - target, 0.0)
    layer.matrix.trim.copy_(kept)
