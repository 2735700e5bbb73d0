"""Monte Carlo against single runs: the same results, time per sample, memory that does not grow.

The network is a random 400-120-84-10 multilayer perceptron with ternary weights, or the weights of
``network.npz`` (arrays W1, B1, …, inputs_bits and labels) where a file is given.

    python benchmarks/montecarlo.py --network $IMAC_TORCH_SHARED/golden/network.npz
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
from imac_torch.config import Neuron
from imac_torch.devices import DeviceModel, LogNormal
from imac_torch.periphery.activations import InverterSigmoid
from imac_torch.study.montecarlo import MonteCarlo

WIDTHS = (400, 120, 84, 10)


def build(path: str | None, images: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """The model, (B, 400) inputs of ±1 and (B,) labels."""
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
        labels = torch.randint(0, WIDTHS[-1], (images,), generator=generator)
    else:
        bits = np.unpackbits(content["inputs_bits"][:images], axis=1)
        x = torch.from_numpy(bits * 2.0 - 1.0)
        labels = torch.from_numpy(content["labels"][:images].astype(np.int64))
    return nn.Sequential(*modules), x.to(torch.float64), labels


def peak_memory() -> float:
    """MiB, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--singles", type=int, default=20, help="single runs to compare with")
    parser.add_argument("--neuron", default="finfet", choices=("finfet", "logistic"))
    parser.add_argument("--network", help="network.npz with trained weights")
    parser.add_argument("--sigma", type=float, default=0.05)
    options = parser.parse_args()

    model, x, labels = build(options.network, options.images)
    network = convert(model, Config.imac_sim(neuron=Neuron(kind=options.neuron)))
    run = MonteCarlo(network, DeviceModel((LogNormal(options.sigma),)), seed=0)
    run.run(x, samples=2, memory=1)  # compiles, builds tables
    print(f"before: peak {peak_memory():.0f} MiB")

    per_sample = {}
    for samples in (max(1, options.samples // 10), options.samples):
        wall, processor = time.perf_counter(), time.process_time()
        result = run.run(x, labels, samples=samples, keep_outputs=True)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        per_sample[samples] = processor / samples
        print(
            f"{samples} samples: {wall:.1f} s wall, {processor:.1f} s processor, "
            f"{1e3 * processor / samples:.1f} ms a sample, peak {peak_memory():.0f} MiB"
        )
    assert result.outputs is not None
    accuracy, power = result.mean_accuracy(), result.mean_power()
    print(
        f"accuracy {100 * accuracy.value:.2f} % ({100 * accuracy.low:.2f} to "
        f"{100 * accuracy.high:.2f} %), power {1e3 * power.value:.3f} mW; "
        f"converged {float(result.converged.min()):.3f}"
    )

    wall, processor = time.perf_counter(), time.process_time()
    difference = power_difference = 0.0
    other_labels = 0
    with torch.no_grad():
        for sample in range(options.singles):
            alone = run.realise(sample).solve(x)
            assert alone.power is not None
            together = result.outputs[sample]
            difference = max(difference, float((alone.outputs - together).abs().max()))
            other_labels += int((alone.outputs.argmax(-1) != together.argmax(-1)).sum())
            relative = float(alone.power.total.mean() / result.power[sample] - 1.0)
            power_difference = max(power_difference, abs(relative))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    ratio = processor / options.singles / per_sample[options.samples]
    print(
        f"{options.singles} single runs: {wall:.1f} s wall, {processor:.1f} s processor, "
        f"{1e3 * processor / options.singles:.1f} ms each, {ratio:.2f} times a sample of many"
    )
    print(
        f"largest difference {difference:.1e} V, {other_labels} labels differ, "
        f"power within {power_difference:.1e}"
    )
    assert difference < 1e-8, "a sample alone must be the sample among others"


if __name__ == "__main__":
    main()
