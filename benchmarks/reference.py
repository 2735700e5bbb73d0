"""Agreement with published HSPICE results: one table, one command (``make reference``).

    make reference REFERENCES=DIRECTORY

DIRECTORY holds your own clones of the two public repositories that have such results
(:mod:`published` says which), or is that of the shared references (``golden/``), which
IMAC_TORCH_SHARED names, too. Exits with 1 if a figure misses its bound.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from golden import ReferenceNetwork, circuit_r, device_config, device_runs, load
from published import (
    BATCH,
    Published,
    Rows,
    device_runs_of,
    imac_sim_clone,
    imac_sim_runs,
    limca_archive,
    network_of,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor

from imac_torch.errors import DataError

FETCH = """There are no published results here. Fetch them and name their directory:

    git clone https://github.com/chekfung/IMAC-Sim references/IMAC-Sim
    git clone https://github.com/ACADLab/LIMCA references/LIMCA
    make reference REFERENCES=references

The first has the network, its 10,000 images and their HSPICE results, the second an archive of runs
with other devices, bit cells and arrays; either serves, the second needs the first."""


@dataclass(frozen=True)
class Comparison:
    """One row of the table.

    Attributes:
        name: Of the circuit.
        ours: (B, 10) V.
        hspice: (B, 10) V.
        rms_bound: V.
        max_bound: V.
        power: Relative difference of energy (its largest) or power (its mean), or None.
        power_bound: Of it.
        unusable: Images that are not compared.
        unequal: Labels that may differ, as a share.
    """

    name: str
    ours: Tensor
    hspice: Tensor
    rms_bound: float
    max_bound: float
    power: float | None = None
    power_bound: float = 0.0
    unusable: int = 0
    unequal: float = 0.0

    @property
    def rms(self) -> float:
        """V."""
        return float((self.ours - self.hspice).square().mean().sqrt())

    @property
    def largest(self) -> float:
        """V."""
        return float((self.ours - self.hspice).abs().max())

    @property
    def labels(self) -> int:
        """Samples with the same label."""
        return int((self.ours.argmax(1) == self.hspice.argmax(1)).sum())

    @classmethod
    def join(cls, name: str, runs: Sequence[Comparison]) -> Comparison:
        """One row for several."""
        powers = [run.power for run in runs if run.power is not None]
        return cls(
            name, torch.cat([run.ours for run in runs]), torch.cat([run.hspice for run in runs]),
            runs[0].rms_bound, runs[0].max_bound, max(powers, default=None), runs[0].power_bound,
            sum(run.unusable for run in runs),
        )  # fmt: skip

    @property
    def passed(self) -> bool:
        """Whether every figure keeps its bound."""
        power = self.power is None or self.power <= self.power_bound
        equal = len(self.ours) - self.labels <= self.unequal * len(self.ours)
        return power and equal and self.rms <= self.rms_bound and self.largest <= self.max_bound


# Bounds, V. What HSPICE prints of circuit F has five digits. Circuit R's linear version is printed
# in full. A voltage 1 µV from where an 8-bit converter changes over is rounded the other way, by
# 6.3 mV, once in 6,000 times. 500 fF on every output of its FinFET version have not settled when
# HSPICE looks, except for an image that begins a netlist.
_FLAT = (5e-5, 3e-4)
_DEVICES = (1e-4, 1e-3)
_LOGISTIC = (2e-5, 2e-5)
_CONVERTED = (5e-4, 2e-2)
_UNSETTLED = (1e-3, 2e-2)
_SETTLED = (2e-4, 2e-3)


def golden_runs(shared: Path) -> Iterator[Published]:
    """The runs of the shared references."""
    content = load(shared, "hspice_flat_0_999.npz")
    outputs, energy = (torch.from_numpy(content[key]) for key in ("output_voltage", "energy"))
    yield Published("F, 0-999", 0, outputs, energy)
    for name, rows in (
        ("logistic", Rows("logistic")),
        ("logistic_8bit", Rows("logistic", bits=8)),
        ("finfet", Rows()),
    ):
        outputs = torch.from_numpy(load(shared, f"hspice_rows_{name}_0_999.npz")["output_voltage"])
        yield Published(f"R, {name}", 0, outputs, rows=rows)
    for entry, outputs, power in device_runs(shared):
        first, config = entry["images"][0], device_config(entry)
        yield Published(entry["name"], first, outputs, power=power, config=config)


def compare(network: ReferenceNetwork, run: Published) -> Iterator[Comparison]:
    """Rows of the table for one run."""
    inputs = network.inputs[run.first : run.first + len(run.outputs)]
    if run.rows is not None:
        kind = run.rows
        ours = circuit_r(network, inputs, kind.neuron, bits=kind.bits, average=kind.average)
        if kind.neuron == "logistic":
            bounds = _LOGISTIC if kind.bits is None else _CONVERTED
            yield Comparison(run.name, ours, run.outputs, *bounds)
            return
        yield Comparison(run.name, ours, run.outputs, *_UNSETTLED, unequal=1e-3)
        begins = slice(None, None, BATCH)
        name = f"{run.name}, firsts"
        yield Comparison(name, ours[begins], run.outputs[begins], *_SETTLED)
        return
    circuit = network.circuit_f(run.config)
    solution = circuit.solve(inputs)
    if run.power is not None:
        usable = ~run.power.isnan()
        off = (solution.power.total / run.power - 1.0)[usable]
        yield Comparison(
            run.name, solution.outputs[usable], run.outputs[usable], *_DEVICES,
            float(off.abs().mean()), 2e-2, int((~usable).sum()),
        )  # fmt: skip
        return
    energy = None
    if run.energy is not None:
        energy = solution.power.supply * circuit.config.timing.period / run.energy - 1.0
        energy = float(energy.abs().max())
    yield Comparison(run.name, solution.outputs, run.outputs, *_FLAT, energy, 3e-3)


def everything(network: ReferenceNetwork) -> str:
    """What circuit F makes of all images."""
    circuit = network.circuit_f()
    circuit.solve(network.inputs[:8], power=False)  # compiles
    started = time.perf_counter()
    found = circuit.solve(network.inputs, power=False)
    seconds = time.perf_counter() - started
    accuracy = float((found.outputs.argmax(1) == network.labels).double().mean())
    software = float((network.model()(network.inputs).argmax(1) == network.labels).double().mean())
    return (
        f"circuit F over all {len(network.labels)} inputs: accuracy {100 * accuracy:.2f} %, "
        f"software {100 * software:.2f} %, {int((~found.converged).sum())} not converged, "
        f"largest residual {float(found.residual.max()):.1e} A, {seconds:.2f} s"
    )


def group(name: str) -> str:
    """Runs with other devices that go into one row: array and device of 32x32_9nm_PCM_1T1R."""
    found = re.match(r"(\d+x\d+)_\d+nm_([A-Z]+)_", name)
    return f"F, {found[1]}, {found[2]}" if found else name


def show(rows: Sequence[Comparison], notes: Sequence[str]) -> bool:
    """Print the table; whether everything passed."""
    table = Table(title="native engine against HSPICE")
    headings = (
        "circuit", "runs", "images", "rms / mV", "max / mV", "labels", "power off, %",
        "not usable", "passed",
    )  # fmt: skip
    for heading in headings:
        left = heading == "circuit"
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    groups: dict[str, list[Comparison]] = {}
    for row in rows:
        groups.setdefault(group(row.name), []).append(row)
    passed = True
    for name, members in groups.items():
        row = members[0] if len(members) == 1 else Comparison.join(name, members)
        good = all(member.passed for member in members)
        passed &= good
        table.add_row(
            row.name, str(len(members)), str(len(row.ours)), f"{1e3 * row.rms:.2g}",
            f"{1e3 * row.largest:.2g}", f"{row.labels}/{len(row.ours)}",
            "" if row.power is None else f"{100 * row.power:.2f}", str(row.unusable or ""),
            "yes" if good else "NO",
        )  # fmt: skip
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    for row in rows:
        if not row.passed:
            console.print(
                f"{row.name}: rms {1e3 * row.rms:.3g} mV, max {1e3 * row.largest:.3g} mV, labels "
                f"{row.labels}/{len(row.ours)}, power {row.power}"
            )
    if any(", firsts" in row.name for row in rows):
        console.print("firsts: the images that begin a netlist, from its operating point")
    for note in notes:
        console.print(f"left out: {note}")
    return passed


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 if everything passed, 2 if there is nothing to compare with."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--references", type=Path, help="directory of the clones, or of golden/")
    parser.add_argument("--runs", type=int, help="most runs with other devices; default: all")
    options = parser.parse_args(arguments)
    named = options.references or os.environ.get("IMAC_TORCH_SHARED")
    if not named or not Path(named).is_dir():
        print(FETCH if not named else f"{named}: there is no such directory\n\n{FETCH}")
        return 2
    directory, notes, others = Path(named), list[str](), list[Published]()
    try:
        if (directory / "golden").is_dir():
            network = ReferenceNetwork.read(directory)
            runs = list(golden_runs(directory))
        else:
            clone = imac_sim_clone(directory)
            network = network_of(clone)
            runs = list(imac_sim_runs(clone, network))
            archive = limca_archive(directory)
            if archive is None:
                notes.append("runs with other devices: git clone https://github.com/ACADLab/LIMCA")
            else:
                for run in device_runs_of(archive, network):
                    (notes if isinstance(run, str) else others).append(run)  # type: ignore[arg-type]
    except DataError as error:
        print(f"{error}\n\n{FETCH}")
        return 2
    runs += others[: options.runs]
    rows = [row for run in runs for row in compare(network, run)]
    passed = show(rows, notes)
    print(everything(network))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
