"""What all sections of the configuration have in common: frozen, checked, no other fields."""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypeGuard, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from typing_extensions import Self

from imac_torch.config.quantity import Quantity
from imac_torch.errors import ConfigError, SettingWarning

__all__ = ["FrozenDict", "Section", "field_paths", "imac_sim_names", "is_section"]


class Section(BaseModel):
    """A frozen section of the configuration that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)

    # Positional-only, so that a file with a field called "self" gets the error of any unknown one.
    def __init__(self, /, **values: Any) -> None:  # noqa: ANN401 - pydantic's own signature
        """Validate the fields.

        Raises:
            ConfigError: A field is unknown, missing, of the wrong type or out of range.

        Warns:
            SettingWarning: A value looks as if it were in another unit.
        """
        self._build(values, values)

    def _build(self, values: Mapping[str, Any], asked: Iterable[str]) -> None:
        """Validate all values; ask about units of those that are new."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _config_error(type(self), error) from None
        for name in asked:
            for question in self.questions(name):
                warnings.warn(question, SettingWarning, stacklevel=3)

    def questions(self, name: str) -> list[str]:
        """What to ask about a field's value: whether it was meant in another unit."""
        quantity, value = self.quantity(name), getattr(self, name)
        question = None
        if quantity is not None and value is not None:
            question = quantity.question(float(value))
        return [] if question is None else [f"{type(self).__name__}.{name} = {question}"]

    @classmethod
    def quantity(cls, name: str) -> Quantity | None:
        """What a field measures; None for fields that are no physical quantity."""
        info = cls.model_fields.get(name)
        found = (item for item in (info.metadata if info else ()) if isinstance(item, Quantity))
        return next(found, None)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: object, info: ValidationInfo) -> object:
        """True is 1 to Python, but no resistance and no number of rows."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind not in (bool, bool | None):
            raise ValueError(f"{value} is not a value for this field")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _can_be(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what no circuit can have."""
        quantity = cls.quantity(str(info.field_name))
        if quantity is not None and isinstance(value, int | float):
            refusal = quantity.refusal(value)
            if refusal is not None:
                raise ValueError(refusal)
        return value

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401 - one type per field
        """A copy with some fields changed, validated again.

        Raises:
            ConfigError: A field is unknown or a value is not allowed.

        Warns:
            SettingWarning: A new value looks as if it were in another unit.
        """
        return self.replaced(changes, asked=changes)

    def overridden(self, changes: Mapping[str, Any]) -> Self:
        """What a layer's override makes of this section."""
        return self.replaced(changes)

    def replaced(self, changes: Mapping[str, Any], asked: Iterable[str] = ()) -> Self:
        """:meth:`replace` that asks about the units of ``asked`` fields only.

        What was left open (not in ``model_fields_set``) and is not changed stays so.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        made = type(self).__new__(type(self))
        made._build({**values, **changes}, asked)
        said = self.model_fields_set | set(changes)
        object.__setattr__(made, "__pydantic_fields_set__", said)  # made is frozen
        return made


def _config_error(section: type[Section], error: ValidationError) -> ConfigError:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        place = f"{path}: " if path else ""
        reason = item.get("ctx", {}).get("error")
        if isinstance(reason, ValueError):  # a check of ours, which says what it got
            lines.append(f"{place}{reason}")
        else:
            hint = _unit_hint(section, path, item["input"])
            if item["type"] == "extra_forbidden":
                hint = _name_hint(section, path)
            lines.append(f"{place}{item['msg']} (got {item['input']!r}{hint})")
    return ConfigError(f"invalid {section.__name__}: " + "; ".join(lines))


def is_section(kind: object) -> TypeGuard[type[BaseModel]]:
    """Whether the type of a field is a class of fields itself.

    To Python 3.10 ``list[float]`` is a type, which ``issubclass`` refuses.
    """
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel)


def field_paths(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a section and of the sections in it, by dotted path, with its description."""
    for name, info in section.model_fields.items():
        kind = info.annotation
        if is_section(kind):
            yield from field_paths(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info.description or ""


def imac_sim_names(description: str) -> list[str]:
    """Names that a field has in IMAC-Sim's script, as its description says."""
    return re.findall(r"IMAC-Sim: ([A-Za-z_]+)(?=[.,])", f"{description}.")


def _name_hint(section: type[Section], name: str) -> str:
    """The field that a name without one may mean: IMAC-Sim's, in another place, or similar."""
    known = dict(field_paths(section))
    theirs = [path for path, text in known.items() if name in imac_sim_names(text)]
    here = [path for path in known if path.rpartition(".")[2] == name]
    close = difflib.get_close_matches(name, known, n=1)
    if theirs:
        return f"; IMAC-Sim's {name} is {theirs[0]} here"
    return f"; did you mean {' or '.join(here or close)}?" if here or close else ""


def _unit_hint(section: type[Section], field: str, value: object) -> str:
    """What a refused value may have meant, in the field's unit."""
    quantity = section.quantity(field)
    if quantity is None or isinstance(value, bool):
        return ""
    if isinstance(value, int | float):
        # An integer of hundreds of digits is no number of anything, and no float.
        return quantity.meant(value) if abs(value) < sys.float_info.max else ""
    number = quantity.read(value) if isinstance(value, str) else None
    if number is None:
        return "" if quantity.unit == "1" else f"; write a number, in {quantity.unit}"
    return f"; write {number:.12g}" + ("" if quantity.unit == "1" else f" {quantity.unit}")


Key = TypeVar("Key")
Value = TypeVar("Value")


class FrozenDict(dict[Key, Value]):
    """A dict inside a frozen section: as immutable as the section is."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a configuration does not change; make another one with replace(...)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[FrozenDict[Key, Value]], tuple[dict[Key, Value]]]:
        return type(self), (dict(self),)
