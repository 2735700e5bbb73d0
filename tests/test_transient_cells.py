"""Curved cells in time: waveforms and energies of ngspice, latencies in evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from small_networks import drawn, reals
from test_cells import ENDS, KINDS

import imac_torch as imac
from imac_torch.cells import Series, build_cell
from imac_torch.config import LayerConfig, Memristor
from imac_torch.errors import ConfigError, SolverError
from imac_torch.netlist import NetlistSettings, NgSpiceWriter, write_netlists
from imac_torch.results.waveform import integral, sample
from imac_torch.simulator import NgSpice, check, solve_netlists
from imac_torch.transient.charged import ChargedLines
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.options import TimingOptions, TransientOptions

PERIOD = 2e-10


def network_of(
    generator: torch.Generator, settings: dict[str, object], *sizes: int, **more: object
) -> imac.IMACNetwork:
    return imac.convert(
        drawn(generator, *sizes),
        imac.Config(
            device=Memristor(**ENDS, **settings),
            crossbar=imac.Crossbar(rows=3, columns=4),
            amplifier=imac.Amplifier(gain=4.0, pole=2e10),
            neuron=imac.Neuron(kind="logistic", output_capacitance=1e-15),
            mapping=imac.WeightMapping(levels="continuous"),
            timing=imac.Timing(period=PERIOD, transition=5e-11),
            **more,
        ),
    )


def test_waveforms_of_three_layers_are_those_of_ngspice(
    ngspice: Path, generator: torch.Generator, tmp_path: Path
) -> None:
    # charged wires, memory and access devices; half a percent of the swing, ngspice's own steps
    # included (reltol 1e-6)
    held = {"capacitance": 2e-16, "access_capacitance": 4e-16}
    kinds = {
        "0": LayerConfig(device={**ENDS, **KINDS["mtj"], "capacitance": 2e-16}),
        "2": LayerConfig(device={**ENDS, **KINDS["sinh-resistor"], **held}),
        "4": LayerConfig(device={**ENDS, **KINDS["mtj"], "capacitance": 1e-16}),
    }
    wires = imac.Interconnect(capacitance=True)
    network = network_of(generator, {}, 3, 2, 2, 2, layers=kinds, interconnect=wires)
    x = reals(generator, 2, 3)
    result = network.transient(
        x[1:], initial=x[:1], options=TransientOptions(control=StepControl(tolerance=2e-4))
    )
    run = write_netlists(
        network.circuit(), network.voltages(x), tmp_path / "run", NgSpiceWriter(),
        NetlistSettings(step=5e-13, max_step=2e-12, reltol=1e-6),
    )  # fmt: skip
    waves = check(solve_netlists(run, NgSpice())).outcomes[0].result.waveforms
    time = torch.tensor(waves["time"])
    outputs = torch.stack([torch.tensor(waves[f"v(y{m + 1})"]) for m in range(2)], dim=1)
    late = time >= PERIOD
    own = (time[late] - PERIOD).clamp(max=float(result.time[-1]))
    mine = sample(result.time, result.outputs[:, 0], own)
    swing = outputs[late].amax(0) - outputs[late].amin(0)
    assert float(swing.min()) > 2e-3  # a hundred times the tolerance
    assert float(((mine - outputs[late]).abs() / swing).max()) < 5e-3
    span = PERIOD, min(2.0 * PERIOD, float(time[-1]))
    for part, energy in (("p_inputs", result.energy.inputs), ("p_supply", result.energy.supply)):
        expected = float(integral(time, torch.tensor(waves[part]), *span))
        assert float(energy[0, 0]) == pytest.approx(expected, rel=1e-3, abs=0.0)


def test_evaluations_time_curved_cells(generator: torch.Generator) -> None:
    network = network_of(generator, KINDS["mtj"], 3, 2, 2)
    x = reals(generator, 2, 3)
    options = TimingOptions(
        samples=2, waveforms=0, periods=1,
        transient=TransientOptions(control=StepControl(tolerance=2e-3)),
    )
    report = imac.evaluate(network, [(x, torch.tensor([0, 1]))], timing=options)
    assert report.timing is not None
    assert bool((report.timing.latency.images > 0.0).all())
    settled = network.solve(x).outputs
    torch.testing.assert_close(report.timing.settled, settled, rtol=0, atol=1e-6)
    assert report.timing.wires == ("static, curved cells",) * 2


@pytest.mark.parametrize(("sizes", "method"), [((6, 5), "tr-bdf2"), ((3, 2, 2), "trapezoidal")])
def test_straight_cells_that_hold_charge_are_resistors(
    generator: torch.Generator, sizes: tuple[int, ...], method: Literal["tr-bdf2", "trapezoidal"]
) -> None:
    # the same fixed steps of two engines, of which one knows no curves; four blocks and one. Left
    # are the bend of sinh(v/v0), (v/v0)^2/6 = 1e-9 of 1 V, and the 1e-9 V that sweeps leave,
    # amplified by 4; the trapezoidal rule takes no errors back, which behind a layer of neurons is
    # inexact
    state, held = generator.get_state(), {"capacitance": 3e-16}
    found = []
    for settings in (held, {"cell": {"sinh": {"v0": 1e4}}, **held}):
        generator.set_state(state)
        network = network_of(
            generator, settings, *sizes, interconnect=imac.Interconnect(capacitance=True)
        )
        x = reals(generator, 2, sizes[0])
        control = StepControl(fixed=5e-11, method=method, tolerance=1e-7)
        options = TransientOptions(control=control, wires="exact")
        found.append(network.transient(x[1:], initial=x[:1], options=options))
    ohmic, curved = found
    assert curved.wires == ("all nodes, curved cells",) * (len(sizes) - 1)
    torch.testing.assert_close(curved.outputs, ohmic.outputs, rtol=0, atol=1e-8)
    torch.testing.assert_close(curved.energy.inputs, ohmic.energy.inputs, rtol=1e-8, atol=0)


def test_gates_that_hold_charge_settle_where_they_rest(generator: torch.Generator) -> None:
    # the input line carries what charges it and nothing else; 1e-4 V are the tolerance of steps
    settings = {"cell": {"fefet": {"specific_current": 1e-5}}, "capacitance": 1e-16}
    wires = imac.Interconnect(capacitance=True)
    network = network_of(generator, settings, 3, 2, interconnect=wires)
    x = reals(generator, 2, 3).abs()
    options = TransientOptions(control=StepControl(tolerance=1e-4))
    result = network.transient(x[1:], initial=x[:1], options=options)
    with torch.no_grad():
        rest = network.solve(x).outputs
    torch.testing.assert_close(result.outputs[0, 0], rest[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(result.outputs[-1, 0], rest[1], rtol=0, atol=2e-4)
    assert float((rest[1] - rest[0]).abs().max()) > 2e-3


def test_compiled_stages_are_those_in_torch(generator: torch.Generator) -> None:
    # what sweeps leave is 1e-9 V
    network = network_of(
        generator, {**KINDS["sinh-selector"], "capacitance": 1e-16}, 3, 2,
        interconnect=imac.Interconnect(capacitance=True),
    )  # fmt: skip
    layers = network.segment._in_time(TransientOptions())
    lines = layers[0].lines
    assert isinstance(lines, ChargedLines)
    volts = torch.nn.functional.pad(0.8 * reals(generator, 2, 3), (0, 1), value=0.8)
    ends = []
    for compiled in (True, False):
        state = lines.start(0.0 * volts)
        if not compiled:
            lines._sweeps.own_code = None
        closed = lines.close(lines.first(state, 1e-12), volts)
        ends.append(lines.ends(closed, volts).positive)
    assert float(ends[0].abs().max()) > 1e-5  # V
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-8)


def test_charges_of_curved_cells_have_no_reduced_wires(generator: torch.Generator) -> None:
    network = network_of(generator, {**KINDS["mtj"], "capacitance": 1e-16}, 3, 2)
    with pytest.raises(SolverError, match="no reduced wires"):
        network.transient(reals(generator, 1, 3), options=TransientOptions(wires="reduced"))


def test_transistors_have_the_charges_of_their_model() -> None:
    # 2 fins: some 150 aF in all when on, of the same order as a wire's; a set one would be a second
    access = {"finfet": {"fins": 2}}
    cell = build_cell(Memristor(**ENDS, access=access))
    assert isinstance(cell, Series)
    assert 1e-16 < cell.capacitance.node + cell.capacitance.line < 2e-16
    assert cell.capacitance.node == pytest.approx(cell.capacitance.line, rel=1e-2)
    with pytest.raises(ConfigError, match="access_capacitance"):
        build_cell(Memristor(**ENDS, access=access, access_capacitance=1e-16))
