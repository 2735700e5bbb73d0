"""Noise: seconds of an analysis, and of noisy inference beside plain one.

A 400-120-84-10 network of random weights on 32×32 arrays with FinFET and with logistic neurons, one
thread. Noisy inference draws noise anew for every image; what is measured once per network (blocks
with their line ends as ports, effective bandwidths) stands apart::

    python benchmarks/noise.py [--images 2000]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

import imac_torch as imac
from imac_torch.config import Noise
from imac_torch.noise.sampling import NoiseDraws

LIMIT = 2.5
"""Of noisy inference, relative to plain."""


def network(kind: str) -> imac.IMACNetwork:
    """With published gains, partitions and a pole."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(400, 120), imac.InverterSigmoid(), nn.Linear(120, 84), imac.InverterSigmoid(),
        nn.Linear(84, 10),
    )  # fmt: skip
    config = imac.Config(
        crossbar=imac.Crossbar(horizontal=(13, 4, 3), vertical=(4, 3, 1)),
        amplifier=imac.Amplifier(kind="differential", gain=(30.0, 30.0, 10.0), pole=1e9),
        neuron=imac.Neuron(kind=kind, output_capacitance=1e-15),
        noise=Noise(inputs=1e-3),
    )
    return imac.convert(model, config)


def fastest(run: Callable[[], object], times: int = 3) -> float:
    """Seconds, the least of some."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found)


def _noisy(
    solve: Callable[..., object], draws: NoiseDraws, count: int, generator: torch.Generator
) -> None:
    solve(noise=draws.draw(count, generator))


def main() -> int:
    """Print the table; 1 if noisy inference takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(options.images, 400, generator=generator)
    slow = False
    print("| neurons | once, s | analysis, s per image | plain, ms | noisy, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for kind in ("logistic", "finfet"):
        net = network(kind)
        voltages = net.voltages(images)
        prepared, native = net.prepare(), net.segment.native
        native.solve(prepared, voltages[:8], power=False)
        started = time.perf_counter()
        draws = net.segment.noise_draws(voltages)
        once = time.perf_counter() - started
        analysis = fastest(partial(net.noise, images[:4]), 1) / 4

        solve = partial(native.solve, prepared, voltages, power=False)
        plain = fastest(solve)
        with_noise = fastest(partial(_noisy, solve, draws, len(voltages), generator))
        each = 1e3 / options.images
        ratio = with_noise / plain
        slow = slow or ratio > LIMIT
        print(
            f"| {kind} | {once:.1f} | {analysis:.2f} | {plain * each:.4f} "
            f"| {with_noise * each:.4f} | {ratio:.2f} |",
            flush=True,
        )
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
