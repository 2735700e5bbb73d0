"""The HSPICE deck, read by a program: ngspice in its mode for HSPICE's language.

Every kind of transient deck runs there unchanged, but for measures of latency, whose levels are
earlier measures, and which can be left out. What ngspice does not know, the ``.data`` sweep of
operating points and those measures, is compared with the documented forms word by word.
"""

from __future__ import annotations

import math
import re
import subprocess
from dataclasses import replace

import pytest
import torch
from small_networks import LOGISTIC, loader, mlp, signs
from torch import nn

from imac_torch import (
    Amplifier,
    Crossbar,
    Interconnect,
    NetlistSettings,
    Neuron,
    NgSpice,
    Timing,
    WeightMapping,
    compile,
    convert,
    evaluate,
)
from imac_torch.simulator import check
from imac_torch.simulator.transients import from_measures, measured_latency

pytestmark = pytest.mark.filterwarnings(
    "ignore::imac_torch.errors.ConversionWarning", "ignore::imac_torch.errors.NeuronWarning"
)

BASE = LOGISTIC.replace(
    timing=Timing(period=1e-9, transition=1e-10), crossbar=Crossbar(rows=3, columns=4)
)
PAIRS = loader(signs(2, 6))
SLOW = {
    "amplifier": Amplifier(pole=5e9, output_resistance=2e3),
    "neuron": Neuron(
        kind="logistic", output_resistance=5e3, input_capacitance=2e-14, output_capacitance=1e-15
    ),
}
KINDS = {
    "logistic": {},
    "tanh": {"neuron": Neuron(kind="tanh")},
    "relu": {"neuron": Neuron(kind="relu")},
    "hardtanh": {"neuron": Neuron(kind="hardtanh")},
    "identity": {"neuron": Neuron(kind="identity"), "amplifier": Amplifier(gain=5.0)},
    "own neuron": {"neuron": Neuron(kind="logistic", subcircuit="own.sp")},
    "slices": {"mapping": WeightMapping(slices=2)},
    "matched": {"mapping": WeightMapping(levels=17, scheme="matched")},
    "sums": {"amplifier": Amplifier(combine="sum")},
    "one partition": {"crossbar": Crossbar()},
    "poles": {"amplifier": Amplifier(pole=2e10, second_pole=5e10, slew_rate=2e10)},
    "loads": {"timing": BASE.timing.replace(load_capacitance=1e-15)},
    "neuron capacitances": {"neuron": BASE.neuron.replace(input_capacitance=1e-15)},
    "wire capacitances": {"interconnect": Interconnect(capacitance=True)},
    "ideal wires": {"interconnect": Interconnect(resistance=False)},
    "curved cells": {"device": BASE.device.replace(bend=0.3)},
    "waveforms": {"waveforms": True},
    "every node": {"save": "all"},
}
OWN = """.subckt own z out vdd slope=11 rout=1000
Eshape f 0 vol='0.5*v(vdd)*(1-tanh(0.5*slope*v(z)))'
Rout f out 'rout'
.ends own
"""


