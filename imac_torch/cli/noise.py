"""The command that analyses noise: noise."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from imac_torch.base.files import strict_json
from imac_torch.cli import options as o
from imac_torch.cli.arguments import CalibrationArguments, DataArguments, NetworkArguments, expanded
from imac_torch.cli.measures import FREQUENCY, measured
from imac_torch.cli.opening import open_run
from imac_torch.datasets.batches import first_samples

__all__ = ["noise"]


@expanded
def noise(
    network: NetworkArguments,
    samples: DataArguments,
    calibration: CalibrationArguments,
    testnum: o.TestnumOption = 3,
    bandwidth: Annotated[
        float | None,
        typer.Option(
            parser=measured(FREQUENCY, 0.0), metavar="HZ",
            help="As 1e9 or 1GHz, instead of noise.bandwidth: also of a saved network.",
        ),
    ] = None,
    quiet: o.QuietOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Noise of every layer at the operating points of a few samples: V rms, SNR, where from.

    Nothing is drawn: it is an analysis; the section [noise] has the band and the amplitudes. What
    noise costs in accuracy: `simulate --noise`, `ablate --noise`, `montecarlo --noise`.
    Example: `imac-torch noise net.safetensors --data digits -n 3`
    """
    opened, found = open_run(
        network, samples, count=testnum, batch_size=None, calibration=calibration,
        progress=not quiet,
    )  # fmt: skip
    inputs, _ = first_samples(found.loader)
    settings = None
    if bandwidth is not None:
        settings = opened.network.config.noise.replace(bandwidth=bandwidth)
    figures = opened.network.noise(inputs, settings).figures()
    if as_json:
        typer.echo(strict_json({"samples": found.count, **asdict(figures)}))
        return
    typer.echo(str(figures), nl=False)
