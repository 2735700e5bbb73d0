"""What all sections of the configuration have in common: frozen, checked, no other fields."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from typing_extensions import Self

from imac_torch.errors import ConfigError

__all__ = ["FrozenDict", "Section"]


class Section(BaseModel):
    """A frozen section of the configuration that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)

    # Positional-only, so that a file with a field called "self" gets the error of any unknown one.
    def __init__(self, /, **values: Any) -> None:  # noqa: ANN401 - pydantic's own signature
        """Validate the fields.

        Raises:
            ConfigError: A field is unknown, missing, of the wrong type or out of range.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _config_error(type(self).__name__, error) from None

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: object, info: ValidationInfo) -> object:
        """True is 1 to Python, but no resistance and no number of rows."""
        fields = cls.model_fields
        if isinstance(value, bool) and fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"{value} is not a value for this field")
        return value

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401 - one type per field
        """A copy with some fields changed, validated again.

        Raises:
            ConfigError: A field is unknown or a value is not allowed.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**values, **changes})


def _config_error(section: str, error: ValidationError) -> ConfigError:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        place = f"{path}: " if path else ""
        reason = item.get("ctx", {}).get("error")
        if isinstance(reason, ValueError):  # a check of ours, which says what it got
            lines.append(f"{place}{reason}")
        else:
            lines.append(f"{place}{item['msg']} (got {item['input']!r})")
    return ConfigError(f"invalid {section}: " + "; ".join(lines))


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
