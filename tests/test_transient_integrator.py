"""The integrator on linear circuits whose solution is known."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from imac_torch.errors import SolverError
from imac_torch.results.waveform import sample
from imac_torch.transient.dynamics import exponentials, ramp_peak, ramp_step
from imac_torch.transient.integrator import (
    GAMMA,
    QUADRATURE,
    Points,
    StepControl,
    first_history,
    ladder,
    local_error,
    second_history,
    shift,
)
from imac_torch.transient.kinks import HELD, MISSED, met_kinks

WEIGHTS = (math.sqrt(2.0) / 4.0, math.sqrt(2.0) / 4.0, 1.0 - math.sqrt(2.0) / 2.0)
"""Of the derivatives at the start, the stage and the end: y₁ = y₀ + h·Σ w·ẏ."""


def integrate_linear(conductance, capacitance, drive, start, *, step):
    """C·dx/dt + G·x = drive(t), drive (T+1, n) linear between the ends of equal steps."""
    matrix = torch.linalg.inv(shift(step) * capacitance + conductance)
    states = [start]
    for before, after in pairwise(drive):
        charge = capacitance @ states[-1]
        source = before + GAMMA * (after - before)
        rate = before - conductance @ states[-1]
        middle = matrix @ (first_history(step, charge, rate) + source)
        states.append(matrix @ (second_history(step, charge, capacitance @ middle) + after))
    return torch.stack(states)


def rc_ladder(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Conductance, capacitance and drive of a ladder of 100 kΩ and 1 fF driven at one end."""
    resistor, capacitor = 100e3, 1e-15
    conductance = torch.zeros(count, count, dtype=torch.float64)
    for k in range(count):
        conductance[k, k] += 1 / resistor
        if k:
            conductance[k - 1, k - 1] += 1 / resistor
            conductance[k, k - 1] -= 1 / resistor
            conductance[k - 1, k] -= 1 / resistor
    drive = torch.zeros(count, dtype=torch.float64)
    drive[0] = 1 / resistor
    return conductance, capacitor * torch.eye(count, dtype=torch.float64), drive


def exact_step(conductance, capacitance, drive, time):
    """1 V switched on at 0: x = (1 - exp(-C⁻¹G·t))·G⁻¹·drive."""
    rates = torch.linalg.solve(capacitance, conductance)
    final = torch.linalg.solve(conductance, drive)
    return final - torch.matrix_exp(-rates * time) @ final


def ladder_error(steps: int) -> float:
    conductance, capacitance, drive = rc_ladder(8)
    time = 2e-9
    source = drive.expand(steps + 1, -1)
    start = torch.zeros_like(drive)
    end = integrate_linear(conductance, capacitance, source, start, step=time / steps)[-1]
    return float((end - exact_step(conductance, capacitance, drive, time)).abs().max())


