"""What a circuit loses and what would help, in words."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from imac_torch.config import Config, WeightMapping
from imac_torch.errors import ConversionWarning

__all__ = ["BUFFER", "Losses", "finer", "remedies"]

BUFFER: Final = 0.01
"""Ω, the output resistance of a neuron with a buffer; lines of a thousand cells have some 100 Ω."""
ENOUGH_LEVELS: Final = 17
"""Levels beyond which continuous ones are what is left to advise."""


@dataclass
class Losses:
    """What a circuit loses and what would help: one warning, however much there is.

    Attributes:
        found: A line for each.
        advice: In order, each once.
    """

    found: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def add(self, text: str, advice: Sequence[str] = ()) -> None:
        """One more, and what would help against it."""
        self.found.append(text)
        self.advise(advice)

    def advise(self, advice: Sequence[str]) -> None:
        """What would help against what was found last."""
        self.advice += [item for item in advice if item not in self.advice]

    def warn(self, title: str, *, stacklevel: int) -> None:
        """Say all of it, if there is anything.

        Warns:
            ConversionWarning: There is.
        """
        if self.found:
            lines = "\n".join(self.found)
            helps = f"\nWhat helps: {'; '.join(self.advice)}" if self.advice else ""
            text = f"{lines}\nThat is {title}.{helps}"
            warnings.warn(text, ConversionWarning, stacklevel=stacklevel + 1)


def finer(mapping: WeightMapping) -> list[str]:
    """Settings that would round weights less than a mapping does."""
    count = mapping.level_count
    if count is None:
        return []
    better = str(ENOUGH_LEVELS) if count < ENOUGH_LEVELS else "'continuous'"
    advice = [f"more levels (mapping.levels = {better})"]
    if mapping.slices == 1 and not isinstance(mapping.levels, tuple):
        advice.append("for devices of two states more of them per weight (mapping.slices = 3)")
    return advice


def remedies(step: str, config: Config) -> list[str]:
    """What would make a step cost less, as far as it is not so already."""
    device, advice = config.device, []
    if step == "clipping":
        advice.append("samples for calibration that reach what inputs reach later")
    elif step == "mapping":
        if config.amplifier.gain is not None:
            advice.append("amplifier.gain = None, which lets the gain be chosen")
        if config.amplifier.kind == "differential":
            advice.append(
                "lines that end at virtual ground (amplifier.kind = 'transimpedance'), without "
                "a divider"
            )
        advice.append("devices with a larger ratio of device.rhigh to device.rlow")
    elif step == "quantisation":
        advice += finer(config.mapping)
        if device.states is not None:
            advice.append(f"devices of more states (device.states is {device.states})")
    elif step == "variation":
        if device.variation > 0.0:
            advice.append(f"devices of less spread (device.variation is {device.variation:g})")
        advice.append("training with devices that vary (imac_torch.varied)")
    elif step == "amplifiers":
        if config.amplifier.kind == "transimpedance":
            advice.append(
                "devices with a larger ratio of device.rhigh to device.rlow, or amplifier.kind = "
                "'differential': an amplifier of 'transimpedance' carries all the current of its "
                "line, and may end at its swing though differences are small"
            )
        else:
            advice.append("amplifiers of a larger swing, more gain and less offset")
    elif step in ("loading", "wires"):
        advice.append(
            f"devices of higher resistance (device.rlow is {device.rlow:g} Ω), which take less "
            "from neurons and wires"
        )
        if step == "loading" and config.neuron.output_resistance > BUFFER:
            advice.append(
                f"a buffer behind every neuron (neuron.output_resistance = {BUFFER:g}, of "
                "behavioural neurons: neuron.kind)"
            )
        if step == "wires" and min(config.crossbar.rows, config.crossbar.columns) > 1:
            advice.append(
                "smaller arrays (crossbar.columns and crossbar.rows are "
                f"{config.crossbar.columns} and {config.crossbar.rows})"
            )
    return advice
