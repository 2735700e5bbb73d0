"""This package beside every other program at hand, on the same work: one table, time and error.

1. One bare n×n array, 1 and 1000 input vectors: word lines driven at one end, bit lines grounded at
   the other, a resistor per segment. Times include everything from resistances to output currents;
   errors are of output currents, relative to the largest, against SuperLU's. Here it is one side of
   a pair array whose other side is open: about twice the work that the circuit needs.
2. The 400-120-84-10 network of ``data/``: the plain MLP in float64, and circuits without and with
   wires. Errors of aihwkit are relative to the MLP, ngspice's to this package's circuit.
3. A transient of 64-32-10 with capacitances, one image: the largest difference of a waveform,
   relative to its swing.

A program that is not here is a line that says how to get it. Every program meets larger arrays only
while the next is likely to stay within ``--budget``; the table takes some two minutes by default, a
quarter of an hour with ``--full``, and says so first. On a machine that others use too, take
--threads 1: OpenMP threads that wait for each other lose far more time than they gain.

    python benchmarks/peers.py            # arrays up to 64×64
    python benchmarks/peers.py --full     # up to 512×512
    python benchmarks/peers.py --who      # only who is here
"""

from __future__ import annotations

import argparse
import copy
import importlib
import logging
import platform
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from golden import ReferenceNetwork
from native import random_inputs, random_model
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import imac_torch as it
from imac_torch.elimination.blocks import Termination
from imac_torch.elimination.choice import eliminate
from imac_torch.simulator.engine import Spice
from imac_torch.study.transient_verification import verify_transient

Array = NDArray[np.float64]


def optional(name: str) -> ModuleType | None:
    """A module, if it is installed."""
    before = warnings.filters[:]
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
    finally:
        warnings.filters[:] = before  # badcrossbar turns some on for the whole process


PEERS = (
    # Module, what it is, how to get it.
    ("scipy", "SuperLU", "pip install scipy"),
    ("kvxopt", "KLU", "pip install kvxopt"),
    ("badcrossbar", "badcrossbar", "apt-get install libcairo2-dev; pip install badcrossbar"),
    (
        "simulator", "CrossSim",
        "git clone https://github.com/sandialabs/cross-sim; pip install ./cross-sim",
    ),
    ("aihwkit", "aihwkit", "pip install aihwkit"),
)  # fmt: skip
NGSPICE, NGSPICE_KLU = "ngspice", "ngspice, KLU"


def peers() -> dict[str, str]:
    """Every peer: what is here of it; or, beginning with "not here", how to get it."""
    found = {}
    for module, name, how in PEERS:
        here = optional(module)
        there = here is not None and (name != "badcrossbar" or hasattr(here, "compute"))
        there = there and (name != "CrossSim" or hasattr(here, "CrossSimParameters"))
        found[name] = getattr(here, "__version__", "here") if there else f"not here; {how}"
    ngspice = it.NgSpice()
    if not ngspice.available():
        how = "not here; apt-get install ngspice"
        return {**found, NGSPICE: how, NGSPICE_KLU: f"{how} (KLU: version 42 or newer)"}
    klu = "KLU yes" in ngspice.abilities()
    found[NGSPICE] = str(ngspice.version())
    found[NGSPICE_KLU] = (
        found[NGSPICE]
        if klu
        else "not here; ngspice 42 or newer, configured with --enable-klu"
    )
    return found


@dataclass(frozen=True)
class Nodal:
    """matrix·voltages = inputs·source voltages for one block.

    Nodes are numbered row by row: input lines (R·K), I+ lines (R·K), I- lines (R·K).

    Attributes:
        matrix: (nodes, nodes) S, sparse by columns.
        inputs: (nodes, K) S, sparse: first node of each input line.
        plus: Last node of each row's I+ line.
        minus: Last node of each row's I- line, none in a single array.
    """

    matrix: scipy.sparse.csc_matrix
    inputs: scipy.sparse.csc_matrix
    plus: NDArray[np.int64]
    minus: NDArray[np.int64]


