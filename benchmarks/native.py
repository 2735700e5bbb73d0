"""The native engine beside what it replaces: time, ratio and error of each in one run.

1. 10,000 samples of the 400-120-84-10 network of ``data/`` (its 360 inputs over and over), logistic
   and FinFET neurons, against the forward pass of the plain float64 MLP.
2. Gradients of the same network against its forward pass.

3. One image of the same network: what a call takes that brings a single one, in turns with the
   other networks, and how many of them a second pass through one network alone.

Interleaved repetitions, medians. ``--samples`` and ``--repeat`` change the effort; what the same
takes elsewhere is in ``peers.py``.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from golden import ReferenceNetwork
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import imac_torch as it

NETWORK = (400, 120, 84, 10)


def random_model(sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """An MLP of ±1 weights with falling sigmoids, as IMAC-Sim's."""
    modules: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            for tensor in (linear.weight, linear.bias):
                signs = torch.randint(0, 2, tensor.shape, generator=generator)
                tensor.copy_(2.0 * signs - 1.0)
        modules += [linear, it.InverterSigmoid()]
    return nn.Sequential(*modules)


def random_inputs(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, size) of ±1, float64."""
    return 2.0 * torch.randint(0, 2, (count, size), generator=generator).double() - 1.0


def config(layers: int, kind: str) -> it.Config:
    """IMAC-Sim's circuit with one kind of neuron."""
    return it.Config(
        amplifier=it.Amplifier(gain=(*[30.0] * (layers - 1), 10.0)),
        neuron=it.Neuron(kind="finfet" if kind == "finfet" else "logistic"),
    )


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median over repetitions, and all of them."""

    median: float
    smallest: float


def interleave(tasks: dict[str, Callable[[], object]], repeat: int) -> dict[str, Timing]:
    """Time tasks in turn, so that a drifting machine treats all alike; one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeat + 1):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(statistics.median(s), min(s)) for name, s in seconds.items()}


def bulk(samples: int, repeat: int, console: Console) -> None:
    """Part 1: samples in bulk against the plain MLP."""
    reference = ReferenceNetwork.shipped(samples)
    model, inputs = reference.model(), reference.inputs
    tasks: dict[str, Callable[[], object]] = {"plain MLP, float64": lambda: model(inputs)}
    errors: dict[str, float] = {}
    exact = it.Native(device_model="exact")
    for kind in ("logistic", "finfet"):
        network = it.convert(model, config(len(NETWORK) - 1, kind))
        voltages, engine = network.voltages(inputs), network.engine
        prepared = network.prepare()
        few = slice(0, min(samples, 200))
        reference = exact.solve(prepared_exact(network), voltages[few], power=False)
        solution = engine.solve(prepared, voltages[few], power=False)
        errors[kind] = float((solution.outputs - reference.outputs).abs().max())
        for power in (False, True):
            name = f"circuit, {kind}" + (", with powers" if power else "")
            tasks[name] = lambda e=engine, p=prepared, v=voltages, w=power: e.solve(p, v, power=w)
    timings = interleave(tasks, repeat)
    table = Table(title=f"{samples} samples of {'-'.join(map(str, NETWORK))}")
    for heading in ("what", "median / s", "least / s", "ratio to the MLP", "error / V"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    base = timings["plain MLP, float64"].median
    for name, timing in timings.items():
        kind = name.split(", ")[1]
        error = f"{errors[kind]:.1e}" if kind in errors else ""
        table.add_row(
            name, f"{timing.median:.3f}", f"{timing.smallest:.3f}",
            f"{timing.median / base:.1f}", error,
        )  # fmt: skip
    console.print(table)


def prepared_exact(network: it.IMACNetwork) -> object:
    """The network prepared with exact device models."""
    return it.Native(device_model="exact").prepare(network.segment.parts())


def gradients(samples: int, repeat: int, console: Console) -> None:
    """Part 2: a training step against its forward pass."""
    generator = torch.Generator().manual_seed(0)
    network = it.convert(random_model(NETWORK, generator), config(len(NETWORK) - 1, "finfet"))
    inputs = random_inputs(samples, NETWORK[0], generator)

    def forward() -> None:
        with torch.no_grad():
            prepared = network.engine.prepare(network.segment.parts())
            network.engine.solve(prepared, network.voltages(inputs))

    def step() -> None:
        network.zero_grad()
        network(inputs).square().mean().backward()

    timings = interleave({"forward": forward, "forward and backward": step}, repeat)
    ratio = timings["forward and backward"].median / timings["forward"].median
    console.print(
        f"gradients, {samples} samples, elimination included: forward "
        f"{timings['forward'].median:.3f} s, with backward "
        f"{timings['forward and backward'].median:.3f} s, ratio {ratio:.1f}"
    )


def single(repeat: int, console: Console) -> None:
    """Part 3: a call with one image, in turns with others, and a stream of images through each."""
    reference = ReferenceNetwork.shipped(40 * repeat)
    model, images = reference.model(), reference.inputs.split(1)
    calls: dict[str, Callable[[Tensor], object]] = {"plain MLP, float64": model}
    for kind in ("logistic", "finfet"):
        network = it.convert(model, config(len(NETWORK) - 1, kind))
        calls[f"circuit, {kind}"] = network
        calls[f"circuit, {kind}, with powers"] = network.solve
    tasks = {name: partial(call, images[0]) for name, call in calls.items()}
    for name, timing in interleave(tasks, 40 * repeat).items():
        started = time.perf_counter()
        for image in images:
            calls[name](image)
        rate = len(images) / (time.perf_counter() - started)
        console.print(
            f"one image, {name}: {1e3 * timing.median:.2f} ms; a stream of them: {rate:.0f}/s"
        )


def main() -> None:
    """Run all three parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    console = Console()
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with torch.no_grad():
        bulk(arguments.samples, arguments.repeat, console)
        single(arguments.repeat, console)
    gradients(min(arguments.samples, 256), arguments.repeat, console)


if __name__ == "__main__":
    main()
