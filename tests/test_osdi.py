"""FinFETs for an ngspice with a compiled BSIM-CMG: baked cards and the text of netlists.

No ngspice with OSDI is run here. What can be checked is that the baked card means the same in the
package's own BSIM-CMG 107 as the original does in 105.03, and that the text is as documented.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest
import torch
from netlist_oracle import make_circuit, make_inputs

from imac_torch.config import Neuron
from imac_torch.dc.newton import NewtonOptions, solve_loaded
from imac_torch.errors import ModelCardError, NetlistError
from imac_torch.finfet import FinFET, ModelCard, builtin_14nm_hp
from imac_torch.finfet.baking import bake_temperature
from imac_torch.finfet.geometry import build_geometry
from imac_torch.finfet.parameters import resolve_parameters
from imac_torch.finfet.temperature import build_thermal
from imac_torch.netlist import NetlistSettings, NgSpiceWriter, osdi_inverter, write_netlists
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.neuron.finfet import InverterCore

TEMPERATURE = 298.15
SPEC = NeuronSpec("finfet", 78e3, 202e3, 0.4, 0.8, TEMPERATURE, Neuron(kind="finfet"))


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "bsimcmg.osdi"
    path.write_bytes(b"not really")
    return path


def thermal(card, temperature, *, early):
    p = resolve_parameters(card.parameters, {}, "test")
    sign = 1 if card.polarity == "n" else -1
    g = build_geometry(p, sign, extension=early, sdterm=False)
    kelvin = torch.tensor(temperature, dtype=torch.float64)
    return build_thermal(p, g, kelvin, multiplicative=early)


def perturbed(card):
    """Every temperature coefficient in use."""
    extra = {
        "kt1": -0.02, "kt1l": 1e-10, "ute": -0.3, "ud": 0.01, "ud1": 0.4, "ucs": 0.6, "tss": 1e-4,
        "teta0": 1e-4, "emobt": 1e-4, "tmexp": 1e-5, "ptwg": 2.0, "aigc1": 1e-6, "aua": 0.1,
        "avsat": 1e3, "avsat1": 2e3,
    }  # fmt: skip
    return replace(card, parameters={**card.parameters, **extra})


# At 300.15 K the usual nominal temperature is the device's own and another one is needed.
@pytest.mark.parametrize("temperature", [TEMPERATURE, 300.15, 350.0])
@pytest.mark.parametrize("change", [lambda card: card, perturbed])
def test_everything_thermal_is_the_same(temperature, change):
    for original in map(change, builtin_14nm_hp()):
        before = thermal(original, temperature, early=True)
        after = thermal(bake_temperature(original, temperature), temperature, early=False)
        for field in fields(before):
            if field.name in ("ratio", "resistance_factor"):
                continue  # these are what moved into the card
            one, two = float(getattr(before, field.name)), float(getattr(after, field.name))
            # ptwg and slopes pass limiters whose value at zero is 1 - 8e-7, not 1
            assert two == pytest.approx(one, rel=2e-6), field.name


def test_series_resistance_is_the_same():
    for card in builtin_14nm_hp():
        before = FinFET(card, temperature=TEMPERATURE, nfin=10)
        after = FinFET(bake_temperature(card, TEMPERATURE), temperature=TEMPERATURE, nfin=10)
        assert after.version == "107"
        torch.testing.assert_close(
            after.source_resistance, before.source_resistance, rtol=1e-12, atol=0.0
        )
        torch.testing.assert_close(
            after.drain_resistance, before.drain_resistance, rtol=1e-12, atol=0.0
        )


def test_factors_of_the_builtin_card():
    # design figures: mobility 1.4127, its degradation 0.716, velocity 1 + 0.00156·(-275.15) =
    # 0.5708 (below TNOM it falls), resistance 1 - 0.001·275.15 = 0.7249
    n, _ = builtin_14nm_hp()
    baked = bake_temperature(n, TEMPERATURE).parameters
    assert baked["u0"] / n.parameters["u0"] == pytest.approx(1.412725, rel=1e-6)
    assert baked["ua"] / n.parameters["ua"] == pytest.approx(0.7160452, rel=1e-6)
    assert baked["vsat"] / n.parameters["vsat"] == pytest.approx(1 - 0.00156 * 275.15, rel=1e-4)
    assert baked["rgeoa"] == pytest.approx(1 - 0.001 * 275.15, rel=1e-5)
    assert {baked[name] for name in ("utl", "ua1", "at", "prt")} == {0.0}
    gone = {"vasat", "vasatcv", "pclmgcv", "prwg", "nigc", "lmin", "lmax", "alphaii"}
    assert not gone & baked.keys()


def curve(n, p):
    """(B,) V of the seed papers' neuron without load."""

    def scalar(value):
        return torch.tensor(value, dtype=torch.float64)

    inputs = torch.linspace(-0.5, 0.5, 41, dtype=torch.float64)[None, :, None]
    neuron = NeuronCircuit(
        InverterCore(n, p, scalar(0.8)), scalar(78e3), scalar(1 / 202e3), scalar(0.4)
    )
    with torch.no_grad():
        return solve_loaded(inputs, neuron, None, NewtonOptions()).outputs[0, :, 0]


