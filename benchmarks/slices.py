"""Accuracy of devices with two states against the number of slices of a weight.

Three 64-32-10 sigmoid networks, trained as ordinary software on scikit-learn's digits; 32×32 arrays
with wires, FinFET neurons. Ternary pairs are converted without data; two-state devices under the
scheme 'matched' are calibrated on 300 images::

    python benchmarks/slices.py [--slices 1 2 3 4 5] [--networks 3]
"""

from __future__ import annotations

import argparse
import warnings
from statistics import fmean

from gain import SAMPLES, Data, accuracy, digits, trained
from torch import nn

import imac_torch as imac


def power(network: imac.IMACNetwork, data: Data) -> float:
    """W, mean over test images."""
    return float(network.solve(data.images[SAMPLES:]).power.total.mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--networks", type=int, default=3, help="trainings")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data = digits()
    models = [trained(data, nn.Sigmoid, seed=seed, steps=300) for seed in range(options.networks)]
    print(f"software: {100 * fmean(accuracy(model, data) for model in models):.1f} %")
    print("| slices | rounding error | ternary | matched, calibrated | power, mW |")
    print("|---|---|---|---|---|")
    for slices in options.slices:
        ternary = imac.Config(mapping=imac.WeightMapping(slices=slices))
        plain = [imac.convert(model, ternary) for model in models]
        fitted = imac.Config(
            device=imac.Memristor(states=2),
            mapping=imac.WeightMapping(levels="continuous", scheme="matched", slices=slices),
        )
        matched = [imac.convert(m, fitted, samples=data.images[:SAMPLES]) for m in models]
        matrices = [layer.matrix for network in plain for layer in network.analog_layers()]
        rounding = fmean(matrix.quantized().error for matrix in matrices)
        print(
            f"| {slices} | {100 * rounding:.1f} % "
            f"| {100 * fmean(accuracy(network, data) for network in plain):.1f} % "
            f"| {100 * fmean(accuracy(network, data) for network in matched):.1f} % "
            f"| {1e3 * fmean(power(network, data) for network in matched):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
