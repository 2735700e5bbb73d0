"""The compiled step of whole networks beside the one in torch: one set of equations, two hands."""

from dataclasses import fields

import pytest
import torch
from small_networks import mlp, signs

from imac_torch import InverterSigmoid
from imac_torch.config import Config, Crossbar, Interconnect, Timing
from imac_torch.conversion.convert import convert
from imac_torch.results.energy import Energy
from imac_torch.transient import inference, network
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.options import TimingOptions, TransientOptions
from imac_torch.transient.step import Stepper
from imac_torch.transient.tiled import TiledStepper

pytest.importorskip("numba")
TOLERANCE = 1e-4
CONFIG = Config(
    interconnect=Interconnect(tech_node=45e-9, capacitance=True),
    crossbar=Crossbar(rows=5, columns=4),
    timing=Timing(period=1e-9, transition=1e-10),
)
INPUTS = signs(20, 9)
MODEL = mlp(9, 6, 5, 3).append(InverterSigmoid())


def options(wires="reduced", *, amplifiers=False, **more):
    return TransientOptions(
        control=StepControl(tolerance=TOLERANCE), wires=wires, amplifiers=amplifiers, **more
    )


@pytest.fixture(scope="module")
def circuit():
    """Partitions of several sizes, three layers, one neuron that drives nothing."""
    return convert(MODEL, CONFIG)


@pytest.mark.parametrize(
    ("capacitance", "amplifiers", "length"),
    [(True, True, 1), (False, False, 1), (True, False, 3)],
)
def test_both_steppers_agree(monkeypatch, circuit, capacitance, amplifiers, length):
    """The same steps, and what Newton's method may leave: its tolerance is a part of the steps'."""
    if not capacitance:
        circuit = convert(MODEL, CONFIG.replace(interconnect=Interconnect(tech_node=45e-9)))
    inputs = circuit.voltages(INPUTS[:18]).unflatten(0, (-1, length))
    seen = []

    def solve(kind):
        def made(*arguments):
            seen.append(kind)
            return kind(*arguments)

        monkeypatch.setattr(network, "TiledStepper", made)
        layers = circuit.timing(TimingOptions(asked)).layers
        return network.solve_transient(layers, inputs, CONFIG.timing, options=asked)

    asked = options(amplifiers=amplifiers, save="all")
    one, two = solve(TiledStepper), solve(Stepper)
    assert seen == [TiledStepper, Stepper]
    assert (one.steps, one.rejected) == (two.steps, two.rejected)
    torch.testing.assert_close(one.time, two.time, rtol=1e-12, atol=0)
    for mine, theirs in zip(one.layers, two.layers, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-2 * TOLERANCE)
    for part in fields(Energy):
        mine, theirs = (getattr(item.energy, part.name) for item in (one, two))
        scale = 1e-6 * float(two.energy.total.abs().max())
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=scale, equal_nan=True)
    torch.testing.assert_close(one.reduction_error, two.reduction_error, rtol=1e-3, atol=1e-9)
    assert torch.equal(one.inside, two.inside)
    assert torch.equal(one.status, two.status)


def test_results_do_not_depend_on_threads(monkeypatch, circuit):
    """Groups of images are the same however many threads there are, to the last bit."""
    monkeypatch.setattr(inference, "TOGETHER", 8)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            run = circuit.timing(TimingOptions(options(), waveforms=0))
            run.add(circuit.voltages(INPUTS))
            found.append(run.report())
    finally:
        torch.set_num_threads(threads)
    assert len(found[0].steps) == 3
    for other in found[1:]:
        assert other.steps == found[0].steps
        for name in ("sampled", "settled"):
            assert torch.equal(getattr(other, name), getattr(found[0], name))
        mine, theirs = other.latency.outputs, found[0].latency.outputs
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(other.energy.total, found[0].energy.total)
