"""One bare n×n array, many input vectors: this package beside sparse solvers and badcrossbar.

Every solver gets the same circuit: word lines driven at one end, bit lines grounded at the other,
a resistor per segment. Here it is one side of a pair array whose other side is open, so this
package does about twice the work that the circuit needs. Times include everything from resistances
to output currents. Errors are the largest difference of an output current from SuperLU's, relative
to the largest current.

On a machine that others use too, take --threads 1: OpenMP threads that wait for each other lose far
more time than they gain as soon as one of them does not get its core.

    python benchmarks/bare_array.py            # up to 64×64, half a minute
    python benchmarks/bare_array.py --full     # up to 512×512
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peers import Klu, interleave, machine, nodal, optional, superlu

from imac_torch.elimination.blocks import Termination
from imac_torch.elimination.choice import eliminate

SEGMENT = 10.0  # Ω
TINY = 1e-12  # Ω: the load that a bit line has here, none in the circuit


def ours(conductances: np.ndarray, sources: np.ndarray, info: list[str]) -> np.ndarray:
    """Output currents (n, B) with this package."""
    rows = torch.from_numpy(np.ascontiguousarray(conductances.T))  # rows are bit lines here
    segment, load = (torch.tensor(x, dtype=torch.float64) for x in (SEGMENT, TINY))
    wires = Termination(segment, segment, load, segment, torch.zeros_like(load))
    ports, how = eliminate(rows, torch.zeros_like(rows), wires)
    info.append(str(how))
    return ((ports.positive_end / TINY) @ torch.from_numpy(sources)).numpy()


def sparse(
    conductances: np.ndarray, sources: np.ndarray, solver: Callable[..., np.ndarray]
) -> np.ndarray:
    """The same by nodal analysis."""
    system = nodal(np.ascontiguousarray(conductances.T), None, SEGMENT, SEGMENT, 0.0)
    return solver(system, sources)[system.plus] / SEGMENT


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="32 to 512 instead of 32 and 64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=2.0, help="s per solver and case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.INFO)  # badcrossbar reports progress
    peer = optional("badcrossbar")
    if peer is not None and not hasattr(peer, "compute"):
        print("badcrossbar is left out: one of its dependencies is missing")
        peer = None
    klu = Klu()
    print(machine(arguments.threads))
    given_up: set[str] = set()
    for size in (32, 64, 128, 256, 512) if arguments.full else (32, 64):
        generator = np.random.default_rng(size)
        conductances = generator.uniform(1 / 202e3, 1 / 78e3, (size, size))
        for vectors in (1, 1000):
            sources = generator.uniform(-0.8, 0.8, (size, vectors))
            info: list[str] = []
            jobs: dict[str, Callable[[], Any]] = {
                "imac_torch": lambda g=conductances, v=sources, i=info: ours(g, v, i),
                "SuperLU": lambda g=conductances, v=sources: sparse(g, v, superlu),
            }
            if klu.klu is not None:
                jobs["KLU"] = lambda g=conductances, v=sources: sparse(g, v, klu)
            if peer is not None:
                jobs["badcrossbar"] = lambda g=conductances, v=sources: peer.compute(
                    v, 1.0 / g, SEGMENT, node_voltages=False, all_currents=False
                ).currents.output.T
            jobs = {n: j for n, j in jobs.items() if f"{n} {vectors}" not in given_up}
            found = interleave(jobs, arguments.rounds, arguments.budget)
            reference = found["SuperLU"][2] if "SuperLU" in found else found["imac_torch"][2]
            base = found["imac_torch"][0]
            print(f"\n{size}×{size}, {vectors} input vector(s); {info[-1]}")
            print(f"  {'solver':12} {'median':>10} {'least':>10} {'ratio':>8} {'error':>9}")
            for name, (median, least, result) in found.items():
                error = np.abs(result - reference).max() / np.abs(reference).max()
                print(
                    f"  {name:12} {median * 1e3:7.2f} ms {least * 1e3:7.2f} ms "
                    f"{median / base:7.1f}x {error:9.1e}"
                )
                if least > 10 * arguments.budget:
                    given_up.add(f"{name} {vectors}")
                    print(f"  ({name} is left out from here on: over {10 * arguments.budget:g} s)")


if __name__ == "__main__":
    main()
