"""Functions of two voltages as ngspice has them: bicubic splines made of its bilinear tables."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from imac_torch.periphery.neuron.spline import coefficients_of_values

__all__ = ["axis", "spline_lines", "table_lines"]


def axis(low: float, high: float, step: float) -> Tensor:
    """Nodes (V), as far apart as asked or a little less."""
    count = 1 + round((high - low) / step + 0.49)
    return torch.linspace(low, high, count, dtype=torch.float64, device="cpu")


def table_lines(
    name: str, label: str, ends: str, axes: tuple[Tensor, Tensor], values: Tensor
) -> tuple[list[str], Mapping[str, str]]:
    """A table for ngspice, which interpolates it bilinearly (XSPICE's ``table2d``).

    Args:
        name: Of the model and of the file.
        label: Of the element.
        ends: Nodes of both voltages, then what it drives.
        axes: (P,) and (Q,) V.
        values: (P, Q).

    Returns:
        Lines, and files by name.
    """
    rows = [" ".join(map(repr, row)) for row in (*(x.tolist() for x in axes), *values.T.tolist())]
    head = ["* voltages along both axes, values", *(str(len(x)) for x in axes)]
    text = "\n".join([*head, *rows, ""])
    lines = [
        f"A{label} {ends} {name}",
        f'.model {name} table2d (offset=0 gain=1 order=3 file="../circuit/{name}.tbl")',
    ]
    return lines, {f"{name}.tbl": text}


def spline_lines(
    name: str, places: tuple[str, str], values: Tensor
) -> tuple[list[str], Mapping[str, str], str]:
    """The bicubic spline through a table, with the ends of :class:`SplineTable`.

    With t the part of an interval of width h, a cubic spline is the straight line between both
    nodes and::

        -t·(1 - t)/2·h²·f''((1 + t)/3)

    with the straight line between its second derivatives at the nodes, that many intervals behind
    the first. So a bicubic one is made of four tables that are interpolated bilinearly: of the
    function, its second derivatives along both axes, and those of these.

    Args:
        name: Begins names of models and files.
        places: Expressions of ngspice, where it is asked for: 0 and 1 are the first two nodes.
        values: (P, Q), at the nodes.

    Returns:
        Lines of a sub-circuit, files by name, and the expression of its value.
    """
    by_first, by_second = (_second_differences(count) for count in values.shape)
    tables = {
        "n n": values, "t n": by_first @ values, "n t": values @ by_second.T,
        "t t": by_first @ values @ by_second.T,
    }  # fmt: skip
    lines, parts = [], []
    for at, place in zip("xy", places, strict=True):
        lines.append(f"B{at}n {at}n 0 v={place}")
        lines.append(f"B{at}t {at}t 0 v=(2*floor(v({at}n))+1+v({at}n))/3")
        part = f"(v({at}n)-floor(v({at}n)))"
        parts.append(f"(-0.5*{part}*(1-{part}))")
    axes = tuple(torch.arange(float(count), device="cpu") for count in values.shape)
    files: dict[str, str] = {}
    for number, (which, table) in enumerate(tables.items()):
        first, second = which.split()
        more, held = table_lines(
            f"{name}_{number}", f"s{number}", f"x{first} y{second} %v(s{number})",
            (axes[0], axes[1]), table,
        )  # fmt: skip
        lines += more
        files.update(held)
    along = f"(v(s0)+{parts[0]}*v(s1))", f"(v(s2)+{parts[0]}*v(s3))"
    return lines, files, f"({along[0]}+{parts[1]}*{along[1]})"


def _second_differences(count: int) -> Tensor:
    """(P, P): from values to the second derivative of their spline, node distances being 1."""
    coefficients = coefficients_of_values(count)
    return coefficients[:-2] - 2.0 * coefficients[1:-1] + coefficients[2:]
