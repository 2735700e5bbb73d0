"""FinFETs between memory devices and I± lines: 1T1R, 2T1R, 1TG1R."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_networks import reals
from test_cells import ENDS, compare_with_dense, network_of

import imac_torch as imac
from imac_torch.cells import build_cell, finfet
from imac_torch.cells.finfet import AccessTransistor
from imac_torch.cells.parameters import cell_of_tensors, device_with
from imac_torch.config import Memristor
from imac_torch.dc import curved, sweeps
from imac_torch.errors import ConfigError, NetlistError
from imac_torch.finfet import FinFET, builtin_14nm_hp
from imac_torch.netlist.hspice import HSpiceWriter
from imac_torch.netlist.run import write_netlists

KINDS: dict[str, dict[str, object]] = {
    "1T1R": {"access": {"finfet": {"fins": 2}}},
    "1TG1R-sinh": {"access": {"finfet": {"fins": 1, "p_fins": 1}}, "bend": 0.3},
    "half-open": {"access": {"finfet": {"fins": 1, "gate": 0.5}}},
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def coarse() -> Iterator[None]:
    """Tables that take a tenth of a second, not two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finfet, "STEP", 0.02)
        finfet._table.cache_clear()
        yield
    finfet._table.cache_clear()


def volts(generator: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inner nodes and I± lines; half of them 0.1 V apart at most."""
    end = torch.rand(count, generator=generator, dtype=torch.float64) * 1.4 - 0.7
    near = torch.rand(count, generator=generator, dtype=torch.float64) * 0.2 - 0.1
    node = torch.where(torch.arange(count) % 2 == 0, end + near, -end.flip(0))
    return node, end


def test_currents_are_those_of_the_model_in_both_directions(generator: torch.Generator) -> None:
    access = AccessTransistor(fins=2, p_fins=3)
    node, end = volts(generator, 80)
    into, leak = access.terminals(node, end)
    n, p = builtin_14nm_hp()
    down = FinFET(n, nfin=2).currents(node, 0.8, end, -0.8)
    up = FinFET(p, nfin=3).currents(node, -0.8, end, 0.8)
    torch.testing.assert_close(into, down.drain + up.drain, rtol=1e-12, atol=1e-18)
    torch.testing.assert_close(into + leak, -(down.source + up.source), rtol=1e-12, atol=1e-18)
    # source and drain are what the current makes them: tables are computed on one side only
    other, same = access.terminals(end, node)
    torch.testing.assert_close(other, -into - leak, rtol=0, atol=1e-16)
    torch.testing.assert_close(same, leak, rtol=0, atol=1e-16)
    table = access.currents(node - end, end)
    assert table.leak is not None
    # 4⁴ times what interpolation is off at the step in use, 0.12 nA with 2 fins
    assert float((table.current - into).abs().max()) < 1e-7
    assert float((table.leak - leak).abs().max()) < 1e-12


@pytest.mark.parametrize("name", KINDS)
def test_one_layer_is_the_dense_solution_and_no_ohmic_one(
    generator: torch.Generator, name: str
) -> None:
    compare_with_dense(generator, Memristor(**ENDS, **KINDS[name]))


def test_slopes_of_both_lines(generator: torch.Generator) -> None:
    cell = build_cell(Memristor(**ENDS, **KINDS["1TG1R-sinh"]))
    assert cell is not None
    line, end = volts(generator, 40)
    line, end = line.requires_grad_(), end.requires_grad_()
    g = torch.full_like(line, 2e-4).detach().requires_grad_()
    found = cell.currents(g, line - end, end)
    by_line, by_end, by_g = torch.autograd.grad(found.current.sum(), [line, end, g])
    torch.testing.assert_close(by_line, found.slope, rtol=1e-8, atol=1e-16)
    torch.testing.assert_close(-by_end, found.back, rtol=1e-8, atol=1e-16)
    # by what gates are held at, of which the table knows nothing
    gates = {
        name: torch.tensor(at, dtype=torch.float64, requires_grad=True)
        for name, at in (("access.finfet.gate", 0.7), ("access.finfet.p_gate", -0.6))
    }
    device = device_with(Memristor(**ENDS, **KINDS["1TG1R-sinh"]), gates)
    tabled = build_cell(device)
    assert tabled is not None

    def held(gate: float, p_gate: float) -> torch.Tensor:
        access = {"finfet": {"fins": 1, "p_fins": 1, "gate": gate, "p_gate": p_gate}}
        exact = build_cell(device.replace(access=access))
        assert exact is not None
        with torch.no_grad():
            return exact.exact().currents(g, line - end, end).current.sum()

    current = cell_of_tensors(tabled, gates).currents(g, line - end, end).current.sum()
    by_gate, by_p_gate = torch.autograd.grad(current, list(gates.values()))
    change = (held(0.701, -0.6007) - held(0.699, -0.5993)) / 2e-3  # along one direction of both
    # steps of 1 mV leave 1e-4 of it, the coarse table's slopes weigh it to 1e-3
    assert 0.1 < abs(float(by_gate / by_p_gate)) < 10.0  # neither hides behind the other
    torch.testing.assert_close(by_gate - 0.7 * by_p_gate, change, rtol=3e-3, atol=0)
    step = 1e-5
    with torch.no_grad():
        above, below = (
            cell.currents(g * (1.0 + s), line - end, end).current for s in (step, -step)
        )
    torch.testing.assert_close((above - below) / (2 * step), by_g * g, rtol=1e-5, atol=1e-13)
    open_cell = cell.currents(torch.zeros_like(g), line - end, end)
    assert open_cell.leak is not None
    assert not bool(open_cell.current.any()) and not bool(open_cell.leak.any())


def test_gradients_through_a_network(generator: torch.Generator) -> None:
    network = network_of(generator, Memristor(**ENDS, **KINDS["1T1R"]), 4, 3, 2)
    x, direction = reals(generator, 2, 4), reals(generator, 2, 4)
    tracked = x.clone().requires_grad_()
    network(tracked).sum().backward()
    assert tracked.grad is not None
    step = 1e-4
    with torch.no_grad():
        ahead, behind = (network(x + s * step * direction).sum() for s in (1.0, -1.0))
    # the second difference leaves step², of gradients of about 1
    assert float((tracked.grad * direction).sum() - (ahead - behind) / (2 * step)) == pytest.approx(
        0.0, abs=1e-6
    )


def test_ngspice_has_splines_of_the_model(
    ngspice: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1e-6 V are asked of both together. With nodes 8 mV apart read-outs here are within 1e-7 V of
    # the model, 1.6⁴ times what they are at the step in use
    monkeypatch.setattr(finfet, "STEP", 0.008)
    finfet._table.cache_clear()
    network = network_of(generator, Memristor(**ENDS, **KINDS["1T1R"]), 3, 2)
    x = reals(generator, 1, 3)
    spice = imac.NgSpice(str(ngspice)).bind(network.segment).solve(network.voltages(x))
    with torch.no_grad():
        found = network.solve(x)
    finfet._table.cache_clear()
    torch.testing.assert_close(found.outputs, spice.outputs, rtol=0, atol=1e-6)
    assert found.power is not None and spice.power is not None
    torch.testing.assert_close(found.power.inputs, spice.power.inputs, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.power.bias, spice.power.bias, rtol=1e-5, atol=0)


def test_hspice_has_the_cards(generator: torch.Generator, tmp_path: Path) -> None:
    network = network_of(generator, Memristor(**ENDS, **KINDS["1TG1R-sinh"]), 3, 2)
    inputs = network.voltages(reals(generator, 1, 3))
    write_netlists(network.circuit(), inputs, tmp_path, HSpiceWriter())
    (file,) = (tmp_path / "circuit").glob("access_*.sp")
    text, name = file.read_text(), file.stem
    assert f".global {name}_g {name}_b {name}_gp {name}_bp" in text
    assert f"V{name}_g {name}_g 0 0.8" in text and f"V{name}_gp {name}_gp 0 -0.8" in text
    assert f"Mn a {name}_g b {name}_b nfet l=1.8e-08 nfin=1" in text
    assert f"Mp a {name}_gp b {name}_bp pfet l=1.8e-08 nfin=1" in text
    assert text.count("level=72") == 2
    layer = next((tmp_path / "circuit").glob("layer*.sp")).read_text()
    assert f" {name}\n" in layer and "Xrp1_1a rp1_1m " in layer


def test_a_dialect_without_transistors_is_refused() -> None:
    cell = build_cell(Memristor(access={"finfet": {}}))
    assert cell is not None
    with pytest.raises(NetlistError, match="cells have transistors, and this dialect says"):
        cell.part("none")


def test_gates_follow_supplies_and_temperature_is_the_circuits(generator: torch.Generator) -> None:
    device = Memristor(access={"finfet": {"fins": 4}})
    config = imac.Config(device=device, temperature=320.0)
    config = config.replace(supplies=imac.Supplies(vdd=0.7, vss=-0.5))
    cell = build_cell(config.device, config)
    assert isinstance(cell, imac.cells.Series)
    found = cell.access.bias
    assert (found.gate, found.bulk, found.temperature) == (0.7, -0.5, 320.0)
    assert build_cell(Memristor(access={"finfet": {"gate": 1.0}}), config).access.bias.gate == 1.0
    # a gate at 0.5 V passes no more than what its source follows: 0.8 V at the line, 0 V behind
    end = torch.zeros(1, dtype=torch.float64)
    across = torch.full_like(end, 0.8)
    currents = [
        float(AccessTransistor(fins=1, gate=gate).currents(across, end).current)
        for gate in (0.0, 0.5, 0.8)
    ]
    assert currents[0] < 1e-7 and currents[1] < 0.5 * currents[2]


def test_settings_are_read_saved_and_refused(generator: torch.Generator, tmp_path: Path) -> None:
    from imac_torch.config.assignment import apply_overrides, parse_assignment

    changes = ["device.access.finfet.gate=1.1V", "device.access.finfet.p_fins=2"]
    config = apply_overrides(imac.Config(), dict(map(parse_assignment, changes)))
    assert config.device.access == {"finfet": {"gate": 1.1, "p_fins": 2}}
    config.save(tmp_path / "circuit.toml")
    assert imac.Config.load(tmp_path / "circuit.toml") == config
    network = network_of(generator, Memristor(**ENDS, **KINDS["half-open"]), 3, 2)
    imac.save(network, tmp_path / "saved.safetensors")
    x = reals(generator, 2, 3)
    with torch.no_grad():
        again = imac.load(tmp_path / "saved.safetensors")(x)
        torch.testing.assert_close(again, network(x), rtol=0, atol=0)
    for settings, message in (
        ({"fins": 0}, "a cell has one at least"),
        ({"node": 7}, "only the 14 nm hp transistor is built in"),
        ({"fins": 1.5}, "fins"),
    ):
        with pytest.raises(ConfigError, match=message):
            Memristor(access={"finfet": settings})


def test_beyond_the_supplies_nothing_is_known() -> None:
    cell = build_cell(Memristor(access={"finfet": {}}))
    assert cell is not None
    across = torch.tensor([0.5, 0.5, 0.2], dtype=torch.float64)
    end = torch.tensor([0.1, 0.5, -1.0], dtype=torch.float64)
    inside = cell.inside(across, end)
    assert inside is not None and inside.tolist() == [True, False, False]
    exact = replace(cell, access=replace(cell.access, fins=2)).exact()
    assert not exact.access.bias.tabulated


@pytest.mark.parametrize("bend", [None, 0.2])
def test_compiled_cells_are_those_of_torch(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, bend: float | None
) -> None:
    cell = build_cell(Memristor(**ENDS, bend=bend, access={"finfet": {"fins": 1}}))
    assert cell is not None
    line, end = volts(generator, 60)
    g = torch.linspace(0.0, 3e-4, 60, dtype=torch.float64)
    with torch.no_grad():
        compiled = cell.currents(g, line - end, end)
        monkeypatch.setattr(AccessTransistor, "in_series", lambda *given: None)
        ours = cell.currents(g, line - end, end)
    for found, wanted in zip(compiled, ours, strict=True):
        # both stop where a step was 1e-8 V: its square over 0.1 V is left
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-16)


def test_newton_goes_on_from_where_sweeps_ended(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Memristor(rlow=2.5e3, rhigh=1e5, access={"finfet": {"fins": 2}})
    network = network_of(generator, device, 6, 24, 20, kind="finfet")
    inputs = reals(generator, 3, 6) * 0.4
    monkeypatch.setattr(sweeps, "SWEEPS", 30)
    with torch.no_grad():
        onward = network.solve(inputs)
        monkeypatch.setattr(curved, "NEARBY", -1.0)
        rested = network.solve(inputs)
    assert bool(onward.converged.all() & rested.converged.all())
    assert bool((onward.iterations > 30).all())  # sweeps alone were not enough
    assert bool((onward.iterations < rested.iterations).all())
    # what the last steps leave, here and there, is 1e-9 V at most
    torch.testing.assert_close(onward.outputs, rested.outputs, rtol=0, atol=2e-9)
