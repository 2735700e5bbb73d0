"""How far each phase is from the floor: its operations and bytes against what the machine can do.

The machine's peak is measured first: a float64 matrix product of torch, and a copy of arrays that
no cache holds. A phase cannot take less than its operations at the one or its bytes at the other;
the larger of both is its floor, and the last column says what part of the time that is.

Operations are what the method needs, from the shapes (a multiply-add is two), not what the
processor does besides: padding, conversions and comparisons do not count. Bytes are what has to
come from memory and go there once: inputs, results, matrices. So both are too small, not too large.

    python benchmarks/roofline.py                # about 20 s
    python benchmarks/roofline.py --full         # a 1024×1024 pair, too: a quarter of a minute more
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from elimination import forward, network, pair_array
from golden import ReferenceNetwork
from native import config
from timing import interleave, machine
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import imac_torch as it
from imac_torch.dc.network import PortLayer
from imac_torch.dc.newton import solve_loaded
from imac_torch.elimination.choice import eliminate
from imac_torch.transient.integrator import StepControl

NUMBER = 8
"""Bytes."""

# Operations of one look-up of two tables, kernels/lookup.py and patch.py. Splines of one axis take
# 22 and their slopes 14, a place 6. Weighing 4 rows of 8 coefficients takes 4·8 products and 3·8
# sums; the other axis's 8 splines 3·2·8, their slopes 2·2·8; every result 8 products and 6 sums.
_WEIGHED, _SPLINES, _SLOPES, _SUMMED = 56, 48, 32, 14
VALUES = 22 + 12 + _WEIGHED + _SPLINES + _SUMMED
"""Two values."""
ALONG = VALUES + _SLOPES + _SUMMED
"""And derivatives along the second axis."""
EVERYTHING = ALONG + 14 + _WEIGHED + _SUMMED
"""And along the first."""
EXPONENTIAL = 32
"""A polynomial of the eleventh order and what it begins with."""
EQUATIONS = 48
"""A neuron's linearised currents from the core's."""
PRECONDITION = 9
"""Per neuron: a product with a diagonal plus rank one."""
TURNS = 2
"""Steps on the cubics of one look-up of the table of starts, at least; behind one on a line."""


@dataclass(frozen=True)
class Phase:
    """What a phase needs, and takes.

    Attributes:
        name: Of the row.
        operations: Floating-point.
        bytes: To and from memory.
        seconds: Median.
    """

    name: str
    operations: float
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Peak:
    """operations/s of a matrix product, bytes/s of a copy (read and written)."""

    operations: float
    bytes: float

    @classmethod
    def measured(cls) -> Peak:
        """Of this machine, with torch's threads."""
        size, numbers = 1536, 2**24
        left, right = torch.rand(2, size, size, dtype=torch.float64)
        source, target = torch.rand(2, numbers, dtype=torch.float64)
        found = interleave(
            {"product": lambda: left @ right, "copy": lambda: target.copy_(source)}, 7, 20.0
        )
        return cls(2.0 * size**3 / found["product"][1], 2.0 * NUMBER * numbers / found["copy"][1])

    def row(self, phase: Phase) -> str:
        """A line of the table."""
        by_operations, by_bytes = phase.operations / self.operations, phase.bytes / self.bytes
        floor = max(by_operations, by_bytes)
        bound = "operations" if by_operations >= by_bytes else "bytes"
        return (
            f"| {phase.name} | {phase.operations / 1e9:.3g} | {phase.bytes / 1e6:.3g} | "
            f"{1e3 * phase.seconds:.3g} | {phase.operations / phase.seconds / 1e9:.3g} | "
            f"{phase.bytes / phase.seconds / 1e9:.3g} | {100 * floor / phase.seconds:.0f} % of "
            f"the {bound} |"
        )


