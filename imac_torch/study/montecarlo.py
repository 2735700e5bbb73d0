"""Monte Carlo: many samples of the devices, solved together, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.config import Noise
from imac_torch.conversion.calibration import join_samples
from imac_torch.conversion.outputs import Outputs, Scored
from imac_torch.datasets.batches import check_labels
from imac_torch.datasets.metrics import Metric
from imac_torch.devices.model import DeviceModel  # noqa: F401 - in signatures of inherited fields
from imac_torch.errors import MappingError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.model.network import Chain, IMACNetwork  # noqa: F401 - likewise
from imac_torch.model.noisy import Heard, hearing
from imac_torch.noise.sampling import NoiseDraws
from imac_torch.numeric.budget import fitting, require_memory, sample_bytes
from imac_torch.numeric.forecast import Forecast
from imac_torch.numeric.modes import lasting
from imac_torch.numeric.side_by_side import side_by_side
from imac_torch.results.solution import Solution, concatenate
from imac_torch.study.chips import Chips
from imac_torch.study.montecarlo_result import MonteCarloResult

MEMORY: Final = 256 * 2**20
"""Bytes that the samples of a chunk may take, unless asked otherwise."""


@dataclass(frozen=True)
class MonteCarlo(Chips):
    """Samples of a network's devices, and what they do.

    Attributes:
        network: See :class:`Chips`, as ``model``, ``seed`` and what is raised.
        model: See there.
        seed: See there.
    """

    def chunks(self, samples: int, images: int, memory: int = MEMORY) -> Iterator[range]:
        """Ranges of samples whose conductances, ports and voltages fit ``memory`` bytes."""
        each = 0
        for layer in self.network.analog_layers():
            rows, columns = layer.matrix.rows, layer.matrix.columns
            cut = layer.config.crossbar
            horizontal, vertical = (
                given if isinstance(given, int) else -(-lines // limit)
                for given, lines, limit in (
                    (cut.horizontal, columns, cut.columns),
                    (cut.vertical, rows, cut.rows),
                )
            )
            wide = -(-columns // horizontal)
            each += sample_bytes(rows, columns, horizontal, vertical, wide, images)
        size = fitting(max(1, memory // each), each)
        for first in range(0, samples, size):
            yield range(first, min(first + size, samples))

    @lasting()
    def solve(self, samples: range, voltages: Tensor, *, power: bool = True) -> Solution:
        """Solve some samples together.

        With effects of every read (``ReadNoise``) each image sees conductances of its own: arrays
        are eliminated once per sample and image, not once per sample.

        Args:
            samples: Their numbers.
            voltages: (B, N) V, at the inputs of the circuit.
            power: Whether to compute powers.

        Returns:
            Shapes (S, B, …).

        Raises:
            MappingError: There are no samples.
            SolverMemoryError: So many samples at once take more memory than is free.
        """
        if not samples:
            raise MappingError("there are no samples")
        work = len(samples) * len(voltages)
        forecast = Forecast(f"solving {len(samples)} samples", work)
        return self._solve_samples(samples, voltages, forecast, power=power)

    def _solve_samples(
        self,
        samples: range,
        voltages: Tensor,
        forecast: Forecast,
        *,
        power: bool,
        noise: Sequence[Tensor] | None = None,
    ) -> Solution:
        nominal = self.all_nominal()
        on_cpu = all(pair.positive.device.type == "cpu" for pair, _, _ in nominal)
        programmed = side_by_side(
            [partial(self.programmed_from, nominal, sample) for sample in samples],
            torch.get_num_threads() if on_cpu else 1,
        )
        if not self.varies_by_read or not len(voltages):
            return self._solve(samples, programmed, voltages, power=power, noise=noise)
        # Every image has conductances of its own, and so an elimination of its own.
        found = []
        for image in range(len(voltages)):
            drawn = [
                self.read_from(pairs, sample, image)
                for sample, pairs in zip(samples, programmed, strict=True)
            ]
            one = slice(image, image + 1)
            own = None if noise is None else [shift[one] for shift in noise]
            found.append(self._solve(samples, drawn, voltages[one], power=power, noise=own))
            forecast.done(len(samples))
        return concatenate(found)

    def _solve(
        self,
        samples: range,
        drawn: list[list[ConductancePair]],
        voltages: Tensor,
        *,
        power: bool,
        noise: Sequence[Tensor] | None,
    ) -> Solution:
        parts = []
        amplifiers = [self.offsets(sample) for sample in samples]
        for index, layer in enumerate(self.network.analog_layers()):
            pair = ConductancePair(
                torch.stack([item[index].positive for item in drawn]),
                torch.stack([item[index].negative for item in drawn]),
            )
            kept = [item for item in (found[index] for found in amplifiers) if item is not None]
            crossbar = build_crossbar(
                pair, layer.config, layer.matrix.gain(),
                offsets=torch.stack(kept) if kept else None,
            )  # fmt: skip
            parts.append((crossbar, layer.neuron_spec()))
        engine = self.network.segment.native
        return engine.solve(engine.prepare(parts), voltages, power=power, noise=noise)

    def _drawing(self, sample: int, noise: bool | Noise, draws: NoiseDraws | None) -> Heard:
        """The noise of one sample of a network that is one circuit.

        Args:
            sample: Its number.
            noise: See :meth:`run`.
            draws: What was measured of a sample before.
        """
        generator = self.generator(sample, 2 * len(list(self.network.analog_layers())))
        heard = Heard.of("the circuit", self.network.segment, noise, generator)
        heard.draws = draws
        return heard

    @lasting()
    def run(
        self,
        inputs: Any,  # noqa: ANN401 - as the model takes it
        labels: Any = None,  # noqa: ANN401 - as the metric takes it
        *,
        samples: int,
        first: int = 0,
        metric: Metric | None = None,
        noise: bool | Noise = False,
        memory: int = MEMORY,
        keep_outputs: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> MonteCarloResult:
        """Solve a batch of images for many samples.

        A model of several circuits is run once per sample, with all of its circuits programmed for
        it; one circuit is solved for as many samples at a time as fit into ``memory``.

        Args:
            inputs: (B, …) as the original model takes it; of a model of several circuits also
                batches in a list, as :func:`imac_torch.ablate` takes them.
            labels: (B,) int64 classes, or None; or what ``metric`` compares outputs with.
            samples: How many.
            first: Number of the first one. A sample is the same in every run of its seed, so that
                runs may be continued: :meth:`MonteCarloResult.joined`.
            metric: See :func:`imac_torch.evaluate`; None: accuracy.
            noise: Whether noise is drawn besides, of every sample, image and use of a circuit its
                own, with the section of that name of each circuit's configuration, or another
                one. It is as strong as with the network's own devices, in models of several
                circuits as with those of the first sample; samples are run one by one.
            memory: Bytes per chunk of samples.
            keep_outputs: Whether to keep all output voltages (S·B·M numbers).
            progress: Called with samples done and samples in all after every chunk.

        Raises:
            MappingError: There are no samples or no inputs.
            SolverMemoryError: What is kept takes more memory than is free.
            DataError: Labels do not match the inputs, or name classes that are not there.
        """
        if samples < 1 or first < 0:
            raise MappingError(f"samples = {samples} must be at least 1, first = {first} 0")
        alone = isinstance(self.network.model, Chain) and metric is None
        if not alone:
            numbers = range(first, first + samples)
            bench = Scored.of(self.network, inputs, labels, metric)
            return self._one_by_one(
                bench, numbers, noise, keep_outputs=keep_outputs, progress=progress
            )
        if not isinstance(inputs, Tensor):
            inputs = join_samples(inputs)
        if labels is not None:
            labels = check_labels(labels, inputs, classes=self.network.classes)
        if len(inputs) == 0:
            raise MappingError("there are no inputs")
        voltages = self.network.voltages(inputs)
        if keep_outputs:
            width = list(self.network.analog_layers())[-1].out_features
            require_memory(
                16 * samples * len(voltages) * width,  # in parts, and joined
                f"keeping all outputs of {samples} samples",
                "leave keep_outputs out, or take fewer images",
            )
        native = self.network.segment.native
        nominal = native.solve(self.network.prepare(), voltages, power=False).outputs
        parts: list[MonteCarloResult] = []
        forecast = Forecast(f"Monte Carlo of {samples} samples", samples * len(voltages))
        draws: NoiseDraws | None = None
        chunks = self.chunks(samples, len(voltages), memory)
        for numbers in (range(k, k + 1) for k in range(samples)) if noise else chunks:
            chunk = range(first + numbers.start, first + numbers.stop)
            given, shifts = voltages, None
            if noise:
                heard = self._drawing(chunk.start, noise, draws)
                given, shifts = heard.onto(self.network.segment, voltages)
                draws = heard.draws
            solution = self._solve_samples(chunk, given, forecast, power=True, noise=shifts)
            forecast.done(len(chunk) * len(voltages))
            converged = solution.converged.to(torch.float64)
            difference = (solution.outputs - nominal).nan_to_num()
            counted = converged.sum(-1).clamp(min=1.0)
            square = difference.square().mean(-1).sum(-1) / counted
            accuracy = torch.full((len(chunk),), torch.nan, dtype=torch.float64, device="cpu")
            if labels is not None:
                found = self.network.answers(solution.outputs)
                correct = (found == labels.to(found.device)) & solution.converged
                accuracy = correct.to(torch.float64).mean(-1).cpu()
            if solution.power is None:
                raise MappingError("the engine gave no power")
            power = (solution.power.total * converged).nan_to_num().sum(-1) / counted
            parts.append(MonteCarloResult(
                accuracy, power.cpu(), square.sqrt().cpu(), converged.mean(-1).cpu(),
                solution.outputs.cpu() if keep_outputs else None, accuracy,
            ))  # fmt: skip
            if progress is not None:
                progress(numbers.stop, samples)
        return MonteCarloResult.joined(parts)

    def _one_by_one(
        self,
        bench: Scored,
        numbers: range,
        noise: bool | Noise,
        *,
        keep_outputs: bool,
        progress: Callable[[int, int], None] | None,
    ) -> MonteCarloResult:
        """Samples of any model, one after the other."""
        nominal = Outputs.of(self.network, bench.runs)
        parts: list[MonteCarloResult] = []
        measured: dict[str, NoiseDraws | None] = {}
        forecast = Forecast(f"Monte Carlo of {len(numbers)} samples", len(numbers))
        for done, sample in enumerate(numbers, 1):
            generator = self.generator(sample, 2 * len(list(self.network.analog_layers())))
            with self.realised(sample) as network, hearing(
                network.segments, noise, generator
            ) as heard:
                for path, item in heard.items():
                    item.draws = measured.get(path)
                found = Outputs.of(network, bench.runs)
                measured = {path: item.draws for path, item in heard.items()}
            accuracy, score, failed = bench.scores(found)
            share = 1.0 - failed / bench.samples
            right, power, error, converged, scored = torch.tensor(
                [[accuracy], [math.nan], [found.difference(nominal)], [share], [score]],
                dtype=torch.float64, device="cpu",
            )  # fmt: skip
            outputs = found.joined().cpu()[None] if keep_outputs else None
            parts.append(
                MonteCarloResult(right, power, error, converged, outputs, scored, unit="")
            )
            forecast.done(1)
            if progress is not None:
                progress(done, len(numbers))
        return MonteCarloResult.joined(parts)
