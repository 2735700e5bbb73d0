"""Figures: what is drawn is what the models say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from imac_torch import Config, Neuron, Timing
from imac_torch.errors import ConfigError, SolverError
from imac_torch.finfet import FinFET, builtin_14nm_hp
from imac_torch.reports.plots import (
    loaded_curve,
    plot_finfet,
    plot_latency,
    plot_neuron,
    plot_waveforms,
)
from imac_torch.results.energy import Energy
from imac_torch.results.latency import Latency
from imac_torch.results.waveform import Waveforms
from imac_torch.study.characterization import neuron_of
from imac_torch.transient.inference_report import InferenceReport

FINFET = neuron_of(Config())
LOGISTIC = neuron_of(Config(neuron=Neuron(kind="logistic")))


def lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


@pytest.mark.parametrize("polarity", [0, 1])
def test_characteristics(polarity, tmp_path):
    card = builtin_14nm_hp()[polarity]
    device = FinFET(card, nfin=10)
    figure = plot_finfet(device)
    over_gate, over_drain, gate_current = figure.axes
    sign = 1.0 if polarity == 0 else -1.0
    vd, vg = ("Vds", "Vgs") if polarity == 0 else ("Vsd", "Vsg")
    # on and off current at the ends, and the same point in both panels
    curve = lines(over_gate)[f"{vd} = 0.8 V"]
    on = abs(float(device.currents(sign * 0.8, sign * 0.8).drain))
    assert curve[-1] == pytest.approx([0.8, on], rel=1e-12)
    # figures per fin from the published 14 nm HP cards: 94 and 86 µA on, 5 nA off
    assert on / 10 == pytest.approx((94.15e-6, 86.5e-6)[polarity], rel=1e-3)
    assert curve[0, 1] / 10 == pytest.approx((5.21e-9, 5.02e-9)[polarity], rel=2e-3)
    assert lines(over_drain)[f"{vg} = 0.8 V"][-1] == pytest.approx([0.8, 1e3 * on], rel=1e-12)
    assert lines(over_drain)[f"{vg} = 0.2 V"][0, 1] == pytest.approx(0.0, abs=1e-9)
    assert over_gate.get_yscale() == gate_current.get_yscale() == "log"
    wide = lines(gate_current)[f"{vd} = 0.05 V"]
    assert wide[0, 0] == -1.4
    assert wide[-1, 1] == pytest.approx(
        abs(float(device.currents(sign * 0.05, sign * 1.4).gate)), rel=1e-12
    )
    for axes in figure.axes:
        assert axes.get_xlabel().endswith("V)")
        assert "A)" in axes.get_ylabel()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_loaded_logistic_neuron():
    """vdd/(1 + exp(11 z)) behind 1 kΩ, loaded: a voltage divider."""
    z = torch.linspace(-1.0, 1.0, 101, dtype=torch.float64)
    curve = loaded_curve(LOGISTIC, z, conductance=5e-4, voltage=0.3)
    open_ = 0.8 / (1.0 + np.exp(11.0 * z.numpy()))
    expected = (open_ / 1e3 + 0.3 * 5e-4) / (1e-3 + 5e-4)
    np.testing.assert_allclose(curve.outputs.numpy(), expected, atol=1e-9)
    assert float(curve.supply_current.abs().max()) == 0.0


def test_load_of_a_finfet_neuron():
    z = torch.linspace(-1.0, 1.0, 81, dtype=torch.float64)
    free, loaded = (loaded_curve(FINFET, z, conductance=value) for value in (0.0, 5e-4))
    assert (loaded.outputs <= free.outputs + 1e-9).all()
    # where the output is high, the current of the load comes from vdd: KCL, less what the
    # feedback resistor carries, (u - g)/202 kΩ, a few µA
    drawn = loaded.supply_current[0] - free.supply_current[0]
    assert float(drawn) == pytest.approx(5e-4 * float(loaded.outputs[0]), abs=5e-6)
    exact = loaded_curve(FINFET, z[::20], conductance=5e-4, exact=True)
    # the native table is off by nanovolts
    torch.testing.assert_close(exact.outputs, loaded.outputs[::20], rtol=0.0, atol=1e-7)


def test_neuron_figure():
    figure = plot_neuron(FINFET, conductances=(0.0, 1e-4), voltage=0.4, low=-0.8, high=0.8)
    transfer, supply = figure.axes
    drawn = lines(transfer)
    assert {"no load", "100 µS to 0.4 V"} <= drawn.keys()
    z = torch.from_numpy(drawn["no load"][:, 0].copy())
    curve = loaded_curve(FINFET, z, conductance=1e-4, voltage=0.4)
    np.testing.assert_allclose(drawn["100 µS to 0.4 V"][:, 1], curve.outputs.numpy(), atol=1e-9)
    np.testing.assert_allclose(
        lines(supply)["100 µS to 0.4 V"][:, 1], 1e6 * curve.supply_current.numpy(), atol=1e-3
    )


def test_errors():
    with pytest.raises(ConfigError, match="is not one"):
        loaded_curve(LOGISTIC, torch.zeros(1, dtype=torch.float64), conductance=-1.0)
    with pytest.raises(ConfigError, match="is no figure"):
        plot_neuron(LOGISTIC, low=1.0, high=-1.0)
    with pytest.raises(ConfigError, match="is no figure"):
        plot_neuron(LOGISTIC, conductances=())
    # a load to 3 V pulls the output out of the table, which ends 0.1 V above vdd
    with pytest.raises(SolverError, match="leaves the range"):
        loaded_curve(
            FINFET, torch.zeros(1, dtype=torch.float64), conductance=5e-3, voltage=3.0
        )


@pytest.mark.slow
@pytest.mark.ngspice
def test_example(ngspice, tmp_path):
    from pathlib import Path
    from runpy import run_path

    example = Path(__file__).parent.parent / "examples" / "neuron_curves.py"
    written = run_path(str(example))["main"](["--directory", str(tmp_path / "figures")])
    names = {path.name for path in written}
    assert names == {"finfet_n.png", "finfet_p.png", "neuron_finfet.png", "neuron_table.png"}
    assert all(path.stat().st_size > 10_000 for path in written)


def timed():
    """Three images of two outputs; the second one was not solved."""
    nan = float("nan")
    outputs = torch.tensor([[1e-10, 2e-10], [nan, nan], [4e-10, 3e-10]], dtype=torch.float64)
    time = torch.linspace(0, 1e-9, 5, dtype=torch.float64)
    waves = torch.stack([time * 1e9, 1 - time * 1e9], dim=-1)[:, None].expand(-1, 2, -1)
    none = torch.zeros(3, 1, dtype=torch.float64)
    energy = Energy(none, none, none, none, none, none)
    settled = torch.tensor([[1.0, 0.0], [nan, nan], [0.0, 1.0]], dtype=torch.float64)
    return InferenceReport(
        settled, settled, Latency(outputs[:, None], outputs[:, :1] / 2, 0.1), energy, energy,
        Timing(period=1e-9), torch.tensor([0, 3, 0]), ("every node",), 0.0, (9,),
        waveforms=Waveforms(torch.tensor([0, 2]), time, waves),
    )  # fmt: skip


def test_latencies():
    settled, decided = plot_latency(timed(), bins=4).axes
    counts = [patch.get_height() for patch in settled.patches]
    assert sum(counts) == 2  # the one that was not solved is not drawn
    # Quantiles by nearest rank, of 200 ps and 400 ps.
    assert "99 % 400 ps" in lines(settled)
    assert "99 % 200 ps" in lines(decided)
    nothing = timed().latency.select(torch.tensor([1]))
    with pytest.raises(SolverError, match="no image settled"):
        plot_latency(replace(timed(), latency=nothing))


def test_waveforms():
    first, slowest = plot_waveforms(timed(), end=0.6e-9).axes
    up, down = lines(first)["output 0, the answer"], lines(slowest)["output 1, the answer"]
    np.testing.assert_allclose(up, [[0, 0], [2.5e-10, 0.25], [5e-10, 0.5]])
    np.testing.assert_allclose(down, [[0, 1], [2.5e-10, 0.75], [5e-10, 0.5]])
    assert "settled 400 ps" in lines(slowest)
    with pytest.raises(ConfigError, match="waveforms=2"):
        plot_waveforms(replace(timed(), waveforms=None))
