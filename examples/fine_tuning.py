"""Hardware-aware fine-tuning: train through the circuit what its wires took away.

A float network is trained as usual and converted to 16-state devices of low resistance in large
bit cells, where the wires of 32×32 arrays cost accuracy. Two remedies follow: calibration of the
rows in the circuit with its wires, which needs no labels, and training steps with the gradients of
the whole circuit: wires, partitions, loading, another sample of the devices' spread in every step;
gradients pass straight through the rounding to states. Accuracies are of held-out images.

    python examples/fine_tuning.py
    python examples/fine_tuning.py --seeds 5
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from common import (
    Data,
    add_circuit_options,
    add_data_options,
    calibrated,
    circuit_config,
    load_data,
    train_float,
    without_wires,
)
from mlp_mnist import mlp
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from train_sample import accuracy

import imac_torch as imac
from imac_torch.devices import Gaussian
from imac_torch.progress import progress_bar


@dataclass(frozen=True)
class Recovery:
    """Shares of correct held-out images.

    Attributes:
        software: Of the float network.
        ideal: Of the circuit without wires.
        wires: With wires.
        calibrated: Calibrated again, with the wires.
        tuned: Fine-tuned.
        spread_before: With wires and spread of the devices, mean over samples.
        spread_tuned: Likewise, fine-tuned.
    """

    software: float
    ideal: float
    wires: float
    calibrated: float
    tuned: float
    spread_before: float
    spread_tuned: float

    @property
    def recovered(self) -> float:
        """Share of what wires took; NaN if they took nothing."""
        lost = self.ideal - self.wires
        return (self.tuned - self.wires) / lost if lost > 0.0 else float("nan")


def set_wires(network: imac.IMACNetwork, wires: imac.Interconnect) -> None:
    """Give every layer other wires, everything else untouched."""
    for layer in network.analog_layers():
        layer.config = layer.config.replace(interconnect=wires)


def fine_tune(
    network: imac.IMACNetwork,
    images: Tensor,
    labels: Tensor,
    devices: imac.DeviceModel,
    *,
    steps: int,
    batch: int,
    rate: float,
    generator: torch.Generator,
) -> None:
    """Gradient steps through the circuit, each with other devices."""
    optimizer = torch.optim.Adam(network.layers.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with progress_bar("through the circuit", steps, "steps") as advance:
        for _ in range(steps):
            index = torch.randint(len(images), (batch,), generator=generator)
            with imac.varied(network, devices, generator):
                loss = nn.functional.cross_entropy(network(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(1)


def recover(options: argparse.Namespace, data: Data, seed: int) -> Recovery:
    """Train, convert, lose, recover."""
    images, labels = data.test_images, data.test_labels
    sizes = (data.images[0].numel(), *options.hidden, int(data.labels.max()) + 1)
    model = train_float(lambda: mlp(sizes, "relu"), data, steps=options.software_steps, seed=seed)
    devices = imac.DeviceModel((Gaussian(options.spread),))

    def with_spread(circuit: imac.IMACNetwork) -> float:
        runs = imac.MonteCarlo(circuit, devices, seed=seed)
        return float(runs.run(images, labels, samples=options.samples).accuracy.mean())

    # Lines of low resistance need neurons that can drive them.
    config = circuit_config(options, neuron=imac.Neuron(output_resistance=100.0))
    network = calibrated(model, without_wires(config), data, seed=seed)
    ideal = accuracy(network, images, labels)
    set_wires(network, config.interconnect)
    before, spread_before = accuracy(network, images, labels), with_spread(network)
    if not options.skip_calibration:
        imac.calibrate(network, data.images[:300], rounds=2)
    again = accuracy(network, images, labels)
    fine_tune(
        network, data.images, data.labels, devices,
        steps=options.steps, batch=options.batch, rate=options.rate,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return Recovery(
        software=accuracy(model, images, labels),
        ideal=ideal,
        wires=before,
        calibrated=again,
        tuned=accuracy(network, images, labels),
        spread_before=spread_before,
        spread_tuned=with_spread(network),
    )


def show(found: Sequence[Recovery], options: argparse.Namespace) -> None:
    """One column per seed."""
    table = Table(title="accuracy on held-out images, %")
    table.add_column(f"{options.device}, {options.bit_cell}, {options.states} states")
    for index in range(len(found)):
        table.add_column(f"seed {index}", justify="right")
    for name, text in (
        ("software", "float software"),
        ("ideal", "circuit without wires"),
        ("wires", "with wires"),
        ("calibrated", "with wires, calibrated again"),
        ("tuned", "fine-tuned through the circuit"),
        ("spread_before", f"with wires and {100 * options.spread:g} % spread"),
        ("spread_tuned", "the same, fine-tuned"),
    ):
        if name != "calibrated" or not options.skip_calibration:
            table.add_row(text, *(f"{100 * getattr(item, name):.2f}" for item in found))
    table.add_section()
    shares = (f"{100 * item.recovered:.0f}" for item in found)
    table.add_row("recovered of what wires took", *shares)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> list[Recovery]:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_data_options(parser)
    add_circuit_options(parser)
    parser.set_defaults(device="RRAM", bit_cell="1TG1R", variation=0.0)
    parser.add_argument("--hidden", type=int, nargs="*", default=[48, 24])
    parser.add_argument("--software-steps", type=int, default=1000)
    parser.add_argument("--skip-calibration", action="store_true", help="only fine-tune")
    parser.add_argument("--steps", type=int, default=60, help="through the circuit")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--spread", type=float, default=0.03, help="σ of conductances, relative")
    parser.add_argument("--samples", type=int, default=10, help="of devices, in the last lines")
    options = parser.parse_args(arguments)
    data = load_data(options)
    found = [recover(options, data, seed) for seed in range(options.seeds)]
    show(found, options)
    return found


if __name__ == "__main__":
    main()
