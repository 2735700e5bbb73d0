"""Monte Carlo against single runs: time per sample, and memory that does not grow.

The network is a random 400-120-84-10 multilayer perceptron with ternary weights, or the weights of
``network.npz`` (arrays W1, B1, … and inputs_bits) where a file is given.

    python benchmarks/montecarlo.py --samples 100 --images 100
"""

from __future__ import annotations

import argparse
import resource
import time
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from imac_torch import Config, convert
from imac_torch.activations import InverterSigmoid
from imac_torch.config import Neuron
from imac_torch.devices import DeviceModel, LogNormal
from imac_torch.montecarlo import MonteCarlo

WIDTHS = (400, 120, 84, 10)


def build(path: str | None, images: int) -> tuple[nn.Sequential, Tensor]:
    generator = torch.Generator().manual_seed(0)
    modules: list[nn.Module] = []
    content = None if path is None else np.load(path, allow_pickle=False)
    for k, (inputs, outputs) in enumerate(pairwise(WIDTHS), start=1):
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            if content is None:
                for parameter in (linear.weight, linear.bias):
                    draw = torch.randint(0, 2, parameter.shape, generator=generator)
                    parameter.copy_(draw * 2.0 - 1.0)
            else:
                linear.weight.copy_(torch.from_numpy(content[f"W{k}"].astype(float)).T)
                linear.bias.copy_(torch.from_numpy(content[f"B{k}"].astype(float)))
        modules += [linear, InverterSigmoid(0.5)]
    if content is None:
        x = torch.randint(0, 2, (images, WIDTHS[0]), generator=generator) * 2.0 - 1.0
    else:
        bits = np.unpackbits(content["inputs_bits"][:images], axis=1)
        x = torch.from_numpy(bits * 2.0 - 1.0)
    return nn.Sequential(*modules), x.to(torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--singles", type=int, default=5, help="single runs to time")
    parser.add_argument("--neuron", default="finfet", choices=("finfet", "logistic"))
    parser.add_argument("--network", help="network.npz with trained weights")
    parser.add_argument("--sigma", type=float, default=0.05)
    options = parser.parse_args()

    model, x = build(options.network, options.images)
    network = convert(model, Config.imac_sim(neuron=Neuron(kind=options.neuron)))
    run = MonteCarlo(network, DeviceModel((LogNormal(options.sigma),)), seed=0)
    run.run(x, samples=2, memory=1)  # compiles, builds tables

    def measure(samples: int) -> tuple[float, float, Tensor]:
        wall, processor = time.perf_counter(), time.process_time()
        result = run.run(x, samples=samples, keep_outputs=True)
        assert result.outputs is not None
        return time.perf_counter() - wall, time.process_time() - processor, result.outputs

    for samples in (max(1, options.samples // 4), options.samples):
        wall, processor, outputs = measure(samples)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{samples} samples: {wall:.2f} s wall, {processor:.2f} s processor, "
            f"{1e3 * processor / samples:.1f} ms a sample, peak {peak:.0f} MiB"
        )
    wall, processor = time.perf_counter(), time.process_time()
    difference = 0.0
    with torch.no_grad():
        for sample in range(options.singles):
            alone = run.realise(sample).solve(x).outputs
            difference = max(difference, float((alone - outputs[sample]).abs().max()))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(
        f"single runs: {wall / options.singles:.3f} s wall, "
        f"{1e3 * processor / options.singles:.1f} ms processor each; outputs agree to "
        f"{difference:.1e} V"
    )
    assert difference < 1e-8, "a sample alone must be the sample among others"


if __name__ == "__main__":
    main()
