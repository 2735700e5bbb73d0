"""Transients of small networks: invariants, options, kernels, energies."""

import functools
import math
from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from small_networks import mlp, signs

from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.config import Amplifier, Config, Crossbar, Interconnect, Neuron, Timing
from imac_torch.conversion.convert import convert
from imac_torch.dc.native import Native
from imac_torch.dc.network import solve_dc
from imac_torch.elimination.ports import end_voltages
from imac_torch.errors import SolverError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.finfet import transistors
from imac_torch.results.energy import Energy
from imac_torch.results.latency import measure_latency
from imac_torch.transient.inference import InferenceRun
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.network import solve_transient
from imac_torch.transient.options import TimingOptions, TransientOptions
from imac_torch.transient.preparation import prepare_transient

SIZES = (9, 6, 4)
TIMING = Timing(period=2e-9)


def neuron_spec(options, kind):
    """A neuron of 0.8 V; inverters have the usual resistors."""
    inverter = kind == "finfet"
    return NeuronSpec(
        kind,
        78e3 if inverter else 0.0,
        202e3 if inverter else float("inf"),
        0.4 if inverter else 0.0,
        0.8,
        298.15,
        options,
        options.input_capacitance,
        options.output_capacitance,
    )


def build(generator, *, kind="logistic", capacitance=True, combine="average", node=9e-9,
          resistance=True, pole=None, tie=1.0, **neuron):
    """Layers (crossbars, neurons), interconnect and DC layers."""
    config = Config(
        neuron=Neuron(kind=kind, output_resistance=2e4, **neuron),
        crossbar=Crossbar(rows=4, columns=5),
        interconnect=Interconnect(capacitance=capacitance, tech_node=node, resistance=resistance),
        amplifier=Amplifier(gain=10.0, combine=combine, output_resistance=tie, pole=pole),
    ).for_layer(0, "a", 1)
    layers = []
    for inputs, outputs in pairwise(SIZES):
        strong = (
            torch.rand(outputs, inputs + 1, generator=generator, dtype=torch.float64) < 0.5
        ).double()
        low, high = 1 / 202e3, 1 / 78e3
        pair = ConductancePair(low + (high - low) * strong, high + (low - high) * strong)
        layers.append((build_crossbar(pair, config, 10.0), neuron_spec(config.neuron, kind)))
    return layers, [config.interconnect] * 2, Native().prepare(layers).layers


def vectors(generator, *shape):
    return 0.8 * torch.sign(torch.randn(*shape, SIZES[0], generator=generator).double())


def solve(network, inputs, timing=TIMING, *, initial=None, **settings):
    options = TransientOptions(**settings)
    layers = prepare_transient(*network, options)
    return solve_transient(layers, inputs, timing, initial=initial, options=options)


@pytest.mark.parametrize(("wires", "combine"), [("exact", "sum"), ("reduced", "average")])
def test_settles_to_the_dc_solution_and_its_power(generator, wires, combine):
    network = build(generator, combine=combine)
    inputs = vectors(generator, 3, 2)
    result = solve(network, inputs, wires=wires)
    exact = solve_dc(network[2], inputs[:, -1])
    # 2 ns are a dozen of the slowest time constants (20 kΩ and some fF): what remains is below
    # the tolerance of 1e-4 V, and powers follow.
    assert torch.allclose(result.outputs[-1], exact.outputs, atol=2e-5)
    for part in fields(Energy):
        mine = getattr(result.static, part.name)[:, -1] / TIMING.period
        theirs = getattr(exact.power, part.name)
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4 * float(exact.power.total.max()))
    start = solve_dc(network[2], torch.zeros_like(inputs[:, 0]))
    assert torch.allclose(result.outputs[0], start.outputs, atol=1e-9)


