"""IMAC-Sim's own netlist of a small network, run in ngspice, beside our circuit of that network.

    git clone https://github.com/iCAS-Lab/IMAC-Sim
    python benchmarks/imac_sim_netlist.py IMAC-Sim

The clone's ``mapWB.py`` and ``mapIMAC.py`` write the netlist, in a directory of ours; nothing in
the clone changes. Two things that ngspice does not have are put into it: a behavioural neuron in
the place of its FinFETs, and an operational amplifier of a finite gain in that of HSPICE's ideal
one. Crossbars, wires, partitions, resistors around the amplifiers and the load of each layer on the
one before it stay as IMAC-Sim writes them. No HSPICE is needed. Exits with 1 if an output is off by
more than the bound.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import imac_torch as it
from imac_torch.simulator.rawfile import read_raw

OPEN_LOOP = 1e9
"""Gain of the operational amplifiers, V/V: outputs are off by 30 over this."""
SLOPE = 11.0
"""Of the neurons, 1/V."""
BOUND = 1e-6
"""V. IMAC-Sim writes resistances with six decimals, 9.241569 Ω: wires are off by 5e-8 of
themselves, and so is what they lose; amplifiers by 30/1e9 of what they give; Newton's less."""
OUTPUT_RESISTANCE = 1e3
"""Ω, of the neurons: what loads them is seen."""
NEURON = f""".subckt neuron in out vsup+ vsup-
Eshape f 0 vol='v(vsup+)/(1+exp({SLOPE}*v(in)))'
Rout f out {OUTPUT_RESISTANCE:g}
.ends neuron
"""
WRITE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import mapWB, mapIMAC
given = json.loads(sys.argv[2])
mapWB.mapWB(given["length"], given["rlow"], given["rhigh"], given["nodes"], "data", 0.0)
mapIMAC.mapIMAC(**{name: given[name] for name in given if name not in ("rlow", "rhigh")})
"""


def network(nodes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Random weights and biases of -1, 0 and 1, falling sigmoids."""
    modules: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(nodes):
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            for tensor in (linear.weight, linear.bias):
                tensor.copy_(torch.randint(-1, 2, tensor.shape, generator=generator))
        modules += [linear, it.InverterSigmoid()]
    return nn.Sequential(*modules)


def circuit(nodes: Sequence[int], array: int) -> it.Config:
    """The circuit that IMAC-Sim is told to write."""
    gain = (*[30.0] * (len(nodes) - 2), 10.0)
    return it.Config(
        crossbar=it.Crossbar(rows=array, columns=array),
        amplifier=it.Amplifier(gain=gain),
        neuron=it.Neuron(kind="logistic", slope=SLOPE, output_resistance=OUTPUT_RESISTANCE),
        timing=it.Timing(period=4e-9, transition=1e-10),
    )


