"""Elimination of crossbars to their ports: methods and kernels beside sparse solvers.

The 67 blocks of a 400-120-84-10 network in 32×32 crossbars, forward and backward, then single pair
arrays of growing size. Errors are relative to SuperLU's ports of the same blocks (largest
difference over largest entry).

On a machine that others use too, take --threads 1: OpenMP threads that wait for each other lose far
more time than they gain as soon as one of them does not get its core.

    python benchmarks/elimination.py                # network, and arrays up to 256
    python benchmarks/elimination.py --full         # arrays up to 1024
    python benchmarks/elimination.py --crossover    # where tiles overtake rows
    python benchmarks/elimination.py --large 2048   # one pair this large, with its progress bar
    python benchmarks/elimination.py --large 9216 4096    # a layer's 32×32 blocks, likewise
"""

from __future__ import annotations

import argparse
import logging
import math
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sparse import Klu, Nodal, nodal, superlu
from timing import interleave, machine

import imac_torch as imac
from imac_torch.base.progress import asking
from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.config import Amplifier, Config, Crossbar
from imac_torch.elimination.blocks import BlockLayout, BlockPorts, Termination
from imac_torch.elimination.choice import eliminate
from imac_torch.mapping.quantization import ConductancePair

Layer = tuple[torch.Tensor, torch.Tensor, Termination]
LAYERS = ((400, 120, 30.0), (120, 84, 30.0), (84, 10, 10.0))
LOW, HIGH = 78e3, 202e3  # Ω


