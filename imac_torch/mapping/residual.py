"""Sliced weights matched to a read-out: every slice makes up for what those before it really do.

Devices of few states cannot hold the conductances that :mod:`imac_torch.mapping.matching` finds.
What a row then computes, its divider included, is known exactly; the difference from what was
wanted is the target of the output's next slice, and so on. This programs slices to residual
errors (G. Pedretti et al., IEEE Trans. Electron Devices 68, 2021, doi:10.1109/TED.2021.3095430,
there with measured errors of programming). It needs redundancy: with a base below the number of
levels of a pair, a slice can reach further than half a step of the one before it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from imac_torch.config import Memristor
from imac_torch.mapping.divider import RowDivider
from imac_torch.mapping.matching import Match, match
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.mapping.slices import Slicing
from imac_torch.mapping.states import InputStatistics, improve

ROUNDS: Final = 2
"""Passes over the slices, each improved with all others as they are by then."""


def match_slices(
    target: Tensor,
    device: Memristor,
    divider: RowDivider,
    statistics: InputStatistics,
    *,
    where: str,
) -> Match:
    """Find conductances with a wanted transfer, for all slices of every weight.

    Args:
        target: (M, C) float64, combined amplifier voltage per line voltage, the bias line (at
            vdd) last.
        device: End resistances, and the number of states if it is limited; if not, every slice
            holds the weight.
        divider: The rows, what they end in, and how they are sliced.
        statistics: Of the inputs; weighs errors where the transfer cannot be exact.
        where: The layer's path, for errors.

    Returns:
        Pairs of (M·L, C); ``exact`` is (M,) and, with its range error, about devices of any
        conductance.

    Raises:
        MappingError: As of :func:`imac_torch.mapping.matching.match`.
    """
    slicing = divider.slicing
    single = replace(divider, slicing=Slicing())
    if slicing.count == 1:
        return match(target, device, single, statistics, where=where)
    free = device.replace(states=None)
    found = match(target, free, single, statistics, where=where)
    if device.states is None:
        return replace(
            found,
            pair=ConductancePair(
                slicing.of_rows(found.pair.positive, dim=-2),
                slicing.of_rows(found.pair.negative, dim=-2),
            ),
        )
    wanted = target.detach()
    moves = target - wanted  # every slice moves with its weight
    limit = _reach(device, single)
    rest = wanted
    slices = []
    for share in slicing.shares:
        part = (rest / share).clamp(-limit, limit) + moves
        slices.append(match(part, device, single, statistics, where=where).pair)
        rest = rest - share * single.transfer(_values(slices[-1]))
    for _ in range(ROUNDS):
        for k, share in enumerate(slicing.shares):
            now = _values(slices[k])
            others = rest + share * single.transfer(now)
            better = improve(now, others / share, single, device, statistics)
            rest = others - share * single.transfer(better)
            slices[k] = ConductancePair(
                slices[k].positive + (better.positive - now.positive),
                slices[k].negative + (better.negative - now.negative),
            )
    pair = ConductancePair(
        torch.stack([item.positive for item in slices], dim=-2).flatten(-3, -2),
        torch.stack([item.negative for item in slices], dim=-2).flatten(-3, -2),
    )
    error = statistics.relative_error(wanted - rest, wanted)
    return Match(pair, found.exact, error, found.range_error)


def _values(pair: ConductancePair) -> ConductancePair:
    return ConductancePair(pair.positive.detach(), pair.negative.detach())


def _reach(device: Memristor, divider: RowDivider) -> float:
    """About the largest transfer of a cell: in a row whose others are in the middle."""
    low, high = 1.0 / device.rhigh, 1.0 / device.rlow
    width = max(end - start for start, end in pairwise((0, *divider.column_ends)))
    sums = width * (low + high) / 2 + divider.negative_load
    return divider.combined_gain * (high - low) / sums