class Operations(TorchDispatchMode):
    """Counts those of matrix products and of linear systems, from their shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(func).split(".")[1]
        at = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "addmm_": 1, "baddbmm_": 1}.get(name)
        if at is not None:
            self.count += 2.0 * args[at].numel() * args[at + 1].shape[-1]
        elif name in ("linalg_inv_ex", "_linalg_solve_ex"):
            order = args[0].shape[-1]
            systems = args[0].numel() / order**2
            # LU takes 2/3·n³, substitution 2·n² for every right side; an inverse has n of them.
            if name == "linalg_inv_ex":
                self.count += systems * 2.0 * order**3
            else:
                right = args[1].shape[-1] if args[1].ndim == args[0].ndim else 1
                self.count += systems * (2.0 / 3.0 * order**3 + 2.0 * order**2 * right)
        return func(*args, **(kwargs or {}))


def parts_of(layer: PortLayer) -> list[int]:
    """Driven lines of each partition."""
    return [last - first for first, last, _ in layer.ports.layout.driven]


def solutions(images: int, rounds: int) -> list[Phase]:
    """Operating points of 400-120-84-10: what one solution takes, by phases."""
    found: list[Phase] = []
    reference = ReferenceNetwork.shipped(images)
    for kind in ("logistic", "finfet"):
        circuit = it.convert(reference.model(), config(3, kind))
        voltages, engine = circuit.voltages(reference.inputs), circuit.engine
        prepared = circuit.prepare()
        solution = engine.solve(prepared, voltages, power=False)
        layers: Sequence[Any] = prepared.layers
        inputs = [item.inputs.reshape(1, images, -1) for item in solution.layers]
        combined = [item.combined.reshape(1, images, -1) for item in solution.layers]

        def products(layers: Sequence[Any] = layers, inputs: list[Tensor] = inputs) -> None:
            for layer, volts in zip(layers, inputs, strict=True):
                layer.passing.of_lines(volts)

        def neurons(
            layers: Sequence[Any] = layers, combined: list[Tensor] = combined, e: Any = engine
        ) -> None:
            for layer, volts in zip(layers, combined, strict=True):
                solve_loaded(volts, layer.neuron, layer.load, e.newton)

        jobs: dict[str, Callable[[], Any]] = {
            "products": products,
            "neurons": neurons,
            "plain": lambda e=engine, p=prepared, v=voltages: e.solve(p, v, power=False),
            "powers": lambda e=engine, p=prepared, v=voltages: e.solve(p, v, power=True),
        }
        times = {name: item[0] for name, item in interleave(jobs, rounds, 60.0).items()}
        sizes = [(volts.shape[-1], z.shape[-1]) for volts, z in zip(inputs, combined, strict=True)]
        if kind == "logistic":
            # Every line's voltage times every entry of a matrix; images, matrix and results.
            operations = sum(2.0 * images * n * m for n, m in sizes)
            moved = sum(NUMBER * (images * (n + m) + n * m) for n, m in sizes)
            found.append(Phase("transfer products", operations, moved, times["products"]))
            # exp and a quotient (some 40), then two products with the loads of a partition.
            operations = sum(
                images * (40.0 * m + sum(4.0 * k * k for k in _loads(layers, at)))
                for at, (_, m) in enumerate(sizes)
            )
        else:
            steps = float(solution.iterations.double().mean()) / len(layers)
            operations = sum(
                images * _newton(m, _loads(layers, at), steps) for at, (_, m) in enumerate(sizes)
            )
        moved = sum(3.0 * NUMBER * images * m for _, m in sizes)
        found.append(Phase(f"neurons, {kind}", operations, moved, times["neurons"]))
        operations = sum(
            images * (1 if at else 2) * sum(k * (k + 3.0) for k in parts_of(layer))
            for at, layer in enumerate(layers)
        )
        moved = sum(NUMBER * images * (n + 4.0) for n, _ in sizes)
        if kind == "finfet":  # currents from vdd and into gates
            operations += sum(images * m * (VALUES + 2.0 * (EXPONENTIAL + 4)) for _, m in sizes)
            moved += sum(4.0 * NUMBER * images * m for _, m in sizes)
        taken = times["powers"] - times["plain"]
        found.append(Phase(f"powers, {kind}", operations, moved, taken))
    return found


def _loads(layers: Sequence[Any], at: int) -> list[int]:
    """Neurons of layer ``at`` by the partition of the next that they drive; none: unloaded."""
    return parts_of(layers[at + 1]) if at + 1 < len(layers) else []


def _newton(neurons: int, loads: list[int], steps: float) -> float:
    """Operations of an image's layer of FinFET neurons.

    A step looks the core up and multiplies with the load for its current and for the correction.
    Before it are a line of the table of starts, one look-up of that and turns on its cubics (output
    and slope), with a product each but for the look-up, and the gate's cubic.
    """
    core = steps * neurons * (EVERYTHING + EXPONENTIAL + EQUATIONS)
    if not loads:
        return core + neurons * ALONG
    products = sum(2.0 * k * k for k in loads)
    return (
        core
        + steps * (2.0 * products + 2.0 * PRECONDITION * neurons)
        + neurons * (ALONG + 6.0)
        + (1 + TURNS) * (neurons * (PRECONDITION + 24.0) + products)
    )


def crossbars(rounds: int) -> Phase:
    """The 67 crossbars of 400-120-84-10, row by row from the bottom.

    A row adds its admittance, some 3·K², and eliminates K segments from the K rows of the
    admittance and the two transfers of each of the R rows below: 2·K² for each of these rows.
    """
    layers = network()
    operations = moved = 0.0
    for positive, _, _ in layers:
        rows, columns = positive.shape[-2:]
        blocks = positive[..., 0, 0].numel()
        one = 2.0 * columns**2 * (rows * columns + rows * (rows + 1.0)) + 3.0 * rows * columns**2
        operations += blocks * one
        moved += blocks * NUMBER * (4.0 * rows * columns + columns**2)
    found = interleave({"": lambda: forward(layers, "numba")}, 10 * rounds, 60.0)
    return Phase("elimination of 67 crossbars", operations, moved, found[""][0])


def pair(size: int, rounds: int) -> Phase:
    """A pair array by tiles: torch's matrix products and linear systems are counted."""
    layer = pair_array(size, size)
    eliminate(*pair_array(64, 64), method="tiles")  # compiles
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what other threads do is not seen
    with Operations() as counted:
        eliminate(*layer, method="tiles")
    torch.set_num_threads(threads)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        eliminate(*layer, method="tiles")
        seconds.append(time.perf_counter() - started)
    # Two conductances of every cell; both ends' transfers and the admittance.
    name = f"elimination of a {size}×{size} pair ({counted.count / size**3:.0f}·n³)"
    return Phase(name, counted.count, 5.0 * NUMBER * size**2, statistics.median(seconds))