def hspice_mode(ngspice, netlist):
    """What ngspice makes of a netlist for HSPICE: its measures by name, and all that it says."""
    run = subprocess.run(
        [str(ngspice), "-b", "-n", "-D", "ngbehavior=hsa", netlist.name],
        cwd=netlist.parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = re.findall(r"^(\w+)\s+=\s+(\S+)", run.stdout, re.MULTILINE)
    return {name: float(value) for name, value in found}, run.stdout + run.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_transient_deck_is_understood(ngspice, tmp_path, monkeypatch, kind):
    """Outputs to half of the seventh digit, which is what `.measure` prints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.sp").write_text(OWN)
    changes = dict(KINDS[kind])
    settings = NetlistSettings(
        measure_latency=False,
        waveforms=changes.pop("waveforms", False),
        save=changes.pop("save", "outputs"),
    )
    activation = {"tanh": nn.Tanh, "relu": nn.ReLU, "hardtanh": nn.Hardtanh}.get(kind, nn.Sigmoid)
    model = nn.Sequential(*list(mlp(6, 3))) if kind == "identity" else mlp(
        6, 4, 3, activation=activation
    )  # fmt: skip
    item = convert(model, BASE.replace(**changes))
    deck = compile(item, PAIRS, tmp_path / "run", dialect="hspice", settings=settings)
    batch = deck.run_files.batches[0]
    assert not batch.job.optional
    found, log = hspice_mode(ngspice, batch.job.netlist)
    assert not [line for line in log.splitlines() if re.search(r"(?i)error|unknown|fail", line)]
    assert set(batch.job.measures) <= set(found)
    native = evaluate(item, PAIRS, progress=False)
    outputs = [
        [found[f"{node}_{k}"] for node in batch.deck.output_nodes] for k in range(2)
    ]
    # Half of the seventh digit; voltages below 0.1 V are as good as those of 0.1 V.
    digit = 10.0 ** (native.outputs.abs().clamp(min=0.1).log10().floor() - 6)
    difference = torch.tensor(outputs, dtype=torch.float64) - native.outputs
    assert bool((difference.abs() <= digit / 2).all()), difference
    # Everything has settled at the end of the period: powers there are those of operating points.
    power = native.solution.power
    for k in range(2):
        settled = found[f"s_inputs_{k}"], found[f"s_neurons_{k}"]
        assert settled == pytest.approx((float(power.inputs[k]), float(power.neurons[k])), rel=1e-5)


def test_measures_of_latency_are_the_documented_forms(ngspice, tmp_path):
    """``param='…'`` of earlier measures, then ``when …=par('measure')``, as HSPICE's examples.

    ngspice knows the first but not the second. With the number in the place of the measure it
    reads both, and finds the latencies of its own deck: both print seven digits, and interpolate
    linearly between steps of at most 4 ps.
    """
    item = convert(mlp(6, 4, 3), BASE.replace(**SLOW))
    settings = NetlistSettings(step=4e-12, max_step=4e-12)
    deck = compile(item, PAIRS, tmp_path / "run", dialect="hspice", settings=settings)
    batch = deck.run_files.batches[0]
    lines = batch.job.netlist.read_text().splitlines()
    when = [line for line in lines if " when " in line]
    form = re.compile(
        r"\.measure tran (?:up|low)_(y\d_\d) when par\('v\(y\d\)[+-]1e6\*max\(v\(clock\)-[\d.e-]+,0"
        r"\)'\)=par\('((?:upper|lower)_\1)'\) td=[\d.e-]+ cross=last"
    )
    assert len(when) == 12
    assert all(form.fullmatch(line) for line in when)
    first = batch.job.netlist.with_name("levels.sp")
    first.write_text("\n".join(line for line in lines if line not in when) + "\n")
    levels, _ = hspice_mode(ngspice, first)
    second = batch.job.netlist.with_name("crossings.sp")
    level = re.compile(r"=par\('((?:upper|lower)_\w+)'\)")
    known = [level.sub(lambda match: f"={levels[match[1]]!r}", line) for line in lines]
    second.write_text("\n".join(known) + "\n")
    crossings, _ = hspice_mode(ngspice, second)
    own = check(compile(item, PAIRS, tmp_path / "own", settings=settings).run(progress=False))
    latency = own.latency.outputs[:, 0]
    assert float(latency.min()) > 5e-11
    for k, start in enumerate(batch.deck.starts):
        for m, node in enumerate(batch.deck.output_nodes):
            times = [crossings.get(f"{edge}_{node}_{k}", start) for edge in ("up", "low")]
            assert max(times) - start == pytest.approx(float(latency[k, m]), abs=5e-13)


STATEMENTS = [
    r"\.option( \w+(=[\w.+-]+)?)+",
    r"\.temp [\d.]+",
    r"\.include '\.\./circuit/\w+\.sp'",
    r"\.param \w+=0",
    r"V\w+ \w+ 0 dc='\w+'",
    r"V\w+ \w+ \w+ [\d.]+",
    r"X\w+( \w+)+",
    r"Epower\d+ power\d+ 0 vol='[^']+'",
    r"\.data images( value_x\d+)+",
    r"\.enddata",
    r"\.dc Vscan 0 1 1 sweep data=images",
    r"\.measure dc \w+ find v\(\w+\) at=0",
    r"\.measure dc \w+ find par\('[^']+'\) at=0",
    r"\.end",
]
"""Forms of the deck of operating points; docs/engines.md has where they are documented."""


def test_operating_points_are_the_documented_forms(tmp_path):
    """Statements, and of ``.data``: names after the title, then as many values a row, .enddata."""
    item = convert(mlp(6, 4, 3), BASE)
    settings = NetlistSettings(analysis="dc")
    deck = compile(item, PAIRS, tmp_path / "run", dialect="hspice", settings=settings)
    title, *lines = deck.run_files.batches[0].job.netlist.read_text().splitlines()
    assert title.startswith("*")
    assert "+" not in lines  # a continuation continues something
    joined = re.sub(r"\n\+ ", " ", "\n".join(lines)).splitlines()
    rows = [line for line in joined if line.startswith(".data")]
    assert len(rows) == 1
    words = rows[0].split()[2:]
    names = [word for word in words if word.startswith("value_")]
    assert words[: len(names)] == names
    assert set(names) == {line.split()[1][:-2] for line in joined if line.startswith(".param")}
    values = [float(word) for word in words[len(names) :]]
    assert values == [v for image in deck.run_files.batches[0].deck.inputs.tolist() for v in image]
    joined = [
        " ".join([".data images", *names]) if line.startswith(".data") else line for line in joined
    ]
    unknown = [
        line
        for line in joined
        if not line.startswith("*") and not any(re.fullmatch(form, line) for form in STATEMENTS)
    ]
    assert not unknown


def test_without_measures_latencies_are_not_made_up(ngspice, tmp_path):
    item = convert(mlp(6, 4, 3), BASE.replace(**SLOW))
    for dialect in ("hspice", "ngspice"):
        settings = NetlistSettings(measure_latency=False)
        deck = compile(item, PAIRS, tmp_path / dialect, dialect=dialect, settings=settings)
        text = deck.run_files.batches[0].job.netlist.read_text()
        assert "cross=last" not in text
    batch = deck.run_files.batches[0]
    spice = check(deck.run(NgSpice(str(ngspice)), progress=False))
    result = spice.outcomes[0].unwrap()
    assert bool(spice.latency.outputs.isfinite().all())  # from waveforms
    assert bool(measured_latency(batch.deck, result).isnan().all())
    assert bool(from_measures(batch.deck, replace(result, waveforms=None)).latency.isnan().all())
    assert math.isfinite(result.measures["y1_0"])
