"""Kinds of read-outs by name."""

from __future__ import annotations

from typing import Final

import torch

from imac_torch.config import Config
from imac_torch.mapping.slices import Slicing
from imac_torch.periphery.readout.base import ReadOut
from imac_torch.periphery.readout.combination import combination_of
from imac_torch.periphery.readout.differential import Differential
from imac_torch.periphery.registry import Registry

READ_OUTS: Final[Registry[type[ReadOut]]] = Registry("read-out", "amplifier.kind")
READ_OUTS.register(Differential.kind, Differential)


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
        ConfigError: There is no such kind.
        CircuitError: Values are not physical.
    """
    amplifier = config.amplifier
    resistance = torch.tensor(amplifier.output_resistance, dtype=torch.float64, device=device)
    slicing = Slicing.of(config.mapping, config.device)
    combination = combination_of(amplifier.combine, partitions, resistance, slicing)
    return READ_OUTS[amplifier.kind].of(config, gain, combination)
