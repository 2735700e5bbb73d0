"""Latency and energy of every image of a data set, measured batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.config import Timing
from imac_torch.dc.network import solve_dc
from imac_torch.errors import SolverError, SolverMemoryError
from imac_torch.kernels.ahead import begin
from imac_torch.kernels.compiled import obstacle
from imac_torch.kernels.threads import run_blocks
from imac_torch.numeric.budget import latency_bytes, require_memory
from imac_torch.numeric.modes import lasting
from imac_torch.results.energy import Energy
from imac_torch.results.latency import REFINEMENT, Latency, measure_latency
from imac_torch.results.solution import Status
from imac_torch.results.waveform import Waveforms, sample
from imac_torch.transient.inference_report import InferenceReport
from imac_torch.transient.network import integrate, refusal, refused_samples
from imac_torch.transient.options import TimingOptions
from imac_torch.transient.preparation import DynamicLayer
from imac_torch.transient.result import TransientResult
from imac_torch.transient.tiled import tiled


@dataclass(frozen=True)
class _Part:
    """A batch: (B, M) V, (B,) J and s."""

    settled: Tensor
    sampled: Tensor
    latency: Latency
    energy: Energy
    static: Energy
    status: Tensor
    error: float
    steps: tuple[int, ...]
    failure: str = ""
    waves: tuple[_Wave, ...] = ()


class _Wave(NamedTuple):
    """Images that were integrated together: (T,) s, (T, B, M) V, for so many periods."""

    time: Tensor
    outputs: Tensor
    periods: int

    def of(self, index: int) -> _Wave:
        """One image's."""
        return _Wave(self.time, self.outputs[:, index].clone(), self.periods)


class _Shown(NamedTuple):
    """An image whose waveform is wanted: (N,) V before and after, and what is known of it."""

    initial: Tensor
    inputs: Tensor
    wave: _Wave | None


TOGETHER: Final = 32
"""Images that share time steps where the compiled step does all of them: fewer have longer steps of
their own, of more the calls of torch before and behind these are shared."""


