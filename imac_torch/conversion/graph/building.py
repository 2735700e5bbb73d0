"""A network of a planned graph: segments in the places of the calls that they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from imac_torch.base.progress import progress_bar
from imac_torch.circuit.engine import Engine
from imac_torch.config import Amplifier, Config, Neuron, WeightMapping, unread_settings
from imac_torch.config.section import Section
from imac_torch.conversion.beyond import amplifier_losses, make_room
from imac_torch.conversion.building import (
    Placed,
    analog_layer,
    check_config,
    converts_alone,
    losses_of,
    places_of,
    trained_config,
    warn_of_ties,
    warn_of_unread,
)
from imac_torch.conversion.calibration import fit
from imac_torch.conversion.graph.chains import Cut, held_in, separated
from imac_torch.conversion.graph.functions import VectorsOnly, reshapes
from imac_torch.conversion.graph.planning import GraphPlan, plan_graph, private_copy
from imac_torch.conversion.losses import BUFFER
from imac_torch.conversion.outputs import runs_of
from imac_torch.conversion.selection import Choice
from imac_torch.errors import ConversionError
from imac_torch.model.inputs import Arguments, Inputs
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import IMACNetwork, LayerRecord, evaluating
from imac_torch.model.positions import Vectors
from imac_torch.model.segment import INPUTS, Segment
from imac_torch.model.walk import reached
from imac_torch.numeric.modes import lasting

__all__ = ["convert_graph", "graph_layers", "rebuild_graph"]


def convert_graph(
    model: nn.Module,
    config: Config | None,
    *,
    exclude: Choice,
    include: Choice | None,
    generator: torch.Generator | None,
    engine: Engine | None,
    samples: object,
    rounds: int,
    otherwise: Exception | None,
    progress: bool = False,
) -> IMACNetwork:
    """:func:`imac_torch.convert` of a model that is no chain.

    Args:
        model: Not changed.
        config: See there, like what follows.
        exclude: Layers.
        include: Layers.
        generator: Of devices' spread.
        engine: What solves.
        samples: Batches, or one.
        rounds: Of calibration, with the scheme 'matched'; 0: none.
        otherwise: What to raise where there is nothing to convert.
        progress: Whether to program the circuits, which shows a progress bar.
    """
    runs = [] if samples is None else runs_of(samples)
    copy = private_copy(model)
    inputs = Inputs.of(copy.forward, runs)
    expected = None
    if runs:
        with evaluating(copy), _every_part_called():
            expected = _same_draws(copy, runs[0])
    plan = plan_graph(copy, exclude, include, inputs)
    _check_anything(plan, otherwise)
    trained = any(layer.source.trained is not None for layer in plan.placed)
    config = trained_config(plan.placed) if config is None else config
    check_config(config, plan.placed)
    asked = config  # what was chosen for the user is not the user's to hear about
    if not trained:  # layers that were trained as a circuit were so with all of it
        config, defaults = graph_config(config)
        plan.records += defaults
    plan.cuts = separated(plan.cuts, partial(converts_alone, config))
    network, layers, free = build_graph(plan, config, engine)
    if runs:
        if all(free):
            _check_equal(network, runs[0], expected)
        network.find_ranges(runs)
    for layer in layers:
        if layer.matrix.varies:
            layer.matrix.draw(generator)
    places = places_of(plan.placed, config)
    warn_of_unread(unread_settings(asked, places))
    warn_of_ties(places)
    losses = losses_of(
        [layer for layer, item in zip(layers, free, strict=True) if item], ranges=True
    )
    for path, why in plan.odd.items():
        losses.add(f"{path} {why}, so that it stays in software", [])
    if runs and rounds > 0 and all(layer.matrix.matched for layer in layers):
        fit(network, runs, losses, rounds=rounds, progress=progress)
    elif runs:
        if not all(layer.config.amplifier.linear for layer in layers):
            drawn = torch.Generator().manual_seed(0)
            for path, found in reached(network, runs, drawn, software=True).items():
                own = network.segments[path]
                make_room(own, found.rows, own.scaled)
                amplifier_losses(own, found.rows, losses)
        network.find_converter_ranges(runs)
    if progress and runs:
        with progress_bar("programming", len(network.segments), "segments") as advance:
            for segment in network.segments.values():
                segment.program()
                advance(1)
    losses.warn("what this conversion loses", stacklevel=3)
    own_modes(network, plan.modes)
    return network


def graph_layers(
    model: nn.Module, exclude: Choice, include: Choice | None, otherwise: Exception | None
) -> list[Placed]:
    """The analog layers of a model that is no chain.

    Args:
        model: Not changed.
        exclude: Layers that stay in software.
        include: The only ones that do not; None: all that can be analog.
        otherwise: What to raise where there is nothing to convert.
    """
    copy = private_copy(model)
    plan = plan_graph(copy, exclude, include, Inputs.of(copy.forward))
    _check_anything(plan, otherwise)
    return plan.placed


def rebuild_graph(
    model: nn.Module,
    config: Config,
    segments: Sequence[Sequence[str]],
    names: Sequence[str],
    kept: Sequence[str] = (),
) -> IMACNetwork:
    """The network that a model became, for its state to be loaded.

    Args:
        model: Not changed.
        config: The network's.
        segments: Paths of the layers of every circuit.
        names: Of its inputs.
        kept: Modules that stayed whole although they could have become layers.

    Raises:
        ConversionError: The model does not become these circuits.
    """
    layers = {path for paths in segments for path in paths}
    copy = private_copy(model)
    inputs = Inputs.named(copy.forward, names)
    plan = plan_graph(copy, tuple(kept), lambda path, _: path in layers, inputs)
    found = [[link.path for link in cut.links] for cut in plan.cuts]
    if sorted(found) != sorted(map(list, segments)):
        raise ConversionError(
            f"it becomes the circuits {found}, the file has {[list(item) for item in segments]}"
        )
    return build_graph(plan, config, None)[0]


def _check_anything(plan: GraphPlan, otherwise: Exception | None) -> None:
    """Say why nothing of a model is analog, if so."""
    if plan.cuts:
        return
    if reasons := plan.unfit():
        raise ConversionError(f"nothing to convert: {'; '.join(reasons)}")
    raise otherwise if otherwise is not None else ConversionError(
        "nothing to convert: include names no layer that can be analog"
    )


@contextmanager
def _every_part_called() -> Iterator[None]:
    """Torch's transformers without their faster path, which gives 0 at padded places."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@lasting()
