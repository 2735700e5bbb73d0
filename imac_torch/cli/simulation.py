"""Commands that solve the circuit, and their results: simulate, verify, report, compare."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from imac_torch.base.files import strict_json, write_text
from imac_torch.base.tables import console
from imac_torch.circuit.engine import Engine, EngineOptions
from imac_torch.cli import options as o
from imac_torch.cli.arguments import (
    CalibrationArguments,
    DataArguments,
    NetworkArguments,
    ReferenceArguments,
    expanded,
)
from imac_torch.cli.exits import ExitCode
from imac_torch.cli.measures import VOLTAGE, measured
from imac_torch.cli.opening import Opened, called, check_output, claimed, open_run
from imac_torch.config.kinds import ENGINES
from imac_torch.dc.native import Native
from imac_torch.errors import DataError, SettingWarning
from imac_torch.reports.analysis import Analysis
from imac_torch.reports.area import network_area
from imac_torch.reports.comparison import render_comparison
from imac_torch.reports.differences import differences
from imac_torch.reports.html_report import render_report, write_report
from imac_torch.reports.model_page import render_model_report, saved_ablation
from imac_torch.reports.model_report import ModelReport, is_model_report
from imac_torch.reports.report import Report
from imac_torch.results.latency import FRACTION, same_answers
from imac_torch.simulator import NgSpice, Spice
from imac_torch.study.deck import collect
from imac_torch.study.evaluation import evaluate
from imac_torch.study.sources import Loader
from imac_torch.study.transient_verification import verify_transient
from imac_torch.transient.options import TimingOptions

__all__ = ["compare", "report", "simulate", "verify"]


@expanded
def simulate(
    network: NetworkArguments,
    samples: DataArguments,
    compared: ReferenceArguments,
    calibration: CalibrationArguments,
    engine: o.EngineOption = Native.name,
    testnum: o.TestnumOption = None,
    testnum_per_batch: o.PerBatchOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New directory: report.html, JSON, CSV, the network."),
    ] = None,
    timing: Annotated[
        bool,
        typer.Option(
            "--timing",
            help="Measure latency and energy of every sample with transients (native engine); "
            "takes hundreds of times as long.",
        ),
    ] = False,
    settling: Annotated[
        float,
        typer.Option(
            min=0.01, max=99.0,
            help="With --timing: an output has settled within this many % of its swing.",
        ),
    ] = 100 * FRACTION,
    noise: o.NoiseOption = False,
    analysis: o.AnalysisOption = o.Analysis.DC,
    run_directory: Annotated[
        Path | None,
        typer.Option(help="Keep netlists and logs here; what is there already is not run again."),
    ] = None,
    workers: o.WorkersOption = 1,
    timeout: o.TimeoutOption = 3600.0,
    licences: o.LicencesOption = None,
    area_model: o.AreaModelOption = "imac-sim",
    title: Annotated[str | None, typer.Option(help="Title of the report.")] = None,
    ablation: Annotated[
        bool | None,
        typer.Option(
            "--ablation/--no-ablation",
            help="With --output: whether the page says which effect costs what accuracy, on 200 "
            "samples. Default: for models of one circuit; of several it may take minutes.",
            show_default=False,
        ),
    ] = None,
    quiet: o.QuietOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Run labelled data through the circuit: accuracy, power, energy, area, latency.

    `imac-torch simulate path/to/IMAC-Sim` repeats the run that its testIMAC.py describes, with the
    native engine; add `--engine hspice --analysis transient` for the original way.
    """
    chosen = o.engine_class(engine)
    if timing and not chosen.measures_time:
        raise DataError("--timing belongs to the native engine: leave --engine out")
    if noise and not issubclass(chosen, Native):
        raise DataError("--noise belongs to the native engine: leave --engine out")
    if ablation is not None and output is None:
        raise DataError("--ablation and --no-ablation are about the page: give --output too")
    with claimed(output):
        _check_new(output)
        check_output(run_directory, directory=True)
        # The simulator is looked for before data are opened, and those before the network is
        # converted.
        options = EngineOptions(
            analysis=analysis.value,
            workers=workers,
            directory=run_directory,
            timeout=timeout,
            licences=licences,
            trust=network.trust,
        )
        chosen.of(options).require()
        opened, found = open_run(
            network,
            samples,
            count=testnum,
            batch_size=testnum_per_batch,
            reference=compared,
            calibration=calibration,
            progress=not quiet,
        )
        if not noise:
            _say_what_is_quiet(opened)
        loader = found.loader
        if chosen.netlists:
            # One run directory for everything, so that netlists run side by side.
            loader = Loader(loader.dataset, found.count, loader.dtype, loader.flat)
        heading = title or _title(network.model, samples.data)

        def written(directory: Path, done: Report | ModelReport, *, compare: bool) -> Path:
            steps = isinstance(done, Report) if ablation is None else ablation
            return write_report(
                directory, done, network=opened.network, title=heading, area_model=area_model,
                reference=opened.reference, software=opened.software if compare else None,
                loader=loader if compare else None, ablation=steps,
            )  # fmt: skip

        try:
            result = evaluate(
                opened.network,
                loader,
                reference=opened.software,
                engine=chosen.of(
                    replace(options, per_netlist=testnum_per_batch or opened.source.per_batch)
                ),
                timing=TimingOptions(fraction=settling / 100) if timing else False,
                noise=noise,
                generator=torch.Generator().manual_seed(opened.seed or 0) if noise else None,
                seed=opened.seed,
                progress=not quiet,
            )
        except BaseException as error:
            done = getattr(error, "report", None)
            if isinstance(done, Report | ModelReport):  # what was finished before is not lost
                if output is not None:
                    page = written(output, done, compare=False)
                    count = done.figures()["samples"]
                    typer.echo(f"wrote {page}, of {count} samples", err=True)
                _show(done, opened, area_model, as_json=as_json)
            raise
        if output is not None:  # before anything is printed
            page = written(output, result, compare=True)
        _show(result, opened, area_model, as_json=as_json)
        if output is not None:
            typer.echo(f"wrote {page}", err=as_json)
        if result.failures:
            typer.echo(f"{result.failures} of {found.count} samples were not solved", err=True)
            raise typer.Exit(int(ExitCode.UNSOLVED))


