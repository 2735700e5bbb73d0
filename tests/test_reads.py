"""Effects of every read: each image of a batch sees conductances of its own."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_networks import LOGISTIC, mlp

import imac_torch as imac
from imac_torch.devices import DeviceSample, Factors, Flicker, LogNormal, ReadNoise, Telegraph
from imac_torch.mapping.quantization import ConductancePair


@pytest.mark.filterwarnings("ignore")
def test_reads_are_drawn_for_every_image():
    """Each image against a network whose cells were set to that read's; the chip stays."""
    network = imac.convert(mlp(4, 3, 2), LOGISTIC)
    chip = imac.DeviceModel((LogNormal(0.1), ReadNoise(0.05)))
    run = imac.MonteCarlo(network, chip, seed=4)
    same = torch.tensor([[1.0, -1.0, 0.5, 0.25]]).expand(3, 4)
    found = run.run(same, samples=2, keep_outputs=True).outputs
    for sample in range(2):
        for image in range(3):
            other = copy.deepcopy(network)
            drawn = run.conductances(sample, image)
            for layer, pair in zip(other.analog_layers(), drawn, strict=True):
                factors = Factors.between(layer.matrix.nominal_conductances(), pair)
                layer.matrix.devices = (DeviceSample.known(factors),)
            expected = other.solve(same[:1]).outputs[0]
            # each stops within Newton's tolerance, 1e-9 V
            torch.testing.assert_close(found[sample, image], expected, rtol=0, atol=1e-8)
    assert len(found.reshape(6, 2).unique(dim=0)) == 6
    # Without noise a chip gives the same answer to the same image; reads vary about that chip.
    quiet = imac.DeviceModel((LogNormal(0.1), ReadNoise(0.0)))
    still = imac.MonteCarlo(network, quiet, seed=4).run(same, samples=2, keep_outputs=True).outputs
    torch.testing.assert_close(still, still[:, :1].expand_as(still), rtol=0, atol=1e-8)
    ratios = torch.stack([run.conductances(0, k)[0].positive for k in range(400)])
    ratios = ratios / run.programmed(0)[0].positive - 1.0
    # the standard error of a standard deviation of n numbers is 1/√(2n) of it: 0.9 % here
    assert float(ratios.std()) == pytest.approx(0.05, rel=0.05)


def noisy(sigma=0.05):
    """A network whose configuration has spread and read noise."""
    effects = {"log_normal": {"sigma": 0.1}, "read_noise": {"sigma": sigma}}
    config = LOGISTIC.replace(device=imac.Memristor(effects=effects))
    return imac.convert(mlp(4, 3, 2), config, generator=torch.Generator().manual_seed(2))


def still(network, pairs):
    """The network with other conductances, layer by layer, that nothing happens to."""
    other = copy.deepcopy(network)
    for layer, pair in zip(other.analog_layers(), pairs, strict=True):
        factors = Factors.between(layer.matrix.nominal_conductances(), pair)
        layer.matrix.devices = (DeviceSample.known(factors),)
    return other


@pytest.mark.filterwarnings("ignore")
def test_configured_reads_are_drawn_for_every_image():
    """Each image against cells as that read has them, also from batch to batch of an evaluation."""
    network = noisy()
    same = torch.tensor([[1.0, -1.0, 0.5, 0.25]]).expand(4, 4)
    found = network.solve(same).outputs
    assert torch.equal(network.solve(same).outputs, found)  # drawn, but not by chance
    assert len(found.unique(dim=0)) == 4
    for read in range(4):
        with network.segment.reading(read):
            pairs = [layer.matrix.conductances() for layer in network.analog_layers()]
        expected = still(network, pairs).solve(same[:1]).outputs[0]
        torch.testing.assert_close(found[read], expected, rtol=0, atol=1e-8)
    batches = [(same[:2], torch.zeros(2, dtype=torch.int64))] * 2
    report = imac.evaluate(network, batches)
    torch.testing.assert_close(report.outputs, found, rtol=0, atol=1e-8)
    network(same.requires_grad_()).sum().backward()
    assert all(bool(layer.weight.grad.any()) for layer in network.analog_layers())
    single = imac.convert(mlp(4, 2), network.config, generator=torch.Generator().manual_seed(2))
    assert len(single(same.detach()).unique(dim=0)) == 4  # one matrix in each read
    # What is not read is programmed, and without noise every read is that.
    quiet = noisy(sigma=0.0)
    with network.segment.reading(None):
        torch.testing.assert_close(
            network.solve(same).outputs, quiet.solve(same).outputs, rtol=0, atol=1e-8
        )


