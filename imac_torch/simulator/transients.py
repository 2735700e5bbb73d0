"""Transients of simulators: outputs, powers, energies and latencies of the images of a netlist.

They come from saved waveforms where there are some, by the functions that serve every engine
(:mod:`imac_torch.results.latency`, :mod:`imac_torch.results.waveform`), and from measures
otherwise. What measures
cannot tell is NaN: the decision latency, which compares all outputs at all times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.errors import SimulatorError
from imac_torch.netlist.layer import AMPLIFIER_SUPPLIES
from imac_torch.netlist.measures import AMPLIFIERS, EDGES, SOURCES
from imac_torch.netlist.writer import BatchDeck
from imac_torch.results.latency import decision_time, settling_time
from imac_torch.results.waveform import Waveforms, integral, sample
from imac_torch.simulator.result import FloatArray, SimulationResult

BoolArray = NDArray[np.bool_]

_ROUNDING: Final = 1e-9
"""Time points fall on the ends of periods (corners of the sources) up to this part."""


@dataclass(frozen=True)
class TransientValues(Brief):
    """One netlist; b images, M outputs; NaN where there is nothing.

    Powers and energies by source: (b, 4) of inputs, vdd, of vdd's part for neurons, and of the
    amplifiers' supplies, 0 where these have none.

    Attributes:
        outputs: (b, M) V, at the ends of periods.
        power: W, mean after the transition.
        energy: J, over whole periods.
        final: W, at the ends of periods.
        latency: (b, M) s.
        decision: (b,) s.
    """

    outputs: Tensor
    power: Tensor
    energy: Tensor
    final: Tensor
    latency: Tensor
    decision: Tensor

    @classmethod
    def empty(cls, deck: BatchDeck) -> TransientValues:
        """Of a netlist that gave no result yet."""

        def holes(*width: int) -> Tensor:
            return torch.full((deck.images, *width), torch.nan, dtype=torch.float64, device="cpu")

        outputs, sources = len(deck.output_nodes), len(SOURCES) + 1
        return cls(
            holes(outputs), holes(sources), holes(sources), holes(sources), holes(outputs), holes()
        )


def from_waveforms(
    deck: BatchDeck, data: Mapping[str, FloatArray], final: Tensor | None = None
) -> TransientValues:
    """From outputs and powers over time, as far as the simulator got.

    Args:
        deck: The netlist.
        data: Its waveforms; powers may be missing.
        final: (b, M) V, settled outputs; None: those at the ends of periods.
    """
    values = TransientValues.empty(deck)
    kept, time = _times(data)
    outputs = _stack(data, [f"v({node})" for node in deck.output_nodes], kept)
    has_power = all(f"p_{name}" in data for name in deck.sources)
    powers = None
    if has_power:
        powers = _stack(data, [f"p_{name}" for name in deck.sources], kept)
        powers = powers if deck.rails else torch.nn.functional.pad(powers, (0, 1))
    transition = deck.circuit.timing.transition
    fraction, resolution = deck.settings.fraction, deck.settings.resolution
    for k, start, end in _finished(deck, time):
        target = None if final is None else final[k]
        values.outputs[k] = sample(time, outputs, time.new_tensor([end]))[0]
        values.latency[k] = settling_time(
            time, outputs, start, end, fraction=fraction, resolution=resolution, final=target
        )
        values.decision[k] = decision_time(
            time, outputs, start, end, resolution=resolution, final=target
        )
        if powers is not None:
            begin = start + transition
            values.power[k] = integral(time, powers, begin, end) / (end - begin)
            values.energy[k] = integral(time, powers, start, end)
            values.final[k] = sample(time, powers, time.new_tensor([end]))[0]
    return values


def from_files(deck: BatchDeck, data: Mapping[str, FloatArray]) -> TransientValues:
    """From waveform files that hold everything, as those of ngspice do."""
    if deck.settings.analysis == "dc":
        return _points(deck, *_points_of_files(deck, data))
    return from_waveforms(deck, data)


def from_measures(deck: BatchDeck, result: SimulationResult) -> TransientValues:
    """From the measures of HSPICE, those of latency included, and its waveforms if it has some."""
    if deck.settings.analysis == "dc":
        return _points(deck, *_points_of_measures(deck, result))
    values = _measured(deck, result)
    if result.waveforms is None:
        return values
    # Powers, and outputs in full precision, are measures; the rest of what waveforms tell.
    timed = from_waveforms(deck, result.waveforms)
    return replace(values, latency=timed.latency, decision=timed.decision)


def _points(deck: BatchDeck, outputs: FloatArray, power: FloatArray) -> TransientValues:
    """Of operating points."""
    return replace(
        TransientValues.empty(deck),
        outputs=torch.from_numpy(outputs), power=torch.from_numpy(power),
    )  # fmt: skip


def _points_of_files(
    deck: BatchDeck, data: Mapping[str, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Operating points of ngspice: one entry per image in every array. (b, M) V, (b, 4) W."""
    outputs = np.stack([data[f"v({node})"] for node in deck.output_nodes], axis=1)
    if len(outputs) != deck.images:
        raise SimulatorError(f"it holds {len(outputs)} operating points, not {deck.images}")
    inputs = -sum(
        (data[f"v({node})"] * data[f"i(v{node})"] for node in deck.input_nodes),
        np.zeros(deck.images),
    )
    supply = -data["v(vdd)"] * data["i(vdd)"]
    neurons = data["v(vdd)"] * data["i(vneurons)"]
    amplifiers = np.zeros(deck.images)
    if deck.rails:
        for node in AMPLIFIER_SUPPLIES:
            amplifiers = amplifiers - data[f"v({node})"] * data[f"i({node})"]
    return outputs, np.stack([inputs, supply, neurons, amplifiers], axis=1)


