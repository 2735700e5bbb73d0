"""A ResNet with wires beside CrossSim's of the same cells, arrays and wires: time and outputs.

CrossSim (Sandia; ``pip install git+https://github.com/sandialabs/cross-sim``) solves the wires of
an array for every input vector; here they are eliminated once and are in the matrix. Where it is
not installed its rows say so::

    python benchmarks/crosssim.py [--images 2] [--width 8] [--size 64]

Random weights, normalisation from some images. Pairs of cells of 10 kΩ to 1 MΩ, continuous, lines
read at virtual ground, arrays of --size rows and columns, the lowest conductances that make a
weight (here the scheme 'matched', not calibrated: CrossSim's one-sided balanced core); CrossSim's
``Rp_row`` and ``Rp_col`` are the Ω per cell that follow from the geometry here. Differences that
stay: its bias is digital, and how it cuts layers to arrays is its own.
"""

from __future__ import annotations

import argparse
import time
import warnings
from types import ModuleType

import torch
from convolution import resnet, settled
from rich.console import Console
from rich.table import Table
from sparse import optional
from torch import Tensor, nn

import imac_torch as imac

RLOW, RHIGH = 10e3, 1e6
"""Ω."""


def theirs(
    simulator: ModuleType, model: nn.Module, size: int, ohms: tuple[float, float] | None
) -> nn.Module:
    """CrossSim's network.

    Args:
        simulator: CrossSim.
        model: The software.
        size: Rows and columns of an array.
        ohms: Per cell of a row and of a column; None: no wires.
    """
    from_torch = optional("simulator.algorithms.dnn.torch.convert")
    assert from_torch is not None
    parameters = simulator.CrossSimParameters()
    parameters.core.rows_max = parameters.core.cols_max = size
    parameters.xbar.device.Rmin, parameters.xbar.device.Rmax = RLOW, RHIGH
    if ohms is not None:
        parasitics = parameters.xbar.array.parasitics
        parasitics.Rp_row, parasitics.Rp_col = ohms
        parasitics.enable = True
    made: nn.Module = from_torch.from_torch(model, parameters)
    return made


def per_cell(network: imac.IMACNetwork) -> tuple[float, float]:
    """Ω per cell of an input line and of an output line."""
    crossbar, _ = next(iter(network.segments.values())).parts()[0]
    return float(crossbar.input_segment), float(crossbar.output_segment)


def timed(model: nn.Module, images: Tensor) -> tuple[Tensor, float]:
    """Outputs and s per image, of one run."""
    started = time.perf_counter()
    found = model(images)
    return found.detach().double(), (time.perf_counter() - started) / len(images)


def apart(one: Tensor, other: Tensor) -> float:
    """Rms difference relative to what varies in the second."""
    return float((one - other).square().mean().sqrt() / other.std())


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what conversions of random weights lose
    torch.manual_seed(0)
    samples = torch.randn(32, 3, 32, 32)
    model, images = settled(resnet(options.width), samples), samples[: options.images]
    config = imac.Config(
        device=imac.Memristor(rlow=RLOW, rhigh=RHIGH),
        crossbar=imac.Crossbar(rows=options.size, columns=options.size),
        mapping=imac.WeightMapping(levels="continuous", scheme="matched"),
    )
    layers = (nn.Conv2d, nn.Linear)
    network = imac.convert(model, config, samples=samples, include=layers, rounds=0)
    ohms = per_cell(network)
    wanted, software = timed(model, images)
    network(images)  # programmed
    ours, seconds = timed(network, images)
    table = Table(title=f"ResNet-18, {options.width} wide, {options.images} images of 32×32")
    for heading in ("what", "ms per image", "off from software", "off from ours"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    table.add_row("software, float32", f"{1e3 * software:.3g}", "", "")
    table.add_row("imac_torch, wires", f"{1e3 * seconds:.3g}", f"{apart(ours, wanted):.2g}", "")
    simulator = optional("simulator")
    if simulator is None or not hasattr(simulator, "CrossSimParameters"):
        hint = "not installed: pip install git+https://github.com/sandialabs/cross-sim"
        table.add_row("CrossSim", hint, "", "")
    else:
        for name, wires in (("no wires", None), ("wires", ohms)):
            found, took = timed(theirs(simulator, model, options.size, wires), images)
            table.add_row(
                f"CrossSim, {name}", f"{1e3 * took:.3g}", f"{apart(found, wanted):.2g}",
                f"{apart(found, ours):.2g}",
            )  # fmt: skip
    console = Console(width=110)
    console.print(table)
    console.print(f"wires: {ohms[0]:.3g} Ω per cell of an input line, {ohms[1]:.3g} Ω of an output")


if __name__ == "__main__":
    main()
