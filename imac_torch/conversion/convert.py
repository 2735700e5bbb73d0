"""From a trained model to an analog network: an ordered list of passes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from imac_torch.circuit.engine import Engine
from imac_torch.config import Config, Unread, WeightMapping, unread_settings
from imac_torch.conversion.assumed import assume_ranges, corners
from imac_torch.conversion.beyond import amplifier_losses, make_room
from imac_torch.conversion.building import (
    analog_layer,
    check_config,
    converts_alone,
    losses_of,
    places_of,
    trained_config,
    warn_of_ties,
    warn_of_unread,
)
from imac_torch.conversion.calibration import ROUNDS, fit, join_samples
from imac_torch.conversion.graph.building import convert_graph, graph_layers
from imac_torch.conversion.outputs import runs_of
from imac_torch.conversion.plan import (
    SUPPORTED,
    NotAChainError,
    Plan,
    linear_layers,
    make_plan,
    recognised,
)
from imac_torch.conversion.selection import Choice, chosen_by
from imac_torch.errors import CircuitError, ConversionError, SettingWarning
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import Chain, IMACNetwork, evaluating
from imac_torch.model.ranges import MARGIN
from imac_torch.model.segment import Segment
from imac_torch.numeric.modes import lasting
from imac_torch.software.behaviour import own_behaviour, refuse_global_hooks
from imac_torch.software.leaves import Leaf, plain_leaves, refuse_lasting_training
from imac_torch.software.plain import copied

FITTED_LEVELS = 17
"""Weight levels where samples are given and nothing is said of the mapping."""


def convert(
    model: nn.Module,
    config: Config | None = None,
    *,
    exclude: Choice = (),
    include: Choice | None = None,
    generator: torch.Generator | None = None,
    engine: Engine | None = None,
    samples: Iterable[Any] | Tensor | Mapping[str, Any] | None = None,
    rounds: int = ROUNDS,
    progress: bool = False,
) -> IMACNetwork:
    """Turn a trained model into an analog network.

    An ``nn.Sequential`` whose tail is fully connected becomes one circuit: Linear (and
    :class:`IMACLinear`), with BatchNorm1d folded, Dropout dropped and activations as circuits.
    What comes before stays as it is, in software; so does a final (Log)Softmax.

    Any other model is traced (``torch.fx``), in evaluation mode and with its optional inputs at
    their defaults. Every layer that can be analog is, chains of linear layers as one circuit each;
    what happens between circuits stays software. Layers of a module that cannot be traced are
    replaced where they are. Full scales follow from data: from samples, or from the first batch.

    The model itself is not changed, and shares nothing with the network: modules that stay are
    copied.

    Args:
        model: In any mode.
        config: Of the circuit; per-layer overrides by module path are in ``config.layers``. None:
            what the model's :class:`IMACLinear` layers were trained with, or the default. Models
            that are traced have continuous weight levels unless ``mapping`` says otherwise.
        exclude: Layers to keep in software: paths or classes of layers or of modules that hold
            them, functions that say so for a layer's path, or for its path and the layer; one, or
            several of them. In a Sequential that becomes one circuit all layers before an excluded
            one stay in software too.
        include: The only layers to become analog, given in the same way. None: all that can be,
            but what stands before the tail of a Sequential; ``torch.nn.Module`` takes that, too.
        generator: Randomness of the devices' spread; needed if ``device.variation`` > 0
            or a device effect draws anything.
        engine: What solves; None: the native engine.
        samples: Inputs of the model, (B, …) or batches of them, to which the circuit is fitted:
            :func:`imac_torch.calibrate` with the scheme 'matched'; with others, which leave
            nothing else to fit, only the ranges of ReLUs and of outputs without neurons. Where
            the configuration says nothing of the mapping, it is 17 levels, matched; where it says
            nothing of ``supplies.input_scale`` and the samples need another one, it follows from
            them. Of models that are traced, full scales of all circuits, and what was traced is
            compared with the model; several inputs of a batch are a tuple, or a dict by name.
        rounds: How often calibration goes through all layers; of models that are traced, with 0
            only full scales are taken.
        progress: Show calibration's progress bar; a graph with samples is programmed with one,
            which otherwise its first run does.

    Returns:
        A new module with :class:`IMACLinear` layers; ``print(network.summary())`` shows what was
        mapped, folded and left in software, and why.

    Raises:
        ConversionError: A module cannot be converted; its path and what is supported are named. Or
            the model is a subclass of Sequential with a forward of its own, and there are neither
            samples nor ``include``.

    Warns:
        ConversionWarning: Weights or activations lose what the circuit cannot hold, or, with
            samples, the circuit does not carry the network: one warning with all of it, which
            steps of :func:`imac_torch.ablate` cost what, and what would help.
        SettingWarning: Nothing reads some settings in this configuration; the message says what
            would make them count.
    """
    if not (isinstance(exclude, str | type) or callable(exclude)):
        exclude = tuple(exclude)
    refuse_lasting_training(model)
    _refuse_empty(model)
    plan = None
    why = None
    if include is None:
        try:
            plan = _plan(model, exclude)
        except NotAChainError as error:
            why = error
    if plan is None:
        if include is None and samples is None:
            _refuse_unseen(model)
        return convert_graph(
            model, config, exclude=exclude, include=include, generator=generator, engine=engine,
            samples=samples, rounds=rounds, otherwise=why, progress=progress,
        )  # fmt: skip
    features = None
    if samples is not None:
        if isinstance(samples, Mapping):
            raise ConversionError("samples of a Sequential are tensors; it has one input")
        samples = join_samples(cast("Iterable[Tensor] | Tensor", samples))
        features = _features(plan, samples)
    config = trained_config(plan.placed) if config is None else config
    alone = [converts_alone(config, leaf.path) for leaf, _, _ in plan.layers]
    if any(alone) and len(alone) > 1:
        return convert_graph(
            model, config, exclude=exclude, include=None, generator=generator, engine=engine,
            samples=samples, rounds=rounds, otherwise=None, progress=progress,
        )  # fmt: skip
    config = config if features is None else Fitting._of(plan, features).config(config)
    check_config(config, plan.placed)
    layers = []
    for index, (leaf, source, activation) in enumerate(plan.layers):
        layers.append(analog_layer(leaf.path, source, activation, config, index, len(plan.layers)))
    segment = Segment(layers, config, engine)
    plain = [source.trained is None for _, source, _ in plan.layers]
    assume_ranges(layers, plain, features)
    for layer in layers:
        if layer.matrix.varies:
            layer.matrix.draw(generator)
    losses = losses_of(
        [layer for layer, free in zip(layers, plain, strict=True) if free],
        ranges=samples is not None,
    )
    places = places_of(plan.placed, config)
    warn_of_unread(unread_settings(config, places))
    warn_of_ties(places)
    for layer in layers:
        try:
            layer.description()
        except CircuitError as error:
            raise ConversionError(f"{layer.name}: {error}") from None
    chain = Chain(_copies(plan.digital), segment, _copies(plan.tail))
    network = IMACNetwork(chain, config, plan.records)
    # The copies keep the modes of their originals, one by one.
    own = (network, chain, chain.digital, segment, segment.layers, *segment.layers, chain.tail)
    for module in own:
        module.training = model.training
    fitted = features is not None and _fits(layers, plain)
    if features is not None:  # of samples
        runs = runs_of(samples)
        if fitted:
            fit(network, runs, losses, rounds=rounds, progress=progress)
        else:
            kept = [layer.name for layer, free in zip(layers, plain, strict=True) if not free]
            make_room(segment, features, kept)
            network.find_converter_ranges(runs)
    if not fitted:  # what is fitted says what it loses by itself
        amplifier_losses(segment, corners(layers[0]) if features is None else features, losses)
    losses.warn("what this conversion loses", stacklevel=2)
    return network


def _refuse_empty(model: nn.Module) -> None:
    """Refuse parameters without values: there is nothing to program."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ConversionError(
                f"{name} has no shape yet (a lazy module): run the model on a batch first"
            )
        if tensor.is_meta:
            raise ConversionError(
                f"{name} is on the device meta, where tensors have no values: make the model on "
                "the CPU, or load its weights (model.to_empty(device='cpu'), load_state_dict)"
            )