def _say_what_is_quiet(opened: Opened) -> None:
    """Settings of noise are for nothing in a run that draws none."""
    found = opened.network.config.noise.model_dump(exclude_defaults=True)
    if found:
        told = ", ".join(f"noise.{name} = {value}" for name, value in found.items())
        warnings.warn(
            f"settings without effect in this run: {told} (noise is drawn with --noise)",
            SettingWarning,
            stacklevel=3,
        )


def _title(model: str, data: str | None) -> str:
    return f"{called(model)}, {'its own data' if data is None else called(data)}"


def _check_new(output: Path | None) -> None:
    # The page is written last: without it a run was ended meanwhile, and may be finished.
    names = ("report.json", "report.html")
    if output is not None and all((output / name).exists() for name in names):
        raise DataError(f"{output} holds a report already; choose another directory")


def _show(
    result: Report | ModelReport, opened: Opened, area_model: str, *, as_json: bool
) -> None:
    if isinstance(result, ModelReport):
        known = {"reference": opened.reference, "engine": result.engine, "seed": result.seed}
        typer.echo(strict_json({**result.figures(), **known}) if as_json else str(result))
        return
    area = network_area(opened.network, area_model)
    if as_json:
        content = {
            **result.figures(),
            "reference": opened.reference,
            "engine": result.engine,
            "seed": result.seed,
            "area": {
                "model": area.model, "total": area.whole, **area.total.parts(), **area.borders,
            },
        }  # fmt: skip
        typer.echo(strict_json(content))
        return
    typer.echo(str(result))
    typer.echo(f"software is {opened.reference}")
    typer.echo(f"area ({area.model}): {area.in_words()}")


