"""What a kind of positions must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from torch import Tensor

from imac_torch.base.registry import Registry
from imac_torch.errors import ConversionError


@dataclass(frozen=True)
class Positions(ABC):
    """At which places of a model's tensor a matrix is applied, and where its outputs go.

    Letters: R positions of all samples together, G groups, M outputs of all groups, N inputs of
    one group. Group g has outputs g·M/G … (g+1)·M/G - 1 and inputs of its own, so that the matrix
    is (M, N) and the circuit has G·N input lines.

    Attributes:
        groups: G.
    """

    groups: int = 1

    kind: ClassVar[str]
    """Name in files, and in :data:`KINDS`."""

    @abstractmethod
    def inputs(self, x: Tensor) -> int:
        """G·N: inputs that the circuit gets of such a tensor at every position.

        Args:
            x: As the software layer takes it; only its shape counts.

        Raises:
            CircuitError: The layer does not take such tensors.
        """

    @abstractmethod
    def vectors(self, x: Tensor) -> Tensor:
        """(R, G·N): the inputs of the circuit at every position, group after group.

        Raises:
            CircuitError: The layer does not take such tensors.
        """

    @abstractmethod
    def tensor(self, rows: Tensor, x: Tensor) -> Tensor:
        """The layer's output, of its outputs (R, M) at every position.

        Args:
            rows: In the order of :meth:`vectors`.
            x: What they were made of; only its shape counts.
        """

    def lines(self, x: Tensor, numbers: Tensor) -> Tensor:
        """(L, R): what some lines get at every position, those in an order of their own.

        Args:
            x: As :meth:`vectors` takes it.
            numbers: (L,) int64, of G·N lines.
        """
        return self.vectors(x).T.index_select(0, numbers)

    def placed(self, rows: Tensor, x: Tensor) -> Tensor:
        """:meth:`tensor` of outputs in the order of :meth:`lines`."""
        return self.tensor(rows, x)

    @abstractmethod
    def through(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same linear map at all positions, at the price of the software layer.

        ``tensor(vectors(x) @ weightᵀ + bias, x)`` up to rounding, for G = 1.

        Args:
            x: As the software layer takes it.
            weight: (M, N), of the type of ``x``.
            bias: (M,) or None.
        """

    @abstractmethod
    def batched(self, x: Tensor) -> bool:
        """Whether the first dimension of such a tensor counts samples."""

    @abstractmethod
    def count(self, x: Tensor) -> int:
        """Positions of one sample of a batch ``x``: how often the circuit is used for it."""

    def record(self) -> dict[str, Any]:
        """The positions as plain values, for files; :func:`positions_of` reads them."""
        return {"kind": self.kind, **asdict(self)}


KINDS: Final[Registry[type[Positions]]] = Registry(
    "kind of positions",
    {
        "vectors": "imac_torch.model.positions.vectors:Vectors",
        "windows": "imac_torch.model.positions.windows:Windows",
        "stuffed": "imac_torch.model.positions.stuffed:Stuffed",
    },
    instantiate=False,
    error=ConversionError,
)
"""Kinds of positions by name."""


def positions_of(record: object) -> Positions:
    """The positions of a :meth:`Positions.record`.

    Raises:
        ConversionError: It is none.
    """
    if not isinstance(record, Mapping):
        raise ConversionError(f"positions {record!r} are not known: a table is needed")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record.items()
        if name != "kind"
    }
    kind = KINDS.get(str(record.get("kind")))
    try:
        return kind(**values)
    except TypeError as error:
        raise ConversionError(f"positions {dict(record)} are not known: {error}") from None