def nodal(
    positive: Array,
    negative: Array | None,
    input_segment: float,
    output_segment: float,
    positive_load: float,
    negative_load: float = 1.0,
    alpha: float = 0.0,
) -> Nodal:
    """Stamp a block of R rows and K columns; without ``negative`` a single array.

    The I+ end's load is in series with the last segment, so that it may be 0.
    """
    rows, columns = positive.shape
    cell = np.arange(rows * columns).reshape(rows, columns)
    entries: list[tuple[Any, Any, Any]] = []

    def couple(i: Any, j: Any, g: Any) -> None:
        i, j, g = (x.reshape(-1) for x in np.broadcast_arrays(i, j, g))
        entries.extend([(i, i, g), (j, j, g), (i, j, -g), (j, i, -g)])

    couple(cell[1:], cell[:-1], 1.0 / input_segment)
    entries.append((cell[0], cell[0], np.full(columns, 1.0 / input_segment)))
    count = rows * columns
    last = {}
    for side, cells in (("plus", positive), ("minus", negative)):
        if cells is None:
            continue
        line = cell + count
        count += rows * columns
        present = cells > 0
        couple(cell[present], line[present], cells[present])
        couple(line[:, 1:], line[:, :-1], 1.0 / output_segment)
        last[side] = line[:, -1]
    plus = last["plus"]
    load = np.full(rows, 1.0 / (output_segment + positive_load))
    entries.append((plus, plus, load))
    minus = last.get("minus", np.empty(0, dtype=np.int64))
    if len(minus):
        # I- ends in a voltage alpha·(I+ end's), the I+ end being a tap of the last resistor.
        g = np.full(rows, 1.0 / (output_segment + negative_load))
        entries.extend([(minus, minus, g), (minus, plus, -alpha * positive_load * load * g)])
    i, j, g = (np.concatenate(x) for x in zip(*entries, strict=True))
    matrix = scipy.sparse.csc_matrix((g, (i, j)), shape=(count, count))
    inputs = scipy.sparse.csc_matrix(
        (np.full(columns, 1.0 / input_segment), (cell[0], np.arange(columns))),
        shape=(count, columns),
    )
    return Nodal(matrix, inputs, plus, minus)


def superlu(system: Nodal, sources: Array) -> Array:
    """Node voltages (nodes, B) for source voltages (K, B) with scipy's SuperLU."""
    factors = scipy.sparse.linalg.splu(system.matrix, permc_spec="COLAMD")
    return factors.solve(system.inputs @ sources)


class Klu:
    """KLU through kvxopt; the symbolic analysis of a pattern is kept."""

    def __init__(self) -> None:
        self.module = optional("kvxopt")
        self.klu = optional("kvxopt.klu")
        self.symbolic: dict[tuple[int, int], Any] = {}

    def __call__(self, system: Nodal, sources: Array) -> Array:
        """Like :func:`superlu`."""
        if self.module is None or self.klu is None:
            raise RuntimeError("kvxopt is not installed")
        coo = system.matrix.tocoo()
        matrix = self.module.spmatrix(
            self.module.matrix(coo.data),
            self.module.matrix(coo.row.astype(np.int64)),
            self.module.matrix(coo.col.astype(np.int64)),
            coo.shape,
        )
        key = (system.matrix.shape[0], system.matrix.nnz)
        if key not in self.symbolic:
            self.symbolic[key] = self.klu.symbolic(matrix)
        numeric = self.klu.numeric(matrix, self.symbolic[key])
        right = self.module.matrix(np.asfortranarray(system.inputs @ sources))
        self.klu.solve(matrix, self.symbolic[key], numeric, right)
        return np.array(right)


