"""Check native transients against a simulator: waveforms, latency and energy of a few samples."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from imac_torch.model.network import IMACNetwork
from imac_torch.netlist import NetlistSettings
from imac_torch.numeric.modes import lasting
from imac_torch.results.latency import RESOLUTION, Latency, measure_latency, same_answers
from imac_torch.results.waveform import sample
from imac_torch.simulator import NgSpice, Simulator, SpiceSolution
from imac_torch.study.deck import simulate_first
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.network import solve_transient
from imac_torch.transient.options import TimingOptions, TransientOptions
from imac_torch.transient.result import TransientResult

WAVEFORM_TOLERANCE = 0.005
"""Of an output's swing."""
LATENCY_TOLERANCE = 0.02
ENERGY_TOLERANCE = 0.01


@dataclass(frozen=True)
class TransientVerification:
    """Largest differences between the native engine and a simulator; B samples in a row.

    Attributes:
        samples: Samples that were compared, B.
        simulator: Name and version.
        waveform_difference: Largest difference of an output at any time, relative to its swing.
        latency_difference: Largest difference of an output's latency, relative to it.
        energy_difference: Largest difference of the energy of inputs, bias lines, neurons or
            amplifiers' supplies, relative to the total.
        same_class: Samples that end in the same class.
        native_seconds: Time that the native transient took, s, its preparation included.
        simulator_seconds: Time that the simulator took, s.
        native_latency: (B, 1, M) s per output.
        spice: What the simulator gave.
    """

    samples: int
    simulator: str
    waveform_difference: float
    latency_difference: float
    energy_difference: float
    same_class: int
    native_seconds: float
    simulator_seconds: float
    native_latency: Latency = field(repr=False)
    spice: SpiceSolution = field(repr=False)

    @property
    def passed(self) -> bool:
        """Waveforms within 0.5 %, latency within 2 %, energy within 1 %, the same classes."""
        return (
            self.waveform_difference <= WAVEFORM_TOLERANCE
            and self.latency_difference <= LATENCY_TOLERANCE
            and self.energy_difference <= ENERGY_TOLERANCE
            and self.same_class == self.samples
        )

    def __str__(self) -> str:
        """One line per figure."""
        return (
            f"native against {self.simulator}, transient of {self.samples} samples\n"
            f"  largest difference of a waveform: {self.waveform_difference:.2g} of its swing\n"
            f"  largest relative difference of a latency: {self.latency_difference:.2g}\n"
            f"  largest difference of an energy: {self.energy_difference:.2g} of the total\n"
            f"  same class: {self.same_class} of {self.samples}\n"
            f"  seconds: native {self.native_seconds:.2g}, simulator {self.simulator_seconds:.2g}"
        )


@lasting()
def verify_transient(
    network: IMACNetwork,
    loader: Iterable[object],
    samples: int = 2,
    *,
    simulator: Simulator | None = None,
    settings: NetlistSettings | None = None,
    options: TransientOptions | None = None,
    directory: str | Path | None = None,
    trust: bool = False,
    amplifier: str | Path | None = None,
) -> TransientVerification:
    """Integrate the first samples of a loader in time, natively and in a simulator.

    Both follow the samples in a row, the first one after 0 V on all inputs, and both are measured
    by :mod:`imac_torch.results.latency`: latency is relative to the value at the end of the period.

    Args:
        network: A converted model.
        loader: Yields pairs (inputs, labels).
        samples: How many.
        simulator: None: ``ngspice`` on the path.
        settings: Of netlists; None: time steps of at most a 250th of the period.
        options: Of the native transient; None: 2e-5 V per step.
        directory: Where to keep the netlists; None: a temporary directory.
        trust: Take sub-circuit files as they are; see :func:`imac_torch.compile`.
        amplifier: File with a sub-circuit in the place of every read-out, see
            :func:`imac_torch.compile`; then the difference is what it makes.

    Raises:
        SimulatorNotFoundError: The simulator is not installed.
        SimulatorError: It failed on a sample.
        NetlistError: The circuit cannot be written as a transient, such as FinFETs in ngspice.
    """
    simulator = NgSpice() if simulator is None else simulator
    version = simulator.version()
    timing = network.config.timing
    if settings is None:
        settings = NetlistSettings(
            images_per_netlist=samples, waveforms=True, max_step=timing.period / 250
        )
    inputs, spice = simulate_first(
        network, loader, samples, simulator, settings, directory=directory, trust=trust,
        amplifier=amplifier,
    )  # fmt: skip
    if options is None:
        options = TransientOptions(control=StepControl(tolerance=2e-5))
    begin = time.perf_counter()
    layers = network.timing(TimingOptions(options)).layers
    # Every netlist is a sequence of its own.
    count = settings.images_per_netlist
    results = [
        solve_transient(layers, part[None].to(network.device), timing, options=options)
        for part in inputs.split(count)
    ]
    seconds = time.perf_counter() - begin
    latency = Latency.join([
        measure_latency(
            result.time, result.outputs, timing.period,
            fraction=settings.fraction, resolution=settings.resolution,
            threshold=network.segment.threshold,
        )
        for result in results
    ])  # fmt: skip
    latency = Latency(
        latency.outputs.reshape(samples, 1, -1), latency.decision.reshape(samples, 1),
        latency.fraction,
    )  # fmt: skip
    ends = torch.cat([result.outputs[result.periods[1:], 0] for result in results]).cpu()
    classes = same_answers(ends, spice.solution.outputs, network.segment.threshold)
    return TransientVerification(
        samples,
        f"{simulator.name} {version}",
        _waveforms(spice, results, count, timing.period),
        _relative(latency.outputs.cpu(), spice.latency.outputs),
        _energies(spice, results),
        int(classes.sum()),
        seconds,
        sum(outcome.unwrap().wall_time for outcome in spice.outcomes),
        latency,
        spice,
    )


def _waveforms(
    spice: SpiceSolution, results: list[TransientResult], count: int, period: float
) -> float:
    theirs = spice.waveforms()
    swing = (theirs.outputs.amax(dim=(0, 1)) - theirs.outputs.amin(dim=(0, 1))).clamp(RESOLUTION)
    worst = 0.0
    for k in range(theirs.outputs.shape[1]):
        result = results[k // count]
        at = (theirs.time + (k % count) * period).clamp(max=float(result.time[-1]))
        ours = sample(result.time.cpu(), result.outputs[:, 0].cpu(), at)
        worst = max(worst, float(((ours - theirs.outputs[:, k]).abs() / swing).max()))
    return worst


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest |ours - theirs| / the larger one; 0 where both are 0."""
    larger = torch.maximum(ours, theirs)
    return float(((ours - theirs).abs() / torch.where(larger > 0.0, larger, 1.0)).max())


def _energies(spice: SpiceSolution, results: list[TransientResult]) -> float:
    total = spice.energy.total[:, 0].abs()
    worst = 0.0
    for part in ("inputs", "bias", "neurons", "amplifier_supply"):
        ours = torch.cat([getattr(result.energy, part)[0] for result in results]).cpu()
        theirs = getattr(spice.energy, part)[:, 0]
        worst = max(worst, float(((ours - theirs).abs() / total).max()))
    return worst
