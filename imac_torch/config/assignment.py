"""Changes to a configuration given as text: ``section.field = value``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from imac_torch.base.files import parse_toml
from imac_torch.config import Config, LayerConfig, Quantity, Section
from imac_torch.config.kinds import NAMED
from imac_torch.config.named import quantity_of
from imac_torch.config.section import field_paths as paths_of
from imac_torch.config.section import imac_sim_names
from imac_torch.errors import ConfigError

__all__ = [
    "apply_overrides",
    "field_paths",
    "imac_sim_fields",
    "parse_assignment",
    "path_keys",
    "set_field",
]

_BACK = ("none", "auto", "None")
"""Values that put a field back to its default (``None`` where that means: derived)."""

_FURTHER: Final = {
    "xbar": ("crossbar.columns", "crossbar.rows"),
    "tsampling": ("timing.period",),
    "testnum": (),
    "testnum_per_batch": (),
    "firstimage": (),
    "nodes": (),
    "data_dir": (),
    "dataset_file": (),
    "label_file": (),
}  # fmt: skip
"""Names of IMAC-Sim's script that the descriptions of fields do not settle; those without a field
belong to the data or the model."""
_NOTES: Final = {
    "tsampling": ", in s instead of ns",
    "weight_var": ", a fraction instead of a percentage",
    "xbar": ", its two numbers",
}


def field_paths() -> Iterator[tuple[str, str]]:
    """Every path that an override may name, with the field's description.

    Layers are left out: their fields are ``layers."path".section.field``.
    """
    return ((path, text) for path, text in paths_of(Config) if path != "layers")


def imac_sim_fields() -> dict[str, tuple[str, ...]]:
    """Fields by the names that they have in IMAC-Sim's script, from their descriptions."""
    found = {
        name: (path,) for path, text in field_paths() for name in imac_sim_names(text)
    }
    return {**found, **_FURTHER}


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split ``path=value``; the value is written as in TOML, plain words need no quotes.

    Returns:
        The path and the value; None for ``none`` and ``auto``.

    Raises:
        ConfigError: There is no ``=``, or no path.

    Example:
        >>> parse_assignment("amplifier.gain=[30, 30, 10]")
        ('amplifier.gain', [30, 30, 10])
        >>> parse_assignment("neuron.kind=logistic")
        ('neuron.kind', 'logistic')
    """
    path, equals, value = text.partition("=")
    path, value = path.strip(), value.strip()
    if not equals or not path or not value:
        raise ConfigError(f"{text!r}: write section.field=value, for example amplifier.gain=30")
    if value in _BACK:
        return path, None
    try:
        return path, parse_toml(f"value = {value}")["value"]
    except ValueError:
        return path, value


def path_keys(path: str) -> list[str]:
    """Parts of a dotted path by TOML's rules, so that quoted parts may hold dots."""
    try:
        table = parse_toml(f"{path} = 0")
    except ValueError:
        table = {}
    if len(table) != 1:  # a comment is none, a line break makes two
        raise ConfigError(
            f'{path!r} is no path of a field; write section.field, or layers."0.2".section.field'
        )
    keys = []
    while isinstance(table, dict):
        (key,) = table
        keys.append(key)
        table = table[key]
    return keys


def _named_keys(keys: list[str]) -> list[str] | None:
    """Field, label and parameter of a path within tables by name; None for other paths."""
    inner = keys[2:] if keys[0] == "layers" else keys
    named = inner[0] == "device" and len(inner) in (3, 4) and inner[1] in NAMED
    return inner[1:] if named else None


def _check(path: str, keys: list[str]) -> None:
    if _named_keys(keys) is not None:
        return  # what there is depends on the kind, which the section checks
    known = {name for name, _ in field_paths()}
    if keys[0] == "layers" and len(keys) == 4:
        tail = ".".join(keys[2:])
        per_layer = {n for n in known if n.partition(".")[0] in _layer_sections()}
        if tail in per_layer:
            return
        raise ConfigError(_unknown(tail, per_layer, f"layer {keys[1]!r} has no field {tail!r}"))
    if ".".join(keys) not in known:
        raise ConfigError(_unknown(".".join(keys), known, f"there is no field {path!r}"))


def _layer_sections() -> set[str]:
    return set(LayerConfig.model_fields)


def _unknown(path: str, known: set[str], message: str) -> str:
    """The message with what may have been meant: IMAC-Sim's name, a field alone, similar words."""
    name = path.rpartition(".")[2]
    ends = [item for item in sorted(known) if item.rpartition(".")[2] == name.lower()]
    theirs = imac_sim_fields().get(name)
    if theirs is not None and not (ends and "." in path):  # there it is a section that is misspelt
        if not theirs:
            return (
                f"{message}; IMAC-Sim's {name} is none of the circuit: it belongs to the model or "
                "its data (--testnum, --firstimage, --testnum-per-batch, --data)"
            )
        return f"{message}; IMAC-Sim's {name} is {' and '.join(theirs)} here{_NOTES.get(name, '')}"
    words = sorted({item.rpartition(".")[2] for item in known})
    close = ends or difflib.get_close_matches(path, sorted(known), n=3, cutoff=0.5)
    if not close:
        similar = difflib.get_close_matches(name, words, n=2, cutoff=0.6)
        close = [item for item in sorted(known) if item.rpartition(".")[2] in similar]
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"{message}{hint} (`imac-torch config --fields` lists all)"


def _quantity(values: Mapping[str, Any], keys: list[str]) -> Quantity | None:
    """What the field at the end of a path measures."""
    named = _named_keys(keys)
    if named is not None:
        field, label, parameter = (*named, "")[:3]
        layer = values.get("layers", {}).get(keys[1], {}) if keys[0] == "layers" else {}
        tables = [(place.get("device", {}).get(field) or {}).get(label, {})
                  for place in (values, layer)]  # fmt: skip
        kind = {"kind": label, **tables[0], **tables[1]}["kind"]
        return quantity_of(NAMED[field], kind, parameter)
    section: type[Section] = Config
    for key in keys[2:-1] if keys[0] == "layers" else keys[:-1]:
        section = section.model_fields[key].annotation  # type: ignore[assignment]
    return section.quantity(keys[-1])


def set_field(values: dict[str, Any], path: str, value: object) -> None:
    """Set one field in a configuration's nested dictionary, in place.

    Args:
        values: As :meth:`Config.to_dict` gives it.
        path: ``section.field``, ``temperature``, ``device.effects.name.parameter`` or
            ``layers."path".section.field``.
        value: None (in files ``"none"``) removes it: the default then holds. A number with a unit
            (``"9nm"``, ``"5%"``) is converted to the field's.

    Raises:
        ConfigError: There is no such field; similar ones are named.
    """
    keys = path_keys(path)
    _check(path, keys)
    if isinstance(value, str) and value in _BACK and keys[0] != "layers":  # there it is a value
        value = None
    if isinstance(value, str):
        quantity = _quantity(values, keys)
        number = None if quantity is None else quantity.read(value)
        value = value if number is None else number
    table = values
    for key in keys[:-1]:
        table = table.setdefault(key, {})
    if value is None:
        table.pop(keys[-1], None)
    else:
        table[keys[-1]] = json.loads(json.dumps(value))


def apply_overrides(config: Config, changes: Mapping[str, object]) -> Config:
    """A configuration with some fields changed, validated as a whole.

    Fields that are open in ``config`` and not changed stay open: samples may yet set them.

    Raises:
        ConfigError: A path is unknown or a value is not allowed.
    """
    values = config.to_dict(said=True)
    for path, value in changes.items():
        set_field(values, path, value)
    return Config.from_dict(values)