def _refuse_unseen(model: nn.Module) -> None:
    """Refuse a Sequential that is none: what was traced of it has to be compared with it.

    Whoever writes a Sequential expects a chain, which its own forward is not.
    """
    if not isinstance(model, nn.Sequential) or type(model) is nn.Sequential:
        return
    if (reason := own_behaviour(model, nn.Sequential)) is not None:
        raise ConversionError(
            f"{type(model).__name__} is a subclass of Sequential that {reason}, so that it is no "
            "chain of its modules. Pass samples=…, with which what is traced of it is compared "
            "with the original, or include=nn.Module to have it traced without"
        )


def _fits(layers: Sequence[IMACLinear], free: Sequence[bool]) -> bool:
    """Whether calibration is for these layers; a warning where samples cannot do what they do.

    Args:
        layers: Of one network.
        free: Layers whose ranges may be set.
    """
    others = [layer.name for layer in layers if not layer.matrix.matched]
    if not others:
        return True
    ranges = any(
        open_ and layer.activation.scale is None
        for layer, open_ in zip(layers, free, strict=True)
    )
    if len(others) < len(layers) or not ranges:
        done = "set ranges only" if ranges else "have no effect"
        warnings.warn(
            f"samples {done}: calibration needs mapping.scheme = 'matched' in all layers, and "
            f"{', '.join(others)} {'has' if len(others) == 1 else 'have'} another",
            SettingWarning,
            stacklevel=3,
        )
    return False


