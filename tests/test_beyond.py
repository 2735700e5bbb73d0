"""Gains and ranges for what amplifiers can put out."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import imac_torch as imac
from imac_torch.conversion.beyond import sums
from imac_torch.errors import ConversionWarning

OPAMP = imac.Amplifier(kind="transimpedance", open_loop_gain=1e4, swing=(-0.3, 0.35))
CONTINUOUS = imac.WeightMapping(levels="continuous")
RAILS = "amplifiers that are not ideal .* move its sums of weighted inputs by"


def chain() -> tuple[nn.Sequential, torch.Tensor]:
    """A network whose inputs have one sign, so that all lines of a pair carry large currents."""
    generator = torch.Generator().manual_seed(4)
    model = nn.Sequential(nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, 4)).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4
    return model, torch.rand(50, 24, generator=generator, dtype=torch.float64)


class Branch(nn.Module):
    """No chain: its circuits are found in a graph."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.first, self.last = model[0], model[2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(x))
        return self.last(y) + y[:, :4]


def off(network: nn.Module, model: nn.Module, x: torch.Tensor) -> float:
    """Rms error relative to what varies in the outputs."""
    with torch.no_grad():
        wanted, found = model(x), network(x)
    return float((found - wanted).std() / (wanted - wanted.mean(0)).std())


@pytest.mark.parametrize("graph", [False, True])
def test_full_scales_make_room_for_what_amplifiers_put_out(graph):
    """Each carries all the current of its line: at their rails, differences would be 0."""
    model, x = chain()
    made = Branch(model) if graph else model
    config = imac.Config(
        amplifier=OPAMP, mapping=CONTINUOUS, supplies=imac.Supplies(vss=-0.8),
        neuron=imac.Neuron(output_resistance=0.01),  # lines of any conductance load it alike
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=RAILS)
        network = imac.convert(made, config, samples=x)
    # No rail is reached: sums are linear.
    for segment in () if graph else network.segments.values():
        volts = segment.voltages(x)
        for layer, lines in zip(segment.analog_layers(), segment.prepare().layers, strict=True):
            found, linear = sums(lines, volts, layer.config.supplies.vdd)
            torch.testing.assert_close(found, linear, rtol=0.0, atol=1e-12)
            volts = linear.relu()
    assert next(network.analog_layers()).scaling.output_scale > 10.0  # else none would have been
    assert off(network, made, x) < 0.3


def test_without_data_amplifiers_at_their_rails_are_said():
    model, _ = chain()
    with pytest.warns(ConversionWarning, match=RAILS) as said:
        imac.convert(model, imac.Config(amplifier=OPAMP, mapping=CONTINUOUS))
    assert any("finds gains and ranges for what amplifiers" in str(item.message) for item in said)


def test_a_gain_that_is_given_is_kept_and_what_it_costs_is_said():
    model, x = chain()
    config = imac.Config(amplifier=OPAMP.replace(gain=30.0), mapping=CONTINUOUS)
    with pytest.warns(ConversionWarning, match="a smaller amplifier.gain"):
        network = imac.convert(model, config, samples=x)
    assert next(network.analog_layers()).matrix.gain() == 30.0


def test_calibration_looks_for_gains_with_amplifiers_as_they_are():
    model, x = chain()
    rest = {
        "mapping": imac.WeightMapping(scheme="matched", levels="continuous"),
    }
    errors = {
        swing: off(imac.convert(
            model, imac.Config(amplifier=OPAMP.replace(swing=swing), **rest), samples=x
        ), model, x)
        for swing in (None, (-0.3, 0.35))
    }  # fmt: skip
    assert errors[-0.3, 0.35] < 0.3  # 1.4 with the gains for unlimited amplifiers
    assert errors[None] < 0.1
