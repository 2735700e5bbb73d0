"""The native transient against ngspice on the same netlist."""

import math
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from imac_torch.base.resources import spice_file
from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.circuit.topology import Circuit, build_layer
from imac_torch.config import Amplifier, Config, Crossbar, Interconnect, Neuron, Timing
from imac_torch.conversion.convert import convert
from imac_torch.dc.native import Native
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.netlist import NetlistSettings, NgSpiceWriter, write_netlists
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.results.latency import measure_latency
from imac_torch.results.waveform import integral, sample
from imac_torch.simulator import NgSpice, check, solve_netlists
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.network import solve_transient
from imac_torch.transient.options import TransientOptions
from imac_torch.transient.preparation import prepare_transient

# Written by hand: an inverting logistic stage with input and feedback resistors and capacitors at
# gates and outputs.
NEURON = """* test neuron
.subckt neuron_test z out vdd shift=0 slope=11 rout=1000 rin=1 rfb=1
Vshift s z 'shift'
Rin s g 'rin'
Rfb out g 'rfb'
Cgate g 0 0.8f
Cout out 0 0.4f
Eshape f 0 vol='0.5*v(vdd)*(1-tanh(0.5*slope*v(g)))'
Rout f out 'rout'
.ends neuron_test
"""
CAPACITANCES = (0.8e-15, 0.4e-15)
SIZES = (8, 6, 5)
PERIOD, IMAGES = 1e-9, 2


def parts(generator, directory: Path, capacitances=CAPACITANCES):
    """Two layers on 5×6 arrays, wire capacitances on."""
    file = directory / "neuron.sp"
    file.write_text(NEURON)
    config = Config(
        neuron=Neuron(
            kind="logistic", output_resistance=5e3, slope=25.0, subcircuit=str(file)
        ),
        crossbar=Crossbar(rows=5, columns=6),
        interconnect=Interconnect(capacitance=True),
        amplifier=Amplifier(gain=30.0),
        timing=Timing(period=PERIOD),
    ).for_layer(0, "a", 1)
    result = []
    for inputs, outputs in pairwise(SIZES):
        weights = torch.rand(outputs, inputs + 1, generator=generator, dtype=torch.float64) < 0.5
        strong = weights.to(torch.float64)
        low, high = 1 / 202e3, 1 / 78e3
        pair = ConductancePair(
            low + (high - low) * strong, high + (low - high) * strong
        )
        spec = NeuronSpec(
            "logistic", 78e3, 202e3, -0.2, 0.8, 298.15, config.neuron, *capacitances
        )
        result.append((build_crossbar(pair, config, 30.0), spec))
    return result, config


def ngspice_run(layers, config, voltages, directory):
    circuit = Circuit(
        tuple(
            build_layer(f"layer{k + 1}", spec, neuron, config)
            for k, (spec, neuron) in enumerate(layers)
        ),
        0.8,
        config.timing,
    )
    settings = NetlistSettings(step=5e-13, max_step=2e-12, reltol=1e-7)
    run = write_netlists(circuit, voltages, directory / "run", NgSpiceWriter(), settings)
    waves = check(solve_netlists(run, NgSpice())).outcomes[0].result.waveforms
    time = torch.tensor(waves["time"])
    outputs = torch.stack([torch.tensor(waves[f"v(y{m + 1})"]) for m in range(SIZES[-1])], dim=1)
    powers = {name: torch.tensor(waves[name]) for name in ("p_inputs", "p_supply", "p_neurons")}
    return time, outputs, powers


def test_waveforms_latency_and_energy(generator, ngspice, tmp_path):
    layers, config = parts(generator, tmp_path)
    voltages = 0.8 * torch.sign(torch.randn(IMAGES, SIZES[0], generator=generator).double())
    time, outputs, powers = ngspice_run(layers, config, voltages, tmp_path)
    swing = outputs.amax(0) - outputs.amin(0)
    assert float(swing.min()) > 0.02  # otherwise the comparison would be of noise
    theirs = measure_latency(time, outputs[:, None], PERIOD)
    prepared = Native().prepare(layers)
    for wires in ("exact", "reduced"):
        options = TransientOptions(
            wires=wires, control=StepControl(tolerance=2e-4)
        )
        timed = prepare_transient(
            layers, [config.interconnect] * 2, prepared.layers, options
        )
        result = solve_transient(timed, voltages[None], config.timing, options=options)
        mine = sample(result.time, result.outputs[:, 0], time.clamp(max=float(result.time[-1])))
        assert float(((mine - outputs).abs() / swing).max()) < 5e-3
        latency = measure_latency(result.time, result.outputs, PERIOD)
        moved = latency.outputs[0] > 0
        ratio = latency.outputs[0][moved] / theirs.outputs[0][moved]
        assert int(moved.sum()) > 4
        assert float((ratio - 1).abs().max()) < 0.02
        for k in range(IMAGES):
            # ngspice starts and ends periods on the corners of its sources.
            span = k * PERIOD, min((k + 1) * PERIOD, float(time[-1]))
            for name, energy in (
                ("p_inputs", result.energy.inputs),
                ("p_supply", result.energy.supply),
                ("p_neurons", result.energy.neurons),
            ):
                expected = float(integral(time, powers[name], *span))
                if name == "p_neurons":  # behavioural: both draw nothing
                    assert abs(expected) < 1e-20 and float(energy[0, k]) == 0.0
                else:
                    assert float(energy[0, k]) == pytest.approx(expected, rel=0.01, abs=0.0)


