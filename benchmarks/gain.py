"""The gain that the scheme 'matched' chooses, beside the best of a scan.

For every device, activation and data set, with wires and without: accuracy on test images of
networks that are converted and calibrated alike on the same training images, but for
``amplifier.gain``. Digits come with scikit-learn; features of MNIST are average-pooled images of
the idx files (t10k-images-idx3-ubyte.gz and -labels-) in a directory::

    python benchmarks/gain.py [--mnist DIRECTORY] [--devices PCM] [--activations relu tanh]
"""

from __future__ import annotations

import argparse
import gzip
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import imac_torch as imac

DEVICES = ("MRAM", "RRAM", "CBRAM", "PCM")
ACTIVATIONS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}
SCAN = (3.0, 7.0, 10.0, 15.0, 25.0, 40.0, 70.0, 150.0)
SAMPLES = 300
TOLERANCE = 0.02
"""Share of correct images that the chosen gain may stay below the best of the scan."""


@dataclass(frozen=True)
class Data:
    """Images as (B, N) in [-1, 1], and labels."""

    name: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits() -> Data:
    """scikit-learn's digits."""
    parts = []
    for train in (True, False):
        items = imac.load_dataset("digits", train=train)
        images, labels = next(iter(DataLoader(items, batch_size=len(items))))
        parts += [images.flatten(1), labels]
    return Data("digits", *parts)


def mnist(directory: Path) -> Data:
    """The 10,000 test images, pooled to 14×14; the first 8,000 train."""
    with gzip.open(directory / "t10k-images-idx3-ubyte.gz") as file:
        raw = torch.frombuffer(bytearray(file.read()[16:]), dtype=torch.uint8)
    with gzip.open(directory / "t10k-labels-idx1-ubyte.gz") as file:
        labels = torch.frombuffer(bytearray(file.read()[8:]), dtype=torch.uint8).long()
    images = raw.reshape(-1, 1, 28, 28).float() / 127.5 - 1.0
    pooled = nn.functional.avg_pool2d(images, 2).flatten(1)
    return Data("MNIST 14×14", pooled[:8000], labels[:8000], pooled[8000:], labels[8000:])


def trained(data: Data, activation: type[nn.Module]) -> nn.Sequential:
    """A network with one hidden layer of 32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(data.images.shape[1], 32), activation(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(data.images), data.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Share of correct test images."""
    return float((model(data.test_images).argmax(1) == data.test_labels).double().mean())


def calibrated(
    model: nn.Module, data: Data, device: str, wires: bool, gain: float | None
) -> imac.IMACNetwork:
    """Converted with 17 levels and calibrated on some training images."""
    config = imac.Config(
        device=imac.Memristor.preset(device),
        amplifier=imac.Amplifier(gain=gain),
        interconnect=imac.Interconnect(resistance=wires),
        mapping=imac.WeightMapping(levels=17, scheme="matched"),
    )
    return imac.convert(model, config, samples=data.images[:SAMPLES])


def main() -> None:
    """Print the table; say where the chosen gain is worse than allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, help="directory of the idx files, instead of digits")
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=DEVICES)
    parser.add_argument("--activations", nargs="+", choices=ACTIVATIONS, default=ACTIVATIONS)
    parser.add_argument("--wires", nargs="+", choices=("yes", "no"), default=("yes", "no"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data = digits() if options.mnist is None else mnist(options.mnist)
    bad = 0
    print("| data | neuron | device | wires | software | chosen gains | accuracy | best of scan |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.activations:
        model = trained(data, ACTIVATIONS[name])
        for device in options.devices:
            for wires in options.wires:
                network = calibrated(model, data, device, wires == "yes", None)
                gains = ", ".join(f"{layer.matrix.gain():.3g}" for layer in network.analog_layers())
                found = accuracy(network, data)
                scan = {
                    gain: accuracy(calibrated(model, data, device, wires == "yes", gain), data)
                    for gain in SCAN
                }
                best = max(scan, key=scan.__getitem__)
                worse = found < scan[best] - TOLERANCE
                bad += worse
                print(
                    f"| {data.name} | {name} | {device} | {wires} "
                    f"| {100 * accuracy(model, data):.1f} % | {gains} | {100 * found:.1f} % "
                    f"| {100 * scan[best]:.1f} % at {best:g}{' (!)' if worse else ''} |",
                    flush=True,
                )
    print(f"\n{bad} cells are more than {100 * TOLERANCE:g} points below the best of the scan")


if __name__ == "__main__":
    main()
