"""Curved cells beside ohmic ones: time of an image, iterations, error against the dense solution.

400-120-84-10 with sinh cells, with 1T1R ones (a resistor or a FinFET in series), MTJs and
selectors, in batches of 200 on one core. The dense solution is that of a small layer of the same
cells, by Newton's method on all its nodes (:mod:`imac_torch.reference.nonlinear`).
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import imac_torch as it
from imac_torch.cells import build_cell
from imac_torch.reference.nonlinear import solve_nonlinear

NETWORK = (400, 120, 84, 10)
SERIES = {"resistor": {"resistance": 10e3}}
DEVICES = {
    "ohmic": it.Memristor(),
    "sinh, 0.3 V": it.Memristor(bend=0.3),
    "1T1R, sinh 0.3 V": it.Memristor(bend=0.3, access=SERIES),
    "1T1R, sinh 0.3 V, FinFET": it.Memristor(bend=0.3, access={"finfet": {"fins": 2}}),
    "MTJ, 0.5 V": it.Memristor(cell={"mtj": {"vh": 0.5}}),
    "1S1R": it.Memristor(access={"selector": {"scale": 1e-6, "v0": 0.1}}),
}


def network_of(
    device: it.Memristor, sizes: Sequence[int], generator: torch.Generator
) -> it.IMACNetwork:
    """Random weights between -1 and 1."""
    model = nn.Sequential()
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.uniform_(-1.0, 1.0, generator=generator)
        model.append(linear).append(it.InverterSigmoid())
    mapping = it.WeightMapping(levels="continuous")
    return it.convert(model, it.Config(device=device, mapping=mapping))


def inputs_of(count: int, width: int, generator: torch.Generator) -> Tensor:
    """(count, width) between -1 and 1."""
    return 2.0 * torch.rand(count, width, generator=generator, dtype=torch.float64) - 1.0


def dense_error(device: it.Memristor, generator: torch.Generator) -> float:
    """V at the amplifiers of a layer of 8 outputs and 12 inputs, from the dense solution."""
    cell = build_cell(device)
    if cell is None:
        return 0.0
    network = network_of(device, (12, 8), generator)
    x = inputs_of(4, 12, generator)
    with torch.no_grad():
        found = network.solve(x).layers[0].combined
    dense = solve_nonlinear(network.circuit().layers[0], network.voltages(x), 0.8, cell)
    return float((found - dense.combined).abs().max())


def times(images: int, console: Console) -> None:
    """A table of all devices."""
    table = Table("cells", "ms an image", "sweeps, all layers", "error of a layer, V")
    for name, device in DEVICES.items():
        generator = torch.Generator().manual_seed(0)
        network = network_of(device, NETWORK, generator)
        x = inputs_of(images, NETWORK[0], generator)
        with torch.no_grad():
            network.solve(x[:1])
            started = time.process_time()
            found = network.solve(x)
            spent = time.process_time() - started
        assert bool(found.converged.all())
        table.add_row(
            name, f"{1e3 * spent / images:.2f}", f"{float(found.iterations.double().mean()):.1f}",
            f"{dense_error(device, generator):.0e}",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    times(arguments.images, Console())


if __name__ == "__main__":
    main()
