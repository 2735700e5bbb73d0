"""What the examples with float networks share: data, ordinary training, the table of losses."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from train_sample import accuracy, train

import imac_torch as imac
from imac_torch.conversion.ablation import AblationStep
from imac_torch.errors import ConversionWarning

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


@dataclass(frozen=True)
class Data:
    """Images (B, 1, H, W) in [-1, 1], float64, and classes (B,), to train with and held out."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Which data set, and where it is."""
    parser.add_argument("--dataset", default="digits", help="a name that load_dataset knows")
    parser.add_argument("--root", type=Path, default=None, help="directory of the data sets")
    parser.add_argument("--download", action="store_true", help="let torchvision download")
    parser.add_argument(
        "--from-test",
        type=int,
        default=None,
        metavar="N",
        help="train with the first N test images and test with the others: the training files "
        "need not be there",
    )
    parser.add_argument("--limit", type=int, default=None, help="test images; default: all")


def add_circuit_options(parser: argparse.ArgumentParser) -> None:
    """What the circuit is made of."""
    parser.add_argument("--device", default="PCM", choices=sorted(imac.DEVICES))
    parser.add_argument("--states", type=int, default=16, help="conductances of a device")
    parser.add_argument("--variation", type=float, default=0.02, help="spread of resistances, ±")
    parser.add_argument("--bit-cell", default="1T1R", choices=sorted(imac.BIT_CELL_LENGTHS))
    parser.add_argument("--combine", default="average", choices=("average", "sum"))
    parser.add_argument("--neuron", default=None, help="finfet or logistic; default: finfet")


def load_data(options: argparse.Namespace) -> Data:
    """The data set of the command line."""

    def split(train_split: bool) -> tuple[Tensor, Tensor]:
        dataset = imac.load_dataset(
            options.dataset, options.root, train=train_split, download=options.download
        )
        images, labels = next(iter(DataLoader(dataset, batch_size=len(dataset))))  # type: ignore[arg-type]
        return images.double(), labels

    images, labels = split(train_split=False)
    if (count := options.from_test) is None:
        training = split(train_split=True)
    else:
        training = images[:count], labels[:count]
        images, labels = images[count:], labels[count:]
    return Data(*training, images[: options.limit], labels[: options.limit])


def train_float(
    build: Callable[[], nn.Sequential], data: Data, *, steps: int, seed: int
) -> nn.Sequential:
    """Build a model and train it as any other software, without a thought of circuits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().double()
    generator = torch.Generator().manual_seed(seed)
    train(
        model, data.images, data.labels, steps=steps, generator=generator, label="software",
        rate=5e-3, sharpness=1.0,
    )  # fmt: skip
    return model.eval()


def circuit_config(options: argparse.Namespace, **sections: object) -> imac.Config:
    """The circuit of the command line; 'matched' so that it computes what the software meant."""
    settings: dict[str, object] = {
        "device": imac.Memristor.preset(options.device).replace(
            states=options.states, variation=options.variation
        ),
        "interconnect": imac.Interconnect.preset(9e-9, options.bit_cell),
        "mapping": imac.WeightMapping(levels="continuous", scheme="matched"),
        "amplifier": imac.Amplifier(combine=options.combine),
        "neuron": imac.Neuron(kind=options.neuron),
        **sections,
    }
    return imac.Config(**settings)


def calibrated(
    model: nn.Sequential, config: imac.Config, data: Data, *, seed: int, samples: int = 300
) -> imac.IMACNetwork:
    """Convert and calibrate on some training images, without their labels."""
    with warnings.catch_warnings():
        # It warns that ranges of ReLUs are not known; calibration finds them.
        warnings.simplefilter("ignore", ConversionWarning)
        network = imac.convert(model, config, generator=torch.Generator().manual_seed(seed))
    imac.calibrate(network, data.images[:samples], rounds=2)
    return network


def without_wires(config: imac.Config) -> imac.Config:
    """The same circuit with ideal wires."""
    return config.replace(interconnect=config.interconnect.replace(resistance=False))


@dataclass(frozen=True)
class Losses:
    """What became of one network's accuracy on held-out images.

    Attributes:
        steps: From software to the circuit.
        ideal: Share of correct images of the circuit without wires, calibrated for itself.
    """

    steps: tuple[AblationStep, ...]
    ideal: float

    @classmethod
    def of(cls, model: nn.Sequential, config: imac.Config, data: Data, *, seed: int) -> Losses:
        """Convert a float network with and without wires."""
        steps = imac.ablate(
            calibrated(model, config, data, seed=seed), data.test_images, data.test_labels
        )
        network = calibrated(model, without_wires(config), data, seed=seed)
        return cls(steps, accuracy(network, data.test_images, data.test_labels))


def show_losses(title: str, found: Sequence[Losses]) -> None:
    """Print what every step costs, mean over seeds."""
    table = Table(title=title)
    table.add_column("with this, too")
    for heading in ("accuracy, %", "change, points", "output error, %"):
        table.add_column(heading, justify="right")

    def add(name: str, now: list[float], before: list[float], error: str) -> None:
        change = 100 * (fmean(now) - fmean(before))
        table.add_row(name, f"{100 * fmean(now):.2f}", f"{change:+.2f}", error)

    software = before = [item.steps[0].accuracy for item in found]
    for steps in zip(*(item.steps for item in found), strict=True):
        now = [step.accuracy for step in steps]
        add(steps[0].name, now, before, f"{100 * fmean(step.output_error for step in steps):.1f}")
        before = now
    table.add_section()
    add("calibrated without wires", [item.ideal for item in found], software, "")
    console = Console()
    console.print(table)
    console.print("change: against the line above; in the last line, against software")
