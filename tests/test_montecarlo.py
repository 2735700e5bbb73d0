"""Monte Carlo: samples together are samples alone, reproducible, in bounded memory."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from imac_torch import Config, convert
from imac_torch.config import Crossbar, Neuron, WeightMapping
from imac_torch.devices import DeviceModel, LogNormal, Stuck
from imac_torch.errors import DataError, MappingError
from imac_torch.model.network import IMACNetwork
from imac_torch.study.montecarlo import MonteCarlo
from imac_torch.study.montecarlo_result import mean_interval, wilson_interval

MODEL = DeviceModel((LogNormal(0.1), Stuck(off=0.02, open=0.02)))


@pytest.fixture
def network(generator: torch.Generator) -> IMACNetwork:
    model = nn.Sequential(nn.Linear(9, 6), nn.Sigmoid(), nn.Linear(6, 4)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * values)
    config = Config(
        crossbar=Crossbar(rows=4, columns=5),
        neuron=Neuron(kind="logistic"),
        mapping=WeightMapping(levels="continuous", scheme="matched"),
    )
    return convert(model, config)


@pytest.fixture
def images(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(7, 9, generator=generator, dtype=torch.float64) * 2 - 1


def test_samples_together_are_samples_alone(network: IMACNetwork, images: torch.Tensor) -> None:
    run = MonteCarlo(network, MODEL, seed=5)
    labels = torch.arange(7) % 4
    result = run.run(images, labels, samples=6, keep_outputs=True)
    assert result.outputs is not None
    for sample in range(6):
        alone = run.realise(sample).solve(images)
        # both converge to 1e-9 V; the linear parts differ by rounding
        torch.testing.assert_close(alone.outputs, result.outputs[sample], rtol=0, atol=1e-9)
        correct = (alone.outputs.argmax(-1) == labels).double().mean()
        assert float(result.accuracy[sample]) == pytest.approx(float(correct))
        assert alone.power is not None
        mean_power = float(alone.power.total.detach().mean())
        assert float(result.power[sample]) == pytest.approx(mean_power)
    assert bool((result.error > 0).all())
    assert float(result.converged.min()) == 1.0


def test_chunks_do_not_matter(network: IMACNetwork, images: torch.Tensor) -> None:
    run = MonteCarlo(network, MODEL, seed=5)
    seen: list[tuple[int, int]] = []
    small = run.run(
        images, samples=5, memory=1, keep_outputs=True,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(k, 5) for k in range(1, 6)]  # one sample at a time
    large = run.run(images, samples=5, keep_outputs=True)
    assert len(list(run.chunks(5, 7))) == 1
    assert small.outputs is not None and large.outputs is not None
    torch.testing.assert_close(small.outputs, large.outputs, rtol=0, atol=1e-9)
    assert bool(torch.isnan(small.accuracy).all())  # no labels, no accuracy


def test_chunks_shrink_with_memory_and_images(network: IMACNetwork) -> None:
    run = MonteCarlo(network, MODEL)
    sizes = [len(next(run.chunks(10**6, images, 2**20))) for images in (1, 100, 1000)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert [list(chunk) for chunk in run.chunks(3, 10**9, 1)] == [[0], [1], [2]]


def test_seeds(network: IMACNetwork) -> None:
    one, same, other = (MonteCarlo(network, MODEL, seed) for seed in (1, 1, 2))
    first = one.conductances(3)[0].positive
    assert torch.equal(first, same.conductances(3)[0].positive)
    assert not torch.equal(first, other.conductances(3)[0].positive)
    assert not torch.equal(first, one.conductances(4)[0].positive)


def test_a_sample_as_a_netlist(
    network: IMACNetwork, images: torch.Tensor, ngspice: Path
) -> None:
    """The exported sample, in SPICE, gives what the batched samples gave."""
    from imac_torch.simulator import NgSpice

    run = MonteCarlo(network, MODEL, seed=5)
    result = run.run(images[:2], samples=3, keep_outputs=True)
    assert result.outputs is not None
    sample = run.realise(2)
    solved = NgSpice(str(ngspice)).bind(sample.segment).solve(sample.voltages(images[:2]))
    # outputs are some 0.1 V; netlists ask ngspice for 1e-9 and print at least ten digits
    torch.testing.assert_close(solved.outputs, result.outputs[2], rtol=0, atol=1e-6)


def test_intervals() -> None:
    passed = torch.tensor([True] * 8 + [False] * 2)
    interval = wilson_interval(passed)
    # 8 in 10, z = 1.96: (0.8 + 3.8416/20 ± 1.96·√(0.16/10 + 3.8416/400))/(1 + 0.38416)
    assert interval.low == pytest.approx(0.490, abs=5e-4)
    assert interval.high == pytest.approx(0.943, abs=5e-4)
    assert wilson_interval(torch.ones(20, dtype=torch.bool)).low < 1.0
    values = torch.arange(100, dtype=torch.float64)
    mean = mean_interval(values)
    half = 1.959964 * float(values.std()) / 10
    assert mean.high - mean.value == pytest.approx(half, rel=1e-6)
    assert mean_interval(values[:1]).high == math.inf
    with pytest.raises(MappingError, match="confidence"):
        mean_interval(values, confidence=1.0)


def test_refusals(network: IMACNetwork, images: torch.Tensor) -> None:
    run = MonteCarlo(network, MODEL)
    with pytest.raises(MappingError, match="at least 1"):
        run.run(images, samples=0)
    with pytest.raises(DataError, match="labels"):
        run.run(images, torch.zeros(3, dtype=torch.int64), samples=1)
