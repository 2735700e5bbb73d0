"""Hardware-aware fine-tuning: train through the circuit what its wires took away.

A multilayer perceptron is trained on handwritten digits in the usual way and converted to 16-state
devices of low resistance in large bit cells, for which wires of 32×32 arrays matter. Then it is
trained on for a few dozen steps with the gradients of the whole circuit: wires, partitions,
loading, transfer curves; gradients pass straight through the rounding to states.

    python examples/fine_tuning.py --steps 60
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from imac_torch import Config, IMACNetwork, convert
from imac_torch.calibration import calibrate
from imac_torch.config import Interconnect, Memristor, Neuron, WeightMapping
from imac_torch.datasets.named import load_dataset


def digits(train: bool) -> tuple[Tensor, Tensor]:
    """Images (B, 64) in [-1, 1] and classes (B,)."""
    dataset = load_dataset("digits", train=train)
    pairs = [dataset[k] for k in range(len(dataset))]  # type: ignore[arg-type]
    images = torch.stack([image for image, _ in pairs]).flatten(1).to(torch.float64)
    return images, torch.tensor([label for _, label in pairs])


def train_software(images: Tensor, labels: Tensor, epochs: int, seed: int) -> nn.Sequential:
    """The usual training of the usual model."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 16), nn.Sigmoid(), nn.Linear(16, 10)
    ).double()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2, weight_decay=1e-4)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(128):
            loss = nn.functional.cross_entropy(model(images[index]), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Per cent of correct classes."""
    return 100.0 * float((model(images).argmax(1) == labels).to(torch.float64).mean())


def with_wires(network: IMACNetwork, wires: Interconnect) -> None:
    """Give every layer other wires, everything else untouched."""
    for layer in network.analog_layers():
        layer.config = layer.config.replace(interconnect=wires)


def fine_tune(
    network: IMACNetwork, images: Tensor, labels: Tensor, steps: int, batch: int, rate: float
) -> None:
    """Gradient steps through the circuit."""
    optimiser = torch.optim.Adam(network.layers.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        index = torch.randint(len(images), (batch,))
        loss = nn.functional.cross_entropy(network(images[index]), labels[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def main() -> None:
    """Train, convert, lose, recover."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-2)
    parser.add_argument("--device", default="RRAM", help="preset of the memory device")
    parser.add_argument("--bit-cell", default="1TG1R", help="1T1R, 2T1R or 1TG1R: wire length")
    parser.add_argument("--states", type=int, default=16)
    parser.add_argument("--neuron", default="logistic", choices=("logistic", "finfet"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    images, labels = digits(train=True)
    test_images, test_labels = digits(train=False)
    model = train_software(images, labels, options.epochs, options.seed)

    def test(network: nn.Module) -> float:
        return accuracy(network, test_images, test_labels)

    print(f"software                    {test(model):6.2f} %")
    config = Config(
        device=Memristor.preset(options.device).replace(states=options.states),
        mapping=WeightMapping(levels="continuous", scheme="matched"),
        neuron=Neuron(kind=options.neuron),
        interconnect=Interconnect(resistance=False),
    )
    network = convert(model, config)
    calibrate(network, images[:400], rounds=2)
    ideal = test(network)
    print(f"circuit without wires       {ideal:6.2f} %")
    with_wires(network, Interconnect.preset(9e-9, options.bit_cell))
    before = test(network)
    print(f"circuit with wires          {before:6.2f} %")
    fine_tune(network, images, labels, options.steps, options.batch, options.rate)
    after = test(network)
    print(f"after {options.steps:3d} steps of training {after:6.2f} %")
    # One image of 360 is 0.3 points: where wires take less than a point there is nothing to show.
    assert after >= ideal - max(1.0, (ideal - before) / 2), "fine-tuning recovered too little"


if __name__ == "__main__":
    main()
