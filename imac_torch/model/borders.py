"""Borders of a segment: how inputs are driven, how outputs become numbers, what that costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from imac_torch.config import Supplies
from imac_torch.errors import CircuitError, ConversionError, ConversionWarning
from imac_torch.model.linear import IMACLinear
from imac_torch.model.partial import Partial
from imac_torch.model.positions import Positions
from imac_torch.periphery.border import (
    ConverterKind,
    DriverKind,
    Grid,
    converter_of,
    driver_of,
    fitted_range,
)

__all__ = ["BorderCosts", "Borders", "Range"]

SEEN: Final = 2**18
"""Voltages of one call that a range is fitted to."""


class Range:
    """The voltages that a segment's converters tell apart, once they are known.

    Attributes:
        ends: V, lowest and highest; None: nothing has been converted yet.
        seen: Voltages that were to be converted, while a range is being looked for; None: it is
            not.
    """

    def __init__(self) -> None:
        self.ends: tuple[float, float] | None = None
        self.seen: list[Tensor] | None = None

    def see(self, volts: Tensor, most: int) -> None:
        """Remember voltages that are to be converted: some of many, and the extreme ones."""
        values = volts.detach().flatten()
        if self.seen is not None and len(values):
            stride = -(-len(values) // max(1, most))
            self.seen += [values[::stride], torch.stack(values.aminmax())]

    def restore(self, state: Any) -> None:  # noqa: ANN401 - as it is read
        """Take the ends from a file; None: they are not known."""
        self.ends = None if state is None else (float(state[0]), float(state[1]))


@dataclass(frozen=True)
class BorderCosts:
    """What the borders of a segment take, by published figures (``Config.driver``, ``converter``).

    A call is one input vector of the circuit: a convolution calls its circuit at every position.

    Attributes:
        driver_energy: J per call, of all lines and passes.
        converter_energy: J per call.
        addition_energy: J per call, of sums in software.
        conversions: Per call.
        time: s per call: in every pass the circuit has ``timing.period`` to settle, then outputs
            that share a converter take their turns.
        driver_area: m².
        converter_area: m².
    """

    driver_energy: float
    converter_energy: float
    addition_energy: float
    conversions: int
    time: float
    driver_area: float
    converter_area: float

    def energy(self, calls: int = 1) -> float:
        """J of so many calls."""
        return calls * (self.driver_energy + self.converter_energy + self.addition_energy)

    def latency(self, calls: int = 1, copies: int = 1) -> float:
        """S of so many calls, one after the other in each of ``copies`` circuits."""
        return -(-calls // copies) * self.time

    def area(self, copies: int = 1) -> float:
        """m² beside so many circuits."""
        return copies * (self.driver_area + self.converter_area)


@dataclass(frozen=True)
class Borders:
    """Driver before and converter behind a chain of layers.

    Attributes:
        first: Its configuration's section ``driver`` counts.
        last: Its configuration's section ``converter`` counts.
        range: Of the converters.
        driver: None: an ideal one.
        converter: None: an ideal one.
    """

    first: IMACLinear
    last: IMACLinear
    range: Range
    driver: DriverKind | None
    converter: ConverterKind | None

    @classmethod
    def of(
        cls, layers: Sequence[IMACLinear], range: Range, *, exact: bool = False
    ) -> Borders:
        """Of a segment's layers.

        Args:
            layers: In order.
            range: Of its converters.
            exact: Leave driver and converter out.

        Raises:
            ConversionError: The layers are not what their borders need.
        """
        first, last = layers[0], layers[-1]
        driver, converter = first.config.driver, last.config.converter
        if exact:
            return cls(first, last, range, None, None)
        made = cls(first, last, range, driver_of(driver), converter_of(converter))
        if len(layers) > 1 and (made.in_software or converter.after != "segment"):
            why = f"converter.after = '{converter.after}'"
            if made.several:
                why = (
                    f"driver.kind = '{driver.kind}' with sign = '{driver.sign}' gives every input "
                    f"in {len(made.weights)} passes, whose results are added before the activation"
                )
            raise ConversionError(
                f"{first.name} to {last.name} are {len(layers)} layers in one circuit, and {why}: "
                "every layer must be a circuit of its own (converter.after = 'layer' or "
                "'partition')"
            )
        return made

    @property
    def open(self) -> bool:
        """Whether there is a range that samples determine."""
        return self.converter is not None and self.converter.settings.limits is None

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the passes of every input."""
        return (1.0,) if self.driver is None else self.driver.weights

    @property
    def several(self) -> bool:
        """Whether inputs are given in several passes."""
        return len(self.weights) > 1

    @property
    def by_partition(self) -> bool:
        """Whether converters stand behind every read-out of partitions and slices."""
        return self.last.config.converter.after == "partition"

    @property
    def in_software(self) -> bool:
        """Whether the activation is computed in software, of sums that are made there."""
        return self.several or self.by_partition

    def coding(self, supplies: Supplies) -> Supplies:
        """The supplies between which inputs are coded.

        In two passes the negative part is driven like the positive one, whatever vss is.
        """
        driver = self.first.config.driver
        both = driver.kind != "ideal" and driver.sign == "two_pass"
        return supplies.replace(vss=-supplies.vdd) if both else supplies

    def rounded(self, relative: Tensor) -> Tensor:
        """(…) inputs relative to full scale as they are driven, all passes together.

        Raises:
            CircuitError: Some are negative and lines are driven to one side only.
        """
        if self.driver is None:
            return relative
        self._check(relative)
        return self.driver.rounded(relative)

    def passes(self, relative: Tensor) -> Iterator[Tensor]:
        """(…) inputs relative to full scale as they are in every pass.

        Raises:
            CircuitError: See :meth:`rounded`.
        """
        if self.driver is None:
            yield relative
            return
        self._check(relative)
        yield from self.driver.passes(relative)

    def _check(self, relative: Tensor) -> None:
        if self.first.config.driver.sign == "unipolar" and bool((relative < 0.0).any()):
            raise CircuitError(
                f"inputs of {self.first.name} are negative, down to "
                f"{float(relative.detach().min()):g} of full scale, and driver.sign = 'unipolar' "
                "drives lines to one side only: set it to 'bipolar' or 'two_pass'"
            )

    def converted(self, volts: Tensor) -> Tensor:
        """(…) V as they are after conversion; gradients pass straight through within the range.

        Where the range is not known it is that of these voltages.

        Warns:
            ConversionWarning: It was not known.
        """
        if self.converter is None:
            return volts
        if self.range.seen is not None:
            self.range.see(volts, SEEN)
            return volts
        return self.grid(volts).levels(volts)

    def sums(self, partial: Partial, places: Positions, x: Tensor, *, exact: bool) -> Tensor:
        """V of outputs: conversions of all partitions, added, at all positions of a tensor in V."""
        if self.converter is None or exact or self.range.seen is not None:
            total = None
            for part in partial.outputs(places.vectors(x)):
                if not exact:
                    self.range.see(part, SEEN // partial.count)
                total = part if total is None else total + part
            assert total is not None  # noqa: S101 - there is a partition
            return places.tensor(partial.combined(total), x)
        grid, tracked = self._known_grid(), torch.is_grad_enabled()
        if grid is not None and not (tracked and (x.requires_grad or partial.bias.requires_grad)):
            lines = places.lines(x, partial.numbers())
            return places.placed(partial.combined(partial.converted(lines, grid)), x)
        parts = list(partial.outputs(places.vectors(x)))
        grid = self.grid(torch.cat([part.flatten() for part in parts]))
        total = torch.stack([grid.levels(part) for part in parts]).sum(0)
        return places.tensor(partial.combined(total), x)

    def combined(self, found: Tensor) -> Tensor:
        """(R, M) V of read-outs: (R, M·L, H) with ``converter.after = 'partition'``, else as is."""
        if not self.by_partition:
            return found
        matrix = self.last.matrix
        return matrix.read_out(matrix.gain(), found.device).combination.of_partitions(found)

    def summed(self, relative: Tensor, converted: Callable[[Tensor, bool], Tensor]) -> Tensor:
        """Outputs whose sums and activation are made in software.

        With weights w of passes p, T the circuit's linear part and b what its bias lines alone
        give, conversions of T·p + b add up to Σ w·T·p + Σ w·b, and b is meant once: what is
        missing, (1 - Σ w)·b, is known from programming. With bit-serial passes it is nothing.

        Args:
            relative: Inputs relative to full scale.
            converted: Volts of outputs for lines relative to full scale, and whether conversions
                are left out.
        """
        layer, total = self.last, None
        missing = 1.0 - sum(self.weights)
        if abs(missing) > 1e-12:
            total = missing * converted(torch.zeros_like(relative), True)
        for weight, lines in zip(self.weights, self.passes(relative), strict=True):
            part = converted(lines, False)
            part = part if weight == 1.0 else weight * part
            total = part if total is None else total + part
        assert total is not None  # noqa: S101 - there is a pass
        function, vdd = layer.activation.function, layer.config.supplies.vdd
        if function.bounded:
            return function.ideal(total, *layer.threshold_and_slope(), vdd)
        return function(total / vdd) * layer.scaling.output_scale

    def grid(self, volts: Tensor) -> Grid:
        """The converter's levels; see :meth:`converted`."""
        assert self.converter is not None  # noqa: S101 - nobody asks ideal ones
        if (known := self._known_grid()) is not None:
            return known
        self.fit(volts)
        low, high = self.range.ends or (0.0, 0.0)
        warnings.warn(
            f"{self.last.name}: the range of its converters is taken from the first inputs "
            f"that came, {low:.4g} V to {high:.4g} V; give convert samples, or set "
            "converter.limits",
            ConversionWarning,
            stacklevel=2,
        )
        return self.converter.grid(low, high)

    def _known_grid(self) -> Grid | None:
        """The converter's levels, if they are known."""
        assert self.converter is not None  # noqa: S101 - nobody asks ideal ones
        ends = self.converter.settings.limits or self.range.ends
        return None if ends is None else self.converter.grid(*ends)

    def fit(self, volts: Tensor) -> None:
        """Choose the range for voltages as those, whichever it was before."""
        if self.converter is None:
            return
        settings = self.converter.settings
        try:
            self.range.ends = fitted_range(
                volts, settings.range, settings.bits, settings.coverage
            )
        except CircuitError as error:
            raise CircuitError(f"{self.last.name}: {error}") from None

    def costs(self) -> BorderCosts:
        """What the borders take."""
        passes, driver, converter = len(self.weights), self.driver, self.converter
        matrix, settings = self.last.matrix, self.last.config.converter
        column_ends, row_ends = matrix.partitions()
        slices = matrix.slicing.count
        rows = [end - start for start, end in zip((0, *row_ends), row_ends, strict=False)]
        arrays = len(column_ends) if self.by_partition else 1
        if not self.by_partition:
            # Rows of an output are neighbours: where its last one is, there it is converted.
            ends = [end // slices for end in row_ends]
            rows = [end - start for start, end in zip((0, *ends), ends, strict=False)]
        arrays *= matrix.groups
        conversions = passes * arrays * sum(rows)
        wait = min(settings.shared_by, max(rows)) * (0.0 if converter is None else converter.time)
        lines = self.first.lines
        held = 0.0
        if converter is not None and settings.shared_by > 1:
            held = settings.hold_energy
        additions = conversions - self.last.out_features
        area = 0.0
        if converter is not None:
            area = arrays * sum(converter.area(count, adds=additions > 0) for count in rows)
        return BorderCosts(
            driver_energy=0.0 if driver is None else lines * driver.energy,
            converter_energy=0.0
            if converter is None
            else conversions * (converter.energy + held),
            addition_energy=0.0 if converter is None else additions * settings.add_energy,
            conversions=0 if converter is None else conversions,
            time=passes * (self.last.config.timing.period + wait),
            driver_area=0.0 if driver is None else lines * driver.area,
            converter_area=area,
        )