def test_nothing_happens_without_a_change(generator):
    network = build(generator)
    inputs = vectors(generator, 2, 1)
    result = solve(network, inputs, initial=inputs[:, 0])
    assert float((result.outputs - result.outputs[0]).abs().max()) < 1e-8
    assert float((result.switching.total / result.energy.total).abs().max()) < 1e-9


def test_exact_and_reduced_agree(generator):
    network = build(generator)
    inputs = vectors(generator, 2, 1)
    control = StepControl(fixed=2e-12)
    timing = Timing(period=1.5e-10)
    outputs, energies = [], []
    for wires in ("exact", "reduced"):
        result = solve(network, inputs, timing, wires=wires, control=control)
        outputs.append(result.outputs)
        energies.append(result.energy)
        assert all(("all nodes" if wires == "exact" else "filters") in w for w in result.wires)
    # What is left out is reported, a bound; equal steps make everything else equal but for the
    # filters' and nodes' own discretisation at the corners of the ramps.
    assert float(result.reduction_error.max()) < 1e-3
    assert float((outputs[0] - outputs[1]).abs().max()) < 5e-4
    assert torch.allclose(energies[0].supply, energies[1].supply, rtol=1e-5, atol=0)
    assert torch.allclose(energies[0].inputs, energies[1].inputs, rtol=2e-3, atol=0)


def test_third_order(generator):
    # Through 100 kΩ / 2 partitions the inputs charge 1 fF, outputs 2 fF: tens of ps.
    network = build(generator, capacitance=False, tie=1e5, input_capacitance=1e-15,
                    output_capacitance=2e-15)
    inputs = vectors(generator, 1, 1)
    at = []
    for step in (2e-11, 1e-11, 5e-12, 1.25e-12):
        control = StepControl(fixed=step, tolerance=1e-8)
        result = solve(network, inputs, Timing(period=1.2e-10), control=control)
        at.append(result.outputs[-1])
    errors = [float((item - at[-1]).abs().max()) for item in at[:-1]]
    # Local errors are taken back: halving the step leaves an eighth.
    assert 6.4 < errors[0] / errors[1] < 10.0
    assert 6.4 < errors[1] / errors[2] < 10.0


@pytest.mark.parametrize("wires", [pytest.param("exact", marks=pytest.mark.slow), "reduced"])
def test_backward_euler_is_of_first_order(generator, wires):
    network = build(generator, output_capacitance=2e-15)
    inputs = vectors(generator, 1, 1)
    timing = Timing(period=2e-10)

    def at_the_end(step, **control):
        control = StepControl(fixed=step, method="trapezoidal", **control)
        return solve(network, inputs, timing, wires=wires, control=control).outputs[-1]

    exact = at_the_end(2.5e-12)  # of second order
    errors = [
        float((at_the_end(step, euler_steps=1000) - exact).abs().max()) for step in (5e-12, 2.5e-12)
    ]
    assert 1.7 < errors[0] / errors[1] < 2.3
    # Two such steps only, within the ramp: what they leave has decayed at the end.
    assert float((at_the_end(2.5e-12, euler_steps=2) - exact).abs().max()) < 0.2 * errors[1]


def test_a_step_that_fails_says_where(generator):
    network = build(generator)
    inputs = vectors(generator, 3, 1)
    inputs[:2] = 0.0  # nothing happens to these
    with pytest.raises(SolverError, match=r"at .* s, sample 2, layer \d: .*estimated error"):
        solve(network, inputs, control=StepControl(tolerance=1e-6, smallest=1e-11))
    with pytest.raises(SolverError, match=r"sample 2, layer \d: .*iterations = 1; take shorter"):
        solve(network, inputs, max_iterations=1, control=StepControl(fixed=5e-11, tolerance=1e-6))


