"""Coming from NeuroSim: energy, latency and area of a VGG, by layer and by part, at two nodes.

What DNN+NeuroSim's `inference.py --model VGG8 --inference 1` ends in: a trained VGG-8 on arrays of
128×128 cells (100 kΩ and 1 MΩ), inputs bit by bit, a flash converter per eight columns, sums of
partitions in software; how good that is, and what it takes for one image. At every node arrays,
wires and transistors are those of the node. Drivers and converters are the published ones of 32 nm
at all nodes: give others in the sections [driver] and [converter].

    python examples/coming_from_neurosim.py
    python examples/coming_from_neurosim.py --nodes 20 14 7 --copies 4 --bits 6
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from any_model import SAMPLES, converted, trained
from common import add_data_options, load_data
from torch import Tensor, nn

import imac_torch as imac
from imac_torch.base.tables import console, text_table
from imac_torch.base.units import quantity
from imac_torch.reports.area import FIN_PITCH
from imac_torch.reports.model_report import ModelReport

ENERGIES = ("arrays", "drivers", "converters", "sums")
AREAS = ("cells", "switches", "amplifiers", "drivers", "converters")


class VGG8(nn.Module):
    """Six convolutions of 3×3, two at every scale, and two linear layers."""

    def __init__(self, side: int, classes: int, width: int = 8) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = [1, *(scale * width for scale in (1, 1, 2, 2, 4, 4))]
        for index, (inputs, outputs) in enumerate(pairwise(channels)):
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            blocks += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
            blocks += [nn.MaxPool2d(2)] * (index % 2)
        self.features = nn.Sequential(*blocks)
        self.fc1 = nn.Linear(4 * width * (side // 8) ** 2, 8 * width)
        self.fc2 = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, classes)."""
        return self.fc2(self.fc1(self.features(x).flatten(1)).relu())


def config(node: int, options: argparse.Namespace) -> imac.Config:
    """The chip at a node (nm)."""
    return imac.Config(
        device=imac.Memristor(rlow=100e3, rhigh=1e6),
        interconnect=imac.Interconnect.preset(node * 1e-9),
        crossbar=imac.Crossbar(rows=options.size, columns=options.size, copies=options.copies),
        neuron=imac.Neuron(transistor_node=node),
        driver=imac.Driver(kind="bit_serial", bits=8),
        converter=imac.Converter(kind="flash", bits=options.bits, after="partition", shared_by=8),
    )


def tables(report: ModelReport) -> str:
    """A row per layer and one of all, a column per part."""
    rows = [(item.path, item.latency, item.energy, item.area) for item in report.segments]
    rows.append(("all", report.latency, report.energy(), report.area()))
    spent = [
        (path, quantity(latency, "s"), *(quantity(energy[part], "J") for part in ENERGIES))
        for path, latency, energy, _ in rows
    ]
    built = [
        (path, *(f"{1e12 * area[part]:,.1f}" for part in AREAS)) for path, *_, area in rows
    ]
    return text_table(
        "latency, and energy by part, of one image", spent, headings=("layer", "time", *ENERGIES)
    ) + text_table("area by part, µm²", built, headings=("layer", *AREAS))


def main(arguments: Sequence[str] | None = None) -> dict[int, ModelReport]:
    """Command line; the reports by node."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_data_options(parser)
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--width", type=int, default=8, help="channels of the first convolution")
    parser.add_argument(
        "--nodes", type=int, nargs="+", default=[20, 7], choices=sorted(FIN_PITCH), help="nm"
    )
    parser.add_argument("--size", type=int, default=128, help="rows and columns of an array")
    parser.add_argument("--bits", type=int, default=5, help="of converters")
    parser.add_argument("--copies", type=int, default=1, help="of every layer's arrays")
    options = parser.parse_args(arguments)
    data = load_data(options)
    model = trained(partial(VGG8, width=options.width), data, steps=options.steps, seed=0)
    loader, reports = [(data.test_images.float(), data.test_labels)], {}
    for node in options.nodes:
        network = converted(model, config(node, options), data.images[:SAMPLES].float())
        report = imac.evaluate(network, loader, reference=model, area="layout", progress=False)
        assert isinstance(report, ModelReport)
        reports[node] = report
        software = 100 * (report.score.software or 0.0)
        console(width=120).print(
            f"{node} nm: {100 * report.accuracy:.2f} % correct (software {software:.2f} %), "
            f"{quantity(report.energy()['total'], 'J')}, {quantity(report.latency, 's')}, "
            f"{1e6 * report.area()['total']:.4g} mm²\n{tables(report)}"
        )
    return reports


if __name__ == "__main__":
    main()
