"""Where Newton's method starts: neurons tabulated over what drives them, and their load."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.dc.load import Load
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.neuron.spline import SplineTable
from imac_torch.periphery.neuron.tabulated import TableCore

START_NODES: Final = 1025
"""Nodes of the table that iterations in torch start from."""
MANY: Final = 2**16
"""Neurons from which on a batch is worth the finer table."""
FEW_NODES: Final = (129, 17)
"""Nodes over the combined voltage and over what the load pulls to: made in about 2 ms."""
MANY_NODES: Final = (513, 49)
"""The same for many neurons: made in about 40 ms, 0.4 MB, within some 2 µV of the solution."""
UNLOADED_NODES: Final = 5
"""Along an axis that means nothing."""
LIKE: Final = 4
"""Conductances of loads are taken as powers of the LIKE-th root of 2."""
KEPT: Final = 16
"""Tables that a core remembers."""

Nodes: TypeAlias = Callable[[Tensor, Load, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Outputs, gates and whether they converged, (1, B, 1), of combined voltages, a load that draws
other currents from each, and outputs and gates to begin with."""


def span(combined: Tensor, neuron: NeuronCircuit) -> tuple[float, float]:
    """V, between which a batch's table is; see :func:`widened`."""
    smallest, largest = combined.aminmax()
    if not bool(torch.isfinite(largest - smallest)):
        # Samples that are not finite get their status from the iteration.
        finite = combined[torch.isfinite(combined)]
        smallest, largest = finite.aminmax() if len(finite) else (smallest * 0, largest * 0)
    least, most = float(smallest.nan_to_num()), float(largest.nan_to_num())
    return widened(switching(neuron), least, most)


def switching(neuron: NeuronCircuit) -> tuple[float, float] | None:
    """V, between which neurons switch; None: that is not known.

    They switch where their gates are between the bounds of their core, whatever the output.
    """
    low, high, output = neuron.core.start()
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    weight = float(neuron.input_resistance.detach() * neuron.feedback_conductance.detach())
    shift = float(neuron.level_shift.detach())
    first = low * (1.0 + weight) - shift - weight * 2.0 * output
    last = high * (1.0 + weight) - shift
    return (first, last) if math.isfinite(first) and first < last else None


def widened(where: tuple[float, float] | None, least: float, most: float) -> tuple[float, float]:
    """V, between which a table is: where neurons switch, or as many times as it takes.

    Args:
        where: They switch; None: anywhere.
        least: Combined voltage of a batch.
        most: Likewise.
    """
    if where is None:
        return least, most
    first, last = where
    middle, half = (first + last) / 2.0, (last - first) / 2.0
    beyond = max(most - middle, middle - least)
    while half < beyond:
        half *= 1.5
    return (middle - half, middle + half) if math.isfinite(2.0 * half) else (least, most)


def blind(combined: Tensor, neuron: NeuronCircuit) -> tuple[Tensor, Tensor]:
    """Outputs and gates where nothing is known of the core but where it switches."""
    low, high, output = neuron.core.start()
    share = neuron.input_resistance.detach() * neuron.feedback_conductance.detach()
    outputs = torch.full_like(combined, output)
    gates = (combined + neuron.level_shift.detach() + share * outputs) / (1.0 + share)
    return outputs, gates.clamp(low, high)


