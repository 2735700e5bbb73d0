"""Sources of noise within read-outs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from imac_torch.base.units import BOLTZMANN


class AmplifierNoise(NamedTuple):
    """White noise at the inputs of an operational amplifier.

    Attributes:
        voltage: e_n, V/√Hz, between them.
        current: i_n, A/√Hz, out of each of them.
    """

    voltage: float = 0.0
    current: float = 0.0


class HeldNoise(NamedTuple):
    """An independent source of noise in a read-out, rms per √Hz, ends and amplifier outputs held.

    Attributes:
        positive: A, drawn from the I+ end.
        negative: A, drawn from the I- end.
        inputs: V between the inputs of its amplifiers, one after the other; the rest have none.
        delivered: A into the outputs of its amplifiers, likewise.
    """

    positive: float = 0.0
    negative: float = 0.0
    inputs: tuple[float, ...] = ()
    delivered: tuple[float, ...] = ()


def thermal_current(resistance: Tensor, temperature: float) -> float:
    """A/√Hz of a resistor (Ω) at a temperature (K)."""
    return float((4.0 * BOLTZMANN * temperature / resistance.detach()).sqrt())