def interleave(
    jobs: dict[str, Callable[[], Any]], rounds: int, budget: float
) -> dict[str, tuple[float, float, Any]]:
    """Run jobs in turn, so that whatever else the machine does meets all of them.

    Args:
        jobs: What to run.
        rounds: How often; each job runs once more before, untimed.
        budget: s per job; a slower one is not repeated.

    Returns:
        Of each job: median and least seconds, and its last result.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    results = {}
    for k in range(rounds + 1):
        for name, job in jobs.items():
            if k and sum(seconds[name]) > budget:
                continue
            start = time.perf_counter()
            results[name] = job()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: (statistics.median(s[1:] or s), min(s), results[name]) for name, s in seconds.items()
    }


def machine(threads: int) -> str:
    """One line on what the figures were measured on."""
    return f"{platform.machine()}, Python {platform.python_version()}, {threads} torch thread(s)"


# 1. Bare arrays

SEGMENT = 10.0  # Ω
TINY = 1e-12  # Ω: the load that a bit line has here, none in the circuit
LARGEST = 202e3  # Ω
SMALLEST = 78e3  # Ω

Bare = Callable[[Array, Array], Array]
"""Output currents (n, B) of (n, n) S, word lines first, and (n, B) V."""


def ours(conductances: Array, sources: Array) -> Array:
    """With this package."""
    rows = torch.from_numpy(np.ascontiguousarray(conductances.T))  # rows are bit lines here
    segment, load = (torch.tensor(x, dtype=torch.float64) for x in (SEGMENT, TINY))
    wires = Termination(segment, segment, load, segment, torch.zeros_like(load))
    ports, _ = eliminate(rows, torch.zeros_like(rows), wires)
    return ((ports.positive_end / TINY) @ torch.from_numpy(sources)).numpy()


def sparse(solver: Callable[[Nodal, Array], Array]) -> Bare:
    """By nodal analysis."""

    def solve(conductances: Array, sources: Array) -> Array:
        system = nodal(np.ascontiguousarray(conductances.T), None, SEGMENT, SEGMENT, 0.0)
        return solver(system, sources)[system.plus] / SEGMENT

    return solve


def with_badcrossbar(module: Any) -> Bare:  # noqa: ANN401 - a module
    """With badcrossbar."""
    return lambda conductances, sources: module.compute(
        sources, 1.0 / conductances, SEGMENT, node_voltages=False, all_currents=False
    ).currents.output.T


def with_crosssim(module: Any) -> Bare:  # noqa: ANN401
    """With CrossSim's iterations, to a part in 10^12."""
    backend, array, device = (
        importlib.import_module(f"simulator.{name}")
        for name in ("backend", "circuits.array", "devices.device")
    )
    backend.ComputeBackend(use_gpu=False)

    def solve(conductances: Array, sources: Array) -> Array:
        parameters = module.CrossSimParameters()
        parameters.xbar.device.Rmin = SMALLEST
        parameters.simulation.Verr_th_mvm = 1e-12
        parasitics = parameters.xbar.array.parasitics
        parasitics.Rp_row = parasitics.Rp_col = SEGMENT
        parasitics.enable = True
        made = device.Device.create_device(parameters.xbar.device)
        solver = array.NoninterleavedInputSourceArray(parameters, device=made)
        matrix = conductances.T * SMALLEST
        return (solver.solve_mvm(sources[:, 0], matrix) / SMALLEST)[:, None]

    return solve


def with_ngspice(klu: bool) -> Bare:
    """As a netlist."""

    def solve(conductances: Array, sources: Array) -> Array:
        words, bits = conductances.shape
        lines = ["* a bare array", *([".options klu"] if klu else []), ".options noacct"]
        for i in range(words):
            lines.append(f"v{i} w{i}_0 0 {float(sources[i, 0])!r}")
            lines += [f"rw{i}_{j} w{i}_{j} w{i}_{j + 1} {SEGMENT}" for j in range(bits)]
        for j in range(bits):
            lines += [f"rb{i}_{j} b{i}_{j} b{i + 1}_{j} {SEGMENT}" for i in range(words)]
            lines.append(f"vo{j} b{words}_{j} 0 0")
        lines += [
            f"rc{i}_{j} w{i}_{j + 1} b{i}_{j} {1.0 / float(conductances[i, j])!r}"
            for i in range(words)
            for j in range(bits)
        ]
        names = " ".join(f"i(vo{j})" for j in range(bits))
        lines += [".control", "set numdgt=15", "set wr_singlescale", "op", f"wrdata out {names}"]
        lines += ["quit", ".endc", ".end"]
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "array.cir").write_text("\n".join(lines))
            subprocess.run(
                ["ngspice", "-b", "-n", "array.cir"], cwd=directory, check=True,
                capture_output=True,
            )  # fmt: skip
            return np.loadtxt(Path(directory) / "out").reshape(-1, 1)[1:]

    return solve


def bare_solvers(here: dict[str, str]) -> dict[str, tuple[Bare, int]]:
    """Of every program that is here: its solution, and how many vectors it takes at once."""
    found: dict[str, tuple[Bare, int]] = {"imac_torch": (ours, 1000)}
    made: dict[str, Callable[[], tuple[Bare, int]]] = {
        "SuperLU": lambda: (sparse(superlu), 1000),
        "KLU": lambda: (sparse(Klu()), 1000),
        "badcrossbar": lambda: (with_badcrossbar(optional("badcrossbar")), 1000),
        "CrossSim": lambda: (with_crosssim(optional("simulator")), 1),
        NGSPICE: lambda: (with_ngspice(klu=False), 1),
        NGSPICE_KLU: lambda: (with_ngspice(klu=True), 1),
    }
    for name, make in made.items():
        if not here[name].startswith("not here"):
            found[name] = make()
    return found


