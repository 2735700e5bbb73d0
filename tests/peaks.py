"""Run by itself: peaks of memory beside the estimates, as JSON {work: [estimated, measured]}.

``test_budget.py`` runs it with ``MALLOC_MMAP_THRESHOLD_``: what is freed leaves the process at
once, and the peak is what was alive.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

import imac_torch as imac
from imac_torch.dc.ir_drop import cell_voltages
from imac_torch.elimination.blocks import Termination
from imac_torch.elimination.choice import eliminate
from imac_torch.errors import SolverMemoryError
from imac_torch.numeric import budget
from imac_torch.numeric.budget import FACTORISATIONS, image_bytes, latency_bytes, lines_bytes
from imac_torch.results.latency import REFINEMENT, measure_latency
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.network import solve_transient

torch.set_num_threads(1)
torch.manual_seed(0)
BASE = imac.Config(
    neuron=imac.Neuron(kind="logistic"),
    mapping=imac.WeightMapping(levels="continuous"),
    timing=imac.Timing(period=1e-8, transition=1e-9),
)
WIRES = Termination(
    *(torch.tensor(v, dtype=torch.float64) for v in (10.0, 10.0, 1e4, 1e4, 0.5))
)
found: dict[str, tuple[int, int]] = {}


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measured(work: Callable[[], object]) -> int:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): VmHWM begins anew
    before = status("VmRSS:")
    kept = work()
    peak = status("VmHWM:") - before
    del kept
    return peak


def estimated(work: Callable[[], object]) -> int:
    """What is asked for, with nothing free."""
    small, free = budget.SMALL, budget.free_memory
    budget.SMALL, budget.free_memory = 0, lambda *_: 0
    try:
        work()
    except SolverMemoryError as error:
        return error.needed
    finally:
        budget.SMALL, budget.free_memory = small, free
    raise AssertionError("nothing was asked for")


def compare(name: str, work: Callable[[], object]) -> None:
    found[name] = estimated(work), measured(work)


def network(*sizes: int, array: int, capacitance: bool = False) -> imac.IMACNetwork:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Sigmoid()]
    config = BASE.replace(
        crossbar=imac.Crossbar(rows=array, columns=array),
        interconnect=imac.Interconnect(capacitance=capacitance),
    )
    return imac.convert(nn.Sequential(*layers[:-1]), config)


def elimination(rows: int, columns: int, method: str, kernel: str) -> Callable[[], object]:
    cells = torch.full((1, rows, columns), 1e-5, dtype=torch.float64)
    return lambda: eliminate(cells, cells, WIRES, method=method, kernel=kernel)  # type: ignore[arg-type]


def images(count: int, width: int) -> torch.Tensor:
    return 2.0 * torch.rand(count, width) - 1.0


def transient(
    net: imac.IMACNetwork, options: imac.TransientOptions, count: int
) -> Callable[[], object]:
    layers = list(net.analog_layers())
    inputs = net.voltages(images(count, layers[0].in_features))
    stages = net.timing(imac.TimingOptions(options)).stages
    return lambda: solve_transient(stages, inputs[:, None], net.config.timing, options=options)


def dc() -> None:
    small, large = network(7, 5, array=8), network(127, 64, 64, array=32)
    for method in ("rows", "tiles"):
        elimination(40, 40, method, "auto")()  # compiled now, not while measured
    compare("tiles", elimination(320, 320, "tiles", "auto"))
    compare("tiles, wide", elimination(64, 512, "tiles", "auto"))
    compare("rows", elimination(512, 96, "rows", "auto"))
    compare("rows, torch", elimination(256, 64, "rows", "torch"))
    layer = next(network(95, 64, array=96).analog_layers()).matrix.crossbar()
    lines = torch.rand(50, 96, dtype=torch.float64)
    compare("map", lambda: cell_voltages(layer, lines))
    model = imac.device_model("PCM")
    imac.MonteCarlo(small, model).run(images(2, 7), samples=2)
    run = imac.MonteCarlo(large, model)
    voltages = large.voltages(images(20, 127))
    each = 2**28 // len(next(run.chunks(2**28, 20, 2**28)))
    found["samples"] = 40 * each, measured(lambda: run.solve(range(40), voltages))
    many = large.voltages(images(8192, 127))
    prepared = large.prepare()
    found["images"] = (
        8192 * (image_bytes(64, 128) + image_bytes(64, 65)),
        measured(lambda: large.engine.solve(prepared, many)),
    )


def in_time() -> None:
    large = network(95, 80, array=96, capacitance=True)
    large.prepare()
    reduced = imac.TransientOptions(wires="reduced")
    compare("preparing series", lambda: large.timing(imac.TimingOptions(reduced)))
    chain = network(31, 48, 48, array=49, capacitance=True)
    short = imac.TransientOptions(wires="reduced", control=StepControl(fixed=1e-10))
    compare("images, series", transient(chain, short, 400))
    cells = network(47, 40, array=48, capacitance=True)
    exact = imac.TransientOptions(wires="exact")
    lines = cells.timing(imac.TimingOptions(exact)).stages[0].lines
    steps = [1e-9 / k for k in range(1, FACTORISATIONS + 1)]
    found["factors, exact"] = (
        lines_bytes(1, 40, 48, 48, exact=True),
        measured(lambda: [lines.matrices(step) for step in steps]),
    )
    fixed = imac.TransientOptions(wires="exact", control=StepControl(fixed=1e-9))
    compare("images, exact", transient(cells, fixed, 200))
    time = torch.linspace(0.0, 1e-8, 200, dtype=torch.float64)
    waves = torch.rand(200, 100, 32, dtype=torch.float64)
    found["latencies"] = (
        latency_bytes(REFINEMENT * 200, 100, 32),
        measured(lambda: measure_latency(time, waves, 1e-8)),
    )


if __name__ == "__main__":
    with torch.no_grad():
        dc()
        in_time()
    print(json.dumps(found))
