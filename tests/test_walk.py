"""What reaches the circuits of a model: drawn vectors, equal places in circuits and software."""

import pytest
import torch
from small_networks import LOGISTIC, mlp, seeded
from torch import nn

from imac_torch import convert
from imac_torch.model.positions import Vectors, Windows
from imac_torch.model.walk import Drawn, reached, vectors_at, walk

pytestmark = pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Positions(nn.Module):
    """A convolution, then a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 3, 2), nn.Linear(3, 3)

    def forward(self, x):
        x = nn.functional.gelu(self.conv(x)).mean((2, 3))
        return self.fc(nn.functional.gelu(self.fc(x)))


@pytest.fixture(scope="module")
def made():
    x = torch.randn(6, 1, 4, 5, generator=generator())
    model = seeded(Positions)
    return convert(model, samples=x), x


def test_vectors_are_those_of_the_positions() -> None:
    windows = Windows(kernel=(2,), stride=(1,), dilation=(1,), padding=(1, 0))
    for positions, x in (
        (windows, torch.randn(5, 2, 6)),
        (windows, torch.randn(2, 6)),  # no batch
        (Vectors(), torch.randn(5, 3, 4)),
        (Vectors(), torch.randn(4)),
    ):
        everything = positions.vectors(x)
        which = torch.randint(len(everything), (7,))
        assert torch.equal(vectors_at(positions, x, which), everything[which])


def test_drawn_alike_and_kept_in_order() -> None:
    """Each of 30 vectors stays in a third of the draws, whichever call it came in."""
    x = torch.arange(30.0)[:, None]
    counts = torch.zeros(30)
    for seed in range(300):
        drawn = Drawn(10, generator(seed))
        for part in x.split(7):
            drawn.see(Vectors(), part)
        rows = drawn.rows[:, 0]
        assert len(rows) == 10 and bool((rows.diff() > 0).all())
        counts[rows.long()] += 1
    # Binomial: 100 ± 8.2, four deviations.
    assert bool(((counts - 100).abs() < 33).all())
    whole = Drawn(100, generator())
    whole.see(Vectors(), x)
    assert torch.equal(whole.rows, x)


def test_circuits_and_software_are_compared_place_by_place(made) -> None:
    network, x = made
    runs = [((part,), {}) for part in x.split(4)]
    found = {item.path: item for item in walk(network, runs, generator(), most=20)}
    assert list(found) == ["conv", "fc"]
    conv, fc = found["conv"], found["fc"]
    # Nothing stands before the convolution: it gets the same; its windows are of 12 places.
    assert conv.uses == 6 * 12 and conv.rows.shape == (20, 4)
    assert torch.equal(conv.rows, conv.software)
    windows = conv.segment.positions.vectors(x)
    assert all(bool((windows == row).all(1).any()) for row in conv.rows)
    assert fc.uses == 12 and fc.rows.shape == (12, 3)
    given = torch.cat([torch.cat(network.inputs_of("fc", part)) for part in x.split(4)])
    assert torch.allclose(fc.rows, given)
    assert not torch.equal(fc.rows, fc.software)
    assert torch.allclose(fc.rows, fc.software, atol=0.1)


def test_a_circuit_that_changed_changes_what_reaches_later_ones() -> None:
    x = torch.randn(6, 1, 4, 5, generator=generator())
    network = convert(seeded(Positions), samples=x)
    before = reached(network, [((x,), {})], generator())["fc"].rows
    for item in walk(network, [((x,), {})], generator(), anew=True):
        if item.path == "conv":
            with torch.no_grad():
                item.segment.first.weight.mul_(0.5)
        elif item.path == "fc":
            assert not torch.allclose(item.rows, before, atol=1e-3)


def test_what_a_circuit_gives_itself_is_right_while_it_is_fitted() -> None:
    x = torch.randn(5, 4, 3, generator=generator())
    network = convert(seeded(lambda: nn.Sequential(nn.RNN(3, 4, batch_first=True))), samples=x)
    runs = [((x,), {})]
    (present,) = walk(network, runs, generator())
    (fitted,) = walk(network, runs, generator(), anew=True)
    assert torch.equal(fitted.rows, fitted.software)
    assert not torch.equal(present.rows, present.software)  # wires


def test_chains_are_reached_too() -> None:
    model = mlp(4, 3, 2, activation=nn.Sigmoid)
    network, x = convert(model, LOGISTIC), torch.linspace(0, 1, 12).reshape(3, 4)
    (found,) = walk(network, [((x,), {})], generator())
    assert torch.equal(found.rows, x.double())
    with torch.no_grad():
        assert torch.allclose(network.software(x), model(x))