def test_tolerance_is_kept(generator):
    network = build(generator, capacitance=False, output_capacitance=2e-15)
    inputs = vectors(generator, 4, 1)
    timing = Timing(period=4e-10)
    fine = solve(network, inputs, timing, control=StepControl(fixed=4e-12))
    from imac_torch.results.waveform import sample

    for tolerance in (1e-3, 1e-4):
        control = StepControl(tolerance=tolerance)
        result = solve(network, inputs, timing, control=control)
        error = sample(result.time, result.outputs, fine.time) - fine.outputs
        assert float(error.abs().max()) < tolerance


def test_batch_equals_loop(generator):
    network = build(generator)
    inputs = vectors(generator, 2, 1)
    control = StepControl(fixed=2e-11)
    timing = Timing(period=4e-10)
    together = solve(network, inputs, timing, control=control)
    for k in range(2):
        alone = solve(network, inputs[k : k + 1], timing, control=control)
        # The start values of DC iterations come from a table over the batch: 1e-9 V.
        assert torch.allclose(alone.outputs[:, 0], together.outputs[:, k], atol=1e-8)
        assert torch.allclose(alone.energy.total[0], together.energy.total[k], rtol=1e-6, atol=0)


COARSE = {"wires": "reduced", "control": StepControl(tolerance=5e-4)}
"""Where latencies are compared that differ by percents."""


def loaded(load=0.0, **circuit):
    generator = torch.Generator().manual_seed(11)
    network = build(generator, **circuit)
    timing = TIMING.replace(load_capacitance=load)
    return solve(network, vectors(generator, 2, 1), timing, **COARSE)


@functools.cache
def without_capacitors(tie):
    return loaded(tie=tie)


@pytest.mark.parametrize(
    ("circuit", "load"),
    [({}, 5e-15), ({"output_capacitance": 5e-15}, 0.0),
     ({"input_capacitance": 1e-15}, 0.0), ({"input_capacitance": 1e-15, "tie": 1e5}, 0.0)],
    ids=["load", "output", "input of an ideal source", "input"],
)
def test_capacitors_slow_the_outputs_down(circuit, load):
    plain, slower = without_capacitors(circuit.get("tie", 1.0)), loaded(load, **circuit)
    times = [
        measure_latency(item.time, item.outputs, TIMING.period).images for item in (plain, slower)
    ]
    if circuit == {"input_capacitance": 1e-15}:
        # A behavioural neuron's input hangs on 1 Ω: 1 fF there takes 1 fs.
        assert torch.allclose(times[0], times[1], rtol=1e-3, atol=0)
    else:
        assert bool((times[1] > 1.02 * times[0]).all())
    # Charges move, but nothing more is drawn once settled.
    assert torch.allclose(slower.outputs[-1], plain.outputs[-1], atol=2e-4)


def test_latency_of_a_loaded_output_is_that_of_its_rc(generator):
    """Identity neurons without any other capacitor: the last ones are their resistor and load."""
    network = build(generator, kind="identity", capacitance=False)
    timing = Timing(period=4e-9, transition=1e-12, load_capacitance=1e-14)
    result = solve(network, vectors(generator, 3, 1), timing, control=StepControl(tolerance=1e-5))
    constant = 2e4 * 1e-14
    expected = constant * math.log(10.0) + timing.transition / 2
    # Outputs move by millivolts, of which the band is a tenth; the cubic between time points.
    latency = measure_latency(result.time, result.outputs, timing.period, resolution=1e-9).outputs
    assert torch.allclose(latency, torch.full_like(latency, expected), rtol=2e-3, atol=0)


