"""Memristors: what makes them differ from their nominal values, and published ones by name.

Here belongs what happens to conductances; how weights become conductances does not
(:mod:`imac_torch.mapping`). :class:`Effect` says what an effect must answer; a new one is a class
like those in ``effects.py`` and a line in :mod:`imac_torch.config.kinds`, or, outside of the
package, a call of :func:`register_effect`.
"""

from imac_torch.devices.aging import Compensation, Endurance, ReadDisturb, Retention
from imac_torch.devices.effects import (
    Activated,
    Drift,
    Factors,
    FaultMap,
    Flicker,
    Gaussian,
    Levels,
    LogNormal,
    ReadNoise,
    StateSpread,
    Stuck,
    Telegraph,
    Temperature,
    Uniform,
)
from imac_torch.devices.model import (
    CellEffect,
    DeviceModel,
    DeviceSample,
    Effect,
    PairEffect,
    Window,
    draw_normal,
)
from imac_torch.devices.programming import Programming, WriteVerify
from imac_torch.devices.record import register_effect

__all__ = [
    "Activated",
    "CellEffect",
    "Compensation",
    "DeviceModel",
    "DeviceSample",
    "Drift",
    "Effect",
    "Endurance",
    "Factors",
    "FaultMap",
    "Flicker",
    "Gaussian",
    "Levels",
    "LogNormal",
    "PairEffect",
    "Programming",
    "ReadDisturb",
    "ReadNoise",
    "Retention",
    "StateSpread",
    "Stuck",
    "Telegraph",
    "Temperature",
    "Uniform",
    "Window",
    "WriteVerify",
    "draw_normal",
    "register_effect",
]
