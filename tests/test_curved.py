"""Whole networks of curved cells: against ngspice, the dense solution, and ohmic limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import drawn, reals

import imac_torch as imac
from imac_torch.cells import Sinh
from imac_torch.conversion.layer_effects import layer_effects
from imac_torch.dc import curved, sweeps
from imac_torch.dc.ir_drop import cell_voltages
from imac_torch.dc.tangents import CurvedCells, Eliminated
from imac_torch.devices.effects import LogNormal
from imac_torch.errors import SolverError
from imac_torch.reference.nonlinear import solve_nonlinear

BEND = 0.25
"""V. Up to 1.6 V lie across a cell: the current is 12 times that of an ohmic one."""


def convert(
    generator: torch.Generator,
    *sizes: int,
    bend: float | None = BEND,
    neuron: str = "logistic",
    combine: str = "average",
    wires: bool = True,
    output_resistance: float = 1e-3,
    **mapping: object,
) -> imac.IMACNetwork:
    config = imac.Config(
        # low resistances: wires and loading matter
        device=imac.Memristor(rlow=4e3, rhigh=40e3, bend=bend),
        interconnect=imac.Interconnect(resistance=wires),
        crossbar=imac.Crossbar(rows=3, columns=4),
        amplifier=imac.Amplifier(
            gain=4.0, combine=combine, output_resistance=output_resistance
        ),
        neuron=imac.Neuron(kind=neuron, rlow=78e3, rhigh=202e3),
        mapping=imac.WeightMapping(**{"levels": 5, **mapping}),
    )
    return imac.convert(drawn(generator, *sizes), config)


CASES = [
    {},
    {"neuron": "finfet"},
    {"combine": "sum"},
    {"wires": False},
    {"slices": 2, "slice_base": 3, "output_resistance": 20.0},
]


@pytest.mark.parametrize("options", CASES, ids=lambda case: "-".join(case) or "plain")
def test_ngspice_finds_the_same(
    ngspice: Path, generator: torch.Generator, options: dict[str, object]
) -> None:
    finfet = "neuron" in options
    # ngspice evaluates a table for every FinFET neuron, which takes seconds for a few.
    network = convert(generator, *((6, 3, 2) if finfet else (6, 5, 4, 3)), **options)
    x = reals(generator, 1 if finfet else 2, 6)
    with torch.no_grad():
        found = network.solve(x)
    assert bool(found.converged.all())
    spice = imac.NgSpice(str(ngspice)).bind(network.segment).solve(network.voltages(x))
    # ngspice stops at relative steps of 1e-9. Its FinFETs are a table of their own, microvolts
    # from the native one (tests/test_netlist_inverter.py).
    difference = (found.outputs - spice.outputs).abs().max()
    assert float(difference) < (1e-5 if finfet else 1e-8)
    assert found.power is not None and spice.power is not None
    for name in ("inputs", "bias", "neurons"):
        ours, theirs = getattr(found.power, name), getattr(spice.power, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-4 if finfet else 1e-8, atol=1e-15)


def test_the_curve_is_no_rounding_matter(generator: torch.Generator) -> None:
    state = generator.get_state()
    networks = []
    for bend in (BEND, None):
        generator.set_state(state)
        networks.append(convert(generator, 6, 5, 4, 3, bend=bend))
    x = reals(generator, 4, 6)
    with torch.no_grad():
        bent, ohmic = (network.solve(x) for network in networks)
    assert float((bent.outputs - ohmic.outputs).abs().max()) > 1e-3
    assert bent.power is not None and ohmic.power is not None
    # sinh lies above its argument
    assert bool((bent.power.inputs + bent.power.bias > ohmic.power.inputs).all())


@pytest.mark.parametrize("options", CASES, ids=lambda case: "-".join(case) or "plain")
def test_a_cell_that_hardly_bends_is_ohmic(
    generator: torch.Generator, options: dict[str, object]
) -> None:
    state = generator.get_state()
    networks = []
    for bend in (1e4, None):
        generator.set_state(state)
        networks.append(convert(generator, 6, 5, 4, 3, bend=bend, **options))
    x = reals(generator, 4, 6)
    with torch.no_grad():
        bent, ohmic = (network.solve(x) for network in networks)
    # sinh(x) - x = x³/6 at x = 1.6 V/1e4 V: 4e-9 relative of voltages of some volts at the
    # amplifiers; Newton's method stops at 1e-9 V.
    torch.testing.assert_close(bent.outputs, ohmic.outputs, rtol=0, atol=1e-8)
    for ours, theirs in zip(bent.layers, ohmic.layers, strict=True):
        torch.testing.assert_close(ours.combined, theirs.combined, rtol=0, atol=1e-7)
    assert bent.power is not None and ohmic.power is not None
    for name in ("inputs", "bias", "neurons", "level_shift", "amplifiers"):
        ours, theirs = getattr(bent.power, name), getattr(ohmic.power, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("wires", [True, False])
def test_one_layer_is_that_of_the_dense_solution(generator: torch.Generator, wires: bool) -> None:
    network = convert(generator, 7, 5, wires=wires)
    x = reals(generator, 3, 7)
    with torch.no_grad():
        found = network.solve(x)
    layer = network.circuit().layers[0]
    dense = solve_nonlinear(layer, network.voltages(x), 0.8, Sinh(BEND))
    # both stop at steps of 1e-9 V or less, and converge quadratically
    torch.testing.assert_close(found.layers[0].combined, dense.combined, rtol=0, atol=1e-10)
    assert found.power is not None
    inputs = (dense.input_current * network.voltages(x)).sum(-1)
    torch.testing.assert_close(found.power.inputs, inputs, rtol=1e-9, atol=0)
    assert float(found.residual.max()) < 1e-12  # A, of currents of 1e-3 A


def test_one_layer_can_bend_and_others_not(ngspice: Path, generator: torch.Generator) -> None:
    network = convert(generator, 6, 5, 4, bend=None)
    layers = list(network.analog_layers())
    layers[1].config = layers[1].config.replace(
        device=layers[1].config.device.replace(bend=BEND)
    )
    x = reals(generator, 2, 6)
    with torch.no_grad():
        found = network.solve(x)
    spice = imac.NgSpice(str(ngspice)).bind(network.segment).solve(network.voltages(x))
    torch.testing.assert_close(found.outputs, spice.outputs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("bend", [0.1, BEND])
def test_sweeps_chords_and_newtons_method_agree(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, bend: float
) -> None:
    network = convert(generator, 6, 5, 4, bend=bend)
    x = reals(generator, 7, 6)
    with torch.no_grad():
        swept = network.solve(x)
        monkeypatch.setattr(curved, "can_sweep", lambda layer: False)
        chords = network.solve(x)
        monkeypatch.setattr(curved, "CHORDS", 2)  # so few converge for no vector
        newton = network.solve(x)
    # Newton's method converges quadratically beyond 1e-9 V; the others stop at steps of 1e-12 V,
    # and the error is some of these, times the gain of 4 and that of the neurons of about 10.
    for other in (chords, newton):
        assert bool(other.converged.all()) and bool(swept.converged.all())
        for ours, theirs in zip(swept.layers, other.layers, strict=True):
            torch.testing.assert_close(ours.combined, theirs.combined, rtol=0, atol=1e-10)
        torch.testing.assert_close(swept.outputs, other.outputs, rtol=0, atol=1e-10)
        assert swept.power is not None and other.power is not None
        torch.testing.assert_close(swept.power.total, other.power.total, rtol=1e-9, atol=0)


def test_vectors_that_sweeps_fail_for_are_solved_alone(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = convert(generator, 6, 5, 4)
    x = reals(generator, 8, 6)
    eliminated = []
    eliminate = CurvedCells.eliminate

    def counting(layer: CurvedCells, slopes: torch.Tensor) -> Eliminated:
        eliminated.append(len(slopes))
        return eliminate(layer, slopes)

    monkeypatch.setattr(CurvedCells, "eliminate", counting)
    with torch.no_grad():
        expected = network.solve(x)
        assert not eliminated  # sweeps need no matrices
        some = 0
        for limit in range(5, 12):  # of some, a part of the vectors converges
            eliminated.clear()
            monkeypatch.setattr(sweeps, "SWEEPS", limit)
            found = network.solve(x)
            some += any(1 <= count < 8 for count in eliminated)
            assert bool(found.converged.all())
            # as above
            torch.testing.assert_close(found.outputs, expected.outputs, rtol=0, atol=1e-10)
    assert some > 0


def test_a_vector_that_sweeps_fail_for_leaves_others_as_exact_as_they_are(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neurons are solved roughly while steps are long: what is at rest must not be left there."""
    network = convert(generator, 6, 5, 4, neuron="finfet")
    x = reals(generator, 3, 6)
    down = sweeps.SweepState.down

    def far(state: sweeps.SweepState, lines: torch.Tensor) -> torch.Tensor:
        size = down(state, lines).clone()
        size[1] = 1.0
        return size

    with torch.no_grad():
        expected = network.solve(x)
        monkeypatch.setattr(sweeps.SweepState, "down", far)
        found = network.solve(x)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.outputs, expected.outputs, rtol=0, atol=1e-9)


