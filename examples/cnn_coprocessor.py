"""A convolutional network whose fully connected tail runs on the circuit.

This is the IMAC co-processor: convolution and pooling stay in software, the sign of their features
drives the crossbars' input lines. Trained with straight-through gradients of the sign.

    python examples/cnn_coprocessor.py --steps 400
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from train_sample import tensors, train

import imac_torch as imac


class SignFeatures(nn.Module):
    """-1 or 1 per feature, with the gradient of a clipped identity."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        clipped = x.clamp(-1.0, 1.0)
        signs = torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        return signs.detach() + clipped - clipped.detach()


def build(generator: torch.Generator) -> nn.Sequential:
    """Two convolutions in software, then 64-32-10 for the circuit."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        SignFeatures(),
        nn.Linear(64, 32),
        imac.InverterSigmoid(),
        nn.Linear(32, 10),
        imac.InverterSigmoid(),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            bound = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.uniform_(-bound, bound, generator=generator)
    return model


def main(arguments: Sequence[str] | None = None) -> imac.Report:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--limit", type=int, default=None, help="test images; default: all")
    options = parser.parse_args(arguments)
    generator = torch.Generator().manual_seed(0)
    model = build(generator)
    inputs, labels = tensors(imac.load_dataset("digits", train=True))
    train(model, inputs, labels, steps=options.steps, generator=generator, label="training")

    config = imac.Config(
        mapping=imac.WeightMapping(levels="continuous", scheme="matched"),
    )
    network = imac.convert(model, config)
    print(network.summary())
    loader = DataLoader(imac.load_dataset("digits", train=False), batch_size=120)
    report = imac.evaluate(network, loader, reference=model, limit=options.limit)
    print(report)
    return report


if __name__ == "__main__":
    main()
