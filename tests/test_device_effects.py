"""Device effects in configurations, sweeps and saved networks, one of a plug-in among them."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import LOGISTIC, mlp, signs

import imac_torch as imac
from imac_torch.config.assignment import apply_overrides, parse_assignment
from imac_torch.config.kinds import DEVICE_EFFECTS
from imac_torch.devices import register_effect
from imac_torch.devices.effects import Factors
from imac_torch.errors import ConfigError, ConversionError, DataError
from imac_torch.sweep import NetworkEvaluator, grid, run_sweep

PLUGIN = Path(__file__).parent / "plugins" / "tail_bits.py"

pytestmark = pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")


@pytest.fixture
def plugin(tmp_path):
    assert len(PLUGIN.read_text().splitlines()) <= 60
    file = tmp_path / "plugin.py"
    file.write_text(PLUGIN.read_text())
    runpy.run_path(str(file))
    yield
    DEVICE_EFFECTS.remove("tail_bits")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def with_effects(*assignments: str) -> imac.Config:
    return apply_overrides(LOGISTIC, dict(parse_assignment(text) for text in assignments))


def factors(layer):
    nominal = layer.matrix.nominal_conductances()
    return Factors.between(nominal, layer.matrix.conductances()).positive.detach()


def test_an_effect_of_ones_own_is_one_class_and_one_line(plugin, tmp_path):
    """Registered, in a file, drawn, in a sweep, saved and loaded."""
    file = tmp_path / "circuit.toml"
    effect = "[device.effects.tail_bits]\nshare = 0.3\n"
    file.write_text(f"schema = 1\n[neuron]\nkind = 'logistic'\n{effect}")
    config = imac.Config.load(file)
    model = mlp(20, 9, 3)
    network = imac.convert(model, config, generator=seeded())
    found = factors(network.layers[0])
    share = float((found < 0.75).double().mean())
    assert share == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / found.numel()) ** 0.5)
    assert set(found.mul(2).round().unique().tolist()) == {1.0, 2.0}  # 0.5 and 1
    points = grid({"device.effects.tail_bits.share": [0.0, 0.3], "seed": [0, 1]})
    evaluator = NetworkEvaluator(model, signs(6, 20), torch.zeros(6).long(), config)
    rows = {
        (row["device.effects.tail_bits.share"], row["seed"]): row["power"]
        for row in run_sweep(points, evaluator, tmp_path / "s.sqlite").rows
    }
    assert rows[0.0, 0] == rows[0.0, 1] != rows[0.3, 0] != rows[0.3, 1]
    again = imac.load(imac.save(network, tmp_path / "n.safetensors"))
    assert again.config == config
    for one, other in zip(network.layers, again.layers, strict=True):
        assert torch.equal(one.matrix.conductances().positive, other.matrix.conductances().positive)
    DEVICE_EFFECTS.remove("tail_bits")
    with pytest.raises((ConfigError, DataError), match="tail_bits"):
        imac.load(tmp_path / "n.safetensors")


def test_variation_is_an_effect_like_the_others():
    """IMAC-Sim's weight_var and `uniform` draw the same devices of the same seed."""
    networks = [
        imac.convert(mlp(6, 4, 2), with_effects(text), generator=seeded(3))
        for text in ("device.variation=5%", "device.effects.uniform.spread=5%")
    ]
    for one, other in zip(*(network.layers for network in networks), strict=True):
        assert torch.equal(one.matrix.conductances().negative, other.matrix.conductances().negative)
    # By hand: 1/(1 + 0.05·(2u - 1)), u from the generator, positive side first.
    drawn = torch.rand(4, 7, generator=seeded(3), dtype=torch.float64)
    expected = 1.0 / (1.0 + 0.05 * (2.0 * drawn - 1.0))
    torch.testing.assert_close(factors(networks[0].layers[0])[:, :6], expected[:, :6])


def test_layers_add_to_the_networks_effects(tmp_path):
    config = with_effects(
        "device.effects.stuck.off=10%",
        "device.effects.late.kind=drift", "device.effects.late.time=1e4",
        "device.effects.late.exponent=0.05",
        'layers."2".device.effects.stuck.off=20%', 'layers."2".device.effects.late=none',
        'layers."2".device.effects.read_noise.sigma=1%',
    )  # fmt: skip
    config.save(tmp_path / "c.toml")
    assert imac.Config.load(tmp_path / "c.toml") == config
    assert config.for_layer(0, "0", 2).device.effects == config.device.effects
    assert config.for_layer(1, "2", 2).device.effects == {
        "stuck": {"off": 0.2},
        "late": {"kind": "drift", "time": 1e4, "exponent": 0.05},
        "read_noise": {"sigma": 0.01},
    }
    dropped = imac.LayerConfig(device={"effects": {"late": None}})
    config = config.replace(layers={"2": dropped})
    assert list(config.for_layer(1, "2", 2).device.effects) == ["stuck"]
    config.save(tmp_path / "d.toml")
    assert imac.Config.load(tmp_path / "d.toml") == config


