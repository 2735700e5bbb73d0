"""Newton's method on neurons: overdriven gates, statuses, residuals, independence of samples."""

from __future__ import annotations

import pytest
import torch
from dense_network import (
    VDD,
    core_of,
    finfet,
    random_layers,
    scalar,
    signs,
    table_of,
    ternary_cells,
)
from test_load import network

from imac_torch.dc import few
from imac_torch.dc.load import Load
from imac_torch.dc.native import Native
from imac_torch.dc.newton import (
    NewtonOptions,
    attach_gradients,
    kirchhoff_residual,
    solve_loaded,
    solve_neurons,
)
from imac_torch.errors import SolverError
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.results.solution import Status

KERNELS = ("numba", "torch")


@pytest.fixture(scope="module")
def table():
    return table_of(finfet())


def circuit(core, rlow=5e3, rhigh=15e3):
    return NeuronCircuit(core, scalar(rlow), scalar(1 / rhigh), scalar(0.4))


@pytest.fixture(scope="module")
def load():
    """A layer of 2.5 kΩ devices: its inputs see kilohms of each other."""

    def cells(outputs, columns, *, seed):
        return ternary_cells(outputs, columns, seed=seed, low=2.5e3, high=5e3)

    return Load.of(network(9, 6, columns=4, cells=cells), scalar(VDD))


def overdriven(count=40, neurons=9):
    generator = torch.Generator().manual_seed(2)
    return 12.0 * torch.rand(1, count, neurons, generator=generator, dtype=torch.float64) - 6.0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "unloaded"])
def test_overdriven_gates_converge(table, load, kernel, loaded):
    combined = overdriven()
    combined[0, 0] = 6.0
    combined[0, 1] = -6.0
    neuron, load = circuit(table), load if loaded else None
    solution = solve_neurons(combined, neuron, load, NewtonOptions(kernel=kernel))
    assert (solution.status == int(Status.CONVERGED)).all()
    # The last step was 1e-9 V or less; the stiffest conductance is that of a clamped gate, 1 mA
    # per 15 mV. Rounding is far below that.
    assert float(solution.residual.max()) < 0.07 * 1e-9
    found = kirchhoff_residual(combined, neuron, load, solution.gates, solution.outputs)
    assert float(found.max()) < 0.07 * 1e-9
    assert int(solution.iterations.max()) <= 40 and int(solution.iterations.min()) >= 1
    assert float(solution.gates.min()) > -0.75 and float(solution.gates.max()) < 1.55


def test_kernels_agree(table, load):
    combined = overdriven(70)
    solved = [
        solve_neurons(combined, circuit(table), load, NewtonOptions(kernel=kernel))
        for kernel in KERNELS
    ]
    # Both stop when the last step, or the estimate of the next, is below 1e-9 V.
    for name in ("outputs", "gates"):
        torch.testing.assert_close(
            getattr(solved[0], name), getattr(solved[1], name), rtol=0, atol=2e-9
        )


@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "unloaded"])
def test_an_image_alone_is_what_it_is_among_many(table, load, loaded, monkeypatch):
    """As above; what does not converge is left to the others."""
    combined = overdriven()
    for image, volts in enumerate((6.0, -6.0, 0.0, -0.4)):
        combined[0, image] = volts
    neuron, load = circuit(table), load if loaded else None
    many = solve_neurons(combined, neuron, load, NewtonOptions())
    lone = few.Tabled(neuron, table, load, 9, NewtonOptions())
    monkeypatch.delattr(few.Tabled, "_tiles")
    found = [lone.solve(image[None].numpy()) for image in combined[0]]
    outputs, gates = (
        torch.stack([torch.from_numpy(getattr(one, name)) for one in found], 1)
        for name in ("outputs", "gates")
    )
    torch.testing.assert_close(outputs, many.outputs, rtol=0, atol=2e-9)
    torch.testing.assert_close(gates, many.gates, rtol=0, atol=2e-9)
    assert max(one.residual[0] for one in found) < 0.07 * 1e-9
    defects = kirchhoff_residual(combined, neuron, load, gates, outputs)
    assert float(defects.max()) < 0.07 * 1e-9
    assert all(1 <= one.iterations[0] <= 40 for one in found)
    hasty = few.Tabled(neuron, table, load, 9, NewtonOptions(max_iterations=1, tolerance=1e-13))
    assert hasty.solve(combined[0, 5:6].numpy()) is None
    combined[0, 5, 3] = 1e308
    assert lone.solve(combined[0, 5:6].numpy()) is None


