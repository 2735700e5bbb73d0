"""A model as a list of modules in order of execution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from imac_torch.errors import ConversionError
from imac_torch.software.behaviour import (
    compiled_original,
    computes_as,
    foreign,
    own_behaviour,
    sets_its_mode,
)
from imac_torch.software.plain import copied, settled

__all__ = ["Leaf", "leaves", "plain_leaves", "refuse_lasting_training", "unwrapped"]

_WRAPPERS: tuple[type[nn.Module], ...] = (
    nn.DataParallel, DistributedDataParallel, AveragedModel,
)  # fmt: skip
"""Modules whose forward is that of the module they hold."""


@dataclass
class Leaf:
    """A module of the flattened model, with its path."""

    path: str
    module: nn.Module

    @property
    def label(self) -> str:
        """Its class, with the shape of a linear layer."""
        module = self.module
        if isinstance(name := getattr(module, "stands_for", None), str):
            return name
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            return f"{type(module).__name__} {module.in_features}→{module.out_features}"
        return type(module).__name__

    def why_not(self, *kinds: type[nn.Module]) -> str | None:
        """Why a module of one of the classes, or one that holds layers, is not taken as such."""
        for kind in (*kinds, nn.Sequential):
            if isinstance(self.module, kind):
                return own_behaviour(self.module, kind)
        return foreign(self.module)


def unwrapped(module: nn.Module) -> nn.Module:
    """The model inside DataParallel, AveragedModel, torch.compile's result and their like."""
    while True:
        inner = compiled_original(module)
        if inner is None and type(module) in _WRAPPERS and computes_as(module, *_WRAPPERS):
            inner = module.get_submodule("module")
        if inner is None:
            return module
        module = inner


def leaves(model: nn.Module, prefix: str = "") -> Iterator[Leaf]:
    """Modules in order of execution, as they are: only Sequentials have a known one.

    Subclasses of nn.Sequential, and nested ones, are followed where they run as it does.
    """
    model = unwrapped(model)
    if computes_as(model, nn.Sequential):
        # Not named_children(), which leaves out a module that stands in two places.
        for name, child in model._modules.items():
            if child is None:
                continue
            yield from leaves(child, f"{prefix}.{name}" if prefix else name)
    else:
        yield Leaf(prefix or type(model).__name__, model)


def plain_leaves(model: nn.Module) -> list[Leaf]:
    """The same with plain weights (:mod:`imac_torch.software.plain`).

    Raises:
        ConversionError: Weights cannot be recomputed.
    """
    found = list(leaves(model))
    paths = [leaf.path for leaf in found]
    modules = settled([leaf.module for leaf in found], paths)
    return [Leaf(path, module) for path, module in zip(paths, modules, strict=True)]


def refuse_lasting_training(model: nn.Module) -> None:
    """Refuse a model whose ``eval`` leaves parts in training mode that do not ask for it.

    Raises:
        ConversionError: One is left.
    """
    holding = (part for part in model.modules() if next(part.children(), None) is not None)
    if not any(map(sets_its_mode, holding)):
        return
    (tried,) = copied([model], ["the model"])  # what is of its own may do anything
    tried.eval()
    for path, part in tried.named_modules():
        if part.training and not sets_its_mode(part):
            raise ConversionError(
                f"{path} ({type(part).__name__}) stays in training mode when the model is put into "
                "evaluation mode, and networks compute what evaluation mode would; remove the "
                "train or eval that keeps it there"
            )
