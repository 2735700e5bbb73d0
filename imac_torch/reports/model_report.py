"""The result of evaluating a model with several circuits: scores, and every circuit's part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from imac_torch.base.figures import bars, bars_height, new_figure
from imac_torch.base.shown import Table
from imac_torch.base.units import area_text, quantity
from imac_torch.config import Config
from imac_torch.devices.programming import Programming, programming_tables
from imac_torch.errors import DataError
from imac_torch.model.network import LayerRecord
from imac_torch.noise.result import NoiseFigures
from imac_torch.reports.power import Counted
from imac_torch.reports.saved import SavedReport, saved_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND: Final = "model"
"""What tells these files from those of :class:`imac_torch.Report`."""
HEADINGS: Final = (
    "circuit", "uses", "arrays", "error", "power", "energy", "latency", "area",
)  # fmt: skip
"""Of the table of circuits."""


@dataclass(frozen=True)
class Score:
    """How good outputs are.

    Attributes:
        name: ``accuracy``, or the metric's.
        circuit: Of the network.
        software: Of the reference on the same samples; None: not compared.
    """

    name: str
    circuit: float
    software: float | None


@dataclass(frozen=True)
class SegmentFigures:
    """What one circuit does for one sample of the model.

    Attributes:
        path: In the model.
        layers: Paths of its layers in the original model.
        uses: Input vectors per sample: positions of a convolution, time steps, tokens; mean.
        copies: Replicas of the circuit, which share the uses.
        arrays: Physical arrays, copies included.
        error: Rms difference of its outputs from what software gives for the same inputs, relative
            to the rms of the software outputs about their mean. NaN: outputs do not vary.
        power: W, mean while it is used, by source (:meth:`imac_torch.reports.power.Counted.mean`).
            Empty where the engine gives none.
        energy: J per sample by part: ``arrays`` (what inputs and vdd deliver into the lines, times
            ``timing.period``), ``neurons``, ``amplifiers`` that are not ideal (what supplies
            deliver), ``drivers``, ``converters``, ``sums`` in software.
        latency: s per sample, one use after the other in every copy.
        area: m², by part: cells, switches, amplifiers and neurons as far as the model of areas has
            them, and its borders.
        settling: What was measured in time (:class:`imac_torch.study.settling.Settling`), by name;
            empty: nothing.
        settled: s per sample like ``latency``, but with the longest measured settling time in the
            place of ``timing.period``. NaN: not measured.
        counted: Where power goes, and which parts are ideal.
        noise: What was drawn in every use, by layer and part; None: there was none.
    """

    path: str
    layers: tuple[str, ...]
    uses: float
    copies: int
    arrays: int
    error: float
    power: Mapping[str, float]
    energy: Mapping[str, float]
    latency: float
    area: Mapping[str, float]
    settling: Mapping[str, float] = field(default_factory=dict)
    settled: float = math.nan
    counted: Counted = field(default_factory=Counted)
    noise: NoiseFigures | None = None

    def row(self) -> tuple[str, ...]:
        """Cells of the table under :data:`HEADINGS`."""
        copies = "" if self.copies == 1 else f" ({self.copies} copies)"
        return (
            self.path,
            f"{self.uses:.6g}",
            f"{self.arrays}{copies}",
            _percent(self.error),
            quantity(self.power["total"], "W") if self.power else "–",
            quantity(_total(self.energy), "J"),
            self._time(),
            area_text(_total(self.area)),
        )


    def _time(self) -> str:
        text = quantity(self.latency, "s")
        if self.settling:
            text += f" (settled {quantity(self.settled, 's')})"
        return text


@dataclass(frozen=True)
class ModelReport(SavedReport):
    """Evaluation of a model, parts of which are circuits.

    Attributes:
        samples: How many.
        failures: Samples with an output that is no number: a circuit was not solved.
        score: Of the outputs.
        agreement: Share of samples where network and reference answer alike; None: not compared,
            or no classification.
        segments: The circuits, in the model's order.
        latency: s per sample, along the longest way through the circuits. Software takes none.
            Every use of a circuit takes ``timing.period`` and what its borders need.
        settled: The same with every circuit's longest measured settling time in the place of the
            period; NaN: not measured (``timing=True``).
        tensors: ``labels``, ``predictions``, ``reference`` (B,) of classifications.
        config: What the circuits were built with, complete.
        layers: Rows of the conversion table.
        engine: ``name`` of the engine, and its settings in words.
        environment: Versions.
        seed: What the run's generator was seeded with; None: not given.
        seconds: Wall time.
        stopped: What ended the run early; empty where nothing did.
        programming: What it took to write the layers that are written by pulses.
    """

    kind = KIND
    what = "report of a model of several circuits"

    samples: int
    failures: int
    score: Score
    agreement: float | None
    segments: tuple[SegmentFigures, ...]
    latency: float
    config: Config
    layers: tuple[LayerRecord, ...]
    engine: dict[str, str]
    environment: dict[str, str]
    seed: int | None
    seconds: float
    stopped: str = ""
    settled: float = math.nan
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    programming: tuple[Programming, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of solved samples classified as labelled.

        Raises:
            DataError: The score is another one.
        """
        if self.score.name != "accuracy":
            raise DataError(f"the score of this report is {self.score.name}: report.score.circuit")
        return self.score.circuit

    def energy(self) -> dict[str, float]:
        """J per sample by part, all circuits; ``total`` is their sum."""
        return _sums(self.segments, lambda item: item.energy)

    def area(self) -> dict[str, float]:
        """m² by part, all circuits; ``total`` is their sum."""
        return _sums(self.segments, lambda item: item.area)

    def figures(self) -> dict[str, Any]:
        """The results as plain values."""
        return {
            "samples": self.samples,
            "failures": self.failures,
            self.score.name: self.score.circuit,
            f"reference_{self.score.name}": self.score.software,
            "agreement": self.agreement,
            "mean_energy": self.energy()["total"],
            "energy": self.energy(),
            "latency": self.latency,
            "settled_latency": self.settled,
            "area": self.area(),
            "seconds": self.seconds,
            "segments": [asdict(item) for item in self.segments],
            "programming": [asdict(item) for item in self.programming],
        }

    @property
    def noise(self) -> NoiseFigures | None:
        """What was drawn in every use of every circuit; None: there was none."""
        return NoiseFigures.joined([item.noise for item in self.segments if item.noise])

    def tables(self) -> tuple[Table, ...]:
        """The figures, the circuits, noise where it was drawn, and programming by pulses."""
        circuits = [item.row() for item in self.segments]
        return (
            Table("imac_torch report", self.rows(), width=110),
            Table("circuits, per sample", circuits, HEADINGS, width=130),
            *(() if self.noise is None else self.noise.tables()),
            *programming_tables(self.programming),
        )

    def plot(self) -> Figure:
        """Energy per sample of every circuit, by part."""
        rows = {item.path: item.energy for item in self.segments}
        figure, (axes,) = new_figure((bars_height(rows),))
        bars(axes, rows, unit="J")
        return figure

    def rows(self) -> list[tuple[str, str]]:
        """Names and values of the first table."""
        rows = [
            *self._first_rows(self.samples, self.failures),
            (f"{self.score.name} of the circuits", self.told(self.score.circuit)),
        ]
        if self.score.software is not None:
            rows.append((f"{self.score.name} of software", self.told(self.score.software)))
        if self.agreement is not None:
            rows.append(("agreement", _percent(self.agreement)))
        ideal = dict.fromkeys(
            part
            for item in self.segments
            for part in (
                *(name for name in item.counted.ideal if " of " not in name),
                *(f"{name} in {item.path}" for name in item.counted.ideal if " of " in name),
            )
        )
        energy = self.energy()
        total = energy.pop("total")
        parts = ", ".join(f"{key} {quantity(value, 'J')}" for key, value in energy.items() if value)
        rows += [
            ("energy per sample", quantity(total, "J") + (f" ({parts})" if parts else "")),
            *([("ideal, not counted", ", ".join(ideal))] if ideal else []),
            ("latency per sample", f"{quantity(self.latency, 's')}, software not counted"),
            *self._timed(),
            ("area", area_text(self.area()["total"])),
            ("wall time", f"{self.seconds:.2f} s"),
        ]
        return rows

    def _timed(self) -> list[tuple[str, str]]:
        measured = [item for item in self.segments if item.settling]
        if not measured:
            return []
        slowest = max(measured, key=lambda item: item.settling["worst"])
        rows = [(
            "latency, settled",
            f"{quantity(self.settled, 's')}: each circuit as long as it took at most; slowest "
            f"{slowest.path}, {quantity(slowest.settling['worst'], 's')}",
        )]  # fmt: skip
        late = [item for item in measured if item.settling["unsettled"]]
        if late:
            worst = max(late, key=lambda item: item.settling["unsettled"])
            few, of = worst.settling["unsettled"], worst.settling["vectors"]
            rows.append((
                "warning",
                f"at the end of timing.period {len(late)} circuits have not settled: "
                f"{worst.path} for {few:g} of {of:g} vectors",
            ))
        return rows

    def told(self, value: float) -> str:
        """A score as tables show it: accuracies in per cent."""
        return _percent(value) if self.score.name == "accuracy" else f"{value:.6g}"

    def _tensors(self) -> Mapping[str, Tensor]:
        return self.tensors

    def _content(self) -> dict[str, Any]:
        names = ("samples", "failures", "agreement", "latency", "settled")
        return {
            **{name: getattr(self, name) for name in names},
            "score": asdict(self.score),
            "segments": [asdict(item) for item in self.segments],
        }

    @classmethod
    def _read(
        cls, content: dict[str, Any], tensors: dict[str, Tensor], common: dict[str, Any]
    ) -> ModelReport:
        return cls(
            samples=content["samples"],
            failures=content["failures"],
            score=Score(**content["score"]),
            agreement=content["agreement"],
            segments=tuple(_segment(item) for item in content["segments"]),
            latency=content["latency"],
            settled=_number(content.get("settled"), math.nan),
            tensors=tensors,
            **common,
        )


def is_model_report(directory: str | Path) -> bool:
    """Whether a directory holds a report of a model of several circuits."""
    try:
        content = saved_text(Path(directory))
    except DataError:
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def _segment(content: Mapping[str, Any]) -> SegmentFigures:
    values = dict(content)
    values["layers"] = tuple(values["layers"])
    values["error"] = _number(values["error"], math.nan)
    timed = values.get("settling", {})
    # JSON has no infinity: where there is a measurement without a time, it never settled.
    never = math.inf if timed else math.nan
    values["settled"] = _number(values.get("settled"), never)
    values["settling"] = {name: _number(value, math.inf) for name, value in timed.items()}
    values["counted"] = Counted.read(values.get("counted"))
    values["noise"] = NoiseFigures.read(values.get("noise"))
    return SegmentFigures(**values)


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _total(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def _sums(
    segments: tuple[SegmentFigures, ...], part: Callable[[SegmentFigures], Mapping[str, float]]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in segments:
        for name, value in part(item).items():
            found[name] = found.get(name, 0.0) + value
    return {"total": sum(found.values()), **found}


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f} %"
