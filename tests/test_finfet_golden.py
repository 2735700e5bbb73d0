"""Currents and charges of the 14 nm FinFETs against the stored reference, and PTM-MG's targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from imac_torch.finfet import PTM_NODES, FinFET, builtin_14nm_hp, inverter_currents, load_ptm

VDD = 0.8
# The reference keeps a few smoothing terms of the model's Verilog-A (of the order of 1e-6 of a
# velocity or an exponent) that the manual's equations do not have; their effect on a current is
# below 2e-7, on a tunnelling current, exponential in the charge, below 3e-6.
RTOL = 1e-6
RTOL_TUNNELLING = 1e-5
ATOL = 1e-12


@pytest.fixture(scope="module")
def pair():
    n, p = builtin_14nm_hp()
    return FinFET(n, nfin=10), FinFET(p, nfin=10)


@pytest.fixture
def golden(shared):
    with np.load(shared / "golden" / "finfet_14nm_hp.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def grid(golden, prefix=""):
    return golden[f"{prefix}gate_voltage"][:, None], golden[f"{prefix}drain_voltage"][None, :]


@pytest.mark.parametrize(("index", "suffix", "sign"), [(0, "n", 1.0), (1, "p", -1.0)])
def test_currents(pair, golden, index, suffix, sign):
    gate, drain = grid(golden)
    i = pair[index].currents(sign * drain, sign * gate)
    torch.testing.assert_close(i.drain, golden[f"id_{suffix}"], rtol=RTOL, atol=ATOL)
    torch.testing.assert_close(i.gate, golden[f"ig_{suffix}"], rtol=RTOL, atol=1e-20)


@pytest.mark.parametrize(("index", "suffix", "sign"), [(0, "n", 1.0), (1, "p", -1.0)])
def test_charges(pair, golden, index, suffix, sign):
    gate, drain = grid(golden)
    q = pair[index].charges(sign * drain, sign * gate)
    # 1e-24 C is a millionth of the charge of 1 mV on the gate.
    for name, value in (("g", q.gate), ("d", q.drain), ("s", q.source)):
        torch.testing.assert_close(value, golden[f"q{name}_{suffix}"], rtol=RTOL, atol=1e-24)


@pytest.mark.parametrize(("index", "suffix"), [(0, "n"), (1, "p")])
def test_series_resistance(pair, golden, index, suffix):
    expected = golden[f"source_resistance_{suffix}"]
    # closed formulas of the same constants: only rounding
    for value in (pair[index].source_resistance, pair[index].drain_resistance):
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("prefix", ["", "wide_"])
def test_inverter_output_current(pair, golden, prefix):
    gate, out = grid(golden, prefix)
    n, p = pair
    current, _, _ = inverter_currents(n, p, gate, out, VDD)
    # The output current is a difference: its error is relative to the two currents.
    size = n.currents(out, gate).drain.abs() + p.currents(out, gate, VDD, VDD).drain.abs()
    error = (current - golden[f"{prefix}inverter_output_current"]).abs()
    assert bool((error <= RTOL * size + ATOL).all())


def test_inverter_gate_current(pair, golden):
    gate, out = grid(golden, "wide_")
    _, current, _ = inverter_currents(*pair, gate, out, VDD)
    expected = golden["wide_inverter_gate_current"]
    # spans 32 decades, up to 1e15 A; 1e-16 A is where the two devices cancel
    torch.testing.assert_close(current, expected, rtol=RTOL_TUNNELLING, atol=1e-16)


def test_published_figures(pair):
    """Figures of the 14 nm pair per fin, at the number of digits they are stated with."""
    n, p = pair
    on = torch.tensor(VDD, dtype=torch.float64)
    assert n.currents(on, on).drain.item() / 10 == pytest.approx(94.15e-6, abs=0.005e-6)
    assert p.currents(-on, -on).drain.item() / 10 == pytest.approx(-86.50e-6, abs=0.005e-6)
    assert n.currents(on, 0.0).drain.item() / 10 == pytest.approx(5.21e-9, abs=0.005e-9)
    assert p.currents(-on, 0.0).drain.item() / 10 == pytest.approx(-5.02e-9, abs=0.005e-9)


NOMINAL = {20: 0.9, 16: 0.85, 14: 0.8, 10: 0.75, 7: 0.7}


@pytest.mark.parametrize("node", PTM_NODES)
@pytest.mark.parametrize(("flavour", "target"), [("hp", 0.1), ("lstp", 1e-4)])
def test_off_current_targets(shared, node, flavour, target):
    """PTM-MG's published off current in A/m; 8 % is what its own fit of the cards leaves."""
    for card, sign in zip(load_ptm(shared / "ptm", node, flavour), (1.0, -1.0), strict=True):
        width = 2 * card.parameters["hfin"] + card.parameters["tfin"]
        device = FinFET(card, temperature=300.15)
        off = sign * device.currents(sign * NOMINAL[node], 0.0).drain.item()
        assert off / width == pytest.approx(target, rel=0.08)


def test_all_cards_stay_finite_far_outside(shared, generator):
    """Values and gradients at random corners of ±10 V: smallest, middle and largest node."""
    for node, flavour in ((min(PTM_NODES), "hp"), (14, "lstp"), (max(PTM_NODES), "hp")):
        for card in load_ptm(shared / "ptm", node, flavour):
            check_finite(FinFET(card, nfin=10), generator, 30)


def check_finite(device, generator, count):
    bias = 20.0 * torch.rand(4, count, generator=generator, dtype=torch.float64) - 10.0
    corners = torch.cartesian_prod(*[torch.tensor([-10.0, 0.0, 10.0], dtype=torch.float64)] * 4)
    bias = torch.cat([bias, corners.T], dim=1).requires_grad_()
    assert bool(device.internal_nodes(*bias).converged.all())
    i, q = device.currents(*bias), device.charges(*bias)
    values = torch.stack([*vars(i).values(), *vars(q).values()])
    assert bool(values.isfinite().all())
    # One that is not finite would not be in a sum either.
    (gradient,) = torch.autograd.grad(values.sum(), bias)
    assert bool(gradient.isfinite().all())
