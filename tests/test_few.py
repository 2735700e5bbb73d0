"""A few images are solved from plain arrays: the same numbers, and nothing stale."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from dense_network import behavioural, finfet, random_layers, signs
from small_networks import LOGISTIC, mlp

import imac_torch as it
from imac_torch.dc import few
from imac_torch.dc.native import Native
from imac_torch.results.solution import LayerSolution, Power, Status

NEURONS = {"logistic": behavioural, "finfet": finfet}
ROUNDING = 1e-12
"""V, of sums of some dozen terms, gains of 20 behind each of two layers."""
TOLERANCE = {"logistic": ROUNDING, "finfet": 1e-9}
"""V. Where Newton's method starts depends on the range of a batch; it stops at its tolerance."""


@pytest.mark.parametrize("kind", NEURONS)
def test_a_few_images_give_what_they_give_among_many(kind):
    layers = random_layers((7, 6, 3), NEURONS[kind]())
    engine = Native()
    prepared, inputs = engine.prepare(layers), signs(few.FEW + 1, 7)
    many, some = engine.solve(prepared, inputs), engine.solve(prepared, inputs[:3])
    assert list(prepared.few.values()) != [None]
    assert bool(many.converged.all()) and some.iterations.dtype == many.iterations.dtype
    # Over the kilohms of a neuron volts that differ by so much are amperes that differ by less.
    assert float(some.residual.max()) < TOLERANCE[kind]
    exact = {"rtol": 0.0, "atol": TOLERANCE[kind]}
    for one, two in zip(many.layers, some.layers, strict=True):
        for part in fields(LayerSolution):
            pair = getattr(one, part.name)[:3], getattr(two, part.name)
            torch.testing.assert_close(*pair, **exact)
    torch.testing.assert_close(many.outputs[:3], some.outputs, **exact)
    for part in fields(Power):
        pair = getattr(many.power, part.name)[:3], getattr(some.power, part.name)
        # Currents through transistors grow e-fold in some 26 mV; what ideal outputs deliver to
        # each other, through milliohms, is a difference of up to 1e3 W (test_native).
        rounding = 1e-9 if part.name == "amplifiers" else 1e-15
        torch.testing.assert_close(*pair, rtol=40 * TOLERANCE[kind], atol=rounding)


def test_what_is_out_of_the_ordinary_is_solved_like_many():
    engine = Native()
    prepared = engine.prepare(random_layers((5, 4), finfet()))
    inputs = signs(2, 5)
    inputs[1, 2] = torch.nan
    solution = engine.solve(prepared, inputs)
    assert solution.status.tolist() == [Status.CONVERGED, Status.NOT_FINITE]
    assert solution.outputs[1].isnan().all() and solution.outputs[0].isfinite().all()


def test_changes_are_noticed():
    network = it.convert(mlp(6, 5, 3), LOGISTIC)
    x = torch.linspace(-1, 1, 12).reshape(2, 6)
    with torch.no_grad():
        before = network(x)
        assert torch.equal(network(x), before)
        weight = next(network.analog_layers()).weight
        weight.data = -weight.data  # neither an address's nor a version's business
        after = network(x)
        assert not torch.allclose(after, before)
        weight.neg_()
        assert torch.equal(network(x), before)
    tracked = network(x)
    torch.testing.assert_close(tracked.detach(), before, rtol=1e-5, atol=1e-6)  # float32
    assert tracked.requires_grad
    x.requires_grad_()
    network(x).sum().backward()
    assert x.grad is not None and bool((x.grad != 0).any())