def bare_arrays(table: Table, here: dict[str, str], sizes: Sequence[int], budget: float) -> None:
    """Rows of part 1."""
    solvers = bare_solvers(here)
    ours(np.full((4, 4), 1.0 / SMALLEST), np.ones((4, 1)))  # compiles
    last: dict[tuple[str, int], float] = {}
    single: dict[str, float] = {}
    for size in sizes:
        generator = np.random.default_rng(size)
        conductances = generator.uniform(1 / LARGEST, 1 / SMALLEST, (size, size))
        for vectors in (1, 1000):
            sources = generator.uniform(-0.8, 0.8, (size, vectors))
            jobs = {
                name: lambda s=solve, g=conductances, v=sources: s(g, v)
                for name, (solve, most) in solvers.items()
                # Sparse factors of twice the lines take some seven times as long.
                if name == "imac_torch"
                or (vectors <= most and 7.0 * last.get((name, vectors), 0.0) <= 4.0 * budget)
            }
            found = interleave(jobs, 3, budget)
            single = {} if vectors == 1 else single
            reference = found["SuperLU" if "SuperLU" in found else "imac_torch"][2]
            base = found["imac_torch"][0]
            for name, (median, _, result) in found.items():
                last[name, vectors] = median
                if vectors == 1:
                    single[name] = median
                error = np.abs(result - reference).max() / np.abs(reference).max()
                what = f"{size}×{size}, {vectors} vector{'s' if vectors > 1 else ''}"
                table.add_row(*row(what, name, median, median / base, f"{error:.0e}"))
            for name in solvers:
                if name not in found:
                    most = solvers[name][1]
                    what = f"{size}×{size}, {vectors} vectors"
                    if vectors > most and name in single:  # one after another
                        seconds = vectors * single[name]
                        table.add_row(*row(what, f"{name} (as many times one)", seconds,
                                           seconds / base, ""))  # fmt: skip
                    else:
                        table.add_row(what, name, f"more than {4.0 * budget:g} s", "", "")


# 2. The network


def network_rows(table: Table, here: dict[str, str], images: int) -> None:
    """Rows of part 2, per image; of slow programs from few images."""
    reference = ReferenceNetwork.shipped(images)
    model, inputs = reference.model(), reference.inputs
    made = it.Config(
        amplifier=it.Amplifier(gain=(30.0, 30.0, 10.0)), neuron=it.Neuron(kind="logistic")
    )
    ideal = made.replace(interconnect=made.interconnect.replace(resistance=False))
    wires = it.convert(model, made)
    networks = {
        "imac_torch, no wires": it.convert(model, ideal),
        "imac_torch, wires": wires,
        "imac_torch, wires, FinFETs": it.convert(
            model, made.replace(neuron=it.Neuron(kind="finfet"))
        ),
    }
    jobs: dict[str, Callable[[], Any]] = {"plain MLP, float64": lambda: model(inputs)}
    jobs |= {name: lambda n=network: n(inputs) for name, network in networks.items()}
    counts = dict.fromkeys(jobs, images)
    software = model(inputs)
    if not here["aihwkit"].startswith("not here"):
        try:
            jobs["aihwkit, no wires"] = with_aihwkit(model, inputs)
        except Exception as error:  # whatever another program raises
            table.add_row("400-120-84-10", "aihwkit", f"failed: {error}", "", "")
        counts["aihwkit, no wires"] = images
    found = interleave(jobs, 3, 10.0)
    base = found["plain MLP, float64"][0] / images
    for name, (median, _, result) in found.items():
        seconds = median / counts[name]
        # A circuit's outputs are not to be the software's: ngspice says whether they are right.
        error = "" if name in networks else apart(result, software)
        table.add_row(*row("400-120-84-10, an image", name, seconds, seconds / base, error))
    if here[NGSPICE].startswith("not here"):
        return
    settled = wires.solve(inputs[:1]).outputs
    for name, klu in ((NGSPICE, False), (NGSPICE_KLU, True)):
        if not here[name].startswith("not here"):
            started = time.perf_counter()
            spice = Spice(
                it.NgSpice(), settings=it.NetlistSettings(analysis="dc", klu=klu)
            ).bind(wires.segment)
            theirs = spice.solve(wires.voltages(inputs[:1]), power=False).outputs
            seconds = time.perf_counter() - started
            error = f"{float((theirs - settled).abs().max()):.0e} V"
            what = "400-120-84-10, an image"
            table.add_row(*row(what, f"{name}, wires", seconds, seconds / base, error))


