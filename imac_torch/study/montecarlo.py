"""Monte Carlo: many samples of the devices, solved together, in bounded memory.

Every sample has its own generator, seeded from the run's seed and the sample's number alone: it
is the same whatever the chunks, and can be had again, singly, for a netlist.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from imac_torch.base.figures import histogram, new_figure
from imac_torch.base.shown import Shown, Table
from imac_torch.base.units import quantity
from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.config import Memristor, Noise
from imac_torch.conversion.calibration import join_samples
from imac_torch.conversion.outputs import Outputs, Scored
from imac_torch.datasets.batches import check_labels
from imac_torch.datasets.metrics import Metric
from imac_torch.devices.model import (
    CELLS,
    READ_MULTIPLIER,
    DeviceModel,
    DeviceSample,
    reader,
)
from imac_torch.errors import MappingError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import Chain, IMACNetwork
from imac_torch.model.noisy import Heard, hearing
from imac_torch.noise.sampling import NoiseDraws
from imac_torch.numeric.budget import fitting, require_memory, sample_bytes
from imac_torch.numeric.forecast import Forecast
from imac_torch.numeric.modes import lasting
from imac_torch.numeric.side_by_side import side_by_side
from imac_torch.results.solution import Solution, concatenate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEMORY: Final = 256 * 2**20
"""Bytes that the samples of a chunk may take, unless asked otherwise."""
SEED_MULTIPLIER: Final = 0x9E3779B97F4A7C15
"""2⁶⁴/φ (D. E. Knuth, TAOCP vol. 3, 6.4): neighbouring samples get distant seeds."""
RUN_MULTIPLIER: Final = 0xD1342543DE82EF95
"""Multiplier of a good congruential generator modulo 2⁶⁴ (G. L. Steele and S. Vigna, Softw. Pract.
Exper. 52(2), 443-458, 2022, doi:10.1002/spe.3030): neighbouring runs do not share samples."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class MonteCarloResult(Shown):
    """Distributions over samples.

    The images are taken as given: intervals say what other devices would do, not other images.

    Attributes:
        accuracy: (S,) share of correct labels per sample, NaN without labels.
        power: (S,) W, mean total power over the images of the sample; NaN of models of several
            circuits, which work one after the other: ``evaluate(realise(sample), loader)``.
        error: (S,) V, rms difference of the outputs from those of nominal devices; of models of
            several circuits and with a metric in the units of their outputs.
        converged: (S,) share of images that converged; the others do not count as correct.
        outputs: (S, B, M) V where they were asked for, or None; likewise.
        score: (S,) by the metric that was given; without one it is the accuracy.
        unit: Of ``error`` and ``outputs``; empty where it is that of the model's outputs.
    """

    accuracy: Tensor
    power: Tensor
    error: Tensor
    converged: Tensor
    outputs: Tensor | None
    score: Tensor
    unit: str = "V"

    @classmethod
    def joined(cls, parts: Sequence[MonteCarloResult]) -> MonteCarloResult:
        """Results of runs that continue each other as one.

        Raises:
            MappingError: There is none.
        """
        if not parts:
            raise MappingError("there are no results to join")
        kept = [part.outputs for part in parts if part.outputs is not None]
        accuracy, power, error, converged, score = (
            torch.cat([getattr(part, name) for part in parts])
            for name in ("accuracy", "power", "error", "converged", "score")
        )
        outputs = torch.cat(kept) if len(kept) == len(parts) else None
        return cls(accuracy, power, error, converged, outputs, score, parts[0].unit)

    def tables(self) -> tuple[Table]:
        """Mean, spread and range of what was measured, over devices."""
        percent = lambda value: f"{100 * value:.2f} %"  # noqa: E731
        same = bool((self.score == self.accuracy).all())
        columns: list[tuple[str, Tensor, Callable[[float], str]]] = [
            ("accuracy", self.accuracy, percent),
            *([] if same else [("score", self.score, lambda value: f"{value:.5g}")]),
            ("power", self.power, lambda value: quantity(value, "W")),
            ("error of outputs", self.error, lambda value: quantity(value, self.unit)),
            ("images solved", self.converged, percent),
        ]
        rows = []
        for name, values, told in columns:
            if bool(values.isnan().all()):
                continue  # not measured
            low, high = mean_interval(values).low, mean_interval(values).high
            between = f"{told(low)} to {told(high)}" if len(values) > 1 else "–"
            spread = told(float(values.std())) if len(values) > 1 else "–"
            ends = (told(float(values.min())), told(float(values.max())))
            rows.append((name, told(float(values.mean())), between, spread, *ends))
        headings = ("", "mean", "95 % interval of it", "standard deviation", "least", "most")
        return (Table(f"imac_torch Monte Carlo: {len(self.power)} samples", rows, headings),)

    def plot(self) -> Figure:
        """How what was measured spreads over devices."""
        kept = [
            (name, values, unit)
            for name, values, unit in (
                ("accuracy", self.accuracy, ""), ("power", self.power, "W"),
                ("rms error of outputs", self.error, self.unit),
            )
            if bool(values.isfinite().any())
        ]  # fmt: skip
        figure, panels = new_figure(columns=len(kept), width=400)
        for axes, (name, values, unit) in zip(panels, kept, strict=True):
            histogram(axes, values.tolist(), unit=unit, x=name, y="devices")
        return figure

    def mean_accuracy(self, confidence: float = 0.95) -> Interval:
        """Mean accuracy over devices with the interval of the normal approximation."""
        return mean_interval(self.accuracy, confidence)

    def mean_score(self, confidence: float = 0.95) -> Interval:
        """Mean of the metric, likewise."""
        return mean_interval(self.score, confidence)

    def mean_power(self, confidence: float = 0.95) -> Interval:
        """Mean power, W, likewise."""
        return mean_interval(self.power, confidence)

    def yield_above(self, accuracy: float, confidence: float = 0.95) -> Interval:
        """Share of samples that reach an accuracy, with Wilson's interval; NaN without labels."""
        if bool(self.accuracy.isnan().any()):
            return Interval(math.nan, math.nan, math.nan, confidence)
        return wilson_interval(self.accuracy >= accuracy, confidence)