@pytest.mark.slow
def test_what_remains_is_channel_length_modulation():
    cards = builtin_14nm_hp()
    exact = curve(*(FinFET(card, temperature=TEMPERATURE, nfin=10) for card in cards))
    baked = [bake_temperature(card, TEMPERATURE) for card in cards]
    found = curve(*(FinFET(card, temperature=TEMPERATURE, nfin=10) for card in baked))
    plain = curve(
        *(FinFET(card, temperature=TEMPERATURE, nfin=10, version="107") for card in cards)
    )
    error = float((found - exact).abs().max())
    # VASAT against 107's own saturation voltage: 16 mV; without baking it is 24 mV
    assert 1e-3 < error < 17e-3
    assert error < 0.75 * float((plain - exact).abs().max())


def test_text(model):
    n, p = builtin_14nm_hp()
    inverter = osdi_inverter(model, n, p, TEMPERATURE)
    assert inverter.lines == (".control", f"pre_osdi {model}", ".endc")
    text = inverter.subcircuit.text
    assert re.search(r"^\.model nfet bsimcmg devtype=1$", text, re.M)
    assert re.search(r"^\.model pfet bsimcmg devtype=0$", text, re.M)
    assert "Np out g vdd vdd pfet l=1.8e-08 nfin='fins'" in text
    assert "Nn out g 0 0 nfet l=1.8e-08 nfin='fins'" in text
    names = set(re.findall(r"^\+ (\w+)=", text, re.M))
    assert {"tnom", "u0", "rswmin", "rgeoa"} <= names
    assert not names & {"level", "version", "vasat", "prwg", "nigc"}
    assert "bsimcmg_va devtype" in osdi_inverter(
        model, n, p, TEMPERATURE, module="bsimcmg_va"
    ).subcircuit.text


@pytest.mark.parametrize("analysis", ["dc", "transient"])
def test_netlist_loads_the_model_first(model, tmp_path, analysis):
    # unlike the table, a compiled model has charges: transients are allowed
    spec = replace(SPEC, options=Neuron(kind="finfet", osdi=str(model)))
    circuit = make_circuit([2, 1], neuron=spec)
    settings = NetlistSettings(analysis=analysis)
    inputs = make_inputs(circuit, 1)
    run = write_netlists(circuit, inputs, tmp_path / "run", NgSpiceWriter(), settings)
    lines = run.batches[0].job.netlist.read_text().splitlines()
    assert ".temp 25.0" in lines
    assert lines.index(f"pre_osdi {model}") < lines.index(".include '../circuit/inverter.sp'")
    assert "devtype=1" in (run.directory / "circuit" / "inverter.sp").read_text()


def test_ngspice_takes_two_control_blocks(ngspice, tmp_path):
    """The block that loads the model stands before the one that runs."""
    from imac_torch.simulator import NgSpice, SimulationJob

    path = tmp_path / "deck.cir"
    path.write_text(
        "* deck\n.control\npre_set early=5\n.endc\nv1 a 0 1\nr1 a 0 1k\n.control\nop\n"
        "let found = $early\nprint found\nquit 0\n.endc\n.end\n"
    )
    result = NgSpice(str(ngspice), timeout=30.0).run(SimulationJob(path, ("found",)))
    assert result.measures["found"] == 5.0


def test_temperature_must_be_the_netlists(model, tmp_path):
    n, p = builtin_14nm_hp()
    circuit = make_circuit([2, 1], neuron=SPEC)
    writer = NgSpiceWriter(inverter=osdi_inverter(model, n, p, 310.0))
    with pytest.raises(NetlistError, match=r"made for temperature = 310\.0"):
        write_netlists(circuit, make_inputs(circuit, 1), tmp_path / "run", writer)


def test_errors(model, tmp_path):
    n, p = builtin_14nm_hp()
    with pytest.raises(NetlistError, match="no compiled model"):
        osdi_inverter(tmp_path / "missing.osdi", n, p, TEMPERATURE)
    with pytest.raises(NetlistError, match="expected an n and a p card"):
        osdi_inverter(model, p, n, TEMPERATURE)
    with pytest.raises(NetlistError, match="both model cards"):
        osdi_inverter(model, n, replace(p, name="NFET"), TEMPERATURE)
    with pytest.raises(NetlistError, match="Verilog-A module"):
        osdi_inverter(model, n, p, TEMPERATURE, module="a b")
    blank = tmp_path / "my models"
    blank.mkdir()
    (blank / "x.osdi").touch()
    with pytest.raises(NetlistError, match="rename or copy"):
        osdi_inverter(blank / "x.osdi", n, p, TEMPERATURE)
    with pytest.raises(ModelCardError, match="only version"):
        bake_temperature(ModelCard("x", "n", "107", n.parameters), TEMPERATURE)
    with pytest.raises(ModelCardError, match="not positive"):
        bake_temperature(n, 0.0)
