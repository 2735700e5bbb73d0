"""The neuron by itself: known shapes, and conservation of power in the inverter."""

import csv

import pytest
import torch

from imac_torch import Config, Memristor, Neuron
from imac_torch.errors import ConfigError
from imac_torch.study.characterization import characterize_neuron


def test_the_logistic_neuron_is_its_formula() -> None:
    curve = characterize_neuron(Config(neuron=Neuron(kind="logistic")), points=21)
    expected = 0.8 / (1.0 + torch.exp(11.0 * curve.inputs))
    # Newton's tolerance is 1e-9 V.
    torch.testing.assert_close(curve.outputs, expected, rtol=0, atol=1e-9)
    assert curve.sigmoid_error() < 1e-9
    assert float(curve.power.abs().max()) == 0.0


def test_the_inverter_falls_from_rail_to_rail_and_keeps_kirchhoffs_laws() -> None:
    config = Config(device=Memristor(rlow=8.5e3, rhigh=25.5e3))
    curve = characterize_neuron(config, points=41)
    # Beyond the transition the feedback resistor pulls the output up a little with the input.
    transition = curve.inputs.abs() <= 0.25
    assert bool((curve.outputs[transition].diff() < 0).all())
    assert curve.outputs[0] > 0.75
    assert curve.outputs[-1] < 0.05
    # The resistors carry what the input draws: (z + 0.4 - gate)/rlow into the gate node.
    expected = (curve.inputs + 0.4 - curve.gates) / 8.5e3
    torch.testing.assert_close(curve.input_current, expected, rtol=0, atol=1e-9 / 8.5e3 * 10)
    # vdd feeds a passive circuit: power from vdd and from the input together is not negative.
    assert bool((curve.power + (curve.inputs + 0.4) * curve.input_current >= 0).all())
    assert curve.figures()["threshold"] == pytest.approx(curve.threshold)
    middle = torch.tensor(curve.threshold)
    near = int((curve.inputs - middle).abs().argmin())
    assert abs(float(curve.outputs[near]) - 0.4) < 0.05 * abs(curve.slope)


def test_the_table_is_the_model() -> None:
    exact = characterize_neuron(Config(), points=11)
    table = characterize_neuron(Config(), points=11, exact=False)
    # A bicubic table of 6 mV: below a microvolt.
    torch.testing.assert_close(table.outputs, exact.outputs, rtol=0, atol=1e-6)


def test_csv_has_units_and_all_points() -> None:
    curve = characterize_neuron(Config(neuron=Neuron(kind="tanh")), points=5)
    rows = list(csv.DictReader(curve.to_csv().splitlines()))
    assert [float(row["input_V"]) for row in rows] == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert float(rows[4]["output_V"]) == float(curve.outputs[4])


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a sweep"):
        characterize_neuron(Config(), low=1.0, high=0.0)