def test_samples_of_devices(generator: torch.Generator) -> None:
    network = convert(generator, 6, 5, 4)
    x = reals(generator, 3, 6)
    run = imac.MonteCarlo(network, imac.DeviceModel((LogNormal(0.2),)), seed=3)
    result = run.run(x, torch.zeros(3, dtype=torch.int64), samples=3, keep_outputs=True)
    assert result.outputs is not None
    for sample in range(3):
        with torch.no_grad():
            alone = run.realise(sample).solve(x)
        torch.testing.assert_close(alone.outputs, result.outputs[sample], rtol=0, atol=1e-9)
        assert alone.power is not None
        assert float(alone.power.total.mean()) == pytest.approx(float(result.power[sample]))


def test_evaluation_and_files(generator: torch.Generator, tmp_path: Path) -> None:
    network = convert(generator, 6, 5, 4)
    x = reals(generator, 5, 6)
    pairs = [(x, torch.arange(5) % 4)]
    report = imac.evaluate(network, pairs, progress=False)
    assert report.engine["elimination"] == "sweeps (numba)"
    with torch.no_grad():
        assert torch.equal(report.outputs, network.solve(x).outputs)
    path = tmp_path / "network.safetensors"
    imac.save(network, path)
    assert imac.load(path).config.device.bend == BEND
    network.config.save(tmp_path / "circuit.toml")
    assert imac.Config.load(tmp_path / "circuit.toml") == network.config


