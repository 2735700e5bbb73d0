"""Commands that solve the circuit: simulate, verify, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from imac_torch.cli import options as o
from imac_torch.cli.exits import ExitCode
from imac_torch.cli.opening import Opened, open_loader, open_network
from imac_torch.dc.native import Native
from imac_torch.deck import collect
from imac_torch.engine import Engine, bind
from imac_torch.errors import DataError
from imac_torch.evaluation import evaluate
from imac_torch.files import write_text
from imac_torch.reports.analysis import Analysis
from imac_torch.reports.area import AREA_MODELS, network_area
from imac_torch.reports.html_report import render_report, write_report
from imac_torch.reports.report import Report
from imac_torch.sources import Loader

__all__ = ["report", "simulate", "verify"]


def simulate(
    model: o.ModelSource,
    data: o.DataOption = None,
    data_root: o.DataRootOption = None,
    train_split: o.TrainSplitOption = False,
    engine: o.EngineOption = o.EngineName.NATIVE,
    testnum: o.TestnumOption = None,
    testnum_per_batch: o.PerBatchOption = None,
    firstimage: o.FirstimageOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New directory: report.html, JSON, CSV, the network."),
    ] = None,
    weights: o.WeightsOption = None,
    digital: o.DigitalOption = None,
    config: o.ConfigOption = None,
    changes: o.SetOption = None,
    exclude: o.ExcludeOption = None,
    seed: o.SeedOption = None,
    analysis: o.AnalysisOption = o.Analysis.DC,
    run_directory: Annotated[
        Path | None,
        typer.Option(help="Keep netlists and logs here; what is there already is not run again."),
    ] = None,
    workers: o.WorkersOption = 1,
    timeout: o.TimeoutOption = 3600.0,
    licences: o.LicencesOption = None,
    area_model: Annotated[
        str, typer.Option(help=f"One of {', '.join(AREA_MODELS)}.")
    ] = "imac-sim",
    title: Annotated[str | None, typer.Option(help="Title of the report.")] = None,
    quiet: o.QuietOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Run labelled data through the circuit: accuracy, power, energy, area.

    `imac-torch simulate path/to/IMAC-Sim` repeats the run that its testIMAC.py describes, with the
    native engine; add `--engine hspice --analysis transient` for the original way.
    """
    _check_output(output)
    opened = open_network(
        model,
        weights=weights,
        digital=digital,
        config=config,
        changes=changes,
        seed=seed,
        exclude=exclude,
    )
    per_netlist = testnum_per_batch or opened.source.per_batch
    native = engine is o.EngineName.NATIVE
    loader, count = open_loader(
        opened,
        data,
        root=data_root,
        train=train_split,
        first=firstimage,
        count=testnum,
        batch_size=testnum_per_batch,
    )
    built = o.build_engine(
        engine,
        analysis=analysis,
        per_netlist=per_netlist,
        workers=workers,
        directory=run_directory,
        timeout=timeout,
        licences=licences,
    )
    if not native:
        # One run directory for everything, so that netlists run side by side.
        loader = Loader(loader.dataset, count, loader.dtype, loader.flat)
    result = evaluate(
        opened.network,
        loader,
        reference=opened.software,
        engine=built,
        seed=opened.seed,
        progress=not quiet,
    )
    _show(result, opened, area_model, as_json=as_json)
    if not as_json:
        typer.echo(
            "software here: the weights that the devices stand for (a saved network does not hold "
            "the model that it was converted from), or the model of module:factory"
        )
    if output is not None:
        page = write_report(
            output,
            result,
            network=opened.network,
            software=opened.software,
            loader=loader,
            title=title or f"{model}, {data or 'its own data'}",
            area_model=area_model,
        )
        typer.echo(f"wrote {page}", err=as_json)
    if result.failures:
        typer.echo(f"{result.failures} of {count} samples were not solved", err=True)
        raise typer.Exit(int(ExitCode.UNSOLVED))


def _check_output(output: Path | None) -> None:
    """Before any work: the results will have a place."""
    if output is not None and (output / "report.json").exists():
        raise DataError(f"{output} holds a report already; choose another directory")


def _show(result: Report, opened: Opened, area_model: str, *, as_json: bool) -> None:
    area = network_area(opened.network, area_model)
    if as_json:
        content = {
            **result.figures(),
            "engine": result.engine,
            "seed": result.seed,
            "area": {"model": area.model, "total": area.total.total, **area.total.parts()},
        }
        typer.echo(json.dumps(content, ensure_ascii=False))
        return
    typer.echo(str(result))
    typer.echo(f"area ({area.model}): {area.total.total * 1e12:.4f} µm²")


