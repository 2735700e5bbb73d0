"""Latency and energy of the 400-120-84-10 network's images, and what wires and nodes do to them.

python benchmarks/transient.py DIRECTORY [--images 10000] [--table]

DIRECTORY holds the reference results (``golden/network.npz``). Without ``--table`` it runs images
with wire capacitances and prints times, latencies and energies; with ``--table`` it prints the
latency for capacitances on and off and technology nodes from 7 to 45 nm.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from imac_torch.activations import InverterSigmoid
from imac_torch.analog import IMACNetwork
from imac_torch.config import NODES, Config, Interconnect, Neuron
from imac_torch.conversion import convert
from imac_torch.transient.inference import InferenceReport, TimingOptions, measure_inference
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.network import TransientOptions, prepare_transient


def network(directory: Path, **sections: object) -> tuple[IMACNetwork, Tensor, Tensor]:
    """The network, its inputs (10000, 400) and labels."""
    data = np.load(directory / "golden" / "network.npz")
    modules: list[nn.Module] = []
    for k in (1, 2, 3):
        weight = torch.tensor(data[f"W{k}"].astype(float)).T
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(torch.tensor(data[f"B{k}"].astype(float)))
        modules += [layer, InverterSigmoid(0.5)]
    config = Config.imac_sim(**{"neuron": Neuron(), **sections})  # type: ignore[arg-type]
    inputs = torch.tensor(np.unpackbits(data["inputs_bits"], axis=1) * 2.0 - 1.0)
    labels = torch.tensor(data["labels"].astype(int))
    return convert(nn.Sequential(*modules), config), inputs, labels


def run(
    directory: Path, images: int, options: TransientOptions, **sections: object
) -> tuple[InferenceReport, Tensor, float, float]:
    """Report, labels, seconds of preparation and of the run."""
    model, inputs, labels = network(directory, **sections)
    begin = time.perf_counter()
    stages = prepare_transient(
        [(layer.crossbar(), layer.neuron_spec()) for layer in model.analog_layers()],
        [layer.config.interconnect for layer in model.analog_layers()],
        model.prepare().stages,
        options,
    )
    prepared = time.perf_counter()
    voltages = model.voltages(inputs[:images])
    # The first call compiles.
    settings = TimingOptions(options)
    measure_inference(stages, voltages[:8], model.config.timing, options=settings)
    start = time.perf_counter()
    report = measure_inference(stages, voltages, model.config.timing, options=settings)
    return report, labels[:images], prepared - begin, time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--tolerance", type=float, default=1e-4, help="V")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    options = TransientOptions(
        control=StepControl(tolerance=arguments.tolerance), amplifiers=False
    )
    if arguments.table:
        print("| node / nm | wire C | median / ps | worst / ps | energy / pJ | switching / fJ |")
        print("|---|---|---|---|---|---|")
        for node in NODES:
            for capacitance in (False, True):
                wires = Interconnect(tech_node=node, capacitance=capacitance)
                report, *_ = run(
                    arguments.directory, arguments.images, options, interconnect=wires
                )
                spread = report.latency.quantiles((0.5, 1.0))
                print(
                    f"| {node * 1e9:g} | {'on' if capacitance else 'off'} | "
                    f"{spread[0.5] * 1e12:.1f} | {spread[1.0] * 1e12:.1f} | "
                    f"{float(report.energy.total.mean()) * 1e12:.2f} | "
                    f"{float(report.switching.total.mean()) * 1e15:.2f} |",
                    flush=True,
                )
        return
    report, labels, preparation, seconds = run(
        arguments.directory, arguments.images, options, interconnect=Interconnect(capacitance=True)
    )
    if not bool((report.status == 0).all()):
        raise SystemExit("some images did not converge")
    print(f"threads {torch.get_num_threads()}, preparation {preparation:.2f} s")
    print(f"{arguments.images} images in {seconds:.1f} s ({seconds / arguments.images:.4f} s each)")
    print(f"wires: {report.wires}; first neglected term {report.reduction_error * 1e6:.2f} uV")
    print(f"steps per batch {min(report.steps)} to {max(report.steps)}")
    print(f"latency quantiles / s: {report.latency.quantiles()}")
    print(f"decision, worst / s: {report.latency.safe_period(decision=True):.4g}")
    print(f"energy / pJ: mean {float(report.energy.total.mean()) * 1e12:.4f}, largest "
          f"{float(report.energy.total.max()) * 1e12:.4f}")
    print(report.cost(labels))


if __name__ == "__main__":
    main()
