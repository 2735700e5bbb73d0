"""Running the netlists of a circuit and turning what comes back into a solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from imac_torch.errors import NetlistError, SimulatorError
from imac_torch.netlist.run import NetlistBatch, NetlistRun
from imac_torch.netlist.rundir import run_directory
from imac_torch.results.energy import Energy
from imac_torch.results.latency import Latency
from imac_torch.results.solution import Power, Solution, Status
from imac_torch.results.waveform import Waveforms
from imac_torch.simulator.base import Program
from imac_torch.simulator.batch import Progress, forget, run_jobs
from imac_torch.simulator.result import SimulationOutcome
from imac_torch.simulator.transients import (
    TransientValues,
    from_waveforms,
    waveforms,
)


@dataclass(frozen=True)
class SpiceSolution:
    """What a simulator made of a run.

    Images of a netlist follow each other, the first one after 0 V on all inputs. Latency and
    energy are those of :mod:`imac_torch.results.latency` and :mod:`imac_torch.results.energy`, in
    which native
    transients are measured, too; NaN for operating points and for images that failed.

    Attributes:
        solution: Outputs and powers in the order of the inputs. ``layers`` is empty, ``residual``
            is NaN and ``iterations`` is 0: simulators do not give them. Powers of a transient are
            averages over each period without its transition. ``power.level_shift`` and
            ``power.amplifiers`` are NaN: sources inside sub-circuits are not measured. Supplies of
            amplifiers are.
        latency: Of every image, its L is 1: until outputs stay near their values at the end of
            the period. The decision latency needs waveforms, without which it is NaN.
        energy: (B, 1) J by part over the period; level shifts and amplifiers are NaN.
        static: (B, 1) J, of the powers at the end of the period.
        outcomes: One per netlist, with errors, logs and versions.
        batches: The netlists.
    """

    solution: Solution
    latency: Latency
    energy: Energy
    static: Energy
    outcomes: tuple[SimulationOutcome, ...]
    batches: tuple[NetlistBatch, ...] = field(repr=False)

    @property
    def errors(self) -> tuple[SimulatorError, ...]:
        """Errors of the netlists that were not completed."""
        return tuple(outcome.error for outcome in self.outcomes if outcome.error is not None)

    @property
    def supply_energy(self) -> Tensor:
        """(B,) J, delivered by vdd over each whole period; NaN for operating points."""
        return self.energy.supply[:, 0]

    @property
    def switching(self) -> Energy:
        """(B, 1) J besides the static energy."""
        return self.energy - self.static

    def waveforms(
        self, samples: Sequence[int] | None = None, *, nodes: Sequence[str] | None = None
    ) -> Waveforms:
        """Outputs over time of some images.

        Args:
            samples: Which; None: all. Every one is given at the time points of all, which takes
                memory with the square of their number.
            nodes: Names of nodes instead of the outputs, as the simulator writes them
                (``xlayer1.z1``); they need ``NetlistSettings(save="all")``.

        Returns:
            Times from the start of the image's input ramp to the end of its period.

        Raises:
            SimulatorError: There are no waveforms of an image, or of a node.
        """
        chosen = range(len(self.solution.outputs)) if samples is None else samples
        return waveforms(
            (
                (batch.deck, batch.first, None if outcome.result is None else
                 outcome.result.waveforms)
                for batch, outcome in zip(self.batches, self.outcomes, strict=True)
            ),
            list(chosen),
            nodes,
        )  # fmt: skip

    def latency_to(self, final: Tensor) -> Latency:
        """Latencies relative to settled outputs, infinite where a period is too short for them.

        Args:
            final: (B, M) V, for example of the DC solution.

        Raises:
            SimulatorError: There are no waveforms.
        """
        parts = []
        for batch, outcome in zip(self.batches, self.outcomes, strict=True):
            data = None if outcome.result is None else outcome.result.waveforms
            if data is None or "time" not in data:
                raise SimulatorError(
                    f"{batch.job.netlist} left no waveforms over time to measure latencies in"
                )
            ends = final[batch.first : batch.first + batch.deck.images]
            parts.append(from_waveforms(batch.deck, data, ends))
        return _latency(parts, self.latency.fraction)


def solve_netlists(
    run: NetlistRun,
    simulator: Program,
    *,
    workers: int = 1,
    resume: bool = True,
    progress: Progress | None = None,
) -> SpiceSolution:
    """Run every netlist of a run and collect outputs and powers.

    A netlist that fails leaves NaN and ``Status.FAILED`` for those of its images that had not
    been measured; look at ``errors``, or call :func:`check` to have the first one raised.

    Args:
        run: From :func:`imac_torch.netlist.write_netlists`.
        simulator: A driver for the run's dialect.
        workers: Largest number of simultaneous runs.
        resume: Read completed netlists back instead of running them again.
        progress: Called after every netlist.

    Raises:
        NetlistError: The netlists are in another dialect, their directory is in use, or it holds
            others by now.
        SimulatorNotFoundError: The simulator is not installed.
    """
    if run.dialect != simulator.dialect:
        raise NetlistError(
            f"the netlists in {run.directory} are for {run.dialect}, not for {simulator.dialect}"
        )
    jobs = [batch.job for batch in run.batches]
    with run_directory(run.directory, run.digests, wait=run.shared):
        finished_jobs = run_jobs(
            simulator, jobs, workers=workers, resume=resume, progress=progress
        )
    return _solution(run, simulator, finished_jobs)


def read_results(run: NetlistRun, simulator: Program) -> SpiceSolution:
    """What somebody's runs of the netlists have left; nothing is run, and no simulator is needed.

    Args:
        run: The netlists.
        simulator: A driver for their dialect.

    Returns:
        The solution; images of netlists without results have failed, see ``errors``.

    Raises:
        NetlistError: A netlist is not what was written any more, or of another dialect.
    """
    if run.dialect != simulator.dialect:
        raise NetlistError(
            f"the netlists in {run.directory} are for {run.dialect}, not for {simulator.dialect}"
        )
    with run_directory(run.directory, run.digests, wait=run.shared):
        return _solution(run, simulator, [simulator.read(batch.job) for batch in run.batches])


def _solution(
    run: NetlistRun, simulator: Program, finished_jobs: Sequence[SimulationOutcome]
) -> SpiceSolution:
    parts, outcomes = zip(
        *(
            _read_or_fail(batch, outcome, simulator)
            for batch, outcome in zip(run.batches, finished_jobs, strict=True)
        ),
        strict=True,
    )
    outputs = torch.cat([part.outputs for part in parts])
    finished = torch.isfinite(outputs).all(dim=1)
    nowhere = torch.full((run.images,), torch.nan, dtype=torch.float64, device="cpu")
    inputs, supply, neurons, amplifiers = torch.cat([part.power for part in parts]).unbind(dim=1)
    solution = Solution(
        outputs=torch.where(finished[:, None], outputs, torch.nan),
        layers=(),
        power=Power(
            inputs, supply - neurons, neurons, nowhere, nowhere.clone(), amplifiers
        ),
        status=torch.where(finished, int(Status.CONVERGED), int(Status.FAILED)),
        residual=nowhere.clone(),
        iterations=torch.zeros(run.images, dtype=torch.int64, device="cpu"),
    )
    period = run.circuit.timing.period
    return SpiceSolution(
        solution,
        _latency(parts, run.settings.fraction),
        _energy(torch.cat([part.energy for part in parts])),
        _energy(period * torch.cat([part.final for part in parts])),
        outcomes,
        run.batches,
    )


def check(spice: SpiceSolution) -> SpiceSolution:
    """Return the solution if it is complete.

    Raises:
        SimulatorError: The first error of the run.
    """
    for error in spice.errors:
        raise error
    return spice


def _latency(parts: Sequence[TransientValues], fraction: float) -> Latency:
    return Latency(
        torch.cat([part.latency for part in parts])[:, None],
        torch.cat([part.decision for part in parts])[:, None],
        fraction,
    )


def _energy(sources: Tensor) -> Energy:
    """(B, 4) J of inputs, vdd, its part for neurons, and the amplifiers' supplies."""
    inputs, supply, neurons, amplifiers = sources[:, None].unbind(dim=2)
    nowhere = torch.full_like(inputs, torch.nan)
    return Energy(inputs, supply - neurons, neurons, nowhere, nowhere.clone(), amplifiers)


def _read_or_fail(
    batch: NetlistBatch, outcome: SimulationOutcome, simulator: Program
) -> tuple[TransientValues, SimulationOutcome]:
    """The results of a netlist; what is not in them makes it a failed one, to be run again."""
    try:
        deck, result = batch.deck, outcome.result
        values = TransientValues.empty(deck) if result is None else simulator.values(deck, result)
        missing = int((~torch.isfinite(values.outputs).all(dim=1)).sum())
        if missing and outcome.error is None:
            forget(batch.job)
            problem = SimulatorError(
                f"the results of {batch.job.netlist} are no finite numbers for {missing} of "
                f"{batch.deck.images} images",
                directory=batch.job.directory,
            )
            outcome = replace(outcome, error=problem)
        return values, outcome
    except Exception as error:  # whatever a malformed file leads to
        forget(batch.job)
        if outcome.error is not None:  # which explains it
            return TransientValues.empty(batch.deck), replace(outcome, result=None)
        reason = (
            f"there is no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: "
            f"{error}"
        )
        problem = SimulatorError(
            f"the results of {batch.job.netlist} are not those of its netlist: {reason}",
            directory=batch.job.directory,
        )
        return TransientValues.empty(batch.deck), replace(outcome, result=None, error=problem)
