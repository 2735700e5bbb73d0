"""What becomes of every module of a model: analog, folded, dropped or left in software."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from imac_torch.conversion.building import Placed
from imac_torch.conversion.layers import Source, is_layer, layer_modules, source_of
from imac_torch.conversion.selection import Selection
from imac_torch.errors import ConversionError
from imac_torch.model.network import LayerRecord
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.activations import (
    ACTIVATIONS,
    IDENTITY,
    Activation,
    InverterSigmoid,
    activation_of,
)
from imac_torch.software.behaviour import computes_as, own_behaviour
from imac_torch.software.leaves import Leaf

DIGITAL_TAIL: tuple[type[nn.Module], ...] = (nn.LogSoftmax, nn.Softmax)
"""Modules after the last linear layer that stay software: they only normalise scores."""

_BEFORE = "before the analog tail; include=torch.nn.Module makes every layer analog that can be"


class NotAChainError(ConversionError):
    """A model is no sequence that ends in analog layers; it may be converted as a graph."""


SUPPORTED = (
    "one circuit becomes of an nn.Sequential (a subclass too, if it adds no forward of its own) "
    "that ends in Linear layers with Sigmoid, Tanh, ReLU, ReLU6, Hardtanh, InverterSigmoid or no "
    "activation, BatchNorm1d before the activation, Dropout, Identity, Flatten, and a final "
    "(Log)Softmax; of any other model every Linear, convolution, recurrent and attention layer "
    "that its forward calls becomes one"
)


NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.SyncBatchNorm)
"""In evaluation mode, and for vectors, they compute the same."""
BATCH_NORMS: tuple[type[nn.Module], ...] = (*NORMS, nn.BatchNorm2d, nn.BatchNorm3d)
"""Likewise for what convolutions give: they normalise channels."""
DROPOUTS: tuple[type[nn.Module], ...] = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip


@lasting()
def fold_batch_norm(
    leaf: Leaf, source: Source, dtype: torch.dtype = torch.float64
) -> Source:
    """The linear layer with a following batch normalisation in its weights.

    In evaluation mode batch normalisation is y = γ·(x - μ)/√(σ² + ε) + β per output.

    Args:
        leaf: The normalisation.
        source: The layer.
        dtype: Of what comes out; it is computed in float64.

    Raises:
        ConversionError: It has no running statistics, or other features than the layer outputs.
    """
    norm, where = leaf.module, f"{leaf.path} ({leaf.label})"
    kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
    assert isinstance(norm, kinds)  # noqa: S101 - narrows the type
    if norm.running_mean is None or norm.running_var is None:
        raise ConversionError(
            f"{where}: without running statistics its output depends on the batch and cannot be "
            "folded; train with track_running_stats=True"
        )
    if norm.num_features != len(source.weight):
        raise ConversionError(
            f"{where}: normalises {norm.num_features} features, the layer before it has "
            f"{len(source.weight)}"
        )
    scale = 1.0 / torch.sqrt(norm.running_var.to(torch.float64) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.to(torch.float64)
    bias = -norm.running_mean.to(torch.float64) * scale
    if norm.bias is not None:
        bias = bias + norm.bias.to(torch.float64)
    weight = source.weight.to(torch.float64) * scale[:, None]
    if source.bias is not None:
        bias = bias + source.bias.to(torch.float64) * scale
    trained = source.weight.requires_grad
    weight, bias = weight.to(dtype), bias.to(dtype)
    return replace(
        source, weight=weight.requires_grad_(trained), bias=bias.requires_grad_(trained)
    )


@dataclass
class Plan:
    """What becomes of a model.

    Attributes:
        digital: Modules before the circuit, in software.
        layers: What becomes analog, and its activation; batch normalisation folded in.
        tail: Modules behind the circuit, in software.
        records: What was decided and why, in the model's order.
    """

    digital: list[Leaf]
    layers: list[tuple[Leaf, Source, Activation]]
    tail: list[Leaf]
    records: list[LayerRecord]

    @property
    def placed(self) -> list[Placed]:
        """The analog layers, of one circuit."""
        last = len(self.layers) - 1
        return [
            Placed(leaf.path, source, activation, index == 0, index == last)
            for index, (leaf, source, activation) in enumerate(self.layers)
        ]

    def record(self, leaf: Leaf, target: str, detail: str) -> None:
        """Note what becomes of a module."""
        self.records.append(LayerRecord(leaf.path, leaf.label, target, detail))


def make_plan(leaves: Sequence[Leaf], keep_digital: Selection) -> Plan:
    """Decide for every module, and fold what can be folded.

    Raises:
        NotAChainError: A module has no circuit, or linear layers would stay in software that
            nobody excluded.
        ConversionError: Layers cannot be what they are to be.
    """
    start, blocker = _first_analog(leaves, keep_digital)
    _check_front(leaves[:start], blocker, keep_digital)
    plan = Plan([], [], [], [])
    for leaf in leaves[:start]:
        plan.digital.append(leaf)
        why = "excluded by name" if _excluded(leaf, keep_digital) else _BEFORE
        plan.record(leaf, "digital", why)
    index = start
    while index < len(leaves):
        leaf = leaves[index]
        if is_layer(leaf.module):
            index = _plan_layer(plan, leaves, index)
            continue
        _plan_other(plan, leaf)
        index += 1
    return plan


def _first_analog(
    leaves: Sequence[Leaf], keep_digital: Selection
) -> tuple[int, Leaf | None]:
    """Index of the first leaf of the longest tail that can be analog, and what ends it."""
    start = len(leaves)
    found = len(leaves)
    for index in range(len(leaves) - 1, -1, -1):
        module = leaves[index].module
        linear = is_layer(module)
        if linear and not _excluded(leaves[index], keep_digital):
            start = found = index
        elif linear or not _belongs(module, after_linear=found < len(leaves)):
            return start, leaves[index]
    return start, None


def _belongs(module: nn.Module, *, after_linear: bool) -> bool:
    """Whether a module may stand between or after analog layers."""
    if computes_as(module, *NORMS) or _no_operation(module) is not None:
        return True
    if activation_of(module) is not None:
        return True
    return not after_linear and isinstance(module, DIGITAL_TAIL)


def _no_operation(module: nn.Module) -> str | None:
    """Why a module does nothing between analog layers; None if it does something."""
    if computes_as(module, *DROPOUTS):
        return "Dropout is the identity in evaluation mode"
    if computes_as(module, nn.Identity):
        return "does nothing"
    # From dimension 0 on it would mix samples.
    if computes_as(module, nn.Flatten) and module.start_dim in (1, -1):
        return "vectors are flat already"
    return None


def _check_front(
    front: Sequence[Leaf], blocker: Leaf | None, keep_digital: Selection
) -> None:
    """Refuse to leave linear layers in software that nobody excluded."""
    linear = [leaf for leaf in front if _holds_linear(leaf.module)]
    # What stands before an excluded layer stays in software with it.
    if not linear or blocker is None or _excluded(linear[-1], keep_digital):
        return
    last = linear[-1]
    behind = "" if last is blocker else f" and stands after {last.path} ({last.label})"
    text = (
        f"{blocker.path} ({blocker.label}) has no circuit{behind}{_why(blocker)}; {SUPPORTED}. To "
        f"keep the layers up to it in software, pass exclude=[{last.path!r}]"
    )
    odd = (own_behaviour(blocker.module, kind) for kind in recognised()
           if isinstance(blocker.module, kind))  # fmt: skip
    if any(odd):  # it looks like a layer of the circuit: nobody is to be surprised
        raise ConversionError(f"{text}; to keep only it, pass include=torch.nn.Module")
    raise NotAChainError(text)


def recognised() -> tuple[type[nn.Module], ...]:
    """Classes that have a place in the circuit, if their instances compute what they do."""
    activations = (kind for function in ACTIVATIONS for kind in function.modules)
    return (*layer_modules(), *NORMS, *DROPOUTS, nn.Flatten, InverterSigmoid, *activations)


def _why(leaf: Leaf) -> str:
    reason = leaf.why_not(*recognised())
    return "" if reason is None else f": it {reason}"


def _holds_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, or a Sequential that was not followed and has some."""
    parts = module.modules() if isinstance(module, nn.Sequential) else (module,)
    return any(isinstance(part, layer_modules()) for part in parts)