@pytest.mark.filterwarnings("ignore")
def test_samples_of_the_configuration():
    """Without a model, Monte Carlo draws what the configuration says, about nominal devices."""
    network = noisy()
    x = torch.tensor([[1.0, -1.0, 0.5, 0.25], [0.5, 1.0, -1.0, 1.0]])
    run = imac.MonteCarlo(network, seed=3)
    model = imac.DeviceModel((LogNormal(0.1), ReadNoise(0.05)))
    nominal = still(network, [m.matrix.nominal_conductances() for m in network.analog_layers()])
    same = imac.MonteCarlo(nominal, model, seed=3)
    found = run.run(x, samples=2, keep_outputs=True).outputs
    expected = same.run(x, samples=2, keep_outputs=True).outputs
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    # A realised network is that sample in every read.
    torch.testing.assert_close(run.realise(1).solve(x).outputs, found[1], rtol=0, atol=1e-8)
    with pytest.raises(imac.errors.MappingError, match=r"device\.variation, device\.effects"):
        imac.MonteCarlo(imac.convert(mlp(4, 3, 2), LOGISTIC))


@pytest.mark.filterwarnings("ignore")
def test_gains_allow_for_effects():
    """Spread counts as an effect as it does as a field; faults come on top."""
    def spread(**device):
        mapping = imac.WeightMapping(levels="continuous", scheme="matched")
        config = LOGISTIC.replace(mapping=mapping, device=imac.Memristor(**device))
        network = imac.convert(mlp(20, 30), config, generator=torch.Generator().manual_seed(0))
        return next(network.analog_layers()).matrix.expected(16.0).spread

    field = spread(variation=0.3)
    assert field > 10 * spread()
    # One draw of 2·30·21 cells: a mean square of n numbers of kurtosis 1.8 is known to √(0.8/n),
    # 2.5 %; cells of unequal conductance count as fewer. 1/(1 + x) is 3 % above its tangent.
    as_effect = spread(effects={"uniform": {"spread": 0.3}})
    assert as_effect == pytest.approx(field, rel=0.2)
    assert spread(variation=0.3, effects={"stuck": {"off": 0.1}}) > 1.2 * as_effect


def test_traps_stay_in_their_cells_and_are_filled_anew():
    # 200 × 200 cells, a tenth of them with a trap that is filled a quarter of the time in 24 reads,
    # 0.1 % of them never: shares are good to 0.0015 and 0.0014 (one sigma).
    cells, device = torch.full((200, 200), 1e-5, dtype=torch.float64), imac.Memristor()
    model = imac.DeviceModel((Telegraph(amplitude=0.25, cells=0.1, filled=0.25),))
    sample = DeviceSample.seeded(model, 3)
    pair = ConductancePair(cells, cells.clone())
    filled = [sample.of(pair, device, read).positive < 0.9e-5 for read in range(24)]
    ever = torch.stack(filled).any(0)
    assert float(ever.double().mean()) == pytest.approx(0.1, abs=7e-3)
    share = torch.stack(filled).double().mean(0)[ever].mean()
    assert float(share) == pytest.approx(0.25, abs=7e-3)
    assert not torch.equal(filled[0], filled[1])
    assert set(sample.of(pair, device).positive.unique().tolist()) == {1e-5 / 1.25, 1e-5}
    sides = sample.of(pair, device)
    assert not torch.equal(sides.positive, sides.negative)


def test_flicker_has_the_variance_of_its_band():
    cells, device = torch.full((400, 400), 1e-5, dtype=torch.float64), imac.Memristor()
    model = imac.DeviceModel((Flicker(strength=1e-5, lowest=0.1, highest=1e8),))
    found = DeviceSample.seeded(model, 4).of(ConductancePair(cells, cells), device).positive
    expected = 1e-5 * (1e-5 * math.log(1e9)) ** 0.5
    assert float(found.std()) == pytest.approx(expected, rel=0.01)  # 0.2 % one sigma
