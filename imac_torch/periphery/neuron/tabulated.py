"""Currents and charges of a neuron tabulated on its gate and output voltage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.finfet.kept import kept
from imac_torch.kernels.ahead import ready
from imac_torch.kernels.compiled import obstacle
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.neuron.core import ChargeValues, Core, CoreCurrents, CoreValues
from imac_torch.periphery.neuron.spline import EVALUATING, SplineTable

TABLE_NODES = (257, 321)
"""Nodes of the gate and output axis: 9 and 3 mV apart at 0.8 V.

The output needs more: the currents bend where a transistor leaves saturation. Neurons' outputs
are within 0.1 µV of the model's, 4 nV rms.
"""
GATE_SCALE = 1e-9
"""A. Gate currents span 26 decades; the table holds asinh(current/scale)."""
SUPPLY_SCALE = 1e-4
"""A. Likewise for the supply current, which tunnelling enters too."""
CHARGE_SCALE: Final = 1e-15
"""C. Tables hold charges in fC, to keep their numbers of the order of one."""


@dataclass(frozen=True)
class TableCore:
    """A core tabulated on gate and output voltage.

    The table holds the output current and, because tunnelling is exponential,
    asinh(current/scale) of the gate and supply currents.

    Attributes:
        table: Three functions.
        starts: Bounds of the gate and the output voltage that Newton's method starts from.
        gate_scale: A.
        supply_scale: A.
    """

    table: SplineTable
    starts: tuple[float, float, float]
    gate_scale: float
    supply_scale: float

    @cached_property
    def newton_table(self) -> NDArray[np.float64]:
        """Coefficients of output and gate current, interleaved, for the compiled kernel."""
        return self.table.coefficients[..., :2].contiguous().numpy().reshape(-1)

    @cached_property
    def near(self) -> dict[object, Any]:
        """What :mod:`imac_torch.dc.starts` remembers: tables of starts by what they depend on."""
        return {}

    @cached_property
    def _rest_table(self) -> NDArray[np.float64]:
        """The same of gate and supply current."""
        return self.table.coefficients[..., 1:].contiguous().numpy().reshape(-1)

    @cached_property
    def newton_grid(self) -> NDArray[np.float64]:
        """(7,): the table's grid and the scale of gate currents, for the same."""
        return np.append(self.table.grid(), self.gate_scale)

    @classmethod
    def of(
        cls,
        core: Core,
        gate_range: tuple[float, float],
        output_range: tuple[float, float],
        *,
        nodes: tuple[int, int] = TABLE_NODES,
        gate_scale: float = GATE_SCALE,
        supply_scale: float = SUPPLY_SCALE,
        key: object = None,
    ) -> TableCore:
        """Tabulate another core.

        Args:
            core: Of float64 on the CPU.
            gate_range: V, first and last node.
            output_range: V.
            nodes: Of both axes.
            gate_scale: A.
            supply_scale: A.
            key: What the core depends on: its values are kept on disk
                (:func:`imac_torch.finfet.kept.kept`); None: they are computed.
        """
        with lasting():
            gate = torch.linspace(*gate_range, nodes[0], dtype=torch.float64, device="cpu")
            output = torch.linspace(*output_range, nodes[1], dtype=torch.float64, device="cpu")

            def compute() -> Tensor:
                values = core.values(*torch.meshgrid(gate, output, indexing="ij"))
                parts = [
                    values.output,
                    torch.asinh(values.gate / gate_scale),
                    torch.asinh(values.supply / supply_scale),
                ]
                return torch.stack(parts, dim=-1)

            asked = (key, gate_range, output_range, nodes, gate_scale, supply_scale)
            functions = compute() if key is None else kept("core", asked, compute)
            table = SplineTable.fit(gate, output, functions)
            return cls(table, core.start(), gate_scale, supply_scale)

    def values(self, gate: Tensor, output: Tensor) -> CoreValues:
        """See :class:`Core`."""
        if torch.is_grad_enabled() and (gate.requires_grad or output.requires_grad):
            value = self.table.differentiable(gate, output).value
        else:
            value = self.table.values(gate, output)
        current, tunnel, supply = value.unbind(-1)
        return CoreValues(
            current,
            self.gate_scale * torch.sinh(tunnel),
            self.supply_scale * torch.sinh(supply),
        )

    def at_rest(
        self, gate: Tensor, output: Tensor, feedback: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`imac_torch.periphery.neuron.core.Resting`; compiled on the CPU."""
        inputs = gate, output, feedback
        tracked = torch.is_grad_enabled() and any(item.requires_grad for item in inputs)
        compiled = not tracked and gate.device.type == "cpu" and obstacle() is None
        if not (compiled and ready("supply.supply_tiles", gate.numel() * EVALUATING)):
            found = self.values(gate, output)
            return found.gate + (gate - output) * feedback, found.supply
        from imac_torch.kernels.newton import tile_count
        from imac_torch.kernels.supply import supply_tiles
        from imac_torch.kernels.threads import run_blocks

        drawn, supply = (gate.new_empty(gate.shape) for _ in range(2))
        run_blocks(
            supply_tiles,
            tile_count(1, gate.numel(), 1),
            torch.get_num_threads(),
            *(item.detach().reshape(-1).contiguous().numpy() for item in (gate, output)),
            self._rest_table,
            tuple(self.table.coefficients.shape[:2]),
            np.append(self.newton_grid, self.supply_scale),
            float(feedback.detach().numpy()),  # a number that is there is not read
            *(item.reshape(-1).numpy() for item in (drawn, supply)),
        )
        return drawn, supply

    def currents(self, gate: Tensor, output: Tensor) -> CoreCurrents:
        """See :class:`Core`."""
        value, by_gate, by_output = self.table(gate.detach(), output.detach())
        slope = self.gate_scale * torch.cosh(value[..., 1])
        return CoreCurrents(
            value[..., 0],
            self.gate_scale * torch.sinh(value[..., 1]),
            by_gate[..., 0],
            by_output[..., 0],
            slope * by_gate[..., 1],
            slope * by_output[..., 1],
        )

    def start(self) -> tuple[float, float, float]:
        """See :class:`Core`."""
        return self.starts

    def inside(self, gate: Tensor, output: Tensor) -> Tensor:
        """See :class:`Core`."""
        return self.table.inside(gate, output)

    def to(self, device: torch.device) -> TableCore:
        """The same on a device; None: the CPU."""
        if device.type == "cpu":
            return self
        return replace(self, table=self.table.to(device))


@dataclass(frozen=True)
class TableCharges:
    """Charges of transistors tabulated on gate and output voltage, in fC.

    Attributes:
        table: Three functions: gate, output, supply.
    """

    table: SplineTable

    def values(self, gate: Tensor, output: Tensor) -> ChargeValues:
        """See :class:`imac_torch.periphery.neuron.core.Charges`."""
        value, by_gate, by_output = self.table(gate, output)
        return ChargeValues(
            CHARGE_SCALE * value[..., 0],
            CHARGE_SCALE * value[..., 1],
            CHARGE_SCALE * value[..., 2],
            CHARGE_SCALE * by_gate[..., 0],
            CHARGE_SCALE * by_output[..., 0],
            CHARGE_SCALE * by_gate[..., 1],
            CHARGE_SCALE * by_output[..., 1],
        )

    def to(self, device: torch.device) -> TableCharges:
        """The same on a device; None: the CPU."""
        if device.type == "cpu":
            return self
        return TableCharges(self.table.to(device))
