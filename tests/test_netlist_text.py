"""Netlist text in both dialects: read back exactly, checked ports, safe names."""

from __future__ import annotations

import dataclasses
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import find_shared
from netlist_oracle import make_circuit, make_inputs, neuron_spec
from netlist_parser import parse_netlist

from imac_torch.base.units import spice_number
from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.circuit.topology import Circuit, build_layer
from imac_torch.config import Amplifier, Config, Interconnect, Neuron, Timing, WeightMapping
from imac_torch.errors import ImacError, MeasureError, MeasureWarning, NetlistError, SimulatorError
from imac_torch.mapping.quantization import join_bias, to_conductances
from imac_torch.netlist import (
    HSpiceWriter,
    NetlistSettings,
    NgSpiceWriter,
    SimulationJob,
    write_netlists,
)
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.simulator import HSpice, check, solve_netlists

WRITERS = [NgSpiceWriter, HSpiceWriter]
SLICED = WeightMapping(slices=3, slice_base=2)
FAKE = Path(__file__).parent / "data" / "hspice" / "fake_hspice.py"


def coordinate_matrix(first, second, conductance, count):
    """Stamp two-terminal conductances; returns sorted (row, column) keys and sums."""
    rows = np.concatenate([first, second, first, second])
    columns = np.concatenate([first, second, second, first])
    values = np.concatenate([conductance, conductance, -conductance, -conductance])
    keys, which = np.unique(rows * count + columns, return_inverse=True)
    return keys, np.bincount(which, values)


def assert_same_conductances(circuit, netlist):
    """The conductance matrix of every layer, read from text, is the circuit's."""
    for layer in circuit.layers:
        parsed = netlist.subcircuits[layer.name]
        names = layer.node_names().tolist()
        index = {name: k for k, name in enumerate(names)}
        assert list(parsed.ports) == [
            *(names[k] for k in layer.inputs),
            *(names[k] for k in layer.outputs),
            "vdd",
            "vddn",
        ]
        for kind, found in (("resistor", parsed.resistors), ("capacitor", parsed.capacitors)):
            arrays = [element for element in layer.elements if element.kind == kind]
            assert len(set(found.names)) == len(found.names)
            assert len(found.names) == sum(len(element.values) for element in arrays)
            if not arrays:
                continue
            # Values are compared as they are printed (Ω, F): within the four last-place units
            # that a number may be moved by to be short, and those of the sums.
            of_text = coordinate_matrix(
                np.array([index[a] for a, _ in found.nodes]),
                np.array([index[b] for _, b in found.nodes]),
                found.values,
                len(names),
            )
            nodes = np.concatenate([element.nodes for element in arrays])
            values = np.concatenate([element.values for element in arrays])
            of_circuit = coordinate_matrix(nodes[:, 0], nodes[:, 1], values, len(names))
            np.testing.assert_array_equal(of_text[0], of_circuit[0])
            np.testing.assert_allclose(of_text[1], of_circuit[1], rtol=2e-15, atol=0.0)
        assert_same_instances(layer, parsed, names)


