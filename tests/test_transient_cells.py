"""Curved cells in time: waveforms and energies of ngspice, latencies in evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_networks import drawn, reals
from test_cells import ENDS, KINDS

import imac_torch as imac
from imac_torch.config import LayerConfig, Memristor
from imac_torch.errors import SolverError
from imac_torch.netlist import NetlistSettings, NgSpiceWriter, write_netlists
from imac_torch.results.waveform import integral, sample
from imac_torch.simulator import NgSpice, check, solve_netlists
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
    # two kinds of cells; half a percent of the swing, ngspice's own steps included (reltol 1e-6)
    kinds = {
        place: LayerConfig(device={**ENDS, **KINDS[name]})
        for place, name in (("0", "mtj"), ("2", "sinh-resistor"), ("4", "mtj"))
    }
    network = network_of(generator, {}, 3, 2, 2, 2, layers=kinds)
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


def test_charged_wires_of_curved_cells_are_refused(generator: torch.Generator) -> None:
    network = network_of(
        generator, KINDS["mtj"], 3, 2, interconnect=imac.Interconnect(capacitance=True)
    )
    with pytest.raises(SolverError, match=r"TunnelJunction.*interconnect\.capacitance"):
        network.transient(reals(generator, 1, 3))