def test_netlists_have_controlled_sources(generator: torch.Generator, tmp_path: Path) -> None:
    network = convert(generator, 3, 2)
    pairs = [(reals(generator, 1, 3), torch.zeros(1, dtype=torch.int64))]
    imac.compile(network, pairs, tmp_path / "run", dialect="hspice")
    lines = (tmp_path / "run" / "circuit" / "layer1.sp").read_text().splitlines()
    cells = [line for line in lines if line.startswith(("Grp", "Grn"))]
    assert len(cells) == 2 * 2 * 4  # both sides of two rows of three inputs and the bias
    assert cells[0].startswith("Grp1_1 a1_1 p1_1 cur='0.25/")
    assert cells[0].endswith("*sinh(v(a1_1,p1_1)/0.25)'")
    assert not any(line.startswith(("rp1_", "rn1_")) for line in lines)


def test_vectors_are_solved_one_by_one(generator: torch.Generator) -> None:
    network = convert(generator, 6, 5, 4)
    x = reals(generator, 3, 6)
    voltages = network.voltages(x)
    voltages[1, 2] = torch.nan
    with torch.no_grad():
        whole = network.solve(x)
        found = network.engine.solve(network.prepare(), voltages)
        limited = imac.Native(newton=imac.NewtonOptions(max_iterations=2)).solve(
            network.prepare(), network.voltages(x)
        )
    assert found.status.tolist() == [0, int(imac.Status.NOT_FINITE), 0]
    torch.testing.assert_close(found.outputs[[0, 2]], whole.outputs[[0, 2]], rtol=0, atol=1e-9)
    assert bool(torch.isnan(found.outputs[1]).all())
    assert not bool(limited.converged.any())