def test_time_and_energy_of_a_large_load_scale_with_it():
    """Once the gates have settled, C·du/dt = I(u): twice the load is the same in twice the time."""
    config = Config(neuron=Neuron(kind="finfet")).for_layer(0, "a", 1)
    cells = torch.ones(2, SIZES[0] + 1, dtype=torch.float64)
    crossbar = build_crossbar(ConductancePair(cells / 78e3, cells / 202e3), config, 60.0)
    layers = [(crossbar, neuron_spec(config.neuron, "finfet"))]
    network = layers, [config.interconnect], Native().prepare(layers).layers
    falling = 0.8 * torch.ones(1, 1, SIZES[0], dtype=torch.float64)
    inputs = torch.cat([falling, -falling], dim=1)  # outputs fall, then rise
    loads = (1e-12, 2e-12, 4e-12)
    results = [
        solve(network, inputs, Timing(period=5e-8, load_capacitance=load), initial=-falling[:, 0])
        for load in loads
    ]
    energies = torch.stack([item.energy.neurons[0, 1] for item in results])
    excess = energies.diff() / torch.tensor(loads).diff()
    swing = float(results[0].outputs[-1].sum() - results[0].outputs[results[0].periods[1]].sum())
    # Step control keeps 1e-4 V of 0.76 V per step.
    assert float(excess[1]) == pytest.approx(float(excess[0]), rel=2e-3, abs=0.0)
    # C·V² is what vdd gives to the capacitor. While the output rises the lower transistor takes
    # less than at the end, so that the excess over the static energy is less, but most of it.
    assert 0.7 < float(excess[1]) / (0.8 * swing) < 1.0
    times = [measure_latency(item.time, item.outputs, 5e-8).images[0] for item in results]
    steps = torch.stack(times).diff(dim=0)
    torch.testing.assert_close(steps[1], 2.0 * steps[0], rtol=1e-2, atol=0.0)
    for item in results[1:]:  # nothing flows back to the inputs; their ramp is integrated anew
        torch.testing.assert_close(
            item.energy.inputs, results[0].energy.inputs, rtol=1e-5, atol=0.0
        )


FIRST, SECOND, SLEW = 1e9, 3e9, 2e8  # Hz, Hz, V/s


def one_pole(time):
    return torch.exp(-2.0 * torch.pi * FIRST * time)


def two_poles(time):
    p, q = 2.0 * torch.pi * FIRST, 2.0 * torch.pi * SECOND
    return (q * torch.exp(-p * time) - p * torch.exp(-q * time)) / (q - p)


def slewing(time, change):
    """d(ln sinh z)/dt = -p for z = p·(u - x)/S, see :mod:`imac_torch.periphery.readout.lag`."""
    p = 2.0 * torch.pi * FIRST
    return torch.asinh(torch.sinh(p * change / SLEW) * torch.exp(-p * time)) * SLEW / p


@pytest.mark.parametrize(
    ("more", "left"),
    [
        ({}, lambda time, change: change * one_pole(time)),
        ({"second_pole": SECOND}, lambda time, change: change * two_poles(time)),
        ({"slew_rate": SLEW}, slewing),
    ],
    ids=["pole", "two poles", "slew rate"],
)  # fmt: skip
@pytest.mark.parametrize("power", [True, False], ids=["power", ""])
def test_amplifiers_follow_a_step_as_their_equations_have_it(more, left, power):
    """Nothing else has dynamics, and the output of an identity neuron is that of amplifiers.

    Partitions slew one by one: z = p·u/S is up to 3.7 here, of some 0.
    """
    config = Config(
        neuron=Neuron(kind="identity"), crossbar=Crossbar(rows=4, columns=3),
        amplifier=Amplifier(gain=10.0, pole=FIRST, **more),
        timing=Timing(period=1e-9, transition=1e-13), interconnect=Interconnect(resistance=False),
    )  # fmt: skip
    network = convert(mlp(4, 2)[:1], config)
    x = torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, -1.0]])
    options = TransientOptions(control=StepControl(tolerance=1e-5), amplifiers=power)
    found = network.transient(x[1:], initial=x[:1], options=options)
    ports = network.prepare().layers[0].ports
    lines = torch.nn.functional.pad(network.voltages(x).double(), (0, 1), value=0.8)
    ends = (end_voltages(end, ports.layout, lines) for end in
            (ports.positive_end, ports.negative_end))  # fmt: skip
    begin, end = ports.read_out.output(*ends).detach()
    if "slew_rate" in more:
        assert float((begin - end).abs().max()) * 2.0 * torch.pi * FIRST / SLEW > 2.0
    late = found.time > 1e-11
    time = found.time[late][:, None, None] - 0.5e-13  # a short ramp is a step in its middle
    expected = end + left(time, begin - end)
    # The tolerance of points, and a ramp's 0.05 ps of a slope of 1 V/ns.
    torch.testing.assert_close(
        found.outputs[late, 0], expected.mean(-1), rtol=0.0, atol=5e-5
    )


