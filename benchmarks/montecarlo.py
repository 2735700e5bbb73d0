"""Monte Carlo against single runs: the same results, time per sample, memory that does not grow.

The network is the published 400-120-84-10 one where IMAC_TORCH_SHARED names the shared references,
otherwise that of ``data/``.

    python benchmarks/montecarlo.py
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from golden import ReferenceNetwork

from imac_torch import Config, convert
from imac_torch.config import Neuron
from imac_torch.devices import DeviceModel, LogNormal
from imac_torch.study.montecarlo import MonteCarlo


def peak_memory() -> float:
    """MiB, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--singles", type=int, default=20, help="single runs to compare with")
    parser.add_argument("--neuron", default="finfet", choices=("finfet", "logistic"))
    parser.add_argument("--sigma", type=float, default=0.05)
    options = parser.parse_args()

    reference = ReferenceNetwork.at_hand(options.images)
    x, labels = reference.inputs, reference.labels
    print(reference.name)
    network = convert(reference.model(), Config.imac_sim(neuron=Neuron(kind=options.neuron)))
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
