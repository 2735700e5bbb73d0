"""Labels and answers: one check of labels, one way from outputs to classes, in every analysis."""

from __future__ import annotations

import math

import pytest
import torch
from small_networks import LOGISTIC, loader, mlp, seeded
from torch import nn

import imac_torch as imac
from imac_torch.datasets.batches import check_labels, chosen
from imac_torch.devices.effects import LogNormal
from imac_torch.errors import DataError, ImacError

INPUTS = seeded(lambda: 2.0 * torch.rand(12, 6) - 1.0)
STILL = imac.DeviceModel((LogNormal(0.0),))


def single(last):
    """Weights of ±c, which ternary levels hold; outputs on both sides of the middle."""
    model = nn.Sequential(nn.Linear(6, 2), nn.Sigmoid(), nn.Linear(2, 1), *last)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0] * 3 + [0.0] * 3, [-3.0] * 3 + [0.0] * 3]))
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
        model[0].bias.zero_()
        model[2].bias.zero_()
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("last", "middle"), [([nn.Sigmoid()], 0.5), ([nn.Tanh()], 0.0), ([], 0.0)]
)
def test_one_output_answers_by_the_middle_of_its_range(last, middle):
    kind = "tanh" if last and isinstance(last[0], nn.Tanh) else "logistic"
    layers = {"2": imac.LayerConfig(neuron={"kind": kind})}
    network = imac.convert(single(last), LOGISTIC.replace(layers=layers))
    assert network.threshold == middle
    above = network(INPUTS)[:, 0] > middle
    assert 0 < int(above.sum()) < 12
    labels = above.long()
    labels[0] = 1 - labels[0]
    report = imac.evaluate(network, loader(INPUTS, labels), progress=False)
    assert report.accuracy == pytest.approx(11 / 12)
    found = imac.MonteCarlo(network, STILL).run(INPUTS, labels, samples=1)
    assert float(found.accuracy[0]) == pytest.approx(11 / 12)
    assert imac.ablate(network, INPUTS, labels)[-1].accuracy == pytest.approx(11 / 12)


@pytest.mark.filterwarnings("ignore")
def test_one_output_without_a_threshold_is_refused():
    relu = LOGISTIC.replace(layers={"2": imac.LayerConfig(neuron={"kind": "relu"})})
    network = imac.convert(single([nn.ReLU()]), relu)
    assert network.threshold is None
    with pytest.raises(DataError, match="one output"):
        imac.ablate(network, INPUTS, torch.zeros(12, dtype=torch.int64))


def test_a_tie_of_all_outputs_is_no_answer():
    scores = torch.tensor([[1.0, 1.0], [0.0, 2.0], [math.nan, 1.0]])
    assert chosen(scores).tolist() == [-1, 1, -1]
    assert chosen(torch.tensor([[0.5], [0.6], [0.4]]), 0.5).tolist() == [-1, 1, 0]


BAD = {
    "shape": torch.zeros(12, 1, dtype=torch.int64),
    "count": torch.zeros(5, dtype=torch.int64),
    "type": torch.zeros(12),
    "truth": torch.zeros(12, dtype=torch.bool),
    "range": torch.full((12,), 2),
    "sign": torch.full((12,), -1),
    "list": [0] * 12,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("labels", BAD.values(), ids=BAD.keys())
def test_labels_are_checked_alike(labels):
    network = imac.convert(mlp(6, 3, 2), LOGISTIC)
    with pytest.raises(DataError):
        check_labels(labels, INPUTS, classes=2)
    with pytest.raises(DataError):
        imac.ablate(network, INPUTS, labels)
    with pytest.raises(DataError):
        imac.MonteCarlo(network, STILL).run(INPUTS, labels, samples=1)
    with pytest.raises(DataError):
        imac.evaluate(network, [(INPUTS, labels)], progress=False)


@pytest.mark.filterwarnings("ignore")
def test_yield_without_labels_is_not_a_number():
    network = imac.convert(mlp(6, 3, 2), LOGISTIC)
    found = imac.MonteCarlo(network, STILL).run(INPUTS, samples=2)
    assert math.isnan(found.yield_above(0.5).value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bend", [None, 0.3])
def test_empty_batches(bend):
    network = imac.convert(mlp(6, 3, 2), LOGISTIC.replace(device=imac.Memristor(bend=bend)))
    none = torch.zeros(0, 6, requires_grad=bend is None)
    found = network(none)
    assert found.shape == (0, 2)
    if bend is None:
        found.sum().backward()
        assert none.grad.shape == (0, 6)
    for analysis in (
        network.measure,
        network.transient,
        lambda x: imac.ablate(network, x),
        lambda x: imac.MonteCarlo(network, STILL).run(x, samples=1),
    ):
        with pytest.raises(ImacError):
            analysis(none)