def verify(
    model: o.ModelSource,
    data: o.DataOption = None,
    data_root: o.DataRootOption = None,
    train_split: o.TrainSplitOption = False,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="How many.")] = 3,
    firstimage: o.FirstimageOption = None,
    engine: Annotated[
        o.EngineName, typer.Option("--engine", "-e", help="What to compare the native engine with.")
    ] = o.EngineName.NGSPICE,
    tolerance: Annotated[
        float, typer.Option(min=0, help="V. Largest difference of an output allowed.")
    ] = 1e-4,
    power_tolerance: Annotated[
        float, typer.Option(min=0, help="Largest relative difference of the power allowed.")
    ] = 1e-3,
    weights: o.WeightsOption = None,
    digital: o.DigitalOption = None,
    config: o.ConfigOption = None,
    changes: o.SetOption = None,
    exclude: o.ExcludeOption = None,
    seed: o.SeedOption = None,
    run_directory: Annotated[Path | None, typer.Option(help="Keep netlists and logs here.")] = None,
    workers: o.WorkersOption = 1,
    timeout: o.TimeoutOption = 3600.0,
    as_json: o.JsonOption = False,
) -> None:
    """Solve a few samples natively and by SPICE, and compare outputs and powers.

    Exits with 6 if any output or power differs by more than the tolerance, or a class does.
    """
    if engine is o.EngineName.NATIVE:
        raise DataError("the native engine would be compared with itself; use ngspice or hspice")
    opened = open_network(
        model,
        weights=weights,
        digital=digital,
        config=config,
        changes=changes,
        seed=seed,
        exclude=exclude,
    )
    loader, count = open_loader(
        opened,
        data,
        root=data_root,
        train=train_split,
        first=firstimage,
        count=samples,
        batch_size=samples,
    )
    other: Engine = o.build_engine(
        engine, per_netlist=-(-count // workers), workers=workers, directory=run_directory,
        timeout=timeout,
    )  # fmt: skip
    spice = bind(opened.network, other)  # fails at once where the simulator is missing
    inputs, _ = collect(opened.network, loader)
    with torch.no_grad():
        ours = bind(opened.network, Native()).solve(inputs.to(opened.network.device))
    with Console(stderr=True).status(f"{engine.value} solves {count} samples ..."):
        theirs = spice.solve(inputs)
    both = ours.converged.cpu() & theirs.converged
    if not bool(both.all()):
        typer.echo(f"{int((~both).sum())} of {count} samples were not solved by both", err=True)
        raise typer.Exit(int(ExitCode.UNSOLVED))
    difference = (ours.outputs.cpu() - theirs.outputs).abs()
    assert ours.power is not None and theirs.power is not None  # noqa: S101 - both were asked
    relative = (ours.power.total.cpu() / theirs.power.total - 1).abs()
    same = ours.outputs.cpu().argmax(1) == theirs.outputs.argmax(1)
    figures = {
        "samples": count,
        "engine": spice.description(),
        "largest_difference": float(difference.max()),
        "rms_difference": float(difference.square().mean().sqrt()),
        "largest_power_difference": float(relative.max()),
        "same_class": int(same.sum()),
    }
    passed = bool(
        difference.max() <= tolerance and relative.max() <= power_tolerance and same.all()
    )
    if as_json:
        typer.echo(json.dumps({**figures, "passed": passed}))
    else:
        table = Table("figure", "value", title=f"native against {engine.value}")
        table.add_row("samples", str(count))
        table.add_row("largest difference of an output", f"{figures['largest_difference']:.3g} V")
        table.add_row("rms difference of outputs", f"{figures['rms_difference']:.3g} V")
        table.add_row("largest difference of power", f"{100 * float(relative.max()):.3g} %")
        table.add_row("same class", f"{int(same.sum())} of {count}")
        Console().print(table)
        typer.echo("the engines agree" if passed else "THE ENGINES DIFFER")
    if not passed:
        raise typer.Exit(int(ExitCode.DIFFERENT))


def report(
    directory: Annotated[Path, typer.Argument(help="Of `imac-torch simulate --output`.")],
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Analog network",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page; default: report.html in the directory."),
    ] = None,
) -> None:
    """Make the HTML page of a saved report again."""
    result, details = Report.load(directory), Analysis.load(directory)
    page = write_text(
        output or directory / "report.html", render_report(result, details, title=title)
    )
    typer.echo(f"wrote {page}")