def _quantile(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise MappingError(f"confidence = {confidence} must be in (0, 1)")
    half = torch.tensor((1.0 + confidence) / 2.0, dtype=torch.float64, device="cpu")
    return float(torch.special.ndtri(half))


def mean_interval(values: Tensor, confidence: float = 0.95) -> Interval:
    """Mean of (S,) values, ± z·s/√S."""
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf, confidence)
    half = _quantile(confidence) * float(values.std()) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, confidence)


def wilson_interval(passed: Tensor, confidence: float = 0.95) -> Interval:
    """Share of true among (S,) bool, with the score interval.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am.
    Stat. Assoc. 22(158), 209-212 (1927), doi:10.1080/01621459.1927.10502953: holds its confidence
    near 0 and 1, where ± z·s/√S does not.
    """
    count = len(passed)
    share = float(passed.to(torch.float64).mean())
    z = _quantile(confidence)
    denominator = 1.0 + z * z / count
    middle = (share + z * z / (2 * count)) / denominator
    half = z / denominator * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), confidence)


@dataclass(frozen=True)
class MonteCarlo:
    """Samples of a network's devices.

    Attributes:
        network: A converted model; with a model, what has become of its devices counts as nominal.
        model: What happens to the devices, of all layers; None: what the configuration of each
            says, its variation and effects, instead of the devices that the network has.
        seed: Of the run.

    Raises:
        MappingError: There is no model, and the configuration says nothing either.
    """

    network: IMACNetwork
    model: DeviceModel | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse samples that would all be the same."""
        if self.model is None and not any(
            layer.matrix.varies for layer in self.network.analog_layers()
        ):
            raise MappingError(
                "the network's configuration says nothing of what happens to devices or amplifiers "
                "(device.variation, device.effects, amplifier.offset_spread): give a model, "
                "MonteCarlo(network, DeviceModel((LogNormal(0.05),)))"
            )

    def generator(self, sample: int, layer: int = -1) -> torch.Generator:
        """The generator of one sample's programming, or of a layer's (from 0) first read."""
        mixed = self.seed * RUN_MULTIPLIER + (sample + 1) * SEED_MULTIPLIER
        return torch.Generator().manual_seed((mixed + (layer + 1) * READ_MULTIPLIER) % 2**63)

    def _nominal(self, layer: IMACLinear) -> tuple[ConductancePair, DeviceModel]:
        """What becomes of which conductances."""
        matrix = layer.matrix
        if self.model is None:
            return matrix.nominal_conductances(), DeviceModel.of(layer.config.device)
        return matrix.conductances(), self.model

    @property
    def varies_by_read(self) -> bool:
        """Whether two images see different conductances of the same sample."""
        return any(
            self._nominal(layer)[1].varies_by_cycle for layer in self.network.analog_layers()
        )

    @lasting()
    def drawn(self, sample: int) -> list[DeviceSample]:
        """What becomes of the devices of one sample, by layer."""
        programming, found = self.generator(sample), []
        for index, layer in enumerate(self.network.analog_layers()):
            pair, model = self._nominal(layer)
            begin = programming.get_state()
            model.program(pair, layer.config.device, programming)  # the next layer's come after
            found.append(DeviceSample(model, begin, self.generator(sample, index).get_state()))
        return found

    @lasting()
    def programmed(self, sample: int) -> list[ConductancePair]:
        """(M·L, N+1) S per layer, of one sample as it stays from read to read."""
        return self._programmed(self._all_nominal(), sample)

    def _all_nominal(self) -> list[tuple[ConductancePair, DeviceModel, Memristor]]:
        """What becomes of which conductances of which device, by layer: of all samples."""
        layers = self.network.analog_layers()
        return [(*self._nominal(layer), layer.config.device) for layer in layers]

    def _programmed(
        self, nominal: list[tuple[ConductancePair, DeviceModel, Memristor]], sample: int
    ) -> list[ConductancePair]:
        generator = self.generator(sample)
        return [model.program(pair, device, generator) for pair, model, device in nominal]

    @lasting()
    def conductances(self, sample: int, read: int = 0) -> list[ConductancePair]:
        """(M·L, N+1) S per layer, of one sample in one read; L slices of an output are neighbours.

        Args:
            sample: Its number.
            read: From 0; image k of a batch is read k.
        """
        return self._read(self.programmed(sample), sample, read)

    def _read(
        self, programmed: list[ConductancePair], sample: int, read: int
    ) -> list[ConductancePair]:
        found = []
        for index, (pair, layer) in enumerate(
            zip(programmed, self.network.analog_layers(), strict=True)
        ):
            first = self.generator(sample, index).get_state()
            model, device = self._nominal(layer)[1], layer.config.device
            found.append(model.read(pair, device, reader(first, read), reader(first, CELLS)))
        return found

    @lasting()
    def offsets(self, sample: int) -> list[Tensor | None]:
        """(M·L, H, n) V of every layer's amplifiers; None: they do not differ.

        With a model of one's own they are the network's, as its devices are.
        """
        layers = list(self.network.analog_layers())
        if self.model is not None:
            return [layer.matrix.offsets for layer in layers]
        return [
            layer.matrix.drawn_offsets(self.generator(sample, len(layers) + index))
            for index, layer in enumerate(layers)
        ]

    @lasting()
    def realise(self, sample: int) -> IMACNetwork:
        """A copy of the network whose devices are those of one sample.

        It computes what the sample does, in every read. A netlist of it is of the first one, that
        of image 0.
        """
        network = copy.deepcopy(self.network)
        self._put(network, sample)
        return network

    def _put(self, network: IMACNetwork, sample: int) -> None:
        """Give a network the devices and amplifiers of a sample."""
        parts = zip(
            network.analog_layers(), self.drawn(sample), self.offsets(sample), strict=True
        )
        for layer, drawn, offsets in parts:
            matrix = layer.matrix
            before = () if self.model is None else matrix.history
            matrix.devices, matrix.sample = (*before, drawn), None
            matrix.offsets = offsets

    @contextmanager
    def _realised(self, sample: int) -> Iterator[IMACNetwork]:
        """The network itself with the devices of a sample for a while."""
        matrices = [layer.matrix for layer in self.network.analog_layers()]
        before = [(matrix.devices, matrix.sample, matrix.offsets) for matrix in matrices]
        try:
            self._put(self.network, sample)
            yield self.network
        finally:
            for matrix, (devices, own, offsets) in zip(matrices, before, strict=True):
                matrix.devices, matrix.sample, matrix.offsets = devices, own, offsets

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
        nominal = self._all_nominal()
        on_cpu = all(pair.positive.device.type == "cpu" for pair, _, _ in nominal)
        programmed = side_by_side(
            [partial(self._programmed, nominal, sample) for sample in samples],
            torch.get_num_threads() if on_cpu else 1,
        )
        if not self.varies_by_read or not len(voltages):
            return self._solve(samples, programmed, voltages, power=power, noise=noise)
        # Every image has conductances of its own, and so an elimination of its own.
        found = []
        for image in range(len(voltages)):
            drawn = [
                self._read(pairs, sample, image)
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
            with self._realised(sample) as network, hearing(
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
