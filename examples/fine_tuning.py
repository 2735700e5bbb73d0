"""Hardware-aware fine-tuning: train through the circuit what its wires took away.

A network that was trained for the ideal circuit goes to devices of low resistance in large bit
cells, where the wires of 32×32 arrays cost accuracy. Training steps with the gradients of the whole
circuit follow: wires, partitions, loading, another sample of the devices' spread in every step;
gradients pass straight through the rounding to levels. Accuracies are of held-out images.

    python examples/fine_tuning.py
    python examples/fine_tuning.py --network network.npz --device MRAM --batch 256
    python examples/fine_tuning.py --bit-cell 1T1R --on-resistance 2e3 --bend 0.3 --steps 40
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from paper_systems.subjects import read_npz
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from train_sample import accuracy, load_sample

import imac_torch as imac
from imac_torch.base.progress import progress_bar
from imac_torch.base.resources import data_file
from imac_torch.devices.effects import Gaussian
from imac_torch.errors import ConversionWarning


@dataclass(frozen=True)
class Recovery:
    """Shares of correct held-out images.

    Attributes:
        ideal: Of the circuit without wires.
        wires: With wires.
        tuned: With wires, fine-tuned.
        spread_before: With wires and spread of the devices, mean over samples.
        spread_tuned: Likewise, fine-tuned.
    """

    ideal: float
    wires: float
    tuned: float
    spread_before: float
    spread_tuned: float

    @property
    def recovered(self) -> float:
        """Share of what wires took; NaN if they took nothing."""
        lost = self.ideal - self.wires
        return (self.tuned - self.wires) / lost if lost > 0.0 else float("nan")


@dataclass(frozen=True)
class Subject:
    """A trained network, its circuit, and labelled images for training and for the test."""

    model: nn.Sequential
    config: imac.Config
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def open_subject(network: Path | None) -> Subject:
    """The digits sample, or a network with its own images, the last fifth of which is held out."""
    if network is None:
        sample = load_sample(data_file("digits_mlp.safetensors"))
        parts = []
        for train in (True, False):
            digits = imac.load_dataset("digits", train=train)
            images, labels = next(iter(DataLoader(digits, batch_size=2000)))
            parts += [images.double(), labels]
        return Subject(sample.ternary.double(), sample.config, *parts)
    model, images, labels = read_npz(network)
    count = len(labels) * 4 // 5
    return Subject(
        model, imac.Config.imac_sim(),
        images[:count].double(), labels[:count], images[count:].double(), labels[count:],
    )  # fmt: skip


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


def recover(options: argparse.Namespace, subject: Subject, seed: int) -> Recovery:
    """Convert, lose, recover."""
    test = subject.test_images[: options.images], subject.test_labels[: options.images]
    devices = imac.DeviceModel((Gaussian(options.spread),))
    device = imac.Memristor.preset(options.device, options.bit_cell if options.access else None)
    if options.on_resistance is not None:
        device = device.replace(access={"resistor": {"resistance": options.on_resistance}})
    config = subject.config.replace(
        device=device.replace(bend=options.bend),
        interconnect=imac.Interconnect.preset(9e-9, options.bit_cell),
        # Those of the published HSPICE runs with these devices.
        neuron=subject.config.neuron.replace(
            kind=options.neuron or subject.config.neuron.kind, rlow=5e3, rhigh=15e3
        ),
        # Levels between -1, 0 and 1 are what training can use.
        mapping=subject.config.mapping.replace(levels=options.levels),
    )
    wires = config.interconnect
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        network = imac.convert(
            subject.model, config.replace(interconnect=wires.replace(resistance=False))
        )

    def with_spread() -> float:
        runs = imac.MonteCarlo(network, devices, seed=seed)
        return float(runs.run(*test, samples=options.samples).accuracy.mean())

    ideal = accuracy(network, *test)
    set_wires(network, wires)
    before, spread_before = accuracy(network, *test), with_spread()
    fine_tune(
        network, subject.images, subject.labels, devices,
        steps=options.steps, batch=options.batch, rate=options.rate,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return Recovery(
        ideal=ideal,
        wires=before,
        tuned=accuracy(network, *test),
        spread_before=spread_before,
        spread_tuned=with_spread(),
    )


def show(found: Sequence[Recovery], options: argparse.Namespace) -> None:
    """One column per seed."""
    table = Table(title="accuracy on held-out images, %")
    cells = f"{options.device}, {options.bit_cell}, {options.levels} levels"
    cells += ", access transistors" if options.access else ""
    cells += f", {options.on_resistance:g} Ω in series" if options.on_resistance else ""
    table.add_column(cells + (f", v0 = {options.bend:g} V" if options.bend else ""))
    for index in range(len(found)):
        table.add_column(f"seed {index}", justify="right")
    for name, text in (
        ("ideal", "circuit without wires"),
        ("wires", "with wires"),
        ("tuned", "fine-tuned through the circuit"),
        ("spread_before", f"with wires and {100 * options.spread:g} % spread"),
        ("spread_tuned", "the same, fine-tuned"),
    ):
        table.add_row(text, *(f"{100 * getattr(item, name):.2f}" for item in found))
    table.add_section()
    shares = (f"{100 * item.recovered:.0f}" for item in found)
    table.add_row("recovered of what wires took", *shares)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> list[Recovery]:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", type=Path, help="network.npz; default: the digits sample")
    parser.add_argument("--device", default="RRAM", choices=("MRAM", "RRAM", "CBRAM", "PCM"))
    parser.add_argument("--bit-cell", default="1TG1R", choices=sorted(imac.BIT_CELL_LENGTHS))
    access = parser.add_mutually_exclusive_group()
    access.add_argument("--access", action="store_true", help="the bit cell's transistors, too")
    access.add_argument(
        "--on-resistance", type=float, help="Ω, of transistors that are fully on, as resistors"
    )
    parser.add_argument("--bend", type=float, help="V, v0 of g·v0·sinh(v/v0); default: ohmic")
    parser.add_argument("--neuron", choices=("finfet", "logistic"), help="default: the network's")
    parser.add_argument("--levels", type=int, default=17, help="of a weight")
    parser.add_argument("--steps", type=int, default=60, help="through the circuit")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-2)
    parser.add_argument("--spread", type=float, default=0.03, help="σ of conductances, relative")
    parser.add_argument("--samples", type=int, default=10, help="of devices, in two lines")
    parser.add_argument("--images", type=int, help="held out, the first; default: all")
    parser.add_argument("--seeds", type=int, default=1, help="of the training")
    options = parser.parse_args(arguments)
    subject = open_subject(options.network)
    found = [recover(options, subject, seed) for seed in range(options.seeds)]
    show(found, options)
    return found


if __name__ == "__main__":
    main()
