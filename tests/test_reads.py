"""Effects of every read: each image of a batch sees conductances of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from small_networks import LOGISTIC, mlp

import imac_torch as imac
from imac_torch.devices import DeviceSample, Factors, LogNormal, ReadNoise


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