class InferenceRun:
    """Latency and energy of images that arrive in batches, in the memory of one.

    Each image starts from the settled state of the one before it: every transition is a sequence
    of its own, so that they run side by side. Where images of a batch have not settled at the end
    of the period, what is sampled of the batch comes from the stream itself. A batch whose
    integration fails is halved until the images that fail are found; the others are measured. So
    is one that takes more memory than is free.

    Args:
        layers: From :func:`imac_torch.transient.preparation.prepare_transient`.
        timing: Period and transition.
        options: Settings.
        threshold: V, above which a single output says yes; None: it stands for no class.
    """

    def __init__(
        self,
        layers: Sequence[DynamicLayer],
        timing: Timing,
        options: TimingOptions | None = None,
        threshold: float | None = None,
    ) -> None:
        self.layers, self.timing, self.threshold = layers, timing, threshold
        self.options = TimingOptions() if options is None else options
        self.failure = ""
        self._parts: list[_Part] = []
        self._count = 0
        self._taken = 0
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._progress: Callable[[int], None] | None = None
        self._last: Tensor | None = None
        self._past: Tensor | None = None
        self._shown: dict[int, _Shown] = {}
        self._slowest: tuple[float, int, _Shown] | None = None
        if tiled(layers, self.options.transient) and obstacle() is None:
            begin("steps")

    @lasting()
    def add(
        self,
        inputs: Tensor,
        *,
        initial: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Take the next images, as far as ``samples`` of the options goes.

        They are measured as soon as there are ``batch_size`` of them, and by :meth:`flush`: images
        that come one by one share their time steps all the same.

        Args:
            inputs: (B, N) V.
            initial: (B, N) or (N,) V, what was there before; None: the image before (the first
                one of all starts from 0 V), as in a stream.
            progress: Called with the number of images done just now.

        Raises:
            SolverError: Inputs do not fit, or not a single image of the first batch was solved.
        """
        count = len(inputs)
        if self.options.samples is not None:
            inputs = inputs[: max(self.options.samples - self._taken, 0)]
            initial = initial if initial is None or initial.ndim < 2 else initial[: len(inputs)]
        if progress is not None and len(inputs) < count:
            progress(count - len(inputs))
        if not len(inputs):
            return
        if initial is None:
            first = torch.zeros_like(inputs[:1]) if self._last is None else self._last
            initial = torch.cat([first, inputs[:-1]])
        self._waiting.append((initial.expand_as(inputs), inputs))
        self._last = inputs[-1:].clone()
        self._taken += len(inputs)
        self._progress = progress
        if self._taken - self._count >= self.options.batch_size:
            self._measure_waiting(self.options.batch_size)

    @lasting()
    def flush(self) -> None:
        """Measure what waits.

        Raises:
            SolverError: As for :meth:`add`.
        """
        self._measure_waiting(1)

    def discard(self) -> None:
        """Leave out the images that wait."""
        self._waiting = []

    def _measure_waiting(self, least: int) -> None:
        """Measure batches as long as ``least`` images wait."""
        if not self._waiting:
            return
        initial, inputs = (torch.cat(part) for part in zip(*self._waiting, strict=True))
        while len(inputs) >= least:
            part = slice(0, self.options.batch_size)
            found = self._measure(initial[part], inputs[part])
            self.failure = self.failure or found.failure
            if not self._parts and self.failure and bool((found.status != 0).all()):
                raise SolverError(f"no image was solved in time: {self.failure}")
            found = self._streamed(found, initial[part], inputs[part])
            self._keep(found, initial[part], inputs[part])
            if self._progress is not None:
                self._progress(len(found.status))
            initial, inputs = initial[len(found.status) :], inputs[len(found.status) :]
        self._waiting = [(initial, inputs)] if len(inputs) else []

    def _keep(self, part: _Part, initial: Tensor, inputs: Tensor) -> None:
        """Results, and the inputs of images whose waveforms will be wanted."""
        wanted = self.options.waveforms

        def shown(k: int) -> _Shown:
            begin = 0
            for wave in part.waves:
                if k - begin < wave.outputs.shape[1]:
                    return _Shown(initial[k].clone(), inputs[k].clone(), wave.of(k - begin))
                begin += wave.outputs.shape[1]
            return _Shown(initial[k].clone(), inputs[k].clone(), None)

        for k in range(min(len(inputs), max(0, wanted - self._count))):
            self._shown[self._count + k] = shown(k)
        images = part.latency.images[:, 0].nan_to_num(nan=-1.0)
        worst = int(images.argmax())
        if wanted and (self._slowest is None or float(images[worst]) > self._slowest[0]):
            self._slowest = (float(images[worst]), self._count + worst, shown(worst))
        self._parts.append(replace(part, waves=()))
        self._count += len(inputs)

    def _measure(self, initial: Tensor, inputs: Tensor) -> _Part:
        """A batch; in groups on threads, which are the same however many threads there are."""
        if not tiled(self.layers, self.options.transient):
            return self._measured(initial, inputs)
        groups = list(zip(initial.split(TOGETHER), inputs.split(TOGETHER), strict=True))
        found: dict[int, _Part] = {}

        @lasting()
        def measure(first: int, last: int) -> None:
            for k in range(first, last):
                found[k] = self._measured(*groups[k])

        run_blocks(measure, len(groups), torch.get_num_threads())
        return _join([found[k] for k in range(len(groups))])

    def _measured(self, initial: Tensor, inputs: Tensor) -> _Part:
        """Images that share their time steps."""
        try:
            return self._solve(initial, inputs)
        except SolverMemoryError:
            if len(inputs) == 1:
                raise
        except SolverError as error:
            if len(inputs) == 1:
                return self._failed(inputs, str(error))
        half = len(inputs) // 2
        first = self._measured(initial[:half], inputs[:half])
        return _join([first, self._measured(initial[half:], inputs[half:])])

    def _solve(self, initial: Tensor, inputs: Tensor) -> _Part:
        final = solve_dc([layer.static for layer in self.layers], inputs, power=False)
        result = self._transient(initial, inputs, 1)
        status = torch.maximum(final.status, result.status)
        status = torch.where(
            (status == int(Status.CONVERGED)) & ~result.inside, int(Status.OUTSIDE), status
        )
        refused = refused_samples(result, self.options.transient)
        status = torch.where(refused, int(Status.FAILED), status)
        solved = status == int(Status.CONVERGED)
        latency = self._latency(result, final.outputs)
        outputs, decision = latency.outputs, latency.decision
        periods = 1
        while periods < self.options.periods:
            waiting = (torch.isinf(latency.images) | torch.isinf(decision))[:, 0] & solved
            if not bool(waiting.any()):
                break
            # Held for longer.
            periods = min(4 * periods, self.options.periods)
            index = torch.nonzero(waiting)[:, 0]
            longer = self._latency(
                self._transient(initial[index], inputs[index], periods), final.outputs[index]
            )
            outputs = outputs.index_copy(0, index, longer.outputs)
            decision = decision.index_copy(0, index, longer.decision)
            latency = Latency(outputs, decision, latency.fraction)
        sampled = sample(result.time, result.outputs, result.time[-1:])[0]
        # Where nothing leaves its band nothing has happened: there is no latency to speak of.
        still = (torch.fmax(latency.images, decision) == 0.0)[:, 0]
        timed = solved & ~still
        none = torch.nan
        return _Part(
            torch.where(solved[:, None], final.outputs, none).cpu(),
            torch.where(solved[:, None], sampled, none).cpu(),
            Latency(
                torch.where(timed[:, None, None], outputs, none).cpu(),
                torch.where(timed[:, None], decision, none).cpu(),
                latency.fraction,
            ),
            _masked(result.energy, solved),
            _masked(result.static, solved),
            status.cpu(),
            float(result.reduction_error[solved].max()) if bool(solved.any()) else 0.0,
            (result.steps,),
            refusal(result, self.options.transient),
            (_Wave(result.time.cpu(), result.outputs.cpu(), 1),) if self.options.waveforms else (),
        )

    def _streamed(self, part: _Part, initial: Tensor, inputs: Tensor) -> _Part:
        """The batch as a stream samples it, where its images have not settled by then.

        In windows side by side: each begins so many images before those that it is for that what
        was there before them has died away twice over.
        """
        period = self.timing.period
        before = initial[:1]
        if self._past is not None and torch.equal(self._past[-1:], before):
            before = self._past
        known = torch.equal(initial[1:], inputs[:-1])  # else they are no stream
        self._past = torch.cat([before, inputs])[-self.options.periods - 1 :].clone()
        ready = part.latency.ready[:, 0]
        if not known or not bool((ready > period).any()):
            return part
        slowest = float(ready.nan_to_num(nan=0.0, posinf=math.inf).max())
        periods = self.options.periods
        warm = periods if math.isinf(slowest) else min(math.ceil(2.0 * slowest / period), periods)
        length = min(2 * warm, len(inputs))
        count = math.ceil(len(inputs) / length)
        line = torch.cat([
            before[:1].expand(max(warm + 1 - len(before), 0), -1), before[-warm - 1 :], inputs,
            inputs[-1:].expand(count * length - len(inputs), -1),
        ])  # fmt: skip
        windows = line.unfold(0, warm + 1 + length, length).transpose(1, 2)
        sampled = self._ends(windows)[:, warm:].flatten(0, 1)[: len(inputs)].cpu()
        solved = part.status == int(Status.CONVERGED)
        return replace(part, sampled=torch.where(solved[:, None], sampled, torch.nan))

    def _ends(self, vectors: Tensor) -> Tensor:
        """(W, L, M) V at the ends of periods, for (W, 1 + L, N) V; NaN where steps fail."""
        try:
            found = integrate(
                self.layers, vectors[:, 1:], self.timing,
                initial=vectors[:, 0], options=self.options.transient,
            )  # fmt: skip
        except SolverError as error:
            if len(vectors) == 1:
                if isinstance(error, SolverMemoryError):
                    raise
                self.failure = self.failure or str(error)
                outputs = self.layers[-1].ports.outputs
                return vectors.new_full((1, vectors.shape[1] - 1, outputs), torch.nan)
            half = len(vectors) // 2
            return torch.cat([self._ends(vectors[:half]), self._ends(vectors[half:])])
        return found.outputs[found.periods[1:]].transpose(0, 1)

    def _transient(self, initial: Tensor, inputs: Tensor, periods: int) -> TransientResult:
        timing = self.timing.replace(period=periods * self.timing.period)
        return integrate(
            self.layers, inputs[:, None], timing, initial=initial, options=self.options.transient
        )

    def _latency(self, result: TransientResult, final: Tensor) -> Latency:
        """Over all of the time, however many periods."""
        require_memory(
            latency_bytes(REFINEMENT * len(result.time), *result.outputs.shape[1:]),
            f"measuring latencies of {len(final)} images",
            "take longer steps (control.tolerance), or fewer periods",
            final.device,
        )
        return measure_latency(
            result.time,
            result.outputs,
            float(result.time[-1] - result.time[0]),
            fraction=self.options.fraction,
            resolution=self.options.resolution,
            final=final[:, None],
            threshold=self.threshold,
        )

    def _charged(self) -> bool:
        """Whether anything in the circuit takes time."""
        return self.timing.load_capacitance > 0.0 or any(layer.charged for layer in self.layers)

    def _failed(self, inputs: Tensor, why: str) -> _Part:
        last = self.layers[-1].ports
        count = len(inputs)
        outputs = torch.full((count, last.outputs), torch.nan, dtype=torch.float64, device="cpu")
        column = outputs[:, :1]
        energy = Energy(*(column for _ in fields(Energy)))
        return _Part(
            outputs, outputs, Latency(outputs[:, None], column, self.options.fraction), energy,
            energy, torch.full((count,), int(Status.FAILED), device="cpu"), 0.0, (), why,
            (_Wave(torch.zeros(1, device="cpu"), outputs[None], 0),),
        )  # fmt: skip

    @lasting()
    def _waveforms(self) -> Waveforms | None:
        wanted = dict(list(self._shown.items())[: max(self.options.waveforms - 1, 0)])
        if self._slowest is not None and self._slowest[0] >= 0.0:
            wanted[self._slowest[1]] = self._slowest[2]
        status = torch.cat([part.status for part in self._parts])
        chosen = {k: v for k, v in wanted.items() if int(status[k]) == int(Status.CONVERGED)}
        if not chosen:
            return None
        images = torch.tensor(list(chosen), device="cpu")
        latest = max(0.0 if self._slowest is None else self._slowest[0], self.timing.period)
        # One that never settles is shown for as long as was looked.
        longest = self.options.periods * self.timing.period
        periods = math.ceil(min(latest, longest) / self.timing.period)
        periods = min(periods, self.options.periods)
        known = [item.wave for item in chosen.values()]
        waves = [wave for wave in known if wave is not None and wave.periods == periods]
        if len(waves) == len(known):
            time = torch.cat([wave.time for wave in waves]).unique()
            outputs = [sample(wave.time, wave.outputs, time) for wave in waves]
            return Waveforms(images, time, torch.stack(outputs, dim=1))
        result = self._transient(
            torch.stack([item.initial for item in chosen.values()]),
            torch.stack([item.inputs for item in chosen.values()]),
            periods,
        )
        return Waveforms(images, result.time.cpu(), result.outputs.cpu())

    def report(self) -> InferenceReport:
        """Everything so far.

        Raises:
            SolverError: There is nothing.
        """
        self.flush()
        if not self._parts:
            raise SolverError("there are no inputs")
        whole = _join(self._parts)
        control = self.options.transient.control
        return InferenceReport(
            whole.settled,
            whole.sampled,
            whole.latency,
            whole.energy,
            whole.static,
            self.timing,
            whole.status,
            tuple(layer.lines.name for layer in self.layers),
            whole.error,
            whole.steps,
            f"{control.method.upper()}, "
            + (f"tolerance {control.tolerance:g} V" if control.adaptive else "given steps")
            + ("" if self._charged() else "; nothing holds charge, latency is that of the ramp"),
            self.options.resolution,
            self._waveforms(),
            self.failure,
            self.threshold,
        )


def _join(parts: Sequence[_Part]) -> _Part:
    return _Part(
        torch.cat([part.settled for part in parts]),
        torch.cat([part.sampled for part in parts]),
        Latency.join([part.latency for part in parts]),
        Energy.join([part.energy for part in parts], 0),
        Energy.join([part.static for part in parts], 0),
        torch.cat([part.status for part in parts]),
        max(part.error for part in parts),
        tuple(count for part in parts for count in part.steps),
        next((part.failure for part in parts if part.failure), ""),
        tuple(wave for part in parts for wave in part.waves),
    )


def _masked(energy: Energy, solved: Tensor) -> Energy:
    return Energy(*(
        torch.where(solved[:, None], getattr(energy, part.name), torch.nan).cpu()
        for part in fields(Energy)
    ))