@pytest.mark.parametrize("wires", [True, False])
def test_maps_are_those_of_the_dense_solution(generator: torch.Generator, wires: bool) -> None:
    network = convert(generator, 7, 5, wires=wires)
    voltages = network.voltages(reals(generator, 2, 7))
    bias = torch.full_like(voltages[:, :1], 0.8)
    spec = next(network.analog_layers()).matrix.crossbar()
    found = cell_voltages(spec, torch.cat([voltages, bias], 1))
    circuit = network.circuit().layers[0]
    dense = solve_nonlinear(circuit, voltages, 0.8, Sinh(BEND))
    cells = [e for e in circuit.elements if e.name == "rp"]
    nodes = torch.cat([torch.from_numpy(e.nodes) for e in cells])
    across = (dense.nodes[:, nodes[:, 0]] - dense.nodes[:, nodes[:, 1]]).sort(-1).values
    ours = (found.cell - found.positive).flatten(1).sort(-1).values
    torch.testing.assert_close(ours, across, rtol=0, atol=1e-10)
    # what sources deliver to the lines is lost in cells, wires and amplifiers' inputs
    assert bool((found.power > 0.0).all())
    torch.testing.assert_close(
        (found.positive_current + found.negative_current).sum(1)[:, :-1], dense.input_current,
        rtol=1e-9, atol=1e-15,
    )  # fmt: skip
    assert cell_voltages(spec, torch.cat([voltages, bias], 1)[:0]).power.shape == (0, 5, 8)


def test_nodes_are_those_of_ngspice(ngspice: Path, generator: torch.Generator) -> None:
    network = convert(generator, 4, 3, 2)
    x = reals(generator, 1, 4)
    held = imac.Memristor(cell={"fefet": {"specific_current": 1e-6}})
    config = network.config.replace(device=held)
    for made in (network, imac.convert(drawn(generator, 4, 2), config)):
        report = imac.verify_nodes(made, [(x.abs(), torch.zeros(1, dtype=torch.int64))], samples=1)
        assert report.node_difference < 1e-7  # V; ngspice stops at relative steps of 1e-9


@pytest.mark.parametrize(
    "settings",
    [
        {"gain": 8.0, "swing": (-0.1, 0.1), "quiescent_current": 1e-6},
        {"gain": 3.0, "kind": "transimpedance"},  # lines at virtual ground
    ],
)
def test_amplifiers_that_are_not_linear_are_those_of_ngspice(
    ngspice: Path, generator: torch.Generator, settings: dict[str, Any]
) -> None:
    amplifier = imac.Amplifier(**settings, offset_spread=2e-3, output_resistance=1e3)
    device = imac.Memristor(rlow=4e3, rhigh=4e4, bend=BEND)
    config = convert(generator, 4, 2).config.replace(device=device, amplifier=amplifier)
    network = imac.convert(drawn(generator, 6, 4, 3), config, generator=generator)
    x = reals(generator, 2, 6)
    with torch.no_grad():
        found = network.solve(x)
    assert bool(found.converged.all())
    (first, _) = network.analog_layers()
    lines = torch.cat([network.voltages(x), torch.full((2, 1), 0.8)], 1)
    ends = cell_voltages(first.matrix.crossbar(), lines).positive_end
    assert bool(torch.isfinite(ends).all())  # maps know them, too
    spice = imac.NgSpice(str(ngspice)).bind(network.segment).solve(network.voltages(x))
    torch.testing.assert_close(found.outputs, spice.outputs, rtol=0, atol=1e-8)
    assert found.power is not None and spice.power is not None
    for part in ("inputs", "bias", "amplifier_supply"):
        ours, theirs = getattr(found.power, part), getattr(spice.power, part)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-14)
    heat, power = network.dissipation(x), found.power
    taken = (heat.cells + heat.amplifiers + heat.neurons - heat.sums).sum(-1)
    given = power.inputs + power.bias + power.neurons + power.level_shift
    given = given + (power.amplifier_supply if amplifier.supplied else power.amplifiers)
    torch.testing.assert_close(taken, given, rtol=1e-9, atol=1e-12 * float(given.max()))
    moved, direction = x.clone().requires_grad_(), reals(generator, 2, 6)
    weights = reals(generator, 2, 3)
    (gradient,) = torch.autograd.grad((network(moved) * weights).sum(), moved)
    with torch.no_grad():
        ahead, behind = (
            (network(x + step * direction) * weights).sum() for step in (1e-4, -1e-4)
        )
    wanted = (ahead - behind) / 2e-4
    torch.testing.assert_close((gradient * direction).sum(), wanted, rtol=1e-4, atol=1e-8)


