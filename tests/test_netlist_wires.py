"""Wires so short that a nodal matrix in double precision cannot hold them."""

from __future__ import annotations

import math

import pytest
import torch
from small_networks import LOGISTIC, loader, mlp, signs

from imac_torch import Crossbar, Interconnect, Memristor, NgSpice, compile, convert, evaluate
from imac_torch.circuit.topology import SHORTEST_WIRE
from imac_torch.netlist import NetlistSettings

pytestmark = pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")

CROSSBAR = Crossbar(rows=3, columns=4)


def network(resistivity, **sections):
    sections |= {"interconnect": Interconnect(resistivity=resistivity), "crossbar": CROSSBAR}
    return convert(mlp(6, 4, 3), LOGISTIC.replace(**sections))


@pytest.mark.parametrize("resistivity", [1e-30, 1e-20, 1e-17, 1e-14, 1e-13, 1e-12, 1e-11])
def test_ngspice_agrees_whatever_the_resistance(ngspice, resistivity):
    """Either error is a part of at most 0.7e-8·n of a line's voltage (SHORTEST_WIRE), n <= 6.

    Amplifiers make up to 30 times as much of it, two layers follow each other: below 1e-6 V.
    """
    item, pairs = network(resistivity), loader(signs(2, 6))
    native = evaluate(item, pairs, progress=False).outputs
    simulated = evaluate(item, pairs, engine=NgSpice(str(ngspice)), progress=False).outputs
    assert float((simulated - native).abs().max()) < 1e-6


def test_the_limit_is_where_both_errors_are_equal():
    """2^-53/(R·g) = R·g·n²/2 at R = SHORTEST_WIRE/(n·g), whatever n and g."""
    for count, conductance in ((3, 1e-5), (400, 2e-3)):
        wire = SHORTEST_WIRE / (count * conductance)
        rounding = 2.0**-53 / (wire * conductance)
        assert rounding == pytest.approx(wire * conductance * count**2 / 2, rel=1e-12)


@pytest.mark.parametrize("rlow", [78e3, 780.0])
def test_wires_below_the_limit_are_nodes_and_the_netlist_says_so(tmp_path, rlow):
    device = Memristor(rlow=rlow, rhigh=2 * rlow)
    segment = float(network(1e-10, device=device).circuit().layers[0].elements[0].values[0])
    # The first layer's input lines have at most 2 rows of 2 cells, its I± lines 4 cells.
    limit = SHORTEST_WIRE * rlow / 4
    below, above = (
        network(1e-10 * limit / segment * factor, device=device) for factor in (0.79, 1.3)
    )
    settings = NetlistSettings(analysis="dc")
    for item, kept in ((below, False), (above, True)):
        layer = item.circuit().layers[0]
        assert any(array.name == "a" for array in layer.node_arrays) is kept
        deck = compile(item, loader(signs(1, 6)), tmp_path / str(kept), settings=settings)
        text = (deck.directory / "circuit" / "layer1.sp").read_text()
        assert ("are no elements" in text) is not kept
    assert not network(1.9e-8).circuit().layers[0].notes


def test_hspice_is_told_of_resistors_below_its_default_smallest(tmp_path):
    """RESMIN is 1e-5 ohm by default; between cells of 780 ohm wires of 3e-6 ohm are elements."""
    device = Memristor(rlow=780.0, rhigh=1560.0)
    for resistivity, told in ((6e-15, True), (1.9e-8, False)):
        item = network(resistivity, device=device)
        resistors = [e for e in item.circuit().layers[0].elements if e.name == "rw"]
        assert len(resistors) == 1
        deck = compile(item, loader(signs(1, 6)), tmp_path / str(told), dialect="hspice")
        text = deck.run_files.batches[0].job.netlist.read_text()
        assert (".option resmin=1e-15" in text) is told
    assert math.isfinite(float(torch.as_tensor(resistors[0].values).min()))
