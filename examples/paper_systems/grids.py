"""Points of the papers' sweeps, each with the labels that tables and figures go by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imac_torch.config import ACCESS, BIT_CELL_LENGTHS, DEVICES, NODES
from paper_systems.subjects import Subject

__all__ = [
    "CASES",
    "FACTORS",
    "IDEAL",
    "PARTITIONS",
    "Case",
    "accesses",
    "best",
    "neurons",
    "nodes",
    "noises",
    "partitions",
    "resistances",
    "sizes",
]

FACTORS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Amplifier gains tried, in units of the published ones."""
IDEAL: Final = "no wires"
"""Stands for a bit cell whose wires have no resistance."""
CASES: Final = ("no wires", "wires", "wires and partitions")
"""What the resistances of the devices are swept under."""
PARTITIONS: Final = {
    "16-8-8, 8-8-1": ((16, 8, 8), (8, 8, 1)),
    "13-4-3, 4-3-1": ((13, 4, 3), (4, 3, 1)),
}
"""Horizontal and vertical partitions by layer for which the papers give an accuracy (94.84 % in
Amin, Elbtity, Zand, ISCAS 2022; 98.08 % with PCM and 1T1R in the same authors' Xbar-partitioning,
JETCAS 12(4), 2022). The second one is what arrays of 32×32 need."""
PARTITION: Final = 32
"""Rows and columns of the arrays of the third case."""


BANDWIDTH: Final = 1e9
"""Hz. What reads the outputs of IMAC-Sim's 4 ns averages over a part of them."""


@dataclass(frozen=True)
class Case:
    """A point of a sweep.

    Attributes:
        labels: What it is, by heading.
        point: Values by field of the configuration.
    """

    labels: Mapping[str, Any]
    point: Mapping[str, Any]


def _device(name: str) -> dict[str, float]:
    low, high = DEVICES[name]
    return {"device.rlow": low, "device.rhigh": high}


def _cell(name: str, tech_node: float) -> dict[str, Any]:
    if name == IDEAL:
        return {"interconnect.resistance": False}
    return {"interconnect.length": BIT_CELL_LENGTHS[name] * tech_node}


def sizes(
    subject: Subject,
    devices: Iterable[str],
    cells: Sequence[str],
    widths: Sequence[int],
    factors: Sequence[float],
) -> list[Case]:
    """Square arrays of several sizes: layers are cut to fit them."""
    node = subject.base.interconnect.tech_node
    return [
        Case(
            {"device": device, "cell": cell, "size": width, "factor": factor},
            {
                **_device(device),
                **_cell(cell, node),
                "crossbar.rows": width,
                "crossbar.columns": width,
                "amplifier.gain": subject.gains(factor),
            },
        )
        for device in devices
        for cell in (*cells, IDEAL)
        for width in widths
        for factor in factors
    ]


def accesses(
    subject: Subject, devices: Iterable[str], cells: Sequence[str], widths: Sequence[int]
) -> list[Case]:
    """Wires alone and with access transistors, at the published gains."""
    node = subject.base.interconnect.tech_node
    transistors = {
        name: {
            f"device.access.{kind}.{parameter}": value
            for kind, values in ACCESS[name].items()
            for parameter, value in values.items()
        }
        for name in cells
    }
    return [
        Case(
            {"device": device, "cell": cell, "size": width, "transistors": transistor},
            {
                **_device(device),
                **_cell(cell, node),
                **(transistors[cell] if transistor else {}),
                "crossbar.rows": width,
                "crossbar.columns": width,
                "amplifier.gain": subject.gains(1.0),
            },
        )
        for device in devices
        for cell in cells
        for width in widths
        for transistor in (False, True)
    ]


