"""Reports side by side: the same model as other circuits, figure by figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imac_torch.base.figures import bars, bars_height, new_figure
from imac_torch.base.shown import Shown, Table
from imac_torch.base.units import area_text, quantity
from imac_torch.base.version import VERSION
from imac_torch.errors import DataError
from imac_torch.reports.chart import bar_chart
from imac_torch.reports.differences import HEADINGS, differences
from imac_torch.reports.model_report import ModelReport, is_model_report
from imac_torch.reports.page import template_environment
from imac_torch.reports.report import Report
from imac_torch.reports.saved import TEXT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison", "compared", "render_comparison"]

_PARTS = ("arrays", "drivers", "converters", "sums")


@dataclass(frozen=True)
class Comparison(Shown):
    """Figures of several reports.

    Attributes:
        names: Of the reports.
        rows: Name of a figure, then its value in each, as text.
        energies: J per sample by part, of each.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    energies: tuple[Mapping[str, float], ...]

    def parts(self) -> dict[str, dict[str, float]]:
        """J per sample of each report, by part, those of nothing left out."""
        return {
            name: {part: energy[part] for part in _PARTS if energy.get(part)}
            for name, energy in zip(self.names, self.energies, strict=True)
        }

    def plot(self) -> Figure:
        """Energy per sample of each, by part."""
        rows = self.parts()
        figure, (axes,) = new_figure((bars_height(rows),))
        bars(axes, rows, unit="J")
        return figure

    def tables(self) -> tuple[Table]:
        """One, a column per report."""
        return (Table("compared", self.rows, ("", *self.names), width=130),)


def compared(reports: Mapping[str, Report | ModelReport]) -> Comparison:
    """One table of evaluations: what converters cost beside the same arrays without them.

    Args:
        reports: By the name of their column; energies are told in multiples of the first one's.

    Raises:
        DataError: There is none, they have other scores, or one of them has no energies.
    """
    if not reports:
        raise DataError("there are no reports to compare")
    scores = {_score(report)[0] for report in reports.values()}
    if len(scores) > 1:
        raise DataError(f"the reports have different scores: {', '.join(sorted(scores))}")
    energies = tuple(_energies(name, report) for name, report in reports.items())
    first = energies[0]["total"]
    found = list(reports.values())
    (score,) = scores
    rows = [
        ("samples", *(str(report.figures()["samples"]) for report in found)),
        (f"{score} of the circuits", *(_told(score, _score(report)[1]) for report in found)),
        (f"{score} of software", *(_told(score, _score(report)[2]) for report in found)),
        (
            "energy per sample",
            *(
                f"{quantity(item['total'], 'J')} ({item['total'] / first:.3g} ×)"
                for item in energies
            ),
        ),
    ]
    for part in _PARTS:
        if any(item.get(part) for item in energies):
            rows.append((f"  {part}", *(quantity(item.get(part, 0.0), "J") for item in energies)))
    rows.append(("latency per sample", *(_latency(report) for report in found)))
    rows.append(("area", *(_area(report) for report in found)))
    return Comparison(tuple(reports), tuple(rows), energies)


def render_comparison(first: str | Path, second: str | Path) -> str:
    """A page of two saved reports side by side: their figures, and all that differs.

    Args:
        first: Directory of a report.
        second: Likewise.

    Raises:
        DataError: One holds no report, or they cannot be compared.
    """
    paths = [Path(first), Path(second)]
    for path in paths:
        if not (path / TEXT).is_file():
            raise DataError(
                f"{path} holds no report: a page is of two directories of `simulate --output`; "
                "`compare` without -o takes networks and configurations, too"
            )
    names = [path.resolve().name for path in paths]
    if names[0] == names[1]:
        names = [str(path) for path in paths]
    reports = {
        name: ModelReport.load(path) if is_model_report(path) else Report.load(path)
        for name, path in zip(names, paths, strict=True)
    }
    if len(reports) < 2:
        raise DataError(f"{first} would be compared with itself")
    side, found = compared(reports), differences(first, second)
    return (
        template_environment()
        .get_template("compare.html.jinja")
        .render(
            title=" beside ".join(names), subtitle=f"{len(found.found)} differences",
            version=VERSION, side=side, headings=HEADINGS,
            rows=[item.row() for item in found.found], first=str(first), second=str(second),
            chart=bar_chart(side.parts(), "energy per sample by part", unit="J"),
        )
    )  # fmt: skip


def _score(report: Report | ModelReport) -> tuple[str, float, float | None]:
    """Name, of the circuits, of software."""
    if isinstance(report, ModelReport):
        return report.score.name, report.score.circuit, report.score.software
    return "accuracy", report.accuracy, report.reference_accuracy


def _told(score: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if score == "accuracy" else f"{value:.6g}"


def _energies(name: str, report: Report | ModelReport) -> Mapping[str, float]:
    if isinstance(report, ModelReport):
        return report.energy()
    mean = report.figures()["mean_energy"]
    if mean is None:
        raise DataError(f"the report {name} has no energies: its engine gave no powers")
    return {"total": mean, "arrays": mean}


def _latency(report: Report | ModelReport) -> str:
    """By the period; what was measured, where it was."""
    if isinstance(report, ModelReport):
        return quantity(report.latency, "s")
    return quantity(report.period, "s")


def _area(report: Report | ModelReport) -> str:
    """Reports of one circuit have none; their pages do."""
    return area_text(report.area()["total"]) if isinstance(report, ModelReport) else "–"
