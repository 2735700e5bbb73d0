"""The gain that the scheme 'matched' chooses, beside the best of a scan.

For every device, activation and data set, with wires and without: accuracy of networks that are
converted and calibrated alike on the same 300 images, but for ``amplifier.gain``, on all other
images. Digits come with scikit-learn; MNIST is average-pooled images of the idx files
(t10k-images-idx3-ubyte.gz and -labels-) in a directory, by default $IMAC_TORCH_SHARED/mnist if that
is there::

    python benchmarks/gain.py [--mnist DIRECTORY] [--devices PCM] [--activations relu tanh]
"""

from __future__ import annotations

import argparse
import gzip
import os
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
    """Images as (B, N) in [-1, 1], and labels; the first 300 calibrate, the others test.

    Two circuits of one network differ in d of n images. If neither is better, their shares of
    correct ones differ by the square root of d over n at most (one standard deviation): 1,500 and
    2,700 images of which 5 % differ give 0.6 and 0.4 points.
    """

    name: str
    images: Tensor
    labels: Tensor


def digits() -> Data:
    """scikit-learn's digits, 1797."""
    parts = []
    for train in (True, False):
        items = imac.load_dataset("digits", train=train)
        parts.append(next(iter(DataLoader(items, batch_size=len(items)))))
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return Data("digits", images.flatten(1), labels)


def mnist(directory: Path) -> Data:
    """3,000 of the 10,000 test images, pooled to 14×14."""
    with gzip.open(directory / "t10k-images-idx3-ubyte.gz") as file:
        raw = torch.frombuffer(bytearray(file.read()[16:]), dtype=torch.uint8)
    with gzip.open(directory / "t10k-labels-idx1-ubyte.gz") as file:
        labels = torch.frombuffer(bytearray(file.read()[8:]), dtype=torch.uint8).long()
    images = raw.reshape(-1, 1, 28, 28)[:3000].float() / 127.5 - 1.0
    pooled = nn.functional.avg_pool2d(images, 2).flatten(1)
    return Data("MNIST 14×14", pooled, labels[:3000])


def trained(
    data: Data, activation: type[nn.Module], *, seed: int = 0, steps: int = 100
) -> nn.Sequential:
    """A network with one hidden layer of 32."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(data.images.shape[1], 32), activation(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(data.images), data.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Share of correct images among those that did not calibrate."""
    found = model(data.images[SAMPLES:]).argmax(1)
    return float((found == data.labels[SAMPLES:]).double().mean())


def calibrated(
    model: nn.Module, data: Data, device: str, wires: bool, gain: float | None
) -> imac.IMACNetwork:
    """Converted with 17 levels and calibrated."""
    config = imac.Config(
        device=imac.Memristor.preset(device),
        amplifier=imac.Amplifier(gain=gain),
        interconnect=imac.Interconnect(resistance=wires),
        mapping=imac.WeightMapping(levels=17, scheme="matched"),
    )
    return imac.convert(model, config, samples=data.images[:SAMPLES])


def cell(
    model: nn.Module, data: Data, activation: str, device: str, wires: bool
) -> tuple[str, bool]:
    """A row of the table, and whether the chosen gain is worse than allowed."""
    network = calibrated(model, data, device, wires, None)
    gains = ", ".join(f"{layer.matrix.gain():.3g}" for layer in network.analog_layers())
    found = accuracy(network, data)
    scan = {gain: accuracy(calibrated(model, data, device, wires, gain), data) for gain in SCAN}
    best = max(scan, key=scan.__getitem__)
    worse = found < scan[best] - TOLERANCE
    return (
        f"| {data.name} | {activation} | {device} | {'yes' if wires else 'no'} "
        f"| {100 * accuracy(model, data):.1f} % | {gains} | {100 * found:.1f} % "
        f"| {100 * scan[best]:.1f} % at {best:g}{' (!)' if worse else ''} |"
    ), worse


def main() -> None:
    """Print the table; say where the chosen gain is worse than allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("IMAC_TORCH_SHARED", "")) / "mnist"
    parser.add_argument(
        "--mnist", type=Path, default=shared if shared.is_dir() else None,
        help="directory of the idx files",
    )  # fmt: skip
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=DEVICES)
    parser.add_argument("--activations", nargs="+", choices=ACTIVATIONS, default=ACTIVATIONS)
    parser.add_argument("--wires", nargs="+", choices=("yes", "no"), default=("yes", "no"))
    parser.add_argument("--data", nargs="+", choices=("digits", "mnist"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    named = {"digits": digits()}
    if options.mnist is not None:
        named["mnist"] = mnist(options.mnist)
    bad = 0
    print("| data | neuron | device | wires | software | chosen gains | accuracy | best of scan |")
    print("|---|---|---|---|---|---|---|---|")
    for data in [named[name] for name in options.data or named]:
        for activation in options.activations:
            model = trained(data, ACTIVATIONS[activation])
            for device in options.devices:
                for wires in options.wires:
                    text, worse = cell(model, data, activation, device, wires == "yes")
                    bad += worse
                    print(text, flush=True)
    print(f"\n{bad} cells are more than {100 * TOLERANCE:g} points below the best of the scan")


if __name__ == "__main__":
    main()
