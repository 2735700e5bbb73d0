"""The command that says which effect takes what: ablate."""

from __future__ import annotations

from dataclasses import asdict

import torch
import typer
from rich.table import Table

from imac_torch.base.files import strict_json
from imac_torch.base.tables import console
from imac_torch.cli import options as o
from imac_torch.cli.arguments import CalibrationArguments, DataArguments, NetworkArguments, expanded
from imac_torch.cli.opening import open_run
from imac_torch.conversion.ablation import ablate as steps_of
from imac_torch.datasets.batches import first_samples

__all__ = ["ablate"]


@expanded
def ablate(
    network: NetworkArguments,
    samples: DataArguments,
    calibration: CalibrationArguments,
    testnum: o.TestnumOption = None,
    noise: o.NoiseOption = False,
    quiet: o.QuietOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Say which effect takes what of the accuracy: levels, spread, neurons, loading, wires, ….

    Every row is the circuit with one effect more than the row before; the last is the whole one,
    with --noise that with noise.
    Example: `imac-torch ablate model_zoo.py:ResNet(8,10) --data digits -n 100 --calibrate 200`
    """
    opened, found = open_run(
        network, samples, count=testnum, batch_size=None, calibration=calibration,
        progress=not quiet,
    )  # fmt: skip
    steps = steps_of(
        opened.network, *first_samples(found.loader), noise=noise,
        generator=torch.Generator().manual_seed(opened.seed or 0) if noise else None,
    )  # fmt: skip
    if as_json:
        content = {"samples": found.count, "steps": [asdict(step) for step in steps]}
        typer.echo(strict_json({**content, "seed": opened.seed}))
        return
    table = Table(title=f"where accuracy is lost, {found.count} samples")
    for heading in ("up to", "accuracy", "error of outputs", "not solved"):
        table.add_column(heading, justify="left" if heading == "up to" else "right")
    for step in steps:
        table.add_row(
            step.name, f"{100 * step.accuracy:.2f} %", f"{100 * step.output_error:.2f} %",
            str(step.failed),
        )  # fmt: skip
    console().print(table)
