"""Power and energy of a circuit as reports say them: by source, by part, and what is ideal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from torch import Tensor

from imac_torch.base.units import quantity
from imac_torch.cells import build_cell
from imac_torch.config import Config
from imac_torch.dc.native import Native
from imac_torch.model.segment import Segment
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.neuron.base import kind_of
from imac_torch.results.solution import Power

ARTEFACT: Final = "_artefact"
"""Ends the names of what ideal parts deliver, in figures and files: outputs tied through a milliohm
fight each other with kilowatts, which no circuit has."""
IDEAL: Final = "ideal, not counted"
"""What tables and pages say instead."""
SEEN: Final = 256
"""Images whose power is followed to where it goes."""
WORDS: Final[Mapping[str, str]] = {
    "inputs": "inputs", "bias": "bias lines", "neurons": "neurons", "amplifiers": "amplifiers",
    "drivers": "drivers", "converters": "converters", "sums": "sums in software",
    "level_shift": "level shifts", "cells": "cells and wires",
}  # fmt: skip
"""Sources and parts in tables."""
_BORDERS: Final = ("drivers", "converters", "sums")


@dataclass(frozen=True)
class Counted:
    """What the parts of a circuit take besides what its operating points say.

    Attributes:
        ideal: Parts that have no supply and are not counted: ``amplifiers``, ``neurons``,
            ``drivers``, ``converters``, as a whole or ``of`` the layers that are named.
        borders: J per inference of drivers, converters and sums in software that are not ideal.
        parts: Mean W by where it becomes heat (:class:`imac_torch.results.solution.Dissipation`),
            of the first images. Empty: not known.
        images: How many of them.
    """

    ideal: tuple[str, ...] = ("amplifiers",)
    borders: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    images: int = 0

    @classmethod
    def of(cls, segment: Segment, rows: Tensor | None = None) -> Counted:
        """Of a circuit.

        Args:
            segment: The circuit.
            rows: (R, N) V on its lines, of which the first are followed through it; None: none.
        """
        costs, borders, found = segment.border_costs, segment.borders, {}
        if borders.driver is not None:
            found["drivers"] = costs.driver_energy
        if borders.converter is not None:
            found["converters"] = costs.converter_energy
            found |= {"sums": costs.addition_energy} if costs.addition_energy else {}
        made = cls(ideal_parts(segment), found)
        followed = rows is not None and len(rows) > 0 and isinstance(segment.engine, Native)
        if not followed or any(build_cell(x.config.device) for x in segment.analog_layers()):
            return made
        assert rows is not None  # noqa: S101 - narrows the type only
        parts = _parts(segment, rows[:SEEN], made)
        return cls(made.ideal, made.borders, parts, min(len(rows), SEEN))

    @classmethod
    def read(cls, content: Mapping[str, Any] | None) -> Counted:
        """From a file; older ones do not have it."""
        if content is None:
            return cls()
        borders, parts = (
            {str(key): math.nan if value is None else float(value) for key, value in part.items()}
            for part in (content["borders"], content["parts"])
        )
        ideal = tuple(str(item) for item in content["ideal"])
        return cls(ideal, borders, parts, int(content["images"]))

    def counts(self, part: str) -> bool:
        """Whether some of a part is counted."""
        return part not in self.ideal

    def named(self, part: str) -> str:
        """A part in figures: what is ideal says so."""
        return part if self.counts(part) else part + ARTEFACT

    @property
    def border_energy(self) -> float:
        """J per inference."""
        return sum(self.borders.values())

    def mean(self, power: Power, solved: Tensor, period: float) -> dict[str, float]:
        """W by source, averaged over solved samples.

        ``total`` is of inputs, bias lines, neurons, and what of amplifiers, drivers and converters
        is not ideal. What ideal amplifiers deliver is in none.
        """
        means = {
            part.name: float(getattr(power, part.name)[solved].mean()) for part in fields(Power)
        }
        delivered, supplied = means.pop("amplifiers"), means.pop("amplifier_supply")
        counted = self.counts("amplifiers")
        means[self.named("amplifiers")] = supplied if counted else delivered
        borders = {name: energy / period for name, energy in self.borders.items()}
        total = float(power.total[solved].mean()) + sum(borders.values())
        return {"total": total, **means, **borders}

    def rows(
        self, values: Mapping[str, float], names: Iterable[str], unit: str = "W"
    ) -> Iterator[tuple[str, str]]:
        """Names and values of sources or parts for tables; what is not measured is left out."""
        for name in names:
            words = WORDS[name]
            if not self.counts(name):
                yield words, IDEAL
            elif name in values and not math.isnan(values[name]):
                rest = [item for item in self.ideal if item.startswith(f"{name} of ")]
                yield words, quantity(values[name], unit) + "".join(
                    f" ({item}: {IDEAL})" for item in rest
                )

    def by_source(
        self, values: Mapping[str, float], unit: str = "W"
    ) -> list[tuple[str, str]]:
        """Rows of :meth:`mean` in order, without the total."""
        names = ("inputs", "bias", "neurons", "amplifiers", *_BORDERS, "level_shift")
        return list(self.rows(values, names, unit))

    def by_part(self) -> list[tuple[str, str]]:
        """Rows of :attr:`parts`."""
        if not self.parts:
            return []
        return list(self.rows(self.parts, ("cells", "amplifiers", "neurons", *_BORDERS)))


def in_words(
    parts: Iterable[tuple[Counted, Mapping[str, float]]], config: Config, *, noisy: bool = False
) -> tuple[str, str]:
    """What totals count, and what is ideal and in none of them.

    Args:
        parts: Of every circuit, and its powers by source (:meth:`Counted.mean`).
        config: What the circuits were built with.
        noisy: Whether noise was drawn.
    """
    counted: dict[str, None] = {}
    ideal: dict[str, None] = {}
    for item, power in parts:
        for name, text in item.by_source(power):
            if text != IDEAL and name != WORDS["level_shift"]:
                counted[name] = None
        for name in item.ideal:
            kind, of, layers = name.partition(" of ")
            ideal[WORDS.get(kind, kind) + of + layers] = None
    wires = config.interconnect.resistance
    (counted if wires else ideal)["resistance of wires"] = None
    (counted if noisy else ideal)["noise"] = None
    # Of several circuits, a part may be ideal in one and counted in another.
    left = (f"{name} of some circuits" if name in counted else name for name in ideal)
    return ", ".join(counted) or "nothing, the engine gave no powers", ", ".join(left) or "nothing"


def supplied(segment: Segment) -> dict[str, dict[str, bool | None]]:
    """Whether amplifiers and neurons have supplies, by part and layer; None: there is no such."""
    found: dict[str, dict[str, bool | None]] = {"amplifiers": {}, "neurons": {}}
    for layer in segment.analog_layers():
        spec = layer.neuron_spec()
        kind = kind_of(spec.kind)
        found["amplifiers"][layer.name] = layer.config.amplifier.supplied
        current = spec.options.quiescent_current
        counted = not kind.ideal or current is not None
        found["neurons"][layer.name] = None if kind.activation.read_out else counted
    return found


def ideal_parts(segment: Segment) -> tuple[str, ...]:
    """See :attr:`Counted.ideal`."""
    found = []
    for part, counted in supplied(segment).items():
        names = [name for name, physical in counted.items() if physical is False]
        if names:
            some = True in counted.values()
            found.append(f"{part} of {', '.join(names)}" if some else part)
    if segment.borders.driver is None:
        found.append("drivers")
    if segment.borders.converter is None:
        found.append("converters")
    return tuple(found)


@lasting()
def _parts(segment: Segment, rows: Tensor, counted: Counted) -> dict[str, float]:
    """Mean W by part while vectors are on the lines."""
    found = segment.dissipation_at(rows)
    good = found.cells.isfinite().all(-1)
    if not bool(good.any()):
        return {}
    parts = {"cells": float(found.cells[good].sum(-1).mean())}
    for part, layers in supplied(segment).items():
        means = getattr(found, part)[good].mean(0).tolist()
        # Of ideal ones, what they deliver goes by another name; beside others it is in nothing.
        some = True in layers.values()
        parts[part] = sum(
            value for value, has in zip(means, layers.values(), strict=True)
            if not some or has is not False
        )  # fmt: skip
    period = segment.pace.period
    return {
        **{counted.named(name): value for name, value in parts.items()},
        **{name: energy / period for name, energy in counted.borders.items()},
    }