def assert_same_instances(layer, parsed, names):
    """Amplifiers, sums and neurons."""
    by_kind = {"xamplifier": [], "xneuron": [], "esum": []}
    for statement in parsed.statements:
        kind = re.match(r"[a-z]+", statement.name)[0]
        by_kind[kind].append(statement)
    amplifiers = layer.read_outs
    assert len(by_kind["xamplifier"]) == len(amplifiers.nodes)
    for statement, nodes in zip(by_kind["xamplifier"], amplifiers.nodes, strict=True):
        assert list(statement.words[:3]) == [names[k] for k in nodes]
        parameters = dict(word.split("=") for word in statement.words[4:])
        assert float(parameters["gain"]) == float(amplifiers.read_out.gain)
        assert float(parameters["r"]) == float(amplifiers.read_out.resistance)
    assert len(by_kind["xneuron"]) == len(layer.neurons.nodes)
    for statement, (z, out) in zip(by_kind["xneuron"], layer.neurons.nodes, strict=True):
        assert statement.words[:3] == (names[z], names[out], "vddn")
        assert statement.words[3] == f"neuron_{layer.neurons.spec.kind}"
    if layer.sums is None:
        assert not by_kind["esum"]
        return
    # Source k of a sum stands on source k - 1; the last one drives the output.
    terms, factors = layer.sums.terms, layer.sums.factors
    sums = iter(by_kind["esum"])
    for row, output in zip(terms, layer.sums.outputs, strict=True):
        below = "0"
        for term, factor in zip(row, factors, strict=True):
            words = next(sums).words
            assert words[1:4] == (below, names[term], "0")
            assert float(words[4]) == factor
            below = words[0]
        assert below == names[output]
    assert next(sums, None) is None


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "case",
    [
        {"sizes": [7, 5, 3], "rows": 2, "columns": 3},
        {"sizes": [6, 4], "columns": 3, "amplifier": Amplifier(combine="sum")},
        {"sizes": [6, 4], "columns": 3, "interconnect": Interconnect(capacitance=True)},
        {"sizes": [6, 4], "interconnect": Interconnect(resistance=False)},
        {"sizes": [3, 2], "gains": [1 / 3]},
        {"sizes": [5, 3, 2], "columns": 3, "rows": 4, "mapping": SLICED},
        {"sizes": [5, 2], "columns": 3, "mapping": SLICED, "amplifier": Amplifier(combine="sum")},
    ],
    ids=[
        "partitions", "sum", "capacitance", "ideal wires", "gain of many digits", "slices",
        "sum of slices",
    ],
)
def test_text_read_back_is_the_circuit(tmp_path, writer, case):
    circuit = make_circuit(case["sizes"], **{k: v for k, v in case.items() if k != "sizes"})
    inputs = make_inputs(circuit, 1)
    run = write_netlists(circuit, inputs, tmp_path / "run", writer())
    assert_same_conductances(circuit, parse_netlist(run.batches[0].job.netlist))


