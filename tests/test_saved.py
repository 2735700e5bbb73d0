"""Files of networks that earlier versions wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_networks import LOGISTIC, mlp
from torch import nn

import imac_torch as imac

OLD = Path(__file__).parent / "data" / "network_0.1.safetensors"
"""Written by version 0.1, with spread, trims, a gain that was chosen and a rescaled layer: of
``Flatten, Linear(4, 3), InverterSigmoid, Linear(3, 2), LogSoftmax``, calibrated to the inputs."""
INPUTS = torch.tensor(
    [[[0.9, -0.3], [0.1, 0.5]], [[-1.0, 0.2], [0.7, -0.6]]], dtype=torch.float64
)
OUTPUTS = torch.tensor(
    [[-0.6216879919089886, -0.7701084823119584], [-0.6535403618019294, -0.7343876244504504]],
    dtype=torch.float64,
)
"""What it gave then."""
NEAR = {"rtol": 0.0, "atol": 1e-6}
"""Matched rows are solved anew when they are needed; version 0.1 stopped 1e-7 before their end.
Spread or trims left out would show in the third decimal."""


@torch.no_grad()
def test_a_file_of_version_0_1():
    network = imac.load(OLD)
    torch.testing.assert_close(network(INPUTS), OUTPUTS, **NEAR)
    assert network.config.supplies.vdd == 0.9
    assert network.config.timing.period == 6e-9
    assert network.circuit().vdd == 0.9


@pytest.mark.filterwarnings("ignore")  # what ternary levels lose
@torch.no_grad()
def test_a_state_of_version_0_1():
    network = imac.convert(
        nn.Sequential(nn.Flatten(), *mlp(4, 3, 2).double(), nn.LogSoftmax(dim=1)), LOGISTIC
    )
    assert network.config.supplies.vdd == 0.8
    network.load_state_dict(load_file(OLD))
    torch.testing.assert_close(network(INPUTS), OUTPUTS, **NEAR)
    assert network.circuit().vdd == 0.9
    assert network.circuit().timing.period == 6e-9
