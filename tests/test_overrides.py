"""Changes to a configuration as text."""

import pytest

from imac_torch import Config
from imac_torch.config.assignment import (
    apply_overrides,
    field_paths,
    imac_sim_fields,
    parse_assignment,
)
from imac_torch.datasets.imac_sim_script import SCRIPT_NAMES
from imac_torch.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amplifier.gain=30", ("amplifier.gain", 30)),
        ("amplifier.gain = [30, 10.5]", ("amplifier.gain", [30, 10.5])),
        ("device.rlow=5e3", ("device.rlow", 5e3)),
        ("neuron.kind=logistic", ("neuron.kind", "logistic")),
        ('neuron.kind="tanh"', ("neuron.kind", "tanh")),
        ("interconnect.capacitance=true", ("interconnect.capacitance", True)),
        ("neuron.model_directory=/a b=c", ("neuron.model_directory", "/a b=c")),
        ("amplifier.gain=auto", ("amplifier.gain", None)),
    ],
)
def test_assignments(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["amplifier.gain", "=3", "amplifier.gain="])
def test_assignments_have_two_sides(text: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.field=value"):
        parse_assignment(text)


@pytest.mark.parametrize("path", ["#", "a=1\nb", "[device", "neuron..kind"])
def test_what_is_no_path_is_said_so(path: str) -> None:
    with pytest.raises(ConfigError, match="is no path of a field"):
        apply_overrides(Config(), {path: 1})


def test_fields_change_and_go_back() -> None:
    changed = apply_overrides(
        Config(), {"amplifier.gain": [3, 4], 'layers."0.2".device.rlow': 1e3, "temperature": 300}
    )
    assert changed.amplifier.gain == (3.0, 4.0)
    assert changed.layers["0.2"].device == {"rlow": 1e3}
    assert changed.temperature == 300.0
    assert apply_overrides(changed, {"amplifier.gain": None}).amplifier.gain is None
    assert Config().amplifier.gain is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("amplifer.gain", "did you mean amplifier.gain"),
        ("amplifier", "no field 'amplifier'"),
        ('layers."0".device.rlwo', "device.rlow"),
        ('layers."0".supplies.vdd', "has no field"),
        ("a b", "no path"),
    ],
)
def test_unknown_fields_are_named_with_what_is_close(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides(Config(), {path: 1})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tech_node", "IMAC-Sim's tech_node is interconnect.tech_node here"),
        ("vdd", "IMAC-Sim's vdd is supplies.vdd"),
        ("weight_var", "device.variation here, a fraction instead of a percentage"),
        ("tsampling", "timing.period here, in s instead of ns"),
        ("xbar", "crossbar.columns and crossbar.rows"),
        ("hpar", "crossbar.horizontal"),
        ("gain", "amplifier.gain"),
        ("T", "interconnect.thickness"),
        ("rho", "interconnect.resistivity"),
        ("spice_dir", "neuron.model_directory"),
        ("device.weight_var", "device.variation"),
        ("testnum", "belongs to the model or its data .*--testnum"),
        ("bend", "did you mean device.bend"),
        ("neuron.states", "did you mean device.states"),
        ("supply.vdd", "supplies.vdd"),
        ("fin", "neuron.fins"),
    ],
)
def test_names_of_imac_sim_and_fields_without_their_section_are_known(
    path: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides(Config(), {path: 1})


def test_every_name_that_the_script_reader_knows_has_a_hint() -> None:
    assert set(SCRIPT_NAMES) <= set(imac_sim_fields())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("device.variation=5%", 0.05),
        ("device.variation = 12.5 %", 0.125),
        ("interconnect.tech_node=9nm", 9e-9),
        ("interconnect.metal=0.027 µm", 27e-9),
        ("supplies.vdd=700mV", 0.7),
        ("timing.period=4 ns", 4e-9),
        ("device.rhigh=202k", 202e3),
        ("temperature=25 °C", 298.15),
        ("temperature=300 K", 300.0),
        ("neuron.output_capacitance=2fF", 2e-15),
        ('layers."0".device.rlow=5kΩ', 5e3),
        ('layers."0".device.rlow=5kOhm', 5e3),
    ],
)
def test_numbers_with_a_unit(text: str, expected: float) -> None:
    path, value = parse_assignment(text)
    config = apply_overrides(Config(), {path: value})
    if path.startswith("layers"):
        assert config.layers["0"].device["rlow"] == expected
        return
    found: object = config
    for name in path.split("."):
        found = getattr(found, name)
    assert found == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device.rlow=5%", "write a number, in Ω"),
        ("supplies.vdd=3nm", "write a number, in V"),
        ("crossbar.rows=5%", "rows"),
        ("interconnect.tech_node=9", "9 nm meant"),
        ("device.variation=5", "5% meant"),
    ],
)
def test_other_units_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides(Config(), dict([parse_assignment(text)]))


def test_every_listed_field_can_be_set_to_its_own_value() -> None:
    values = Config().to_dict()
    for path, description in field_paths():
        assert description or path == "temperature", path
        value: object = values
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        assert apply_overrides(Config(), {path: value}) == Config()
