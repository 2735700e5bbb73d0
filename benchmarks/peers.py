"""This package beside every other program at hand, on the same work: time, ratio and error.

1. One bare n×n array, 1 and 1000 input vectors: word lines driven at one end, bit lines grounded at
   the other, a resistor per segment. Times include everything from resistances to output currents;
   errors are of output currents, relative to the largest, against SuperLU's. Here it is one side of
   a pair array whose other side is open: about twice the work that the circuit needs. The array is
   linear: of more vectors than lines, every program gets the unit vectors, and a product follows.
2. The 400-120-84-10 network of ``data/``: what wires cost once, its 67 crossbars to their ports;
   then the plain MLP in float64, and circuits without and with wires. Errors of aihwkit are to the
   MLP. ngspice gets a smaller network with wires, 32-16-10; errors are to this package's.
3. A transient of 32-16-10 with capacitances, one image: the largest difference of a waveform,
   relative to its swing.

Compiling is not timed, reading and writing netlists is. A program that is not here is a line that
says how to get it. Every program meets larger arrays only while the next is likely to stay within
four times ``--budget``. Rows are printed as soon as they are known, so that nothing is lost when it
is interrupted. Every program has one thread unless --threads says otherwise: sparse solvers use no
more.

    python benchmarks/peers.py                      # arrays up to 64×64
    python benchmarks/peers.py --full               # up to 512×512
    python benchmarks/peers.py --parts arrays --sizes 512
    python benchmarks/peers.py --who                # only who is here
"""

from __future__ import annotations

import argparse
import copy
import importlib
import itertools
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden import ReferenceNetwork
from native import random_inputs, random_model
from rich.console import Console
from rich.progress import Progress, TaskID
from sparse import Array, Klu, Nodal, nodal, optional, superlu
from threadpoolctl import threadpool_limits
from timing import interleave, machine

import imac_torch as it
from imac_torch.elimination.blocks import Termination
from imac_torch.elimination.choice import eliminate
from imac_torch.simulator.engine import Spice
from imac_torch.study.transient_verification import verify_transient

SMALL = (32, 16, 10)
PARTS = ("arrays", "network", "transient")
MINUTES = {"arrays": 1.0, "network": 1.5, "transient": 0.5}
"""What parts take with every program there, on one core of 2023, arrays up to 64."""


class Rows:
    """Lines of a Markdown table, printed one by one, and a bar on the terminal."""

    WIDTHS = 30, 34, 12, 9, 9

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def heading(self, title: str) -> None:
        """Begin a table."""
        self._write("")
        self._write(title)
        self._write("")
        self._line("what", "who", "time", "ratio", "error")
        self._write("|---|---|---:|---:|---:|")

    def add(self, what: str, who: str, seconds: float, ratio: float, error: str = "") -> None:
        """What a program took."""
        self._line(what, who, f"{1e3 * seconds:.4g} ms", f"{ratio:.3g}", error)

    def none(self, what: str, who: str, why: str) -> None:
        """Why there is no time."""
        self._line(what, who, why, "", "")

    def begin(self, what: str) -> None:
        """Say what runs now."""
        self.progress.update(self.task, description=what)

    def _line(self, *cells: str) -> None:
        padded = (
            cell.ljust(width) if k < 2 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(cells, self.WIDTHS, strict=True))
        )  # fmt: skip
        self._write(f"| {' | '.join(padded)} |")

    def _write(self, text: str) -> None:
        print(text, flush=True)
        self.progress.refresh()


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


# 1. Bare arrays

GROWTH = {"imac_torch": 0.0, "CrossSim": 50.0, "ngspice": 45.0, "ngspice, KLU": 10.0}
"""Times as long for twice the lines, where it is not 8. This package meets every array."""
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
    """With CrossSim's iterations, to a part in 10^12, as many vectors at once as fit in 32 MB."""
    backend, array, device = (
        importlib.import_module(f"simulator.{name}")
        for name in ("backend", "circuits.array", "devices.device")
    )
    backend.ComputeBackend(use_gpu=False)

    def solve(conductances: Array, sources: Array) -> Array:
        parameters = module.CrossSimParameters()
        parameters.xbar.device.Rmin = SMALLEST
        parameters.simulation.Verr_th_mvm = 1e-12
        parameters.simulation.hide_convergence_msg = True
        parasitics = parameters.xbar.array.parasitics
        parasitics.Rp_row = parasitics.Rp_col = SEGMENT
        parasitics.enable = True
        made = device.Device.create_device(parameters.xbar.device)
        solver = array.NoninterleavedInputSourceArray(parameters, device=made)
        matrix = conductances.T * SMALLEST
        together = max(1, 2**22 // matrix.size)
        found = [
            solver.iterative_solve(matrix, sources[:, first : first + together])
            for first in range(0, sources.shape[1], together)
        ]
        return np.concatenate(found, axis=1) / SMALLEST

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
        lines += [".control", "set numdgt=15", "set num_threads=1", "set wr_singlescale", "op"]
        lines += [f"wrdata out {names}", "quit", ".endc", ".end"]
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
        "CrossSim": lambda: (with_crosssim(optional("simulator")), 1000),
        NGSPICE: lambda: (with_ngspice(klu=False), 1),
        NGSPICE_KLU: lambda: (with_ngspice(klu=True), 1),
    }
    for name, make in made.items():
        if not here[name].startswith("not here"):
            found[name] = make()
    return found


