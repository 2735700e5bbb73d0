"""A LeNet-like network whose fully connected tail runs on the circuit.

Convolutions and pooling stay in software, their features are voltages on the crossbars' input
lines: the IMAC co-processor. For 28×28 images the tail is LeNet-5's 400-120-84-10 (Y. LeCun et
al., Proc. IEEE 86, 2278, 1998), for the 8×8 digits 64-48-24-10. Training knows nothing of it.

    python examples/cnn_coprocessor.py
    python examples/cnn_coprocessor.py --dataset MNIST --root ~/data --combine sum
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from common import (
    ACTIVATIONS,
    Losses,
    add_circuit_options,
    add_data_options,
    circuit_config,
    load_data,
    show_losses,
    train_float,
)
from torch import nn

import imac_torch as imac


def features(side: int, activation: type[nn.Module]) -> nn.Sequential:
    """Convolutions and pooling of square images, 400 features from 28×28 and 64 from 8×8."""
    if side == 28:
        first, second = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
    elif side == 8:
        first, second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
    else:
        raise SystemExit(f"images of {side} pixels: features are for 28 and 8")
    return nn.Sequential(
        first, activation(), nn.MaxPool2d(2), second, activation(), nn.MaxPool2d(2), nn.Flatten()
    )


def lenet(side: int, activation: str, classes: int) -> nn.Sequential:
    """Features and a fully connected tail."""
    function = ACTIVATIONS[activation]
    sizes = (400, 120, 84) if side == 28 else (64, 48, 24)
    return nn.Sequential(
        features(side, function),
        nn.Linear(sizes[0], sizes[1]), function(),
        nn.Linear(sizes[1], sizes[2]), function(),
        nn.Linear(sizes[2], classes),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> list[Losses]:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_data_options(parser)
    parser.add_argument("--seeds", type=int, default=1, help="networks to train, one after another")
    add_circuit_options(parser)
    parser.add_argument("--activation", default="tanh", choices=sorted(ACTIVATIONS))
    parser.add_argument("--steps", type=int, default=600, help="of training")
    options = parser.parse_args(arguments)

    data = load_data(options)
    side, classes = data.images.shape[-1], int(data.labels.max()) + 1
    found = []
    for seed in range(options.seeds):
        model = train_float(
            lambda: lenet(side, options.activation, classes),
            data, steps=options.steps, seed=seed,
        )  # fmt: skip
        # ReLU features have no natural full scale: the largest seen in training is vdd, and a
        # rare larger one later is held there, as a converter would.
        with torch.no_grad():
            scale = float(model[0](data.images).abs().max())
        model.insert(1, nn.Hardtanh(-scale, scale))
        config = circuit_config(options, supplies=imac.Supplies(input_scale=scale))
        found.append(Losses.of(model, config, data, seed=seed))
    title = f"tail of a LeNet, {options.activation}, {len(data.test_labels)} test images"
    show_losses(title, found)
    return found


if __name__ == "__main__":
    main()
