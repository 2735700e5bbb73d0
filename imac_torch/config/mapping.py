"""How weights become conductances."""

from __future__ import annotations

import math
from typing import Final, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from imac_torch.config.section import Section

LARGEST_WEIGHT_BITS: Final = 20
"""Of sliced weights; all values of a weight are listed where weights are rounded."""


class WeightMapping(Section):
    """From software weights to conductance pairs."""

    levels: Literal["binary", "ternary", "continuous"] | int | tuple[float, ...] = Field(
        "ternary",
        description="Values a weight can take: binary {-1, 1}, ternary {-1, 0, 1}, a number of "
        "equally spaced levels in [-1, 1] (0 is one of them if it is odd), a list of levels in "
        "[-1, 1] in ascending order, or continuous.",
    )
    scheme: Literal["unilateral", "balanced", "matched"] = Field(
        "unilateral",
        description="unilateral: the weaker side of the pair leaves rlow (IMAC-Sim: 0 is "
        "(rlow, rlow)); balanced: both sides move around the middle; matched: conductances are "
        "solved for row by row so that the read-out, divider included, computes what the software "
        "layer meant, the neuron's threshold folded into the bias.",
    )
    scale: Literal["layer", "row"] = Field(
        "layer",
        description="One full scale for the weight levels of a layer, or one per row. Rows share "
        "an amplifier gain, so only the scheme 'matched' can have one per row.",
    )
    slices: int = Field(
        1,
        ge=1,
        description="Pairs of devices per weight (bit slicing); `levels` are then those of one "
        "pair. See mapping/slices.py for the circuit.",
    )
    slice_base: int | None = Field(
        None,
        ge=1,
        description="How much more a slice counts than the next; None: the number of levels of a "
        "pair, which has no redundancy, or device.states if the scheme 'matched' has fewer; 1 "
        "where pairs are continuous.",
    )

    @property
    def level_count(self) -> int | None:
        """Levels of one pair; None where they are continuous."""
        if self.levels == "continuous":
            return None
        if isinstance(self.levels, tuple):
            return len(self.levels)
        return {"binary": 2, "ternary": 3}.get(str(self.levels)) or int(self.levels)

    @model_validator(mode="after")
    def _slices_are_valid(self) -> Self:
        if self.slices == 1:
            return self
        if isinstance(self.levels, tuple):
            raise ValueError(
                f"levels = {self.levels}: slices need equally spaced levels; give their number"
            )
        count, base = self.level_count, self.slice_base
        if count is not None and base is not None and base > count:
            raise ValueError(
                f"slice_base = {base} leaves gaps between weights, because a pair has {count} "
                f"levels; use at most {count}"
            )
        if self.slices * math.log2(max(count or 1, base or 1)) > LARGEST_WEIGHT_BITS:
            raise ValueError(
                f"slices = {self.slices}: weights would have more than {LARGEST_WEIGHT_BITS} bits"
            )
        return self

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if isinstance(self.levels, int) and self.levels < 2:
            raise ValueError(f"levels = {self.levels}: at least 2 levels are needed")
        if isinstance(self.levels, tuple):
            ascending = all(a < b for a, b in zip(self.levels, self.levels[1:], strict=False))
            if len(self.levels) < 2 or not ascending or max(map(abs, self.levels)) > 1.0:
                raise ValueError(
                    f"levels = {self.levels}: a list needs at least 2 values in [-1, 1], ascending"
                )
        if self.scale == "row" and self.scheme != "matched":
            raise ValueError(
                f"scale = 'row' needs scheme = 'matched': with {self.scheme!r} all rows of a layer "
                "share the scale that their amplifiers' gain gives them"
            )
        return self
