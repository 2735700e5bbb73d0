"""The circuit on a GPU: what it gives beside the processor, and its price beside the plain network.

    python benchmarks/gpu.py                     # a CUDA device
    python benchmarks/gpu.py --device cpu        # a dry run: the same code, on the processor

The 400-120-84-10 network of ``data/`` in float64. Outputs, powers and gradients are compared with
those of the compiled kernels on the processor; times are medians, as ratios to the plain float64
network on the same device; and what crosses from the device to the host during one batch is
counted: tensors, which should be none, and single numbers, of which Newton's method asks one per
step.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from golden import ReferenceNetwork
from native import config
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import imac_torch as it

KINDS = ("logistic", "finfet")
VOLTAGE_BOUND = 1e-9
"""V. Both solve Newton's equations to rounding; the tables of transistors are the same."""
RELATIVE_BOUND = 1e-7
"""Of powers and gradients: sums of many terms, in another order."""


class Crossings(TorchDispatchMode):
    """Counts what leaves the device.

    Attributes:
        tensors: Elements of each tensor of more than one that was copied to the host.
        numbers: Single numbers that were read.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.tensors: list[int] = []
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if str(func).startswith("aten._local_scalar_dense"):
            self.numbers += first is not None and first.device.type == self.device.type
        elif str(func).startswith(("aten._to_copy", "aten.copy_")):
            source = args[1] if "copy_." in str(func) and "_to" not in str(func) else first
            if isinstance(source, Tensor) and isinstance(found, Tensor):
                leaves = source.device.type != "cpu" and found.device.type == "cpu"
                if leaves and source.numel() > 1:
                    self.tensors.append(source.numel())
        return found


def median(task: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Seconds, after a first call that is not counted."""
    seconds = []
    for turn in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        task()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def on_device(network: it.IMACNetwork, device: torch.device) -> it.IMACNetwork:
    """The network on the device, computed by torch: compiled kernels are the processor's."""
    moved = copy.deepcopy(network).to(device)
    moved.engine = it.Native(kernel="torch", newton=it.NewtonOptions(kernel="torch"))
    return moved


def gradients(network: it.IMACNetwork, inputs: Tensor) -> list[Tensor]:
    """Of the mean square of the outputs, by every parameter, on the host."""
    network.zero_grad()
    network(inputs).square().mean().backward()
    return [p.grad.cpu() for p in network.parameters() if p.grad is not None]


def apart(found: Sequence[Tensor], known: Sequence[Tensor]) -> float:
    """Largest difference of tensors, relative to the largest entry of each."""
    return max(
        (
            float((a - b).abs().max() / b.abs().max())
            for a, b in zip(found, known, strict=True)
            if b.numel() and float(b.abs().max())
        ),
        default=0.0,
    )


def measure(kind: str, device: torch.device, images: int, rounds: int, table: Table) -> bool:
    """Rows of the table for one kind of neuron; whether bounds hold."""
    reference = ReferenceNetwork.shipped(images)
    network = it.convert(reference.model(), config(3, kind))
    moved, model = on_device(network, device), reference.model().to(device)
    inputs = reference.inputs.to(device)
    few = min(images, 256)
    with torch.no_grad():
        known = network.solve(reference.inputs[:few])
        found = moved.solve(inputs[:few])
        volts = float((found.outputs.cpu() - known.outputs).abs().max())
        assert known.power is not None and found.power is not None
        watts = apart([found.power.total.cpu()], [known.power.total])
        voltages = moved.voltages(inputs)
        prepared = moved.prepare()
        crossings = Crossings(device)
        with crossings:
            moved.engine.solve(prepared, voltages[:few])
        plain = median(lambda: model(inputs), device, rounds)
        times = {
            power: median(
                lambda p=power: moved.engine.solve(prepared, voltages, power=p), device, rounds
            )
            for power in (False, True)
        }
    slopes = apart(gradients(moved, inputs[:16]), gradients(network, reference.inputs[:16]))
    good = volts <= VOLTAGE_BOUND and max(watts, slopes) <= RELATIVE_BOUND
    good &= not crossings.tensors
    table.add_row(
        kind, f"{1e3 * plain:.2f}", f"{1e3 * times[False]:.1f} ({times[False] / plain:.1f})",
        f"{1e3 * times[True]:.1f} ({times[True] / plain:.1f})", f"{volts:.1e}", f"{watts:.1e}",
        f"{slopes:.1e}", f"{len(crossings.tensors)}, {crossings.numbers}", "yes" if good else "NO",
    )  # fmt: skip
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 if everything is as on the processor and nothing is copied."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device; --device cpu tries the script without one")
        return 2
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"
    table = Table(title=f"{options.images} images of 400-120-84-10 on {name}, float64, by torch")
    for heading in (
        "neurons", "plain network / ms", "circuit / ms (ratio)", "with powers", "outputs off / V",
        "powers off", "gradients off", "to the host: tensors, numbers", "good",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    good = [measure(kind, device, options.images, options.rounds, table) for kind in KINDS]
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
