"""How the outputs of the partitions and slices of a row meet at a neuron's input.

Shapes: M outputs of L slices, H horizontal partitions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from imac_torch.errors import CircuitError
from imac_torch.mapping.slices import Slicing


@dataclass(frozen=True)
class Combination(ABC):
    """What stands between the read-outs of an output and its neuron.

    Attributes:
        partitions: H.
        output_resistance: Ω, from every read-out (of the most significant slice) to the neuron's
            input, 0-dimensional.
        slicing: Rows of one output (:mod:`imac_torch.mapping.slices`).
    """

    partitions: int
    output_resistance: Tensor
    slicing: Slicing = field(default_factory=Slicing)

    kind: ClassVar[str]
    """Name in the configuration (``amplifier.combine``)."""
    tied: ClassVar[bool]
    """Whether outputs meet through resistances (else each is the term of an ideal sum)."""

    @property
    @abstractmethod
    def series_resistance(self) -> Tensor:
        """Ω, of the ideal combined source that the neuron input sees, 0-dimensional."""

    @abstractmethod
    def spread(self, values: Tensor) -> Tensor:
        """What every partition adds if all of them together add ``values``."""

    @abstractmethod
    def resistances(self, rows: int) -> Tensor | None:
        """(M·L,) Ω between every output and its neuron's input; None: it is an ideal sum."""

    @property
    def factors(self) -> tuple[float, ...]:
        """(L·H,) of an output's read-outs in what they combine to, slice after slice."""
        return tuple(self.weight * s for s in self.slicing.shares for _ in range(self.partitions))

    @property
    @abstractmethod
    def weight(self) -> float:
        """Of one partition in the combination of a row."""

    @abstractmethod
    def across(self, outputs: Tensor) -> Tensor:
        """(..., H) V of a row's partitions to what they make together (...,) V."""

    def of_partitions(self, outputs: Tensor) -> Tensor:
        """Outputs (..., M·L, H) V to the neuron inputs (..., M) V they make."""
        return self.slicing.join(self.across(outputs), dim=-1)

    @abstractmethod
    def current(self, outputs: Tensor, combined: Tensor, drawn: Tensor) -> Tensor:
        """(..., M·L, H) A that every output delivers towards the neuron.

        Args:
            outputs: (..., M·L, H) V.
            combined: (..., M) V, :meth:`of_partitions` of them.
            drawn: (..., M) A that the neuron draws.
        """

    @abstractmethod
    def conductance(self, rows: int) -> Tensor:
        """(M·L, 1) S between outputs and neuron inputs where several meet there, else 0."""

    @abstractmethod
    def meeting_power(self, combined: Tensor, drawn: Tensor) -> Tensor:
        """(...,) W: what the outputs deliver there besides ``conductance``·output²."""

    def of_columns(self, outputs: Tensor) -> Tensor:
        """Outputs (..., M·L, C) V due to each column to neuron inputs (..., M, C) V."""
        return self.slicing.join(self.weight * outputs)

    def _check(self) -> None:
        value = float(self.output_resistance.detach())
        if not 0 <= value < float("inf"):
            raise CircuitError(f"output_resistance = {value} Ω must be finite and >= 0")

    def __post_init__(self) -> None:
        """Check the resistance.

        Raises:
            CircuitError: It is not physical.
        """
        self._check()


