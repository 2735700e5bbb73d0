"""The read-out that a configuration asks for, and how to add a kind."""

from __future__ import annotations

import torch

from imac_torch.config import Config
from imac_torch.config.kinds import READ_OUT_KINDS
from imac_torch.mapping.slices import Slicing
from imac_torch.periphery.readout.base import ReadOut
from imac_torch.periphery.readout.combination import combination_of


def register_read_out(kind: type[ReadOut]) -> type[ReadOut]:
    """Add a kind of your own: ``Amplifier(kind=…)`` takes its name from now on, in this process.

    Raises:
        ConfigError: The name is no identifier, or one of the package's own.
    """
    READ_OUT_KINDS.register(kind.kind, kind)
    return kind


def build_read_out(
    config: Config, gain: float, partitions: int, *, device: torch.device | None = None
) -> ReadOut:
    """The read-out of a layer.

    Args:
        config: From :meth:`Config.for_layer`.
        gain: As configured or chosen.
        partitions: H, horizontal partitions.
        device: Where its tensors live.

    Raises:
        CircuitError: Values are not physical.
    """
    amplifier = config.amplifier
    resistance = torch.tensor(amplifier.output_resistance, dtype=torch.float64, device=device)
    slicing = Slicing.of(config.mapping, config.device)
    combination = combination_of(amplifier.combine, partitions, resistance, slicing)
    kind: type[ReadOut] = READ_OUT_KINDS.get(amplifier.kind)
    return kind.of(config, gain, combination)