def test_power_is_told_of_memory_and_of_access_devices(generator: torch.Generator) -> None:
    config = convert(generator, 4, 2).config
    access = {"resistor": {"resistance": 3e3}}
    device = config.device.replace(access=access)
    gate = imac.Memristor(access={"read_transistor": {"fins": 1}})
    for kind in (device, gate):
        network = imac.convert(drawn(generator, 4, 2), config.replace(device=kind))
        x = reals(generator, 2, 4).abs()
        spec = next(network.analog_layers()).matrix.crossbar()
        lines = torch.cat([network.voltages(x), torch.full((2, 1), 0.8)], 1)
        found = cell_voltages(spec, lines)
        if kind is device:
            amperes = found.positive_current.square() + found.negative_current.square()
            torch.testing.assert_close(found.access_power, 3e3 * amperes, rtol=1e-9, atol=0.0)
        else:
            assert not bool(found.input_drop.any())  # gates draw nothing
            assert bool((found.access_power[:, :, -1] > 0.0).all())
        # cells, wires and what ends take make up what sources deliver
        inside = network.dissipation(x)
        assert bool((found.power.sum((1, 2)) <= inside.cells[:, 0]).all())
        torch.testing.assert_close(
            found.power.sum((1, 2)), inside.cells[:, 0], rtol=0.05, atol=0.0
        )  # wires have a few percent


def test_what_curved_cells_cannot_do_says_so(generator: torch.Generator) -> None:
    network = convert(generator, 6, 5, 4)
    spec = next(network.analog_layers()).matrix.crossbar()
    loop = network.config.amplifier.replace(open_loop_gain=1e3, open_loop_resistance=1e3)
    loaded = imac.convert(drawn(generator, 6, 3), network.config.replace(amplifier=loop))
    with pytest.raises(SolverError, match="without offset and swing"):
        loaded.solve(reals(generator, 1, 6))
    virtual = imac.Amplifier(kind="transimpedance", gain=3.0, swing=(-0.3, 0.3))
    limited = imac.convert(drawn(generator, 6, 3), network.config.replace(amplifier=virtual))
    with pytest.raises(SolverError, match="virtual ground, and its swing"):
        limited.solve(reals(generator, 1, 6))
    volts = torch.zeros(2, 7, dtype=torch.float64)
    volts[1, -1] = 0.8
    with pytest.raises(SolverError, match="different voltages on the bias line"):
        cell_voltages(spec, volts)
    held = imac.Memristor(cell={"fefet": {"specific_current": 1e-6}})
    with pytest.raises(SolverError, match=r"hold gates"):
        layer_effects(imac.convert(drawn(generator, 3, 2), imac.Config(device=held)))
    with pytest.raises(imac.ImacError, match="bend"):
        imac.Memristor(bend=0.0)