def transient(images: int) -> Phase:
    """Time steps of images with charged wires; per step what a step of them needs at least.

    Of each of its two parts: one product with the transfers, one look-up of six functions with
    both slopes per neuron (three times that of two), and one product with the load.
    """
    reference = ReferenceNetwork.shipped(images)
    circuit = it.convert(
        reference.model(), it.Config.imac_sim(interconnect=it.Interconnect(capacitance=True))
    )
    options = it.TimingOptions(
        it.TransientOptions(control=StepControl(tolerance=1e-4), amplifiers=False), waveforms=0
    )
    voltages = circuit.voltages(reference.inputs)
    before = torch.cat([torch.zeros_like(voltages[:1]), voltages[:-1]])
    warm = circuit.timing(options)
    warm.add(voltages[:8])
    warm.flush()  # compiles
    measurement = circuit.timing(options)
    started = time.perf_counter()
    measurement.add(voltages, initial=before)
    measurement.flush()
    seconds = time.perf_counter() - started
    report = measurement.report()
    steps = statistics.mean(report.steps)
    layers: Sequence[Any] = circuit.prepare().layers
    half = 0.0
    for at, layer in enumerate(layers):
        _, outputs, lines = layer.shape
        half += 2.0 * outputs * lines + outputs * (3.0 * EVERYTHING + EXPONENTIAL + EQUATIONS)
        half += sum(4.0 * k * k for k in _loads(layers, at))
    operations = 2.0 * half * steps * images
    name = f"transients, {images} images, {steps:.0f} steps"
    return Phase(name, operations, NUMBER * images * steps * 2.0 * voltages.shape[-1], seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="a 1024×1024 pair")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    peak = Peak.measured()
    print(f"{machine(options.threads)}: {peak.operations / 1e9:.0f} GFLOP/s in a float64 matrix "
          f"product, {peak.bytes / 1e9:.1f} GB/s in a copy\n")
    print("| phase | GFLOP | MB | time / ms | GFLOP/s | GB/s | floor |")
    print("|---|---:|---:|---:|---:|---:|---|", flush=True)
    with torch.no_grad():
        for phase in solutions(options.images, options.rounds):
            print(peak.row(phase), flush=True)
        print(peak.row(crossbars(options.rounds)), flush=True)
        for size in (256, 1024) if options.full else (256,):
            print(peak.row(pair(size, 1 if size > 256 else 3)), flush=True)
        print(peak.row(transient(min(options.images, 128))), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
