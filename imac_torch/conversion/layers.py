"""Which modules become analog layers, and what of them becomes conductances: handlers by class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from imac_torch.conversion.handlers.attention import attention
from imac_torch.conversion.handlers.convolution import convolution, transposed
from imac_torch.conversion.handlers.recurrent import cell, recurrent
from imac_torch.conversion.handlers.source import Expanded, Source
from imac_torch.conversion.handlers.transformer import (
    decoder,
    encoder,
    encoder_layer,
    transformer,
)
from imac_torch.errors import ConversionError, ImacError
from imac_torch.model.linear import IMACLinear
from imac_torch.numeric.modes import differentiating
from imac_torch.software.behaviour import computes_as, own_behaviour
from imac_torch.software.leaves import Leaf

__all__ = [
    "Expanded",
    "Source",
    "expand",
    "expandable",
    "expanded_alone",
    "is_layer",
    "layer_modules",
    "register_expansion",
    "register_layer",
    "remove_layer",
    "source_of",
]

Handler = Callable[[Any], Source]
"""Given a module of its class, in any mode: what the module computes in evaluation mode."""

_HANDLERS: dict[type[nn.Module], Handler] = {
    nn.Linear: lambda module: Source(module.weight, module.bias),
    IMACLinear: lambda module: Source(module.weight, module.bias, module),
}
"""Of classes that take vectors."""
_SPATIAL: dict[type[nn.Module], Handler] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), transposed),
}
"""Of classes whose matrix is applied at positions of its own."""
Expansion = Callable[[Any], nn.Module]
"""Given a module of its class: one that computes the same, in the same mode, of layers that have
handlers. It is called like the original; an :class:`Expanded` is not traced."""

_EXPANSIONS: dict[type[nn.Module], Expansion] = {
    nn.MultiheadAttention: attention,
    nn.TransformerEncoderLayer: encoder_layer,
    nn.TransformerEncoder: encoder,
    nn.TransformerDecoder: decoder,
    nn.Transformer: transformer,
    **dict.fromkeys((nn.RNN, nn.LSTM, nn.GRU), recurrent),
    **dict.fromkeys((nn.RNNCell, nn.LSTMCell, nn.GRUCell), cell),
}
_BUILT_IN = frozenset({*_HANDLERS, *_SPATIAL, *_EXPANSIONS})


def register_layer(
    kind: type[nn.Module], handler: Handler, *, spatial: bool = False
) -> None:
    """Let :func:`imac_torch.convert` take modules of a class of yours as analog layers.

    Subclasses are taken too, where they compute as the class does. Registering a class again
    replaces its handler.

    Args:
        kind: The class; what it computes is linear in vectors (B, N), with a bias or without.
        handler: Says which weights those are.
        spatial: Whether it takes other tensors than vectors: the handler's source has positions.

    Raises:
        ConversionError: The class is one of the package's own.
    """
    if kind in _BUILT_IN:
        raise ConversionError(f"{kind.__name__} has its handler; register a class of your own")
    remove_layer(kind)
    (_SPATIAL if spatial else _HANDLERS)[kind] = handler


def register_expansion(kind: type[nn.Module], expansion: Expansion) -> None:
    """Let layers inside of modules of a class of yours be analog that are no modules there.

    Args:
        kind: The class.
        expansion: Makes a module of such layers that computes the same.

    Raises:
        ConversionError: The class is one of the package's own.
    """
    if kind in _BUILT_IN:
        raise ConversionError(f"{kind.__name__} has its expansion; register a class of your own")
    remove_layer(kind)
    _EXPANSIONS[kind] = expansion


def expandable(module: nn.Module) -> bool:
    """Whether a module has an expansion, and computes what its class does."""
    return computes_as(module, *_EXPANSIONS)


def expanded_alone(module: nn.Module) -> nn.Module:
    """The expansion of a module that has one."""
    return _EXPANSIONS[next(kind for kind in reversed(_EXPANSIONS) if computes_as(module, kind))](
        module
    )


def expand(model: nn.Module) -> dict[str, nn.Module]:
    """Put expansions in the places of the modules in a model that have one."""
    done: dict[int, nn.Module] = {}
    found: dict[str, nn.Module] = {}

    def visit(parent: nn.Module, prefix: str) -> None:
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            path = f"{prefix}.{name}" if prefix else name
            if id(child) in done or expandable(child):
                found[path] = child
                if id(child) not in done:
                    done[id(child)] = expanded_alone(child)
                parent._modules[name] = child = done[id(child)]
            visit(child, path)

    visit(model, "")
    return found


def remove_layer(kind: type[nn.Module]) -> None:
    """Forget a class that was registered; the package's own stay."""
    if kind not in _BUILT_IN:
        _HANDLERS.pop(kind, None)
        _SPATIAL.pop(kind, None)
        _EXPANSIONS.pop(kind, None)


