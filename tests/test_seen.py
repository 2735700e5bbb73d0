"""Mapping that knows what lines see of cells that are no resistors."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from small_networks import drawn, reals

import imac_torch as imac
from imac_torch.cells.seen import Seen
from imac_torch.config import Memristor
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.mapping.states import InputStatistics

ENDS = {"rlow": 1e4, "rhigh": 2e5}


def matched(
    generator: torch.Generator, device: Memristor, *, scheme: str = "matched",
    kind: str = "differential",
) -> imac.IMACNetwork:  # fmt: skip
    return imac.convert(
        drawn(generator, 6, 4),
        imac.Config(
            device=device,
            interconnect=imac.Interconnect(resistance=False),
            mapping=imac.WeightMapping(levels="continuous", scheme=scheme),
            neuron=imac.Neuron(kind="logistic"),
            amplifier=imac.Amplifier(kind=kind),
        ),
    )


def error(network: imac.IMACNetwork, x: torch.Tensor) -> float:
    """Of neuron inputs, V rms."""
    layer = next(network.segment.analog_layers())
    with torch.no_grad():
        volts = torch.nn.functional.pad(network.voltages(x), (0, 1), value=0.8)
        wanted = volts @ layer.matrix.wanted_transfer().T
        return float((network.solve(x).layers[0].combined - wanted).square().mean().sqrt())


@pytest.mark.parametrize("kind", ["differential", "transimpedance"])
def test_a_contact_is_known_exactly(generator: torch.Generator, kind: str) -> None:
    """Gains for a whole range are for the range that is seen: 62 µS of it, not 95 µS."""
    device = Memristor(**ENDS, access={"resistor": {"resistance": 5e3}})
    network = matched(generator, device, kind=kind)
    # nodes of the interpolation are 1 % apart: its own inverse at the nodes, 1e-5 between them
    assert error(network, reals(generator, 20, 6)) < 1e-4


@pytest.mark.parametrize(
    "device",
    [
        Memristor(**ENDS, bend=0.4),
        Memristor(**ENDS, access={"selector": {"scale": 2e-6, "v0": 0.12}}),
    ],
    ids=["sinh", "selector"],
)
def test_curves_are_known_in_the_mean(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, device: Memristor
) -> None:
    state, x = generator.get_state(), reals(torch.Generator().manual_seed(5), 20, 6)
    known = error(matched(generator, device), x)
    generator.set_state(state)
    monkeypatch.setattr(Seen, "of", classmethod(lambda *given: None))
    assert known < 0.7 * error(matched(generator, device), x)


def test_what_is_seen_is_programmed_back(generator: torch.Generator) -> None:
    config = imac.Config(device=Memristor(**ENDS, bend=0.3, states=9))
    seen = Seen.of(config, torch.full((5,), 0.4, dtype=torch.float64))
    assert seen is not None
    # a hyperbolic sine at one voltage: sinh(x)/x times as much
    ratio = torch.sinh(torch.tensor(0.4 / 0.3)) / (0.4 / 0.3)
    torch.testing.assert_close(seen.seen, ratio.double() * seen.programmed, rtol=1e-6, atol=0)
    states = torch.linspace(5e-6, 1e-4, 9, dtype=torch.float64)
    pair = ConductancePair(states[None], torch.zeros(1, 9, dtype=torch.float64))
    lines = seen.by_lines(pair)
    back = seen.to_program(ConductancePair(1.001 * lines.positive, lines.negative))
    torch.testing.assert_close(back.positive, pair.positive, rtol=1e-12, atol=0)
    assert not bool(back.negative.any())


def test_gains_follow_what_is_known_of_inputs(generator: torch.Generator) -> None:
    """A network that calibration has told of its inputs is the one that a file gives back."""
    network = matched(generator, Memristor(**ENDS, bend=0.2), scheme="unilateral")
    x = reals(generator, 2, 6)
    matrix = next(network.segment.analog_layers()).matrix
    with torch.no_grad():
        before = network.solve(x).outputs
        quiet = InputStatistics.independent(6)
        matrix.set_input_statistics(replace(quiet, variance=1e-4 * quiet.variance))
        after, fresh = network.solve(x).outputs, deepcopy(network).solve(x).outputs
    torch.testing.assert_close(after, fresh, rtol=0, atol=0)
    assert float((after - before).abs().max()) > 1e-3