def test_latency_follows_capacitance_and_node(generator):
    def latency(**settings):
        network = build(torch.Generator().manual_seed(7), **settings)
        inputs = vectors(torch.Generator().manual_seed(8), 4, 1)
        result = solve(network, inputs, **COARSE)
        return float(measure_latency(result.time, result.outputs, TIMING.period).images.mean())

    assert latency(capacitance=False) < latency(capacitance=True)
    # Larger cells are longer wires: more capacitance, at the same memristors.
    nodes = [latency(node=node) for node in (7e-9, 45e-9)]
    assert nodes == sorted(nodes)


@pytest.fixture(scope="module")
def finfet():
    return build(torch.Generator().manual_seed(3), kind="finfet")


def test_kernels_agree(finfet):
    inputs = vectors(torch.Generator().manual_seed(4), 11, 1)
    control = StepControl(fixed=1e-11, tolerance=1e-6)
    timing = Timing(period=4e-10)
    results = [
        solve(finfet, inputs, timing, kernel=kernel, control=control)
        for kernel in ("numba", "torch")
    ]
    # Newton stops at 1e-8 V in both; the kernel's table of charges is the same spline.
    assert torch.allclose(results[0].outputs, results[1].outputs, atol=1e-6)
    for part in fields(Energy):
        one, two = (getattr(item.energy, part.name) for item in results)
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-5 * float(two.abs().max()))


def test_charge_is_conserved(finfet):
    # What vdd delivers beyond the static current is the change of charge on it: over a cycle that
    # ends where it began, bias lines and neurons draw only what is dissipated, and energies are
    # those of the integrals of the returned powers.
    from imac_torch.results.waveform import integral

    one = vectors(torch.Generator().manual_seed(5), 2, 1)
    other = vectors(torch.Generator().manual_seed(6), 2, 1)
    inputs = torch.cat([other, one], dim=1)
    result = solve(finfet, inputs, initial=one[:, 0], wires="reduced")
    assert torch.allclose(result.outputs[-1], result.outputs[0], atol=1e-4)
    for k in range(2):
        span = k * TIMING.period, (k + 1) * TIMING.period
        for part in ("inputs", "bias", "neurons"):
            area = integral(result.time, getattr(result.power, part), *span)
            energy = getattr(result.energy, part)[:, k]
            assert torch.allclose(area, energy, rtol=2e-3, atol=0)


def test_inverter_charges_against_the_reference(shared):
    import numpy as np

    data = np.load(shared / "golden" / "finfet_14nm_hp.npz")
    options = Neuron(kind="finfet", model_directory=str(shared / "ptm"))
    config = Config(neuron=options).for_layer(0, "a", 1)
    spec = neuron_spec(config.neuron, "finfet")
    gate, drain = (torch.tensor(data[f"{name}_voltage"]) for name in ("gate", "drain"))
    g, u = torch.meshgrid(gate, drain, indexing="ij")
    values = spec.model.charges(spec).values(g, u)
    # The p device at gate g and output u is at -(0.8 - g) and -(0.8 - u): the reference flipped.
    flip = {name: torch.tensor(data[name][::-1, ::-1].copy()) for name in ("qg_p", "qd_p")}
    scale = float(torch.tensor(data["qg_n"]).abs().max())
    for mine, n, p in ((values.gate, "qg_n", "qg_p"), (values.output, "qd_n", "qd_p")):
        theirs = torch.tensor(data[n]) + flip[p]
        change = (mine - mine[0, 0]) - (theirs - theirs[0, 0])
        assert float(change.abs().max()) < 0.03 * scale
    assert transistors(spec)  # the same transistors that currents are made of


