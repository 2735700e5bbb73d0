"""The page of a model with several circuits, and the files beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import tomli_w

from imac_torch.base.files import write_text
from imac_torch.conversion.ablation import AblationStep
from imac_torch.model.network import IMACNetwork
from imac_torch.reports.analysis import EFFECTS
from imac_torch.reports.charts import bars
from imac_torch.reports.html_report import noise_chart, saved_in, template_environment
from imac_torch.reports.model_report import HEADINGS, ModelReport

__all__ = ["render_model_report", "write_model_report"]


def write_model_report(
    directory: str | Path,
    report: ModelReport,
    *,
    network: IMACNetwork | None = None,
    ablation: Sequence[AblationStep] = (),
    title: str = "Analog network",
) -> Path:
    """Write ``report.html``, ``report.json`` and the network into a new directory.

    Args:
        directory: New, or without a report.
        report: What :func:`imac_torch.evaluate` gave.
        network: Saved beside it as ``network.safetensors``, if given.
        ablation: What :func:`imac_torch.ablate` gave, for the page.
        title: Heading of the page.

    Returns:
        Path of ``report.html``.

    Raises:
        DataError: The directory holds a report already, or cannot be written.
    """
    with saved_in(directory, report, network) as directory:
        page = render_model_report(report, ablation=ablation, title=title)
        return write_text(directory / "report.html", page)


def render_model_report(
    report: ModelReport,
    *,
    ablation: Sequence[AblationStep] = (),
    title: str = "Analog network",
) -> str:
    """The page as text.

    Args:
        report: The evaluation.
        ablation: Steps from software to the circuits, or nothing.
        title: Heading of the page.
    """
    rows = dict(report.rows())
    wanted = (
        f"{report.score.name} of the circuits", f"{report.score.name} of software", "agreement",
        "energy per sample", "latency per sample", "area",
    )  # fmt: skip
    tiles = [
        (name, rows[name].partition(" (")[0].partition(",")[0]) for name in wanted if name in rows
    ]
    return (
        template_environment()
        .get_template("model.html.jinja")
        .render(
            title=title,
            subtitle=f"{report.samples} samples, {len(report.segments)} circuits, "
            f"{report.seconds:.3g} s",
            version=report.environment.get("imac_torch", ""),
            report=report,
            tiles=tiles,
            energy_chart=bars(
                {item.path: dict(item.energy) for item in report.segments},
                unit="J",
                label="energy per sample by circuit",
            ),
            noise_chart=noise_chart(
                {
                    name if name == item.path else f"{item.path}, {name}": volts
                    for item in report.segments
                    for name, volts in item.noise.items()
                }
            ),
            ablation=[
                (
                    EFFECTS[step.name], step.name,
                    "–" if math.isnan(step.score) else f"{step.score:.4g}",
                    f"{100 * step.output_error:.2f} %",
                )
                for step in ablation
            ],
            ablation_chart=bars(
                {step.name: {"error": step.output_error} for step in ablation},
                label="error of outputs, effect by effect", percent=True,
            )
            if ablation
            else "",
            headings=HEADINGS,
            rows=[item.row() for item in report.segments],
            run=[*rows.items(), *report.environment.items()],
            configuration=tomli_w.dumps(report.config.to_dict()),
        )
    )
