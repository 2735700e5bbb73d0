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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from imac_torch.base.progress import progress_bar
from imac_torch.conversion.ablation import (
    Losses,
    activations,
    attribute,
    relative_error,
    software_activations,
)
from imac_torch.conversion.search import HEADROOM, SAME, fit_rows, search
from imac_torch.errors import ConversionError, MappingError
from imac_torch.mapping.states import InputStatistics
from imac_torch.model.linear import IMACLinear, Scaling
from imac_torch.model.network import IMACNetwork
from imac_torch.model.segment import circuits_alone
from imac_torch.numeric.modes import lasting

CLOSE: Final = 0.5
"""Error of a single output, relative to what varies in it, up to which a circuit carries it."""
CARRIED: Final = 0.9
"""Share of samples with the software model's largest output from which a circuit carries it."""
CLOSE_ENOUGH: Final = 0.1
"""Error of outputs up to which other largest outputs are ties, more or less."""
DIAGNOSED: Final = 100
"""Samples that the steps' costs are looked up on, where a circuit does not carry its network."""
ROUNDS: Final = 1
"""Repetitions of the row fits where a model is converted with samples."""
CORNERS: Final = 256
"""Input vectors that stand for data where there are none."""
CORNER_MARGIN: Final = 1.5
"""How much larger outputs may be for data; ReLUs that clip lose more than others that do not."""


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
            (:func:`imac_torch.conversion.ablation.relative_error`), in the network that was given.
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
    batches: Iterable[Tensor] | Tensor,
    *,
    rounds: int = 3,
    trim: bool = True,
    progress: bool = False,
) -> tuple[LayerCalibration, ...]:
    """Adapt ranges, gains, mapping and trims of a network to data; it is changed in place.

    Args:
        network: A converted model whose layers have the mapping scheme 'matched'.
        batches: Model inputs, (B, …) each; a few hundred samples are enough.
        rounds: Repetitions of the row fits.
        trim: Whether to fit rows (step 3). Without, the circuit is not solved at all, and what
            calibration did is not compared with what was before.
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
    records = fit(network, batches, losses, rounds=rounds, trim=trim, progress=progress)
    # Two frames more: what keeps tensors of other modes out wraps this function.
    losses.warn("what this circuit loses", stacklevel=3)
    return records


@lasting()
@circuits_alone
def fit(
    network: IMACNetwork,
    batches: Iterable[Tensor] | Tensor,
    losses: Losses,
    *,
    rounds: int = 3,
    trim: bool = True,
    progress: bool = False,
) -> tuple[LayerCalibration, ...]:
    """:func:`calibrate`, which warns; this adds what is to be warned of to ``losses``."""
    layers = list(network.analog_layers())
    for layer in layers:
        if not layer.matrix.matched:
            raise MappingError(
                f"{layer.name}: calibration adapts conductances row by row, which the scheme "
                f"{layer.config.mapping.scheme!r} does not; set mapping.scheme = 'matched'"
            )
    if rounds < 0:
        raise MappingError(f"rounds = {rounds} must be at least 0")
    inputs = join_samples(batches)
    software = software_activations(network, network.features(inputs))
    for layer, values in zip(layers, software[1:], strict=True):
        if not bool(torch.isfinite(values).all()):
            raise MappingError(
                f"{layer.name}: the software layer's outputs are not all finite for these samples; "
                "calibration needs numbers (did training diverge?)"
            )
    reach = float(software[0].abs().max()) / layers[0].scaling.input_scale
    if reach > 1.0 + 1e-9:
        raise ConversionError(
            f"{layers[0].name}: inputs reach {reach:g} times supplies.input_scale; scale the data "
            "or set supplies.input_scale"
        )
    if not trim:
        assume_ranges(layers, [True] * len(layers), software[0])
        given = found = None
    else:
        steady = partial(network.segment.reading, None)  # nothing is fitted to a read's noise
        with steady():
            given = _State.of(network, inputs, software)
        try:
            with steady(), progress_bar(
                "calibrating", None, "circuits", shown=progress
            ) as advance:
                search(network, inputs, software, advance)
                for index, layer in enumerate(layers):
                    _trim(network, layer, index, inputs, software, rounds)
                advance(1)
                found = _State.of(network, inputs, software)
        except BaseException:
            given.restore(layers)
            raise
        if not found.better_than(given):
            given.restore(layers)
            found = given
        for layer, error in zip(layers, found.errors, strict=True):
            layer.calibrated_error = error
        _explain(network, found, inputs, losses)
    nothing = [float("nan")] * len(layers)
    return tuple(
        LayerCalibration(
            layer.name,
            layer.scaling.input_scale,
            layer.scaling.output_scale,
            layer.matrix.gain(),
            before,
            after,
        )
        for layer, before, after in zip(
            layers,
            nothing if given is None else given.errors,
            nothing if found is None else found.errors,
            strict=True,
        )
    )


def _explain(network: IMACNetwork, state: _State, inputs: Tensor, losses: Losses) -> None:
    """Say where a network is lost that its circuit does not carry."""
    error, agreement = state.errors[-1], float(state.agrees.to(torch.float64).mean())
    if list(network.analog_layers())[-1].out_features == 1:
        carried, answers = error <= CLOSE, ""
    else:
        carried = agreement >= CARRIED or error <= CLOSE_ENOUGH
        answers = (
            f"{100 * (1.0 - agreement):.0f} % of the samples have another largest output "
            "than in software, and "
        )
    if not carried:
        losses.add(
            f"calibrated, {answers}outputs are off by {100 * error:.0f} % (rms) of what varies in "
            "them"
        )
        attribute(network, inputs[:DIAGNOSED], losses)


@dataclass(frozen=True)
class _State:
    """All that calibration changes in a network, and how good the whole circuit is with it.

    Attributes:
        scalings: Of every layer.
        buffers: Of every layer.
        errors: As in :class:`LayerCalibration`.
        agrees: (B,) bool, whether the largest output is the software model's.
    """

    scalings: tuple[Scaling, ...]
    buffers: tuple[dict[str, Tensor], ...]
    errors: tuple[float, ...]
    agrees: Tensor

    @classmethod
    def of(cls, network: IMACNetwork, inputs: Tensor, software: Sequence[Tensor]) -> _State:
        """The network as it is."""
        layers = list(network.analog_layers())
        solution = network.solve(inputs, power=False)
        good = solution.converged
        errors = []
        for layer, state, wanted in zip(layers, solution.layers, software[1:], strict=True):
            found = layer.software_units(state.outputs)
            errors.append(relative_error(found[good], wanted[good], layer.scaling.output_scale))
        same = solution.layers[-1].outputs.argmax(-1) == software[-1].argmax(-1)
        return cls(
            tuple(layer.scaling for layer in layers),
            tuple(
                {name: item.clone() for name, item in layer.named_buffers()} for layer in layers
            ),
            tuple(errors),
            same & good,
        )

    def better_than(self, other: _State) -> bool:
        """Whether outputs are closer, and decisions not worse beyond chance.

        Decisions that differ between the two are as likely won as lost if neither is better; then
        their difference has the standard deviation of the square root of their number.
        """
        lost = int((other.agrees & ~self.agrees).sum())
        won = int((self.agrees & ~other.agrees).sum())
        return self.errors[-1] < other.errors[-1] and lost - won <= 2.0 * math.sqrt(lost + won)

    def restore(self, layers: Sequence[IMACLinear]) -> None:
        """Put layers back into this state."""
        for layer, scaling, buffers in zip(layers, self.scalings, self.buffers, strict=True):
            layer.scaling = scaling
            for name, buffer in buffers.items():
                layer.get_buffer(name).copy_(buffer)


def join_samples(batches: Iterable[Tensor] | Tensor) -> Tensor:
    """Batches of model inputs as one.

    Raises:
        MappingError: There is no sample.
    """
    parts = [batches] if isinstance(batches, Tensor) else list(batches)
    if not parts or sum(len(part) for part in parts) == 0:
        raise MappingError("calibration needs at least one sample")
    return torch.cat(parts)


def _choose_range(
    layer: IMACLinear, driven: Sequence[IMACLinear], outputs: Tensor, smallest: float
) -> None:
    """Least expected error of a layer and of the one that it drives, gains not being chosen yet."""
    found = []
    statistics = InputStatistics.of(outputs)
    for factor in HEADROOM:
        scale = smallest * factor / HEADROOM[0]
        layer.scaling = replace(layer.scaling, output_scale=scale)
        error = layer.matrix.least_expected_error()
        for item in driven:
            item.scaling = replace(item.scaling, input_scale=scale)
            item.matrix.set_input_statistics(statistics.over(scale))
            error = math.hypot(error, item.matrix.least_expected_error())
            item.matrix.matched_gain.fill_(math.nan)
        found.append((error, layer.scaling))
    least = min(error for error, _ in found)
    layer.scaling = next(scaling for error, scaling in found if error <= SAME * least)
    layer.matrix.matched_gain.fill_(math.nan)


@lasting()
def assume_ranges(
    layers: Sequence[IMACLinear],
    which: Sequence[bool],
    features: Tensor | None = None,
) -> None:
    """Ranges of layers before the circuit is solved, and what follows from them.

    Without data, inputs are taken as independent and each at plus or minus full scale, which is
    what images of dark backgrounds are like, and carried through the software layers. Circuits
    whose gain is given and whose scheme does not solve for conductances have the range that their
    gain gives them; ranges of the scheme 'matched' are larger than the outputs need where it is
    expected to err less then.

    Args:
        layers: Of one network.
        which: Layers that may be changed; the others have been trained or calibrated.
        features: (B, N) inputs of the first layer, if there are data.
    """
    margin = HEADROOM[0]
    if features is None:
        margin = CORNER_MARGIN
        generator = torch.Generator().manual_seed(0)
        shape = (CORNERS, layers[0].in_features)
        signs = torch.randint(0, 2, shape, generator=generator, device="cpu") * 2.0 - 1.0
        features = signs.to(layers[0].weight.device) * layers[0].scaling.input_scale
    software = activations(layers, features)
    for index, (layer, free) in enumerate(zip(layers, which, strict=True)):
        if not free:
            continue
        if index > 0:
            scale = layers[index - 1].scaling.output_scale
            layer.scaling = replace(layer.scaling, input_scale=scale)
            if layer.matrix.matched:
                layer.matrix.set_input_statistics(InputStatistics.of(software[index] / scale))
        if layer.matrix.matched:
            layer.matrix.trim.zero_()
            layer.matrix.matched_gain.fill_(math.nan)
        largest = float(software[index + 1].abs().max())
        if layer.activation.scale is not None or not 0.0 < largest < math.inf:
            continue
        layer.scaling = replace(layer.scaling, output_scale=margin * largest)
        if layer.matrix.matched:
            after = zip(layers[index + 1 : index + 2], which[index + 1 : index + 2], strict=True)
            driven = [item for item, changes in after if changes and item.matrix.matched]
            _choose_range(layer, driven, software[index + 1], margin * largest)
        elif not layer.matrix.matched and layer.config.amplifier.gain is not None:
            slope = layer.matrix.transfer_slope()
            if 0.0 < slope < math.inf:
                scale = layer.scaling.output_scale / slope
                layer.scaling = replace(layer.scaling, output_scale=scale)


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
    best = best.to(layer.matrix.trim.device)
    kept = layer.matrix.trim.clone()
    for step in range(rounds + 1):
        solution = network.solve(inputs, power=False)
        good = solution.converged
        state = solution.layers[index]
        wanted = software[index + 1][good] / layer.scaling.output_scale
        wanted = wanted * layer.config.supplies.vdd
        error = (state.outputs[good] - wanted).square().mean(0)
        better = error < best
        best = torch.where(better, error, best)
        kept = torch.where(better[:, None], layer.matrix.trim, kept)
        if step < rounds:
            layer.matrix.trim.copy_(kept)
            gain, offset = fit_rows(layer, state.combined[good], state.outputs[good], wanted)
            target = layer.matrix.wanted_transfer()
            trimmed = target * gain[:, None]
            trimmed[:, -1] += offset / layer.config.supplies.vdd
            layer.matrix.trim += torch.where(better[:, None], trimmed - target, 0.0)
    layer.matrix.trim.copy_(kept)