def _same_draws(forward: Callable[..., Any], arguments: Arguments) -> Any:  # noqa: ANN401
    """What a forward gives; a dropout that stays in evaluation mode draws the same each time."""
    positional, named = arguments
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return forward(*positional, **named)


def _check_equal(network: IMACNetwork, arguments: Arguments, expected: object) -> None:
    """Compare what was traced, its segments in software, with the model itself.

    Raises:
        ConversionError: They differ by more than half of the digits.
    """
    found = _same_draws(network.software, arguments)
    pairs = zip(_pytree.tree_leaves(found), _pytree.tree_leaves(expected), strict=False)
    for one, other in pairs:
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            continue
        if one.shape == other.shape and not other.is_floating_point():
            continue  # classes may differ where scores are equal
        if one.shape == other.shape:
            scale = other.abs().max() if other.numel() else 0.0
            tolerance = math.sqrt(torch.finfo(other.dtype).eps) * float(scale)
            if torch.allclose(one.to(other.dtype), other, rtol=0.0, atol=tolerance, equal_nan=True):
                continue
            largest = float((one - other).abs().max())
            what = f"its outputs differ by up to {largest:.3g} of {float(scale):.3g}"
        else:
            what = f"its output is {tuple(one.shape)}, not {tuple(other.shape)}"
        raise ConversionError(
            f"{type(network.model).__name__}: what was traced of the model computes something else "
            f"than the model, {what}: its forward asks for the type or the values of tensors. "
            "Rewrite that, or keep the modules that do so in software with exclude"
        )


def graph_config(config: Config) -> tuple[Config, list[LayerRecord]]:
    """A configuration with what suits segments anywhere in a model, where nothing was said.

    Returns:
        It, and rows of the conversion table that say what was chosen.
    """
    chosen: dict[str, tuple[Section, str]] = {}
    if not config.mapping.model_fields_set:
        chosen["mapping"] = WeightMapping(levels="continuous"), "weights as they were trained"
    if not config.amplifier.model_fields_set:
        chosen["amplifier"] = (
            Amplifier(kind="transimpedance"),
            "lines that end at virtual ground compute what the weights mean, whatever the mapping",
        )
    if not config.neuron.model_fields_set:
        chosen["neuron"] = (
            Neuron(output_resistance=BUFFER),
            "a buffer behind every neuron: no mapping but 'matched' allows for lines that load it",
        )
    supplies = config.supplies
    if "vss" not in supplies.model_fields_set and supplies.vss != -supplies.vdd:
        chosen["supplies"] = supplies.replace(vss=-supplies.vdd), "inputs have both signs"
    records = []
    for name, (section, why) in chosen.items():
        before = getattr(config, name)
        said = ", ".join(
            f"{field} = {getattr(section, field)!r}"
            for field in type(section).model_fields
            if getattr(section, field) != getattr(before, field)
        )
        records.append(LayerRecord("", f"{name}: {said}", "default", why))
    return config.replace(**{name: section for name, (section, _) in chosen.items()}), records


