"""The state of the network at one time."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

import torch
from torch import Tensor

from imac_torch.errors import SolverError
from imac_torch.transient.lines import LineState
from imac_torch.transient.neuronstage import StageSystem

Held = TypeVar("Held")


class NeuronState(NamedTuple):
    """A layer's neurons at one time, (B, M) each: V, C, A.

    ``combined`` is what read-outs combine to, behind their poles, ``lag`` the voltages behind each
    pole, in V, and their rates, in V/s: see :class:`imac_torch.transient.slow.SlowOutputs`.
    """

    gates: Tensor
    outputs: Tensor
    gate_charge: Tensor
    output_charge: Tensor
    supply_charge: Tensor
    gate_rate: Tensor
    output_rate: Tensor
    supply_rate: Tensor
    gate_current: Tensor
    supply_current: Tensor
    combined: Tensor
    lag: Tensor
    lag_rate: Tensor


class StageState(NamedTuple):
    """All layers at the end of a stage of a step.

    Attributes:
        neurons: Of every layer.
        lines: Of the crossbars from the second layer on; None for the first.
        systems: The last Newton systems.
        sigma: 1/s, of the stage.
    """

    neurons: list[NeuronState]
    lines: list[LineState | None]
    systems: list[StageSystem]
    sigma: float


RATES: Final = {
    "gate_charge": "gate_rate",
    "output_charge": "output_rate",
    "supply_charge": "supply_rate",
    "lag": "lag_rate",
}
"""Where the derivative of a quantity with a history is."""


def present(state: Held | None) -> Held:
    """What a layer must have.

    Raises:
        SolverError: There is none.
    """
    if state is None:
        raise SolverError("a layer has no such state")
    return state


def with_bias(voltages: Tensor, vdd: float) -> Tensor:
    """(B, N) V → (B, N+1) V, the bias line last."""
    return torch.nn.functional.pad(voltages, (0, 1), value=vdd)
