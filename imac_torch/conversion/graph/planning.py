"""What becomes of a model that is no chain: which calls are circuits, and what stays software."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from imac_torch.conversion.building import Placed
from imac_torch.conversion.graph.blueprint import OwnCodeError, blueprint_of
from imac_torch.conversion.graph.chains import Cut, Link, find_chains
from imac_torch.conversion.graph.functions import name_of, no_operation, weighted
from imac_torch.conversion.graph.tracing import Traced, of_torch, trace
from imac_torch.conversion.layers import (
    Expanded,
    expand,
    expandable,
    expanded_alone,
    is_layer,
    layer_modules,
    source_of,
)
from imac_torch.conversion.plan import BATCH_NORMS, recognised
from imac_torch.conversion.selection import Choice, Selection, chosen_by
from imac_torch.errors import ConversionError
from imac_torch.model.inputs import Inputs
from imac_torch.model.network import LayerRecord
from imac_torch.periphery.activations import activation_of
from imac_torch.software.behaviour import foreign, hooks_of, own_behaviour, refuse_global_hooks
from imac_torch.software.leaves import Leaf, unwrapped
from imac_torch.software.plain import copied, settled

__all__ = ["GraphPlan", "plan_graph", "private_copy"]

EXPANDED = "its matrices are layers, what stands between them is software"
"""Of a module that became several layers."""
CALLED = "is called with more than the one tensor that a circuit takes"
"""Of a layer."""


@dataclass
class GraphPlan:
    """A model, and what is to become of it.

    Attributes:
        model: A copy, traced where that is possible; nothing is replaced in it yet.
        cuts: Its segments.
        records: The conversion table.
        inputs: Of its forward.
        modes: Whether its modules were training, by path.
        odd: Why layers stay software that look as if they could be analog, by path.
        blueprint: The model as text, or what of it only its author's code can build.
    """

    model: nn.Module
    cuts: list[Cut]
    records: list[LayerRecord]
    inputs: Inputs
    modes: dict[str, bool]
    odd: dict[str, str]
    blueprint: dict[str, Any] | str

    @property
    def links(self) -> list[tuple[Cut, Link]]:
        """Every layer, with its segment."""
        return [(cut, link) for cut in self.cuts for link in cut.links]

    @property
    def placed(self) -> list[Placed]:
        """Every layer, for what it reads of a configuration."""
        return [
            Placed(
                link.path, link.source, link.activation, link is cut.links[0], link is cut.links[-1]
            )
            for cut, link in self.links
        ]

    def unfit(self) -> list[str]:
        """Layers that nobody excluded and that are called as no circuit can be, in words."""
        return [f"{row.path} ({row.module}) {CALLED}" for row in self.records
                if row.detail == CALLED]  # fmt: skip


def private_copy(model: nn.Module) -> nn.Module:
    """A copy of a model with plain weights, and without what only wraps modules.

    Raises:
        ConversionError: It cannot be copied, or what it computes cannot be known.
    """
    refuse_global_hooks()
    model = unwrapped(model)
    name = type(model).__name__
    reason = hooks_of(model)
    if reason is None and isinstance(model, torch.jit.ScriptModule):
        reason = foreign(model)
    if reason is not None:
        raise ConversionError(f"{name} ({name}): it {reason}")
    (found,) = settled([model], [name])
    if found is model:
        (found,) = copied([model], [name])
    for part in list(found.modules()):
        for key, child in part._modules.items():
            if child is not None:
                part._modules[key] = unwrapped(child)
    return found


def plan_graph(
    model: nn.Module, exclude: Choice, include: Choice | None, inputs: Inputs
) -> GraphPlan:
    """Trace a model and decide for every call.

    Args:
        model: From :func:`private_copy`; it becomes part of the plan, in evaluation mode.
        exclude: Layers that stay in software.
        include: The only ones that become analog; None: all that can.
        inputs: Of its forward.

    Raises:
        ConversionError: A layer has no weights that conductances could stand for, or a name
            stands for none.
    """
    model = _holding(model)
    modes = {path: part.training for path, part in model.named_modules()}
    model.eval()
    holders = dict(model.named_modules(remove_duplicate=False))
    expanded = expand(model)
    kinds = layer_modules(spatial=True)
    layers = {path: part for path, part in model.named_modules() if isinstance(part, kinds)}
    layers |= expanded
    keep = chosen_by(exclude, layers, "exclude", holders)
    only = None if include is None else chosen_by(include, layers, "include", holders)
    for path, module in expanded.items():
        if keep(path, module):
            above, _, name = path.rpartition(".")
            setattr(model.get_submodule(above), name, module)
    whole = [path for path, part in expanded.items() if only is not None and only(path, part)]

    def wanted(path: str, module: nn.Module) -> bool:
        if keep(path, module):
            return False
        inside = any(path.startswith(f"{one}.") for one in whole)
        return only is None or inside or only(path, module)

    opaque = {
        path: EXPANDED for path, part in model.named_modules() if isinstance(part, Expanded)
    }
    traced = trace(model, inputs, _known(), opaque)
    hidden = dict(_hidden(traced, wanted))
    elsewhere = {id(part) for path in traced.opaque for part in _parts(traced.model, path)}
    cuts = []
    if isinstance(traced.model, fx.GraphModule):
        cuts = find_chains(traced.model, wanted, elsewhere)
    seen = {id(link.module) for cut in cuts for link in cut.links}
    for path, module in hidden.items():
        if id(module) not in seen:
            seen.add(id(module))
            cuts.append(Cut((Link(path, module, source_of(Leaf(path, module))),)))
    writer = _Writer(traced, cuts, keep, only)
    records = writer.records()
    blueprint = _blueprint(traced, expanded, inputs)
    return GraphPlan(traced.model, cuts, records, inputs, modes, writer.odd, blueprint)


def _holding(model: nn.Module) -> nn.Module:
    """A model that holds layers, of one that is a layer, or that computes with what layers hold."""
    if expandable(model):
        return expanded_alone(model)
    if is_layer(model, spatial=True):
        return nn.Sequential(model).train(model.training)
    return model


def _blueprint(
    traced: Traced, expanded: Mapping[str, nn.Module], inputs: Inputs
) -> dict[str, Any] | str:
    model = traced.model
    if not isinstance(model, fx.GraphModule):
        return f"{type(model).__name__} ({traced.opaque['']})"

    def module_at(path: str) -> nn.Module:
        found = model.get_submodule(path)
        return expanded[path] if isinstance(found, Expanded) else found

    try:
        return blueprint_of(model, module_at, traced.opaque, inputs)
    except OwnCodeError as error:
        return str(error)


def _known() -> tuple[type[nn.Module], ...]:
    """Classes of layers, and of what a graph recognises around them."""
    return (*layer_modules(spatial=True), *recognised(), *BATCH_NORMS)


def _parts(model: nn.Module, path: str) -> Iterator[nn.Module]:
    yield from model.get_submodule(path).modules()


def _hidden(
    traced: Traced, wanted: Callable[[str, nn.Module], bool]
) -> Iterator[tuple[str, nn.Module]]:
    """Layers inside of modules that could not be traced."""
    for path in traced.opaque:
        whole = traced.model.get_submodule(path)
        if of_torch(whole) or isinstance(whole, torch.jit.ScriptModule):
            continue
        inside_torch: list[str] = []
        for name, part in whole.named_modules():
            full = ".".join(item for item in (path, name) if item)
            if any(full.startswith(f"{other}.") for other in inside_torch):
                continue
            if is_layer(part, spatial=True):
                if wanted(full, part):
                    yield full, part
            elif of_torch(part):
                inside_torch.append(full)  # it computes with the weights of what it holds


class _Writer:
    """The conversion table of a graph."""

    def __init__(
        self, traced: Traced, cuts: Sequence[Cut], keep: Selection, only: Selection | None
    ) -> None:
        self._traced, self._keep, self._only = traced, keep, only
        self._links = {id(link.module): link for cut in cuts for link in cut.links}
        self._used = {node for cut in cuts for nodes in cut.calls for node in nodes}
        self.odd: dict[str, str] = {}

    def records(self) -> list[LayerRecord]:
        """One row per module that is called, then what functions do."""
        model = self._traced.model
        if not isinstance(model, fx.GraphModule):
            return self._opaque("", model)
        found: list[LayerRecord] = []
        seen: set[int] = set()
        functions: Counter[str] = Counter()
        for node in model.graph.nodes:
            if node.op in ("call_function", "call_method"):
                if node not in self._used:
                    self._function(node, found, functions)
            elif node.op == "call_module":
                module = model.get_submodule(str(node.target))
                if id(module) not in seen:
                    seen.add(id(module))
                    found += self._module(node, module)
        if functions:
            text = ", ".join(
                f"{name} ×{count}" if count > 1 else name for name, count in functions.items()
            )
            found.append(LayerRecord("", "functions", "digital", text))
        return found

    def _module(self, node: fx.Node, module: nn.Module) -> list[LayerRecord]:
        path = str(node.target)
        leaf = Leaf(path, module)
        if path in self._traced.opaque:
            return self._opaque(path, module)
        if (link := self._links.get(id(module))) is not None:
            return [LayerRecord(path, leaf.label, "analog", ""), *link.records]
        if node in self._used:  # its link has said what became of it
            return []
        return [LayerRecord(path, leaf.label, "digital", self._reason(node, module))]

    def _reason(self, node: fx.Node, module: nn.Module) -> str:
        """Why a module that is called stays in software."""
        path = str(node.target)
        if isinstance(module, layer_modules(spatial=True)):
            if self._keep(path, module):
                return "excluded"
            if self._only is not None and not self._only(path, module):
                return "not included"
        for kind in _known():
            if isinstance(module, kind) and (why := own_behaviour(module, kind)) is not None:
                self.odd[path] = f"({Leaf(path, module).label}) {why}"
                return why
        if isinstance(module, layer_modules(spatial=True)):
            return CALLED
        if no_operation(node, module) is not None:
            return "stands between modules in software"
        if activation_of(module) is not None:
            return "follows no analog layer directly"
        if isinstance(module, BATCH_NORMS):
            return "stands behind no analog layer that it could be folded into"
        if isinstance(module, torch.jit.ScriptModule):
            return str(foreign(module))
        return "has no circuit"

    def _opaque(self, path: str, module: nn.Module) -> list[LayerRecord]:
        """A module that was not traced, and its layers."""
        inside = [
            LayerRecord(link.path, Leaf(link.path, link.module).label, "analog", "")
            for part in module.modules()
            if (link := self._links.get(id(part))) is not None
        ]
        advice = ", its layers are replaced in place" if inside else ""
        why = f"{self._traced.opaque[path]}{advice}"
        return [LayerRecord(path, Leaf(path, module).label, "digital", why), *inside]

    def _function(
        self, node: fx.Node, found: list[LayerRecord], functions: Counter[str]
    ) -> None:
        if (kind := weighted(node)) is not None:
            place = next(reversed(list(node.meta.get("nn_module_stack", {}))), "")
            detail = f"takes its weights as arguments; the module {kind} would be analog"
            found.append(LayerRecord(place, f"function {name_of(node)}", "digital", detail))
        elif name := name_of(node):
            functions[name] += 1