def superposed(solve: Bare, conductances: Array, sources: Array) -> Array:
    """Currents of all vectors, from those of unit vectors where these are fewer."""
    if sources.shape[1] <= len(conductances):
        return solve(conductances, sources)
    return solve(conductances, np.eye(len(conductances))) @ sources


def bare_arrays(rows: Rows, here: dict[str, str], sizes: Sequence[int], budget: float) -> None:
    """Part 1."""
    rows.heading("Bare arrays; ratios are to imac_torch, errors to SuperLU")
    solvers = bare_solvers(here)
    ours(np.full((4, 4), 1.0 / SMALLEST), np.ones((4, 1)))  # compiles
    last: dict[tuple[str, int], float] = {}
    single: dict[str, float] = {}
    for size, vectors in itertools.product(sizes, (1, 1000)):
        what = f"{size}×{size}, {vectors} vector{'s' if vectors > 1 else ''}"
        rows.begin(what)
        generator = np.random.default_rng(size)
        conductances = generator.uniform(1 / LARGEST, 1 / SMALLEST, (size, size))
        sources = generator.uniform(-0.8, 0.8, (size, vectors))
        jobs = {
            name: lambda s=solve, g=conductances, v=sources: superposed(s, g, v)
            for name, (solve, most) in solvers.items()
            if vectors <= most
            and GROWTH.get(name, 8.0) * last.get((name, vectors), 0.0) <= 4.0 * budget
        }
        found = interleave(jobs, 3, budget)
        single = {} if vectors == 1 else single
        reference = found["SuperLU" if "SuperLU" in found else "imac_torch"][2]
        base = found["imac_torch"][0]
        for name, (_, most) in solvers.items():
            if name in found:
                median, _, result = found[name]
                last[name, vectors] = median
                if vectors == 1:
                    single[name] = median
                error = np.abs(result - reference).max() / np.abs(reference).max()
                rows.add(what, name, median, median / base, f"{error:.0e}")
            elif vectors > most and name in single:
                times = min(size, vectors)
                seconds = times * single[name]
                rows.add(what, f"{name} ({times} times one vector)", seconds, seconds / base)
            else:
                last[name, vectors] = np.inf
                rows.none(what, name, f"not tried, likely > {4.0 * budget:g} s")
        rows.progress.advance(rows.task, 1.0 / (2 * len(sizes)))


# 2. The network