def _points_of_measures(deck: BatchDeck, result: SimulationResult) -> tuple[FloatArray, FloatArray]:
    """Operating points of HSPICE. (b, M) V, (b, 4) W."""

    def column(name: str) -> FloatArray:
        keys = [f"{name}[{k}]" for k in range(deck.images)]
        return np.array([result.measures.get(key, math.nan) for key in keys])

    amplifiers = column(f"p_{AMPLIFIERS}") if deck.rails else np.zeros(deck.images)
    return (
        np.stack([column(node) for node in deck.output_nodes], axis=1),
        np.stack([*(column(f"p_{name}") for name in SOURCES), amplifiers], axis=1),
    )


def _measured(deck: BatchDeck, result: SimulationResult) -> TransientValues:
    images = range(deck.images)

    def read(name: str) -> float:
        return result.measures.get(name, math.nan)

    def by_source(kind: str) -> Tensor:
        rows = [[read(f"{kind}_{name}_{k}") for name in deck.sources] for k in images]
        return _matrix(rows if deck.rails else [[*row, 0.0] for row in rows])

    nodes = deck.output_nodes
    outputs = _matrix([[read(f"{node}_{k}") for node in nodes] for k in images])
    return TransientValues(
        outputs,
        by_source("p"),
        by_source("e"),
        by_source("s"),
        measured_latency(deck, result),
        torch.full((deck.images,), torch.nan, dtype=torch.float64, device="cpu"),
    )


def measured_latency(deck: BatchDeck, result: SimulationResult) -> Tensor:
    """(b, M) s, from the measured times at which outputs cross the edges of their bands.

    An output ends in its band, so that the last crossing of an edge is where it came to stay. If
    there is none, it never left the band. HSPICE may write 0 for a measure that failed.
    """
    nodes = deck.output_nodes
    wanted = deck.settings.measure_latency
    found = torch.full((deck.images, len(nodes)), torch.nan, dtype=torch.float64, device="cpu")
    for k, start in enumerate(deck.starts):
        for m, node in enumerate(nodes):
            if not wanted or math.isnan(result.measures.get(f"{node}_{k}", math.nan)):
                continue
            times = [result.measures.get(f"{edge}_{node}_{k}", start) for edge in EDGES]
            if not any(math.isnan(time) for time in times):  # a driver's word for: refused
                found[k, m] = max(0.0, *(time - start for time in times))
    return found


def waveforms(
    parts: Iterable[tuple[BatchDeck, int, Mapping[str, FloatArray] | None]],
    samples: Sequence[int],
    nodes: Sequence[str] | None,
) -> Waveforms:
    """Voltages over time of some images, on the time points of all of them.

    Args:
        parts: Every netlist, the index of its first image, its waveforms.
        samples: Which images.
        nodes: Names of nodes as the simulator writes them; None: the network's outputs.

    Raises:
        SimulatorError: An image has no waveform, or a node is not in it.
    """
    cut: dict[int, tuple[Tensor, Tensor]] = {}
    for deck, first, data in parts:
        wanted = [k - first for k in samples if first <= k < first + deck.images]
        if not wanted or data is None or "time" not in data:
            continue
        kept, time = _times(data)
        names = [f"v({node})" for node in (deck.output_nodes if nodes is None else nodes)]
        unknown = [name for name in names if name not in data]
        if unknown:
            raise SimulatorError(
                f"{unknown[0]} is not in the waveforms; NetlistSettings(save='all') writes every "
                "node"
            )
        values = _stack(data, names, kept)
        for k, start, end in _finished(deck, time):
            if k in wanted:
                inside = time[(time > start) & (time < end)]
                points = torch.cat([time.new_tensor([start]), inside, time.new_tensor([end])])
                cut[first + k] = points - start, sample(time, values, points)
    missing = [k for k in samples if k not in cut]
    if missing:
        raise SimulatorError(
            f"sample {missing[0]} has no waveform: its run failed, was an operating point, or "
            "HSPICE was not asked for waveforms (NetlistSettings(waveforms=True))"
        )
    grid = _union([cut[k][0] for k in samples])
    voltages = [sample(*cut[k], grid.clamp(max=float(cut[k][0][-1]))) for k in samples]
    return Waveforms(torch.tensor(list(samples), device="cpu"), grid, torch.stack(voltages, dim=1))


def _union(times: Sequence[Tensor]) -> Tensor:
    """All time points in order, those that differ by rounding only once."""
    merged = torch.cat(list(times)).sort().values
    gap = _ROUNDING * float(merged[-1])
    return merged[torch.cat([merged.new_tensor([True]).bool(), merged.diff() > gap])]


def _finished(deck: BatchDeck, time: Tensor) -> Iterator[tuple[int, float, float]]:
    """Index, start and end of every image that the simulator got to the end of."""
    last = float(time[-1])
    for k, (start, end) in enumerate(zip(deck.starts, deck.ends, strict=True)):
        if end <= last * (1.0 + _ROUNDING):
            yield k, start, min(end, last)


def _times(data: Mapping[str, FloatArray]) -> tuple[BoolArray, Tensor]:
    """Which time points to keep (single precision may repeat one), and these, s."""
    time = data["time"]
    kept = np.concatenate([[True], np.diff(time) > 0.0])
    return kept, torch.from_numpy(time[kept])


def _stack(data: Mapping[str, FloatArray], names: Sequence[str], kept: BoolArray) -> Tensor:
    return torch.from_numpy(np.stack([data[name][kept] for name in names], axis=1))


def _matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, device="cpu")