def test_rc_ladder_against_matrix_exponential_and_order():
    # Second order: halving the step quarters the error; the next term of the expansion in h makes
    # the ratio differ from 4 by about h·λ, h·λ < 0.1 for the modes that are still there at 2 ns.
    errors = [ladder_error(steps) for steps in (100, 200, 400, 800)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(2.0, abs=0.1)
    # 800 steps of 2.5 ps: error constant 0.04·h²·T·λ³·e^(-λT) is below 1e-6 V for every mode λ.
    assert errors[-1] < 1e-6


def test_stiff_modes_are_damped_at_once():
    # L-stability: one step of 1e6 time constants leaves next to nothing of the initial voltage
    # (the trapezoidal rule would leave all of it, with the sign changed).
    conductance = torch.ones(1, 1, dtype=torch.float64)
    capacitance = torch.ones(1, 1, dtype=torch.float64)
    drive = torch.zeros(2, 1, dtype=torch.float64)
    start = torch.ones(1, dtype=torch.float64)
    after = integrate_linear(conductance, capacitance, drive, start, step=1e6)[-1]
    assert abs(float(after)) < 1e-5


def test_error_estimate_is_the_error():
    # dx/dt = -x from 1: the estimate after one step must be the error up to O(h) of itself.
    step = 0.05
    rate = torch.tensor([[1.0]], dtype=torch.float64)
    states = [torch.ones(1, dtype=torch.float64)]
    sigma = shift(step)
    middle = (sigma * states[0] - states[0]) / (sigma + 1.0)
    end = integrate_linear(rate, rate, torch.zeros(2, 1, dtype=torch.float64), states[0],
                           step=step)[-1]
    estimate = float(local_error(step, -states[0], -middle, -end))
    true = float(end) - math.exp(-step)
    assert abs(estimate) == pytest.approx(abs(true), rel=5 * step)


def test_taking_errors_back_is_stable_and_of_third_order():
    # dx/dt = λ·x, z = h·λ: R + E/(1 - γz/2)², as accuracy.py passes a state on.
    def passed_on(z):
        part = GAMMA / 2
        middle = (1 + part * z) / (1 - part * z)
        end = (1 + z * WEIGHTS[0] + z * WEIGHTS[1] * middle) / (1 - part * z)
        return end + local_error(1.0, z, z * middle, z * end) / (1 - part * z) ** 2

    size = torch.cat([torch.zeros(1), torch.logspace(-3, 6, 300)]).to(torch.complex128)
    half_plane = -size[:, None] + 1j * size
    assert float(passed_on(half_plane).abs().max()) < 1.0 + 1e-12
    assert float(passed_on(torch.tensor(-1e9 + 0j)).abs()) < 1e-6
    for z in (0.02, 0.01):
        assert (math.exp(-z) - passed_on(-z)) / z**4 == pytest.approx(0.0103, rel=0.05)


def test_weights_integrate_quadratics():
    # With nodes 0, γ, 1.
    for power in (0, 1, 2):
        found = sum(w * c**power for w, c in zip(QUADRATURE, (0.0, GAMMA, 1.0), strict=True))
        assert found == pytest.approx(1.0 / (power + 1), abs=1e-15)


def test_error_between_points_is_that_of_the_parabola():
    # Of a cubic the third divided difference is exact, wherever the point before is.
    def cubic(t):
        return 0.3 - t + 2.0 * t**2 + 5.0 * t**3

    step, length = 0.7, 0.2
    times = (0.0, GAMMA * step, step, -length)
    values = [torch.tensor(cubic(t), dtype=torch.float64) for t in times]
    points = Points(*values, length)
    part = torch.linspace(0, 1, 2001, dtype=torch.float64)
    between = torch.stack([points.at(float(p)) for p in part])
    made = float((between - cubic(part * step)).abs().max())
    assert float(points.error(step)) == pytest.approx(made, rel=2e-3)
    # Behind a corner a line has no error, and a bend has one.
    line = Points(*torch.tensor([0.0, GAMMA * step, step], dtype=torch.float64), None, 0.0)
    assert float(line.error(step)) == pytest.approx(0.0, abs=1e-15)


def test_filtered_ramps_against_integration():
    poles = torch.tensor([3e11, 9e11, 4e12, 6e13], dtype=torch.float64)
    transition, time, steps = 1e-11, 1.6e-11, 16000
    state, power = torch.zeros(4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    exact = state.clone()
    # By the trapezoidal rule with steps of 1 fs, off by (p·h)²/12; the fastest is forgotten.
    grid = torch.linspace(0, time, steps + 1, dtype=torch.float64)
    ramp = (grid / transition).clamp(max=1.0)
    factor, slope = 0.5 * poles * time / steps, ramp.diff()
    path = [state]
    for rise in slope:
        state = (state * (1.0 - factor) + rise) / (1.0 + factor)
        path.append(state)
    for length, rise in ((transition, 1.0 / transition), (time - transition, 0.0)):
        whole, moved = exponentials(poles, length)
        rest = rise / poles
        power += torch.stack([
            rest * length + (exact - rest) * whole,
            rest * length**2 / 2 + (exact - rest) * moved,
        ])
        decay, risen = ramp_step(poles, length)
        exact = decay * exact + rise * risen
    assert torch.allclose(exact, state, atol=1e-6, rtol=0)
    passed = torch.stack(path)
    corner = round(steps * transition / time)
    since = torch.where(grid < transition, grid, grid - transition)[:, None]
    for k, values in enumerate((passed, passed * since)):
        one = torch.trapezoid(values[: corner + 1], dx=time / steps, dim=0)
        if k:  # at the corner time begins anew
            last = passed[corner] * transition - values[corner]
            one = one + 0.5 * time / steps * last
        two = torch.trapezoid(values[corner:], dx=time / steps, dim=0)
        assert torch.allclose(power[k], one + two, rtol=1e-3, atol=0)
    parts = torch.tensor([1.0, -2.0, 0.5, 1.0], dtype=torch.float64)
    largest = float((passed[: corner + 1] @ parts).abs().max())
    assert ramp_peak(poles, parts, transition) == pytest.approx(largest, rel=1e-2)


def test_steps_are_powers_of_root_two():
    assert ladder(1.0) == 1.0
    assert ladder(1.99) == pytest.approx(math.sqrt(2.0))
    for step in (3e-13, 7.1e-12):
        assert step / math.sqrt(2.0) < ladder(step) <= step * (1 + 1e-8)
    assert StepControl().proposal(1e-12, 0.0, 1.0) == ladder(2e-12)
    assert StepControl().proposal(1e-12, 8.0, 1.0) < 0.5e-12


@pytest.mark.parametrize(
    "settings",
    [
        {"tolerance": 0.0},
        {"largest": -1.0},
        {"method": "euler"},
        {"method": "trapezoidal"},
        {"grid": (1e-9, 1e-9)},
    ],
)
def test_impossible_controls(settings):
    with pytest.raises(SolverError):
        StepControl(**settings)


@pytest.mark.parametrize("held", [0.0, 0.5, 0.95])
def test_a_rate_that_bends_within_a_step(held):
    # τ·y' + y = max(t, 0), which bends anywhere in the second step; held = σ·τ/(1 + σ·τ) there.
    worst = 0.0
    tau = held / (1.0 - held) / shift(1.0)
    for growth in (1.0, math.sqrt(2.0), 2.0):
        steps = [1.0, 1.0, *(growth for _ in range(4))]
        place = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
        time = -1.0 - place
        value, rate = torch.zeros_like(place), torch.zeros_like(place)
        points, values = [time], [value]
        for step in steps:
            sigma = shift(step)
            part = sigma * tau / (1.0 + sigma * tau)

            def stage(at, history, sigma=sigma):
                end = (at.clamp(min=0.0) + tau * history) / (1.0 + sigma * tau)
                return end, sigma * end - history

            middle, second = stage(time + GAMMA * step, first_history(step, value, rate))
            end, third = stage(time + step, second_history(step, value, middle))
            error = part * local_error(step, rate, second, third)
            points += [time + GAMMA * step, time + step]
            # What transients record and go on from, see imac_torch.transient.accuracy.
            values += [middle + (1.0 - GAMMA) * error, end + part * error]
            value, rate = values[-1], third + sigma * (part - 1.0) * error
            time = time + step
        for k in range(len(place)):
            found = torch.stack(points)[:, k].contiguous()
            at = torch.linspace(-1.0 - place[k], float(found[-1]), 400, dtype=torch.float64)
            now = at.clamp(min=0.0)
            exact = now - tau * (1.0 - torch.exp(-now / tau)) if tau else now
            missed = sample(found, torch.stack(values)[:, k], at) - exact
            # Gates move by as much as time passes; steps that see the corner: this one, and the
            # next one, if it is behind the stage.
            seen = GAMMA / (1.0 + shift(1.0) * tau)
            if place[k] > GAMMA:
                seen = max(seen, GAMMA * growth / (1.0 + shift(growth) * tau))
            worst = max(worst, float(missed.abs().max()) / seen)
    assert worst < MISSED + HELD * held**2
    if held > 0.9:
        assert worst > MISSED


@pytest.mark.parametrize(
    ("corner", "beside"),
    [
        (0.5, 1e-6),  # in the step before: the first stage of this one
        (1e-6 / 2, 1.0 - 1e-6),  # in the first stage, behind a long interval
        (-1e-7, 2e-6),  # in the second, to which the long one is no neighbour
        (-1.0, None),
    ],
)
def test_what_a_corner_costs_is_beside_it(corner: float, beside: float | None) -> None:
    """A refused step gets shorter, the one before does not: its corner must not count for ever."""
    gates = (1.0, 1e-6, 0.0, -2e-6)  # of the stage before, the start, the stage, the end
    steep = [1e-4 * (gate < corner) for gate in gates]

    def tensor(value: float) -> torch.Tensor:
        return torch.tensor([[value]], dtype=torch.float64)

    newton = [
        SimpleNamespace(transfer=tensor(slope), gate=tensor(1.0), diagonal=tensor(1e-4))
        for slope in steep
    ]
    none = tensor(0.0)
    points = [
        SimpleNamespace(
            neurons=[SimpleNamespace(gates=tensor(gate))],
            systems=[SimpleNamespace(newton=system, output_by_gate=none, output_by_output=none)],
            sigma=1.0,
        )
        for gate, system in zip(gates, newton, strict=True)
    ]
    earlier = SimpleNamespace(neurons=points[0].neurons, slopes=[tensor(steep[0])])
    layers, states = [SimpleNamespace()], tuple(points[1:])
    found = met_kinks(layers, 1e-12, states, [tensor(steep[1])], earlier)  # type: ignore[arg-type]
    assert bool(found.met.any()) == (beside is not None)
    assert float(found.errors.max()) == pytest.approx(MISSED * (beside or 0.0), rel=1e-12)