def test_a_network_gives_waveforms():
    """One sequence, on given time points with the trapezoidal rule as well."""
    config = Config(neuron=Neuron(kind="logistic", output_capacitance=2e-15), timing=TIMING)
    model = convert(mlp(6, 4, 2), config)
    inputs = signs(3, 6)
    result = model.transient(inputs, initial=inputs[:1])
    settled = model.solve(inputs).outputs
    torch.testing.assert_close(result.outputs[result.periods[1:], 0], settled, rtol=0, atol=2e-5)
    torch.testing.assert_close(result.outputs[0, 0], settled[0], rtol=0, atol=1e-9)
    end = 3 * TIMING.period
    grid = tuple(torch.linspace(0, end, 601, dtype=torch.float64)[1:].tolist())
    control = StepControl(grid=grid, method="trapezoidal")
    again = model.transient(inputs, options=TransientOptions(control=control))
    torch.testing.assert_close(again.outputs[-1, 0], settled[-1], rtol=0, atol=2e-5)
    # Corners of the inputs are time points besides: here they are among those given.
    torch.testing.assert_close(
        again.time[1:], torch.tensor(grid, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_report_of_a_data_set(finfet):
    options = TransientOptions(amplifiers=False, wires="reduced")
    layers = prepare_transient(*finfet, options)
    inputs = vectors(torch.Generator().manual_seed(9), 5)
    done = []
    run = InferenceRun(layers, TIMING, TimingOptions(options, batch_size=2, waveforms=0))
    run.add(inputs, progress=done.append)
    report = run.report()
    assert done == [2, 2, 1]
    assert report.latency.images.shape == (5, 1)
    assert report.energy.total.shape == (5, 1)
    assert bool(torch.isfinite(report.latency.images).all())
    assert 0.0 < report.safe_period < TIMING.period
    assert report.throughput == pytest.approx(1.0 / report.safe_period)
    assert report.cost(report.settled.argmax(-1)).accuracy == 1.0
    assert torch.isnan(report.energy.amplifiers).all()
    # Too short a period is noticed, although waveforms look settled to themselves.
    run = InferenceRun(layers, Timing(period=3e-10), TimingOptions(options, waveforms=0))
    run.add(inputs[:3])
    hurried = run.report()
    assert hurried.unsettled > 0
    cost = hurried.cost()
    assert "slowest image needs" in cost.warning
    assert cost.settled == pytest.approx(1.0 - hurried.unsettled / 3)
    # Those that had not settled were followed: latencies are those of the long period, up to the
    # interpolation between time points that differ.
    torch.testing.assert_close(
        hurried.latency.images, report.latency.images[:3], rtol=2e-2, atol=1e-12
    )


@pytest.mark.parametrize(
    "settings",
    [{"wires": "none"}, {"order": 0}, {"save": "some"}, {"kernel": "c"}],
)
def test_impossible_options(settings):
    with pytest.raises(SolverError):
        TransientOptions(**settings)


def test_errors(generator):
    network = build(generator)
    with pytest.raises(SolverError, match="inputs must be"):
        solve(network, vectors(generator, 3))
    with pytest.raises(SolverError, match="float64"):
        solve(network, vectors(generator, 3, 1).float())
    with pytest.raises(SolverError, match="finite"):
        solve(network, vectors(generator, 3, 1) * torch.nan)
    with pytest.raises(SolverError, match="numba kernel"):
        solve(network, vectors(generator, 1, 1), kernel="numba")
    with pytest.raises(SolverError, match="grid must reach"):
        solve(network, vectors(generator, 1, 1), control=StepControl(grid=(1e-10, 1e-9)))