@dataclass(frozen=True)
class StartTable:
    """Neuron voltages by combined amplifier voltage, for a typical load.

    Attributes:
        columns: (P, 2): output and gate, V.
        low: V, first node.
        step: V, node distance.
    """

    columns: Tensor
    low: float
    step: float

    @classmethod
    def of(
        cls,
        combined: Tensor,
        neuron: NeuronCircuit,
        load: Load | None,
        solve: Callable[[Tensor, Load | None, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> StartTable:
        """Tabulated once for all batches of like range; the neuron remembers the last one.

        Args:
            combined: (S, B, M) V.
            neuron: Of the layer.
            load: What it drives.
            solve: Outputs and gates (1, P, 1) of combined voltages with a typical load, from
                others.
        """
        first, last = span(combined, neuron)
        for known, where, table in neuron.starts:
            if known is load and where == (first, last):
                found: StartTable = table
                return found
        step = max((last - first) / (START_NODES - 1), 1e-6)
        index = torch.arange(START_NODES, dtype=combined.dtype, device=combined.device)
        grid = (first + step * index)[None, :, None]
        begin = blind(grid, neuron)
        typical = None if load is None else load.typical(neuron.core.start()[2])
        columns = _usable(torch.stack(solve(grid, typical, *begin), -1), torch.stack(begin, -1))
        made = cls(columns.reshape(-1, 2).contiguous(), first, step)
        neuron.starts[:] = [(load, (first, last), made)]
        return made

    def interpolate(self, combined: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and gates, linear between nodes."""
        scaled = (combined - self.low) / self.step
        index = scaled.floor().clamp(0, len(self.columns) - 2)
        part = (scaled - index)[..., None]
        where = index.nan_to_num(0.0).to(torch.int64)
        value = self.columns[where] * (1 - part) + self.columns[where + 1] * part
        return value[..., 0].contiguous(), value[..., 1].contiguous()


@dataclass(frozen=True)
class Near:
    """Output and gate over the combined voltage and what the load pulls to, for one conductance.

    Whatever a load is, at a point it acts on one neuron as this conductance towards some voltage.
    So on this table, which is smooth, Newton's method for coupled neurons comes within
    microvolts; one step with the core itself does the rest.

    Attributes:
        table: Coefficients of both, interleaved, for the compiled kernel.
        shape: Of coefficients along both axes.
        axes: (8,): the grid, the conductance, S, and a voltage that loads pull to.
        usual: (Q,) mean output at every voltage that the load may pull to, V.
    """

    table: NDArray[np.float64]
    shape: tuple[int, int]
    axes: NDArray[np.float64]
    usual: NDArray[np.float64]

    @cached_property
    def lines(self) -> dict[int, NDArray[np.float64]]:
        """Outputs at one voltage, by its node; see :meth:`arguments`."""
        return {}

    def arguments(self, load: Load | None) -> tuple[Any, ...]:
        """As the compiled kernel takes them: ``start`` to ``start_line``."""
        if load is None:
            return self.table, self.shape, self.axes, np.empty(0)
        # Where a load of outputs that are usual there pulls to.
        slope, constant = load.together
        voltages = self.axes[3] + np.arange(len(self.usual)) / self.axes[5]
        pulled = self.usual - (slope * self.usual + constant) / self.axes[6]
        node = int(np.abs(pulled - voltages).argmin())
        if node not in self.lines:
            self.lines[node] = self._line(float(voltages[node]))
        return self.table, self.shape, np.append(self.axes[:7], voltages[node]), self.lines[node]

    def _line(self, towards: float) -> NDArray[np.float64]:
        """(P, 2) outputs where the load pulls to one voltage, and how they rise; row-major."""
        table = SplineTable(
            torch.from_numpy(self.table.reshape(*self.shape, 2)),
            (float(self.axes[0]), float(self.axes[3])),
            (float(1.0 / self.axes[2]), float(1.0 / self.axes[5])),
        )
        count = self.shape[0] - 2
        combined = table.start[0] + table.step[0] * torch.arange(count, device="cpu").double()
        found = table(combined, torch.full_like(combined, towards))
        return torch.stack([found.value[..., 0], found.by_second[..., 0]], -1).reshape(-1).numpy()

    @classmethod
    def of(
        cls, combined: Tensor, neuron: NeuronCircuit, load: Load | None, solve: Nodes
    ) -> Near:
        """Tabulated once for all like batches, loads and circuits; the core remembers it."""
        core = neuron.core
        assert isinstance(core, TableCore)  # noqa: S101 - others are not compiled
        count, towards = MANY_NODES if combined.numel() >= MANY else FEW_NODES
        if load is None:
            conductance, towards = 0.0, UNLOADED_NODES
        else:
            conductance = load.mean_conductance
            exponent = round(LIKE * math.log2(conductance)) if conductance > 0.0 else -LIKE * 30
            conductance = 2.0 ** (exponent / LIKE)
        first, last = span(combined, neuron)
        last = max(last, first + 1e-6 * count)
        circuit = tuple(float(f"{value:.6g}") for value in neuron.newton_circuit)
        key = (circuit, conductance, first, last, count, towards)
        known: Near | None = core.near.get(key)
        if known is None:
            known = cls._made(neuron, core, conductance, (first, last), (count, towards), solve)
            if len(core.near) >= KEPT:
                core.near.pop(next(iter(core.near)), None)
            core.near[key] = known
        return known

    @classmethod
    def _made(
        cls,
        neuron: NeuronCircuit,
        core: TableCore,
        conductance: float,
        between: tuple[float, float],
        nodes: tuple[int, int],
        solve: Nodes,
    ) -> Near:
        """Solve the nodes."""
        low, high = core.table.start[1], core.table.end[1]
        combined = torch.linspace(*between, nodes[0], dtype=torch.float64, device="cpu")
        towards = torch.linspace(low, high, nodes[1], dtype=torch.float64, device="cpu")
        grid = combined[:, None].expand(nodes).reshape(1, -1, 1)
        pulled = towards.expand(nodes).reshape(1, -1, 1)
        begin = blind(grid, neuron)
        outputs, gates, good = solve(grid, Load.towards(conductance, pulled), *begin)
        found = torch.where(good[..., None, None], torch.stack([outputs, gates], -1), torch.nan)
        values = _usable(found, torch.stack(begin, -1)).reshape(*nodes, 2)
        shifted = combined + neuron.level_shift.detach()
        table = SplineTable.fit(shifted, towards, values)
        middle = core.start()[2]
        return cls(
            table.coefficients.numpy().reshape(-1),
            (nodes[0] + 2, nodes[1] + 2),
            np.append(table.grid(), [conductance, middle]),
            values[..., 0].mean(0).numpy(),
        )


def _usable(found: Tensor, otherwise: Tensor) -> Tensor:
    """(1, P, 1, 2) voltages where both are numbers, and others where not."""
    return torch.where(torch.isfinite(found).all(dim=-1, keepdim=True), found, otherwise)
