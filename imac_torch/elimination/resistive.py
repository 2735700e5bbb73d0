"""Operational amplifiers with an output resistance inside their loop.

An amplifier puts out u = clamp(A·(v+ - v- + v_os), low, high) through R_o. Currents into its output
are therefore the middle one of three that are linear in w (:mod:`imac_torch.elimination.loaded`):

    F = median((low - o)/R_o, A·(v+ - v- + v_os)/R_o - o/R_o, (high - o)/R_o) - what leaves it.

All three rise with its own w, so that the root of the median is the median of the roots. Amplifiers
of other rows are met through wires, weakly, and those of the same row in other partitions where
their outputs are tied, which is one more unknown per row: turns that take what the others did last
gain digits with each. Where they do not, all amplifiers that meet are solved at once, pieces being
exchanged as amplifiers at rails are (:mod:`imac_torch.elimination.saturation`). Gradients follow
from the solution by the implicit function theorem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.elimination.loaded import LoadedAmplifiers, apply_inverse, together
from imac_torch.elimination.saturation import FIRST_ONLY, NEWTON, times

TURNS: Final = 60
TOLERANCE: Final = 1e-12
"""Of outputs, relative to the largest of an image's: what further turns may still change."""
ROUNDING: Final = 1e-14
"""Likewise, a change that says nothing."""


class _Pieces(NamedTuple):
    """Currents into outputs, F = base + matrix·w + tie·(mean of the outputs), by piece.

    Attributes:
        linear: (S, H, B, V, N) A, where the amplifier works.
        rail: (S, H, B, V, N) A, where it is at a rail of 0 V.
        of_linear: (S, H, V, N, N) S.
        of_rail: (S, H, V, N, N) S.
    """

    linear: Tensor
    rail: Tensor
    of_linear: Tensor
    of_rail: Tensor


