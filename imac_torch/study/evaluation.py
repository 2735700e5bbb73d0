"""Evaluate a network on labelled data: accuracy against software, power, latency, energy."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from imac_torch.base.progress import asking, progress_bar
from imac_torch.circuit.engine import BoundEngine, Engine
from imac_torch.config import Noise
from imac_torch.datasets.batches import chosen, labelled_batches, samples_in
from imac_torch.datasets.metrics import Metric
from imac_torch.dc.native import BoundNative
from imac_torch.errors import DataError, SamplingWarning, SolverError
from imac_torch.model.network import Chain, IMACNetwork, evaluating
from imac_torch.model.noisy import Heard
from imac_torch.model.reads import BoundByRead
from imac_torch.model.segment import Segment
from imac_torch.numeric.modes import lasting
from imac_torch.reports.area import AreaModel
from imac_torch.reports.model_report import ModelReport
from imac_torch.reports.power import SEEN, Counted
from imac_torch.reports.report import Report, environment
from imac_torch.results.solution import Solution, combine, concatenate, failures_in_words
from imac_torch.study.interruption import keeping
from imac_torch.study.model_evaluation import Asked, evaluate_model
from imac_torch.transient.inference import InferenceRun
from imac_torch.transient.inference_report import InferenceReport
from imac_torch.transient.options import TimingOptions


@dataclass
class _Collected:
    solutions: list[Solution]
    predictions: list[Tensor]
    reference: list[Tensor]
    labels: list[Tensor]
    rows: list[Tensor] = field(default_factory=list)

    def common(self) -> _Collected:
        """Batches of which everything is there."""
        count = min(len(self.solutions), len(self.predictions), len(self.labels))
        reference = self.reference[:count] if len(self.reference) >= count else []
        return _Collected(
            self.solutions[:count], self.predictions[:count], reference, self.labels[:count],
            self.rows,
        )  # fmt: skip


def evaluate(
    network: IMACNetwork,
    loader: Iterable[object],
    *,
    reference: nn.Module | None = None,
    metric: Metric | None = None,
    engine: Engine | None = None,
    first: int = 0,
    limit: int | None = None,
    timing: bool | TimingOptions = False,
    noise: bool | Noise = False,
    generator: torch.Generator | None = None,
    area: AreaModel | str | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Report | ModelReport:
    """Run data through a network and compare with software.

    Streams over the loader, in the memory of one batch plus the results. Samples that did not
    converge are counted and reported, never averaged in.

    Args:
        network: A converted model.
        loader: Yields pairs: inputs (several as a tuple, named ones as a dict) and labels, or what
            ``metric`` compares outputs with.
        reference: The software model to compare with (it is run in evaluation mode); None: no
            comparison.
        metric: How good outputs are: a function of (outputs, targets) of a batch, whose mean over
            samples counts, or an object that collects (``update``, ``compute``), as those of
            torchmetrics; None: the share of right classes.
        engine: None for the network's own; ``Native(...)``, ``NgSpice(...)``, ``HSpice(...)``,
            ``Spice(simulator, directory, …)``, or one of yours
            (:class:`imac_torch.circuit.engine.Engine`).
        first: Samples to skip (IMAC-Sim: firstimage).
        limit: Samples to take, None for all (IMAC-Sim: testnum).
        timing: Whether to measure latency and energy of every sample too, with transients of
            the native engine (:class:`imac_torch.TimingOptions` for their settings). Each sample
            starts from the settled state of the one before. This takes hundreds of times as long
            as operating points. Of several circuits it is how long each takes to settle, with
            transients of some of the input vectors that have reached it
            (``TimingOptions.samples``; 16 of each), and with that the model's latency.
        noise: Whether noise is drawn anew for every image, in every use of every circuit, with the
            configuration's section of that name or another one; of the native engine. Transients
            stay without.
        generator: Where noise comes from.
        area: Model of the arrays' area, or its name, for the area of every circuit; None:
            ``imac-sim``.
        seed: Seed that the run's randomness came from, for the record.
        progress: Show a progress bar, and one for programming where that takes seconds.

    Returns:
        A :class:`Report` of a network that is one circuit between software before and behind it;
        a :class:`ModelReport` of other models, and where there is a metric or an area;
        ``print(report)``, ``report.save(directory)``.

    Warns:
        SamplingWarning: ``timing`` shows that samples have not settled at the end of
            ``timing.period``; the message says how many and what it costs.

    Raises:
        DataError: The loader's batches are no such pairs, there are too few samples, labels are
            outside the outputs, or outputs are not what the score is of.
        SolverError: Not a single sample was solved; ``timing`` or ``noise`` with another engine,
            ``timing`` of a circuit whose transients are not what its latency is; noise without a
            generator, or that is not known.
        CircuitError: Nothing limits the bandwidth of the noise.

    Whatever ends the run midway (these errors, others, Ctrl-C) has the report of the samples that
    were finished before in its ``report``.
    """
    asked = Asked(
        network, loader, reference, engine, first, limit, timing, noise, generator, seed, progress
    )
    if metric is None and area is None and isinstance(network.model, Chain):
        return _evaluate_circuit(asked)
    return evaluate_model(asked, metric, area or "imac-sim")


def _evaluate_circuit(asked: Asked) -> Report:
    """Of a network that is one circuit."""
    network, reference, timing = asked.network, asked.reference, asked.timing
    engine = network.engine if asked.engine is None else asked.engine
    if timing and not engine.measures_time:
        raise SolverError(
            "timing is measured by the native engine; leave engine out, or let the simulator "
            "measure: compile(network, loader, directory).run()"
        )
    started = time.perf_counter()
    with lasting(), asking(asked.progress):
        bound = network.segment.bind(engine)
    drawn = None
    if asked.noise:
        drawn = Heard.of("the circuit", network.segment, asked.noise, asked.generator, engine)

    run = None
    if timing:
        run = network.timing(None if timing is True else timing)
    total = samples_in(asked.loader, asked.first, asked.limit)
    collected = _Collected([], [], [], [])

    def kept(stopped: str) -> Report:
        # The engine is asked once more: it may tell what went wrong.
        done, timed = collected.common(), _finished(run)
        report = _report(network, done, timed, bound.description(), asked.seed, started)
        return replace(_heard(report, network.segment, drawn), stopped=stopped)

    label = f"{bound.description()['name']}{', transients' if run else ''}"
    with keeping(lambda: sum(map(len, collected.common().labels)), kept), lasting(), evaluating(
        network, reference
    ), progress_bar(label, total, "samples", shown=asked.progress) as advance:
        for inputs, labels in labelled_batches(
            asked.loader, classes=network.classes, first=asked.first, limit=asked.limit
        ):
            batch = inputs.to(network.device)
            voltages = network.voltages(batch)
            solution = _solve(bound, voltages, network.segment, drawn)
            if reference is not None:
                found = chosen(_scores(reference, batch), network.threshold)
                collected.reference.append(found.cpu())
            collected.solutions.append(_without_layers(solution))
            if isinstance(bound, BoundNative) and sum(map(len, collected.rows)) < SEEN:
                collected.rows.append(voltages.detach()[:SEEN])
            collected.predictions.append(network.answers(solution.outputs).cpu())
            collected.labels.append(labels.cpu())
            if run is None:
                advance(len(labels))
            else:
                run.add(voltages, progress=advance)
        if run is not None:
            run.flush()
    timed = None if run is None else run.report()
    if timed is not None and (text := timed.cost(torch.cat(collected.labels)).warning):
        warnings.warn(text, SamplingWarning, stacklevel=2)
    report = _report(network, collected, timed, bound.description(), asked.seed, started)
    return _heard(report, network.segment, drawn)


def _solve(
    bound: BoundEngine, voltages: Tensor, segment: Segment, drawn: Heard | None
) -> Solution:
    if drawn is None:
        return bound.solve(voltages)
    assert isinstance(bound, BoundNative | BoundByRead)  # noqa: S101 - noise asks for it
    voltages, noise = drawn.onto(segment, voltages)
    return bound.solve(voltages, noise=noise)


def _heard(report: Report, segment: Segment, drawn: Heard | None) -> Report:
    """With the noise that was drawn, and what was asked for."""
    if drawn is None or (figures := drawn.figures(segment)) is None:
        return report
    return replace(report, noise=figures, config=report.config.replace(noise=drawn.settings))


def _finished(run: InferenceRun | None) -> InferenceReport | None:
    """Transients of the images that were measured; those that wait are left out."""
    if run is None:
        return None
    run.discard()
    try:
        return run.report()
    except SolverError:
        return None


def _scores(model: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs (B, classes) of a software model, inputs in the type that its weights have.

    Raises:
        DataError: There are no scores by class.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    if dtype is not None and inputs.is_floating_point():
        inputs = inputs.to(dtype)
    scores: Tensor = model(inputs)
    if scores.ndim != 2 or len(scores) != len(inputs):
        raise DataError(
            f"the reference gives {tuple(scores.shape)} for {len(inputs)} samples, expected "
            f"({len(inputs)}, classes)"
        )
    return scores


def _without_layers(solution: Solution) -> Solution:
    """Results only: the voltages inside are not kept for a whole data set."""
    return combine(lambda tensor, dim: tensor.cpu(), replace(solution, layers=()))


def _report(
    network: IMACNetwork,
    collected: _Collected,
    timed: InferenceReport | None,
    engine: dict[str, str],
    seed: int | None,
    started: float,
) -> Report:
    solution = concatenate(collected.solutions)
    labels, predictions = torch.cat(collected.labels), torch.cat(collected.predictions)
    converged = solution.converged
    if not bool(converged.any()):
        raise SolverError(
            f"none of {len(labels)} samples was solved; {failures_in_words(solution.status)}"
        )
    return Report(
        labels=labels,
        predictions=torch.where(converged, predictions, torch.full_like(predictions, -1)),
        reference=torch.cat(collected.reference) if collected.reference else None,
        solution=solution,
        period=network.segment.pace.period,
        config=network.config,
        layers=network.records,
        engine=engine,
        environment=environment(),
        seed=seed,
        seconds=time.perf_counter() - started,
        timing=timed,
        counted=Counted.of(
            network.segment, torch.cat(collected.rows) if collected.rows else None
        ),
        programming=network.programming(),
    )
