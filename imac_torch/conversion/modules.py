"""Modules of torch as text, and built again from it: names of classes and plain arguments only."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from imac_torch.periphery.activations import InverterSigmoid
from imac_torch.software.behaviour import own_behaviour

__all__ = ["DAMAGE", "build_module", "describe_module"]

DAMAGE: Final = (
    AttributeError, IndexError, KeyError, MemoryError, OverflowError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What torch makes of arguments and tensors that somebody changed."""
_SOURCE: Final = "torch.nn.modules."
"""Where classes are from that a file may name; building one runs no code but torch's."""
_PLACED: Final = ("self", "device", "dtype", "args", "kwargs")
"""Parameters that say nothing of what a module computes."""


def _of_recurrent(module: nn.RNNBase) -> dict[str, Any]:
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
             "bidirectional")  # fmt: skip
    found = {name: getattr(module, name) for name in names}
    if module.proj_size:
        found["proj_size"] = module.proj_size
    if isinstance(module, nn.RNN):
        found["nonlinearity"] = module.nonlinearity
    return found


def _of_attention(module: nn.MultiheadAttention) -> dict[str, Any]:
    return {"bias": module.in_proj_bias is not None, "add_bias_kv": module.bias_k is not None}


def _of_encoder(module: nn.TransformerEncoderLayer) -> dict[str, Any]:
    known = {functional.relu: "relu", functional.gelu: "gelu"}
    return {
        "d_model": module.linear1.in_features, "nhead": module.self_attn.num_heads,
        "dim_feedforward": module.linear1.out_features, "dropout": module.dropout.p,
        "activation": known[module.activation], "layer_norm_eps": module.norm1.eps,
        "batch_first": module.self_attn.batch_first, "bias": module.linear1.bias is not None,
    }  # fmt: skip


_ASIDE: Final[Mapping[type[nn.Module], Callable[[Any], dict[str, Any]]]] = {
    **dict.fromkeys((nn.RNN, nn.LSTM, nn.GRU), _of_recurrent),
    nn.MultiheadAttention: _of_attention,
    nn.TransformerEncoderLayer: _of_encoder,
}
"""Arguments that a class does not keep under their names."""


def describe_module(module: nn.Module) -> dict[str, Any]:
    """How to build a module again: its class, and arguments that are not their defaults.

    Returns:
        ``type`` and ``arguments``; the arguments are missing where only the user's code can build
        it: the class is not torch's, it computes something of its own, or what the arguments make
        differs from it.
    """
    kind = type(module)
    unknown = {"type": f"{kind.__module__}.{kind.__qualname__}"}
    if _known(kind.__name__) is not kind or own_behaviour(module, kind) is not None:
        return unknown
    tensors = [*module.parameters(), *module.buffers()]
    try:
        arguments = _arguments(module)
        dtype = next((item.dtype for item in tensors if item.is_floating_point()), None)
        if dtype is not None:
            arguments["dtype"] = str(dtype).removeprefix("torch.")
        # A convolution sums in the order of its weights in memory: files bring the last digit back.
        if any(_channels_last(item) for item in tensors):
            arguments["channels_last"] = True
        found = {"type": kind.__name__, "arguments": arguments}
        alike = _alike(build_module(found, device="meta"), module)
    except DAMAGE:
        return unknown
    return found if alike else unknown


def build_module(described: Mapping[str, Any], *, device: str = "cpu") -> nn.Module:
    """A module with weights of no meaning.

    Args:
        described: From :func:`describe_module`, or from a file.
        device: Of its tensors.

    Raises:
        ValueError: It is no module of torch's.
        TypeError: Like others of :data:`DAMAGE`: the arguments are not its own.
    """
    kind = _known(str(described.get("type")))
    if kind is None or "arguments" not in described:
        raise ValueError(f"{described.get('type')} is no standard torch module")
    arguments = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in described["arguments"].items()
    }
    dtype = arguments.pop("dtype", None)
    channels_last = bool(arguments.pop("channels_last", False))
    with torch.device(device):  # not the default device, which nobody promised
        module = kind(**arguments)
    if channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module if dtype is None else module.to(getattr(torch, str(dtype)))


def _known(name: str) -> type[nn.Module] | None:
    """The class of that name that files may name."""
    if name == InverterSigmoid.__name__:
        return InverterSigmoid
    kind = getattr(nn, name, None)
    fine = isinstance(kind, type) and issubclass(kind, nn.Module)
    return kind if fine and kind.__module__.startswith(_SOURCE) else None


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Arguments that a class keeps under their names; a tensor's is whether it is there."""
    aside = _ASIDE.get(type(module), lambda _: {})(module)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in _PLACED or name in aside or not hasattr(module, name):
            continue
        if name == "bias" and not getattr(module, "affine", True):
            continue  # a norm without weights has none, and older versions no such argument
        value = getattr(module, name)
        if name == "bias" and not isinstance(value, bool):
            value = value is not None
        if type(value) is not type(parameter.default) or value != parameter.default:
            found[name] = value
    found |= aside
    for name, value in found.items():
        if not _plain(value):
            raise TypeError(f"{name} is a {type(value).__name__}")
    return found


def _plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no others
    return value is None or isinstance(value, bool | int | str)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules are the same but for what their tensors hold."""
    parts, others = dict(one.named_modules()), dict(other.named_modules())
    if parts.keys() != others.keys():
        return False
    for path, part in parts.items():
        own = _settings(others[path])  # with what users may have noted on it
        if type(part) is not type(others[path]) or any(
            name not in own or own[name] != value for name, value in _settings(part).items()
        ):
            return False
    return _shapes(one) == _shapes(other)


def _settings(module: nn.Module) -> dict[str, Any]:
    plain = {name: value for name, value in vars(module).items() if _plain(value)}
    plain.pop("training", None)
    return {name: tuple(value) if isinstance(value, list) else value
            for name, value in plain.items()}  # fmt: skip


def _shapes(module: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {
        name: (tuple(item.shape), item.dtype)
        for name, item in module.state_dict().items()
        if isinstance(item, Tensor)
    }


def _channels_last(tensor: Tensor) -> bool:
    # By strides: with one channel a tensor is contiguous in both orders, and yet another one.
    if tensor.ndim != 4:
        return False
    other = torch.empty(tensor.shape, device="meta", memory_format=torch.channels_last)
    plain = torch.empty(tensor.shape, device="meta")
    return tensor.stride() == other.stride() != plain.stride()
