"""Bit cells that are no resistors: each kind against ngspice, gradients, access devices, tables."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_networks import drawn, reals
from torch import nn

import imac_torch as imac
from imac_torch.cells import Series, build_cell, measured_device
from imac_torch.config import Memristor
from imac_torch.config.kinds import CELL_KINDS
from imac_torch.errors import ConfigError, ConversionError, SolverError
from imac_torch.model.device_numbers import config_with
from imac_torch.reference.nonlinear import solve_nonlinear

PLUGIN = Path(__file__).parent / "plugins" / "steepening_cell.py"
ENDS = {"rlow": 4e3, "rhigh": 40e3}  # low resistances: wires, loading and access devices matter
TABLE = {
    "voltages": [-2.5, -1.0, -0.4, 0.0, 0.3, 0.9, 2.5],
    "currents_by_state": [
        [-3e-4, -6e-5, -1.2e-5, 0.0, 9e-6, 5e-5, 2.8e-4],
        [-9e-4, -2.9e-4, -1.05e-4, 0.0, 7.9e-5, 2.6e-4, 9e-4],
    ],
}
KINDS: dict[str, dict[str, object]] = {
    "mtj": {"cell": {"mtj": {"vh": 0.4}}},
    "pcm": {"cell": {"pcm": {"spacings": 3.0}}},
    "table": {"cell": {"table": TABLE}},
    "diode": {"access": {"diode": {"saturation": 1e-9, "v0": 0.05, "leakage": 1e-7}}},
    "selector": {"access": {"selector": {"scale": 1e-6, "v0": 0.1}}},
    "sinh-resistor": {"bend": 0.3, "access": {"resistor": {"resistance": 3e3}}},
    "sinh-selector": {"bend": 0.3, "access": {"selector": {"scale": 1e-6, "v0": 0.1}}},
}  # fmt: skip


def network_of(
    generator: torch.Generator,
    device: Memristor,
    *sizes: int,
    kind: str = "logistic",
    vdd: float = 0.8,
) -> imac.IMACNetwork:
    return imac.convert(
        drawn(generator, *sizes),
        imac.Config(
            device=device,
            supplies=imac.Supplies(vdd=vdd, vss=-vdd),
            crossbar=imac.Crossbar(rows=3, columns=4),
            amplifier=imac.Amplifier(gain=4.0),
            neuron=imac.Neuron(kind=kind),
            mapping=imac.WeightMapping(levels="continuous"),
        ),
    )


def both(
    generator: torch.Generator, *devices: Memristor, vdd: float = 0.8
) -> list[imac.IMACNetwork]:
    """The same layer of several devices."""
    state = generator.get_state()
    made = []
    for device in devices:
        generator.set_state(state)
        made.append(network_of(generator, device, 5, 4, vdd=vdd))
    return made


def compare_with_ngspice(
    ngspice: Path, generator: torch.Generator, device: Memristor, *sizes: int
) -> None:
    network = network_of(generator, device, *sizes)
    x = reals(generator, 2, sizes[0])
    with torch.no_grad():
        found = network.solve(x)
    assert bool(found.converged.all())
    spice = imac.NgSpice(str(ngspice)).bind(network.segment).solve(network.voltages(x))
    # ngspice stops at relative steps of 1e-9 of voltages of some volts
    torch.testing.assert_close(found.outputs, spice.outputs, rtol=0, atol=1e-8)
    assert found.power is not None and spice.power is not None
    for part in ("inputs", "bias", "neurons"):
        ours, theirs = getattr(found.power, part), getattr(spice.power, part)
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-14)


def compare_with_dense(generator: torch.Generator, device: Memristor) -> None:
    network, straight = both(generator, device, Memristor(**ENDS))
    x = reals(generator, 2, 5)
    with torch.no_grad():
        found, ohmic = network.solve(x), straight.solve(x)
    cell = build_cell(device, network.config)
    assert cell is not None and bool(found.converged.all())
    dense = solve_nonlinear(network.circuit().layers[0], network.voltages(x), 0.8, cell)
    assert bool(dense.converged.all())
    combined = found.layers[0].combined
    torch.testing.assert_close(combined, dense.combined, rtol=0, atol=1e-9)
    assert float((combined - ohmic.layers[0].combined).abs().max()) > 1e-2


@pytest.mark.parametrize("name", KINDS)
def test_three_layers_are_what_ngspice_finds(
    ngspice: Path, generator: torch.Generator, name: str
) -> None:
    compare_with_ngspice(ngspice, generator, Memristor(**ENDS, **KINDS[name]), 6, 5, 4, 3)


def test_groups_are_what_ngspice_finds(ngspice: Path, generator: torch.Generator) -> None:
    layer = nn.Conv1d(4, 6, 2, groups=2, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-1, 1, generator=generator)
    config = network_of(generator, Memristor(**ENDS, bend=0.3), 2, 2).config
    network = imac.convert(nn.Sequential(layer, imac.InverterSigmoid()), config)
    x = reals(generator, 8, 3).reshape(2, 4, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[1].sum(), x)
    assert bool((gradient[1] != 0.0).all()) and not bool(gradient[0].any())
    segment = network.segment
    rows = segment.positions.vectors(x.detach())
    with torch.no_grad():
        found = segment.solve(rows)
    spice = imac.NgSpice(str(ngspice)).bind(segment).solve(segment.voltages(rows))
    assert found.power is not None and spice.power is not None
    torch.testing.assert_close(found.outputs, spice.outputs, rtol=0, atol=1e-8)
    for part in ("inputs", "bias", "neurons"):
        ours, theirs = getattr(found.power, part), getattr(spice.power, part)
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("name", KINDS)
def test_one_layer_is_the_dense_solution_and_no_ohmic_one(
    generator: torch.Generator, name: str
) -> None:
    compare_with_dense(generator, Memristor(**ENDS, **KINDS[name]))


@pytest.mark.parametrize("name", KINDS)
def test_slopes_are_those_of_the_currents(generator: torch.Generator, name: str) -> None:
    cell = build_cell(Memristor(**ENDS, **KINDS[name]))
    assert cell is not None
    g = torch.tensor([0.0, 2.5e-5, 1e-4, 2.2e-4, 2.5e-4], dtype=torch.float64)[:, None]
    v = torch.linspace(-1.55, 1.55, 20, dtype=torch.float64)  # no corner of the table among them
    shape = torch.broadcast_shapes(g.shape, v.shape)
    g, v = g.expand(shape).clone().requires_grad_(), v.expand(shape).clone().requires_grad_()
    current, slope = cell.currents(g, v)[:2]
    by_g, by_v = torch.autograd.grad(current.sum(), [g, v])
    torch.testing.assert_close(by_v, slope, rtol=1e-9, atol=1e-18)
    assert bool((slope[1:] > 0.0).all()) and not bool(current[0].any())
    step = 1e-5
    with torch.no_grad():
        above, below = (cell.currents(g * (1.0 + s), v).current for s in (step, -step))
        # of the second order, and rounding of 1e-16 of the current over the step; at a state of the
        # table, and where PCM has no amorphous part, the two sides differ
        smooth = {"table": slice(2, 4), "pcm": slice(1, 4)}.get(name, slice(1, None))
        torch.testing.assert_close(
            ((above - below) / (2 * step))[smooth], (by_g * g)[smooth], rtol=1e-6, atol=1e-15
        )


@pytest.mark.parametrize("name", ["mtj", "sinh-selector"])
def test_gradients_by_inputs_and_weights(generator: torch.Generator, name: str) -> None:
    network = network_of(generator, Memristor(**ENDS, **KINDS[name]), 4, 3, 2)
    x = reals(generator, 2, 4).requires_grad_()
    path, weight = next(iter(network.named_parameters()))
    weight = weight.detach().clone()
    # The largest weight sets the full scale, which training takes as constant.
    free = weight.abs() < weight.abs().max()

    def outputs(x: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        found = torch.func.functional_call(network, {path: weight + free * change}, x)
        assert isinstance(found, torch.Tensor)
        return found

    change = torch.zeros_like(weight).requires_grad_()
    assert torch.autograd.gradcheck(
        outputs, (x, change), eps=1e-5, atol=1e-6, rtol=1e-4, fast_mode=True
    )


@pytest.mark.parametrize("name", [*KINDS, "resistor", "fefet"])
def test_gradients_by_numbers_of_the_device(generator: torch.Generator, name: str) -> None:
    kinds = {
        **KINDS, "resistor": {"access": {"resistor": {"resistance": 3e3}}},
        "pcm": {"cell": {"pcm": {"spacings": 3.0, "crystalline": 3e3}}},
        "fefet": {"cell": {"fefet": {"specific_current": 1e-5}}},
    }  # fmt: skip
    network = network_of(generator, Memristor(**ENDS, **kinds[name]), 3, 2, 2)
    x = reals(generator, 1, 3).abs()
    known = imac.device_parameters(network)

    def outputs(*factors: torch.Tensor) -> torch.Tensor:
        values = [value * factor for value, factor in zip(known.values(), factors, strict=True)]
        with imac.devices_at(network, dict(zip(known, values, strict=True))):
            found: torch.Tensor = 1e5 * network(x)
        return found

    ones = [torch.ones_like(value).requires_grad_() for value in known.values()]
    assert ones and torch.autograd.gradcheck(
        outputs, ones, eps=1e-4, atol=1e-4, rtol=1e-4, fast_mode=True
    )
    torch.testing.assert_close(outputs(*ones), 1e5 * network(x))  # nothing stays


def test_numbers_of_one_layer_and_what_is_no_number(generator: torch.Generator) -> None:
    network = network_of(generator, Memristor(**ENDS, bend=0.3), 3, 2, 2)
    (path,) = imac.device_parameters(network)
    x, v0 = reals(generator, 1, 3), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    with imac.devices_at(network, {path: v0}):
        both = network.solve(x).outputs
    first, second = (f'layers."{layer.name}".{path}' for layer in network.analog_layers())
    with imac.devices_at(network, {path: 1.5 * v0.detach(), first: v0, second: v0}):
        assert torch.equal(network.solve(x).outputs, both)
    assert config_with(network.config, {first: v0}).layers
    with pytest.raises(ConversionError, match=r"no layer has it; cells have device.bend"):
        imac.devices_at(network, {"device.cell.mtj.vh": v0}).__enter__()
    with pytest.raises(ConfigError, match="bend: Input should be greater"):
        imac.devices_at(network, {path: -v0}).__enter__()


def test_gradients_by_the_transposed_circuit_by_chords_and_by_single_slopes(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(generator, Memristor(**ENDS, bend=0.2), 4, 3, 2, kind="finfet")
    x = reals(generator, 3, 4)
    direction = reals(generator, 3, 4)
    tracked = x.clone().requires_grad_()
    outputs = network(tracked)
    outputs.sum().backward()
    assert tracked.grad is not None
    found = (tracked.grad * direction).sum()
    step = 1e-4
    with torch.no_grad():
        ahead, behind = (network(x + s * step * direction).sum() for s in (1.0, -1.0))
    # the second difference leaves step², of gradients of about 1
    assert float((found - (ahead - behind) / (2 * step)).abs()) < 1e-6
    monkeypatch.setattr("imac_torch.dc.implicit.can_sweep", lambda _: False)
    for steps in (60, 1):  # one does not do with chords: every vector alone
        monkeypatch.setattr("imac_torch.dc.implicit.STEPS", steps)
        again = x.clone().requires_grad_()
        network(again).sum().backward()
        torch.testing.assert_close(again.grad, tracked.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["sense_resistor", "current_mirror", "transimpedance"])
def test_every_read_out_has_the_gradients_that_chords_find(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    network = network_of(generator, Memristor(**ENDS, bend=0.2), 3, 2)
    layer = next(iter(network.analog_layers()))
    layer.config = layer.config.replace(amplifier=imac.Amplifier(kind=kind, gain=4.0))
    x = reals(generator, 2, 3)
    found = []
    for _ in range(2):
        tracked = x.clone().requires_grad_()
        (network(tracked) ** 2).sum().backward()
        found.append(tracked.grad)
        monkeypatch.setattr("imac_torch.dc.implicit.can_sweep", lambda _: False)
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-10)


def test_training_through_cells_that_bend_strongly(generator: torch.Generator) -> None:
    network = network_of(generator, Memristor(**ENDS, bend=0.15), 2, 2)
    x = reals(generator, 20, 2)
    wanted = (x[:, 0] * 0.6 > x[:, 1]).to(torch.int64)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(8.0 * network(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_a_resistor_in_series_with_a_resistor_is_one(generator: torch.Generator) -> None:
    access = {"resistor": {"resistance": 5e3}}
    device = Memristor(**ENDS, access=access)
    network, bent = both(generator, device, device.replace(bend=1e4))
    x = reals(generator, 3, 5)
    with torch.no_grad():
        found = network.solve(x).layers[0].combined
        curved = bent.solve(x).layers[0].combined  # the inner nodes, found one by one
    values = next(e.values for e in network.circuit().layers[0].elements if e.name == "rp")
    assert float(values.min()) >= 9e3  # rlow and the resistor
    assert build_cell(device) is None
    # x³/6 of 0.8 V/1e4 V
    torch.testing.assert_close(found, curved, rtol=0, atol=1e-8)


def test_inner_nodes_of_stiff_cells() -> None:
    cell = build_cell(
        Memristor(cell={"sinh": {"v0": 0.02}}, access={"diode": {"saturation": 1e-15}})
    )
    assert isinstance(cell, Series)
    v = torch.linspace(-8.0, 8.0, 41, dtype=torch.float64)
    g = torch.tensor([[1e-9], [1e-4]], dtype=torch.float64).expand(2, 41)
    current, slope = cell.currents(g, v.expand(2, 41))[:2]
    at = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)[:, None, None] * v
    gap = (
        cell.memory.currents(g, at).current - cell.access.currents(v - at).current
    ) * v.sign()
    # monotone: the current lies between those of the two neighbours where the sign changes
    last = (gap <= 0.0).sum(0, keepdim=True) - 1
    low, high = (
        cell.memory.currents(g, at.expand(-1, 2, -1).gather(0, k).squeeze(0)).current
        for k in (last, (last + 1).clamp(max=2000))
    )
    lower, upper = torch.minimum(low, high), torch.maximum(low, high)
    assert bool(((current >= lower) & (current <= upper)).all())
    assert bool(torch.isfinite(slope).all())


def test_a_table_of_measured_currents_is_a_device(
    generator: torch.Generator, tmp_path: Path
) -> None:
    path = tmp_path / "device.csv"
    rows = zip(TABLE["voltages"], *TABLE["currents_by_state"][::-1], strict=True)
    path.write_text("V,low,high\n" + "\n".join(",".join(map(str, row)) for row in rows))
    device = measured_device(path)
    assert device.states == 2 and device.rlow == pytest.approx(0.7 / 1.84e-4)
    cell = build_cell(device)
    assert cell is not None
    v = torch.tensor([0.15, 2.5], dtype=torch.float64)
    g = torch.tensor([1.0 / device.rlow, 1.0 / device.rhigh], dtype=torch.float64)
    torch.testing.assert_close(
        cell.currents(g, v).current, torch.tensor([3.95e-5, 2.8e-4], dtype=torch.float64)
    )
    network = network_of(generator, device, 3, 2)
    imac.save(network, tmp_path / "saved.safetensors")
    assert imac.load(tmp_path / "saved.safetensors").config.device == device
    network.config.save(tmp_path / "circuit.toml")
    assert imac.Config.load(tmp_path / "circuit.toml") == network.config
    x = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]], dtype=torch.float64)
    with torch.no_grad():
        solved = both(generator, device, vdd=10.0)[0].solve(x)
    assert solved.status.tolist() == [int(imac.Status.OUTSIDE)]


def test_tables_as_instruments_write_them(tmp_path: Path) -> None:
    plain = "V,low,high\n-0.5,-1e-6,-1e-5\n0,0,0\n0.5,1e-6,2e-5\n"
    german = "\ufeff# today\nV;low;high;\n0,5;1e-6;2e-5;\n\n0;0;0;\n-0,5;-1e-6;-1e-5;\n;;;\n"
    found = []
    for number, text in enumerate([plain, plain.replace(",", "\t"), german]):
        path = tmp_path / f"{number}.csv"
        path.write_text(text, encoding="utf-8")
        found.append(measured_device(path))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("V,a\n0,0\n", "a column of voltages and two of currents"),
        ("# of today\n", "a row of names and rows of numbers"),
        ("V,a,b\n-1,-1,-2\n0,0,0\n1,x,2\n", "line 4: 'x' is no number"),
        ("V,a,b\n-1,-1,-2\n0,0\n1,1,2\n", "line 3: 2 numbers; the first row names 3 columns"),
        ("-1,-1,-2\n0,0,0\n1,1,2\n", "line 1: the first row has the names"),
        ("V,a,b\n-1,-1,-2\n0,0.5,0\n1,1,2\n", "an offset of the instrument"),
        ("V,a,b\n-1,-1,-2\n0.1,0,0\n1,1,2\n", "with 0 inside.*interpolate"),
    ],
)
def test_tables_that_are_none_say_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "device.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        measured_device(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": {"memory": {}}}, "no cell 'memory'"),
        ({"cell": {"sinh": {}}}, "sinh needs v0"),
        ({"cell": {"sinh": {"v0": -1.0}}}, "must be positive"),
        ({"cell": {"sinh": {"v0": 0.3}, "mtj": {}}}, "has one cell, not sinh, mtj"),
        ({"cell": {"sinh": {"v0": 0.3}}, "bend": 0.3}, "set one of bend and cell"),
        ({"access": {"diode": {"current": 1.0}}}, "diode has saturation, v0, leakage"),
    ],
)
def test_settings_that_make_no_cell_say_why(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Memristor(**settings)


def test_cells_are_set_by_text_and_by_layer(generator: torch.Generator) -> None:
    from imac_torch.config.assignment import apply_overrides, parse_assignment

    changes = ["device.cell.sinh.v0=300mV", "device.access.resistor.resistance=2k"]
    config = apply_overrides(imac.Config(), dict(map(parse_assignment, changes)))
    assert config.device.cell == {"sinh": {"v0": 0.3}}
    assert config.device.access == {"resistor": {"resistance": 2000.0}}
    assert not config.device.ohmic


def test_gradients_by_other_things_are_refused(generator: torch.Generator) -> None:
    network = network_of(generator, Memristor(**ENDS, bend=0.3), 3, 2)
    prepared = network.prepare()
    layer = prepared.layers[0]
    vdd = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    with pytest.raises(SolverError, match="not by the supply"):
        replace(layer, vdd=vdd).drive(
            torch.zeros(1, 1, 3, dtype=torch.float64), None, imac.NewtonOptions()
        )


def test_a_cell_of_ones_own_is_one_class(ngspice: Path, generator: torch.Generator) -> None:
    assert len(PLUGIN.read_text().splitlines()) <= 60
    runpy.run_path(str(PLUGIN))
    try:
        device = Memristor(**ENDS, cell={"steepening": {"v0": 0.5}})
        network = network_of(generator, device, 5, 4, 3)
        x = reals(generator, 2, 5).requires_grad_()
        found = network.solve(x)
        found.outputs.sum().backward()
        spice = imac.NgSpice(str(ngspice)).bind(network.segment).solve(network.voltages(x.detach()))
        torch.testing.assert_close(found.outputs.detach(), spice.outputs, rtol=0, atol=1e-8)
    finally:
        CELL_KINDS.remove("steepening")


def test_published_models_and_bit_cells_have_names() -> None:
    from imac_torch.config import ACCESS, ASSUMED_CELLS, BIT_CELL_LENGTHS, MODELS

    for name in MODELS:
        device = Memristor.preset(name)
        cell = build_cell(device)
        assert cell is not None and not device.ohmic
        g = torch.tensor([1.0 / device.rlow, 1.0 / device.rhigh], dtype=torch.float64)
        small = cell.currents(g, torch.full_like(g, 1e-6)).current
        torch.testing.assert_close(small, 1e-6 * g, rtol=1e-8, atol=0)
        large = cell.currents(g, torch.full_like(g, 0.4)).current
        assert float(large[1]) > 0.4 * float(g[1]) * 1.01  # all bend in the high-resistance state
    assert set(ACCESS) == set(BIT_CELL_LENGTHS)
    for name, assumed in ASSUMED_CELLS.items():
        wires = imac.Interconnect.preset(9e-9, name)
        assert wires.cell_length == pytest.approx(assumed["length"] * 9e-9)
        whole = build_cell(Memristor.preset("SOT_MRAM", name))
        assert whole is not None and whole.gated is (name == "SOT_2T1R")
    device = Memristor.preset("RRAM_ASU", "1TG1R")
    assert device.access == {"finfet": {"fins": 3, "p_fins": 3}}
    # the published equation at a gap of 1.7 nm: 61.4 µA·exp(-1.7/0.27505)·sinh(1 V/0.43 V)
    alone = build_cell(Memristor.preset("RRAM_ASU"))
    assert alone is not None
    one = torch.ones(1, dtype=torch.float64)
    found = float(alone.currents(one / device.rhigh, one).current)
    assert found == pytest.approx(61.4e-6 * 2.0680e-3 * 5.0670, rel=1e-3)
    with pytest.raises(ConfigError, match="no bit cell '3T1R'"):
        Memristor.preset("PCM", "3T1R")


def test_messages_name_cells_by_what_is_not_by_default() -> None:
    # what the circuit says of a transistor nobody has set
    device = Memristor(cell={"mtj": {}}, access={"finfet": {"fins": 3}})
    cell = build_cell(device, imac.Config(device=device))
    assert str(cell).endswith(" and AccessTransistor(fins=3) in series")
    assert str(build_cell(Memristor(bend=0.3))) == "Sinh(v0=0.3)"
    table = build_cell(Memristor(**ENDS, cell={"table": TABLE}))
    assert len(str(table)) < 200  # measured numbers are counted, not told
