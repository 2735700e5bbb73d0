"""Transients of converted networks in ngspice: measures, waveforms, and the native engine's."""

import pytest
import torch
from small_networks import LOGISTIC, failing_ngspice, loader, mlp, signs

from imac_torch import (
    Amplifier,
    Config,
    Crossbar,
    Interconnect,
    InverterSigmoid,
    NetlistSettings,
    Neuron,
    NgSpice,
    Timing,
    TransientOptions,
    compile,
    convert,
)
from imac_torch.errors import NetlistError, SimulatorError
from imac_torch.simulator import check
from imac_torch.simulator.transients import measured_latency
from imac_torch.study.transient_verification import verify_transient
from imac_torch.transient.integrator import StepControl

pytestmark = pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")

IMAGES = 3
PERIOD = 1e-9
# All that has time in it, each worth tens of picoseconds: 5 kΩ with 3 fF, a pole of 5 GHz.
CONFIG = Config(
    neuron=Neuron(
        kind="logistic", slope=25.0, output_resistance=5e3,
        input_capacitance=2e-14, output_capacitance=1e-15,
    ),
    crossbar=Crossbar(rows=5, columns=6),
    interconnect=Interconnect(capacitance=True),
    amplifier=Amplifier(gain=20.0, pole=5e9, output_resistance=2e3),
    timing=Timing(period=PERIOD, transition=5e-11, load_capacitance=2e-15),
)  # fmt: skip


def network(config=CONFIG):
    model = mlp(8, 6, 4)
    model.append(InverterSigmoid())
    return convert(model, config)


@pytest.fixture(scope="module")
def pairs():
    return loader(signs(IMAGES, 8))


@pytest.fixture
def simulator(ngspice):
    return NgSpice(str(ngspice), timeout=60.0)


def test_native_and_ngspice_agree_with_everything_set(pairs, simulator):
    coarse = TransientOptions(control=StepControl(tolerance=2e-4))
    found = verify_transient(network(), pairs, IMAGES, simulator=simulator, options=coarse)
    swing = found.spice.solution.outputs.amax(0) - found.spice.solution.outputs.amin(0)
    assert float(swing.min()) > 0.02  # otherwise the comparison would be of noise
    # What is demanded: 0.5 % of the swing, 2 % of latencies, 1 % of energies.
    assert found.waveform_difference < 5e-3
    assert found.latency_difference < 0.02
    assert found.energy_difference < 0.01
    assert found.same_class == IMAGES
    assert found.passed
    assert f"same class: {IMAGES} of {IMAGES}" in str(found)


@pytest.mark.parametrize(
    "section",
    [
        {"neuron": CONFIG.neuron.replace(input_capacitance=0.0)},
        {"neuron": CONFIG.neuron.replace(output_capacitance=0.0)},
        {"amplifier": CONFIG.amplifier.replace(pole=None)},
        {"timing": CONFIG.timing.replace(load_capacitance=0.0)},
    ],
    ids=["input", "output", "pole", "load"],
)
def test_each_of_them_matters_in_netlists(pairs, simulator, section, tmp_path):
    """The test above has teeth: without one of them, latencies differ by more than it allows."""
    latencies = []
    for name, config in (("with", CONFIG), ("without", CONFIG.replace(**section))):
        deck = compile(network(config), pairs, tmp_path / name, limit=2)
        latencies.append(check(deck.run(simulator, progress=False)).latency.outputs)
    assert float((latencies[1] / latencies[0] - 1.0).abs().max()) > 0.02