def network() -> list[Layer]:
    """Random ±1 weights: the time does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for inputs, outputs, gain in LAYERS:
        up = torch.rand(outputs, inputs + 1, generator=generator) < 0.5
        low, high = (torch.full(up.shape, 1 / r, dtype=torch.float64) for r in (LOW, HIGH))
        pair = ConductancePair(torch.where(up, low, high), torch.where(up, high, low))
        size = Crossbar(rows=32, columns=32)
        config = Config(crossbar=size, amplifier=Amplifier(gain=gain)).for_layer(0, "layer", 1)
        spec = build_crossbar(pair, config, gain)
        layout = BlockLayout.of(spec)
        layers.append(
            (layout.gather(pair.positive), layout.gather(pair.negative), Termination.of(spec))
        )
    return layers


def sparse_ports(
    positive: np.ndarray,
    negative: np.ndarray,
    wires: Termination,
    solver: Callable[[Nodal, np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """Ports of one block by nodal analysis with K right sides."""
    values = {name: float(value) for name, value in vars(wires).items()}
    system = nodal(positive, negative, **values)
    voltages = solver(system, np.eye(positive.shape[1]))
    # Currents through the cells, not through the first segment: 1 - v loses four digits there.
    cells = voltages[: 3 * positive.size].reshape(3, *positive.shape, -1)
    admittance = (
        positive[..., None] * (cells[0] - cells[1]) + negative[..., None] * (cells[0] - cells[2])
    ).sum(axis=0)
    load, segment = values["positive_load"], values["output_segment"]
    plus = voltages[system.plus] * load / (load + segment)
    virtual = values["alpha"] * plus
    load = values["negative_load"]
    minus = virtual + (voltages[system.minus] - virtual) * load / (load + segment)
    return [admittance, plus, minus]


def sparse_network(
    layers: list[Layer], solver: Callable[[Nodal, np.ndarray], np.ndarray]
) -> list[list[np.ndarray]]:
    """All blocks of all layers."""
    return [
        sparse_ports(p, n, wires, solver)
        for positive, negative, wires in layers
        for p, n in zip(blocks_of(positive), blocks_of(negative), strict=True)
    ]


def parts(ports: BlockPorts) -> list[torch.Tensor]:
    return [ports.admittance, ports.positive_end, ports.negative_end]


def blocks_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().reshape(-1, *tensor.shape[-2:]).numpy()


def as_blocks(ports: list[BlockPorts]) -> list[list[np.ndarray]]:
    return [
        list(block)
        for layer in ports
        for block in zip(*(blocks_of(x) for x in parts(layer)), strict=True)
    ]


def error(found: list[list[np.ndarray]], reference: list[list[np.ndarray]]) -> float:
    return max(
        float(np.abs(a - b).max() / np.abs(b).max())
        for first, second in zip(found, reference, strict=True)
        for a, b in zip(first, second, strict=True)
    )


def forward(layers: list[Layer], kernel: str) -> list[BlockPorts]:
    return [eliminate(*layer, method="rows", kernel=kernel)[0] for layer in layers]


def forward_and_backward(layers: list[Layer], kernel: str) -> list[BlockPorts]:
    leaves = [(p.requires_grad_(), n.requires_grad_(), w) for p, n, w in layers]
    ports = forward(leaves, kernel)
    sum(part.sum() for layer in ports for part in parts(layer)).backward()
    for positive, negative, _ in leaves:
        positive.grad = negative.grad = None
        positive.requires_grad_(False)
        negative.requires_grad_(False)
    return ports


def compare_network(rounds: int, budget: float) -> None:
    layers = network()
    klu = Klu()
    jobs: dict[str, Callable[[], Any]] = {
        "rows, numba": lambda: as_blocks(forward(layers, "numba")),
        "  with gradients": lambda: as_blocks(forward_and_backward(layers, "numba")),
        "rows, torch": lambda: as_blocks(forward(layers, "torch")),
        "  with gradients ": lambda: as_blocks(forward_and_backward(layers, "torch")),
        "SuperLU": lambda: sparse_network(layers, superlu),
    }
    if klu.klu is not None:
        jobs["KLU"] = lambda: sparse_network(layers, klu)
    found = interleave(jobs, rounds, budget)
    blocks = len(found["SuperLU"][2])
    print(f"\nThe {blocks} blocks of 400-120-84-10 (KLU reuses its symbolic analysis)")
    print(f"  {'way':17} {'median':>10} {'least':>10} {'ratio':>8} {'error':>9}")
    base = found["rows, numba"][0]
    for name, (median, least, result) in found.items():
        print(
            f"  {name:17} {median * 1e3:7.1f} ms {least * 1e3:7.1f} ms {median / base:7.1f}x "
            f"{error(result, found['SuperLU'][2]):9.1e}"
        )


def pair_array(rows: int, columns: int) -> Layer:
    generator = torch.Generator().manual_seed(rows)
    positive, negative = (
        (torch.rand(rows, columns, generator=generator, dtype=torch.float64) + 0.2) * 1e-5
        for _ in range(2)
    )
    scalars = (torch.tensor(x, dtype=torch.float64) for x in (9.24, 11.55, 31e3, 1e3, 30 / 31))
    return positive, negative, Termination(*scalars)


def compare_arrays(sizes: list[int], rounds: int, budget: float) -> None:
    print("\nOne pair array n×n to its ports (peak memory is that of the whole process so far)")
    print(f"  {'n':>5} {'way':12} {'median':>10} {'least':>10} {'error':>9} {'memory':>9}")
    grown: dict[str, list[tuple[int, float]]] = {}
    for size in sizes:
        layer = pair_array(size, size)
        jobs: dict[str, Callable[[], Any]] = {
            "tiles": lambda x=layer: as_blocks([eliminate(*x, method="tiles")[0]])
        }
        if size <= 256:
            jobs["rows"] = lambda x=layer: as_blocks([eliminate(*x, method="rows")[0]])
        if size <= 100:
            p, n, wires = layer
            jobs["SuperLU"] = lambda p=p, n=n, w=wires: [
                sparse_ports(p.numpy(), n.numpy(), w, superlu)
            ]
        found = interleave(jobs, rounds, budget)
        reference = found["SuperLU" if "SuperLU" in found else list(found)[-1]][2]
        for name, (median, least, result) in found.items():
            memory = peak()
            alone = len(found) == 1
            shown = "–" if alone else f"{error(result, reference):.1e}"
            print(
                f"  {size:5d} {name:12} {median:8.4f} s {least:8.4f} s {shown:>9} {memory:6.0f} MB"
            )
            grown.setdefault(name, []).append((size, least))
    for name, times in grown.items():
        (few, first), (many, last) = times[0], times[-1]
        if many > few:
            power = math.log(last / first) / math.log(many / few)
            print(f"  {name}: time grows with n to the power {power:.2f} from {few} to {many}")


def run_large(sizes: list[int]) -> None:
    """One array, or a layer converted and programmed: time, memory, and what was foreseen."""
    logging.basicConfig(level="INFO", format="%(message)s")
    pair = pair_array(64, 64)
    eliminate(*pair, method="tiles"), eliminate(*pair, method="rows")  # kernels are compiled
    started, used, before = time.perf_counter(), time.process_time(), peak()
    if len(sizes) == 1:
        layer = pair_array(sizes[0], sizes[0])
        with asking():
            eliminate(*layer)
    else:
        config = imac.Config(mapping=imac.WeightMapping(levels="continuous"))
        network = imac.convert(torch.nn.Sequential(torch.nn.Linear(*sizes)), config)
        converted = time.perf_counter() - started, time.process_time() - used, peak()
        print("converted: {:.1f} s, {:.1f} s of processor, peak {:.0f} MB".format(*converted))
        network.prepare(progress=True)
    print(
        f"in all: {time.perf_counter() - started:.1f} s, {time.process_time() - used:.1f} s of "
        f"processor, peak {peak():.0f} MB, {before:.0f} MB of it from before"
    )


def peak() -> float:
    """The most memory that this process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def find_crossover(kernel: str) -> None:
    print(f"\nTime of rows over time of tiles, kernel {kernel}")
    for columns in (64, 96, 128, 144, 160, 192):
        ratios = []
        for rows in (32, 64, 128):
            layer = pair_array(rows, columns)
            found = interleave(
                {
                    m: lambda x=layer, m=m: eliminate(*x, method=m, kernel=kernel)
                    for m in ("rows", "tiles")
                },
                rounds=3,
                budget=5.0,
            )
            ratios.append(f"{rows} rows {found['rows'][1] / found['tiles'][1]:.2f}")
        print(f"  {columns:4d} columns: {', '.join(ratios)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="pair arrays up to 1024")
    parser.add_argument("--crossover", action="store_true", help="only this")
    parser.add_argument("--large", type=int, nargs="+", help="only this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=5.0, help="s per way and case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(arguments.threads))
    if arguments.large:
        with torch.no_grad():
            run_large(arguments.large)
        return
    if arguments.crossover:
        find_crossover("numba")
        find_crossover("torch")
        return
    compare_network(arguments.rounds, arguments.budget)
    sizes = [64, 100, 128, 192, 256]
    compare_arrays(sizes + ([512, 1000, 1024] if arguments.full else []), 3, arguments.budget)


if __name__ == "__main__":
    main()