def test_the_stated_tolerance_is_kept(table, load):
    combined = overdriven(64)
    tight = solve_neurons(
        combined, circuit(table), load, NewtonOptions(kernel="torch", tolerance=1e-13)
    )
    for kernel in KERNELS:
        for tolerance in (1e-4, 1e-9):
            loose = solve_neurons(
                combined, circuit(table), load, NewtonOptions(kernel=kernel, tolerance=tolerance)
            )
            assert float((loose.outputs - tight.outputs).abs().max()) <= tolerance


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_limit_of_iterations_is_reported(table, load, kernel):
    options = NewtonOptions(max_iterations=1, tolerance=1e-13, kernel=kernel)
    solution = solve_neurons(overdriven(5), circuit(table), load, options)
    assert (solution.status == int(Status.MAX_ITERATIONS)).any()
    assert (solution.iterations == 1).all()
    assert (solution.residual[solution.status != 0] > 0).all()


@pytest.mark.parametrize("kernel", ["auto", pytest.param("torch", marks=pytest.mark.slow)])
def test_an_unconverged_sample_has_no_output(kernel):
    layers = random_layers([5, 4, 3], finfet(5e3, 15e3), gain=200.0)
    engine = Native(newton=NewtonOptions(max_iterations=1, tolerance=1e-15, kernel=kernel))
    prepared, inputs = engine.prepare(layers), signs(20, 5)
    solution = engine.solve(prepared, inputs)
    failed = ~solution.converged
    assert failed.any()
    assert solution.outputs[failed].isnan().all() and solution.power.total[failed].isnan().all()
    assert (solution.status[failed] == int(Status.MAX_ITERATIONS)).all()
    alone = engine.solve(prepared, inputs[failed][:1])
    assert alone.outputs.isnan().all() and alone.status.tolist() == [Status.MAX_ITERATIONS]
    assert alone.iterations.tolist() == solution.iterations[failed][:1].tolist()


@pytest.mark.parametrize("kernel", ["auto", "torch"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e308])
def test_bad_samples_do_not_touch_the_others(table, load, kernel, bad):
    combined = overdriven(40)
    options = NewtonOptions(kernel=kernel)
    clean = solve_neurons(combined, circuit(table), load, options)
    dirty = combined.clone()
    dirty[0, 7, 3] = bad
    dirty[0, 39, 0] = bad
    solution = solve_neurons(dirty, circuit(table), load, options)
    good = torch.ones(40, dtype=torch.bool)
    good[[7, 39]] = False
    assert (solution.status[0, good] == 0).all() and (solution.status[0, ~good] != 0).all()
    torch.testing.assert_close(
        solution.outputs[0, good], clean.outputs[0, good], rtol=0, atol=2e-9
    )


def test_exact_transistors_survive_overdrive(load):
    combined = overdriven(3)
    core = core_of(finfet())
    solution = solve_neurons(combined, circuit(core), load, NewtonOptions(tolerance=1e-11))
    assert (solution.status == 0).all()
    assert float(solution.residual.max()) < 1e-12


def test_options_are_checked(table):
    for wrong in ({"tolerance": 0.0}, {"tolerance": 2.0}, {"max_iterations": 0}):
        with pytest.raises(SolverError, match=next(iter(wrong))):
            NewtonOptions(**wrong)
    with pytest.raises(SolverError, match="kernel"):
        NewtonOptions(kernel="fortran")
    with pytest.raises(SolverError, match="tabulated"):
        solve_neurons(
            overdriven(1), circuit(core_of(finfet())), None, NewtonOptions(kernel="numba")
        )


def test_no_graph_where_nothing_requires_gradients(table, load):
    assert torch.is_grad_enabled()
    for core in (table, core_of(finfet())):
        solution = solve_loaded(overdriven(1), circuit(core), load, NewtonOptions())
        assert not solution.outputs.requires_grad


def test_attached_gradients_change_no_value(table, load):
    combined = overdriven(6).requires_grad_()
    neuron = circuit(table)
    solved = solve_neurons(combined.detach(), neuron, load, NewtonOptions())
    attached = attach_gradients(combined, neuron, load, solved)
    assert torch.equal(attached.outputs, solved.outputs)
    assert torch.equal(attached.gates, solved.gates)
    # Derivatives by the implicit function theorem against solutions nearby.
    direction = torch.randn(combined.shape, generator=torch.Generator().manual_seed(1)).double()
    weights = torch.randn(combined.shape, generator=torch.Generator().manual_seed(2)).double()
    (gradient,) = torch.autograd.grad((weights * attached.outputs).sum(), combined)
    options = NewtonOptions(tolerance=1e-13, kernel="torch")
    step = 1e-5
    moved = [
        solve_neurons(combined.detach() + sign * step * direction, neuron, load, options).outputs
        for sign in (1, -1)
    ]
    numeric = float((weights * (moved[0] - moved[1])).sum()) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=1e-6)