def test_measures_and_waveforms_say_the_same(pairs, simulator, tmp_path):
    settings = NetlistSettings(max_step=4e-12, save="all", images_per_netlist=3)
    deck = compile(network(), pairs, tmp_path / "run", settings=settings)
    spice = check(deck.run(simulator, progress=False))
    for batch, outcome in zip(deck.run_files.batches, spice.outcomes, strict=True):
        kept = slice(batch.first, batch.first + batch.deck.images)
        result = outcome.unwrap()
        # `meas` interpolates linearly between steps of up to 4 ps, waveforms by cubics: an
        # exponential of 50 ps is (4/50)²/8 of a time constant apart, 0.04 ps.
        torch.testing.assert_close(
            measured_latency(batch.deck, result),
            spice.latency.outputs[kept, 0],
            rtol=0,
            atol=1e-13,
        )
        for k in range(batch.deck.images):
            energy = spice.energy.inputs[batch.first + k, 0]
            assert result.measures[f"e_inputs_{k}"] == pytest.approx(
                float(energy), rel=1e-3, abs=0.0
            )
            energy = spice.energy.supply[batch.first + k, 0]
            assert result.measures[f"e_supply_{k}"] == pytest.approx(
                float(energy), rel=1e-3, abs=0.0
            )
            static = spice.static.inputs[batch.first + k, 0]  # seven digits
            assert PERIOD * result.measures[f"s_inputs_{k}"] == pytest.approx(
                float(static), rel=1e-6, abs=0
            )
    assert spice.latency.outputs.shape == (IMAGES, 1, 4)
    assert spice.latency.images.shape == spice.energy.total.shape == (IMAGES, 1)
    # An output decides no later than the slowest of them settles, unless two of them are close.
    assert bool((spice.latency.decision < PERIOD).all())
    torch.testing.assert_close(
        spice.switching.inputs + spice.static.inputs, spice.energy.inputs, rtol=1e-12, atol=0
    )

    waves = spice.waveforms()
    assert waves.outputs.shape == (len(waves.time), IMAGES, 4)
    assert float(waves.time[0]) == 0.0
    assert float(waves.time[-1]) == pytest.approx(PERIOD)
    torch.testing.assert_close(waves.outputs[-1], spice.solution.outputs, rtol=0, atol=1e-6)
    # Images of one netlist follow each other.
    torch.testing.assert_close(waves.outputs[0, 1], waves.outputs[-1, 0], rtol=0, atol=1e-6)
    inner = spice.waveforms([2, 0], nodes=["y1", "xlayer1.z1"])
    assert inner.samples.tolist() == [2, 0]
    assert float((inner.outputs[-1, :, 0] - waves.outputs[-1, [2, 0], 0]).abs().max()) < 1e-6
    assert float(inner.outputs[:, :, 1].std()) > 1e-3
    with pytest.raises(SimulatorError, match="save='all'"):
        spice.waveforms([0], nodes=["nowhere"])


def test_latency_to_a_value_that_is_never_reached(pairs, simulator, tmp_path):
    deck = compile(network(), pairs, tmp_path / "run", limit=2)
    spice = check(deck.run(simulator, progress=False))
    ends = spice.solution.outputs
    torch.testing.assert_close(
        spice.latency_to(ends).outputs, spice.latency.outputs, rtol=1e-6, atol=0
    )
    assert bool(spice.latency_to(ends + 1.0).outputs.isinf().all())


def test_a_steady_output_never_leaves_its_band(simulator, tmp_path):
    """The same image twice: nothing moves, no edge is crossed, and that is no error."""
    image = signs(1, 8)
    deck = compile(network(), loader(torch.cat([image, image])), tmp_path / "run")
    spice = check(deck.run(simulator, progress=False))
    assert bool((spice.latency.outputs[0] > 0.0).all())
    assert bool((spice.latency.outputs[1] == 0.0).all())
    batch = deck.run_files.batches[0]
    measured = measured_latency(batch.deck, spice.outcomes[0].unwrap())
    assert bool((measured[1] == 0.0).all())
    assert "up_y1_1" not in spice.outcomes[0].unwrap().measures


def test_what_is_missing_is_nan(pairs, ngspice, simulator, tmp_path):
    settings = NetlistSettings(images_per_netlist=2)
    deck = compile(network(), pairs, tmp_path / "run", settings=settings)
    spice = deck.run(failing_ngspice(ngspice, tmp_path, on="batch_00001"), progress=False)
    assert spice.latency.images[:, 0].isnan().tolist() == [False, False, True]
    assert spice.energy.total[:, 0].isnan().tolist() == [False, False, True]
    assert spice.waveforms([1]).outputs.shape[1] == 1
    with pytest.raises(SimulatorError, match="sample 2 has no waveform"):
        spice.waveforms([2])
    settings = NetlistSettings(analysis="dc")
    static = compile(network(), pairs, tmp_path / "dc", settings=settings)
    spice = check(static.run(simulator, progress=False))
    assert bool(spice.latency.outputs.isnan().all())
    assert bool(spice.energy.total.isnan().all())
    with pytest.raises(SimulatorError, match="operating point"):
        spice.waveforms([0])


def test_bad_bands_are_refused():
    for bad in ({"fraction": 0.0}, {"fraction": 1.0}, {"resolution": 0.0}):
        with pytest.raises(NetlistError, match=next(iter(bad))):
            NetlistSettings(**bad)


def test_transistors_are_refused_before_anything_runs(pairs, simulator):
    item = network(LOGISTIC.replace(neuron=Neuron(kind="finfet")))
    with pytest.raises(NetlistError, match="no charges"):
        verify_transient(item, pairs, 1, simulator=simulator)
