"""Transients of a 64-32-10 network with wire capacitances: ngspice against the native engine.

    python benchmarks/transient_ngspice.py [--images 1 8] [--ngspice PROGRAM]

Logistic neurons, which both engines solve exactly; output and load capacitances and an amplifier
pole besides the wires. For every number of images it prints the seconds per image of ngspice (one
netlist, images in a row) and of the native engine on the same sequence, cold (preparation
included) and in bulk (200 images that settle one from another, as ``measure`` does), the ratios,
and how far waveforms, latencies and energies differ.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

import imac_torch as it
from imac_torch.study.transient_verification import verify_transient

BULK = 200


def network() -> it.IMACNetwork:
    """Random weights of both signs; the circuit does not care whether it was trained."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(64, 32), it.InverterSigmoid(), nn.Linear(32, 10), it.InverterSigmoid()
    )
    config = it.Config(
        neuron=it.Neuron(kind="logistic", output_capacitance=1e-15),
        interconnect=it.Interconnect(capacitance=True),
        amplifier=it.Amplifier(gain=30.0, pole=5e9, output_resistance=100.0),
        mapping=it.WeightMapping(levels=17),
        timing=it.Timing(period=2e-9, load_capacitance=5e-15),
    )
    return it.convert(model, config)


def seconds(model: it.IMACNetwork, images: torch.Tensor, repeats: int = 3) -> float:
    """Median time of ``measure``."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        model.measure(images)
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--ngspice", default="ngspice", help="program")
    arguments = parser.parse_args()
    simulator = it.NgSpice(arguments.ngspice)
    if not simulator.available():
        print("ngspice is not installed: nothing to compare with")
        return
    model = network()
    images = torch.sign(torch.randn(BULK, 64))
    model.measure(images[:8])  # compiles and prepares
    bulk = seconds(model, images) / BULK
    print(f"native in bulk: {1e3 * bulk:.2f} ms per image ({BULK} images)")
    print("| images in a row | ngspice / s | native, cold / s | ratio, cold | ratio, in bulk | "
          "waveforms / swing | latency | energy |")
    print("|---|---|---|---|---|---|---|---|")
    for count in arguments.images:
        pairs = [(images[:count], torch.zeros(count, dtype=torch.int64))]
        # Netlists as `compile` writes them; a reltol of 1e-3, ngspice's own default, halves its
        # time, and its waveforms are then 2 % of their swing off.
        settings = it.NetlistSettings(images_per_netlist=count)
        found = verify_transient(model, pairs, count, simulator=simulator, settings=settings)
        theirs, ours = found.simulator_seconds / count, found.native_seconds / count
        print(
            f"| {count} | {theirs:.2f} | {ours:.3f} | {theirs / ours:.0f} | {theirs / bulk:.0f} | "
            f"{found.waveform_difference:.1e} | {found.latency_difference:.1e} | "
            f"{found.energy_difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
