"""The command that shows outputs in time: transient."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from imac_torch.base.files import strict_json, write_text
from imac_torch.base.tables import text_table
from imac_torch.base.units import quantity
from imac_torch.cli import options as o
from imac_torch.cli.arguments import CalibrationArguments, DataArguments, NetworkArguments, expanded
from imac_torch.cli.opening import check_output, open_run
from imac_torch.datasets.batches import first_samples
from imac_torch.errors import DataError
from imac_torch.transient.options import TransientOptions
from imac_torch.transient.result import TransientResult

__all__ = ["transient"]


@expanded
def transient(
    network: NetworkArguments,
    samples: DataArguments,
    calibration: CalibrationArguments,
    testnum: o.TestnumOption = 3,
    layers: Annotated[
        bool, typer.Option("--layers", help="With -o: neurons of every layer, not of the last.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New CSV file: time, outputs, power of the sources."),
    ] = None,
    quiet: o.QuietOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Waveforms of samples that follow each other, period after period, and their energies.

    Latency and energy of many samples on their own are `simulate --timing`; a comparison with
    ngspice is `verify --analysis transient`.
    Example: `imac-torch transient net.safetensors --data digits -n 3 -o waves.csv`
    """
    check_output(output, new=True)
    if layers and output is None:
        raise DataError("--layers is about the file: give --output too")
    opened, found = open_run(
        network, samples, count=testnum, batch_size=None, calibration=calibration,
        progress=not quiet,
    )  # fmt: skip
    inputs, _ = first_samples(found.loader)
    options = TransientOptions(save="all" if layers else "outputs", amplifiers=False)
    run = opened.network.transient(inputs, options=options)
    if output is not None:
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows(_rows(run))
        write_text(output, stream.getvalue(), new=True)
    ends = run.outputs[run.periods[1:], 0].tolist()
    energy, switching = run.energy.total[0].tolist(), run.switching.total[0].tolist()
    if as_json:
        typer.echo(strict_json({
            "samples": found.count, "period": run.timing.period, "steps": run.steps,
            "outputs": ends, "energy": energy, "switching_energy": switching,
        }))  # fmt: skip
        return
    rows = [
        (
            str(k), quantity(energy[k], "J"), quantity(switching[k], "J"),
            ", ".join(f"{value:.4f}" for value in ends[k]),
        )
        for k in range(found.count)
    ]  # fmt: skip
    headings = ("sample", "energy", "of it switching", "outputs at the end, V")
    title = f"{found.count} periods of {quantity(run.timing.period, 's')}, {run.steps} steps"
    typer.echo(text_table(title, rows, headings=headings), nl=False)
    if output is not None:
        typer.echo(f"wrote {output}")


def _rows(run: TransientResult) -> Iterator[tuple[object, ...]]:
    kept = run.layers or (run.outputs,)
    names = [
        f"layer{k}_{m}_V" if run.layers else f"y{m}_V"
        for k, layer in enumerate(kept, 1)
        for m in range(1, layer.shape[-1] + 1)
    ]
    yield ("time_s", *names, "power_W")
    columns = [layer[:, 0] for layer in kept]
    for place, (time, power) in enumerate(
        zip(run.time.tolist(), run.power.total[:, 0].tolist(), strict=True)
    ):
        yield (time, *(value for item in columns for value in item[place].tolist()), power)