def with_aihwkit(model: torch.nn.Module, inputs: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The same layers in aihwkit's tiles of torch without noise, which compute in float32."""
    convert = importlib.import_module("aihwkit.nn.conversion").convert_to_analog
    configs = importlib.import_module("aihwkit.simulator.configs")
    tiles = configs.TorchInferenceRPUConfig()
    tiles.forward.is_perfect = True
    network = convert(copy.deepcopy(model).float(), tiles).eval()
    narrow = inputs.float()
    return lambda: network(narrow)


def apart(found: torch.Tensor, wanted: torch.Tensor) -> str:
    """Largest difference of outputs, relative to the largest."""
    return f"{float((found.double() - wanted).abs().max() / wanted.abs().max()):.0e}"


# 3. A transient


def transients(table: Table, here: dict[str, str]) -> None:
    """Rows of part 3."""
    generator = torch.Generator().manual_seed(1)
    model = random_model((64, 32, 10), generator)
    images = random_inputs(200, 64, generator)
    network = it.convert(
        model,
        it.Config(
            neuron=it.Neuron(kind="logistic", output_capacitance=1e-15),
            interconnect=it.Interconnect(capacitance=True),
            amplifier=it.Amplifier(gain=30.0, pole=5e9, output_resistance=100.0),
            timing=it.Timing(period=2e-9, load_capacitance=5e-15),
        ),
    )
    network.measure(images[:8])  # compiles
    started = time.perf_counter()
    network.measure(images)
    bulk = (time.perf_counter() - started) / len(images)
    what = "transient of 64-32-10"
    table.add_row(*row(what, "imac_torch, one of 200 images", bulk, 1.0, ""))
    pairs = [(images[:1], torch.zeros(1, dtype=torch.int64))]
    for name, klu in ((NGSPICE, False), (NGSPICE_KLU, True)):
        if here[name].startswith("not here"):
            continue
        # A reltol of 1e-3, ngspice's own default, halves its time, and its waveforms are then 2 %
        # of their swing off.
        settings = it.NetlistSettings(
            images_per_netlist=1, waveforms=True, max_step=8e-12, klu=klu
        )
        found = verify_transient(network, pairs, 1, settings=settings)
        if not klu:
            cold = found.native_seconds
            table.add_row(*row(what, "imac_torch, one image", cold, cold / bulk, ""))
        seconds = found.simulator_seconds
        error = f"{found.waveform_difference:.0e}"
        table.add_row(*row(what, name, seconds, seconds / bulk, error))


def row(what: str, name: str, seconds: float, ratio: float, error: str) -> tuple[str, ...]:
    """Cells of a row."""
    return what, name, f"{1e3 * seconds:.4g} ms", f"{ratio:.3g}", error


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="arrays up to 512 instead of 64")
    parser.add_argument("--sizes", type=int, nargs="+", help="of bare arrays")
    parser.add_argument("--images", type=int, default=2000, help="through the network")
    parser.add_argument("--budget", type=float, default=5.0, help="s per program and array")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--who", action="store_true", help="only say which programs are here")
    options = parser.parse_args(arguments)
    here = peers()
    for name, what in here.items():
        print(f"{name}: {what}")
    if options.who:
        return 0
    torch.set_num_threads(options.threads)
    logging.disable(logging.INFO)  # badcrossbar reports progress
    sizes = options.sizes or ((32, 64, 128, 256, 512) if options.full else (32, 64))
    many = sum(not what.startswith("not here") for what in here.values()) + 1
    most = 4.0 * options.budget * 2 * len(sizes) * many / 60
    took = f"at most {most + 3:.0f} min, likely a fifth of it"
    print(f"{machine(options.threads)}; {took}", flush=True)
    table = Table(title="ratios are to this package; of the network, to the plain MLP")
    for heading in ("what", "who", "time", "ratio", "error"):
        table.add_column(heading, justify="left" if heading in ("what", "who") else "right")
    with torch.no_grad():
        bare_arrays(table, here, sizes, options.budget)
        network_rows(table, here, options.images)
        transients(table, here)
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
