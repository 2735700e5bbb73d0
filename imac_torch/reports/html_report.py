"""One self-contained HTML file of an evaluation, with JSON and CSV beside it."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w
import torch
from markupsafe import Markup
from torch import Tensor, nn

from imac_torch.base.figures import heatmap, heatmap_height, scatter
from imac_torch.base.files import write_text
from imac_torch.base.units import area_text, quantity
from imac_torch.conversion.ablation import AblationStep, ablate
from imac_torch.datasets.batches import first_samples
from imac_torch.devices.programming import programming_tables
from imac_torch.errors import ImacError, ImacWarning
from imac_torch.model.network import IMACNetwork
from imac_torch.reports.analysis import Analysis, analyse
from imac_torch.reports.chart import bar_chart, picture
from imac_torch.reports.model_page import ABLATED, write_model_report
from imac_torch.reports.model_report import ModelReport
from imac_torch.reports.page import noise_section, saved_in, template_environment
from imac_torch.reports.power import WORDS, in_words
from imac_torch.reports.report import Report
from imac_torch.reports.timing_section import NOTE, timing_section

__all__ = ["render_report", "write_report"]

SCATTER_POINTS = 2000
"""Points drawn at most; more would only make the file large."""


def write_report(
    directory: str | Path,
    report: Report | ModelReport,
    *,
    network: IMACNetwork | None = None,
    software: nn.Module | None = None,
    loader: Iterable[object] | None = None,
    analysis: Analysis | None = None,
    title: str = "Analog network",
    area_model: str = "imac-sim",
    reference: str = "the software model",
    ablation: bool = True,
) -> Path:
    """Write everything about an evaluation into a new directory.

    ``report.html`` to read, ``report.json`` and ``report.safetensors`` (:meth:`Report.save`),
    ``samples.csv``, ``network.safetensors`` and ``analysis.*`` where there is a network.

    The report of a model of several circuits has its table of circuits and, where there are a
    network and samples, the steps from software to the circuits (:func:`imac_torch.ablate`);
    ``samples.csv`` and the analysis are of models that have one circuit.
    Details per layer are of two-terminal cells, weights as lines see these where they are no
    resistors; pages of cells whose inputs hold gates are without.

    Args:
        directory: New, or without a report.
        report: What :func:`imac_torch.evaluate` gave.
        network: The converted model: details per layer and IR-drop maps are from it.
        software: The model to compare with; None: no details.
        loader: The samples; None: no details.
        analysis: Details that are there already.
        title: Heading of the page.
        area_model: A name of :data:`imac_torch.reports.area.AREA_MODELS`.
        reference: What ``software`` is, in words.
        ablation: Whether to run the steps from software to the circuit, which take as long as a
            dozen evaluations of 200 samples: minutes for large models.

    Returns:
        Path of ``report.html``.

    Raises:
        DataError: The directory holds a report already, or cannot be written.

    Warns:
        ImacWarning: Details are asked for of gated cells, or of several circuits; the steps of
            several circuits cannot be computed.
    """
    if isinstance(report, ModelReport):
        if analysis is not None:
            warnings.warn(
                "details per layer are of models of one circuit: the page of this one has a table "
                "of circuits instead",
                ImacWarning,
                stacklevel=2,
            )
        steps: tuple[AblationStep, ...] = ()
        if ablation and network is not None and loader is not None:
            try:
                steps = _steps(report, network, loader)
            except ImacError as error:  # the report, which may have taken hours, is there
                warnings.warn(
                    f"the page is without the steps from software to the circuits: {error}",
                    ImacWarning,
                    stacklevel=2,
                )
        return write_model_report(directory, report, network=network, ablation=steps, title=title)
    with saved_in(directory, report, network) as directory:
        if analysis is not None or network is None or software is None or loader is None:
            pass
        elif any(
            cell is not None and cell.gated
            for cell in (layer.matrix.crossbar().cell for layer in network.analog_layers())
        ):
            warnings.warn(
                "details per layer are of two-terminal cells, inputs of these hold gates: the page "
                "is without them",
                ImacWarning,
                stacklevel=2,
            )
        else:
            analysis = analyse(
                network, software, loader, area_model=area_model, reference=reference,
                noise=None if report.noise is None else report.config.noise,
                seed=report.seed or 0, ablation=ablation,
            )  # fmt: skip
        if analysis is not None:
            analysis.save(directory)
        write_text(directory / "samples.csv", samples_csv(report))
        return write_text(
            directory / "report.html", render_report(report, analysis, title=title)
        )


def _steps(
    report: ModelReport, network: IMACNetwork, loader: Iterable[object]
) -> tuple[AblationStep, ...]:
    """From software to the circuits, on the first samples; by another metric their first batch."""
    inputs: tuple[Any, ...]
    if report.score.name == "accuracy":
        inputs = first_samples(loader, ABLATED)
    else:
        inputs = ([next(iter(loader))[0]],)  # type: ignore[index]
    noisy = report.noise is not None
    return ablate(
        network, *inputs, noise=report.config.noise if noisy else False,
        generator=torch.Generator().manual_seed(report.seed or 0) if noisy else None,
    )  # fmt: skip


def samples_csv(report: Report) -> str:
    """One line per sample: label, answers, status, outputs (V), powers (W), energies (J).

    Latencies (s) and measured energies where they were measured.
    """
    outputs, power = report.outputs, report.solution.power
    columns = outputs.shape[1]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    header = ["sample", "label", "circuit", "software", "status", "iterations"]
    header += [f"output_{k}_V" for k in range(columns)]
    columns_of_power = {
        name: part for name, part in (
            ("inputs", power.inputs), ("bias", power.bias), ("neurons", power.neurons),
            ("amplifiers", power.amplifier_supply),
        ) if report.counted.counts(name) or name == "neurons"
    } if power else {}  # fmt: skip
    header += [f"power_{name}_W" for name in columns_of_power]
    header += ["energy_J"] if power else []
    timed = _timed_columns(report)
    writer.writerow([*header, *timed])
    energy = report.energy
    for index in range(len(report.labels)):
        row: list[object] = [
            index,
            int(report.labels[index]),
            int(report.predictions[index]),
            "" if report.reference is None else int(report.reference[index]),
            int(report.solution.status[index]),
            int(report.solution.iterations[index]),
            *outputs[index].tolist(),
        ]
        if power is not None and energy is not None:
            row += [float(part[index]) for part in (*columns_of_power.values(), energy)]
        writer.writerow(
            [*row, *(float(c[index]) if index < len(c) else "" for c in timed.values())]
        )
    return stream.getvalue()


def _timed_columns(report: Report) -> dict[str, Tensor]:
    """By heading, of the samples that were measured; nothing where none was."""
    timed = report.timing
    if timed is None:
        return {}
    latency = timed.latency
    return {
        "latency_s": latency.images[:, 0],
        "decision_latency_s": latency.decision[:, 0],
        **{f"latency_{k}_s": latency.outputs[:, 0, k] for k in range(latency.outputs.shape[2])},
        "energy_measured_J": timed.energy.total[:, 0],
        "energy_static_J": timed.static.total[:, 0],
        "energy_switching_J": timed.switching.total[:, 0],
    }


def render_report(
    report: Report, analysis: Analysis | None = None, *, title: str = "Analog network"
) -> str:
    """The page as text.

    Args:
        report: The evaluation.
        analysis: Details; sections that need them are left out without.
        title: Heading of the page.
    """
    timing = timing_section(report)
    context: dict[str, Any] = {
        "title": title,
        "timing": timing,
        "timing_note": NOTE,
        "subtitle": _subtitle(report),
        "version": report.environment.get("imac_torch", ""),
        "tiles": _tiles(report, analysis, timing),
        "counted": in_words(
            [(report.counted, report.mean_power())], report.config, noisy=report.noise is not None
        ),
        "failures": report.failures,
        "samples": len(report.labels),
        "records": report.layers,
        "run": _run(report),
        "environment": list(report.environment.items()),
        "configuration": tomli_w.dumps(report.config.to_dict()),
        "analysis": analysis,
        "energy_chart": _energy_chart(report),
        "noise": noise_section(report.noise),
        "programming": programming_tables(report.programming),
        **_accuracy(report),
        **_power(report, analysis),
    }
    if analysis is not None:
        context.update(_details(analysis))
    return template_environment().get_template("report.html.jinja").render(context)


def _subtitle(report: Report) -> str:
    return (
        f"{len(report.labels)} samples, solved by {report.engine.get('name', 'an unknown engine')}"
        f" in {report.seconds:.3g} s"
    )


@dataclass(frozen=True)
class _Tile:
    name: str
    value: str


def _tiles(
    report: Report, analysis: Analysis | None, timing: dict[str, Any] | None
) -> list[_Tile]:
    tiles = [_Tile("accuracy of the circuit", f"{100 * report.accuracy:.2f} %")]
    if report.reference_accuracy is not None and report.agreement is not None:
        tiles.append(_Tile("accuracy of software", f"{100 * report.reference_accuracy:.2f} %"))
        tiles.append(_Tile("same answer", f"{100 * report.agreement:.2f} %"))
    power = report.mean_power()
    if power:
        tiles.append(_Tile("mean power", quantity(power["total"], "W")))
        energy = report.figures()["mean_energy"]
        tiles.append(_Tile("energy per inference", quantity(energy, "J")))
    tiles.append(_Tile("sampling period", quantity(report.period, "s")))
    if timing is not None:
        tiles += [_Tile(*item) for item in timing["tiles"]]
    if analysis is not None:
        tiles.append(_Tile(f"area ({analysis.area_model})", area_text(analysis.area)))
    return tiles


def _accuracy(report: Report) -> dict[str, Any]:
    rows = {"circuit": {"accuracy": report.accuracy}}
    if report.reference_accuracy is not None:
        rows = {"software": {"accuracy": report.reference_accuracy}, **rows}
    counts = report.confusion()
    classes = len(counts)
    largest = counts.sum(1).clamp(min=1)
    table = [
        {
            "label": row,
            "cells": [
                {
                    "count": int(counts[row, k]),
                    "diagonal": row == k,
                    "shade": round(70 * float(counts[row, k] / largest[row]) ** 0.6, 1),
                }
                for k in range(classes)
            ],
        }
        for row in range(classes)
    ]
    off = counts.clone().fill_diagonal_(0)
    worst = ""
    if int(off.sum()):
        label, answer = divmod(int(off.argmax()), classes)
        worst = f"Most frequent mistake: {label} taken for {answer} ({int(off.max())} times)."
    share, solved = report.accuracy, max(1, int(report.solved.sum()))
    margin = 1.96 * (share * (1 - share) / solved) ** 0.5
    return {
        "accuracy_chart": bar_chart(rows, "accuracy of software and circuit", percent=True),
        "accuracy_note": f"95 % interval of the circuit's accuracy from the number of samples: "
        f"± {100 * margin:.2f} % (normal approximation).",
        "confusion": table,
        "classes": list(range(classes)),
        "confusion_note": worst,
    }


def _power(report: Report, analysis: Analysis | None) -> dict[str, Any]:
    power, counted = report.mean_power(), report.counted
    rows = []
    if power:
        in_joules = {name: value * report.period for name, value in power.items()}
        energies = dict(counted.by_source(in_joules, "J"))
        for name, text in [*counted.by_source(power), ("total", quantity(power["total"], "W"))]:
            energy = energies.get(name, quantity(in_joules["total"], "J"))
            if name == WORDS["level_shift"]:
                energy = "in no total"
            rows.append({"name": name, "power": text, "energy": energy})
    chart: dict[str, dict[str, float]] = {}
    if analysis is not None:
        for layer in analysis.layers:
            chart[f"layer {layer.name}"] = {
                part: value for part, value in layer.power.items() if value > 0
            }
    elif power:
        chart = {"network": {
            part: value for part, value in power.items()
            if part in WORDS and part != "level_shift"
        }}  # fmt: skip
    note = (
        "Ideal parts have no supply, and what they deliver is no power of a circuit. Level shifts "
        "are in no total."
    )
    return {
        "power_chart": bar_chart(chart, "power by layer and source", unit="W"),
        "power_rows": rows,
        "part_rows": counted.by_part(),
        "part_images": counted.images,
        "power_note": note if rows else "The engine gave no powers.",
    }


def _energy_chart(report: Report) -> Markup | None:
    energy = report.energy
    if energy is None or int(report.solved.sum()) < 2:
        return None
    values = energy[report.solved].sort().values
    step = max(1, len(values) // 400)
    points = [(float(k + 1), float(values[k])) for k in range(0, len(values), step)]
    return picture(
        lambda axes: scatter(
            axes, (), x="sample, sorted", y="energy per inference", y_unit="J", line=points
        ),
        label="energy per inference, sorted",
        height=240,
    )


def _details(analysis: Analysis) -> dict[str, Any]:
    circuit, software = analysis.circuit.double(), analysis.software.double()
    finite = torch.isfinite(circuit).all(dim=1)
    circuit, software = circuit[finite], software[finite]
    x, y = software.flatten(), circuit.flatten()
    step = max(1, -(-len(x) // SCATTER_POINTS))
    correlation = float(torch.corrcoef(torch.stack([x, y]))[0, 1]) if len(x) > 1 else float("nan")
    rms = float((x - y).square().mean().sqrt()) if len(x) else float("nan")
    layers = {f"layer {layer.name}": layer for layer in analysis.layers}
    unknown = sorted({n for item in analysis.layers for n, v in item.area.items() if v is None})
    note = f"Not in the model: {', '.join(unknown)}." if unknown else ""
    areas = {
        name: {part: value * 1e12 for part, value in item.area.items() if value}
        for name, item in layers.items()
    }
    areas |= {name: {name: value * 1e12} for name, value in analysis.borders.items() if value}
    ideal = [name for name, value in analysis.borders.items() if value is None]
    note += f" Ideal, and not counted: {', '.join(ideal)}." if ideal else ""
    ablation = {item.effect: {"accuracy": item.accuracy} for item in analysis.ablation}
    return {
        "ablation_chart": bar_chart(ablation, "accuracy, effect by effect", percent=True),
        "resolution": f"{100 / max(1, analysis.samples):.2g} %",
        "scatter_chart": picture(
            lambda axes: scatter(
                axes,
                list(zip(x[::step].tolist(), y[::step].tolist(), strict=True)),
                x="software output",
                y="circuit output",
                diagonal=True,
            ),
            label="outputs of the circuit against those of software",
            height=380,
        ),
        "scatter_note": f"Correlation {correlation:.4f}, rms difference {rms:.3g}.",
        "weight_chart": bar_chart(
            {
                f"{name}, {where}": {"error": value}
                for name, item in layers.items()
                for where, value in (
                    ("devices", item.weight_error),
                    ("circuit", item.circuit_weight_error),
                )
                if value is not None
            },
            "weight error by layer",
            percent=True,
        ),
        "area_chart": bar_chart(areas, "area in µm² by layer and part"),
        "area_total": area_text(analysis.area),
        "area_note": f"Bars in µm². {note}",
        "maps": [_maps(analysis, index) for index in range(len(analysis.layers))],
    }


def _maps(analysis: Analysis, index: int) -> dict[str, Any]:
    layer = analysis.layers[index]
    if layer.map_note:
        return {"name": layer.name, "note": layer.map_note}
    found: dict[str, Any] = {"name": layer.name, "note": ""}
    for side in ("input", "output"):
        values = analysis.maps[f"{layer.name}.{side}"]
        found[side] = picture(
            partial(
                heatmap,
                values=values,
                row_ends=layer.row_ends,
                column_ends=layer.column_ends,
                unit="V",
            ),
            label=f"voltage drop on {side} lines of layer {layer.name}",
            height=heatmap_height(values),
        )
        found[f"{side}_mean"] = quantity(float(values.mean()), "V")
        found[f"{side}_max"] = quantity(float(values.max()), "V")
    return found


def _run(report: Report) -> list[tuple[str, str]]:
    seed = "none given" if report.seed is None else str(report.seed)
    return [
        *((f"engine: {key}" if key != "name" else "engine", value)
          for key, value in report.engine.items()),
        ("samples", str(len(report.labels))),
        ("seed of the devices", seed),
        ("wall time", f"{report.seconds:.3g} s"),
        ("largest Kirchhoff residual", json.dumps(report.figures()["largest_residual"]) + " A"),
    ]
