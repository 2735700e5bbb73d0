"""A convolutional network with exact wires beside its software: time, ratio, error, memory.

ResNet-18 (He et al., CVPR 2016, table 1; 11.2 million weights on arrays) on 32×32 images, random
weights, normalisation folded. Once programmed its forward is that of software with other kernels::

    python benchmarks/convolution.py [--images 32] [--width 64] [--repeat 5] [--matched]

1. Programming: time and memory, the first forward in float32 included; with --matched by
   the scheme 'matched', not calibrated.
2. Forward in float32 beside the software model of the same run, interleaved, with ideal borders and
   with an 8-bit converter after every partition; least and median of the wall clock, and least of
   the processor's time, which says the same on a machine that does other things, too.
3. Errors: float32 beside the same circuit in float64, of the network's outputs; and of one
   convolution beside its circuit solved position by position, V.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
import warnings

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import imac_torch as imac

BLOCKS = 2
"""Per width: four widths make 18 layers with the first and the last."""


class Block(nn.Module):
    """Two 3×3 convolutions and what goes past them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs),
            nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.past = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.past.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.past.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), as any module."""
        return torch.relu(self.body(x) + self.past(x))


def resnet(width: int) -> nn.Sequential:
    """ResNet-18 for 10 classes; the published one is 64 wide."""
    stem = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    layers: list[nn.Module] = [*stem, nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for k in range(4):
        outputs = width * 2**k
        for block in range(BLOCKS):
            layers.append(Block(inputs, outputs, 2 if k and not block else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def settled(model: nn.Module, images: Tensor) -> nn.Module:
    """Statistics of the normalisations from some images, as training would leave them."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        model(images)
    return model.eval()


def memory() -> float:
    """The most that this process has had, MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


@torch.no_grad()
def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--matched", action="store_true", help="solve for conductances")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what conversions of random weights lose
    torch.manual_seed(0)
    config = None
    if options.matched:
        mapping = imac.WeightMapping(levels="continuous", scheme="matched")
        config = imac.Config(mapping=mapping)
    images = torch.randn(options.images, 3, 32, 32)
    model = settled(resnet(options.width), images)
    model(images)
    weights = sum(part.weight.numel() for part in model.modules() if hasattr(part, "kernel_size")
                  and hasattr(part, "weight")) + model[-1].weight.numel()  # fmt: skip
    # Compiled kernels, once per machine, are no part of programming.
    layers = (nn.Conv2d, nn.Linear)
    imac.convert(settled(resnet(4), images), config, samples=images, include=layers, rounds=0)(
        images
    )

    before, started = memory(), time.perf_counter()
    network = imac.convert(
        model, config, samples=images, include=layers, rounds=0, progress=True
    )
    found = network(images)
    programmed, used = time.perf_counter() - started, memory() - before

    config = imac.Config(converter=imac.Converter(kind="sar", after="partition"))
    apart = imac.convert(model, config, samples=images, include=layers)
    forwards = {"software": model, "circuit": network, "converter per partition": apart}
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    busy: dict[str, list[float]] = {name: [] for name in forwards}
    for turn in range(options.repeat + 2):
        for name, forward in forwards.items():
            started, cpu = time.perf_counter(), time.process_time()
            forward(images)
            if turn > 1:
                seconds[name].append(time.perf_counter() - started)
                busy[name].append(time.process_time() - cpu)
    exact = network(images.double())
    path, segment = max(network.segments.items(), key=lambda item: item[1].first.weight.numel())
    size = segment.first.in_features // 9, 2, 2
    x = (2.0 * torch.rand(1, *size).double() - 1.0) * segment.first.scaling.input_scale
    rows = segment.positions.vectors(x)
    solved = segment.positions.tensor(segment.decode(segment.solve(rows, power=False).outputs), x)
    volts = segment.supplies.vdd / segment.last.scaling.output_scale

    console = Console(width=100)
    table = Table(title=f"ResNet-18, {weights / 1e6:.3g} M weights, {options.images} images")
    for heading in ("what", "median / s", "least / s", "ratio", "of processor", "error"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    base = statistics.median(seconds["software"])
    error = float((found - exact).abs().max() / exact.abs().max())
    said = {"circuit": f"{error:.1e} of the largest"}
    for name in forwards:
        median = statistics.median(seconds[name])
        table.add_row(
            f"{name}, float32", f"{median:.4f}", f"{min(seconds[name]):.4f}",
            f"{median / base:.2f}", f"{min(busy[name]) / min(busy['software']):.2f}",
            said.get(name, ""),
        )  # fmt: skip
    console.print(table)
    worst = volts * float((segment(x) - solved).abs().max())
    single = volts * float((segment(x.float()) - solved).abs().max())
    console.print(f"programming: {programmed:.1f} s, {used:.0f} MB more than before")
    console.print(f"{path}: {worst:.1e} V from the solved circuit, {single:.1e} V in float32")


if __name__ == "__main__":
    main()