@expanded
def verify(
    network: NetworkArguments,
    data: DataArguments,
    calibration: CalibrationArguments,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="How many.")] = 3,
    engine: Annotated[
        str,
        typer.Option(
            "--engine", "-e", metavar="ENGINE", callback=lambda name: o.known(ENGINES, name),
            help="What to compare the native engine with.",
        ),
    ] = NgSpice.name,
    tolerance: Annotated[
        float,
        typer.Option(
            parser=measured(VOLTAGE, 0.0), metavar="V",
            help="Largest difference of an output allowed.",
        ),
    ] = 1e-4,
    power_tolerance: Annotated[
        float, typer.Option(min=0, help="Largest relative difference of the power allowed.")
    ] = 1e-3,
    analysis: o.AnalysisOption = o.Analysis.DC,
    run_directory: Annotated[Path | None, typer.Option(help="Keep netlists and logs here.")] = None,
    workers: o.WorkersOption = 1,
    timeout: o.TimeoutOption = 3600.0,
    as_json: o.JsonOption = False,
) -> None:
    """Solve a few samples natively and by SPICE, and compare outputs and powers.

    With `--analysis transient` the samples follow each other in one netlist, and waveforms (0.5 %
    of the swing), latencies (2 %) and energies (1 %) are compared instead. Exits with 6 if
    anything differs by more than its tolerance, or a class does.
    """
    chosen = o.engine_class(engine)
    if chosen is Native:
        raise DataError("the native engine would be compared with itself; use ngspice or hspice")
    check_output(run_directory, directory=True)
    other = chosen.of(
        EngineOptions(
            per_netlist=-(-samples // workers), workers=workers, directory=run_directory,
            timeout=timeout, trust=network.trust,
        )
    )  # fmt: skip
    other.require()
    opened, found = open_run(
        network, data, count=samples, batch_size=samples, calibration=calibration
    )
    loader, count = found.loader, found.count
    if analysis is o.Analysis.TRANSIENT:
        _verify_transient(opened, loader, count, other, as_json=as_json)
        return
    spice = other.bind(opened.network.segment)
    inputs, _ = collect(opened.network, loader)
    with torch.no_grad():
        ours = Native().bind(opened.network.segment).solve(inputs.to(opened.network.device))
    with console(stderr=True).status(f"{engine} solves {count} samples ..."):
        theirs = spice.solve(inputs)
    both = ours.converged.cpu() & theirs.converged
    if not bool(both.all()):
        typer.echo(f"{int((~both).sum())} of {count} samples were not solved by both", err=True)
        raise typer.Exit(int(ExitCode.UNSOLVED))
    difference = (ours.outputs.cpu() - theirs.outputs).abs()
    assert ours.power is not None and theirs.power is not None  # noqa: S101 - both were asked
    relative = (ours.power.total.cpu() / theirs.power.total - 1).abs()
    same = same_answers(ours.outputs.cpu(), theirs.outputs, opened.network.segment.threshold)
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
        typer.echo(strict_json({**figures, "passed": passed}))
    else:
        table = Table("figure", "value", title=f"native against {engine}")
        table.add_row("samples", str(count))
        table.add_row("largest difference of an output", f"{figures['largest_difference']:.3g} V")
        table.add_row("rms difference of outputs", f"{figures['rms_difference']:.3g} V")
        table.add_row("largest difference of power", f"{100 * float(relative.max()):.3g} %")
        table.add_row("same class", f"{int(same.sum())} of {count}")
        console().print(table)
        typer.echo("the engines agree" if passed else "THE ENGINES DIFFER")
    if not passed:
        raise typer.Exit(int(ExitCode.DIFFERENT))


def _verify_transient(
    opened: Opened, loader: Loader, count: int, engine: Engine, *, as_json: bool
) -> None:
    if not isinstance(engine, Spice):
        raise DataError("--analysis transient compares with simulators: use ngspice or hspice")
    found = verify_transient(
        opened.network, loader, count, simulator=engine.simulator, directory=engine.directory,
        trust=engine.trust,
    )  # fmt: skip
    if as_json:
        keys = (
            "samples", "simulator", "waveform_difference", "latency_difference",
            "energy_difference", "same_class", "native_seconds", "simulator_seconds", "passed",
        )  # fmt: skip
        typer.echo(strict_json({key: getattr(found, key) for key in keys}))
    else:
        typer.echo(str(found))
        typer.echo("the engines agree" if found.passed else "THE ENGINES DIFFER")
    if not found.passed:
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
    check_output(output)
    if is_model_report(directory):
        text = render_model_report(
            ModelReport.load(directory), ablation=saved_ablation(directory), title=title
        )
    else:
        text = render_report(Report.load(directory), Analysis.load(directory), title=title)
    page = write_text(output or directory / "report.html", text)
    typer.echo(f"wrote {page}")


def compare(
    first: Annotated[Path, typer.Argument(help="A run, a network or a configuration.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Of two runs: a new page with both side by side."),
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Show what differs between two runs, saved networks or configurations.

    A run is a directory of `imac-torch simulate --output`: its figures, what was simulated and how
    are compared; a network (.safetensors) by layers, configuration and tensors.
    """
    check_output(output, new=True)
    found = differences(first, second)
    if output is not None:
        write_text(output, render_comparison(first, second), new=True)
        typer.echo(f"wrote {output}", err=as_json)
    if as_json:
        typer.echo(strict_json([asdict(item) for item in found.found]))
        return
    typer.echo(str(found), nl=False)
