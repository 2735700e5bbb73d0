"""The stamped circuit against hand-calculated ones and conservation of current."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dense_network import VDD, behavioural, circuit_of, random_layers, signs, solve_dense

import imac_torch.reference.nodal
from imac_torch.errors import SolverError
from imac_torch.reference.nodal import solve_layer, stamp


def test_one_cell_by_hand():
    """Ideal wires, one input without bias current: two dividers and the amplifier."""
    layers = random_layers([1, 1], behavioural(), ideal="both", gain=10.0)
    spec = layers[0][0]
    spec.conductances.positive.copy_(torch.tensor([[1e-4, 0.0]], dtype=torch.float64))
    spec.conductances.negative.copy_(torch.tensor([[0.5e-4, 0.0]], dtype=torch.float64))
    layer = circuit_of(layers).layers[0]
    nodes = solve_layer(layer, torch.tensor([[0.8]], dtype=torch.float64), VDD)[0]
    plus = 0.8 * 11e3 / (11e3 + 10e3)  # 10 kΩ into R2 + R4 = 11 kΩ
    virtual = plus * 10 / 11
    minus = (0.8 / 20e3 + virtual / 1e3) / (1 / 20e3 + 1 / 1e3)
    named = dict(zip(layer.node_names().tolist(), nodes.tolist()))
    assert named["pe1_1"] == pytest.approx(plus, rel=1e-14)
    assert named["ne1_1"] == pytest.approx(minus, rel=1e-14)
    assert named["o1_1"] == pytest.approx(10 * (plus - minus), rel=1e-12)
    assert named["z1"] == pytest.approx(named["o1_1"])
    assert named["vdd"] == VDD and named["0"] == 0.0
    assert np.isnan(named["out1"])


@pytest.mark.parametrize("combine", ["average", "sum"])
def test_every_node_equals_the_op_amp_circuit(combine):
    layers = random_layers([5, 4], behavioural(), columns=3, rows=2, combine=combine, opened=0.2)
    circuit = circuit_of(layers)
    inputs = signs(2, 5)
    found = solve_layer(circuit.layers[0], inputs, VDD)
    for image in range(2):
        dense = solve_dense(circuit, inputs[image].numpy())
        for name, node in zip(circuit.layers[0].node_names(), found[image].tolist()):
            if not name.startswith("out"):
                assert node == pytest.approx(dense.nodes[f"layer1.{name}"], abs=1e-11), name


def test_stamp_conserves_current():
    layer = circuit_of(random_layers([4, 3], behavioural(), columns=2)).layers[0]
    matrix = stamp(layer).dense().numpy()
    # Equal voltages of all nodes, ground included, drive no current: every element's current
    # depends on differences.
    read_outs = layer.read_outs
    assert np.abs(np.delete(matrix.sum(1), 0)).max() < 1e-15
    # The I+ end has R2 + R4 to ground, the I- end R1 to alpha times the I+ end.
    plus, minus = read_outs.nodes[:, 0], read_outs.nodes[:, 1]
    gain = float(read_outs.read_out.gain)
    np.testing.assert_allclose(matrix[plus, 0], -1e-3 / (1 + gain), rtol=1e-14)
    np.testing.assert_allclose(matrix[minus, 0], -1e-3 / (1 + gain), rtol=1e-14)
    np.testing.assert_allclose(matrix[minus, plus], -1e-3 * gain / (1 + gain), rtol=1e-14)


def test_large_layers_are_refused(monkeypatch):
    monkeypatch.setattr(imac_torch.reference.nodal, "DENSE_LIMIT", 10)
    layer = circuit_of(random_layers([4, 3], behavioural())).layers[0]
    with pytest.raises(SolverError, match="nodes"):
        solve_layer(layer, signs(1, 4), VDD)
