"""Cells whose gate the input line holds: FeFET, flash, the read path of SOT-MRAM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_networks import reals
from test_cells import ENDS, compare_with_ngspice, network_of

import imac_torch as imac
from imac_torch.cells import build_cell, finfet, gated
from imac_torch.cells.gated import ReadTransistor
from imac_torch.config import Memristor
from imac_torch.errors import ConfigError
from imac_torch.finfet import FinFET, builtin_14nm_hp
from imac_torch.netlist.hspice import HSpiceWriter
from imac_torch.netlist.run import write_netlists
from imac_torch.reference.nonlinear import solve_nonlinear

KINDS: dict[str, dict[str, object]] = {
    "fefet": {"cell": {"fefet": {"specific_current": 2e-6}}},
    "sot": {"access": {"read_transistor": {"fins": 2}}},
    "sot-mtj": {"access": {"read_transistor": {"fins": 2}}, "cell": {"mtj": {"vh": 0.4}}},
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def coarse() -> Iterator[None]:
    """Tables that take a tenth of a second, not some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finfet, "STEP", 0.02)
        gated._table.cache_clear()
        yield
    gated._table.cache_clear()


@pytest.mark.parametrize("name", KINDS)
def test_two_layers_are_the_dense_solution(generator: torch.Generator, name: str) -> None:
    network = network_of(generator, Memristor(**ENDS, **KINDS[name]), 4, 3, 2)
    x = reals(generator, 2, 4)
    with torch.no_grad():
        found = network.solve(x)
    assert bool(found.converged.all())
    cell = build_cell(network.config.device, network.config)
    assert cell is not None and cell.gated
    first, second = found.layers
    dense = solve_nonlinear(network.circuit().layers[0], network.voltages(x), 0.8, cell)
    torch.testing.assert_close(first.combined, dense.combined, rtol=0, atol=1e-9)
    assert not bool(dense.input_current.abs().max() > 1e-15)
    # gates draw nothing from the neurons in front of them
    after = solve_nonlinear(network.circuit().layers[1], second.inputs, 0.8, cell)
    torch.testing.assert_close(second.combined, after.combined, rtol=0, atol=1e-9)
    assert found.power is not None
    assert float(found.power.inputs.abs().max()) < 1e-15 < 1e-5 < float(found.power.bias.min())


@pytest.mark.parametrize("name", KINDS)
def test_slopes_and_gradients(generator: torch.Generator, name: str) -> None:
    cell = build_cell(Memristor(**ENDS, **KINDS[name]))
    assert cell is not None
    line = torch.linspace(-0.3, 0.8, 12, dtype=torch.float64)
    end = torch.linspace(0.0, 0.5, 12, dtype=torch.float64).flip(0).requires_grad_()
    g = torch.full_like(line, 2e-4).requires_grad_()
    line.requires_grad_()
    found = cell.currents(g, line - end, end)
    assert found.leak is not None and not bool(found.current.any())
    by_line, by_end, by_g = torch.autograd.grad(found.leak.sum(), [line, end, g])
    torch.testing.assert_close(-by_end, found.back, rtol=1e-8, atol=1e-16)
    step = 1e-5
    with torch.no_grad():
        for by, shifted in (
            (by_line, lambda s: (g, line + s - end)),
            (by_g * g, lambda s: (g * (1 + s), line - end)),
        ):
            leaks = [cell.currents(*shifted(s), end).leak for s in (step, -step)]
            assert leaks[0] is not None and leaks[1] is not None
            torch.testing.assert_close(
                (leaks[0] - leaks[1]) / (2 * step), by, rtol=1e-5, atol=1e-12
            )


