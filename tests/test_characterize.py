"""A user's sub-circuit characterised into a table, used natively and in netlists."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_network import table_of
from torch import nn

import imac_torch as imac
from imac_torch.base.resources import spice_file
from imac_torch.config import Neuron
from imac_torch.dc.transfer import threshold_and_slope
from imac_torch.errors import (
    ConfigError,
    DataError,
    NetlistError,
    SimulatorConvergenceError,
    SolverError,
)
from imac_torch.netlist import HSpiceWriter, NetlistSettings
from imac_torch.netlist.subcircuits import NEURON_PORTS, read_subcircuit
from imac_torch.netlist.testbench import TestBench, checked_subcircuit
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.neurontable import NeuronTable, measure_interpolation
from imac_torch.periphery.neuron.table import tabulate
from imac_torch.periphery.neuron.tabulated import TableCore
from imac_torch.results.solution import Status
from imac_torch.study.verification import verify_nodes

FAKE = Path(__file__).parent / "data" / "hspice" / "fake_hspice.py"

# A level-1 transistor with a load resistor, a level shift and feedback to an internal gate node.
MOS_NEURON = """* my neuron
.subckt mosneuron z out vdd
.model nch nmos level=1 vto=0.3 kp=2e-4 lambda=0.05 gamma=0 phi=0.7 tnom=25
Vs z s -0.4
Rin s g 78k
Rfb out g 202k
Mn out g 0 0 nch w=1u l=0.5u
Rl vdd out 10k
.ends
"""
OHMIC = ".subckt ohmic z out vdd rout=1k\nRz z 0 2k\nR1 vdd out 4k\nR2 out z 'rout'\n.ends\n"


@pytest.fixture(scope="module")
def mos_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("neuron") / "mine.sp"
    path.write_text(MOS_NEURON)
    return path


@pytest.fixture(scope="module")
def mos_table(mos_file):
    if not imac.NgSpice().available():
        pytest.skip("ngspice is not on the PATH")
    return imac.tabulate_neuron(
        mos_file, imac.NgSpice(timeout=60.0), input_range=(-2.0, 2.0), nodes=(601, 161)
    )


def small_network(options, gains=(30.0, 30.0), seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(10, 6), imac.InverterSigmoid(), nn.Linear(6, 4), imac.InverterSigmoid()
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1.0, 1.0, generator=generator)
    config = imac.Config(
        neuron=options,
        amplifier=imac.Amplifier(gain=gains),
        crossbar=imac.Crossbar(rows=4, columns=6),
    )
    inputs = torch.rand(3, 10, generator=generator, dtype=torch.float64) * 2 - 1
    return imac.convert(model, config), inputs


def neuron_of(table, path, tmp_path):
    file = table.save(tmp_path / "neuron.safetensors")
    return Neuron(kind="table", table=str(file), subcircuit=str(path))


def mos_currents(z, u):
    """Output and supply current of MOS_NEURON by the level-1 equations (Shichman, Hodges)."""
    gate = ((z + 0.4) / 78e3 + u / 202e3) / (1 / 78e3 + 1 / 202e3)
    over = np.clip(gate - 0.3, 0.0, None)
    drop = np.minimum(u, over)
    # lambda acts in the linear region too, so that both meet
    drain = 2e-4 * 2 * (over - drop / 2) * drop * (1 + 0.05 * u)
    supply = (0.8 - u) / 10e3
    return supply - drain - (u - gate) / 202e3, (z + 0.4 - gate) / 78e3, supply


@pytest.mark.ngspice
def test_currents_are_those_of_the_circuit(mos_table):
    z, u = np.meshgrid(mos_table.inputs.numpy(), mos_table.outputs.numpy(), indexing="ij")
    valid = u[0] >= 0.0
    output, entering, supply = mos_currents(z, u)
    found = mos_table.currents.numpy()
    # tolerances of the simulator: 1e-13 A, plus leakage through gmin and bulk diodes (1e-14 A)
    for k, wanted in enumerate((output, entering, supply)):
        np.testing.assert_allclose(
            found[:, valid, k], wanted[:, valid], rtol=1e-8, atol=1e-12, err_msg=str(k)
        )


@pytest.mark.ngspice
def test_interpolation_error_is_what_it_says(mos_table):
    core = tabulate(mos_table)
    generator = torch.Generator().manual_seed(1)
    z = torch.rand(4000, generator=generator, dtype=torch.float64) * 4 - 2
    u = torch.rand(4000, generator=generator, dtype=torch.float64) * 0.8
    wanted = mos_currents(z.numpy(), u.numpy())
    found = core.values(z, u)
    error = mos_table.error
    # At a kink the middle of a cell need not be the worst point: a factor of 4 at most, since the
    # interpolation of a kink in slope scales with the part of the cell that it cuts off.
    assert np.abs(found.output.numpy() - wanted[0]).max() <= 4 * error.output
    assert error.output_rms < error.output < 1e-8
    assert error.voltage_rms < error.voltage < 1e-4
    assert np.abs(found.gate.numpy() - wanted[1]).max() <= 1e-12  # linear: nothing to interpolate
    assert np.abs(found.supply.numpy() - wanted[2]).max() <= 1e-12


@pytest.mark.ngspice
def test_native_equals_ngspice(mos_table, mos_file, tmp_path):
    network, inputs = small_network(neuron_of(mos_table, mos_file, tmp_path))
    found = verify_nodes(network, [(inputs, torch.zeros(3, dtype=torch.int64))], 3)
    assert found.output_difference < 1e-5
    assert found.node_difference < 1e-5
    assert found.power_difference < 1e-5
    # they were not all railed
    outputs = network.solve(inputs).layers[0].outputs
    assert ((outputs > 0.2) & (outputs < 0.7)).any()


@pytest.mark.ngspice
@pytest.mark.parametrize(("kind", "range_"), [("logistic", None), ("tanh", (-0.9, 0.9))])
def test_packaged_neurons_equal_their_native_model(ngspice, kind, range_):
    path = spice_file(f"neuron_{kind}.sp")
    table = imac.tabulate_neuron(
        path, imac.NgSpice(timeout=60.0), output_range=range_, nodes=(601, 41),
        input_range=(-2.0, 2.0), neuron=Neuron(slope=9.0, output_resistance=2e3),
    )  # fmt: skip
    core = tabulate(table)
    spec = NeuronSpec(
        kind, 0.0, float("inf"), 0.0, 0.8, 298.15,
        Neuron(kind=kind, slope=9.0, output_resistance=2e3),
    )  # fmt: skip
    exact = spec.model.core(spec)
    z = torch.linspace(-1.99, 1.99, 997, dtype=torch.float64)
    u = torch.linspace(-0.05, 0.85, 997, dtype=torch.float64)
    one, two = core.currents(z, u), exact.currents(z, u)
    # Cubic splines: 5/384·h⁴·|f⁗|, f⁗ ≤ slope⁴·vdd/8 (logistic; tanh is twice it): 2e-7 V
    bound = 2.5 * 5 / 384 * (4 / 600) ** 4 * 9.0**4 * 0.8 / 8 * 2 / 2e3
    assert float((one.output - two.output).abs().max()) < bound
    torch.testing.assert_close(one.output_by_gate, two.output_by_gate, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(one.output_by_output, two.output_by_output, rtol=1e-8, atol=0.0)
    assert float(core.values(z, u).supply.abs().max()) == 0.0


@pytest.mark.ngspice
def test_packaged_neuron_in_a_network(ngspice, tmp_path):
    path = spice_file("neuron_logistic.sp")
    table = imac.tabulate_neuron(
        path, imac.NgSpice(timeout=60.0), nodes=(601, 41), input_range=(-2.0, 2.0)
    )
    options = neuron_of(table, path, tmp_path)
    network, inputs = small_network(options)
    threshold, slope = next(network.analog_layers()).threshold_and_slope()
    assert threshold == pytest.approx(0.0, abs=1e-7)
    assert slope == pytest.approx(-11.0, rel=1e-5)
    found = verify_nodes(network, [(inputs, torch.zeros(3, dtype=torch.int64))], 3)
    assert found.node_difference < 1e-6
    plain, _ = small_network(Neuron(kind="logistic"))
    difference = network.solve(inputs).outputs - plain.solve(inputs).outputs
    assert float(difference.detach().abs().max()) < 1e-6


@pytest.mark.ngspice
def test_threshold_of_a_user_neuron(mos_table, mos_file, tmp_path):
    options = neuron_of(mos_table, mos_file, tmp_path)
    spec = NeuronSpec("table", 0.0, float("inf"), 0.0, 0.8, 298.15, options)
    threshold, slope = threshold_and_slope(spec)
    # where the unloaded output is half of vdd, and its slope there, from the equations
    z = np.linspace(threshold - 0.01, threshold + 0.01, 3)
    from scipy.optimize import brentq

    outputs = [brentq(lambda u, v=v: float(mos_currents(v, u)[0]), 0.0, 0.8, xtol=1e-14) for v in z]
    # the table's voltage error is below 1e-5 V rms, the slope of the curve about 0.7
    assert outputs[1] == pytest.approx(0.4, abs=2e-5)
    assert slope == pytest.approx(4 * (outputs[2] - outputs[0]) / 0.02 / 0.8, rel=1e-2)
    assert slope < 0.0


@pytest.mark.ngspice
def test_outside_the_table_is_reported(ngspice, mos_file, tmp_path):
    table = imac.tabulate_neuron(
        mos_file, imac.NgSpice(timeout=60.0), input_range=(-0.2, 0.9), nodes=(201, 81)
    )
    network, inputs = small_network(neuron_of(table, mos_file, tmp_path), gains=(60.0, 30.0))
    solution = network.solve(inputs)
    reached = solution.layers[0].gates
    beyond = ((reached < -0.2) | (reached > 0.9)).any(dim=1)
    assert beyond.any()
    assert (solution.status[beyond] == int(Status.OUTSIDE)).all()
    assert torch.isnan(solution.outputs[beyond]).all()
    assert torch.isfinite(solution.outputs[~beyond & solution.converged]).all()
    count = int(beyond.sum())
    assert f"{count} OUTSIDE: " in str(solution) and "tabulate_neuron(input_range" in str(solution)
    with pytest.raises(SolverError, match=rf"{count} OUTSIDE: .*amplifier\.gain"):
        verify_nodes(network, [(inputs, torch.zeros(3, dtype=torch.int64))], 3)


@pytest.mark.ngspice
def test_file(mos_table, mos_file, tmp_path):
    path = mos_table.save(tmp_path / "neuron.safetensors")
    again = NeuronTable.load(path)
    assert again.error == mos_table.error
    assert again.simulator.startswith("ngspice ")
    assert (again.subcircuit, again.digest) == ("mosneuron", mos_table.digest)
    torch.testing.assert_close(again.currents, mos_table.currents, rtol=0, atol=0)
    with pytest.raises(DataError, match="exists"):
        mos_table.save(path)
    with pytest.raises(DataError, match=r"\.safetensors"):
        mos_table.save(tmp_path / "neuron.pt")
    with pytest.raises(DataError, match="no such file"):
        NeuronTable.load(tmp_path / "other.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="truncated"):
        NeuronTable.load(damaged)
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(DataError, match="no neuron table"):
        NeuronTable.load(foreign)


@pytest.mark.ngspice
def test_netlists_and_table_must_belong_together(mos_table, mos_file, tmp_path):
    options = neuron_of(mos_table, mos_file, tmp_path)

    def subcircuit(vdd=0.8, **changes):
        spec = NeuronSpec(
            "table", 0.0, float("inf"), 0.0, vdd, 298.15, options.replace(**changes)
        )
        return checked_subcircuit(spec)

    subcircuit()
    other = tmp_path / "other.sp"
    other.write_text(MOS_NEURON.replace("10k", "11k"))
    with pytest.raises(NetlistError, match="characterise it again"):
        subcircuit(subcircuit=str(other))
    with pytest.raises(NetlistError, match=r"neuron\.subcircuit"):
        subcircuit(subcircuit=None)
    with pytest.raises(ConfigError, match=r"neuron\.table"):
        subcircuit(table=None)
    with pytest.raises(ConfigError, match=r"characterised at supplies\.vdd = 0\.8 V"):
        subcircuit(vdd=0.7)
    # parameters that the sub-circuit declares are part of it
    ohmic = tmp_path / "ohmic.sp"
    ohmic.write_text(OHMIC)
    table = imac.tabulate_neuron(
        ohmic, imac.NgSpice(timeout=60.0), nodes=(11, 11), neuron=Neuron(output_resistance=3e3)
    )
    file = table.save(tmp_path / "ohmic.safetensors")
    subcircuit(subcircuit=str(ohmic), table=str(file), output_resistance=3e3)
    with pytest.raises(NetlistError, match="characterise it again"):
        subcircuit(subcircuit=str(ohmic), table=str(file))


@pytest.mark.ngspice
def test_native_conditions(mos_table, mos_file, tmp_path):
    options = neuron_of(mos_table, mos_file, tmp_path)

    def core(vdd=0.8, temperature=298.15, **changes):
        return table_of(
            NeuronSpec(
                "table", 0.0, float("inf"), 0.0, vdd, temperature, options.replace(**changes)
            )
        )

    assert isinstance(core(), TableCore)
    with pytest.raises(ConfigError, match=r"supplies\.vdd"):
        core(vdd=1.0)
    with pytest.raises(ConfigError, match=r"temperature = 298\.15 K"):
        core(temperature=300.0)
    with pytest.raises(ConfigError, match=r"neuron\.table"):
        core(table=None)
    with pytest.raises(ConfigError, match="cannot be read"):
        core(table=str(tmp_path / "missing.safetensors"))


@pytest.mark.ngspice
def test_a_failing_sweep_is_an_error(ngspice, tmp_path):
    path = tmp_path / "bad.sp"
    # no real solution for v(z) > 1, as in the tests of the driver
    path.write_text(
        ".subckt bad z out vdd\nB1 0 x i=v(z)+(v(z)>1)*(v(x)*v(x)+1)\nR1 x 0 1\n"
        "R2 out 0 1k\n.ends\n"
    )
    with pytest.raises(SimulatorConvergenceError) as caught:
        imac.tabulate_neuron(
            path, imac.NgSpice(timeout=60.0), nodes=(25, 5), directory=tmp_path / "run"
        )
    assert caught.value.directory == tmp_path / "run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": (4, 5)}, "at least 5 nodes"),
        ({"input_range": (1.0, 1.0)}, "ascending"),
        ({"output_range": (0.0, float("inf"))}, "output_range"),
    ],
)
def test_bad_sweeps(mos_file, arguments, message):
    with pytest.raises(ConfigError, match=message):
        imac.tabulate_neuron(mos_file, imac.NgSpice(), **arguments)


def test_scales_follow_the_currents():
    """A tunnelling current is kept as its logarithm, a current that crosses zero as it is."""
    inputs = torch.linspace(-1.0, 2.0, 121, dtype=torch.float64)
    outputs = torch.linspace(0.0, 0.8, 41, dtype=torch.float64)

    def currents(z, u):
        return torch.stack(
            [1e-3 * (0.4 - u), 1e-6 * torch.sinh(z / 0.05), 1e-5 * (u - 0.37) + 0 * z], dim=-1
        )

    nodes = currents(*torch.meshgrid(inputs, outputs, indexing="ij"))
    middle = currents(
        *torch.meshgrid(
            (inputs[1:] + inputs[:-1]) / 2, (outputs[1:] + outputs[:-1]) / 2, indexing="ij"
        )
    )
    input_scale, supply_scale, error = measure_interpolation(inputs, outputs, nodes, middle)
    largest = float(nodes[..., 1].max())
    assert largest > 1e11
    # asinh(current/1 µA) is linear in z; a scale within two decades of that is smooth enough that
    # the error is far below that of a spline of e^(z/0.05), 5/384·(h/0.05)⁴ = 8e-4 of the value
    assert 1e-8 < input_scale < 1e-4
    assert error.input < 1e-5 * largest
    assert supply_scale > 1e-7
    assert error.supply < 1e-12
    assert error.voltage < 1e-12


def test_hspice(mos_file, tmp_path):
    """The text for HSPICE, and reading its measures back through the stand-in."""
    program = tmp_path / "bin" / "hspice"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    # The stand-in reports (k + 1)·(row + 1) mV for measure k; a comment tells how many rows.
    subcircuit = read_subcircuit(mos_file, NEURON_PORTS)
    spec = NeuronSpec("table", 0.0, float("inf"), 0.0, 0.8, 300.0, Neuron(kind="table"))
    bench = TestBench(
        subcircuit, spec, np.linspace(-1, 1, 5), np.linspace(0, 0.8, 6),
        NetlistSettings(analysis="dc"), "nodes",
    )  # fmt: skip
    written = HSpiceWriter().bench(bench)
    text = "\n".join(written.lines)
    lines = text.splitlines()
    assert "Vz z 0 dc='value_z'" in lines
    assert "Vout out 0 dc='value_out'" in lines
    head = lines.index(".data points")
    assert lines[head + 1].split() == ["+", "value_z", "value_out"]
    assert ".dc Vscan 0 1 1 sweep data=points" in lines
    rows = [line[2:].split() for line in lines[head + 2 : lines.index(".enddata")]]
    assert len(rows) == 30
    assert rows[1] == ["-1.0", repr(0.8 / 5)]
    assert ".measure dc i_out find par('i(vout)') at=0" in lines
    assert ".measure dc i_in find par('-i(vz)') at=0" in lines
    assert "Xneuron z out vdd mosneuron" in lines
    from imac_torch.netlist import SimulationJob
    from imac_torch.simulator import HSpice

    (tmp_path / "nodes.sp").write_text(f"* t\n* fake: rows 30\n{text}")
    simulator = HSpice(str(program), timeout=30.0)
    result = simulator.run(
        SimulationJob(tmp_path / "nodes.sp", written.measures)
    )
    found = torch.from_numpy(simulator.currents(bench, result))
    assert found.shape == (5, 6, 3)
    # row 7 of the data is input 1, output 1 of the grid
    torch.testing.assert_close(
        found[1, 1], torch.tensor([8e-3, 16e-3, 24e-3], dtype=torch.float64)
    )


@pytest.mark.ngspice
def test_tabulated_finfet_equals_ngspice(ngspice):
    """Native (bicubic table) against ngspice (bilinear table of the exact model)."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 1), imac.InverterSigmoid(), nn.Linear(1, 1), imac.InverterSigmoid()
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1.0, 1.0, generator=generator)
    network = imac.convert(model, imac.Config(amplifier=imac.Amplifier(gain=(30.0, 30.0))))
    inputs = torch.rand(2, 4, generator=generator, dtype=torch.float64) * 2 - 1
    found = verify_nodes(network, [(inputs, torch.zeros(2, dtype=torch.int64))], 2)
    # default_axes says 1e-5 V without a load; a load only makes it less
    assert found.output_difference < 1e-5
    assert found.node_difference < 1e-5
    exact = imac.Native(device_model="exact")
    solution = exact.solve(network.prepare(exact), network.voltages(inputs))
    difference = network.solve(inputs).outputs - solution.outputs
    # bicubic table of 6 mV by 6 mV cells: tens of nanovolts
    assert float(difference.detach().abs().max()) < 1e-7


def test_a_table_takes_the_time_that_the_configuration_says(mos_table, mos_file, tmp_path):
    options = neuron_of(mos_table, mos_file, tmp_path)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid())
    inputs = torch.sign(torch.rand(3, 4) - 0.5)
    times = []
    for capacitance in (0.0, 1e-14):
        config = imac.Config(neuron=options.replace(output_capacitance=capacitance))
        times.append(imac.convert(model, config).measure(inputs).latency.images)
    moved = ~times[0].isnan()
    assert bool(moved.any())
    assert bool((times[1][moved] > times[0][moved]).all())
