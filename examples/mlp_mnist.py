"""Any labelled image set of torchvision: train an MLP, convert it, compare circuit and software.

    python examples/mlp_mnist.py --dataset FashionMNIST --root ~/data --download

``--dataset digits`` (the default) needs no files. The network is trained as ordinary software;
conversion rounds its weights to ``--levels`` levels per row, solves for conductances with which
the read-out computes the layer, and calibrates them on 256 training images, without labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from train_sample import accuracy, initialise, tensors, train

import imac_torch as imac
from imac_torch.calibration import calibrate


def main(arguments: Sequence[str] | None = None) -> imac.Report:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="digits", help="a name load_dataset knows")
    parser.add_argument("--root", type=Path, default=None, help="directory of the data sets")
    parser.add_argument("--download", action="store_true", help="let torchvision download")
    parser.add_argument("--hidden", type=int, nargs="*", default=[48])
    parser.add_argument("--levels", type=int, default=9, help="levels of a weight in [-1, 1]")
    parser.add_argument("--device", default="PCM", choices=sorted(imac.DEVICES))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=None, help="test images; default: all")
    options = parser.parse_args(arguments)

    def load(train_split: bool) -> DataLoader[object]:
        data = imac.load_dataset(
            options.dataset, options.root, train=train_split, download=options.download
        )
        return DataLoader(data, batch_size=500)

    generator = torch.Generator().manual_seed(0)
    inputs, labels = tensors(load(True).dataset)
    features, classes = inputs[0].numel(), int(labels.max()) + 1
    model = nn.Sequential(nn.Flatten())
    for size in options.hidden:
        model.append(nn.Linear(features, size)).append(nn.Sigmoid())
        features = size
    model.append(nn.Linear(features, classes))
    initialise(model, generator)
    train(model, inputs, labels, steps=options.steps, generator=generator, label="training")
    print(f"training images, software: {100 * accuracy(model, inputs, labels):.2f} %")

    # 'matched' solves for conductances with which the floating read-out computes the layer.
    config = imac.Config(
        device=imac.Memristor.preset(options.device),
        mapping=imac.WeightMapping(levels=options.levels, scheme="matched", scale="row"),
    )
    network = imac.convert(model, config)
    for item in calibrate(network, inputs[:256]):
        print(
            f"layer {item.layer}: output error {100 * item.error_before:.1f} % before, "
            f"{100 * item.error_after:.1f} % after calibration"
        )
    report = imac.evaluate(network, load(False), reference=model, limit=options.limit)
    print(network.summary())
    print(report)
    return report


if __name__ == "__main__":
    main()
