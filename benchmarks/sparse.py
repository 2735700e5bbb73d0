"""Nodal analysis of crossbars, for the sparse solvers of others: SuperLU (scipy), KLU (kvxopt)."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]


def optional(name: str) -> ModuleType | None:
    """A module, if it is installed."""
    before = warnings.filters[:]
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
    finally:
        warnings.filters[:] = before  # badcrossbar turns some on for the whole process


@dataclass(frozen=True)
class Nodal:
    """matrix·voltages = inputs·source voltages for one block.

    Nodes are numbered row by row: input lines (R·K), I+ lines (R·K), I- lines (R·K).

    Attributes:
        matrix: (nodes, nodes) S, sparse by columns.
        inputs: (nodes, K) S, sparse: first node of each input line.
        plus: Last node of each row's I+ line.
        minus: Last node of each row's I- line, none in a single array.
    """

    matrix: scipy.sparse.csc_matrix
    inputs: scipy.sparse.csc_matrix
    plus: NDArray[np.int64]
    minus: NDArray[np.int64]


def nodal(
    positive: Array,
    negative: Array | None,
    input_segment: float,
    output_segment: float,
    positive_load: float,
    negative_load: float = 1.0,
    alpha: float = 0.0,
) -> Nodal:
    """Stamp a block of R rows and K columns; without ``negative`` a single array.

    The I+ end's load is in series with the last segment, so that it may be 0.
    """
    rows, columns = positive.shape
    cell = np.arange(rows * columns).reshape(rows, columns)
    entries: list[tuple[Any, Any, Any]] = []

    def couple(i: Any, j: Any, g: Any) -> None:
        i, j, g = (x.reshape(-1) for x in np.broadcast_arrays(i, j, g))
        entries.extend([(i, i, g), (j, j, g), (i, j, -g), (j, i, -g)])

    couple(cell[1:], cell[:-1], 1.0 / input_segment)
    entries.append((cell[0], cell[0], np.full(columns, 1.0 / input_segment)))
    count = rows * columns
    last = {}
    for side, cells in (("plus", positive), ("minus", negative)):
        if cells is None:
            continue
        line = cell + count
        count += rows * columns
        present = cells > 0
        couple(cell[present], line[present], cells[present])
        couple(line[:, 1:], line[:, :-1], 1.0 / output_segment)
        last[side] = line[:, -1]
    plus = last["plus"]
    load = np.full(rows, 1.0 / (output_segment + positive_load))
    entries.append((plus, plus, load))
    minus = last.get("minus", np.empty(0, dtype=np.int64))
    if len(minus):
        # I- ends in a voltage alpha·(I+ end's), the I+ end being a tap of the last resistor.
        g = np.full(rows, 1.0 / (output_segment + negative_load))
        entries.extend([(minus, minus, g), (minus, plus, -alpha * positive_load * load * g)])
    i, j, g = (np.concatenate(x) for x in zip(*entries, strict=True))
    matrix = scipy.sparse.csc_matrix((g, (i, j)), shape=(count, count))
    inputs = scipy.sparse.csc_matrix(
        (np.full(columns, 1.0 / input_segment), (cell[0], np.arange(columns))),
        shape=(count, columns),
    )
    return Nodal(matrix, inputs, plus, minus)


def superlu(system: Nodal, sources: Array) -> Array:
    """Node voltages (nodes, B) for source voltages (K, B) with scipy's SuperLU.

    Its ordering for patterns that are symmetric leaves two thirds of what COLAMD fills in.
    """
    factors = scipy.sparse.linalg.splu(system.matrix, permc_spec="MMD_AT_PLUS_A")
    return factors.solve(system.inputs @ sources)


class Klu:
    """KLU through kvxopt; the symbolic analysis of a pattern is kept."""

    def __init__(self) -> None:
        self.module = optional("kvxopt")
        self.klu = optional("kvxopt.klu")
        self.symbolic: dict[tuple[int, int], Any] = {}

    def __call__(self, system: Nodal, sources: Array) -> Array:
        """Like :func:`superlu`."""
        if self.module is None or self.klu is None:
            raise RuntimeError("kvxopt is not installed")
        coo = system.matrix.tocoo()
        matrix = self.module.spmatrix(
            self.module.matrix(coo.data),
            self.module.matrix(coo.row.astype(np.int64)),
            self.module.matrix(coo.col.astype(np.int64)),
            coo.shape,
        )
        key = (system.matrix.shape[0], system.matrix.nnz)
        if key not in self.symbolic:
            self.symbolic[key] = self.klu.symbolic(matrix)
        numeric = self.klu.numeric(matrix, self.symbolic[key])
        right = self.module.matrix(np.asfortranarray(system.inputs @ sources))
        self.klu.solve(matrix, self.symbolic[key], numeric, right)
        return np.array(right)