@dataclass(frozen=True)
class ResistiveAmplifiers(LoadedAmplifiers):
    """Amplifiers with a gain, a swing and a resistance.

    Attributes:
        gain: A, 0-dimensional.
        resistance: R_o, Ω, 0-dimensional.
        low: V, of outputs without load.
        high: V.
    """

    gain: Tensor
    resistance: Tensor
    low: float
    high: float

    def found(
        self, mutual: Tensor, moved: Tensor, linear: Tensor, plain: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See :class:`LoadedAmplifiers`."""
        identity = torch.eye(linear.shape[-1], dtype=linear.dtype, device=linear.device)
        shift = -(identity + mutual)  # of outputs per w
        pieces = self._pieces(shift, moved, linear, plain, drawn)
        with torch.no_grad():
            fixed = _Pieces(*(item.detach() for item in pieces))
            beyond, place, good = self._turns(fixed, linear.detach(), mutual.detach(), drawn)
            images = torch.nonzero(~good.movedim(2, 0).flatten(1).all(1))[:, 0]
            if len(images) > 0:
                some = fixed._replace(
                    linear=fixed.linear.index_select(2, images),
                    rail=fixed.rail.index_select(2, images),
                )
                means = self._constant(linear.detach(), drawn)
                found = self._together(
                    some, shift.detach(), place.index_select(2, images),
                    means if means.ndim == 0 else means.index_select(2, images),
                )  # fmt: skip
                beyond = beyond.index_copy(2, images, found[0])
                place = place.index_copy(2, images, found[1])
                good = good.index_copy(2, images, found[2].expand_as(good[:, :, images]))
        moving = pieces if drawn is None else (*pieces, drawn)  # tied outputs meet behind pieces
        if torch.is_grad_enabled() and any(item.requires_grad for item in moving):
            # One more step, whose derivative is that of the solution: dw = -J⁻¹·dF.
            left = self._current(pieces, beyond, place)
            left = left + self.tie * (
                times(shift, beyond).mean(-4, keepdim=True) + self._mean(linear, drawn)
            ) if self.tied else left  # fmt: skip
            inverse = together(
                _chosen(pieces, place).detach(), shift.detach(), self.tie.detach(), tied=self.tied
            )
            beyond = beyond - apply_inverse(inverse, left - left.detach())
        return linear + times(shift, beyond), beyond, good, place != 0

    def _mean(self, linear: Tensor, drawn: Tensor | None) -> Tensor:
        """(S, 1, B, V, N) V where tied outputs meet, for w = 0."""
        mean = linear.mean(-4, keepdim=True)
        return mean if drawn is None else mean - drawn * self.series

    def _constant(self, linear: Tensor, drawn: Tensor | None) -> Tensor:
        """A, what all of :meth:`_mean` adds to the currents."""
        tie = self.tie.detach()
        return tie * self._mean(linear, drawn).detach() if self.tied else tie

    def _pieces(
        self, shift: Tensor, moved: Tensor, linear: Tensor, plain: Tensor, drawn: Tensor | None
    ) -> _Pieces:
        leaves = 1.0 / self.resistance + self.back.sum(0) + self.tie  # (N,) per output
        ends = plain[:, 0], plain[:, 1]
        rail = self.back[0] * ends[0] + self.back[1] * ends[1] - leaves * linear
        of_rail = (
            self.back[0][:, None] * moved[..., 0, :, :]
            + self.back[1][:, None] * moved[..., 1, :, :]
            - leaves[:, None] * shift
        )
        if self.onward and not self.tied and drawn is not None:
            rail = rail - drawn
        slope, by = self.gain / self.resistance, self.plus - self.minus
        seen = by[0] * ends[0] + by[1] * ends[1] + by[2] * linear + self.offsets_of(len(linear))
        of_seen = (
            by[0][:, None] * moved[..., 0, :, :]
            + by[1][:, None] * moved[..., 1, :, :]
            + by[2][:, None] * shift
        )
        return _Pieces(rail + slope * seen, rail, of_rail + slope * of_seen, of_rail)

    def _rails(self) -> tuple[float, float]:
        """A through the resistance at both rails, if the output were at 0 V."""
        ohms = float(self.resistance.detach())
        return self.low / ohms, self.high / ohms

    def _turns(
        self, pieces: _Pieces, linear: Tensor, mutual: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """w, at which rail each amplifier is (-1, 0, 1), and (S, H, B, V) whether turns ended."""
        low, high = self._rails()
        own = [
            item.diagonal(dim1=-2, dim2=-1)[:, :, None] for item in pieces[2:]
        ]  # (S, H, 1, V, N)
        across = [item - torch.diag_embed(item.diagonal(dim1=-2, dim2=-1)) for item in pieces[2:]]
        tie = self.tie.detach()
        beyond, before = torch.zeros_like(linear), None
        meeting = self._mean(linear, drawn).detach() if self.tied else torch.zeros_like(tie)
        scale = linear.abs().amax((-4, -1), keepdim=True).clamp(min=1e-3)
        for _ in range(TURNS):
            others = [
                base + times(matrix, beyond)
                for base, matrix in zip(pieces[:2], across, strict=True)
            ]
            after, place = self._roots(others, own, meeting, (low, high))
            if self.tied:
                slopes = torch.where(place == 0, 1.0 / own[0], 1.0 / own[1])
                shared = linear - times(mutual, beyond)
                missed = self._mean(shared - after, drawn).detach() - meeting
                moved = missed / (1.0 - tie * slopes.mean(-4, keepdim=True))
                meeting = meeting + moved
                after, place = self._roots(others, own, meeting, (low, high))
            change = (after - beyond).abs().amax((-4, -1), keepdim=True)
            if self.tied:
                change = torch.maximum(change, moved.abs().amax((-4, -1), keepdim=True))
            beyond = after
            # What a geometric series of changes still adds.
            rate = torch.zeros_like(change) if before is None else change / before
            left = change * torch.where(rate < 0.9, rate / (1.0 - rate), torch.inf)
            good = (left <= TOLERANCE * scale) & (change <= 1e3 * TOLERANCE * scale)
            good = good | (change <= ROUNDING * scale)
            before = change.clamp(min=1e-300)
            if bool(good.all()):
                break
        return beyond, place, good[..., 0].expand(linear.shape[:-1])

    def _roots(
        self, others: list[Tensor], own: list[Tensor], meeting: Tensor, rails: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """W of every amplifier if all else stays, and at which rail it is."""
        tied = self.tie.detach() * meeting
        works = -(others[0] + tied) / own[0]
        least, most = (-(others[1] + rail + tied) / own[1] for rail in (rails[1], rails[0]))
        found = torch.minimum(torch.maximum(works, least), most)
        place = (works < least).to(torch.int8) - (works > most).to(torch.int8)
        return found, place

    def _current(self, pieces: _Pieces, beyond: Tensor, place: Tensor) -> Tensor:
        """F but for what meets."""
        works = pieces.linear + times(pieces.of_linear, beyond)
        rail = pieces.rail + times(pieces.of_rail, beyond)
        for side, volts in ((-1, self.low), (1, self.high)):
            if abs(volts) < torch.inf:  # else none is there
                rail = torch.where(place == side, rail + volts / self.resistance, rail)
        return torch.where(place == 0, works, rail)

    def _together(
        self, pieces: _Pieces, shift: Tensor, place: Tensor, meeting: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All amplifiers that meet at once, (S, H, B, V, N); and (S, H, B, V) whether found."""
        low, high = self._rails()
        count = place.shape[-1] * (self.partitions if self.tied else 1)
        for turn in range(NEWTON + FIRST_ONLY * count):
            blocks = _chosen(pieces, place)
            zero = self._current(pieces, torch.zeros_like(pieces.rail), place) + meeting
            beyond = -apply_inverse(
                together(blocks, shift, self.tie.detach(), tied=self.tied), zero
            )
            # What the amplifier would put out without its swing, as a current of R_o.
            difference = times(pieces.of_linear - pieces.of_rail, beyond)
            asked = pieces.linear - pieces.rail + difference
            wanted = (asked > high).to(torch.int8) - (asked < low).to(torch.int8)
            wrong = wanted != place
            good = ~wrong.any(-1)
            if self.tied:
                good = good.all(1, keepdim=True).expand(good.shape)
            if bool(good.all()):
                break
            if turn >= NEWTON:
                order = wrong.movedim(1, -2).flatten(-2) if self.tied else wrong
                order = order & (order.cumsum(-1) == 1)
                wrong = order.unflatten(-1, wrong.movedim(1, -2).shape[-2:]).movedim(
                    -2, 1
                ) if self.tied else order  # fmt: skip
            # Off a rail first: with its loop open it seems to belong to the other one.
            wanted = torch.where(place != 0, wanted * (wanted == place), wanted)
            place = torch.where(wrong, wanted, place)
        return beyond, place, good


def _chosen(pieces: _Pieces, place: Tensor) -> Tensor:
    """(S, H, B, V, N, N) S, of the pieces that amplifiers are on."""
    return torch.where(
        (place == 0)[..., None], pieces.of_linear[:, :, None], pieces.of_rail[:, :, None]
    )
