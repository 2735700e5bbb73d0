"""Read-outs: their checks, their equations against a nodal solution, and a plug-in kind."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_networks import LOGISTIC, loader, mlp, signs

import imac_torch as imac
from imac_torch.config.kinds import READ_OUT_KINDS
from imac_torch.errors import CircuitError, ConfigError, MappingError
from imac_torch.mapping.slices import Slicing
from imac_torch.periphery.readout import Differential, combination_of, register_read_out

SLICED = Slicing(2, 3)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def differential(combine="average", *, gain=20.0, pole=None, partitions=3, slicing=SLICED):
    meeting = combination_of(combine, partitions, number(7.0), slicing)
    return Differential(meeting, pole, number(gain), number(1e3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: differential(gain=0.0), "gain of the amplifiers = 0.0 must be finite and > 0"),
        (lambda: differential(gain=float("inf")), "gain"),
        (lambda: replace(differential(), resistance=number(-1.0)), "resistance"),
        (lambda: differential(pole=-1.0), "pole = -1.0 Hz"),
        (lambda: replace(differential(pole=1e9), slew_rate=0.0), "slew_rate = 0.0 V/s"),
        (lambda: replace(differential(), second_pole=1e9), "second_pole .* needs a pole"),
        (lambda: combination_of("maximum", 1, number(1.0), Slicing()), "combine = 'maximum'"),
        (lambda: combination_of("sum", 1, number(float("inf")), Slicing()), "output_resistance"),
        (lambda: combination_of("average", 1, number(0.0), Slicing()), "cannot be tied"),
    ],
)
def test_values_that_are_not_physical_are_refused(make, message):
    with pytest.raises(CircuitError, match=message):
        make()


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"kind: .*no read-out 'nothing'.*differential"):
        imac.Amplifier(kind="nothing")


@pytest.mark.parametrize("combine", ["average", "sum"])
def test_power_is_that_of_every_resistor_and_of_what_is_drawn(combine):
    """Tellegen: ideal outputs deliver what their resistors take and what flows on."""
    read_out = differential(combine)
    generator = torch.Generator().manual_seed(1)
    p, q = torch.rand(2, 4, 6, 3, generator=generator, dtype=torch.float64)  # B, M·L, H
    drawn = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 1e-3
    output = 20.0 * (p - q)
    total = output.sum(-1) if combine == "sum" else output.mean(-1)
    shares = torch.tensor([0.75, 0.25], dtype=torch.float64)
    combined = total.reshape(4, 3, 2) @ shares
    expected = (output * (output - 20 / 21 * p) / 20e3).sum((-1, -2))  # through R3
    if combine == "average":
        # Through 7 Ω of the slice that counts 0.75, 21 Ω of the other, to the meeting voltage.
        resistance = torch.tensor([7.0, 21.0], dtype=torch.float64).repeat(3)[:, None]
        meeting = combined - drawn * (1 / (3 / 7 + 3 / 21))
        meeting = meeting.repeat_interleave(2, dim=1)[..., None]
        current = (output - meeting) / resistance
        met = current.reshape(4, 3, 2, 3).sum((-1, -2))  # of up to amperes, 1e-3 A of them left
        torch.testing.assert_close(met, drawn, rtol=0, atol=1e-13)
        expected = expected + (output * current).sum((-1, -2))
    found = read_out.power(p, q, combined, drawn)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
    form = read_out.combination.conductance(6) * output.square()
    form = form.sum((-1, -2)) + (output * (output - 20 / 21 * p) / 20e3).sum((-1, -2))
    apart = form + read_out.combination.meeting_power(combined, drawn)
    torch.testing.assert_close(apart, expected, rtol=1e-11, atol=0.0)


PLUGIN = Path(__file__).parent / "plugins" / "current_sink.py"


@pytest.fixture
def current_sink():
    assert PLUGIN.read_text().count("\n") <= 60  # one short file is all that a kind needs
    yield runpy.run_path(str(PLUGIN), run_name="current_sink")["CurrentSink"]
    READ_OUT_KINDS.remove("current_sink")


@pytest.mark.parametrize("combine", ["average", "sum"])
def test_a_new_kind_is_one_file(current_sink, combine, ngspice, tmp_path):
    """Native solution, powers, gradients, transient and netlist of a kind nobody knew."""
    config = LOGISTIC.replace(
        amplifier=imac.Amplifier(kind="current_sink", gain=4.0, combine=combine),
        crossbar=imac.Crossbar(rows=3, columns=3),
    )
    network = imac.convert(mlp(5, 4, 3), config)
    x = 0.9 * signs(2, 5)
    solution = network.solve(x)
    deck = imac.compile(
        network, loader(x), tmp_path / "run", settings=imac.NetlistSettings(analysis="dc")
    )
    spice = deck.run(imac.NgSpice(str(ngspice)), progress=False).solution
    # ngspice's own tolerance of linear circuits; signals are of the order of 0.1 V.
    torch.testing.assert_close(spice.outputs, solution.outputs, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(spice.power.inputs, solution.power.inputs, rtol=1e-8, atol=0.0)
    # Without wires, lines at 0 V make it the plain product of conductances.
    ideal = config.replace(interconnect=imac.Interconnect(resistance=False))
    layer = next(imac.convert(mlp(5, 3), ideal).analog_layers())
    pair = layer.matrix.conductances()
    lines = torch.cat([0.8 * x.double(), torch.full((2, 1), 0.8, dtype=torch.float64)], dim=1)
    wanted = 4e3 * lines @ (pair.positive - pair.negative).T
    scale = 1.0 if combine == "sum" else 2.0
    found = imac.convert(mlp(5, 3), ideal).solve(x).layers[0].combined
    # 1 mΩ against cells of 10 kΩ and more: 1e-7 of each.
    torch.testing.assert_close(found, wanted / scale, rtol=1e-6, atol=1e-9)
    v = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda u: network(u), (v,), atol=1e-6)


@pytest.mark.parametrize(
    "output",
    [
        lambda self, p, q: self.gain * (p - q) + 2e-3,  # an offset
        lambda self, p, q: (self.gain * (p - q)).clamp(-0.5, 0.5),  # it saturates
    ],
)
def test_a_read_out_that_is_not_linear_is_refused(output):
    offset = type("Offset", (Differential,), {"kind": "offset", "output": output})
    register_read_out(offset)
    try:
        config = LOGISTIC.replace(amplifier=imac.Amplifier(kind="offset", gain=4.0))
        with pytest.raises(CircuitError, match=r"Offset.output of .*'offset' is not linear"):
            imac.convert(mlp(6, 4), config)(signs(2, 6))
    finally:
        READ_OUT_KINDS.remove("offset")


def test_matched_conductances_ask_the_read_out_what_its_divider_does(current_sink):
    """Of a kind nobody knew, too; one that is not a difference of both ends is refused."""
    config = LOGISTIC.replace(
        amplifier=imac.Amplifier(kind="current_sink", gain=4.0),
        mapping=imac.WeightMapping(levels="continuous", scheme="matched"),
        interconnect=imac.Interconnect(resistance=False),
    )
    network = imac.convert(mlp(5, 3), config)
    (layer,) = network.analog_layers()
    lines = torch.cat([0.8 * signs(2, 5), torch.ones(2, 1) * 0.8], dim=1).double()
    found = network.solve(signs(2, 5)).layers[0].combined
    # The divider's numbers are the stamp's: 1e-16 of 1/SINK against cells of 1e-5 S.
    wanted = (lines @ layer.matrix.wanted_transfer().T).detach()
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-6)
    single_ended = replace(differential().divider((5,)), by_negative=0.0)
    with pytest.raises(MappingError, match=r"layer: the scheme 'matched'.*20·\(1·p \+ 0·q\)"):
        single_ended.check_matchable("layer")
