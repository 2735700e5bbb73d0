"""Waveforms and energies of curved cells with all charges against those of ngspice.

One network of three layers, 6-5-4-3, per kind of cell; all inputs change. Wires, memory devices and
access devices hold charge. Needs ngspice.

    python benchmarks/waveforms.py mtj diode finfet
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

import imac_torch as imac
from imac_torch.cells import build_cell
from imac_torch.netlist import NetlistSettings, NgSpiceWriter, write_netlists
from imac_torch.results.waveform import integral, sample
from imac_torch.simulator import NgSpice, check, solve_netlists
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.options import TransientOptions

PERIOD = 2e-10
"""s; transitions take a quarter."""
TABLE = {
    "voltages": [-2.5, -1.0, -0.4, 0.0, 0.3, 0.9, 2.5],
    "currents_by_state": [
        [-3e-4, -6e-5, -1.2e-5, 0.0, 9e-6, 5e-5, 2.8e-4],
        [-9e-4, -2.9e-4, -1.05e-4, 0.0, 7.9e-5, 2.6e-4, 9e-4],
    ],
}
ACCESS = 4e-16
"""F, of each access device."""
KINDS: dict[str, dict[str, object]] = {
    "ohmic": {},
    "sinh": {"bend": 0.3},
    "mtj": {"cell": {"mtj": {"vh": 0.4}}},
    "pcm": {"cell": {"pcm": {"spacings": 3.0}}},
    "table": {"cell": {"table": TABLE}},
    "fefet": {"cell": {"fefet": {"specific_current": 1e-5}}},
    "ohmic-resistor": {"access": {"resistor": {"resistance": 3e3}}, "access_capacitance": ACCESS},
    "sinh-resistor": {
        "bend": 0.3,
        "access": {"resistor": {"resistance": 3e3}},
        "access_capacitance": ACCESS,
    },
    "diode": {
        "access": {"diode": {"saturation": 1e-9, "v0": 0.05, "leakage": 1e-7}},
        "access_capacitance": ACCESS,
    },
    "selector": {
        "access": {"selector": {"scale": 1e-6, "v0": 0.1}},
        "access_capacitance": ACCESS,
    },
    "sinh-selector": {
        "bend": 0.3,
        "access": {"selector": {"scale": 1e-6, "v0": 0.1}},
        "access_capacitance": ACCESS,
    },
    "finfet": {"access": {"finfet": {"fins": 2}}},
    "sot": {"cell": {"mtj": {"vh": 0.4}}, "access": {"read_transistor": {"fins": 2}}},
}


def network_of(kind: str, *, charges: bool) -> imac.IMACNetwork:
    """The network of a kind, and always the same weights."""
    generator = torch.Generator().manual_seed(4)
    layers: list[torch.nn.Module] = []
    for before, after in ((6, 5), (5, 4), (4, 3)):
        linear = torch.nn.Linear(before, after, dtype=torch.float64)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.uniform_(-1, 1, generator=generator)
        layers += [linear, imac.InverterSigmoid()]
    held: dict[str, object] = {"access_capacitance": 0.0}
    if charges:
        held = {"capacitance": 0.0 if kind == "sot" else 2e-16}  # its inner node has none
    return imac.convert(
        torch.nn.Sequential(*layers),
        imac.Config(
            device=imac.Memristor(rlow=4e3, rhigh=40e3, **{**KINDS[kind], **held}),
            crossbar=imac.Crossbar(rows=3, columns=4),
            amplifier=imac.Amplifier(gain=4.0, pole=2e10),
            neuron=imac.Neuron(kind="logistic", output_capacitance=1e-15),
            mapping=imac.WeightMapping(levels="continuous"),
            timing=imac.Timing(period=PERIOD, transition=PERIOD / 4),
            interconnect=imac.Interconnect(capacitance=charges),
        ),
    )


def compare(kind: str, tolerance: float, max_step: float, *, charges: bool) -> None:
    """One line of figures."""
    network = network_of(kind, charges=charges)
    x = torch.rand(2, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    cell = build_cell(network.config.device, network.config)
    x = x if cell is not None and cell.gated else 2.0 * x - 1.0
    began = time.process_time()
    result = network.transient(
        x[1:],
        initial=x[:1],
        options=TransientOptions(control=StepControl(tolerance=tolerance)),
    )
    took = time.process_time() - began
    with tempfile.TemporaryDirectory() as folder:
        run = write_netlists(
            network.circuit(),
            network.voltages(x),
            Path(folder) / "run",
            NgSpiceWriter(),
            NetlistSettings(step=max_step / 4, max_step=max_step, reltol=1e-7),
        )
        began = time.perf_counter()
        waves = check(solve_netlists(run, NgSpice())).outcomes[0].result.waveforms
    spice_took = time.perf_counter() - began
    instants = torch.tensor(waves["time"])
    outputs = torch.stack([torch.tensor(waves[f"v(y{m + 1})"]) for m in range(3)], dim=1)
    late = instants >= PERIOD
    own = (instants[late] - PERIOD).clamp(max=float(result.time[-1]))
    mine = sample(result.time, result.outputs[:, 0], own)
    swing = outputs[late].amax(0) - outputs[late].amin(0)
    wave = float(((mine - outputs[late]).abs() / swing).max())
    span = PERIOD, min(2.0 * PERIOD, float(instants[-1]))
    parts = {
        part: float(energy[0, 0])
        / float(integral(instants, torch.tensor(waves[f"p_{name}"]), *span))
        - 1.0
        for part, name, energy in (
            ("inputs", "inputs", result.energy.inputs),
            ("supply", "supply", result.energy.supply),
        )
    }
    before = float((mine[0] - outputs[late][0]).abs().max())
    energies = ", ".join(f"{name} {value:+.1e}" for name, value in parts.items())
    print(
        f"{kind:14} {100 * wave:6.3f} % of swings of {1e3 * float(swing.min()):.3g} mV and more; "
        f"energies {energies}; before the change {before:.1e} V; {len(result.time) - 1} steps, "
        f"{took:.1f} s here, {spice_took:.1f} s there ({len(instants)} points)",
        flush=True,
    )


def main() -> None:
    """Compare the kinds asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("kinds", nargs="*", metavar="kind", help=", ".join(KINDS))
    parser.add_argument("--tolerance", type=float, default=1e-4, help="V, of ours")
    parser.add_argument("--max-step", type=float, default=2.5e-13, help="s, of ngspice")
    parser.add_argument("--no-charges", action="store_true", help="wires and devices hold none")
    given = parser.parse_args()
    for kind in given.kinds or KINDS:
        if kind not in KINDS:
            sys.exit(f"{kind}: known are {', '.join(KINDS)}")
        compare(kind, given.tolerance, given.max_step, charges=not given.no_charges)


if __name__ == "__main__":
    main()
