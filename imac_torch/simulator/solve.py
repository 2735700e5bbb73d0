"""Running the netlists of a circuit and turning what comes back into a solution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imac_torch.errors import NetlistError, SimulatorError
from imac_torch.netlist.run import NetlistBatch, NetlistRun
from imac_torch.netlist.writer import Deck
from imac_torch.simulator.base import Simulator
from imac_torch.simulator.batch import Progress, run_jobs
from imac_torch.simulator.result import FloatArray, SimulationOutcome, SimulationResult
from imac_torch.solution import Power, Solution, Status


@dataclass(frozen=True)
class SpiceSolution:
    """What a simulator made of a run.

    Attributes:
        solution: Outputs and powers in the order of the inputs. ``layers`` is empty, ``residual``
            is NaN and ``iterations`` is 0: simulators do not give them. Powers of a transient are
            averages over each period without its transition. ``power.level_shift`` and
            ``power.amplifiers`` are NaN: sources inside sub-circuits are not measured.
        supply_energy: (B,) J, delivered by vdd over each whole period; NaN for operating points.
        outcomes: One per netlist, with errors, logs and versions.
    """

    solution: Solution
    supply_energy: Tensor
    outcomes: tuple[SimulationOutcome, ...]

    @property
    def errors(self) -> tuple[SimulatorError, ...]:
        """Errors of the netlists that were not completed."""
        return tuple(outcome.error for outcome in self.outcomes if outcome.error is not None)


@dataclass(frozen=True)
class _Values:
    """Numbers of one batch; NaN where there are none. Powers and energies (b,), W and J."""

    outputs: FloatArray
    inputs: FloatArray
    supply: FloatArray
    neurons: FloatArray
    energy: FloatArray


def solve_netlists(
    run: NetlistRun,
    simulator: Simulator,
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

    Returns:
        The solution.

    Raises:
        NetlistError: The netlists are in another dialect.
        SimulatorNotFoundError: The simulator is not installed.
    """
    if run.dialect != simulator.name:
        raise NetlistError(
            f"the netlists in {run.directory} are for {run.dialect}, not for {simulator.name}"
        )
    jobs = [batch.job for batch in run.batches]
    outcomes = run_jobs(simulator, jobs, workers=workers, resume=resume, progress=progress)
    parts = [
        _read(batch, outcome.result, run.dialect)
        for batch, outcome in zip(run.batches, outcomes, strict=True)
    ]
    outputs, inputs, supply, neurons, energy = (
        torch.from_numpy(np.concatenate([getattr(part, name) for part in parts]))
        for name in ("outputs", "inputs", "supply", "neurons", "energy")
    )
    finished = torch.isfinite(outputs).all(dim=1)
    nowhere = torch.full((run.images,), torch.nan, dtype=torch.float64)
    solution = Solution(
        outputs=torch.where(finished[:, None], outputs, torch.nan),
        layers=(),
        power=Power(inputs, supply - neurons, neurons, nowhere, nowhere.clone()),
        status=torch.where(finished, int(Status.CONVERGED), int(Status.FAILED)),
        residual=nowhere.clone(),
        iterations=torch.zeros(run.images, dtype=torch.int64),
    )
    return SpiceSolution(solution, energy, outcomes)


def check(spice: SpiceSolution) -> SpiceSolution:
    """Return the solution if it is complete.

    Raises:
        SimulatorError: The first error of the run.
    """
    for error in spice.errors:
        raise error
    return spice


def _read(batch: NetlistBatch, result: SimulationResult | None, dialect: str) -> _Values:
    deck = batch.deck
    if result is None:
        return _nothing(deck)
    if dialect == "hspice":
        return _from_measures(deck, result)
    if result.waveforms is None:
        return _nothing(deck)
    if deck.settings.analysis == "dc":
        return _from_points(deck, result.waveforms)
    return _from_waveforms(deck, result.waveforms)


def _nothing(deck: Deck) -> _Values:
    hole = np.full(deck.images, np.nan)
    return _Values(np.full((deck.images, len(deck.output_nodes)), np.nan), hole, hole, hole, hole)


def _from_points(deck: Deck, data: dict[str, FloatArray]) -> _Values:
    """Operating points of ngspice: one entry per image in every array."""
    outputs = np.stack([data[f"v({node})"] for node in deck.output_nodes], axis=1)
    inputs = -sum(
        (data[f"v({node})"] * data[f"i(v{node})"] for node in deck.input_nodes),
        np.zeros(deck.images),
    )
    supply = -data["v(vdd)"] * data["i(vdd)"]
    neurons = data["v(vdd)"] * data["i(vneurons)"]
    return _Values(outputs, inputs, supply, neurons, np.full(deck.images, np.nan))


def _from_waveforms(deck: Deck, data: dict[str, FloatArray]) -> _Values:
    """A transient of ngspice, as far as it got."""
    time = data["time"]
    transition = deck.circuit.timing.transition
    # Time points fall on the ends of periods (corners of the sources) up to rounding.
    last = time[-1] * (1.0 + 1e-9)
    values = _nothing(deck)
    for k, end in enumerate(deck.ends):
        if end > last:
            break
        values.outputs[k] = [np.interp(end, time, data[f"v({node})"]) for node in deck.output_nodes]
    span = [
        (start, end) if end <= last else (math.nan, math.nan)
        for start, end in zip(deck.starts, deck.ends, strict=True)
    ]
    length = deck.circuit.timing.period - transition

    def average(name: str) -> FloatArray:
        areas = [integral(time, data[name], start + transition, end) for start, end in span]
        return np.array(areas) / length

    energy = np.array([integral(time, data["p_supply"], *ends) for ends in span])
    return _Values(
        values.outputs, average("p_inputs"), average("p_supply"), average("p_neurons"), energy
    )


def integral(time: FloatArray, values: FloatArray, start: float, end: float) -> float:
    """Integral of a waveform by the trapezoidal rule, both ends interpolated.

    ngspice's own `meas avg` takes whole time steps, which is 1e-3 off for a period of ours.

    Args:
        time: (T,) s, ascending.
        values: (T,).
        start: s.
        end: s; NaN gives NaN.
    """
    if math.isnan(end):
        return math.nan
    inside = (time > start) & (time < end)
    points = np.concatenate([[start], time[inside], [end]])
    ends = np.interp([start, end], time, values)
    heights = np.concatenate([ends[:1], values[inside], ends[1:]])
    return float(np.sum(np.diff(points) * (heights[1:] + heights[:-1])) / 2)


def _from_measures(deck: Deck, result: SimulationResult) -> _Values:
    """Measures of HSPICE."""
    form = "{}[{}]" if deck.settings.analysis == "dc" else "{}_{}"

    def column(name: str) -> FloatArray:
        keys = [form.format(name, k) for k in range(deck.images)]
        return np.array([result.measures.get(key, math.nan) for key in keys])

    chunks = len(deck.input_power_terms())
    return _Values(
        outputs=np.stack([column(node) for node in deck.output_nodes], axis=1),
        inputs=np.sum([column(f"p_inputs{c}") for c in range(chunks)], axis=0),
        supply=column("p_supply"),
        neurons=column("p_neurons"),
        energy=column("e_supply"),
    )
