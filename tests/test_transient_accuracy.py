"""What the tolerance of transients promises: outputs at any time, latencies, energies."""

import json

import numpy as np
import pytest
import torch
from small_networks import LOGISTIC, loader
from torch import nn

import imac_torch as imac
from imac_torch.base.files import strict_json
from imac_torch.results.waveform import sample
from imac_torch.transient.integrator import StepControl


def quick(**sections):
    """Logistic neurons that hold no charge, behind steep amplifiers."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 8), nn.Sigmoid(), nn.Linear(8, 6), nn.Sigmoid())
    config = imac.Config(
        neuron=imac.Neuron(kind="logistic"), amplifier=imac.Amplifier(gain=30.0), **sections
    )
    return imac.convert(model, config), torch.sign(torch.rand(6, 16) - 0.5)


def transient(network, inputs, tolerance):
    return network.transient(
        inputs[1:2], initial=inputs[:1],
        options=imac.TransientOptions(
            control=StepControl(tolerance=tolerance), amplifiers=False
        ),
    )  # fmt: skip


@pytest.mark.parametrize("rlow", [78e3, 8.5e3])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_without_charges_the_waveform_is_that_of_operating_points(rlow, tolerance):
    network, inputs = quick(device=imac.Memristor(rlow=rlow, rhigh=3 * rlow))
    result = transient(network, inputs, tolerance)
    # Nothing remembers: at any time the outputs are the DC solution of the inputs of that time.
    ramp = network.config.timing.transition
    time = torch.linspace(0, 1.2 * ramp, 601, dtype=torch.float64)
    voltages = network.voltages(inputs[:2])
    now = voltages[0] + (time / ramp).clamp(max=1.0)[:, None] * (voltages[1] - voltages[0])
    with torch.no_grad():
        exact = network.engine.solve(network.prepare(), now).outputs
    found = sample(result.time, result.outputs[:, 0], time)
    assert float((exact.amax(0) - exact.amin(0)).max()) > 0.05
    # Estimated: the distance to a parabola, whose third derivative may differ by a factor.
    assert float((found - exact).abs().max()) < 3 * tolerance


def test_energy_of_a_ramp_is_exact():
    torch.manual_seed(0)
    network = imac.convert(nn.Sequential(nn.Linear(16, 8)), imac.Config())
    inputs = torch.sign(torch.rand(2, 16) - 0.5)
    ends = network.voltages(inputs)
    points = torch.stack([ends[0], ends.mean(0), ends[1]])
    with torch.no_grad():
        power = network.engine.solve(network.prepare(), points).power.inputs
    # Quadratic in time, for which Simpson's rule is exact.
    ramp = network.config.timing.transition
    wanted = float(power @ torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64)) / 6 * ramp
    wanted -= float(power[2]) * ramp
    for tolerance in (1e-2, 1e-4):
        found = transient(network, inputs, tolerance)
        assert float(found.switching.inputs) == pytest.approx(wanted, rel=1e-6, abs=0)


def test_images_that_never_settle_are_infinite_and_counted():
    config = imac.Config(
        amplifier=imac.Amplifier(pole=1e6), timing=imac.Timing(period=1e-9)
    )
    network = imac.convert(nn.Sequential(nn.Linear(4, 3)), config)
    inputs = torch.tensor([[0.9, -0.7, 0.5, 0.3], [-0.9, 0.7, -0.5, -0.3]])
    report = network.measure(inputs)
    assert bool(report.latency.images.isinf().all())
    assert (report.safe_period, report.throughput, report.unsettled) == (torch.inf, 0.0, 2)
    assert report.waveforms is not None


def test_images_without_a_change_have_no_latency(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3))
    network = imac.convert(model, LOGISTIC)
    same = torch.sign(torch.rand(1, 6) - 0.5).expand(4, -1)
    report = imac.evaluate(
        network, loader(same, torch.zeros(4, dtype=torch.int64), 4), timing=True, progress=False
    )
    assert report.timing is not None and report.timing.unchanged == 3
    first = float(report.timing.latency.images[0])
    figures = report.figures()["timing"]
    assert figures["latency"]["median"] == figures["latency"]["worst"] == first > 0.0
    assert figures["sampling"]["unsettled"] == 0
    assert "same input" in str(report) and "latency is that of the ramp" in str(report)
    still = imac.evaluate(
        network, loader(torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64), 2),
        timing=True, progress=False,
    )  # fmt: skip
    assert still.figures()["timing"]["unchanged"] == 2
    still.save(tmp_path / "still")

    def refuse(token):
        raise AssertionError(token)

    text = (tmp_path / "still" / "report.json").read_text()
    assert json.loads(text, parse_constant=refuse)["figures"]["timing"]["safe_period"] is None
    assert strict_json({"a": [float("nan"), (float("inf"),)]}) == '{"a": [null, [null]]}'


def flat_then_steep(slope, *, load=0.0, pole=None, period=1e-9, transition=1e-10):
    """One logistic neuron behind ideal wires whose gate crosses the steep part of its curve."""
    config = imac.Config(
        neuron=imac.Neuron(kind="logistic", slope=slope, output_resistance=1e3),
        amplifier=imac.Amplifier(gain=30.0, pole=pole),
        interconnect=imac.Interconnect(resistance=False),
        timing=imac.Timing(period=period, transition=transition, load_capacitance=load),
    )
    model = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(0.0)
    return imac.convert(model, config), torch.tensor([[-0.9, -0.9], [0.5, 0.5]])


def settled(network, voltages):
    with torch.no_grad():
        return network.engine.solve(network.prepare(), voltages).outputs


def test_an_output_much_faster_than_the_steps():
    step, delay = 1.25e-12, 5e-15
    network, inputs = flat_then_steep(11.0, load=delay / 1e3)
    ramp = network.config.timing.transition
    result = network.transient(
        inputs[1:], initial=inputs[:1],
        options=imac.TransientOptions(control=StepControl(fixed=step), amplifiers=False),
    )  # fmt: skip
    inside = (result.time > 0.6 * ramp) & (result.time < 0.99 * ramp)
    time = result.time[inside]
    # y' = (g - y)/τ: y(t) is the mean of g(t - τ·X), X distributed exponentially.
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.laguerre.laggauss(12))
    past = (time[:, None] - delay * nodes).reshape(-1, 1)
    start, end = network.voltages(inputs)
    drive = settled(network, start + past / ramp * (end - start)).reshape(len(time), -1)
    exact = drive @ weights
    fine = torch.linspace(0.1, 1.0, 2001, dtype=torch.float64)[:, None]
    bend = settled(network, start + fine * (end - start))[:, 0].diff(n=3).abs().max()
    third = float(bend) / (4.5e-4 * ramp) ** 3
    error = float((result.outputs[inside, 0, 0] - exact).abs().max())
    # BDF2's derivative at its last point is off by (1 - γ)/6·h²·g''' = 0.069·h²·g'''.
    assert float(drive.max() - drive.min()) > 0.3
    assert error < 0.03 * delay * step**2 * third


def test_what_a_flat_neuron_holds_counts_as_the_steep_one_shows_it():
    # Behind a slow pole the gate's error is made on the flat part of a curve of slope 80.
    network, inputs = flat_then_steep(400.0, pole=2e9, transition=1e-11)
    tolerance, ramp = 1e-4, network.config.timing.transition
    rate = 2.0 * torch.pi * 2e9
    found = transient(network, inputs, tolerance)
    time = found.time[found.time > ramp]
    # A ramp behind a low-pass: what is missing decays from (1 - exp(-pT))/(pT) on.
    missing = -torch.expm1(torch.tensor(-rate * ramp)) / (rate * ramp)
    part = 1.0 - missing * torch.exp(-rate * (time - ramp))
    start, end = network.voltages(inputs)
    exact = settled(network, start + part[:, None] * (end - start))
    error = (found.outputs[found.time > ramp, 0] - exact).abs()
    assert float(exact.max() - exact.min()) > 0.7
    assert float(error.max()) < tolerance
