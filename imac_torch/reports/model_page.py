"""The page of a model with several circuits, and the files beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import tomli_w

from imac_torch.base.files import parse_json, read_text, strict_json, write_text
from imac_torch.base.units import area_text, quantity
from imac_torch.conversion.ablation import AblationStep
from imac_torch.devices.programming import programming_tables
from imac_torch.errors import DataError
from imac_torch.model.network import IMACNetwork
from imac_torch.reports.analysis import EFFECTS
from imac_torch.reports.chart import MOST, bar_chart
from imac_torch.reports.model_report import HEADINGS, ModelReport, SegmentFigures
from imac_torch.reports.page import noise_section, saved_in, template_environment
from imac_torch.reports.power import in_words

__all__ = ["ABLATED", "render_model_report", "saved_ablation", "write_model_report"]

ABLATED: Final = 200
"""Samples that a model of several circuits is taken apart on, at most."""
STEPS: Final = "ablation.json"
"""The file of the steps from software to the circuits."""


def write_model_report(
    directory: str | Path,
    report: ModelReport,
    *,
    network: IMACNetwork | None = None,
    ablation: Sequence[AblationStep] = (),
    title: str = "Analog network",
) -> Path:
    """Write ``report.html``, ``report.json`` and the network into a new directory.

    The steps are kept as ``ablation.json``.

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
        if ablation:
            content = strict_json([asdict(step) for step in ablation], indent=1)
            write_text(directory / STEPS, content + "\n")
        page = render_model_report(report, ablation=ablation, title=title)
        return write_text(directory / "report.html", page)


def saved_ablation(directory: Path) -> tuple[AblationStep, ...]:
    """The steps that were written with a report; none where there were none.

    Raises:
        DataError: The file is not what was written.
    """
    path = directory / STEPS
    if not path.exists():
        return ()
    try:
        content = parse_json(read_text(path))
        if not isinstance(content, list):
            raise TypeError("a list of steps is expected")
        return tuple(_step(**item) for item in content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} holds no readable steps: {error}") from None


def _known(name: str) -> str:
    if name not in EFFECTS:
        raise ValueError(f"no step is called {name!r}")
    return name


def _step(
    name: str, accuracy: float | None, output_error: float | None,
    layer_errors: Sequence[float | None], failed: int, score: float | None,
) -> AblationStep:  # fmt: skip
    def number(value: float | None) -> float:
        return math.nan if value is None else float(value)

    return AblationStep(
        _known(name), number(accuracy), number(output_error),
        tuple(map(number, layer_errors)), int(failed), number(score),
    )  # fmt: skip


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
            ablated=ABLATED,
            counted=in_words(
                [(item.counted, item.power) for item in report.segments],
                report.config,
                noisy=report.noise is not None,
            ),
            groups=_groups(report.segments),
            tiles=tiles,
            energy_chart=bar_chart(
                {item.path: item.energy for item in report.segments},
                "energy per sample by circuit",
                unit="J",
            ),
            noise=noise_section(report.noise),
            programming=programming_tables(report.programming),
            ablation=[
                (
                    EFFECTS[step.name], step.name,
                    "–" if math.isnan(step.score) else report.told(step.score),
                    f"{100 * step.output_error:.2f} %",
                )
                for step in ablation
            ],
            ablation_chart=bar_chart(
                {step.name: {"error": step.output_error} for step in ablation},
                "error of outputs, effect by effect",
                percent=True,
            ),
            headings=HEADINGS,
            rows=[item.row() for item in report.segments],
            run=[*rows.items(), *report.environment.items()],
            configuration=tomli_w.dumps(report.config.to_dict()),
        )
    )


def _groups(segments: Sequence[SegmentFigures]) -> list[tuple[str, ...]]:
    """Rows of the parts of a model that has more circuits than a table shows at a glance."""
    if len(segments) <= MOST:
        return []
    found: dict[str, list[SegmentFigures]] = {}
    paths = [item.path.split(".") for item in segments]
    # As many names of each path as tell parts apart: "encoder.layers" alone would be one part.
    depth = next((d for d in range(1, 5) if len({tuple(p[:d]) for p in paths}) > 2), 1)
    for item, path in zip(segments, paths, strict=True):
        found.setdefault(".".join(path[:depth]), []).append(item)
    return [
        (
            name,
            str(len(items)),
            str(sum(item.arrays for item in items)),
            quantity(sum(sum(item.energy.values()) for item in items), "J"),
            area_text(sum(sum(item.area.values()) for item in items)),
        )
        for name, items in found.items()
    ]