def _plan_layer(plan: Plan, leaves: Sequence[Leaf], index: int) -> int:
    """One linear layer with what follows it up to the next; returns where to go on."""
    leaf = leaves[index]
    source = source_of(leaf)
    position = len(plan.records)
    activation = None
    if source.trained is not None and not source.trained.activation.function.read_out:
        activation = source.trained.activation
    index += 1
    while index < len(leaves):
        after = leaves[index]
        where = f"{after.path} ({after.label})"
        if (reason := _no_operation(after.module)) is not None:
            plan.record(after, "dropped", reason)
        elif computes_as(after.module, *NORMS) and activation is None:
            if source.trained is not None:
                raise ConversionError(f"{where}: cannot fold into an IMACLinear; remove it")
            source = fold_batch_norm(after, source)
            plan.record(after, "folded", f"into {leaf.path}")
        elif activation is None and (found := activation_of(after.module)) is not None:
            activation = found
            plan.record(after, "analog", f"activation circuit of {leaf.path}")
        else:
            break
        index += 1
    activation = Activation(IDENTITY.name) if activation is None else activation
    plan.layers.append((leaf, source, activation))
    plan.records.insert(position, LayerRecord(leaf.path, leaf.label, "analog", ""))
    return index


def _plan_other(plan: Plan, leaf: Leaf) -> None:
    where = f"{leaf.path} ({leaf.label})"
    if (reason := _no_operation(leaf.module)) is not None:
        plan.record(leaf, "dropped", reason)
    elif isinstance(leaf.module, DIGITAL_TAIL):
        plan.tail.append(leaf)
        plan.record(leaf, "digital", "normalises the circuit's outputs in software")
    elif computes_as(leaf.module, *NORMS):
        raise NotAChainError(
            f"{where}: batch normalisation after an activation cannot be folded into the layer "
            "before it; place it before the activation"
        )
    else:
        raise NotAChainError(f"{where}: a second activation in a row has no circuit; remove it")


def linear_layers(leaves: Sequence[Leaf]) -> dict[str, nn.Module]:
    """Layers of a flattened model, and Sequentials of them that were not followed, by path."""
    return {leaf.path: leaf.module for leaf in leaves if _holds_linear(leaf.module)}


def _excluded(leaf: Leaf, keep_digital: Selection) -> bool:
    return keep_digital(leaf.path, leaf.module)