def test_neuron_capacitances_matter(tmp_path):
    """Without the capacitors of the test neuron latencies must differ: the test above has teeth."""
    images = []
    for capacitances in (CAPACITANCES, (0.0, CAPACITANCES[1])):
        generator = torch.Generator().manual_seed(21)
        layers, config = parts(generator, tmp_path, capacitances)
        prepared = Native().prepare(layers)
        voltages = 0.8 * torch.sign(torch.randn(1, SIZES[0], generator=generator).double())
        options = TransientOptions(wires="reduced", control=StepControl(tolerance=1e-3))
        timed = prepare_transient(
            layers, [config.interconnect] * 2, prepared.layers, options
        )
        result = solve_transient(timed, voltages[None], config.timing, options=options)
        images.append(measure_latency(result.time, result.outputs, PERIOD).images)
    assert float((images[0] / images[1] - 1).abs().min()) > 0.1


# Written by hand, in another form than the package's: an operational amplifier of gain 1e9, and a
# current that has its limit once time begins.
SLEWING = """.subckt slewing plus minus out r=1k
R2 plus n2 {r}
R4 n2 0 {10*r}
R1 minus n1 {r}
R3 n1 ideal {10*r}
Eop ideal 0 n2 n1 1e9
Bpole 0 slow i=time > 0 ? 1p*3e8*tanh((v(ideal)-v(slow))*6.283185307179586*2e9/3e8) :
+ (v(ideal)-v(slow))
Cpole slow 0 1p
Rsecond twice slower 2k
Ctwice slower 0 {1/(6.283185307179586*2k*6e9)}
Etwice twice 0 slow 0 1
Eout out 0 slower 0 1
.ends slewing
"""
BEHIND = {"slew_rate": 3e8, "second_pole": 6e9}


@pytest.mark.parametrize("more", [{}, BEHIND], ids=["pole", "slew rate and second pole"])
def test_amplifiers_with_poles_are_those_of_their_netlist(ngspice, tmp_path, more):
    """Every source within the sub-circuit delivers: before the pole, behind it, and between."""
    torch.manual_seed(0)
    config = Config(
        neuron=Neuron(kind="logistic"),
        amplifier=Amplifier(gain=10.0, pole=2e9, output_resistance=50.0, **more),
        crossbar=Crossbar(rows=4, columns=3),
        timing=Timing(period=PERIOD),
        interconnect=Interconnect(resistance=False),
    )
    network = convert(nn.Sequential(nn.Linear(4, 2)), config)
    signs = torch.sign(torch.rand(2, 4) - 0.5)
    result = network.transient(
        signs[1:], initial=signs[:1],
        options=TransientOptions(control=StepControl(tolerance=1e-5)),
    )  # fmt: skip
    layer = next(iter(network.analog_layers())).matrix.crossbar()
    resistance = config.amplifier.input_resistance
    text = SLEWING if more else spice_file("amplifier_pole.sp").read_text()
    lines = ["* amplifiers by hand", text]
    for column, (first, last) in enumerate(zip(*network.voltages(signs).tolist(), strict=True)):
        lines.append(f"Vin{column} in{column} 0 pwl(0 {first!r} 100p {last!r} 1 {last!r})")
    lines.append("Vin4 in4 0 0.8")
    terms = []
    for row in range(2):
        for part, (begin, end) in enumerate(layer.column_ranges):
            name = f"{row}_{part}"
            for column in range(begin, end):
                for side in ("positive", "negative"):
                    value = 1.0 / float(getattr(layer.conductances, side)[row, column])
                    lines.append(f"R{side}{row}_{column} in{column} {side[0]}{name} {value!r}")
            kind = "slewing" if more else "amplifier_pole gain=10 pole=2e9"
            lines.append(f"X{name} p{name} n{name} o{name} {kind} r={resistance!r}")
            lines.append(f"Rout{name} o{name} z{row} 50")
            ideal, inner = f"v(x{name}.ideal)", f"v(x{name}.n1)"
            terms.append(f"v(o{name})*(v(o{name})-v(z{row}))/50")
            slow = f"v(x{name}.slow)"
            into = f"({ideal}-{slow})/1000"
            if more:  # the package's capacitors are charged through 1 kΩ
                rate = f"3e8*tanh(({ideal}-{slow})*{2 * math.pi * 2e9!r}/3e8)"
                into = f"{rate}/{2 * math.pi * 1e3 * 2e9!r}"
                terms.append(f"{slow}*({slow}-v(x{name}.slower))/1000")
            terms.append(f"{ideal}*(({ideal}-{inner})/{10 * resistance!r}+{into})")
    lines += [
        f"Bpower power 0 v={'+'.join(terms)}", ".options reltol=1e-6", ".tran 0.5p 1n 0 1p",
        ".control", "run", "meas tran energy integ v(power) from=0 to=1n",
        "wrdata waves v(z0) v(z1)", "quit", ".endc", ".end",
    ]  # fmt: skip
    (tmp_path / "deck.sp").write_text("\n".join(lines))
    text = subprocess.run(
        ["ngspice", "-b", "deck.sp"], cwd=tmp_path, capture_output=True, text=True, timeout=100,
        check=False,
    ).stdout  # fmt: skip
    found = re.search(r"energy\s*=\s*(\S+)", text)
    assert found is not None, text
    # Steps of 1 ps on a ramp of 100 ps, by trapezoids.
    assert float(result.energy.amplifiers) == pytest.approx(float(found[1]), rel=1e-3, abs=0.0)
    table = torch.tensor(
        [[float(word) for word in line.split()]
         for line in (tmp_path / "waves").read_text().splitlines()], dtype=torch.float64
    )  # fmt: skip
    theirs = table[:, 1::2]
    mine = sample(result.time, result.outputs[:, 0], table[:, 0])
    swing = theirs.amax(0) - theirs.amin(0)
    assert float(swing.max()) > 0.05
    assert float((mine - theirs).abs().max()) < 2e-3 * float(swing.max())
