"""What single calls in a graph compute, as far as circuits or nothing at all can do it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from imac_torch.conversion.plan import DROPOUTS
from imac_torch.errors import CircuitError
from imac_torch.periphery.activations import Activation, activation_of
from imac_torch.software.behaviour import computes_as

__all__ = [
    "VectorsOnly", "activation_in", "argument", "name_of", "no_operation", "reshapes", "weighted",
]  # fmt: skip

_FUNCTIONS: Final[dict[object, str]] = {
    torch.relu: "relu", torch.relu_: "relu", functional.relu: "relu", functional.relu_: "relu",
    "relu": "relu", "relu_": "relu",
    torch.sigmoid: "sigmoid", torch.sigmoid_: "sigmoid", functional.sigmoid: "sigmoid",
    torch.special.expit: "sigmoid", "sigmoid": "sigmoid", "sigmoid_": "sigmoid",
    torch.tanh: "tanh", torch.tanh_: "tanh", functional.tanh: "tanh",
    "tanh": "tanh", "tanh_": "tanh",
    functional.relu6: "relu6", functional.hardtanh: "hardtanh", functional.hardtanh_: "hardtanh",
    torch.clamp: "clamp", torch.clip: "clamp", "clamp": "clamp", "clamp_": "clamp", "clip": "clamp",
}  # fmt: skip
"""Activations that are called as functions, or as methods of tensors (by name)."""
_LIMITED: Final[dict[str, tuple[tuple[str, str] | None, Any, Any]]] = {
    "relu6": (None, 0.0, 6.0),
    "hardtanh": (("min_val", "max_val"), -1.0, 1.0),
    "clamp": (("min", "max"), None, None),
}
"""Functions that end at two limits: names of the arguments, if they are some, and defaults."""
_RESHAPING: Final = frozenset(
    {"flatten", "reshape", "view", "permute", "transpose", "unsqueeze", "squeeze", "contiguous"}
)
_DROPOUTS: Final = (
    functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d,
    functional.alpha_dropout, functional.feature_alpha_dropout,
)  # fmt: skip
_WEIGHTED: Final[dict[object, str]] = {
    functional.linear: "nn.Linear", functional.bilinear: "nn.Bilinear",
    functional.conv1d: "nn.Conv1d", functional.conv2d: "nn.Conv2d", functional.conv3d: "nn.Conv3d",
    functional.conv_transpose1d: "nn.ConvTranspose1d",
    functional.conv_transpose2d: "nn.ConvTranspose2d",
    functional.conv_transpose3d: "nn.ConvTranspose3d",
    functional.multi_head_attention_forward: "nn.MultiheadAttention",
}  # fmt: skip
"""Functions that take weights, and modules that have them."""


def argument(node: fx.Node) -> fx.Node | None:
    """The one tensor that a call takes, whether it is named or not; None if it takes more."""
    values = [*node.args, *node.kwargs.values()]
    return values[0] if len(values) == 1 and isinstance(values[0], fx.Node) else None


def activation_in(node: fx.Node, module: nn.Module | None) -> Activation | None:
    """The activation that a call computes, if circuits have it.

    Args:
        node: The call.
        module: What it calls, if that is a module.
    """
    if node.op == "call_module":
        return None if module is None or argument(node) is None else activation_of(module)
    if node.op not in ("call_function", "call_method") or node.target not in _FUNCTIONS:
        return None
    if _FUNCTIONS[node.target] in _LIMITED:
        return _limited(node)
    # relu(x, inplace): the result is the same.
    others = [*node.args[1:], *(v for k, v in node.kwargs.items() if k not in ("input", "inplace"))]
    if any(not isinstance(item, bool) for item in others):
        return None
    return Activation(_FUNCTIONS[node.target])


def _limited(node: fx.Node) -> Activation | None:
    """The activation of a function that ends at limits."""
    names, low, high = _LIMITED[_FUNCTIONS[node.target]]
    if names is not None:
        low, high = (
            node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
            for place, name, default in ((1, names[0], low), (2, names[1], high))
        )
    if low == 0 and high is None:
        return Activation("relu")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low >= high:
        return None
    return activation_of(nn.Hardtanh(float(low), float(high)))


def no_operation(node: fx.Node, module: nn.Module | None) -> str | None:
    """Why a call does nothing in evaluation mode; None if it does something.

    Args:
        node: The call.
        module: What it calls, if that is a module.
    """
    if node.op == "call_module" and module is not None and argument(node) is not None:
        if computes_as(module, *DROPOUTS):
            return "Dropout is the identity in evaluation mode"
        if computes_as(module, nn.Identity):
            return "does nothing"
    if node.op == "call_function" and node.target in _DROPOUTS:
        training = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
        if training is False:
            return "Dropout is the identity in evaluation mode"
    if node.op == "call_method" and node.target == "contiguous" and len(node.args) == 1:
        return "changes no values"
    return None


def reshapes(node: fx.Node, model: nn.Module) -> bool:
    """Whether a call only gives the numbers of its first argument another shape."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), nn.Flatten | nn.Identity)
    return node.op in ("call_function", "call_method") and name_of(node) in _RESHAPING


def weighted(node: fx.Node) -> str | None:
    """The module whose weights a function would be, if it takes weights."""
    if node.op == "call_function" and node.target in _WEIGHTED:
        return _WEIGHTED[node.target]
    return None


def name_of(node: fx.Node) -> str:
    """A word for a function or method that a graph calls."""
    if node.op == "call_method":
        return str(node.target)
    target: Callable[..., Any] | str = node.target
    if target is operator.getitem or target is getattr:
        return ""
    return str(getattr(target, "__name__", target)).strip("_")


class VectorsOnly(nn.Module):
    """Refuse what a batch normalisation that was folded would normalise along another dimension."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        """(B, N) as it is.

        Raises:
            CircuitError: It has another number of dimensions.
        """
        if x.ndim != 2:
            raise CircuitError(
                f"{self.path}: the batch normalisation behind it is folded into it, which holds "
                f"for inputs (B, N); these are {tuple(x.shape)}. Keep {self.path} in software with "
                "exclude"
            )
        return x