def layer_modules(*, spatial: bool = False) -> tuple[type[nn.Module], ...]:
    """Classes that can be analog, what was registered last first.

    Args:
        spatial: Whether to name those, too, that take other tensors than vectors.
    """
    return tuple(reversed({**_SPATIAL, **_HANDLERS} if spatial else _HANDLERS))


def is_layer(module: nn.Module, *, spatial: bool = False) -> bool:
    """Whether a module can be analog: it and its parts compute what their classes do.

    Args:
        module: Any.
        spatial: Whether it may take other tensors than vectors.
    """
    parts = (part for part in module.modules() if part is not module)
    return computes_as(module, *layer_modules(spatial=spatial)) and all(
        own_behaviour(part, type(part)) is None for part in parts
    )


def source_of(leaf: Leaf) -> Source:
    """What a module that can be analog is made of.

    Raises:
        ConversionError: Its weights are not there yet, or conductances cannot stand for them.
    """
    module, where = leaf.module, f"{leaf.path} ({type(leaf.module).__name__})"
    kind = next(kind for kind in layer_modules(spatial=True) if computes_as(module, kind))
    for parameter in module.parameters():
        _check_stored(parameter, where)  # before the handler computes with it
    try:
        with differentiating():  # whether weights are trainable is not the caller's mode
            source = {**_SPATIAL, **_HANDLERS}[kind](module)
    except ImacError:
        raise
    except Exception as error:
        raise ConversionError(
            f"{where}: the handler of {kind.__name__} failed ({type(error).__name__}: {error})"
        ) from error
    weight, bias = source.weight, source.bias
    for tensor in [weight] if bias is None else [weight, bias]:
        _check_stored(tensor, where)
    if weight.ndim != 2:
        raise ConversionError(
            f"{where}: its weight is {tuple(weight.shape)}, a matrix (outputs, inputs) is needed"
        )
    if bias is not None and bias.shape not in (weight.shape[:1], (1,)):
        raise ConversionError(
            f"{where}: its bias is {tuple(bias.shape)} for {weight.shape[0]} outputs"
        )
    return source


def _check_stored(tensor: Tensor, where: str) -> None:
    """Refuse weights that are not there yet, or that conductances cannot stand for."""
    if isinstance(tensor, nn.UninitializedParameter):
        raise ConversionError(
            f"{where}: its shape is not known yet; run the model on one batch before converting it"
        )
    if tensor.is_complex():
        raise ConversionError(f"{where}: complex weights have no circuit")
    if tensor.is_meta:
        raise ConversionError(
            f"{where}: its weights are on the device 'meta', where tensors have no values; load "
            "them first (load_state_dict(..., assign=True))"
        )
    kind = type(tensor.data)
    if tensor.is_quantized or kind is not Tensor or tensor.layout != torch.strided:
        raise ConversionError(
            f"{where}: its weights are no plain tensor ({kind.__name__}, {tensor.dtype}, "
            f"{tensor.layout}); make them one (dequantize(), to_dense()) and convert then"
        )
