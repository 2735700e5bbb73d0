"""Which calls of a graph become circuits: layers with what follows them, and chains of layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from imac_torch.conversion.graph.functions import activation_in, argument, no_operation
from imac_torch.conversion.layers import Source, is_layer, source_of
from imac_torch.conversion.plan import BATCH_NORMS, NORMS, fold_batch_norm
from imac_torch.model.network import LayerRecord
from imac_torch.model.positions import Vectors
from imac_torch.periphery.activations import IDENTITY, Activation
from imac_torch.software.behaviour import computes_as
from imac_torch.software.leaves import Leaf

__all__ = ["Cut", "Link", "find_chains", "held_in", "separated"]

_NOTHING = Activation(IDENTITY.name)


@dataclass(frozen=True)
class Link:
    """A layer with what follows it in its circuit.

    Attributes:
        path: Of the layer.
        module: The layer.
        source: What it computes, batch normalisation folded in.
        activation: What follows.
        nodes: The calls that the link stands for, the layer's first.
        folded: The batch normalisation, if one is folded in.
        records: What became of modules that follow the layer.
    """

    path: str
    module: nn.Module
    source: Source
    activation: Activation = _NOTHING
    nodes: tuple[fx.Node, ...] = ()
    folded: nn.Module | None = None
    records: tuple[LayerRecord, ...] = ()


@dataclass(frozen=True)
class Cut:
    """A segment to be.

    Attributes:
        links: Its layers, at least one; a chain.
        calls: The nodes that it replaces, for every time that it is called.
    """

    links: tuple[Link, ...]
    calls: tuple[tuple[fx.Node, ...], ...] = ()

    @property
    def path(self) -> str:
        """Where the segment stands in the model: at its first layer's path."""
        return self.links[0].path


class _Finder:
    def __init__(
        self, model: fx.GraphModule, wanted: Callable[[str, nn.Module], bool], bare: set[int]
    ) -> None:
        self.model, self.wanted = model, wanted
        self.calls = Counter(
            id(module) for node in model.graph.nodes if (module := self.module(node)) is not None
        )
        self.bare = bare

    def alone(self, node: fx.Node) -> bool:
        """Whether a layer is called once only."""
        layer = id(self.module(node))
        return self.calls[layer] == 1 and layer not in self.bare

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.model.get_submodule(str(node.target)) if node.op == "call_module" else None

    def layer(self, node: fx.Node) -> nn.Module | None:
        """The layer that a call makes analog."""
        module = self.module(node)
        if module is None or argument(node) is None or not is_layer(module, spatial=True):
            return None
        return module if self.wanted(str(node.target), module) else None

    def link(self, node: fx.Node, *, alone: bool = False) -> Link:
        """A layer with the calls behind it that its circuit does, too."""
        path, module = str(node.target), self.module(node)
        assert module is not None  # noqa: S101 - narrows the type only
        source = source_of(Leaf(path, module))
        activation = None
        if source.trained is not None and not source.trained.activation.function.read_out:
            activation = source.trained.activation
        nodes, records = [node], []
        norm: nn.Module | None = None
        while not alone and (after := _only_user(nodes[-1])) is not None:
            follows = self.module(after)
            leaf = Leaf(str(after.target), nn.Module() if follows is None else follows)
            if (reason := no_operation(after, follows)) is not None:
                target = "dropped"
            elif (
                follows is not None and activation is None and norm is None
                and argument(after) is not None and _foldable(follows, source)
            ):  # fmt: skip
                source, norm = fold_batch_norm(leaf, source, held_in(source)), follows
                target, reason = "folded", f"into {path}"
            elif activation is None and (found := activation_in(after, follows)) is not None:
                activation = found
                target, reason = "analog", f"activation circuit of {path}"
            else:
                break
            nodes.append(after)
            if follows is not None:
                records.append(LayerRecord(leaf.path, leaf.label, target, reason))
        activation = _NOTHING if activation is None else activation
        return Link(path, module, source, activation, tuple(nodes), norm, tuple(records))

    def shared(self, node: fx.Node) -> Cut:
        """The segment of a layer that is called several times; what follows must be the same."""
        module = self.module(node)
        nodes = [item for item in self.model.graph.nodes if self.module(item) is module]
        links = [self.link(item) for item in nodes]
        first = links[0]
        alike = all(
            (link.activation, link.folded) == (first.activation, first.folded) for link in links
        )
        if not alike or id(module) in self.bare:
            links = [self.link(item, alone=True) for item in nodes]
        return Cut((links[0],), tuple(link.nodes for link in links))


def held_in(source: Source) -> torch.dtype:
    """The type of the weights of an analog layer: the software layer's, or float32."""
    return torch.promote_types(source.weight.dtype, torch.float32)


def find_chains(
    model: fx.GraphModule, wanted: Callable[[str, nn.Module], bool], elsewhere: set[int]
) -> list[Cut]:
    """Cut a graph: every maximal chain of layers of vectors is a segment, other layers one each.

    Args:
        model: Traced.
        wanted: Whether a layer at a path is to be analog.
        elsewhere: ids of modules that are called besides, where no graph shows how.

    Raises:
        ConversionError: A layer has no weights that conductances could stand for.
    """
    finder = _Finder(model, wanted, elsewhere)
    cuts: list[Cut] = []
    used: set[fx.Node] = set()
    for node in model.graph.nodes:
        if node in used or finder.layer(node) is None:
            continue
        cut = _chain(finder, node) if finder.alone(node) else finder.shared(node)
        cuts.append(cut)
        used.update(item for nodes in cut.calls for item in nodes)
    return cuts


def separated(cuts: Sequence[Cut], alone: Callable[[str], bool]) -> list[Cut]:
    """Cut chains further: some layers are segments of their own.

    Args:
        cuts: In order.
        alone: Whether the layer at a path is.
    """
    found = []
    for cut in cuts:
        if len(cut.links) == 1:
            found.append(cut)
            continue
        runs: list[list[Link]] = []
        for link in cut.links:
            if not runs or alone(link.path) or alone(runs[-1][-1].path):
                runs.append([])
            runs[-1].append(link)
        found += [
            Cut(tuple(run), (tuple(node for link in run for node in link.nodes),)) for run in runs
        ]
    return found


def _chain(finder: _Finder, node: fx.Node) -> Cut:
    """The chain of layers that begins with one."""
    links = [finder.link(node)]
    while isinstance(links[-1].source.positions, Vectors):
        after = _only_user(links[-1].nodes[-1])
        if after is None or finder.layer(after) is None or not finder.alone(after):
            break
        link = finder.link(after)
        if not isinstance(link.source.positions, Vectors):
            break
        links.append(link)
    return Cut(tuple(links), (tuple(node for link in links for node in link.nodes),))


def _only_user(node: fx.Node) -> fx.Node | None:
    """The call that takes what this one gives, where it is the only one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _foldable(module: nn.Module, source: Source) -> bool:
    """Whether a module is a batch normalisation of what a layer gives."""
    kinds = NORMS if isinstance(source.positions, Vectors) else BATCH_NORMS
    return bool(
        source.trained is None
        and computes_as(module, *kinds)
        and module.running_mean is not None
        and module.num_features == len(source.weight)
    )