@dataclass(frozen=True)
class Average(Combination):
    """All are tied together: the neuron sees their mean, slices weighted by their shares.

    The less a slice counts, the larger its resistance.
    """

    kind = "average"
    tied = True

    def __post_init__(self) -> None:
        """Check that sources can be tied.

        Raises:
            CircuitError: They are ideal.
        """
        self._check()
        if float(self.output_resistance.detach()) == 0.0:
            raise CircuitError(
                "averaging partitions needs output_resistance > 0 Ω: ideal sources cannot be tied"
            )

    @property
    def series_resistance(self) -> Tensor:
        """See :class:`Combination`: all resistances in parallel."""
        return self.output_resistance * self.slicing.shares[0] / self.partitions

    @property
    def weight(self) -> float:
        """See :class:`Combination`."""
        return 1.0 / self.partitions

    def spread(self, values: Tensor) -> Tensor:
        """See :class:`Combination`: the mean moves as each does."""
        return values

    def across(self, outputs: Tensor) -> Tensor:
        """See :class:`Combination`."""
        return outputs.mean(-1)

    def resistances(self, rows: int) -> Tensor:
        """See :class:`Combination`."""
        shares = self.slicing.row_shares(self.output_resistance, rows)
        return self.output_resistance * (shares[0] / shares)

    @property
    def _several(self) -> bool:
        return self.partitions * self.slicing.count > 1

    def _between(self, rows: int) -> Tensor:
        shares = self.slicing.row_shares(self.series_resistance, rows)
        return (shares / (self.series_resistance * self.partitions))[:, None]

    def current(self, outputs: Tensor, combined: Tensor, drawn: Tensor) -> Tensor:
        """See :class:`Combination`; one alone delivers what is drawn, without a difference."""
        if not self._several:
            return drawn[..., None]
        meeting = self.slicing.of_rows(combined - drawn * self.series_resistance)
        return (outputs - meeting[..., None]) * self._between(outputs.shape[-2])

    def conductance(self, rows: int) -> Tensor:
        """See :class:`Combination`."""
        between = self._between(rows)
        return between if self._several else torch.zeros_like(between)

    def meeting_power(self, combined: Tensor, drawn: Tensor) -> Tensor:
        """See :class:`Combination`.

        With g the conductances, u the outputs and z the meeting voltage, Σu·g·(u - z) is
        Σg·u² - z̄²/R + z̄·i, z̄ being the combined source, R its resistance, i what is drawn. It is
        rounded as Σg·u² is, which outputs that agree (all at one rail) leave nothing of.
        """
        power = (combined * drawn).sum(-1)  # vecdot takes several times as long on two threads
        if self._several:
            power = power - combined.square().sum(-1) / self.series_resistance
        return power


@dataclass(frozen=True)
class Sum(Combination):
    """An ideal sum, which draws nothing; slices weighted by their shares."""

    kind = "sum"
    tied = False

    def resistances(self, rows: int) -> None:
        """See :class:`Combination`."""

    @property
    def series_resistance(self) -> Tensor:
        """See :class:`Combination`: an ideal source."""
        return torch.zeros_like(self.output_resistance)

    @property
    def weight(self) -> float:
        """See :class:`Combination`."""
        return 1.0

    def spread(self, values: Tensor) -> Tensor:
        """See :class:`Combination`."""
        return values / self.partitions

    def across(self, outputs: Tensor) -> Tensor:
        """See :class:`Combination`."""
        return outputs.sum(-1)

    def current(self, outputs: Tensor, combined: Tensor, drawn: Tensor) -> Tensor:
        """See :class:`Combination`."""
        return torch.zeros_like(outputs)

    def conductance(self, rows: int) -> Tensor:
        """See :class:`Combination`."""
        return self.output_resistance.new_zeros(rows, 1)

    def meeting_power(self, combined: Tensor, drawn: Tensor) -> Tensor:
        """See :class:`Combination`."""
        return torch.zeros_like(combined[..., 0])


_KINDS: dict[str, type[Combination]] = {kind.kind: kind for kind in (Average, Sum)}


def combination_of(
    kind: str, partitions: int, output_resistance: Tensor, slicing: Slicing
) -> Combination:
    """The combination that a configuration names.

    Raises:
        CircuitError: There is no such kind.
    """
    if kind not in _KINDS:
        known = " or ".join(repr(name) for name in _KINDS)
        raise CircuitError(f"combine = {kind!r}: {known}")
    return _KINDS[kind](partitions, output_resistance, slicing)
