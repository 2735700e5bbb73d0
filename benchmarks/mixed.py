"""What float32 with one correction in float64 could save, at most: why there is no such mode.

A correction needs the float64 residual, and that of a linear product is the float64 product itself.
So what float32 might do instead is timed, and the job is shown as if that took half as long and the
residual nothing: a bound that no such mode reaches. One thread, two minutes.

1. 10,000 operating points, linear cells: transfer products (beside them those in float32 and their
   error), and what FinFETs start from before the one step that makes them exact.
2. Curved cells: all of a sweep but the cells' currents and slopes, which the residual needs.
3. Transients with charged wires: products with transfers, four a step (stages, corrections).
"""

from __future__ import annotations

import statistics
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from curved import DEVICES, NETWORK, inputs_of, network_of
from golden import ReferenceNetwork
from native import config
from timing import interleave, machine

import imac_torch as it
from imac_torch.dc import newton
from imac_torch.dc.sweeps import SweepState
from imac_torch.kernels.cells import WORK, block_down, block_up
from imac_torch.kernels.compiled import njit
from imac_torch.kernels.elements import POINTS, alone, gated, series
from imac_torch.kernels.lanes import LANES

IMAGES, TRANSIENTS, SWEEPS = 10_000, 64, 300
STARTS: Any = SimpleNamespace(tolerance=1e-9, max_iterations=0, kernel="numba")  # no step behind


def row(job: str, part: str, whole: float, share: float, note: str = "") -> None:
    """A line of the table."""
    print(f"| {job} | {part} | {1e3 * whole:.3g} | {100 * share / whole:.0f} % | "
          f"{whole / (whole - share / 2):.2f} | {note} |", flush=True)  # fmt: skip


def operating_points(kind: str) -> None:
    """Part 1."""
    reference = ReferenceNetwork.shipped(IMAGES)
    network = it.convert(reference.model(), config(3, kind))
    volts, engine, prepared = network.voltages(reference.inputs), network.engine, network.prepare()
    layers: Any = prepared.layers
    found = engine.solve(prepared, volts, power=False).layers
    inputs, combined = (
        [getattr(item, name).reshape(1, IMAGES, -1) for item in found]
        for name in ("inputs", "combined")
    )
    small = [(item.passing.constant.float(), item.passing.matrix.float()) for item in layers]

    def starts() -> None:
        for item, z in zip(layers, combined, strict=True):
            near = newton.near_table(z, item.neuron, item.load)
            newton._run_tiles(z, item.neuron, item.load, STARTS, near)

    jobs: dict[str, Any] = {
        "": lambda: engine.solve(prepared, volts, power=False),
        "products": lambda: [i.passing.of_lines(x) for i, x in zip(layers, inputs, strict=True)],
        "in float32": lambda: [
            torch.baddbmm(constant, x.float(), matrix).double()
            for (constant, matrix), x in zip(small, inputs, strict=True)
        ],
    } | ({"starts": starts} if kind == "finfet" else {})  # fmt: skip
    times = interleave(jobs, 7, 60.0)
    pairs = zip(times["products"][2], times["in float32"][2], strict=True)
    error = max(float((one - two).abs().max()) for one, two in pairs)
    note = f"in float32 {1e3 * times['in float32'][0]:.3g} ms, {error:.0e} V"
    for part, text in (("products", note), ("starts", "")):
        if part in times:
            row(f"{IMAGES} images, {kind}", part, times[""][0], times[part][0], text)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def repeated(times, whole, block):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Sweeps of a block, or its cells' currents and slopes alone."""
    g, scalars, cell, table, grid, _, inputs, lines, nodes, _, behind, stars, hubs = block[:13]
    sizes, flows, work, points, _, moved = block[15:]
    for _ in range(times):
        if whole:
            block_up(*block[:20])
            moved[:] = 0.0
            block_down(scalars[0], moved, behind, stars, hubs, sizes)
            continue
        for k in range(2 * inputs.shape[0]):
            if nodes.shape[1] == 0:
                alone(cell, g, k % 2, k // 2, inputs, lines, flows)
            elif table.shape[0] > 3:
                gated(cell, g, k % 2, k // 2, inputs, lines, nodes, flows, work, sizes, table, grid,
                      points)  # fmt: skip
            else:
                series(cell, g, k % 2, k // 2, inputs, lines, nodes, flows, work, sizes)


def sweeps(name: str, device: it.Memristor) -> None:
    """Part 2, of the first block of the first layer."""
    generator = torch.Generator().manual_seed(0)
    network = network_of(device, NETWORK, generator)
    layers: Any = network.prepare().layers
    state = SweepState(layers[0].cells[0], torch.tensor(0.8, dtype=torch.float64), LANES)
    state.begin(network.voltages(inputs_of(LANES, NETWORK[0], generator)))
    state.up(60, 1e-9)
    columns = state.inputs.shape[3]
    own = (state.driven, state.inputs, state.lines, state.nodes, state.given, state.behind,
           state.stars, state.hubs, state.ports, state.ends, state.sizes)  # fmt: skip
    sizes = (5, 1, 1, columns), (WORK, columns), (POINTS,), (2, 4), (columns,)
    block = (state.known[0][0], *state.known[1:], *(array[0, 0] for array in own),
             *(np.empty((*size, LANES)) for size in sizes))  # fmt: skip
    whole, cells = (
        item[0] / SWEEPS for item in interleave({
            "whole": lambda: repeated(SWEEPS, True, block),
            "cells": lambda: repeated(SWEEPS, False, block),
        }, 9, 60.0).values()
    )  # fmt: skip
    row(f"a sweep of a block, {name}", "all but its cells", whole, whole - cells)


def transients() -> None:
    """Part 3."""
    reference = ReferenceNetwork.shipped(TRANSIENTS)
    wires = it.Interconnect(capacitance=True)
    network = it.convert(reference.model(), it.Config.imac_sim(interconnect=wires))
    voltages = network.voltages(reference.inputs)
    later = [layer.passing for layer in network.prepare().layers[1:]]
    lines = [torch.rand(1, TRANSIENTS, p.matrix.shape[-2], dtype=torch.float64) for p in later]

    def whole() -> float:
        measured = network.timing(it.TimingOptions(it.TransientOptions(), waveforms=0))
        measured.add(voltages)
        measured.flush()
        return statistics.mean(measured.report().steps)

    whole()  # compiles
    times = interleave({
        "whole": whole,
        "one": lambda: [passing.of_lines(x) for passing, x in zip(later, lines, strict=True)],
    }, 3, 60.0)  # fmt: skip
    (seconds, _, steps), one = times["whole"], times["one"][0]
    row(f"{TRANSIENTS} transients, {steps:.0f} steps", "products", seconds, 4.0 * steps * one)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{machine(1)}\n\n| job | part | ms | its share | at most, times as fast | |")
    print("|---|---|---:|---:|---:|---|")
    with torch.no_grad():
        for neurons in ("logistic", "finfet"):
            operating_points(neurons)
        for label, cells_of in list(DEVICES.items())[1:]:
            sweeps(label, cells_of)
        transients()
