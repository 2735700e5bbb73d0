"""Estimated errors of one step of the whole network, against which steps are controlled.

Two kinds, because nodes are of two kinds. What holds charge is integrated: its local error is that
of the method. Everything else follows from it (and from the inputs) by the circuit's equations, as
exact as those: there an error comes in through the charges, so that local errors are passed on,
layer by layer, by the linear systems that Newton's method has left behind. And all outputs and
powers have an error between the points of a step, also in a circuit without any charge: how far
they are from the parabola through the three points, by which they are read and integrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.transient.integrator import Points, local_error
from imac_torch.transient.lines import LineError, LineState
from imac_torch.transient.neuronstage import NeuronErrors, StageLoad, propagate
from imac_torch.transient.preparation import DynamicStage
from imac_torch.transient.state import NeuronState, StageState, present

SMALLEST_PART: Final = 0.01
"""Powers below this part of the largest one are as accurate as it, not as themselves."""


class Earlier(NamedTuple):
    """The stage of the step before, if no corner of the inputs lies between.

    Attributes:
        neurons: Of every layer.
        power: (5, B) W, see :class:`imac_torch.transient.power.Powers`.
        length: s, from there to the present.
    """

    neurons: Sequence[NeuronState]
    power: Tensor
    length: float


def end_errors(
    stages: Sequence[DynamicStage],
    loads: Sequence[StageLoad],
    step: float,
    states: tuple[StageState, StageState, StageState],
    drive: LineError | None,
) -> Tensor:
    """(layers, B) V: the largest error of a node at the end of a step, layer by layer.

    Args:
        stages: The layers.
        loads: What their outputs drive in this step.
        step: s.
        states: At the start, the stage and the end.
        drive: Of the first layer's crossbars.
    """
    start, middle, end = states
    following = [drive, *(_line_error(stages, step, states, k) for k in range(1, len(stages)))]
    found = []
    passed = torch.zeros_like(end.neurons[0].gates)
    for k, stage in enumerate(stages):
        own = following[k]
        if own is not None:
            passed = passed + own.combined
        of_charges = {
            name: local_error(
                step, *(getattr(state.neurons[k], f"{name}_rate") for state in (start, middle, end))
            )
            for name in ("gate", "output", "pole")
        }
        worst = torch.zeros_like(passed[:, 0]) if own is None else own.nodes
        if stage.pole is not None:
            lag = end.sigma * of_charges["pole"] + stage.pole * passed
            passed = lag / (end.sigma + stage.pole)
            worst = torch.maximum(worst, passed.abs().amax(-1))
        after = following[k + 1] if k + 1 < len(stages) else None
        errors = NeuronErrors(
            of_charges["gate"],
            of_charges["output"],
            passed,
            None if after is None else after.currents[:, :-1],
        )
        gates, outputs = propagate(stage.neurons, end.systems[k], loads[k], end.sigma, errors)
        for node in (gates, outputs):
            worst = torch.maximum(worst, node.abs().amax(-1))
        found.append(worst)
        if k + 1 < len(stages):
            passed = outputs @ stages[k + 1].lines.matrices(step).transfer[:, :-1].T
    return torch.stack(found)


def _line_error(
    stages: Sequence[DynamicStage],
    step: float,
    states: tuple[StageState, StageState, StageState],
    k: int,
) -> LineError | None:
    lines: list[LineState] = [present(state.lines[k]) for state in states]
    return stages[k].lines.error(step, *lines)


def between_errors(
    step: float, states: tuple[StageState, StageState, StageState], earlier: Earlier | None
) -> Tensor:
    """(layers, B) V: the largest error of an output between the points of a step."""
    found = []
    for k in range(len(states[0].neurons)):
        outputs = [state.neurons[k].outputs for state in states]
        points = Points(
            outputs[0], outputs[1], outputs[2],
            None if earlier is None else earlier.neurons[k].outputs,
            0.0 if earlier is None else earlier.length,
        )  # fmt: skip
        found.append(points.error(step).amax(-1))
    return torch.stack(found)


def power_errors(
    step: float,
    powers: tuple[Tensor, Tensor, Tensor],
    earlier: Earlier | None,
    largest: Tensor,
) -> Tensor:
    """(B,), the largest error of a power between the points, relative to its largest value.

    Args:
        step: s.
        powers: (5, B) W at the three points; NaN where not computed.
        earlier: At the stage before.
        largest: (5, B) W, of every power so far.
    """
    points = Points(
        *powers,
        None if earlier is None else earlier.power,
        0.0 if earlier is None else earlier.length,
    )
    least = SMALLEST_PART * largest[:4].amax(0)  # the amplifiers' are no measure for the others
    scale = torch.maximum(largest, least).clamp(min=torch.finfo(largest.dtype).tiny)
    return (points.error(step) / scale).nan_to_num(nan=0.0).amax(0)