def _copies(part: Sequence[Leaf]) -> nn.Sequential:
    return nn.Sequential(*copied([leaf.module for leaf in part], [leaf.path for leaf in part]))


@dataclass(frozen=True)
class Fitting:
    """What samples say of settings that a configuration leaves open.

    Attributes:
        largest: Magnitude of the first analog layer's inputs.
        trained: Whether the model has layers that were trained as a circuit.
    """

    largest: float
    trained: bool

    @classmethod
    def of(
        cls,
        model: nn.Module,
        samples: Tensor,
        *,
        exclude: Choice = (),
        include: Choice | None = None,
    ) -> Fitting:
        """Of a model as :func:`convert` takes it, and samples (B, …) of its inputs.

        Raises:
            ConversionError: The model cannot be converted.
        """
        if include is not None:
            return cls(math.nan, trained=True)
        try:
            plan = _plan(model, exclude)
        except NotAChainError:  # full scales of graphs are each segment's own
            return cls(math.nan, trained=True)
        return cls._of(plan, _features(plan, samples))

    @classmethod
    def _of(cls, plan: Plan, features: Tensor) -> Fitting:
        trained = any(source.trained is not None for _, source, _ in plan.layers)
        return cls(float(features.detach().abs().max()), trained)

    def config(self, config: Config) -> Config:
        """The configuration that ``convert(model, config, samples=…)`` takes."""
        if not self.trained and not config.mapping.model_fields_set:
            config = config.replace(mapping=WeightMapping(levels=FITTED_LEVELS, scheme="matched"))
        supplies = config.supplies
        if "input_scale" in supplies.model_fields_set or not 0.0 < self.largest < math.inf:
            return config
        if 0.5 <= self.largest <= supplies.input_scale:
            return config
        return config.replace(supplies=supplies.replace(input_scale=MARGIN * self.largest))


def _features(plan: Plan, samples: Tensor) -> Tensor:
    """(B, N) inputs of the first analog layer."""
    digital = _copies(plan.digital)
    with lasting(), evaluating(digital):
        found: Tensor = digital(samples)
    return found


def unread(
    model: nn.Module,
    config: Config,
    *,
    exclude: Choice = (),
    include: Choice | None = None,
    transients: bool = True,
    netlists: bool = True,
    noise: bool = True,
) -> list[Unread]:
    """Settings that differ from their defaults although nothing reads them, without converting.

    Args:
        model: As :func:`convert` takes it.
        config: Of the circuit.
        exclude: Likewise.
        include: Likewise.
        transients: Whether anything is integrated in time.
        netlists: Whether a simulator is asked.
        noise: Whether noise is looked at.

    Raises:
        ConversionError: The model cannot be converted.
    """
    why: Exception | None = None
    try:
        layers = _plan(model, exclude).placed if include is None else []
    except NotAChainError as error:
        layers, why = [], error
    layers = layers or graph_layers(model, exclude, include, why)
    places = places_of(layers, config)
    return unread_settings(
        config, places, transients=transients, netlists=netlists, noise=noise
    )


def _plan(model: nn.Module, exclude: Choice) -> Plan:
    """The plan of a model that is a chain.

    Raises:
        NotAChainError: It is none.
        ConversionError: It is, but cannot be converted.
    """
    refuse_global_hooks()
    flat = plain_leaves(model)
    try:
        holders = dict(model.named_modules(remove_duplicate=False))
        excluded = chosen_by(exclude, linear_layers(flat), "exclude", holders)
    except ConversionError:  # these may be layers that are reached by tracing only
        raise _nothing(model, flat) from None
    plan = make_plan(flat, excluded)
    if not plan.layers:
        raise _nothing(model, flat)
    return plan


def _nothing(model: nn.Module, flat: Sequence[Leaf]) -> NotAChainError:
    last = flat[-1] if flat else Leaf("model", model)
    reason = last.why_not(*recognised())
    words = "" if reason is None else f", it {reason}"
    return NotAChainError(
        f"{last.path} ({last.label}): nothing to convert{words}; {SUPPORTED}. What is "
        "excluded, and all before it, stays in software"
    )
