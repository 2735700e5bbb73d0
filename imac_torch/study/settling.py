"""How long the circuits of a model take to settle, with input vectors that reach them in a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imac_torch.errors import SolverError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.model.segment import Segment
from imac_torch.transient.inference import InferenceRun
from imac_torch.transient.inference_report import InferenceReport
from imac_torch.transient.options import TimingOptions
from imac_torch.transient.preparation import prepare_transient

__all__ = ["VECTORS", "Settling", "check_measurable", "settling"]

VECTORS = 16
"""Input vectors of every circuit that are measured, unless ``TimingOptions.samples`` says so."""
GROUPS = 4
"""Groups of a circuit that are: they are circuits of their own, all built alike."""


@dataclass(frozen=True)
class Settling:
    """Transients of one circuit.

    Attributes:
        vectors: That were measured, one after the other as in a stream.
        groups: Of the circuit that were.
        median: s until all outputs stay within their bands.
        worst: s, likewise; infinite where one never does, 0 where outputs never change.
        unsettled: Vectors that take longer than ``timing.period``.
        failures: Vectors that were not solved.
        energy: J per vector over the period, mean, of all groups.
    """

    vectors: int
    groups: int
    median: float
    worst: float
    unsettled: int
    failures: int
    energy: float


def check_measurable(path: str, segment: Segment) -> None:
    """Refuse a circuit whose transients say nothing of its latency.

    Raises:
        SolverError: It is one; the message says why, and what can be asked instead.
    """
    if segment.borders.in_software:
        raise SolverError(
            f"{path}: converters stand behind its read-outs (converter.after = 'partition', or "
            "several passes of the driver), and transients are of circuits up to their neurons: "
            "leave timing out, which takes timing.period for every use, or measure what its "
            f"arrays do with neurons, network.segments[{path!r}].measure(rows)"
        )


def settling(segment: Segment, rows: Tensor, options: TimingOptions) -> Settling:
    """Measure a circuit.

    Args:
        segment: The circuit.
        rows: (R, G·N) input vectors in software units; some of them are taken.
        options: Of the measurement.

    Raises:
        SolverError: Not a single vector was solved.
    """
    count = VECTORS if options.samples is None else options.samples
    rows = rows[:: max(1, len(rows) // count)][:count].to(torch.float64)
    options = replace(options, samples=None, waveforms=0)
    groups = segment.positions.groups
    reports = (
        [segment.measure(rows, options=options)]
        if groups == 1
        else _by_group(segment, rows, options)
    )
    times = torch.cat([report.latency.images.flatten() for report in reports])
    times = times[~times.isnan()]
    periods = [report.safe_period for report in reports if not math.isnan(report.safe_period)]
    energies = [float(report.energy.total[report.measured].mean()) for report in reports]
    return Settling(
        vectors=len(rows),
        groups=len(reports),
        median=float(times.median()) if len(times) else 0.0,
        worst=max(periods, default=0.0),
        unsettled=max(report.unsettled for report in reports),
        failures=max(int((~report.measured).sum()) for report in reports),
        energy=groups * sum(energies) / len(energies),
    )


def _by_group(segment: Segment, rows: Tensor, options: TimingOptions) -> list[InferenceReport]:
    """Some groups, one by one: they share nothing."""
    ((crossbar, neuron),) = segment.parts()
    voltages, groups = segment.voltages(rows).unflatten(-1, (crossbar.groups, -1)), crossbar.groups
    wires = segment.first.config.interconnect
    found = []
    for group in range(0, groups, -(-groups // GROUPS)):
        pair = crossbar.conductances
        own = ConductancePair(pair.positive[group], pair.negative[group])
        parts = [(replace(crossbar, conductances=own, groups=1), neuron)]
        static = segment.native.prepare(parts).layers
        layers = prepare_transient(parts, [wires], static, options.transient, segment.pace)
        run = InferenceRun(layers, segment.pace, options)
        run.add(voltages[:, group])
        found.append(run.report())
    return found
