"""Memristors: what makes them differ from their nominal values, and published ones by name."""

from imac_torch.devices.effects import (
    Activated,
    DeviceModel,
    DeviceSample,
    Drift,
    Effect,
    FaultMap,
    Gaussian,
    Levels,
    LogNormal,
    ReadNoise,
    StateSpread,
    Stuck,
    Temperature,
    Uniform,
    Window,
    draw_normal,
)

__all__ = [
    "Activated",
    "DeviceModel",
    "DeviceSample",
    "Drift",
    "Effect",
    "FaultMap",
    "Gaussian",
    "Levels",
    "LogNormal",
    "ReadNoise",
    "StateSpread",
    "Stuck",
    "Temperature",
    "Uniform",
    "Window",
    "draw_normal",
]
