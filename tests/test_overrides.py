"""Changes to a configuration as text."""

import pytest

from imac_torch import Config
from imac_torch.errors import ConfigError
from imac_torch.overrides import apply_overrides, field_paths, parse_assignment


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


def test_every_listed_field_can_be_set_to_its_own_value() -> None:
    values = Config().to_dict()
    for path, description in field_paths():
        assert description or path == "temperature", path
        value: object = values
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        assert apply_overrides(Config(), {path: value}) == Config()
