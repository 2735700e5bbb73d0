"""A few images are solved from plain arrays: the same numbers, and nothing stale."""

from __future__ import annotations

import copy
from dataclasses import fields

import numpy as np
import pytest
import torch
from dense_network import behavioural, finfet, random_layers, signs
from small_networks import LOGISTIC, mlp
from torch import nn
from torch.nn.utils import parametrize

import imac_torch as it
from imac_torch.dc import few
from imac_torch.dc.native import Native
from imac_torch.model.linear import Scaling
from imac_torch.results.solution import LayerSolution, Power, Status

NEURONS = {"logistic": behavioural, "finfet": finfet}
ROUNDING = 1e-12
"""V, of sums of some dozen terms, gains of 20 behind each of two layers."""
TOLERANCE = {"logistic": ROUNDING, "finfet": 1e-9}
"""V. Where Newton's method starts depends on the range of a batch; it stops at its tolerance."""


@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in tiles"])
def test_a_few_images_give_what_they_give_among_many(kind, alone, monkeypatch):
    layers = random_layers((7, 6, 3), NEURONS[kind]())
    engine = Native()
    prepared, inputs = engine.prepare(layers), signs(few.FEW + 1, 7)
    inputs[0], inputs[1] = 0.0, 1.0
    monkeypatch.setattr(few, "kept", lambda kernel: alone)
    monkeypatch.delattr(few.Tabled, "_tiles" if alone else "_images")
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


def _settings(layer, **sections):
    layer.config = layer.config.replace(**sections)


def _parametrised(network):
    class Twice(nn.Module):
        def forward(self, weight):
            return 2.0 * weight.sign()

    parametrize.register_parametrization(network.layers[1], "weight", Twice())


CHANGES = {
    "values, unseen by versions and addresses": lambda n: n.layers[1].weight.data.neg_(),
    "memory": lambda n: setattr(n.layers[1].weight, "data", -n.layers[1].weight.data),
    "values by numpy": lambda n: np.negative(
        w := n.layers[0].bias.detach().numpy(), out=w
    ),
    "parameter": lambda n: setattr(n.layers[0], "weight", nn.Parameter(-n.layers[0].weight)),
    "state": lambda n: n.load_state_dict(
        {k: v.neg() if k.endswith("weight") else v for k, v in n.state_dict().items()}
    ),
    "parametrisation": _parametrised,
    "layer": lambda n: n.layers.__setitem__(
        1, it.convert(mlp(6, 5, 3, seed=4), LOGISTIC).layers[1]
    ),
    "configuration": lambda n: _settings(n.layers[0], amplifier=it.Amplifier(gain=3.0)),
    "scaling": lambda n: setattr(n.layers[1], "scaling", Scaling(1.0, 2.0)),
    "offsets": lambda n: setattr(
        n.layers[0].matrix, "offsets", torch.full((5, 1, 1), 0.1, dtype=torch.float64)
    ),
    "stand-in": lambda n: setattr(n.segment, "stand_in", lambda x: x[:, :3] * 0.5),
    "engine": lambda n: setattr(n, "engine", it.Native(newton=it.NewtonOptions(tolerance=1e-3))),
    "a hook": lambda n: n.segment.register_forward_hook(lambda part, x, y: 2.0 * y),
    "a hook before": lambda n: n.segment.register_forward_pre_hook(lambda part, x: (-x[0],)),
}
"""What may be done to a network; and whether outputs show it (an engine's tolerance does not)."""


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_is_noticed(what):
    network = it.convert(mlp(6, 5, 3), LOGISTIC)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)
    with torch.no_grad():
        before = network(x)
        assert network.segment._standing.get() is not None  # what is tested is what is used
        assert torch.equal(network(x), before)
        CHANGES[what](network)
        after, many = network(x), network(x.repeat(few.FEW, 1))[:2]
        torch.testing.assert_close(after, many, rtol=0.0, atol=ROUNDING)
        assert torch.equal(after, before) == (what == "engine")


def test_what_lasts_for_a_while_is_noticed():
    network = it.convert(mlp(6, 5, 3), LOGISTIC)
    devices = it.DeviceModel.of(it.Memristor(variation=0.1))
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)
    with torch.no_grad():
        before = network(x)
        with it.varied(network, devices, torch.Generator().manual_seed(1)):
            assert not torch.equal(network(x), before)
        assert torch.equal(network(x), before)
        other = copy.deepcopy(network)
        other.layers[0].weight.neg_()
        assert torch.equal(network(x), before) and not torch.equal(other(x), before)


def test_a_few_images_beyond_full_scale_are_what_they_are_among_many():
    network = it.convert(mlp(6, 5, 3), LOGISTIC)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)
    with torch.no_grad():
        network(x)
        for wrong in (2.0, torch.nan):
            with pytest.raises(it.ImacError, match=r"full scale|not finite"):
                network(x * wrong)
        with pytest.raises(it.ImacError, match="takes"):
            network(x[:, :5])
        network.segment.saturates = True
        with pytest.warns(match="beyond full scale"):
            found = network(2.0 * x)
        assert torch.equal(found, network((2.0 * x).clamp(-1, 1)))


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
