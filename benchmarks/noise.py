"""Noise: seconds of an analysis, and of noisy inference beside plain one.

IMAC-Sim's circuit of 400-120-84-10 with weights of ±1, logistic and FinFET neurons, amplifiers of
1 GHz, one thread. Noisy inference draws noise anew for every image; what is measured once per
network (blocks with their line ends as ports, effective bandwidths, the report's table) stands
apart::

    python benchmarks/noise.py [--images 2000]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from native import NETWORK, config, interleave, random_inputs, random_model

import imac_torch as imac
from imac_torch.noise.sampling import SIGNALS, NoiseDraws

LIMIT = 2.5
"""Of noisy inference, relative to plain."""
ANALYSED = 4
"""Images of an analysis."""


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def noisy(
    solve: Callable[..., object], draws: NoiseDraws, count: int, generator: torch.Generator
) -> None:
    """Solve with noise of its own for each image."""
    solve(noise=draws.draw(count, generator))


def main() -> int:
    """Print the table; 1 if noisy inference takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    model = random_model(NETWORK, generator)
    images = random_inputs(options.images, NETWORK[0], generator)
    slow = False
    print("| neurons | once, s | analysis, s per image | plain, ms | noisy, ms | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in ("logistic", "finfet"):
        plain = config(len(NETWORK) - 1, kind)
        network = imac.convert(
            model,
            plain.replace(
                amplifier=plain.amplifier.replace(pole=1e9),
                neuron=plain.neuron.replace(output_capacitance=1e-15),
                noise=imac.Noise(inputs=1e-3),
            ),
        )
        voltages = network.voltages(images)
        solve = partial(network.segment.native.solve, network.prepare(), voltages, power=False)
        network.noise(images[:1])
        once = seconds(partial(network.segment.noise_draws, voltages))
        settings = network.config.noise
        once += seconds(partial(network.segment.noise_drawn, voltages[:SIGNALS], settings))
        draws = network.segment.noise_draws(voltages)
        analysis = seconds(partial(network.noise, images[:ANALYSED])) / ANALYSED
        found = interleave(
            {"plain": solve, "noisy": partial(noisy, solve, draws, len(images), generator)}, 5
        )
        ratio = found["noisy"].median / found["plain"].median
        slow = slow or ratio > LIMIT
        each = [1e3 * found[name].median / len(images) for name in ("plain", "noisy")]
        print(
            f"| {kind} | {once:.1f} | {analysis:.2f} | {each[0]:.4f} | {each[1]:.4f} "
            f"| {ratio:.2f} |",
            flush=True,
        )
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