def network_rows(rows: Rows, here: dict[str, str], images: int) -> None:
    """Part 2, per image; of slow programs from few images."""
    crossbars(rows, here)
    what = "400-120-84-10, an image"
    rows.heading(f"The network, {images} images; ratios are to the MLP")
    rows.begin(what)
    reference = ReferenceNetwork.shipped(images)
    model, inputs = reference.model(), reference.inputs
    made = it.Config(
        amplifier=it.Amplifier(gain=(30.0, 30.0, 10.0)), neuron=it.Neuron(kind="logistic")
    )
    ideal = made.replace(interconnect=made.interconnect.replace(resistance=False))
    networks = {
        "imac_torch, no wires": it.convert(model, ideal),
        "imac_torch, wires": it.convert(model, made),
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
            rows.none(what, "aihwkit", f"failed: {error}")
        counts["aihwkit, no wires"] = images
    found = interleave(jobs, 3, 10.0)
    base = found["plain MLP, float64"][0] / images
    for name, (median, _, result) in found.items():
        seconds = median / counts[name]
        # A circuit's outputs are not to be the software's: ngspice says below if they are right.
        error = "" if name in networks else apart(result, software)
        rows.add(what, name, seconds, seconds / base, error)
    small(rows, here)


def small(rows: Rows, here: dict[str, str]) -> None:
    """A smaller network with wires, which ngspice's default solver serves in seconds, too.

    One image of 400-120-84-10 took it more than four minutes.
    """
    rows.heading("A smaller network with wires, an image; ratios are to imac_torch")
    generator = torch.Generator().manual_seed(1)
    model = random_model(SMALL, generator)
    image = random_inputs(1, SMALL[0], generator)
    config = it.Config(
        amplifier=it.Amplifier(gain=30.0), neuron=it.Neuron(kind="logistic")
    )
    network = it.convert(model, config)
    what = f"{'-'.join(map(str, SMALL))}, an image"
    rows.begin(what)
    found = interleave({"": lambda: network.solve(image).outputs}, 20, 5.0)
    base, _, settled = found[""]
    rows.add(what, "imac_torch", base, 1.0)
    for name, klu in ((NGSPICE, False), (NGSPICE_KLU, True)):
        if not here[name].startswith("not here"):
            started = time.perf_counter()
            spice = Spice(
                it.NgSpice(), settings=it.NetlistSettings(analysis="dc", klu=klu)
            ).bind(network.segment)
            theirs = spice.solve(network.voltages(image), power=False).outputs
            seconds = time.perf_counter() - started
            error = f"{float((theirs - settled).abs().max()):.0e} V"
            rows.add(what, name, seconds, seconds / base, error)


def crossbars(rows: Rows, here: dict[str, str]) -> None:
    """What wires cost once: all crossbars of the network to their ports."""
    from elimination import as_blocks, error, forward, network, sparse_network

    layers = network()
    what = "67 crossbars to their ports"
    rows.heading("Wires, once for all images; ratios are to imac_torch, errors to SuperLU")
    rows.begin(what)
    jobs: dict[str, Callable[[], Any]] = {
        "imac_torch": lambda: as_blocks(forward(layers, "numba")),
        "SuperLU": lambda: sparse_network(layers, superlu),
    }
    if not here["KLU"].startswith("not here"):
        klu = Klu()
        jobs["KLU (ordered once)"] = lambda: sparse_network(layers, klu)
    found = interleave(jobs, 3, 5.0)
    for name, (median, _, result) in found.items():
        off = error(result, found["SuperLU"][2])
        rows.add(what, name, median, median / found["imac_torch"][0], f"{off:.0e}")


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


def transients(rows: Rows, here: dict[str, str]) -> None:
    """Part 3."""
    generator = torch.Generator().manual_seed(1)
    model = random_model(SMALL, generator)
    images = random_inputs(64, SMALL[0], generator)
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
    what = f"transient of {'-'.join(map(str, SMALL))}"
    rows.heading("A transient; ratios are to an image among 64")
    rows.add(what, "imac_torch, one of 64 images", bulk, 1.0)
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
            rows.add(what, "imac_torch, one image", cold, cold / bulk)
        seconds = found.simulator_seconds
        error = f"{found.waveform_difference:.0e}"
        rows.add(what, name, seconds, seconds / bulk, error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="arrays up to 512 instead of 64")
    parser.add_argument("--sizes", type=int, nargs="+", help="of bare arrays")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", metavar="PROGRAM", help="others are left out")
    parser.add_argument("--images", type=int, default=2000, help="through the network")
    parser.add_argument("--budget", type=float, default=5.0, help="s per program and array")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--who", action="store_true", help="only say which programs are here")
    options = parser.parse_args(arguments)
    here = peers()
    for name, what in here.items():
        print(f"{name}: {what}")
    if options.who:
        return 0
    if options.only:
        unknown = set(options.only) - set(here)
        if unknown:
            parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(here)}")
        here = {k: v if k in options.only else "not here; left out" for k, v in here.items()}
    torch.set_num_threads(options.threads)
    logging.disable(logging.INFO)  # badcrossbar reports progress
    sizes = options.sizes or ((32, 64, 128, 256, 512) if options.full else (32, 64))
    minutes = sum(MINUTES[part] for part in options.parts)
    many = sum(not what.startswith("not here") for what in here.values()) + 1
    larger = sum(size > 64 for size in sizes) if "arrays" in options.parts else 0
    likely = minutes + larger * many * options.budget / 60
    print(f"{machine(options.threads)}; about {likely:.0f} min", flush=True)
    console = Console()
    with (
        torch.no_grad(),
        threadpool_limits(options.threads),
        Progress(console=console, disable=not console.is_terminal) as progress,
    ):
        rows = Rows(progress, progress.add_task("", total=len(options.parts)))
        try:
            if "arrays" in options.parts:
                bare_arrays(rows, here, sizes, options.budget)
            if "network" in options.parts:
                network_rows(rows, here, options.images)
                progress.advance(rows.task)
            if "transient" in options.parts:
                transients(rows, here)
                progress.advance(rows.task)
        except KeyboardInterrupt:
            print("interrupted; what is above is complete")
            return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
