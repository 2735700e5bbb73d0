"""Sweeps of the systems: run or resumed by the package, written as SQLite and CSV."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import imac_torch as imac
from imac_torch.base.files import write_text
from imac_torch.dc.ir_drop import cell_voltages
from imac_torch.errors import SolverError
from imac_torch.sweep import Evaluator, InProcess, NetworkEvaluator, Processes, run_sweep
from imac_torch.sweep.points import Point, configure
from imac_torch.sweep.tasks import Bench
from paper_systems.grids import Case

__all__ = ["WiresEvaluator", "percent", "run_cases", "save_tables", "show", "write_rows"]


def run_cases(
    cases: Sequence[Case], evaluator: Evaluator, directory: Path, name: str, *, workers: int = 1
) -> list[dict[str, Any]]:
    """Run what has no result yet and give labels and metrics of every case.

    Writes ``name.sqlite``, with which the same command goes on after any end, and ``name.csv``.

    Raises:
        SolverError: A point failed; the others are kept.
    """
    table = run_sweep(
        [case.point for case in cases],
        evaluator,
        directory / f"{name}.sqlite",
        backend=InProcess() if workers == 1 else Processes(workers),
        retry_failed=True,
    )
    failed = [row for row in table.rows if row["status"] != "done"]
    if failed:
        raise SolverError(f"{len(failed)} of {len(table)} points failed: {failed[0]['error']}")
    rows = [
        {**case.labels, **{metric: row[metric] for metric in table.metrics}}
        for case, row in zip(cases, table.rows, strict=True)
    ]
    write_rows(rows, directory / f"{name}.csv")
    return rows


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Rows of equal names as CSV."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Print a table, and give it as Markdown for a report."""
    table = Table(title=title)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def percent(share: float) -> str:
    """0.9655 as 96.6 (in per cent)."""
    return f"{100.0 * share:.1f}"


@dataclass(frozen=True)
class WiresEvaluator:
    """A network's figures, and besides what its wires do: drops in volts, latency in seconds.

    Metrics besides those of :class:`imac_torch.sweep.NetworkEvaluator`: its metrics of time for
    the first samples; ``input_drop`` and ``output_drop`` (V, mean over samples of the worst cell)
    of the first layer, whose lines are the longest.

    Attributes:
        inner: The network and its data.
        samples: So many of the first ones are timed and looked into.
        timing: How they are timed.
    """

    inner: NetworkEvaluator
    samples: int = 20
    timing: imac.TimingOptions = field(default_factory=imac.TimingOptions)

    @property
    def timed(self) -> NetworkEvaluator:
        """The same network, timed on fewer samples."""
        few = slice(0, self.samples)
        return replace(
            self.inner, inputs=self.inner.inputs[few], labels=self.inner.labels[few],
            timing=self.timing,
        )  # fmt: skip

    def key(self, point: Point) -> str:
        """See :class:`imac_torch.sweep.Evaluator`."""
        text = f"wires {self.samples} {self.inner.key(point)} {self.timed.key(point)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def licences(self) -> int:
        """See :class:`imac_torch.sweep.Evaluator`."""
        return self.inner.licences()

    def bench(self) -> Bench:
        """See :class:`imac_torch.sweep.Evaluator`."""
        plain, timed = self.inner.bench(), self.timed.bench()

        def evaluate(point: Point) -> dict[str, float]:
            drops = self._drops(configure(self.inner.base, point))
            return {**timed(point), **plain(point), **drops}

        return evaluate

    @torch.no_grad()
    def _drops(self, config: imac.Config) -> dict[str, float]:
        network = imac.convert(self.inner.model, config)
        inputs = network.voltages(self.inner.inputs[: self.samples])
        lines = torch.nn.functional.pad(inputs, (0, 1), value=config.supplies.vdd)
        cells = cell_voltages(next(network.analog_layers()).matrix.crossbar(), lines)
        return {
            "input_drop": float(cells.input_drop.abs().mean(0).max()),
            "output_drop": float(cells.output_drop.abs().mean(0).max()),
        }


def save_tables(directory: Path, name: str, parts: Sequence[str]) -> None:
    """Tables as ``name.md``."""
    write_text(directory / f"{name}.md", "\n".join(parts))
