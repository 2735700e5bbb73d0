"""Which gain the amplifiers of a matrix get where none is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from imac_torch.config import Memristor
from imac_torch.dc.prediction import least_by_octaves
from imac_torch.errors import ConversionError
from imac_torch.mapping.divider import RowDivider

SMALLEST: Final = 0.5
LARGEST: Final = 1024.0
"""Between these the scheme 'matched' chooses.

Less only attenuates what the next layer has to give back. An amplifier of open-loop gain A errs by
(1 + gain)/A: with the largest and A = 1e5 that is 1 %.
"""
FIRST: Final = 16.0
"""Where the choice begins."""
LEAST_SPREAD: Final = 0.005 / math.sqrt(3.0)
"""Relative standard deviation of conductances that the choice allows for at least, that of ±0.5 %.

Amplifiers are built for devices that are not known one by one; of devices without any spread only
rounding would limit the gain. It is a choice: a third and three times as much move accuracies by
0.3 points at most in the twelve cells of docs/accuracy.md's table tried for it (half of digits).
"""
MARGIN: Final = 1e-4
"""Of the range of devices, for what the lines of finite amplifiers float by."""
ROWS: Final = 32
"""Outputs that a gain is tried on at most, where an array has no more: rows ask for much alike."""
FIRST_LEAST_SQUARES: Final = 10.0
"""Where its iteration begins; what it converges to does not depend on it."""
LEAST_SQUARES_STEPS: Final = 200
SMALLEST_LEAST_SQUARES: Final = 1e-6
LARGEST_LEAST_SQUARES: Final = 1e5
"""Of the other schemes; the largest is an operational amplifier's: rounding stays below 1 nV."""


def least_expected(error: Callable[[float], float]) -> float:
    """The gain of the scheme 'matched' that errs least.

    Little gain cannot reach large weights and asks for conductances that load what drives the
    lines; with much gain so do wires and devices that spread: what they make of the lines'
    common voltage is amplified.
    """
    return least_by_octaves(error, SMALLEST, LARGEST, start=FIRST)


def full_scale(largest: float, divider: RowDivider, device: Memristor) -> float:
    """The gain at which a transfer takes a device's whole range, of lines at virtual ground.

    Such lines do not float: a cell's transfer is in proportion to the gain and to its own g+ - g-,
    whatever the others of its row are. Less gain could not reach the transfer, more would leave
    part of the range, and with it signal against what devices spread by and wires lose, unused.

    Args:
        largest: Wanted transfer, V per V.
        divider: Of rows whose gain is 1.
        device: End resistances.
    """
    if largest == 0.0:
        return FIRST
    reached = divider.combined_gain / divider.negative_load
    return largest * (1.0 + MARGIN) / (reached * (1.0 / device.rlow - 1.0 / device.rhigh))


def tried_outputs(outputs: int, slices: int, parts: int) -> int:
    """How many outputs a gain is tried on."""
    return min(outputs, max(ROWS // slices, -(-outputs * slices // parts) // slices, 1))


def least_squares(
    slope: Callable[[float], float] | None, name: str, column_ends: tuple[int, ...]
) -> tuple[float, str]:
    """Gain for which the ideal circuit has the wanted transfer, least squares.

    Amplifiers are built for nominal devices, whatever spread makes of them. The read-out is a
    divider whose ratio depends on the gain through its loading, so the projection onto the
    wanted transfer is iterated; it converges in a few steps because the loading saturates
    with the gain.

    Args:
        slope: Of the circuit's transfer on the wanted one, by gain; None: nothing is wanted.
        name: For messages.
        column_ends: For messages: last columns of the partitions.

    Returns:
        The gain, and why none is large enough; empty where it is.

    Raises:
        ConversionError: The circuit's transfer has nothing to do with the wanted one.
    """
    gain = before = FIRST_LEAST_SQUARES
    if slope is None:
        return gain, ""
    for _ in range(LEAST_SQUARES_STEPS):
        found = slope(gain)
        if not found > 0.0:
            raise ConversionError(
                f"{name}: the circuit's transfer has no component along the weights "
                "(are all conductances equal?); set amplifier.gain"
            )
        gain, before = gain / found, gain
        if abs(gain / before - 1.0) < 1e-12 or gain > LARGEST_LEAST_SQUARES:
            break
    if gain > LARGEST_LEAST_SQUARES or abs(gain / before - 1.0) > 1e-9:
        ends = (0, *column_ends)
        return LARGEST_LEAST_SQUARES, (
            f"{name}: no gain makes the read-out compute what the weights mean; it gets "
            f"{LARGEST_LEAST_SQUARES:g}. I± lines of {max(b - a for a, b in pairwise(ends))} "
            "columns float with their inputs, or the weights are too large for the neuron"
        )
    # Smaller ones move no neuron by a microvolt: the weights are as good as zero.
    return max(gain, SMALLEST_LEAST_SQUARES), ""
