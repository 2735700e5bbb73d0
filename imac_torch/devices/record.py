"""What became of devices, as bytes that a saved network holds; nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from imac_torch.config.kinds import DEVICE_EFFECTS
from imac_torch.config.named import register_named
from imac_torch.devices.model import DeviceModel, DeviceSample, Effect
from imac_torch.errors import ConfigError, ConversionError

__all__ = ["from_bytes", "name_of", "register_effect", "to_bytes"]

_TABLE = "devices"
"""The tensor that is text; all others are named in it."""


def register_effect(name: str, effect: type[Effect]) -> type[Effect]:
    """Add an effect of your own: configurations and saved networks take its name from now on.

    Args:
        name: As ``device.effects`` and files have it.
        effect: A dataclass; its fields are its parameters.

    Raises:
        ConfigError: It is no dataclass, or the name is no identifier or one of the package's own.
    """
    register_named(DEVICE_EFFECTS, name, effect)
    return effect


def name_of(effect: object) -> str | None:
    """The registered name of an effect's class."""
    return next((k for k in DEVICE_EFFECTS.names if DEVICE_EFFECTS.get(k) is type(effect)), None)


def to_bytes(samples: Sequence[DeviceSample]) -> Tensor:
    """(K,) uint8; empty where there is no sample."""
    if not samples:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    tensors: dict[str, Tensor] = {}

    def plain(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        key = f"tensor {len(tensors)}"
        tensors[key] = value.detach().cpu().contiguous()
        return {"tensor": key}

    table = [
        {
            "start": plain(sample.start),
            "read": plain(sample.read),
            "effects": [
                {"kind": name_of(effect), **{
                    field.name: plain(getattr(effect, field.name))
                    for field in dataclasses.fields(effect) if field.init  # type: ignore[arg-type]
                }}
                for effect in sample.model.effects
            ],
        }
        for sample in samples
    ]  # fmt: skip
    tensors[_TABLE] = _bytes(json.dumps(table).encode())
    return _bytes(safetensors.torch.save(tensors))


def from_bytes(data: Tensor) -> tuple[DeviceSample, ...]:
    """The inverse of :func:`to_bytes`.

    Raises:
        ConfigError: An effect is not known here, or its parameters are not valid.
        ConversionError: The bytes are none of ours.
    """
    if data.numel() == 0:
        return ()
    try:
        tensors = safetensors.torch.load(bytes(data.cpu().numpy()))

        def found(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
            return tensors[value["tensor"]] if isinstance(value, dict) else value

        samples = []
        for item in json.loads(bytes(tensors[_TABLE].numpy())):
            effects = []
            for settings in item["effects"]:
                values = {name: found(value) for name, value in settings.items()}
                effects.append(DEVICE_EFFECTS.get(values.pop("kind"))(**values))
            model = DeviceModel(tuple(effects))
            samples.append(DeviceSample(model, found(item["start"]), found(item["read"])))
            torch.Generator().set_state(samples[-1].start)
        return tuple(samples)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConversionError(f"what became of the devices is damaged: {error}") from None


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
