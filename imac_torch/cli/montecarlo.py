"""The command for many chips: montecarlo."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from imac_torch.base.files import strict_json, write_text
from imac_torch.base.progress import progress_bar
from imac_torch.cli import options as o
from imac_torch.cli.arguments import CalibrationArguments, DataArguments, NetworkArguments, expanded
from imac_torch.cli.opening import check_output, open_run
from imac_torch.datasets.batches import first_samples
from imac_torch.errors import ConfigError
from imac_torch.study.montecarlo import MonteCarlo
from imac_torch.study.montecarlo_result import MonteCarloResult

__all__ = ["montecarlo"]


@expanded
def montecarlo(
    network: NetworkArguments,
    samples: DataArguments,
    calibration: CalibrationArguments,
    testnum: o.TestnumOption = None,
    chips: Annotated[int, typer.Option("--chips", min=1, help="How many are drawn.")] = 20,
    first: Annotated[
        int, typer.Option("--first-chip", min=0, help="Number of the first: continues a run.")
    ] = 0,
    draw_seed: Annotated[
        int, typer.Option(help="Of the draws: the same chips for the same number.")
    ] = 0,
    noise: o.NoiseOption = False,
    passing: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Also the yield: chips of at least this accuracy, in %."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New CSV file, a chip per line.")
    ] = None,
    quiet: o.QuietOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Many chips of one network, each with devices of its own: accuracy, power, yield.

    What spreads is in the configuration (`device.variation`, `device.effects`,
    `amplifier.offset_spread`). A chip does not depend on how many are drawn.
    Example: `imac-torch montecarlo net.safetensors --data digits -n 100 --chips 50 --passing 90`
    """
    check_output(output, new=True)
    opened, found = open_run(
        network, samples, count=testnum, batch_size=None, calibration=calibration,
        progress=not quiet,
    )  # fmt: skip
    if not any(layer.matrix.varies for layer in opened.network.analog_layers()):
        raise ConfigError(
            f"all chips of {network.model} would be the same, nothing in it spreads. "
            "Say what does when it is converted (or here, with the original model): "
            "--set device.variation=5% --seed 0, or device.effects or amplifier.offset_spread"
        )
    drawn = MonteCarlo(opened.network, seed=draw_seed)
    with progress_bar("Monte Carlo", chips, "chips", shown=not quiet) as advance:
        told = 0

        def report(done: int, total: int) -> None:
            nonlocal told
            advance(done - told)
            told = done

        result = drawn.run(
            *first_samples(found.loader), samples=chips, first=first, noise=noise, progress=report
        )
    if output is not None:
        write_text(output, _table(result, first), new=True)
    reached = None if passing is None else result.yield_above(passing / 100)
    if as_json:
        figures = {
            "chips": chips, "first_chip": first, "samples": found.count, "draw_seed": draw_seed,
            "accuracy": asdict(result.mean_accuracy()), "power": asdict(result.mean_power()),
            "accuracies": result.accuracy.tolist(),
        }  # fmt: skip
        if reached is not None:
            figures |= {"passing": passing, "yield": asdict(reached)}
        typer.echo(strict_json(figures))
        return
    typer.echo(str(result), nl=False)
    if reached is not None:
        typer.echo(
            f"yield: {100 * reached.value:.1f} % of chips have at least {passing:g} % "
            f"(95 % interval {100 * reached.low:.1f} to {100 * reached.high:.1f} %)"
        )
    if output is not None:
        typer.echo(f"wrote {output}")


def _table(result: MonteCarloResult, first: int) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("chip", "accuracy", "power_W", f"rms_error_{result.unit}", "share_solved"))
    columns = result.accuracy, result.power, result.error, result.converged
    for number, row in enumerate(zip(*(item.tolist() for item in columns), strict=True), first):
        writer.writerow((number, *row))
    return stream.getvalue()