def build_graph(
    plan: GraphPlan, config: Config, engine: Engine | None
) -> tuple[IMACNetwork, list[IMACLinear], list[bool]]:
    """The network, full scales open.

    Args:
        plan: Used up.
        config: With the defaults of :func:`graph_config`.
        engine: What solves; None: the native engine.

    Returns:
        The network, its layers, and which of them were not trained as a circuit.
    """
    count = len(plan.links)
    layers: list[IMACLinear] = []
    free: list[bool] = []
    segments: list[Segment] = []
    for cut in plan.cuts:
        own: list[IMACLinear] = []
        for link in cut.links:
            own.append(analog_layer(
                link.path, link.source, link.activation, config, len(layers) + len(own), count,
                dtype=held_in(link.source),
            ))  # fmt: skip
        segment = Segment(own, config, engine, positions=cut.links[0].source.positions)
        trained = [link.source.trained is not None for link in cut.links]
        names = {link.path for link in cut.links if link.source.trained is not None}
        given = "input_scale" in config.supplies.model_fields_set and _takes_inputs(plan.model, cut)
        segment.scaled = frozenset(names | ({INPUTS} if trained[0] or given else set()))
        if given and not trained[0]:
            scale = config.supplies.input_scale
            own[0].scaling = replace(own[0].scaling, input_scale=scale)
        segment.open = not all(trained)
        segment.saturates = True
        segments.append(segment)
        layers += own
        free += [not item for item in trained]
    model = _with(plan, segments)
    network = IMACNetwork(model, config, plan.records, plan.inputs, plan.blueprint)
    own_modes(network, plan.modes)
    return network, layers, free


def _takes_inputs(model: nn.Module, cut: Cut) -> bool:
    """Whether a segment gets an input of the model as it is, but for its shape."""
    for nodes in cut.calls:
        (given,) = [*nodes[0].args, *nodes[0].kwargs.values()]
        while isinstance(given, fx.Node) and reshapes(given, model):
            given = given.args[0]
        if isinstance(given, fx.Node) and given.op == "placeholder":
            return True
    return False


def _with(plan: GraphPlan, segments: Sequence[Segment]) -> nn.Module:
    """The model with segments in the places of layers."""
    model = plan.model
    if isinstance(model, fx.GraphModule):
        _keep_parameters(model, plan.cuts)
        for cut in plan.cuts:
            for nodes in cut.calls:
                _shorten(model, cut, nodes)
    stands = {id(cut.links[0].module): segment
              for cut, segment in zip(plan.cuts, segments, strict=True)}  # fmt: skip
    if id(model) in stands:  # the model is a layer that was not traced
        return nn.Sequential(stands[id(model)])
    for part in list(model.modules()):
        for name, child in part._modules.items():
            if id(child) in stands:
                part._modules[name] = stands[id(child)]
    if isinstance(model, fx.GraphModule):
        model.delete_all_unused_submodules()
        model.recompile()
    return model


def _shorten(model: fx.GraphModule, cut: Cut, nodes: tuple[fx.Node, ...]) -> None:
    """Let the first of some calls stand for all of them.

    It is where the last one's result does not depend yet on what happens to tensors in between.
    """
    first, last = nodes[0], nodes[-1]
    (given,) = [*first.args, *first.kwargs.values()]
    if isinstance(cut.links[0].source.positions, Vectors) and any(
        link.folded is not None for link in cut.links
    ):
        guard = f"{cut.path.replace('.', '_')}_takes_vectors"
        model.add_module(guard, VectorsOnly(cut.path))
        with model.graph.inserting_before(first):
            given = model.graph.call_module(guard, (given,))
    first.args, first.kwargs = (given,), {}
    if last is not first:  # torch 2.4 refuses what changes nothing
        last.replace_all_uses_with(first)
    for node in reversed(nodes[1:]):
        model.graph.erase_node(node)


def _keep_parameters(model: fx.GraphModule, cuts: Sequence[Cut]) -> None:
    """Give parameters a place of their own that the forward uses besides calling their layer."""
    paths = tuple(f"{link.path}." for cut in cuts for link in cut.links)
    for node in model.graph.nodes:
        if node.op == "get_attr" and str(node.target).startswith(paths):
            *place, name = str(node.target).split(".")
            value = getattr(model.get_submodule(".".join(place)), name)
            target = f"{'_'.join(place)}_{name}_of_software"
            if isinstance(value, nn.Parameter):
                model.register_parameter(target, value)
            else:
                model.register_buffer(target, value)
            node.target = target


def own_modes(network: IMACNetwork, modes: Mapping[str, bool]) -> None:
    """Give modules the mode that their originals had; new ones have that of what holds them."""
    for path, part in network.model.named_modules():
        while path not in modes:
            path = path.rpartition(".")[0]
        part.training = modes[path]
    network.training = modes[""]
