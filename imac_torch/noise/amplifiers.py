"""Amplifiers of read-outs in small signals: what they pass on, and what they add as noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from imac_torch.periphery.readout import ReadOut
from imac_torch.periphery.readout.noise import AmplifierNoise


class SmallSignal(NamedTuple):
    """Amplifiers at an operating point, (..., n): V of their outputs per V elsewhere.

    Attributes:
        by_positive: Of the I+ end.
        by_negative: Of the I- end.
        by_offset: Between their inputs.
        by_current: V per A into their outputs.
    """

    by_positive: Tensor
    by_negative: Tensor
    by_offset: Tensor
    by_current: Tensor


class NoiseSource(NamedTuple):
    """An independent source of noise in a read-out, rms per √Hz, voltages of the ends held.

    Attributes:
        positive: A, drawn from the I+ end.
        negative: A, drawn from the I- end.
        output: V, added to the output.
    """

    positive: float = 0.0
    negative: float = 0.0
    output: float = 0.0


def closed_sources(
    read_out: ReadOut, temperature: float, amplifiers: AmplifierNoise
) -> tuple[NoiseSource, ...]:
    """What a read-out adds to its currents and its output where its amplifiers amplify, all alike.

    Args:
        read_out: The read-out.
        temperature: K.
        amplifiers: Noise at the inputs of operational amplifiers.
    """
    found = []
    for source in read_out.noise_sources(temperature, amplifiers):
        closed = [source.positive, source.negative, 0.0]
        for value, item in zip(source.inputs, read_out.amplifiers, strict=False):
            output = float(item.by_offset) * value
            closed[0] -= float(item.to_positive) * output
            closed[1] -= float(item.to_negative) * output
            closed[2] += float(item.share) * output
        found.append(NoiseSource(*closed))
    return tuple(found)


def small_signal(
    read_out: ReadOut, held: Tensor, positive: Tensor, negative: Tensor, outputs: Tensor
) -> SmallSignal:
    """A read-out's amplifiers at an operating point.

    Args:
        read_out: What they stand in.
        held: (..., n) bool, which are at a rail.
        positive: (...,) V of the I+ end.
        negative: (...,) V of the I- end.
        outputs: (..., n) V.
    """
    found, real = [], read_out.imperfections
    behind: dict[str, float] = {}
    if real is not None and real.resistance is not None:
        behind, _ = read_out.behind_resistance(real.resistance)
    for k, item in enumerate(read_out.amplifiers):
        works = [float(value) for value in (item.by_positive, item.by_negative, item.by_offset)]
        works, rail = [*works, 0.0], [0.0, 0.0, 0.0, 0.0]
        if behind:
            works = [*(behind[f"{name}{k + 1}"] for name in "abn"), behind["rl"]]
            rail = [behind[f"ra{k + 1}"], behind[f"rb{k + 1}"], 0.0, behind["rr"]]
        if read_out.table is None:
            found.append([
                torch.where(held[..., k], at, there).to(outputs)
                for at, there in zip(rail, works, strict=True)
            ])  # fmt: skip
            continue
        assert real is not None  # noqa: S101 - the table is one
        place = read_out.terminals[k]
        plus, minus = place.inputs(positive, negative, outputs[..., k])
        offsets = real.offsets.expand(*real.offsets.shape[:-1], outputs.shape[-1])[..., k]
        at = read_out.table.values(plus + offsets, minus, outputs[..., k])
        by = [
            at.by_plus * float(one) + at.by_minus * float(other)
            for one, other in zip(place.plus, place.minus, strict=True)
        ]
        back = float(item.to_positive), float(item.to_negative)
        leaves = sum(back) - at.by_output - by[2]
        found.append(
            [
                (by[0] + back[0]) / leaves, (by[1] + back[1]) / leaves, at.by_plus / leaves,
                1.0 / leaves,
            ]
        )
    return SmallSignal(*(torch.stack(items, dim=-1) for items in zip(*found, strict=True)))
