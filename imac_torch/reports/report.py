"""The result of an evaluation: figures, per-sample tensors, and everything to repeat it."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imac_torch.base.figures import bars, heatmap, histogram, new_figure, note
from imac_torch.base.files import read_tensors
from imac_torch.base.memo import same_values
from imac_torch.base.shown import Table
from imac_torch.base.units import quantity
from imac_torch.base.version import VERSION
from imac_torch.config import Config
from imac_torch.devices.programming import Programming, programming_tables
from imac_torch.errors import DataError
from imac_torch.model.network import LayerRecord
from imac_torch.noise.result import NoiseFigures
from imac_torch.reports.power import WORDS, Counted
from imac_torch.reports.saved import TENSORS, TEXT, SavedReport
from imac_torch.reports.timing import (
    NOT_MEASURED,
    read_timing,
    timing_content,
    timing_figures,
    timing_rows,
    timing_tensors,
)
from imac_torch.results.solution import Power, Solution, failures_in_words
from imac_torch.transient.inference_report import InferenceReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def environment() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    found["imac_torch"] = VERSION
    for package in ("torch", "numpy", "numba"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@dataclass(frozen=True)
class Report(SavedReport):
    """Evaluation of a network.

    Shapes: B samples, M outputs.

    Attributes:
        labels: (B,) int64.
        predictions: (B,) int64 of the circuit; -1 where a sample was not solved, or all
            outputs are equal.
        reference: (B,) int64 of the software model, or None.
        solution: Output voltages, powers and statuses, per sample.
        period: s, time per sample; energy is power times period.
        config: What the circuit was built with, complete.
        layers: Rows of the conversion table: what became of each module.
        engine: ``name`` of the engine, and its settings in words.
        environment: Versions of Python, of this package and of what it uses.
        seed: What the run's generator was seeded with; None: not given.
        seconds: Wall time of the evaluation.
        timing: Latency and measured energy of all samples or the first ones, or None.
        noise: What was drawn for every image, by layer and part; None: there was none.
        stopped: What ended the run before all samples were done; empty where nothing did.
        counted: What borders take, where power goes, and which parts are ideal.
        programming: What it took to write the layers that are written by pulses.
    """

    kind = None
    what = "report of imac_torch of one circuit"

    labels: Tensor
    predictions: Tensor
    reference: Tensor | None
    solution: Solution
    period: float
    config: Config
    layers: tuple[LayerRecord, ...]
    engine: dict[str, str]
    environment: dict[str, str]
    seed: int | None
    seconds: float
    timing: InferenceReport | None = None
    noise: NoiseFigures | None = None
    stopped: str = ""
    counted: Counted = field(default_factory=Counted)
    programming: tuple[Programming, ...] = ()

    @property
    def solved(self) -> Tensor:
        """(B,) bool; figures are over these samples only."""
        return self.solution.converged

    @property
    def failures(self) -> int:
        """Samples that were not solved."""
        return int((~self.solved).sum())

    @property
    def accuracy(self) -> float:
        """Share of solved samples that the circuit classifies as labelled."""
        return float((self.predictions == self.labels)[self.solved].double().mean())

    @property
    def reference_accuracy(self) -> float | None:
        """Share of the same samples that software classifies as labelled."""
        if self.reference is None:
            return None
        return float((self.reference == self.labels)[self.solved].double().mean())

    @property
    def agreement(self) -> float | None:
        """Share of solved samples on which circuit and software agree."""
        if self.reference is None:
            return None
        return float((self.predictions == self.reference)[self.solved].double().mean())

    def confusion(self) -> Tensor:
        """(C, C) int64: how many solved samples of a label (row) got an answer (column)."""
        # One output says yes or no; software behind the circuit may make more of its outputs.
        named = torch.cat([self.labels, self.predictions])
        classes = max(2, self.outputs.shape[1], 1 + int(named.max()))
        told = self.solved & (self.predictions >= 0)  # a tie of all outputs is no answer
        pairs = self.labels[told] * classes + self.predictions[told]
        return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).cpu()

    def plot(self) -> Figure:
        """Confusion, mean power by source, energies, and latencies where they were measured."""
        power, energy = self.mean_power(), self.energy
        names = [name for name in power if name in WORDS and name != "level_shift"]
        panels = 1 + 2 * bool(power) + (self.timing is not None)
        figure, (first, *others) = new_figure((300.0,) * -(-panels // 2), columns=min(panels, 2))
        heatmap(first, self.confusion(), x="answer of the circuit", y="label", first=0)
        note(first, x="answer of the circuit", y="label", title=f"{100 * self.accuracy:.2f} %")
        rest = iter(others)
        if energy is not None:
            rows = {WORDS[name]: {"power": power[name]} for name in names}
            bars(next(rest), rows, unit="W", title="mean power")
            values = energy[self.solved].tolist()
            histogram(next(rest), values, unit="J", x="energy per inference", y="samples")
        if self.timing is not None:
            latencies = self.timing.latency.images[:, 0].tolist()
            histogram(next(rest), latencies, unit="s", x="latency", y="samples")
        for axes in rest:
            axes.remove()
        return figure

    @property
    def outputs(self) -> Tensor:
        """(B, M) V."""
        return self.solution.outputs

    def mean_power(self) -> dict[str, float]:
        """W, averaged over solved samples, by source; see :meth:`Counted.mean`.

        What an engine does not measure is NaN. What ideal amplifiers deliver is no power of a
        circuit, and is called ``amplifiers_artefact``.
        """
        power = self.solution.power
        return {} if power is None else self.counted.mean(power, self.solved, self.period)

    @property
    def energy(self) -> Tensor | None:
        """(B,) J per inference: settled power times the period, and borders; None without powers.

        ``timing.energy`` is the measured one, with what the change of inputs costs.
        """
        power = self.solution.power
        return None if power is None else power.total * self.period + self.counted.border_energy

    def figures(self) -> dict[str, Any]:
        """The scalar results."""
        energy = self.energy
        return {
            "samples": len(self.labels),
            "failures": self.failures,
            "accuracy": self.accuracy,
            "reference_accuracy": self.reference_accuracy,
            "agreement": self.agreement,
            "mean_power": self.mean_power(),
            "power_by_part": dict(self.counted.parts),
            "ideal": list(self.counted.ideal),
            "mean_energy": None if energy is None else float(energy[self.solved].mean()),
            "period": self.period,
            "largest_residual": float(self.solution.residual[self.solved].max()),
            "seconds": self.seconds,
            "noise": None if self.noise is None else asdict(self.noise),
            "timing": None if self.timing is None else timing_figures(self.timing, self.labels),
            "programming": [asdict(item) for item in self.programming],
        }

    def tables(self) -> tuple[Table, ...]:
        """The figures, noise where it was drawn, and programming where there are pulses."""
        drawn = () if self.noise is None else self.noise.tables()
        written = programming_tables(self.programming)
        return (Table("imac_torch report", self._rows(), width=100), *drawn, *written)

    def _rows(self) -> list[tuple[str, str]]:
        figures = self.figures()
        rows = [
            *self._first_rows(
                figures["samples"], self.failures, failures_in_words(self.solution.status)
            ),
            ("accuracy of the circuit", f"{100 * self.accuracy:.2f} %"),
        ]
        if self.reference is not None:
            rows.append(("accuracy of software", f"{100 * (self.reference_accuracy or 0):.2f} %"))
            rows.append(("agreement", f"{100 * (self.agreement or 0):.2f} %"))
        if power := figures["mean_power"]:
            rows.append(("power, total", quantity(power["total"], "W")))
            rows += [(f"power, {name}", text) for name, text in self.counted.by_source(power)]
        if parts := self.counted.by_part():
            title = f"where it goes ({self.counted.images} images)"
            rows.append((title, ", ".join(f"{name} {text}" for name, text in parts)))
        if figures["mean_energy"] is not None:
            energy, period = quantity(figures["mean_energy"], "J"), quantity(self.period, "s")
            text = f"{energy} at {period} per sample"
            rows.append(("energy per inference", text))
        if self.timing is None:
            rows.append(("latency", NOT_MEASURED))
        else:
            rows += timing_rows(self.timing, self.labels)
        if not math.isnan(figures["largest_residual"]):  # simulators do not tell
            rows.append(("largest Kirchhoff residual", f"{figures['largest_residual']:.2g} A"))
        rows.append(("wall time", f"{self.seconds:.2f} s"))
        return rows

    def _check_place(self, directory: Path) -> None:
        """See :class:`SavedReport`; a report of the very same results is replaced."""
        tensors, known = self._tensors(), _tensors_of(directory / TENSORS)
        whole = (directory / TEXT).exists()
        if whole and not (known is not None and _same_values(known, tensors)):
            super()._check_place(directory)
        if not whole and (directory / TENSORS).exists() and "predictions" not in (known or {}):
            raise DataError(f"{directory} holds a {TENSORS} already; choose another directory")

    def _content(self) -> dict[str, Any]:
        return {
            "figures": self.figures(),
            "noise": None if self.noise is None else asdict(self.noise),
            "counted": asdict(self.counted),
            "period": self.period,
            "timing": None if self.timing is None else timing_content(self.timing),
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            "labels": self.labels,
            "predictions": self.predictions,
            "outputs": self.solution.outputs,
            "status": self.solution.status,
            "residual": self.solution.residual,
            "iterations": self.solution.iterations,
        }
        if self.reference is not None:
            tensors["reference"] = self.reference
        if self.solution.power is not None:
            for part in fields(Power):
                tensors[f"power.{part.name}"] = getattr(self.solution.power, part.name)
        if self.timing is not None:
            tensors.update(timing_tensors(self.timing))
        return {name: tensor.detach().cpu() for name, tensor in tensors.items()}

    def _check_shapes(self) -> None:
        """What a page lays side by side has to belong together.

        Raises:
            ValueError: It does not.
        """
        images = len(self.labels)
        for what in ("labels", "predictions", "reference"):
            found = getattr(self, what)
            if found is not None and found.shape != (images,):
                raise ValueError(f"{what} of shape {tuple(found.shape)} for {images} labels")
        if self.timing is not None:
            timed = len(self.timing.status)
            latency = self.timing.latency
            if latency.outputs.ndim != 3 or latency.decision.shape != latency.outputs.shape[:-1]:
                raise ValueError("latencies of outputs and of decisions do not belong together")
            for found in (self.timing.settled, self.timing.sampled):
                if found.ndim != 2 or len(found) != timed or len(latency.outputs) != timed:
                    raise ValueError(f"outputs or latencies are not of {timed} images")

    @classmethod
    def _read(
        cls, content: dict[str, Any], tensors: dict[str, Tensor], common: dict[str, Any]
    ) -> Report:
        power = None
        if "power.inputs" in tensors:
            nothing = torch.zeros_like(tensors["power.inputs"])  # of files of earlier versions
            power = Power(*(
                tensors.get(f"power.{part.name}", nothing) for part in fields(Power)
            ))
        solution = Solution(
            tensors["outputs"],
            (),
            power,
            tensors["status"],
            tensors["residual"],
            tensors["iterations"],
        )
        found = cls(
            labels=tensors["labels"],
            predictions=tensors["predictions"],
            reference=tensors.get("reference"),
            solution=solution,
            period=content["period"],
            **common,
            noise=NoiseFigures.read(content.get("noise")),
            counted=Counted.read(content.get("counted")),
            timing=read_timing(content["timing"], tensors) if content.get("timing") else None,
        )
        found._check_shapes()
        found.figures()
        return found


def _tensors_of(path: Path) -> dict[str, Tensor] | None:
    try:
        return read_tensors(path)[0]
    except (OSError, ValueError):
        return None


def _same_values(known: dict[str, Tensor], tensors: dict[str, Tensor]) -> bool:
    return known.keys() == tensors.keys() and all(
        same_values(known[name], tensor) for name, tensor in tensors.items()
    )