def test_numbers_are_short_and_exact():
    """What arithmetic left of a short number is that; everything else keeps all of its digits."""
    assert [spice_number(x) for x in (0.1 + 0.2, 3 * 4e-9, 1 / (1 / 202e3), 0.0)] == [
        "0.3", "1.2e-08", "202000.0", "0.0"
    ]
    for value in (1 / 3, np.float32(0.6), np.nextafter(0.3, 1), 0.3 * (1 + 2e-15), -2e-308 / 3):
        assert abs(float(spice_number(value)) - float(value)) <= 4 * np.spacing(abs(float(value)))
    assert float(spice_number(0.3 * (1 + 2e-15))) != 0.3 and float(spice_number(1 / 3)) == 1 / 3


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The 400-120-84-10 network on disk: circuit and parsed netlist."""
    data = np.load(find_shared() / "golden" / "network.npz", allow_pickle=False)
    config = Config.imac_sim()
    layers = []
    for k in range(3):
        weight = torch.from_numpy(data[f"W{k + 1}"].T.astype(np.float64))
        bias = torch.from_numpy(data[f"B{k + 1}"].astype(np.float64))
        layer_config = config.for_layer(k, f"{k}", 3)
        pair = to_conductances(
            join_bias(weight, bias), config.device, config.mapping, where="published"
        )
        spec = build_crossbar(pair, layer_config, layer_config.amplifier.gain)
        layers.append(build_layer(f"layer{k + 1}", spec, neuron_spec(), layer_config))
    circuit = Circuit(tuple(layers), 0.8, config.timing)
    inputs = torch.full((1, 400), 0.8, dtype=torch.float64)
    directory = tmp_path_factory.mktemp("published") / "run"
    run = write_netlists(circuit, inputs, directory, HSpiceWriter())
    return circuit, parse_netlist(run.batches[0].job.netlist)


def test_published_network_read_back_is_the_circuit(published):
    circuit, netlist = published
    assert_same_conductances(circuit, netlist)
    count = sum(len(part.resistors.names) for part in netlist.subcircuits.values())
    assert count > 290_000


def test_published_network_has_the_documented_wires_and_cuts(published):
    _, netlist = published
    # golden/README.md: segments at λ = 9 nm, seven digits; ends of columns and rows
    column_ends = {
        "layer1": [31, 62, 93, 124, 155, 186, 216, 247, 278, 309, 340, 371, 401],
        "layer2": [31, 61, 91, 121],
        "layer3": [29, 57, 85],
    }
    rows_per_part = {"layer1": (4, 30), "layer2": (3, 28), "layer3": (1, 10)}
    for name, ends in column_ends.items():
        parsed = netlist.subcircuits[name]
        wires = {prefix: set() for prefix in ("rw", "rwp", "rwn")}
        last_columns, first_rows = set(), set()
        for element, (a, b), value in zip(
            parsed.resistors.names, parsed.resistors.nodes, parsed.resistors.values, strict=True
        ):
            prefix = re.match(r"[a-z]+", element)[0]
            if prefix in wires:
                wires[prefix].add(round(float(value), 6))
            if prefix == "rwp" and b.startswith("pe"):
                last_columns.add(int(element.split("_")[1]))
            if prefix == "rw" and not a.startswith("a"):
                first_rows.add(int(element.removeprefix("rw").split("_")[0]))
        assert wires == {"rw": {9.241569}, "rwp": {11.551961}, "rwn": {11.551961}}
        assert sorted(last_columns) == ends
        parts, rows = rows_per_part[name]
        assert sorted(first_rows) == [1 + rows * k for k in range(parts)]


def test_pwl_sources_step_through_the_images(tmp_path):
    circuit = make_circuit([2, 1], timing=Timing(period=2e-9, transition=2e-10))
    inputs = torch.tensor([[0.8, -0.8], [0.1, 0.2], [-0.8, 0.3]], dtype=torch.float64)
    for writer in WRITERS:
        run = write_netlists(circuit, inputs, tmp_path / writer.name, writer())
        top = parse_netlist(run.batches[0].job.netlist).top
        sources = {s.name: " ".join(s.words) for s in top.statements}
        for line in range(2):
            words = sources[f"vx{line + 1}"]
            assert words.startswith(f"x{line + 1} 0 pwl(")
            numbers = np.array([float(w) for w in words[words.index("(") + 1 : -1].split()])
            time, value = numbers[::2], numbers[1::2]
            assert (np.diff(time) > 0).all()
            for k in range(3):
                settled = np.linspace(k * 2e-9 + 2e-10, (k + 1) * 2e-9, 7)
                np.testing.assert_allclose(
                    np.interp(settled, time, value), float(inputs[k, line]), rtol=1e-12
                )
            assert value[0] == 0.0
            assert np.interp(1e-10, time, value) == pytest.approx(float(inputs[0, line]) / 2)


def test_images_are_split_into_batches(tmp_path):
    circuit = make_circuit([3, 2])
    inputs = make_inputs(circuit, 7)
    run = write_netlists(
        circuit, inputs, tmp_path / "run", HSpiceWriter(), NetlistSettings(images_per_netlist=3)
    )
    assert [(batch.first, batch.deck.images) for batch in run.batches] == [(0, 3), (3, 3), (6, 1)]
    names = [path.parent.name for path in (batch.job.netlist for batch in run.batches)]
    assert names == ["batch_00000", "batch_00001", "batch_00002"]


def test_hspice_measures(tmp_path):
    circuit = make_circuit([30, 2])
    run = write_netlists(circuit, make_inputs(circuit, 2), tmp_path / "run", HSpiceWriter())
    netlist = run.batches[0].job.netlist
    text = netlist.read_text()
    measured = re.findall(r"^\.measure tran (?!upper|lower)(\w+) ", text, re.MULTILINE)
    job = run.batches[0].job
    assert sorted(measured) == sorted((*job.measures, *job.optional))
    assert ".measure tran y2_1 find v(y2) at=8e-09" in text
    assert "from=1e-10 to=4e-09" in text
    assert ".measure tran e_supply_1 integ par('-(v(vdd)*i(vdd))') from=4e-09 to=8e-09" in text
    # Every input source is in exactly one term of a chain, the end of which is measured.
    chain = re.findall(r"^Epower(\d) power\1 0 vol='(?:v\(power(\d)\))?-\((.*)\)'$", text, re.M)
    assert [item[:2] for item in chain] == [("1", ""), ("2", "1"), ("3", "2")]
    sources = re.findall(r"i\((v\w+)\)", " ".join(term for _, _, term in chain))
    assert sources == [f"vx{n}" for n in range(1, 31)]
    assert ".measure tran p_inputs_0 avg par('v(power3)') from=1e-10" in text
    assert max(len(line) for line in text.splitlines()) < 1024  # HSPICE's limit of a line


def test_hspice_operating_points_are_a_data_sweep(tmp_path):
    circuit = make_circuit([20, 2])
    inputs = make_inputs(circuit, 3)
    run = write_netlists(
        circuit, inputs, tmp_path / "run", HSpiceWriter(), NetlistSettings(analysis="dc")
    )
    netlist = parse_netlist(run.batches[0].job.netlist)
    data = next(line for line in netlist.controls if line.startswith(".data"))
    words = data.split()[2:]
    assert words[:20] == [f"value_x{n}" for n in range(1, 21)]
    table = np.array([float(word) for word in words[20:]]).reshape(3, 20)
    np.testing.assert_array_equal(table, inputs.numpy())
    assert "y2[2]" in run.batches[0].job.measures
    assert ".dc Vscan 0 1 1 sweep data=images" in netlist.controls


@pytest.fixture
def hspice(tmp_path):
    """The driver with the stand-in for HSPICE."""
    program = tmp_path / "bin" / "hspice"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return HSpice(str(program), timeout=30.0)


def test_hspice_results_come_back_in_order(tmp_path, hspice):
    circuit = make_circuit([15, 2])
    settings = NetlistSettings(images_per_netlist=2)
    run = write_netlists(circuit, make_inputs(circuit, 3), tmp_path / "r", HSpiceWriter(), settings)
    spice = check(solve_netlists(run, hspice))
    # The stand-in gives measure k of a netlist the value (k + 1) mV. Per image: two outputs, powers
    # of inputs, supply, neurons; energy and final power of each of these three.
    expected = np.array([[1e-3, 2e-3], [12e-3, 13e-3], [1e-3, 2e-3]])
    np.testing.assert_allclose(spice.solution.outputs, expected, rtol=1e-12)
    power = spice.solution.power
    np.testing.assert_allclose(power.inputs, [3e-3, 14e-3, 3e-3], rtol=1e-12)
    np.testing.assert_allclose(power.supply, [4e-3, 15e-3, 4e-3], rtol=1e-12)
    np.testing.assert_allclose(power.neurons, [5e-3, 16e-3, 5e-3], rtol=1e-12)
    np.testing.assert_allclose(spice.supply_energy, [8e-3, 19e-3, 8e-3], rtol=1e-12)
    np.testing.assert_allclose(spice.energy.inputs[:, 0], [6e-3, 17e-3, 6e-3], rtol=1e-12)
    static = np.array([[7e-3, 18e-3, 7e-3]]).T * circuit.timing.period
    np.testing.assert_allclose(spice.static.inputs, static, rtol=1e-12)
    # Then two outputs at the start, then two crossings of each output, each after the level that it
    # is of: the later one counts.
    late = np.array([[28e-3, 32e-3], [36e-3, 40e-3], [17e-3, 21e-3]])
    starts = np.array([[0.0], [circuit.timing.period], [0.0]])
    np.testing.assert_allclose(spice.latency.outputs[:, 0], late - starts, rtol=1e-12)
    assert spice.latency.decision.isnan().all()  # measures cannot tell
    with pytest.raises(SimulatorError, match="waveforms=True"):
        spice.waveforms([1])
    with pytest.raises(SimulatorError, match="no waveforms over time"):
        spice.latency_to(spice.solution.outputs)


def test_hspice_latency_without_a_crossing(tmp_path, hspice):
    circuit = make_circuit([3, 2])
    run = write_netlists(circuit, make_inputs(circuit, 2), tmp_path / "run", HSpiceWriter())
    netlist = run.batches[0].job.netlist
    failed = "".join(f"* fake: failed {name}\n" for name in ("up_y1_1", "low_y1_1", "low_y2_0"))
    netlist.write_text(f"* t\n{failed}" + netlist.read_text())
    run = dataclasses.replace(run, digests={})  # edited here: checks of files are off
    spice = check(solve_netlists(run, hspice))
    latency = spice.latency.outputs[:, 0]
    assert float(latency[1, 0]) == 0.0  # no edge was crossed: it never left its band
    assert bool((latency[[0, 0, 1], [0, 1, 1]] > 0.0).all())
    # An image whose end is missing has no band either.
    netlist.write_text("* t\n* fake: failed y1_1\n" + netlist.read_text())
    spice = solve_netlists(run, hspice)
    assert spice.latency.outputs[:, 0, 0].isnan().tolist() == [False, True]


def test_measures_that_hspice_refuses_give_no_latency(tmp_path, hspice):
    """No crossing means that the output never left its band; no word about it means nothing."""
    circuit = make_circuit([3, 2])
    run = write_netlists(circuit, make_inputs(circuit, 2), tmp_path / "run", HSpiceWriter())
    netlist = run.batches[0].job.netlist
    text = netlist.read_text()
    run = dataclasses.replace(run, digests={})  # edited here
    netlist.write_text(f"* t\n* fake: refused (up|low)_y1\n{text}")
    with pytest.warns(MeasureWarning, match=r"4 measures of latency, such as up_y1_0.*=False"):
        spice = check(solve_netlists(run, hspice))
    assert spice.latency.outputs[:, 0].isnan().tolist() == [[True, False], [True, False]]
    assert bool(spice.solution.outputs.isfinite().all())
    netlist.write_text(f"* t\n* fake: error measure up_y1_0 uses an unknown parameter\n{text}")
    with pytest.raises(SimulatorError, match=r"measure_latency=False, waveforms=True"):
        check(solve_netlists(run, hspice))


def test_hspice_crossings_end_with_the_period(tmp_path):
    """After the period, what is compared with an edge is far on the other side of the band."""
    circuit = make_circuit([2, 1], timing=Timing(period=2e-9))
    run = write_netlists(circuit, make_inputs(circuit, 2), tmp_path / "run", HSpiceWriter())
    text = run.batches[0].job.netlist.read_text()
    clock = re.search(r"^Vclock clock 0 pwl\(0 0 (\S+) (\S+)\)$", text, re.MULTILINE)
    assert float(clock[2]) == pytest.approx(1e9 * float(clock[1]))
    assert float(clock[1]) >= 2 * 2e-9
    edges = "max(0.1*abs(y1_1-y1_0),0.001)"
    for name, level, away, sign in (("up", "upper", "-", "+"), ("low", "lower", "+", "-")):
        assert (
            f".measure tran {level}_y1_1 param='y1_1{sign}{edges}'\n"
            f".measure tran {name}_y1_1 when par('v(y1){away}1e6*max(v(clock)-4.0,0)')="
            f"par('{level}_y1_1') td=2e-09 cross=last\n"
        ) in text


@pytest.mark.parametrize("save", ["outputs", "all"])
def test_hspice_waveforms_are_written_where_wanted(tmp_path, save):
    circuit = make_circuit([2, 1])
    settings = NetlistSettings(waveforms=True, save=save)
    run = write_netlists(circuit, make_inputs(circuit, 1), tmp_path, HSpiceWriter(), settings)
    netlist = run.batches[0].job.netlist
    assert run.batches[0].job.waveform_files == ("batch.tr0",)
    assert ("post=2 probe" in netlist.read_text()) == (save == "outputs")
    assert ".probe tran v(y1)" in parse_netlist(netlist).controls


@pytest.mark.parametrize("writer", WRITERS)
def test_capacitances_and_poles_are_written(tmp_path, writer):
    neuron = neuron_spec(input_capacitance=2e-16, output_capacitance=3e-15)
    neuron = dataclasses.replace(neuron, input_capacitance=2e-16, output_capacitance=3e-15)
    circuit = make_circuit(
        [3, 2], neuron=neuron, columns=2, amplifier=Amplifier(pole=2e9),
        timing=Timing(load_capacitance=4e-15),
    )  # fmt: skip
    run = write_netlists(circuit, make_inputs(circuit, 1), tmp_path / "run", writer())
    netlist = parse_netlist(run.batches[0].job.netlist)
    assert netlist.top.capacitors.nodes == (("y1", "0"), ("y2", "0"))
    assert netlist.top.capacitors.values.tolist() == [4e-15, 4e-15]
    calls = [s.words for s in netlist.subcircuits["layer1"].statements]
    neurons = [words for words in calls if "neuron_logistic" in words]
    amplifiers = [words for words in calls if "amplifier_pole" in words]
    assert (len(neurons), len(amplifiers)) == (2, 4)
    assert all({"cin=2e-16", "cout=3e-15"} <= set(words) for words in neurons)
    assert all("pole=2000000000.0" in words for words in amplifiers)
    # Without them the text is that of a circuit that has none.
    plain = make_circuit([3, 2], columns=2)
    run = write_netlists(plain, make_inputs(plain, 1), tmp_path / "plain", writer())
    layer = (run.directory / "circuit" / "layer1.sp").read_text()
    assert "cin=" not in layer and "cout=" not in layer and "pole" not in layer
    assert parse_netlist(run.batches[0].job.netlist).top.capacitors.names == ()


@pytest.mark.parametrize(
    ("declared", "missing"), [("", "pole"), ("pole=1", "slew_rate")], ids=["pole", "slew rate"]
)
def test_an_amplifier_without_a_pole_or_slew_rate_is_refused_one(tmp_path, declared, missing):
    path = tmp_path / "mine.sp"
    path.write_text(
        f".subckt mine plus minus out gain=1 {declared}\nEout out 0 plus minus 'gain'\n.ends\n"
    )
    circuit = make_circuit([3, 2], amplifier=Amplifier(pole=2e9, slew_rate=1e9))
    with pytest.raises(NetlistError, match=f"no parameter '{missing}'"):
        write_netlists(
            circuit, make_inputs(circuit, 1), tmp_path / "run", NgSpiceWriter(amplifier=path)
        )


def test_hspice_failed_measure_leaves_the_other_images(tmp_path, hspice):
    circuit = make_circuit([3, 2])
    run = write_netlists(circuit, make_inputs(circuit, 2), tmp_path / "run", HSpiceWriter())
    netlist = run.batches[0].job.netlist
    netlist.write_text("* t\n* fake: failed y2_1\n" + netlist.read_text())
    run = dataclasses.replace(run, digests={})  # edited here
    spice = solve_netlists(run, hspice)
    assert spice.solution.converged.tolist() == [True, False]
    assert spice.solution.outputs[1].isnan().all()
    with pytest.raises(MeasureError, match="y2_1"):
        check(spice)


def finfet_spec(**options):
    return NeuronSpec("finfet", 78e3, 202e3, 0.4, 0.8, 298.15, Neuron(kind="finfet", **options))


def test_finfet_neuron_with_the_users_library(tmp_path):
    library = tmp_path / "cards"
    library.mkdir()
    circuit = make_circuit([2, 1], neuron=finfet_spec(model_directory=str(library)))
    with pytest.raises(ImacError, match=f"{library}.*14nfet"):
        write_netlists(circuit, make_inputs(circuit, 1), tmp_path / "a", HSpiceWriter())
    (library / "models").write_text(".lib ptm20hp\n.endl ptm20hp\n")
    with pytest.raises(NetlistError, match="no section ptm14hp"):
        write_netlists(circuit, make_inputs(circuit, 1), tmp_path / "a", HSpiceWriter())
    (library / "models").write_text(".lib ptm14hp\n.endl ptm14hp\n")
    run = write_netlists(circuit, make_inputs(circuit, 1), tmp_path / "a", HSpiceWriter())
    text = run.batches[0].job.netlist.read_text()
    assert f".lib '{library / 'models'}' ptm14hp" in text
    assert "inverter.sp" in text
    layer = (run.directory / "circuit" / "layer1.sp").read_text()
    assert "neuron_finfet shift=0.4 fins=10.0 rin=78000.0 rfb=202000.0" in layer


@pytest.mark.parametrize("writer", WRITERS)
def test_finfet_neurons_take_an_inverter_of_the_users(tmp_path, writer):
    circuit = make_circuit([2, 1], neuron=finfet_spec())
    inverter = tmp_path / "inverter.sp"
    inverter.write_text(".subckt inverter g out vdd fins=1\nRout out 0 1k\n.ends\n")
    writer = writer(inverter=inverter)
    run = write_netlists(circuit, make_inputs(circuit, 1), tmp_path / "run", writer)
    written = (run.directory / "circuit" / "inverter.sp").read_text()
    assert written == inverter.read_text().replace(".ends", ".ends inverter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".subckt mine z vdd out\n.ends\n", r"ports \(z out vdd\).*mine \(z vdd out\)"),
        (".subckt mine z out\n.ends\n", "mine"),
        ("* nothing\n", "none"),
        ("R1 a b 1\n", "r1 outside any sub-circuit"),
        (".subckt mine z out vdd\n.include 'other.sp'\n.ends\n", r"mine\.sp:2.*other\.sp"),
        (".subckt mine z out vdd\n.ends\n.control\nshell rm x\n.endc\n", r"\.control"),
    ],
)
def test_users_neuron_file_is_checked(tmp_path, text, message):
    path = tmp_path / "mine.sp"
    path.write_text(text)
    circuit = make_circuit([2, 1], neuron=neuron_spec(subcircuit=str(path)))
    with pytest.raises(NetlistError, match=message) as caught:
        write_netlists(circuit, make_inputs(circuit, 1), tmp_path / "run", NgSpiceWriter())
    assert "mine.sp" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_users_files_replace_the_packages(tmp_path):
    neuron = tmp_path / "mine.sp"
    neuron.write_text("* t\n.SUBCKT Mine Z OUT\n+ VDD slope = 3\nR1 z out 'slope'\n.ends\n")
    amplifier = tmp_path / "amp.sp"
    amplifier.write_text(".subckt amp2 plus minus out\nR1 plus out 1\n.ends\n")
    circuit = make_circuit([2, 1], neuron=neuron_spec(subcircuit=str(neuron)))
    writer = HSpiceWriter(amplifier=amplifier)
    run = write_netlists(circuit, make_inputs(circuit, 1), tmp_path / "run", writer)
    text = (run.directory / "circuit" / "layer1.sp").read_text()
    assert "Xneuron1 z1 out1 vddn Mine slope=11.0\n" in text
    assert "Xamplifier1_1 pe1_1 ne1_1 o1_1 amp2\n" in text  # it declares no parameters
    # What was understood is written: without comments, a statement a line.
    assert (run.directory / "circuit" / "mine.sp").read_text() == (
        ".SUBCKT Mine Z OUT VDD slope = 3\nR1 z out 'slope'\n.ends mine\n"
    )


def test_kinds_without_a_netlist(tmp_path):
    circuit = make_circuit([2, 1], neuron=dataclasses.replace(neuron_spec(), kind="table"))
    with pytest.raises(NetlistError, match="no netlist of its own"):
        NgSpiceWriter().circuit_files(circuit)


@pytest.mark.parametrize("name", ["layer 1", "x;y", "../a", "1a", "l'1", "amplifier"])
def test_names_are_checked(name):
    circuit = make_circuit([2, 1])
    layer = dataclasses.replace(circuit.layers[0], name=name)
    with pytest.raises(NetlistError):
        NgSpiceWriter().circuit_files(dataclasses.replace(circuit, layers=(layer,)))


@pytest.mark.parametrize(
    "inputs",
    [torch.zeros(1, 3), torch.zeros(2), torch.zeros(0, 2), torch.tensor([[0.0, torch.nan]])],
)
def test_inputs_are_checked(tmp_path, inputs):
    with pytest.raises(NetlistError, match="inputs"):
        write_netlists(make_circuit([2, 1]), inputs, tmp_path / "run", NgSpiceWriter())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "bad",
    [
        {"analysis": "ac"},
        {"save": "none"},
        {"images_per_netlist": 0},
        {"step": 0.0},
        {"max_step": -1.0},
        {"reltol": float("inf")},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(NetlistError, match=next(iter(bad))):
        NetlistSettings(**bad)


def test_ngspice_is_asked_for_its_faster_solver(tmp_path):
    texts = []
    for name, settings in (("with", NetlistSettings()), ("without", NetlistSettings(klu=False))):
        job = write_netlists(
            make_circuit([2, 1]), torch.zeros(1, 2), tmp_path / name, NgSpiceWriter(), settings
        ).batches[0].job  # fmt: skip
        texts.append(job.netlist.read_text())
    assert [line for line in texts[0].splitlines() if line.endswith(" klu")]
    assert texts[0].replace(" klu\n", "\n") == texts[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("* t\nR1 a\n", ":2"),
        ("* t\nR1 a b 1,5\n", ":2: not a SPICE number"),
        ("* t\n.subckt a b\nR1 a b 1\n", "not closed"),
        ("* t\n.ends\n", "without .subckt"),
        ("* t\n+ 1 2\n", "continuation of nothing"),
        ("* t\n.include 'gone.sp'\n", "gone.sp"),
    ],
)
def test_reading_names_the_line(tmp_path, text, message):
    path = tmp_path / "a.cir"
    path.write_text(text)
    with pytest.raises(NetlistError, match=message):
        parse_netlist(path)


@pytest.mark.parametrize("name", ["-x.sp", "a b.sp", "$(id).sp"])
def test_job_refuses_unsafe_names(tmp_path, name):
    with pytest.raises(NetlistError, match="not accepted"):
        SimulationJob(tmp_path / name)
