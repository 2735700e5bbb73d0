"""The command that trains through the circuit: tune."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from imac_torch.base.files import strict_json
from imac_torch.base.progress import progress_bar
from imac_torch.cli import options as o
from imac_torch.cli.arguments import CalibrationArguments, DataArguments, NetworkArguments, expanded
from imac_torch.cli.opening import check_output, open_run
from imac_torch.conversion.storage import save
from imac_torch.datasets.batches import first_samples
from imac_torch.devices.effects import Gaussian
from imac_torch.devices.model import DeviceModel
from imac_torch.errors import DataError, SolverError
from imac_torch.model.network import IMACNetwork
from imac_torch.model.variation import varied

__all__ = ["tune"]


@expanded
def tune(
    network: NetworkArguments,
    samples: DataArguments,
    calibration: CalibrationArguments,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The tuned network's new file (.safetensors).")
    ],
    testnum: o.TestnumOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Samples of a step.")] = 128,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate (Adam, cosine).")] = 0.05,
    factor: Annotated[
        float,
        typer.Option(min=0, help="Of the outputs in the loss; 10 where they are small voltages."),
    ] = 1.0,
    spread: Annotated[
        float,
        typer.Option(min=0, help="Draw devices anew in every step with this relative spread."),
    ] = 0.0,
    draw_seed: Annotated[int, typer.Option(help="Of batches and devices.")] = 0,
    quiet: o.QuietOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Train the circuit's weights through the circuit, wires and loading included.

    Cross-entropy on labelled samples, of named data sets those of the training split; `simulate`
    says what it brought on others. For another loss, or modules in software, train in Python.
    Example: `imac-torch tune net.safetensors --data digits --steps 20 -o tuned.safetensors`
    """
    check_output(output)
    if output.exists() or output.suffix != ".safetensors":
        raise DataError(f"{output}: the network goes to a new .safetensors file")
    opened, found = open_run(
        network, replace(samples, train_split=True), count=testnum, batch_size=None,
        calibration=calibration, progress=not quiet,
    )  # fmt: skip
    inputs, labels = first_samples(found.loader)
    tuned = opened.network
    generator = torch.Generator().manual_seed(draw_seed)
    weights = [weight for layer in tuned.analog_layers() for weight in layer.parameters()]
    optimizer = torch.optim.Adam(weights, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    devices = DeviceModel((Gaussian(spread),)) if spread else None
    losses: list[float] = []
    with progress_bar("through the circuit", steps, "steps", shown=not quiet) as advance:
        for _ in range(steps):
            chosen = torch.randint(
                len(inputs), (min(batch, len(inputs)),), generator=generator, device="cpu"
            )
            with nullcontext() if devices is None else varied(tuned, devices, generator):
                loss = _loss(tuned, inputs[chosen], labels[chosen], factor)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            advance(1)
    path = save(tuned, output)
    if as_json:
        typer.echo(strict_json({"samples": found.count, "losses": losses}))
        return
    typer.echo(f"cross-entropy {losses[0]:.4g} in the first step, {losses[-1]:.4g} in the last")
    typer.echo(f"wrote {path}")


def _loss(network: IMACNetwork, inputs: Tensor, labels: Tensor, factor: float) -> Tensor:
    """Cross-entropy of a batch.

    Raises:
        DataError: The outputs are no scores of classes.
        SolverError: A sample was not solved; its NaN would end in all weights.
    """
    scores = network(inputs.to(network.device))
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise DataError(
            f"outputs of shape {tuple(scores.shape)} are no scores of two classes and more, which "
            "cross-entropy takes: train with a loss of your own in Python (docs/fine_tuning.md)"
        )
    lost = int(scores.isnan().flatten(1).any(1).sum())
    if lost:
        raise SolverError(
            f"{lost} of {len(scores)} samples of a training step were not solved: take a smaller "
            "--rate, or look at them with `imac-torch simulate`"
        )
    return nn.functional.cross_entropy(factor * scores, labels.to(scores.device))