@pytest.mark.parametrize("name", ["fefet", "sot"])
def test_gradients_through_a_network(generator: torch.Generator, name: str) -> None:
    network = network_of(generator, Memristor(**ENDS, **KINDS[name]), 4, 3, 2)
    x, direction = (0.8 * reals(generator, 2, 4).abs() for _ in range(2))
    tracked = x.clone().requires_grad_()
    network(tracked).sum().backward()
    assert tracked.grad is not None and float(tracked.grad.abs().max()) > 1e-2
    step = 1e-4
    with torch.no_grad():
        ahead, behind = (network(x + s * step * direction).sum() for s in (1.0, -1.0))
        whole, alone = network(x), network(x[:1])
    # gates bend over 50 mV: step²/6 over its square is 1e-6
    wanted = float(ahead - behind) / (2 * step)
    assert float((tracked.grad * direction).sum()) == pytest.approx(wanted, abs=1e-5)
    torch.testing.assert_close(alone, whole[:1], rtol=0, atol=1e-9)


def test_fefets_are_what_ngspice_finds(ngspice: Path, generator: torch.Generator) -> None:
    compare_with_ngspice(ngspice, generator, Memristor(**ENDS, **KINDS["fefet"]), 5, 4, 3)


def test_a_state_is_the_saturated_current_at_a_full_input() -> None:
    cell = build_cell(Memristor(cell={"flash": {"specific_current": 1e-7}}))
    assert cell is not None
    g = torch.tensor([0.0, 1e-9, 1e-6, 5e-6], dtype=torch.float64)
    zero = torch.zeros_like(g)
    found = cell.currents(g, zero + 0.8, zero)
    assert found.leak is not None
    # the reverse current is exp(-0.8 V/kT/q) of the forward one where gates are below the drain
    torch.testing.assert_close(found.leak[:3], 0.8 * g[:3], rtol=1e-3, atol=0)
    off = cell.currents(g, zero - 0.8, zero).leak
    assert off is not None and float(off.max()) < 1e-3 * float(found.leak[-1])


def test_the_transistor_is_the_model(
    ngspice: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    access = ReadTransistor(fins=2)
    gate = torch.linspace(0.0, 0.8, 30, dtype=torch.float64)
    source = 0.4 * torch.rand(30, generator=generator, dtype=torch.float64)
    model = FinFET(builtin_14nm_hp()[0], nfin=2).currents(0.8, gate, source, 0.0)
    assert float((access.currents(0.8 - source, gate).current + model.source).abs().max()) < 1e-6
    torch.testing.assert_close(
        access.exact().currents(0.8 - source, gate).current, -model.source, rtol=1e-9, atol=0
    )
    network = network_of(generator, Memristor(**ENDS, **KINDS["sot"]), 3, 2)
    x = reals(generator, 1, 3)
    spice = imac.NgSpice(str(ngspice)).bind(network.segment).solve(network.voltages(x))
    monkeypatch.setattr(finfet, "STEP", 0.005)
    gated._table.cache_clear()
    with torch.no_grad():
        found = network.solve(x)
    gated._table.cache_clear()
    # 1e-6 V are asked of both together
    torch.testing.assert_close(found.outputs, spice.outputs, rtol=0, atol=1e-6)
    assert found.power is not None and spice.power is not None
    torch.testing.assert_close(found.power.bias, spice.power.bias, rtol=1e-5, atol=0)
    write_netlists(network.circuit(), network.voltages(x), tmp_path, HSpiceWriter())
    (file,) = (tmp_path / "circuit").glob("read_*.sp")
    assert "Mn vdd b a 0 nfet l=1.8e-08 nfin=2" in file.read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": {"fefet": {"specific_current": -1.0}}}, "must be positive"),
        ({"access": {"read_transistor": {"fins": 0}}}, "a cell has one at least"),
        ({"access": {"read_transistor": {"node": 7}}}, "only the 14 nm hp transistor"),
    ],
)
def test_settings_that_make_no_cell_say_why(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Memristor(**settings)


def test_two_gates_are_one_too_many() -> None:
    device = Memristor(**KINDS["fefet"], access={"finfet": {}})
    with pytest.raises(ConfigError, match="there is no place for"):
        build_cell(device)
