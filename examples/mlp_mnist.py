"""A float MLP on any labelled image set, and where its accuracy goes on the circuit.

    python examples/mlp_mnist.py
    python examples/mlp_mnist.py --dataset FashionMNIST --root ~/data --download

``--dataset digits`` (the default) needs no files. The network is trained as ordinary software.
Conversion solves for conductances, of ``--states`` programmable ones, with which the read-out
computes each layer, and calibration adapts them on 300 training images, without labels.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

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


def mlp(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers with activations between them."""
    modules: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        modules += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*modules[:-1])


def main(arguments: Sequence[str] | None = None) -> list[Losses]:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_data_options(parser)
    parser.add_argument("--seeds", type=int, default=1, help="networks to train, one after another")
    add_circuit_options(parser)
    parser.add_argument("--hidden", type=int, nargs="*", default=[48, 24])
    parser.add_argument("--activation", default="sigmoid", choices=sorted(ACTIVATIONS))
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    options = parser.parse_args(arguments)

    data = load_data(options)
    sizes = (data.images[0].numel(), *options.hidden, int(data.labels.max()) + 1)
    found = []
    for seed in range(options.seeds):
        model = train_float(
            lambda: mlp(sizes, options.activation), data, steps=options.steps, seed=seed
        )
        found.append(Losses.of(model, circuit_config(options), data, seed=seed))
    name = "-".join(map(str, sizes))
    show_losses(f"{name}, {options.activation}, {len(data.test_labels)} test images", found)
    return found


if __name__ == "__main__":
    main()
