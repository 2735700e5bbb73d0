"""Memory technologies: end states, and measured statistics where a source gives them.

End states are those that the IMAC papers compare (:data:`imac_torch.config.DEVICES`; M. H. Amin,
M. E. Elbtity and R. Zand, "IMAC-Sim: A circuit-level simulator for in-memory analog computing
architectures", GLSVLSI 2023, 659-664, doi:10.1145/3583781.3590264). Statistics were measured on
devices with other end states; they are taken relative to the low-resistance state.

* PCM: programming noise, drift and read noise of an array of a million devices: S. R. Nandakumar et
  al., "Phase-change memory models for deep learning training and inference", ICECS 2019, 727-730,
  doi:10.1109/ICECS46596.2019.8964852; array: V. Joshi et al., "Accurate deep neural network
  inference using computational phase-change memory", Nature Communications 11, 2473 (2020),
  doi:10.1038/s41467-020-16108-9. Equations and constants as IBM's Analog Hardware Acceleration
  Kit documents them ("Inference and PCM statistical model"), with g relative to 25 µS and natural
  logarithms. There the exponent of drift and the strength of read noise follow from the target
  conductance, here from what the effects before have made of it.
* RRAM: programming noise (acceptance range 2 %) and relaxation of CMO/HfOx cells between 8 and
  90 µS: D. F. Falcone et al., "All-in-one analog AI accelerator: on-chip training and inference
  with conductive-metal-oxide/HfOx ReRAM devices", arXiv:2502.04524 (2025); equations and constants
  as the kit documents them ("Inference with analog CMO-ReRAM statistical model"), natural
  logarithms. Relaxation was fitted at 50 µS, and is found to be the same at all conductances.
  Read noise (G. Lombardo et al., DRC 2024, doi:10.1109/DRC61706.2024.10643760) is not in it.
* MRAM and CBRAM: end states only. No source was found that gives the standard deviations of both
  states of one array; what exists are bounds (TMR above 15 σ of the low resistance, "A statistical
  study of magnetic tunnel junctions for high-density spin torque transfer-MRAM", IEDM 2008) and
  assumptions of simulations. Give your own effects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.config import Memristor
from imac_torch.devices.model import DeviceModel, Effect, Window, draw_normal, with_noise
from imac_torch.errors import ConfigError

PCM_LARGEST: Final = 25e-6
"""S. Conductance that the PCM equations' g is relative to."""
RRAM_LARGEST: Final = 90e-6
"""S. Largest conductance of the RRAM characterisation."""
PCM_REFERENCE: Final = 20.0
"""s. Time after programming at which the PCM drift equation starts."""
PCM_READ: Final = 250e-9
"""s. Width of the read pulse of the PCM characterisation."""


@dataclass(frozen=True)
class PCMProgramming:
    """Programming noise of PCM: σ = max(-1.1731·g² + 1.9650·g + 0.2635, 0) µS, g in 0…1."""

    cycle: bool = False

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`imac_torch.devices.effects.Effect`."""
        g = conductance / window.high
        sigma = (-1.1731 * g.square() + 1.9650 * g + 0.2635).clamp(min=0.0) * 1e-6 / PCM_LARGEST
        return with_noise(conductance, sigma * window.high * draw_normal(conductance, generator))


@dataclass(frozen=True)
class PCMDrift:
    """Drift of PCM with an exponent that depends on the state and spreads from cell to cell.

    Attributes:
        time: Since programming, s, at least 20 s.
        cycle: It belongs to the cell.
    """

    time: float
    cycle: bool = False

    def __post_init__(self) -> None:
        """Check the time."""
        if not PCM_REFERENCE <= self.time < math.inf:
            raise ConfigError(f"time = {self.time} s: the drift starts at {PCM_REFERENCE} s")

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`imac_torch.devices.effects.Effect`."""
        logarithm = torch.log((conductance / window.high).clamp(min=1e-6))
        mean = (-0.0155 * logarithm + 0.0244).clamp(0.049, 0.1)
        sigma = (-0.0125 * logarithm - 0.0059).clamp(0.008, 0.045)
        exponent = (mean + sigma * draw_normal(conductance, generator)).clamp(min=0.0)
        return conductance * torch.exp(-exponent * math.log(self.time / PCM_REFERENCE))


@dataclass(frozen=True)
class PCMReadNoise:
    """1/f noise of PCM in each read: σ = g·Q·sqrt(ln((t + t_read)/(2·t_read)))."""

    time: float
    cycle: bool = True

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`imac_torch.devices.effects.Effect`."""
        quality = (0.0088 / (conductance / window.high).clamp(min=1e-6).pow(0.65)).clamp(max=0.2)
        band = math.sqrt(math.log((self.time + PCM_READ) / (2.0 * PCM_READ)))
        noise = conductance * quality * band * draw_normal(conductance, generator)
        return (conductance + noise).clamp(min=0.0)


@dataclass(frozen=True)
class RRAMProgramming:
    """Programming noise of RRAM: σ = 11.290 nS per µS of target plus 11.218 nS."""

    cycle: bool = False

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`imac_torch.devices.effects.Effect`."""
        sigma = 11.2902e-3 * conductance + 11.218e-9 / RRAM_LARGEST * window.high
        return with_noise(conductance, sigma * draw_normal(conductance, generator))


@dataclass(frozen=True)
class RRAMRelaxation:
    """Relaxation of RRAM: a mean loss of 0.089·ln(t) µS, a spread of 0.042·ln(t) + 0.4118 µS.

    Attributes:
        time: Since programming, s, at least 1 s.
        cycle: It belongs to the cell.
    """

    time: float
    cycle: bool = False

    def __post_init__(self) -> None:
        """Check the time."""
        if not 1.0 <= self.time < math.inf:
            raise ConfigError(f"time = {self.time} s: relaxation was measured from 1 s on")

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`imac_torch.devices.effects.Effect`."""
        unit = window.high * 1e-6 / RRAM_LARGEST
        logarithm = math.log(self.time)
        sigma = 0.042 * logarithm + 0.4118
        change = -0.089 * logarithm + sigma * draw_normal(conductance, generator)
        return with_noise(conductance, unit * change)


def device_model(name: str, time: float = 60.0) -> DeviceModel:
    """The statistics of a technology.

    Args:
        name: ``PCM`` or ``RRAM``; no published ones are shipped for ``MRAM`` and ``CBRAM``.
        time: Since programming, s.

    Raises:
        ConfigError: The technology is unknown or has no statistics, or the time is out of range.
    """
    Memristor.preset(name)  # names the technologies there are
    models: dict[str, tuple[Effect, ...]] = {}
    if name == "PCM":
        models[name] = (PCMProgramming(), PCMDrift(time), PCMReadNoise(time))
    elif name == "RRAM":
        models[name] = (RRAMProgramming(), RRAMRelaxation(time))
    if name not in models:
        raise ConfigError(
            f"no published statistics are shipped for {name}, only its end states. Measured spread "
            "of your own is a DeviceModel of effects: DeviceModel((StateSpread(0.04, 0.06),)) has "
            "standard deviations of ln R in the low- and high-resistance state, imac_torch.devices "
            "lists the others, and an effect of your own takes ten lines (docs/your_device.md)"
        )
    return DeviceModel(models[name])
