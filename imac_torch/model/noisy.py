"""Noise in the outputs of circuits, drawn anew in every use of them.

While a segment has a :class:`Heard`, what its neurons are driven with, and what they put out, is
shifted by a normal vector at every position: of every image, in every call, in every pass of a
driver. Converters round what they then see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from imac_torch.circuit.engine import Engine
from imac_torch.config import Noise
from imac_torch.dc.native import Native
from imac_torch.errors import DataError, SolverError
from imac_torch.model.borders import Borders
from imac_torch.model.linear import IMACLinear
from imac_torch.noise.result import NoiseFigures, NoiseReport
from imac_torch.noise.sampling import REFERENCES, SIGNALS, NoiseDraws

__all__ = ["Heard", "hearing"]


class Audible(Protocol):
    """A segment, as far as noise asks it."""

    engine: Engine
    heard: Heard | None

    @property
    def borders(self) -> Borders:
        """What stands between software and circuit."""

    @property
    def first(self) -> IMACLinear:
        """The layer at the border before."""

    def analog_layers(self) -> Iterator[IMACLinear]:
        """The analog layers, in order."""

    def noise_draws(self, voltages: Tensor, settings: Noise | None = None) -> NoiseDraws:
        """Draws of noise, measured for (B, N) V on the lines."""

    def noise_drawn(self, voltages: Tensor, settings: Noise) -> NoiseReport:
        """The same noise by part."""


@dataclass
class Heard:
    """The noise of one segment, measured at the first of its input vectors.

    Attributes:
        generator: On the CPU.
        settings: What counts, and within which band.
        draws: What was measured; None: nothing yet.
        seen: (R, N) V, input vectors that it was measured at, and more; None likewise.
    """

    generator: torch.Generator
    settings: Noise
    draws: NoiseDraws | None = None
    seen: Tensor | None = None

    @classmethod
    def of(
        cls,
        path: str,
        segment: Audible,
        noise: bool | Noise,
        generator: torch.Generator | None,
        engine: Engine | None = None,
    ) -> Heard:
        """The noise of a segment.

        Args:
            path: Of the segment, for messages.
            segment: Which one it is.
            noise: What counts; True: what its configuration says.
            generator: Where it comes from.
            engine: What solves; None: the segment's own.

        Raises:
            DataError: Noise is neither True nor a section of a configuration.
            SolverError: There is no generator, another engine solves, or what is asked for is not
                known.
        """
        if not isinstance(noise, bool | Noise):
            hint = f" (an amplitude is Noise(inputs={noise:g}))" if isinstance(noise, float) else ""
            raise DataError(
                f"noise = {noise!r}: pass True for what the configuration says, or imac.Noise(…)"
                f"{hint}; generator= takes what draws it"
            )
        if not isinstance(segment.engine if engine is None else engine, Native):
            raise SolverError(
                "noise is drawn for the native engine's operating points; leave engine out"
            )
        if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
            found = "" if generator is None else f" of the CPU, not {generator!r}"
            raise SolverError(
                f"noise is drawn at random: pass generator=torch.Generator().manual_seed(…){found}"
            )
        if segment.borders.by_partition:
            raise SolverError(
                f"{path}: noise is drawn for what partitions combine to, and its converters see "
                "every partition (converter.after = 'partition'): leave noise out, or convert "
                "after 'layer' or 'segment'"
            )
        return cls(
            generator, noise if isinstance(noise, Noise) else segment.first.config.noise
        )

    def onto(
        self, segment: Audible, voltages: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """(R, N) V with noise on the lines, and (R, M) V each of :meth:`shifts`."""
        shifts = self.shifts(segment, voltages, len(voltages))
        assert self.draws is not None  # noqa: S101 - shifts have been drawn
        return self.draws.at_lines(voltages, self.generator), shifts

    def shifts(self, segment: Audible, voltages: Tensor, count: int) -> list[Tensor]:
        """(count, M) V each: at the neurons of every layer, and at the outputs.

        Args:
            segment: Which one it is.
            voltages: (R, N) V on its lines, some of those that it gets.
            count: Vectors to draw.
        """
        if self.draws is None:
            few, more = (
                voltages.detach()[:: max(1, len(voltages) // most)][:most].to(torch.float64)
                for most in (REFERENCES, SIGNALS)
            )
            self.seen = torch.cat([few, more]) if len(more) > len(few) else few
            self.draws = segment.noise_draws(few, self.settings)
        return self.draws.draw(count, self.generator)

    def figures(self, segment: Audible) -> NoiseFigures | None:
        """What was drawn, by layer and part; None: nothing was."""
        if self.seen is None:
            return None
        return segment.noise_drawn(self.seen, self.settings).figures()


@contextmanager
def hearing(
    segments: Mapping[str, Audible], noise: bool | Noise, generator: torch.Generator | None
) -> Iterator[dict[str, Heard]]:
    """Have noise in the outputs of segments for a while.

    Args:
        segments: By path.
        noise: See :meth:`Heard.of`; False: there is none.
        generator: Where it comes from.

    Yields:
        The noise of each.

    Raises:
        SolverError: See :meth:`Heard.of`.
    """
    found = {
        path: Heard.of(path, segment, noise, generator)
        for path, segment in segments.items() if noise
    }  # fmt: skip
    try:
        for path, heard in found.items():
            segments[path].heard = heard
        yield found
    finally:
        for path in found:
            segments[path].heard = None
