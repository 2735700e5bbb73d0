"""Commands over many configurations: sweep, search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from imac_torch.base.files import write_text
from imac_torch.base.tables import console
from imac_torch.circuit.engine import EngineOptions
from imac_torch.cli import options as o
from imac_torch.cli.exits import ExitCode
from imac_torch.cli.opening import check_output, choose, fitting_samples
from imac_torch.conversion.calibration import ROUNDS
from imac_torch.errors import ConfigError, DataError
from imac_torch.study.sources import open_data, open_model
from imac_torch.sweep import (
    Backend,
    Dask,
    InProcess,
    NetworkEvaluator,
    Processes,
    Store,
    SweepFile,
    SweepTable,
    read_sweep,
    render_sweep,
    run_sweep,
)
from imac_torch.sweep import search as run_search

__all__ = ["search", "sweep"]

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The sweep (.toml).")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Directory of the table; default: FILE without .toml."),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", "-j", min=1, help="Local processes; 1: in this one.")
]
DaskOption = Annotated[
    str | None,
    typer.Option(
        "--dask", help="Address of a Dask scheduler (tcp://host:8786), or `local` for a cluster "
        "of --workers workers on this machine."
    ),
]
RetryOption = Annotated[bool, typer.Option(help="Run points again that failed earlier.")]


def sweep(
    file: FileArgument,
    output: OutputOption = None,
    workers: WorkersOption = 1,
    dask: DaskOption = None,
    licences: o.LicencesOption = None,
    trust: o.TrustOption = False,
    retry_failed: RetryOption = False,
    show: Annotated[
        bool, typer.Option("--show", help="Run nothing; show what is there by now.")
    ] = False,
    quiet: o.QuietOption = False,
) -> None:
    """Evaluate every point of a sweep; run it again after any kind of end, and it goes on.

    Writes sweep.sqlite (one row per point in the view `sweep`), sweep.csv and sweep.html with the
    Pareto front. FILE names a model, data, fields with their values, and objectives; the guide
    on sweeps has examples.
    """
    described = read_sweep(file)
    directory = output or file.with_suffix("")
    path = directory / "sweep.sqlite"
    if show:
        if not path.is_file():
            raise DataError(f"{path}: there is no table yet")
        with Store(path) as store:
            _finish(store.table(), described, directory, write=False)
        return
    check_output(directory, directory=True)
    evaluator = _evaluator(described, trust=trust)
    evaluator.require(described.objectives, described.points)
    table = run_sweep(
        described.points,
        evaluator,
        path,
        backend=_backend(workers, dask),
        licences=licences,
        retry_failed=retry_failed,
        progress=not quiet,
    )
    _finish(table, described, directory)


def search(
    file: FileArgument,
    output: OutputOption = None,
    trials: Annotated[
        int | None, typer.Option("--trials", "-n", min=1, help="Replaces the file's number.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Trials evaluated side by side.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the search itself.")] = 0,
    workers: WorkersOption = 1,
    dask: DaskOption = None,
    licences: o.LicencesOption = None,
    trust: o.TrustOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Search for the Pareto front of the space in [search.space] (Optuna's NSGA-II).

    Results are kept like those of a sweep, and it goes on like one.
    """
    described = read_sweep(file)
    if not described.space:
        raise ConfigError(f"{file} has no [search.space]")
    directory = output or file.with_suffix("")
    check_output(directory, directory=True)
    table = run_search(
        described.space,
        _evaluator(described, trust=trust),
        directory / "search.sqlite",
        objectives=described.objectives,
        trials=trials or described.trials,
        batch=batch,
        seed=seed,
        backend=_backend(workers, dask),
        licences=licences,
        progress=not quiet,
    )
    _finish(table, described, directory, name="search")


def _backend(workers: int, dask: str | None) -> Backend:
    if dask == "local":
        return Dask(workers=workers)
    if dask is not None:
        return Dask(address=dask)
    return InProcess() if workers == 1 else Processes(workers)


def _evaluator(described: SweepFile, *, trust: bool) -> NetworkEvaluator:
    model, data, run = described.model, described.data, described.run
    source = open_model(
        described.relative(model.source),
        weights=None if model.weights is None else Path(described.relative(model.weights)),
    )
    if source.network is not None:
        raise DataError(
            f"{described.path}: a sweep converts at every point, so its model is the original "
            "one (module:factory, or a directory of IMAC-Sim), not a converted network"
        )
    named, root = data.source, None if data.root is None else Path(described.relative(data.root))
    dataset = open_data(
        None if named is None else described.relative(named), source, root=root, train=data.train
    )
    fitted = None
    try:
        samples = choose(
            dataset,
            source,
            own=named is None,
            first=data.firstimage,
            count=data.testnum,
        )
        if described.calibration is not None:
            wanted = described.calibration.source
            fitted = fitting_samples(
                described.calibration.samples,
                source,
                named=None if wanted is None else described.relative(wanted),
                tested=named,
                root=root,
                option="[calibration] source",
            )
    except DataError as error:
        raise DataError(f"{described.path}: {error}") from None
    try:
        engine = o.engine_class(run.engine).of(
            EngineOptions(
                analysis=run.analysis, workers=run.workers, timeout=run.timeout, trust=trust
            )
        )
    except ConfigError as error:
        raise ConfigError(f"{described.path}: [run]: {error}") from None
    return NetworkEvaluator.of(
        source.software,
        samples.loader,
        described.base(source.config),
        engine=engine,
        area_model=run.area_model,
        exclude=model.exclude,
        include=model.include,
        timing=described.timing,
        noise=described.noise,
        calibration=fitted,
        calibration_rounds=described.calibration.rounds if described.calibration else ROUNDS,
    )


def _finish(
    table: SweepTable,
    described: SweepFile,
    directory: Path,
    *,
    name: str = "sweep",
    write: bool = True,
) -> None:
    """Show the front, write the files, and say with the exit code whether points failed."""
    objectives = described.objectives
    if write:  # before anything is printed
        table.to_csv(directory / f"{name}.csv")
        page = render_sweep(table, objectives, title=described.path.stem)
        write_text(directory / f"{name}.html", page)
    counts = {s: sum(row["status"] == s for row in table.rows) for s in ("done", "failed")}
    typer.echo(f"{counts['done']} of {len(table)} points done, {counts['failed']} failed")
    if table.done:
        front = table.front(objectives)
        shown = Table(title=f"Pareto front: {len(front)} points")
        columns = [*table.settings, *objectives]
        for column in columns:
            shown.add_column(column, justify="right")
        for row in front[:20]:
            shown.add_row(*(_text(row.get(column)) for column in columns))
        console().print(shown)
    if write:
        typer.echo(f"wrote {name}.sqlite, {name}.csv, {name}.html to {directory}")
    if counts["failed"]:
        first = next(row for row in table.rows if row["status"] == "failed")
        typer.echo(f"the first failure: {first['error']}", err=True)
        raise typer.Exit(int(ExitCode.UNSOLVED))


def _text(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "–" if value is None else str(value)