def partitions(
    subject: Subject, devices: Iterable[str], factors: Sequence[float]
) -> list[Case]:
    """The partitions of the papers, 1T1R; none for networks that have not three layers."""
    if len(subject.gains()) != 3:
        return []
    return [
        Case(
            {"device": device, "partitions": name, "factor": factor},
            {
                **_device(device),
                "crossbar.horizontal": list(horizontal),
                "crossbar.vertical": list(vertical),
                "amplifier.gain": subject.gains(factor),
            },
        )
        for device in devices
        for name, (horizontal, vertical) in PARTITIONS.items()
        for factor in factors
    ]


def noises(
    subject: Subject,
    arrays: Iterable[tuple[str, str, int, Mapping[str, Any]]],
    amplitudes: Iterable[float],
) -> list[Case]:
    """Noise at the inputs, V rms, besides that of the circuit up to :data:`BANDWIDTH`.

    Args:
        subject: The network.
        arrays: Device, bit cell, size, and a row with the factor of its gains.
        amplitudes: V rms.
    """
    node = subject.base.interconnect.tech_node
    return [
        Case(
            {"device": device, "cell": cell, "size": width, "noise": amplitude},
            {
                **_device(device),
                **_cell(cell, node),
                "crossbar.rows": width,
                "crossbar.columns": width,
                "amplifier.gain": subject.gains(row["factor"]),
                "noise.bandwidth": BANDWIDTH,
                "noise.inputs": amplitude,
            },
        )
        for device, cell, width, row in arrays
        for amplitude in amplitudes
    ]


def resistances(
    subject: Subject, low: Sequence[float], high: Sequence[float], factors: Sequence[float]
) -> list[Case]:
    """End states of the devices without wires, with them, and with arrays of 32×32 besides."""
    whole = {"crossbar.horizontal": 1, "crossbar.vertical": 1}
    arrays = {"crossbar.rows": PARTITION, "crossbar.columns": PARTITION}
    fields: dict[str, dict[str, Any]] = {
        CASES[0]: {**whole, "interconnect.resistance": False},
        CASES[1]: whole,
        CASES[2]: arrays,
    }
    return [
        Case(
            {"case": case, "rlow": rlow, "rhigh": rhigh, "factor": factor},
            {
                "device.rlow": rlow,
                "device.rhigh": rhigh,
                **fields[case],
                "amplifier.gain": subject.gains(factor),
            },
        )
        for case in CASES
        for rlow in low
        for rhigh in high
        if rlow < rhigh
        for factor in factors
    ]


def nodes(devices: Iterable[str], values: Sequence[float] = NODES) -> list[Case]:
    """Technology nodes: the metal's thickness and height as IMAC-Sim ships them, or scaled too.

    IMAC-Sim scales widths, lengths and distances with λ, and leaves T = 22 nm and H = 20 nm,
    which belong to its λ of 9 nm.
    """
    cases = []
    for device in devices:
        for metal in ("fixed", "scaled"):
            for node in values:
                ratio = node / 9e-9 if metal == "scaled" else 1.0
                cases.append(
                    Case(
                        {"device": device, "metal": metal, "node": node},
                        {
                            **_device(device),
                            "interconnect.tech_node": node,
                            "interconnect.thickness": 22e-9 * ratio,
                            "interconnect.height": 20e-9 * ratio,
                            "interconnect.capacitance": True,
                        },
                    )
                )
    return cases


def neurons(low: Sequence[float], ratios: Sequence[float]) -> list[Case]:
    """The two devices of the neuron: the resistance of one, the ratio of both."""
    return [
        Case(
            {"rlow": rlow, "ratio": ratio},
            {"neuron.rlow": rlow, "neuron.rhigh": rlow * ratio},
        )
        for rlow in low
        for ratio in ratios
    ]


def best(
    rows: Iterable[Mapping[str, Any]], keys: Sequence[str]
) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """The most accurate row of each group of equal labels, by those labels."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in keys)
        if row["accuracy"] > found.get(key, {"accuracy": -math.inf})["accuracy"]:
            found[key] = row
    return found
