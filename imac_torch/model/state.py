"""States of modules: settings among the tensors, and names that parts had in older versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from imac_torch.base.files import parse_json
from imac_torch.errors import ConversionError, ImacError

__all__ = ["pack", "rename", "unpack"]

Settings = TypeVar("Settings")


def pack(content: Mapping[str, Any]) -> Tensor:
    """Settings as UTF-8 bytes of JSON, (bytes,) uint8: safetensors holds tensors only."""
    return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)


def unpack(state: object, read: Callable[[dict[str, Any]], Settings], where: str) -> Settings:
    """What :func:`pack` stored.

    Raises:
        ConversionError: The state is not one of ours.
    """
    if not isinstance(state, Tensor) or state.dtype != torch.uint8:
        raise ConversionError(f"{where}: the state holds no configuration")
    try:
        return read(parse_json(bytes(state.cpu().tolist())))
    except ImacError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{where}: the state's configuration is damaged: {error}") from None


def rename(state: MutableMapping[str, Any], prefix: str, names: Mapping[str, str]) -> None:
    """Give entries of a state the names that this version has for them.

    For ``_load_from_state_dict``, before torch looks for a module's entries.

    Args:
        state: Changed in place.
        prefix: Of the module's entries.
        names: Old beginnings of names, behind the prefix, and what stands there now.
    """
    for key in list(state):
        for old, new in names.items():
            if key.startswith(prefix + old):
                state[prefix + new + key[len(prefix + old) :]] = state.pop(key)
                break
