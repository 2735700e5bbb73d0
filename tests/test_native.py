"""The native engine on whole small networks against dense nonlinear solutions and ngspice."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_network import (
    VDD,
    behavioural,
    circuit_of,
    finfet,
    random_layers,
    scalar,
    signs,
    solve_dense,
    ternary_cells,
    transistors,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from imac_torch.dc.native import Native
from imac_torch.dc.newton import NewtonOptions
from imac_torch.elimination.choice import EliminationInfo
from imac_torch.errors import SolverError
from imac_torch.netlist import NetlistSettings, NgSpiceWriter, table_inverter, write_netlists
from imac_torch.netlist.inverter import axis
from imac_torch.periphery.neuron.finfet import InverterCore
from imac_torch.reference.nodal import solve_layer
from imac_torch.results.solution import Power, Status
from imac_torch.simulator import NgSpice, check, solve_netlists

EXACT = Native(device_model="exact", newton=NewtonOptions(tolerance=1e-12))
# Behavioural networks are linear between neurons. The oracle's matrix spans 1e3 S (1 mΩ between
# partitions) to 5e-6 S, so its rounding, with refinement, is about 1e-16·1e3·(kΩ of what hangs on
# a combined input) = 1e-13 of a volt; gains of 20 to 30 and a neuron's slope amplify that to 1e-11.
LINEAR = 1e-10


def solve(layers, inputs, engine=None):
    engine = Native() if engine is None else engine
    return engine.solve(engine.prepare(layers), inputs)


def compare(layers, inputs, solution, *, voltage, power=None):
    """Every neuron voltage, every node of every crossbar and every power against the oracle."""
    circuit = circuit_of(layers)
    for image in range(len(inputs)):
        dense = solve_dense(circuit, inputs[image].numpy())
        # The oracle itself: Kirchhoff's law at rounding of the largest branch (1 V in 1 mΩ: 1e3 A
        # in doubles is 1e-13 A), and Tellegen's theorem.
        assert dense.residual < 1e-12
        assert sum(dense.power.values()) == pytest.approx(dense.dissipation, rel=1e-10)
        for k, layer in enumerate(solution.layers):
            driven = layer.inputs[image]
            inner = solve_layer(circuit.layers[k], driven[None].detach(), VDD)[0].numpy()
            for name, node in zip(circuit.layers[k].node_names(), inner):
                if name[:2] != "ou" and not name.startswith("z"):
                    expected = dense.nodes[f"layer{k + 1}.{name}"]
                    assert abs(node - expected) <= voltage * max(1.0, abs(expected)), name
            for found, expected in (
                (layer.gates[image], dense.gates[k]),
                (layer.outputs[image], dense.layer(circuit, k, "out")),
            ):
                np.testing.assert_allclose(found.detach(), expected, rtol=voltage, atol=voltage)
        for part in fields(Power):
            found = float(getattr(solution.power, part.name)[image])
            expected = dense.power[part.name]
            # 1e3 S between partitions makes 1e3 W of 1 V, whose differences round to 1e-13 W.
            rounding = 1e-11 if part.name == "amplifiers" else 1e-16
            allowed = 10 * (power or voltage) * abs(expected) + rounding
            assert abs(found - expected) <= allowed, part.name


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    cut=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    combine=st.sampled_from(["average", "sum"]),
    ideal=st.sampled_from(["", "input", "output", "both"]),
    kind=st.sampled_from(["logistic", "tanh", "identity", "relu", "hardtanh"]),
    opened=st.sampled_from([0.0, 0.3]),
    slices=st.sampled_from([(1, 1), (2, 3), (3, 2)]),
    seed=st.integers(0, 10_000),
)
def test_behavioural_networks_equal_a_dense_solution(
    sizes, cut, combine, ideal, kind, opened, slices, seed
):
    layers = random_layers(
        sizes, behavioural(kind), rows=cut[0], columns=cut[1], combine=combine, ideal=ideal,
        opened=opened, seed=seed, slices=slices, gain=3.0 if kind == "identity" else 20.0,
    )
    inputs = signs(2, sizes[0], seed=seed)
    solution = solve(layers, inputs)
    assert solution.converged.all()
    compare(layers, inputs, solution, voltage=LINEAR)


@pytest.mark.parametrize(
    ("sizes", "case"),
    [
        pytest.param([1, 1], {}, marks=pytest.mark.slow),  # parts of the others
        pytest.param([3, 1, 2], {"columns": 2}, marks=pytest.mark.slow),
        # The last horizontal partition holds nothing but the bias.
        ([4, 3, 2], {"columns": 1, "rows": 2}),
        ([4, 3], {"combine": "sum", "columns": 3, "opened": 0.2}),
        ([3, 3, 2], {"output_resistance": 200.0, "columns": 2, "ideal": "both"}),
        ([3, 2], {"output_resistance": 200.0, "columns": 2, "rows": 3, "slices": (2, 3)}),
    ],
)
def test_finfet_networks_equal_a_dense_solution(sizes, case):
    layers = random_layers(sizes, finfet(), **case)
    inputs = signs(1, sizes[0])
    solution = solve(layers, inputs, EXACT)
    assert solution.converged.all()
    # Newton's last step is below 1e-12 V and leaves 1e-4 of itself; what remains is the rounding
    # of the oracle (see LINEAR) and of the model's own inner iteration.
    compare(layers, inputs, solution, voltage=LINEAR, power=1e-8)


def test_tabulated_transistors_are_close_to_the_model():
    layers = random_layers([9, 8, 4], finfet(), columns=4, rows=4, cells=ternary_cells)
    inputs = signs(12, 9)
    table, exact = solve(layers, inputs), solve(layers, inputs, EXACT)
    assert (table.status == 0).all() and (exact.status == 0).all()
    # One neuron: 0.06 µV at worst (test_cores). A layer adds its own to what it amplifies of the
    # one before; the loop gain of a layer is at most about 10 here.
    assert (table.outputs - exact.outputs).abs().max() < 1e-6
    assert (table.outputs - exact.outputs).square().mean().sqrt() < 3e-8
    torch.testing.assert_close(table.power.total, exact.power.total, rtol=1e-6, atol=0)
    assert (table.outputs != exact.outputs).any()


def test_dead_rows_and_open_cells():
    """A row whose cells are all open, and one whose pairs are equal, give 0 V to their neurons."""
    layers = random_layers([4, 3, 2], behavioural(), columns=2)
    for side in (layers[0][0].conductances.positive, layers[0][0].conductances.negative):
        side[1] = 0.0
        side[2] = 1e-5
    inputs = signs(3, 4)
    solution = solve(layers, inputs)
    compare(layers, inputs, solution, voltage=LINEAR)
    assert (solution.layers[0].combined[:, 1] == 0.0).all()
    # The read-out is not balanced: I+ ends in 21 kΩ, I- in 1 kΩ at alpha·pe, but with equal pairs
    # it is nearly so; what is exact is the open row.
    torch.testing.assert_close(
        solution.layers[0].outputs[:, 1], solution.layers[0].outputs[:, 1].mean().expand(3),
        rtol=0.2, atol=0,
    )


def test_power_balance_with_native_voltages_only():
    """Sources deliver what resistors and neurons turn into heat, with no help of the oracle."""
    layers = random_layers(
        [6, 5, 4], finfet(), columns=3, rows=2, output_resistance=50.0, cells=ternary_cells
    )
    inputs = signs(4, 6)
    solution = solve(layers, inputs, EXACT)
    circuit = circuit_of(layers)
    n, p = transistors(10)
    heat = torch.zeros(4, dtype=torch.float64)
    for k, (layer, part) in enumerate(zip(circuit.layers, solution.layers)):
        nodes = solve_layer(layer, part.inputs, VDD)
        gates, outputs = part.gates, part.outputs
        core = InverterCore(n, p, scalar(VDD)).values(gates, outputs)
        drawn = core.gate - (outputs - gates) / 202e3
        series = 50.0 / len(layers[k][0].column_ends)
        nodes[:, layer.neurons.nodes[:, 0]] = part.combined - drawn * series
        for element in layer.elements:
            ends = nodes[:, element.nodes]
            drop = ends[..., 0] - ends[..., 1]
            heat += (drop.square() / torch.from_numpy(element.values)).sum(-1)
        plus, minus, out = (nodes[:, layer.read_outs.nodes[:, j]] for j in range(3))
        gain, r = layer.read_outs.read_out.gain, layer.read_outs.read_out.resistance
        virtual = plus * gain / (1 + gain)
        heat += (plus.square() / (r * (1 + gain))).sum(-1)
        heat += ((minus - virtual).square() / r + (virtual - out).square() / (gain * r)).sum(-1)
        heat += (drawn.square() * 78e3 + (outputs - gates).square() / 202e3).sum(-1)
        heat += (gates * core.gate - outputs * core.output + VDD * core.supply).sum(-1)
    power = solution.power
    delivered = power.inputs + power.bias + power.neurons + power.level_shift + power.amplifiers
    # Sums of some hundred terms, the largest (amplifiers through 100 Ω) about as large as the sum.
    torch.testing.assert_close(delivered, heat, rtol=1e-11, atol=0)


def test_batch_and_samples_equal_loops():
    layers = random_layers([7, 6, 5], finfet(), columns=3, rows=4)
    count = 3
    sampled = []
    for k, (spec, neuron) in enumerate(layers):
        pairs = [random_layers([7, 6, 5], neuron, seed=10 * s)[k][0] for s in range(count)]
        stacked = replace(
            spec.conductances,
            positive=torch.stack([item.conductances.positive for item in pairs]),
            negative=torch.stack([item.conductances.negative for item in pairs]),
        )
        sampled.append((replace(spec, conductances=stacked), neuron))
    inputs = signs(70, 7)  # more than two tiles of 32
    together = solve(sampled, inputs)
    assert together.outputs.shape == (3, 70, 5) and together.status.shape == (3, 70)
    assert together.power.total.shape == together.residual.shape == (3, 70)
    # The start, which depends on the batch, is forgotten quadratically: the largest last step is
    # 1e-9 V, and Newton on these neurons (curvature below 1e2/V) leaves well below 1e-9 V of it.
    for s in range(count):
        one = [
            (replace(spec, conductances=replace(
                spec.conductances,
                positive=spec.conductances.positive[s],
                negative=spec.conductances.negative[s],
            )), neuron)
            for spec, neuron in sampled
        ]
        alone = solve(one, inputs)
        torch.testing.assert_close(together.outputs[s], alone.outputs, rtol=0, atol=1e-9)
        torch.testing.assert_close(together.power.total[s], alone.power.total, rtol=1e-8, atol=0)
        for image in (0, 33, 69):
            single = solve(one, inputs[image : image + 1])
            torch.testing.assert_close(single.outputs[0], alone.outputs[image], rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_splitting_changes_nothing(size):
    layers = random_layers([7, 6, 5], finfet(), columns=3)
    inputs = signs(65, 7)
    whole, parts = solve(layers, inputs), solve(layers, inputs, Native(batch_size=size))
    torch.testing.assert_close(parts.outputs, whole.outputs, rtol=0, atol=1e-9)
    for part in fields(Power):
        torch.testing.assert_close(
            getattr(parts.power, part.name), getattr(whole.power, part.name), rtol=1e-6, atol=1e-15
        )
    assert parts.status.shape == whole.iterations.shape == (65,)


@pytest.mark.parametrize("samples", [None, 2])
def test_an_empty_batch_is_empty(samples):
    layers = random_layers([3, 2], finfet())
    if samples:
        layers = [
            (replace(spec, conductances=replace(
                spec.conductances,
                positive=spec.conductances.positive.expand(samples, -1, -1),
                negative=spec.conductances.negative.expand(samples, -1, -1),
            )), neuron)
            for spec, neuron in layers
        ]
    solution = solve(layers, signs(0, 3))
    assert solution.outputs.shape == ((2, 0, 2) if samples else (0, 2))
    assert solution.power.total.shape == solution.status.shape


@pytest.mark.parametrize("neuron", [behavioural(), finfet()], ids=["logistic", "finfet"])
@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_samples_that_are_not_finite_stay_alone(neuron, kernel):
    layers = random_layers([5, 4, 3], neuron, columns=3)
    clean = signs(40, 5)
    dirty = clean.clone()
    dirty[3, 1] = torch.nan
    dirty[17] = torch.inf
    dirty[39, 0] = -torch.inf  # the last of a tile, which fills it up
    engine = Native(newton=NewtonOptions(kernel=kernel))
    reference, solution = solve(layers, clean, engine), solve(layers, dirty, engine)
    bad = torch.zeros(40, dtype=torch.bool)
    bad[[3, 17, 39]] = True
    assert (solution.status[bad] == int(Status.NOT_FINITE)).all()
    assert (solution.status[~bad] == 0).all()
    torch.testing.assert_close(solution.outputs[~bad], reference.outputs[~bad], rtol=0, atol=1e-9)
    for part in fields(Power):
        value = getattr(solution.power, part.name)
        assert value[bad].isnan().all() and value[~bad].isfinite().all(), part.name
    assert solution.outputs[bad].isnan().all() and solution.layers[0].gates[bad].isnan().all()
    assert solution.residual[~bad].isfinite().all()


def test_a_bad_sample_spoils_no_gradient():
    layers = random_layers([5, 4, 3], finfet(), columns=3)
    weights = layers[0][0].conductances.positive.requires_grad_()
    inputs = signs(6, 5)
    inputs[2, 2] = torch.nan
    good = torch.arange(6) != 2

    def gradient(batch, keep):
        solution = solve(layers, batch)
        (result,) = torch.autograd.grad(
            solution.outputs[keep].sum() + solution.power.total[keep].sum(), weights
        )
        return result

    found, expected = gradient(inputs, good), gradient(inputs[good], torch.arange(5))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_all_kernels_and_methods_agree():
    layers = random_layers([7, 6, 5], finfet(), columns=4, rows=3)
    inputs = signs(33, 7)
    prepared = Native().prepare(layers)
    assert prepared.methods == (EliminationInfo("rows", "numba"),) * 2
    reference = solve(layers, inputs)
    for engine in (
        Native(kernel="torch"),
        Native(method="tiles"),
        Native(newton=NewtonOptions(kernel="torch")),
    ):
        other = solve(layers, inputs, engine)
        torch.testing.assert_close(other.outputs, reference.outputs, rtol=0, atol=1e-9)
        torch.testing.assert_close(
            other.power.total, reference.power.total, rtol=1e-8, atol=0
        )


def test_settings_are_checked():
    for wrong in ({"device_model": "spice"}, {"batch_size": 0}):
        with pytest.raises(SolverError, match=next(iter(wrong))):
            Native(**wrong)
    with pytest.raises(SolverError, match="at least one layer"):
        Native().prepare([])
    layers = random_layers([3, 2], behavioural())
    with pytest.raises(SolverError, match=r"\(B, 3\)"):
        solve(layers, signs(2, 4))
    with pytest.raises(SolverError, match="float64"):
        solve(layers, signs(2, 3).float())


def ngspice_nodes(layers, inputs, directory, ngspice, *, inverter=None):
    """Node voltages by ``layer.node`` per image, outputs and powers from ngspice."""
    writer = NgSpiceWriter() if inverter is None else NgSpiceWriter(inverter=inverter)
    settings_ = NetlistSettings(analysis="dc", save="all", images_per_netlist=len(inputs))
    run = write_netlists(circuit_of(layers), inputs, directory, writer, settings_)
    spice = check(solve_netlists(run, NgSpice(str(ngspice), timeout=120.0)))
    return spice.outcomes[0].unwrap().waveforms, spice.solution


def compare_with_ngspice(layers, inputs, waveforms, spice, tolerance):
    solution = solve(layers, inputs)
    circuit = circuit_of(layers)
    seen = 0
    for k, layer in enumerate(circuit.layers):
        inner = solve_layer(layer, solution.layers[k].inputs, VDD)
        for index, name in enumerate(layer.node_names()):
            key = f"v(xlayer{k + 1}.{name})"
            if key in waveforms and not name.startswith("z"):
                seen += 1
                np.testing.assert_allclose(
                    inner[:, index], waveforms[key], rtol=tolerance, atol=tolerance, err_msg=key
                )
    assert seen >= sum(3 * len(layer.outputs) * (len(layer.inputs) + 1) for layer in circuit.layers)
    torch.testing.assert_close(spice.outputs, solution.outputs, rtol=tolerance, atol=tolerance)
    return solution


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"columns": 4, "rows": 3, "combine": "sum"},
        {"columns": 3, "rows": 2, "opened": 0.15, "output_resistance": 100.0},
    ],
    ids=["one", "sum", "open"],
)
def test_behavioural_networks_equal_ngspice(ngspice, tmp_path, case):
    layers = random_layers([7, 6, 4], behavioural(), **case)
    inputs = signs(4, 7)
    waveforms, spice = ngspice_nodes(layers, inputs, tmp_path / "run", ngspice)
    # ngspice's own rounding, 1e-16·(1e3 S/5e-6 S) = 2e-8; required is 1e-6.
    solution = compare_with_ngspice(layers, inputs, waveforms, spice, 1e-6)
    for part in ("inputs", "bias"):
        torch.testing.assert_close(
            getattr(spice.power, part), getattr(solution.power, part), rtol=1e-6, atol=0
        )


def test_finfet_network_equals_ngspice(ngspice, tmp_path):
    layers = random_layers([3, 2, 1], finfet(), columns=2, cells=ternary_cells)
    inputs = signs(2, 3)
    n, p = transistors(10)
    core = InverterCore(n, p, scalar(VDD))
    # Cells of 2 to 3 mV where currents bend, so that bilinear interpolation errs by µV.
    axes = (
        axis((-0.5, 0.1, 0.02), (0.1, 0.7, 0.003), (0.7, 1.3, 0.02)),
        axis((-0.02, 0.14, 0.002), (0.14, 0.66, 0.008), (0.66, 0.82, 0.002)),
    )
    inverter = table_inverter(
        lambda g, u: tuple(core.values(g, u)), vdd=VDD, fins=10, axes=axes
    )
    waveforms, spice = ngspice_nodes(
        layers, inputs, tmp_path / "run", ngspice, inverter=inverter
    )
    assert float(solve(layers, inputs).layers[0].gates.abs().max()) < 1.2
    solution = compare_with_ngspice(layers, inputs, waveforms, spice, 1e-5)
    torch.testing.assert_close(spice.power.total, solution.power.total, rtol=1e-3, atol=0)


LARGE = """
import resource, sys
sys.path.insert(0, {tests!r})
import torch
from dense_network import behavioural, finfet, random_layers, signs
from imac_torch.dc.native import Native
from imac_torch.dc.newton import NewtonOptions

layers = random_layers([256, 256, 8], finfet(), rows=256, columns=300)
engine = Native()
prepared = engine.prepare(layers)
assert str(prepared.methods[0]) == "tiles (numba)", prepared.methods
engine.solve(prepared, signs(2, 256))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for kernel, count in (("auto", 2000), ("torch", 500)):
    engine = Native(newton=NewtonOptions(kernel=kernel))
    solution = engine.solve(prepared, signs(count, 256))
    assert solution.converged.all()
    assert float(solution.residual.max()) < 1e-12
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown)
"""


@pytest.mark.slow
def test_large_unpartitioned_layers_in_bounded_memory():
    """2000 dense Jacobians of 256 neurons would be 1 GB, and twice that to build them."""
    code = LARGE.format(tests=str(Path(__file__).parent))
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    # In torch, 128,000 neurons look up patches of 4×4×3 numbers (50 MB) a few times over.
    assert int(result.stdout) * 1024 < 700e6
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 2e9