def write(
    clone: Path, directory: Path, model: nn.Sequential, config: it.Config, inputs: Tensor
) -> Path:
    """Have the clone write its netlist of a model, and put into it what ngspice lacks.

    Returns:
        The netlist, which writes ``classifier.raw``.

    Raises:
        SystemExit: The clone's modules are not there, or they fail.
    """
    linears = [module for module in model if isinstance(module, nn.Linear)]
    nodes = [linears[0].in_features, *(linear.out_features for linear in linears)]
    data, spice = directory / "data", directory / "spice"
    for path in (data, spice):
        path.mkdir()
    for k, linear in enumerate(linears, 1):
        np.savetxt(data / f"W{k}.csv", linear.weight.detach().numpy().T, "%d", ",")
        np.savetxt(data / f"B{k}.csv", linear.bias.detach().numpy()[:, None], "%d", ",")
    vdd, wires = config.supplies.vdd, config.interconnect
    volts = (inputs * vdd).flatten().tolist()
    (data / "data_sim.txt").write_text(" ".join(f"{value:f}" for value in volts))
    size = config.crossbar.columns
    assert size is not None
    node = wires.tech_node
    given = {
        "rlow": config.device.rlow, "rhigh": config.device.rhigh,
        "nodes": nodes, "length": len(nodes),
        "hpar": [math.ceil((n + 1) / size) for n in nodes[:-1]],
        "vpar": [math.ceil(n / size) for n in nodes[1:]],
        "metal": 3 * node, "T": wires.thickness, "H": wires.height, "L": 15 * node,
        "W": 12 * node, "D": 5 * node, "eps": wires.permittivity, "rho": wires.resistivity,
        "weight_var": 0.0, "testnum": len(inputs), "data_dir": "data", "spice_dir": "spice",
        "vdd": vdd, "vss": -vdd, "tsampling": round(config.timing.period * 1e9),
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-B", "-c", WRITE, str(clone.resolve()), json.dumps(given)],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(f"{clone} wrote no netlist:\n{ran.stderr[-2000:]}")
    gains = config.amplifier.gain
    assert isinstance(gains, tuple)
    for k, gain in enumerate(gains, 1):
        given_circuit = (clone / "spice" / f"diff{k}.sp").read_text()
        text = re.sub(r"(?im)^(R3|R4)( .* )\S+$", rf"\g<1>\g<2>{gain:g}k", given_circuit)
        text, found = re.subn(
            r"(?im)^(E\w+ \w+ \w+) OPAMP (\w+) (\w+)", rf"\1 \2 \3 {OPEN_LOOP:g}", text
        )
        if found != 1:
            raise SystemExit(f"{clone}/spice/diff{k}.sp has {found} ideal amplifiers, not one")
        (spice / f"diff{k}.sp").write_text(text)
    (spice / "neuron.sp").write_text(NEURON)
    netlist = spice / "classifier.sp"
    kept = [
        line
        for line in netlist.read_text().splitlines()
        # The transistors' library; the analysis and what it prints, which has seven digits.
        if not re.match(r"(?i)\.(lib|option|op\b|tran|meas|end\b)", line)
    ]
    end = len(inputs) * config.timing.period
    outputs = " ".join(f"v(output{m})" for m in range(nodes[-1]))
    kept += [
        ".options reltol=1e-9 vntol=1e-12 abstol=1e-12 gmin=1e-15 method=gear",
        f".tran 0.1n {end:g}",
        ".control", "set filetype=binary", "run", f"write classifier.raw {outputs}", "quit 0",
        ".endc", ".end",
    ]  # fmt: skip
    netlist.write_text("\n".join(kept) + "\n")
    return netlist


def run(netlist: Path, outputs: int, period: float, images: int) -> Tensor:
    """(images, outputs) V at the end of every image's period, from ngspice.

    Raises:
        SystemExit: ngspice is missing, or gives no waveform.
    """
    try:
        ran = subprocess.run(
            ["ngspice", "-b", "-n", "-D", "ngbehavior=hsa", netlist.name],
            cwd=netlist.parent, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise SystemExit("ngspice is not on the path (Debian: apt-get install ngspice)") from None
    raw = netlist.with_name("classifier.raw")
    if not raw.is_file():
        raise SystemExit(f"ngspice gave no waveform:\n{(ran.stdout + ran.stderr)[-2000:]}")
    found = read_raw(raw)[0]
    time = found["time"]
    columns = []
    for m in range(outputs):
        at = [np.interp((k + 1) * period, time, found[f"v(output{m})"]) for k in range(images)]
        columns.append(at)
    return torch.tensor(np.array(columns).T)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; 0 if it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "clone", type=Path, nargs="?", default=Path("references/IMAC-Sim"), help="of IMAC-Sim"
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[20, 12, 6])
    parser.add_argument("--array", type=int, default=8, help="rows and columns")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="new directory for the netlist")
    options = parser.parse_args(arguments)
    for name in ("mapWB.py", "mapIMAC.py", "spice/diff1.sp"):
        if not (options.clone / name).is_file():
            raise SystemExit(
                f"{options.clone}/{name} is missing: "
                "git clone https://github.com/iCAS-Lab/IMAC-Sim, and name that directory"
            )
    generator = torch.Generator().manual_seed(options.seed)
    model, config = network(options.nodes, generator), circuit(options.nodes, options.array)
    shape = (options.images, options.nodes[0])
    inputs = 2.0 * torch.randint(0, 2, shape, generator=generator).double() - 1.0
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        if options.keep is not None:
            directory = options.keep
            directory.mkdir(parents=True)
        netlist = write(options.clone, directory, model, config, inputs)
        lines = sum(file.read_text().count("\n") for file in netlist.parent.glob("*.sp"))
        theirs = run(netlist, options.nodes[-1], config.timing.period, options.images)
    ours = it.convert(model, config).solve(inputs).outputs
    off = (ours - theirs).abs()
    print(
        f"IMAC-Sim's netlist of {'-'.join(map(str, options.nodes))} in arrays of {options.array}×"
        f"{options.array} ({lines} lines), {options.images} images, in ngspice: outputs from "
        f"{float(theirs.min()):.4f} to {float(theirs.max()):.4f} V, ours off by "
        f"{float(off.max()):.1e} V at most, {float(off.square().mean().sqrt()):.1e} V rms"
    )
    return 0 if float(off.max()) <= BOUND else 1


if __name__ == "__main__":
    raise SystemExit(main())
