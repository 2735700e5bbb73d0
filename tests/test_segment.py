"""Segments: circuits that stand anywhere in a model."""

from __future__ import annotations

import copy

import pytest
import torch
from small_networks import CONTINUOUS, loader, mlp, signs
from torch import Tensor, nn

import imac_torch as imac
from imac_torch.errors import CircuitError, ConversionError
from imac_torch.model.network import Chain
from imac_torch.model.positions import Vectors, positions_of
from imac_torch.model.segment import Segment

pytestmark = pytest.mark.filterwarnings("ignore")  # what conversions lose

INPUTS = 0.4 * signs(3, 4).double()


class Residual(nn.Module):
    """No chain: what the first circuit gives is added to what it is given."""

    def __init__(self, one: Segment, two: Segment) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"one": one})
        self.two = two

    def forward(self, x: Tensor) -> Tensor:
        return self.two(0.5 * (x + self.parts["one"](x)))


def segment(*sizes: int, seed: int = 3, vdd: float = 0.8) -> Segment:
    config = CONTINUOUS.replace(supplies=imac.Supplies(vdd=vdd, vss=-vdd))
    return imac.convert(mlp(*sizes, seed=seed), config).segment


def residual(seed: int = 3) -> imac.IMACNetwork:
    model = Residual(segment(4, 3, 4, seed=seed), segment(4, 2, seed=seed, vdd=0.9))
    return imac.IMACNetwork(model, CONTINUOUS)


def test_a_segment_gives_what_its_network_gives():
    network = imac.convert(mlp(4, 3, 2), CONTINUOUS)
    single = nn.Sequential(nn.Identity(), network.segment)
    for x in (INPUTS, INPUTS.float(), signs(3, 4).to(torch.int8)):
        assert torch.equal(single(x), network(x))
    assert torch.equal(network.segment.voltages(INPUTS), network.voltages(INPUTS))
    assert list(network.segments) == ["segment"]


def test_leading_dimensions_count_positions():
    network = imac.convert(mlp(4, 3, 2), CONTINUOUS)
    single, x = network.segment, 0.4 * signs(6, 4).double()
    expected = single(x)
    assert torch.equal(single(x.reshape(2, 3, 4)), expected.reshape(2, 3, 2))
    assert torch.equal(single(x[0]), single(x[:1])[0])
    assert single(x[:0].reshape(0, 3, 4)).shape == (0, 3, 2)
    assert (single.positions.count(x), single.positions.count(x.reshape(2, 3, 4))) == (1, 3)
    for wrong, message in (
        (x.reshape(2, 4, 3), r"layer 0 takes 4 inputs .* \(2, 4, 3\) gives 3"),
        (x.sum(), "no dimension"), (x.to(torch.complex64), "real"), ([x], "list"),
    ):  # fmt: skip
        with pytest.raises(CircuitError, match=message):
            single(wrong)
    assert positions_of(Vectors().record()) == Vectors()
    for record, message in (
        ({"kind": "spirals"}, "no kind of positions"), ({"kind": "vectors", "a": 1}, "not known"),
        (["vectors"], "a table"),
    ):  # fmt: skip
        with pytest.raises(ConversionError, match=message):
            positions_of(record)


def test_two_circuits_in_a_model_that_is_no_chain():
    network = residual()
    assert list(network.segments) == ["parts.one", "two"]
    one, two = network.segments.values()
    assert [layer.out_features for layer in network.analog_layers()] == [3, 4, 2]
    x = INPUTS.clone().requires_grad_()
    found = network(x)
    # Each at its own supplies.
    inner = one.decode(one.solve(INPUTS).outputs)
    solution = two.solve(0.5 * (INPUTS + inner))
    torch.testing.assert_close(found, solution.outputs / 0.9 * two.last.scaling.output_scale)
    assert [item.circuit().vdd for item in (one, two)] == [0.8, 0.9]
    # Gradients pass through both, and around the first.
    (gradient,) = torch.autograd.grad(found.sum(), x, retain_graph=True)
    step = 1e-4 * torch.ones_like(x)
    with torch.no_grad():
        expected = (network(x + step) - network(x - step)).sum() / 2
    torch.testing.assert_close((gradient * step).sum(), expected, rtol=1e-4, atol=0.0)
    assert all(p.grad is None for p in network.parameters())
    found.sum().backward()
    assert all(float(layer.weight.grad.abs().max()) > 0.0 for layer in network.analog_layers())


@torch.no_grad()
def test_its_state_holds_the_supplies_of_each():
    network, other = residual(), residual(seed=4)
    other.segments["two"].supplies = imac.Supplies()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(INPUTS), network(INPUTS))
    alone = segment(4, 2, seed=5)
    alone.load_state_dict(network.segments["two"].state_dict())
    assert alone.supplies.vdd == 0.9
    assert torch.equal(alone(INPUTS), network.segments["two"](INPUTS))


def test_what_is_of_one_circuit_is_asked_of_one():
    network = residual()
    for ask in (
        lambda: network.solve(INPUTS), lambda: network.voltages(INPUTS), network.circuit,
        network.prepare, network.timing, lambda: network.measure(INPUTS), lambda: network.layers,
        lambda: network.classes,
    ):  # fmt: skip
        with pytest.raises(CircuitError, match=r"circuits are parts\.one, two.*network\.segments"):
            ask()
    # One circuit, with more around it than software before and behind.
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.circuit = segment(4, 3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.circuit(x)

    single = imac.IMACNetwork(Skip(), CONTINUOUS)
    assert single.segment is single.model.circuit
    assert single.circuit().vdd == 0.8
    torch.testing.assert_close(single(INPUTS), INPUTS + single.segment(INPUTS))
    with pytest.raises(CircuitError, match=r"circuits are circuit, .*between software"):
        single.solve(INPUTS)
    engine = imac.Native(batch_size=2)
    network.engine = engine
    assert all(item.engine is engine for item in network.segments.values())
    assert copy.deepcopy(network).engine == engine


def test_classes_are_outputs_of_the_model_not_of_its_last_layer():
    network = imac.convert(mlp(4, 3, 2), CONTINUOUS)
    wider = nn.Linear(2, 5, dtype=torch.float64)
    network = imac.IMACNetwork(Chain(nn.Identity(), network.segment, wider), CONTINUOUS)
    assert (network.width, network.classes, network.threshold) == (5, 5, None)
    labels = torch.tensor([4, 0, 2])
    report = imac.evaluate(network, loader(INPUTS, labels), progress=False)
    assert report.predictions.tolist() == network(INPUTS).argmax(1).tolist()
    one = nn.Linear(2, 1, dtype=torch.float64)
    network = imac.IMACNetwork(Chain(nn.Identity(), network.segment, one), CONTINUOUS)
    assert (network.width, network.classes) == (1, 2)
