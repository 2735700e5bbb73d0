"""The neutral circuit: topology by hand for a small layer, and by counting for large ones."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from netlist_oracle import dense_solution, make_circuit, make_inputs, neuron_spec

from imac_torch import Amplifier, Config, Crossbar, Interconnect
from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.circuit.topology import GROUND, SUPPLY, Circuit, build_layer
from imac_torch.circuit.wires import input_line_capacitances, output_line_capacitance
from imac_torch.errors import CircuitError
from imac_torch.mapping.quantization import ConductancePair

RIN, ROUT = 9.241569080232852, 11.551961350291066  # Ω, see test_wires


def layer(rows, columns, *, conductances=None, config=None, name="layer1"):
    """A layer whose memristors all differ: cell (r, c) has 10·r + c kΩ, its partner 500 Ω more."""
    config = Config() if config is None else config
    if conductances is None:
        r = torch.arange(1, rows + 1, dtype=torch.float64)[:, None]
        c = torch.arange(1, columns + 1, dtype=torch.float64)
        ohms = 1e3 * (10 * r + c)
        conductances = ConductancePair(1 / ohms, 1 / (ohms + 500))
    spec = build_crossbar(conductances, config, 10.0)
    return build_layer(name, spec, neuron_spec(), config)


def elements(circuit, kind="resistor"):
    """``{name: (one end, other end, value)}`` with node names."""
    names = circuit.node_names().tolist()
    found = {}
    for array in circuit.elements:
        if array.kind != kind:
            continue
        for label, (a, b), value in zip(
            array.labels.tolist(), array.nodes.tolist(), array.values.tolist(), strict=True
        ):
            key = array.name + "_".join(map(str, label))
            assert key not in found, f"{key} twice"
            found[key] = (names[a], names[b], value)
    return found


def test_small_layer_by_hand():
    """2 outputs, 2 inputs and a bias; two horizontal partitions (columns 1-2 and 3)."""
    config = Config(crossbar=Crossbar(horizontal=2, vertical=1))
    found = elements(layer(2, 3, config=config))
    ends = {key: value[:2] for key, value in found.items()}
    expected = {}
    for r in (1, 2):
        for c, pin in ((1, "in1"), (2, "in2"), (3, "vdd")):
            # input lines: from the pin through row 1 to row 2
            expected[f"rw{r}_{c}"] = (pin if r == 1 else f"a1_{c}", f"a{r}_{c}")
            for side in ("p", "n"):
                expected[f"r{side}{r}_{c}"] = (f"a{r}_{c}", f"{side}{r}_{c}")
        for side in ("p", "n"):
            # column 1 leads to column 2, which ends at the first amplifier; 3 at the second
            expected[f"rw{side}{r}_1"] = (f"{side}{r}_1", f"{side}{r}_2")
            expected[f"rw{side}{r}_2"] = (f"{side}{r}_2", f"{side}e{r}_1")
            expected[f"rw{side}{r}_3"] = (f"{side}{r}_3", f"{side}e{r}_2")
        for h in (1, 2):
            expected[f"ro{r}_{h}"] = (f"o{r}_{h}", f"z{r}")
    assert ends == expected
    values = {key: value[2] for key, value in found.items()}
    assert values["rp2_3"] == pytest.approx(23e3, rel=1e-15)
    assert values["rn1_2"] == pytest.approx(12.5e3, rel=1e-15)
    assert values["rw1_1"] == pytest.approx(RIN, rel=1e-12)
    assert values["rwp1_1"] == values["rwn2_3"] == pytest.approx(ROUT, rel=1e-12)
    assert values["ro1_1"] == 1e-3


def test_every_vertical_partition_starts_at_the_input():
    config = Config(crossbar=Crossbar(horizontal=1, vertical=2))
    found = elements(layer(5, 3, config=config))
    # ends (3, 5): rows 1-3 and 4-5
    sources = {r: found[f"rw{r}_1"][0] for r in range(1, 6)}
    assert sources == {1: "in1", 2: "a1_1", 3: "a2_1", 4: "in1", 5: "a4_1"}
    assert {r: found[f"rw{r}_3"][0] for r in range(1, 6)}[4] == "vdd"


def test_amplifiers_and_neurons():
    config = Config(crossbar=Crossbar(horizontal=2))
    built = layer(2, 3, config=config)
    names = built.node_names()
    assert [[str(n) for n in names[nodes]] for nodes in built.read_outs.nodes] == [
        [f"pe{r}_{h}", f"ne{r}_{h}", f"o{r}_{h}"] for r in (1, 2) for h in (1, 2)
    ]
    assert (built.read_outs.read_out.gain, built.read_outs.read_out.resistance) == (10.0, 1e3)
    assert [[str(n) for n in names[nodes]] for nodes in built.neurons.nodes] == [
        ["z1", "out1"], ["z2", "out2"]
    ]  # fmt: skip
    assert built.sums is None
    assert names[GROUND] == "0"
    assert names[SUPPLY] == "vdd"
    assert [str(n) for n in names[built.inputs]] == ["in1", "in2"]
    assert [str(n) for n in names[built.outputs]] == ["out1", "out2"]
    assert len(set(names.tolist())) == built.node_count


def test_summed_partitions():
    config = Config(crossbar=Crossbar(horizontal=2), amplifier=Amplifier(combine="sum"))
    built = layer(2, 3, config=config)
    names = built.node_names()
    assert built.sums is not None
    assert [[str(n) for n in names[row]] for row in built.sums.terms] == [
        ["o1_1", "o1_2"], ["o2_1", "o2_2"]
    ]  # fmt: skip
    assert [str(n) for n in names[built.sums.outputs]] == ["z1", "z2"]
    assert not any(key.startswith("ro") for key in elements(built))


def test_ideal_wires_merge_nodes():
    built = layer(2, 3, config=Config(interconnect=Interconnect(resistance=False)))
    found = elements(built)
    assert not any(key.startswith("rw") for key in found)
    assert found["rp1_3"][:2] == ("vdd", "pe1_1")
    assert found["rn2_1"][:2] == ("in1", "ne2_1")
    with pytest.raises(CircuitError, match="no nodes 'a'"):
        built.array("a")


def test_open_cells_are_no_elements():
    conductance = torch.tensor([[1e-5, 0.0, 1e-5], [0.0, 0.0, 1e-5]], dtype=torch.float64)
    built = layer(2, 3, conductances=ConductancePair(conductance, conductance.flip(0)))
    found = elements(built)
    assert sorted(key for key in found if key.startswith("rp")) == ["rp1_1", "rp1_3", "rp2_3"]
    assert sorted(key for key in found if key.startswith("rn")) == ["rn1_3", "rn2_1", "rn2_3"]
    assert all(np.isfinite(array.values).all() for array in built.elements)


def test_capacitances():
    config = Config(crossbar=Crossbar(columns=2), interconnect=Interconnect(capacitance=True))
    found = elements(layer(2, 3, config=config), "capacitor")
    assert len(found) == 3 * 2 * 3
    assert {value[1] for value in found.values()} == {"0"}
    # columns 1 and 2 share an array, the bias is alone in its own
    pair, lone = (input_line_capacitances(config.interconnect, n) for n in (2, 1))
    for r in (1, 2):
        assert found[f"cw{r}_1"] == (f"a{r}_1", "0", float(pair[0]))
        assert found[f"cw{r}_3"] == (f"a{r}_3", "0", float(lone[0]))
    assert found["cwp2_2"] == ("p2_2", "0", output_line_capacitance(config.interconnect))
    assert not elements(layer(2, 3), "capacitor")


@pytest.mark.parametrize(
    ("sizes", "rows", "columns"), [((400, 120, 84, 10), 32, 32), ((17, 33, 5), 4, 8)]
)
def test_counts(sizes, rows, columns):
    circuit = make_circuit(sizes, rows=rows, columns=columns)
    for built, (inputs, outputs) in zip(circuit.layers, pairwise(sizes), strict=True):
        cells = outputs * (inputs + 1)
        parts = -(-(inputs + 1) // columns)
        counts = {
            prefix: sum(len(a.values) for a in built.elements if a.name == prefix)
            for prefix in ("rp", "rn", "rw", "rwp", "rwn", "ro")
        }
        assert counts == {
            "rp": cells, "rn": cells, "rw": cells, "rwp": cells, "rwn": cells,
            "ro": outputs * parts,
        }  # fmt: skip
        assert len(built.read_outs.nodes) == outputs * parts
        # ground, vdd; pins, outputs, neuron inputs; a, p, n per cell; both ends, output per part
        assert built.node_count == 2 + inputs + 2 * outputs + 3 * cells + 3 * outputs * parts
        for array in built.elements:
            assert array.nodes.min() >= 0
            assert array.nodes.max() < built.node_count
            assert (array.nodes[:, 0] != array.nodes[:, 1]).all()
            assert np.isfinite(array.values).all()
            assert (array.values > 0).all()


def test_every_node_hangs_on_something():
    """No floating node: every node but ground is an end of an element, amplifier or neuron."""
    for built in make_circuit([6, 5, 3], rows=2, columns=3).layers:
        touched = np.concatenate(
            [
                *(array.nodes.ravel() for array in built.elements),
                built.read_outs.nodes.ravel(),
                built.neurons.nodes.ravel(),
            ]
        )
        assert sorted(set(touched.tolist()) | {GROUND}) == list(range(built.node_count))


def test_layers_must_chain():
    first, second = layer(2, 3), layer(4, 6, name="layer2")
    timing = Config().timing
    with pytest.raises(CircuitError, match="layer1 has 2 outputs, layer2 has 5 inputs"):
        Circuit((first, second), 0.8, timing)
    with pytest.raises(CircuitError, match="at least one layer"):
        Circuit((), 0.8, timing)


def test_samples_must_be_chosen():
    conductance = torch.full((3, 2, 4), 1e-5, dtype=torch.float64)
    with pytest.raises(CircuitError, match=r"layer1: .*one sample"):
        layer(2, 4, conductances=ConductancePair(conductance, conductance))


def test_circuit_solves_to_its_ideal_formula():
    """Ideal wires, one partition: z = gain·(v+ - v-) with both dividers worked by hand."""
    circuit = make_circuit([5, 3], kind="identity", interconnect=Interconnect(resistance=False))
    inputs = make_inputs(circuit, 1)[0].numpy()
    voltages, _, _ = dense_solution(circuit, inputs)
    found = elements(circuit.layers[0])
    lines = [*inputs, 0.8]
    for r in (1, 2, 3):
        g = {
            side: np.array([1 / found[f"r{side}{r}_{c}"][2] for c in range(1, 7)])
            for side in ("p", "n")
        }
        # I+ ends on R2 + R4 = 11 kΩ to ground; I- on R1 = 1 kΩ to 10/11 of the I+ end.
        plus = float(g["p"] @ lines) / (g["p"].sum() + 1 / 11e3)
        minus = (float(g["n"] @ lines) + 10 / 11 * plus / 1e3) / (g["n"].sum() + 1 / 1e3)
        # The neuron draws nothing and its output is not loaded; Newton is exact to 1e-10 V.
        assert voltages[f"layer1.z{r}"] == pytest.approx(10 * (plus - minus), abs=1e-9)
        assert math.isclose(voltages[f"layer1.out{r}"], voltages[f"layer1.z{r}"], abs_tol=1e-9)