def test_a_fault_map_is_a_file_of_one_layer(tmp_path):
    """Cells of the map are stuck, saved networks know them without the file."""
    codes = np.zeros((2, 4, 7), dtype=np.int8)
    codes[0, 1, 2], codes[1, 3, 0], codes[0, 0, 0] = 1, 3, 2
    np.save(tmp_path / "faults.npy", codes)
    config = with_effects(f'layers."0".device.effects.fault_map.file="{tmp_path}/faults.npy"')
    network = imac.convert(mlp(6, 4, 2), config)  # nothing is random: no generator
    path = imac.save(network, tmp_path / "n.safetensors")
    (tmp_path / "faults.npy").unlink()
    for item in (network, imac.load(path)):
        matrix = item.layers[0].matrix
        with torch.no_grad():
            pair, nominal = matrix.conductances(), matrix.nominal_conductances()
        device = config.device
        assert float(pair.positive[1, 2]) == 1 / device.rlow
        assert float(pair.positive[0, 0]) == 1 / device.rhigh
        assert float(pair.negative[3, 0]) == 0.0
        good = torch.from_numpy(codes[0] == 0)
        assert torch.equal(pair.positive[good], nominal.positive[good])
    with pytest.raises(ConfigError, match=r"fault_map.file = .*faults.npy.*numpy.save"):
        imac.convert(mlp(6, 4, 2), config)


def test_stuck_cells_stay_stuck_when_weights_change():
    config = with_effects("device.effects.stuck.on=0.5")
    network = imac.convert(mlp(6, 4, 2), config, generator=seeded())
    matrix = network.layers[0].matrix
    stuck = matrix.conductances().positive != matrix.nominal_conductances().positive
    assert bool(stuck.any())
    with torch.no_grad():
        network.layers[0].weight.neg_()
    after = matrix.conductances().positive[stuck]
    assert bool((after == 1 / config.device.rlow).all())


def test_realised_chips_of_unnamed_effects_are_saved_as_they_are(tmp_path):
    @dataclass(frozen=True)
    class Shrink:
        factor: float
        cycle: bool = False

        def apply(self, conductance, window, generator):
            return conductance * self.factor

    network = imac.convert(mlp(6, 4, 2), LOGISTIC)
    chip = imac.MonteCarlo(network, imac.DeviceModel((Shrink(0.5),))).realise(0)
    again = imac.load(imac.save(chip, tmp_path / "n.safetensors"))
    torch.testing.assert_close(
        again.layers[1].matrix.conductances().positive,
        0.5 * network.layers[1].matrix.conductances().positive, rtol=1e-14, atol=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("device.effects.log_norm.sigma=0.1", "no device effect 'log_norm'; there are"),
        ("device.effects.log_normal.sigm=0.1", "log_normal.sigm: log_normal has sigma, cycle"),
        ("device.effects.log_normal.sigma=-1", r"log_normal: sigma = -1.0 must be in \[0, inf\)"),
        ("device.effects.log_normal.sigma=large", "log_normal.sigma: .* valid number"),
        ("device.effects.drift.time=1", "drift needs exponent"),
        ("device.effects.factors.positive=1", "factors has no parameters"),
        ("device.effects.fault_map.cells=1", "fault_map has file"),
        ("device.effects.log_normal=0.1", "valid dictionary"),
        ("device.effect.log_normal.sigma=0.1", "no field"),
    ],
)
def test_errors_say_what_there_is(assignment, message):
    with pytest.raises(ConfigError, match=message):
        with_effects(assignment)


def test_what_draws_needs_a_generator_and_names():
    config = with_effects("device.effects.log_normal.sigma=0.1")
    with pytest.raises(ConversionError, match=r"0: device.effects \(log_normal\) need a torch.Gen"):
        imac.convert(mlp(6, 4, 2), config)
    with pytest.raises(ConfigError, match="no dataclass"):
        register_effect("mine", type("Mine", (), {}))
    with pytest.raises(ConfigError, match="'uniform' cannot name"):
        register_effect("uniform", Factors)


def test_damaged_states_are_told(tmp_path):
    network = imac.convert(mlp(6, 4, 2), with_effects("device.variation=0.1"), generator=seeded())
    state = network.layers[0].matrix.get_extra_state()
    matrix = network.layers[0].matrix
    for damaged in (state[:-1], state[100:], torch.zeros(9, dtype=torch.uint8)):
        with pytest.raises(ConversionError, match="damaged"):
            matrix.set_extra_state(damaged)
