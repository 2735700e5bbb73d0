"""Transfer curve of an unloaded neuron, and the two numbers that mapping needs of it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from imac_torch.dc.newton import NewtonOptions, solve_loaded
from imac_torch.errors import SolverError
from imac_torch.numeric.modes import differentiating, lasting
from imac_torch.periphery.activations import Bounded
from imac_torch.periphery.neuron.base import NeuronKind, NeuronSpec
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.neuron.core import Core
from imac_torch.results.solution import Status


def sweep_neuron(
    spec: NeuronSpec, core: Core, inputs: Tensor
) -> tuple[NeuronCircuit, Tensor, Tensor]:
    """An unloaded neuron over its input.

    Args:
        spec: The neuron.
        core: Its core, exact or a table, perhaps with something at its output.
        inputs: (B,) float64, V at the neuron's input. Differentiable.

    Returns:
        Its circuit, outputs and gates, (B,) V.

    Raises:
        SolverError: Newton's method did not converge for some input.
    """
    neuron = NeuronCircuit.of(spec, core, torch.zeros((), dtype=torch.float64, device="cpu"))
    solved = solve_loaded(inputs[None, :, None], neuron, None, NewtonOptions())
    failed = solved.status[0] != int(Status.CONVERGED)
    if bool(failed.any()):
        worst = float(inputs[failed][0])
        raise SolverError(f"the {spec.kind} neuron did not converge at {worst} V")
    return neuron, solved.outputs[0, :, 0], solved.gates[0, :, 0]


def transfer_curve(spec: NeuronSpec, inputs: Tensor) -> Tensor:
    """(B,) V, of an unloaded neuron as the native engine has it; see :func:`sweep_neuron`."""
    return sweep_neuron(spec, spec.model.tabulated_core(spec), inputs)[1]


def threshold_and_slope(spec: NeuronSpec) -> tuple[float, float]:
    """z0 (V) and k (1/V): around its middle the neuron is vdd·sigmoid(k·(z - z0)).

    For other activations f it is vdd·f(k·(z - z0)); where f has no range of its own, k is 1/vdd.
    Inverting neurons have a negative k.

    Raises:
        SolverError: The neuron never crosses the middle of its range.
    """
    line = spec.model.line(spec)
    return _measured(spec, spec.model) if line is None else line


def range_of(kind: NeuronKind) -> Bounded:
    """The activation of a kind whose threshold and slope are found from its curve.

    Raises:
        SolverError: It has no range whose middle could be looked for.
    """
    function = kind.activation
    if not isinstance(function, Bounded):
        raise SolverError(
            f"the {kind.name} neuron computes {function.name}, which has no range: its class must "
            "give threshold and slope (NeuronKind.line)"
        )
    return function


@lru_cache(maxsize=64)  # a pure function of a frozen specification and its kind
def _measured(spec: NeuronSpec, kind: NeuronKind) -> tuple[float, float]:
    function = range_of(kind)
    middle = spec.vdd * function.middle
    low, high = kind.input_range(spec)
    ends: tuple[bool, bool] | None = None
    with lasting():
        for _ in range(8):  # bracketing by 33 points: 4 V/32^8 is below rounding
            points = torch.linspace(low, high, 33, dtype=torch.float64, device="cpu")
            above = transfer_curve(spec, points) > middle
            if ends is not None:
                # At a point solved before, rounding must not lose the crossing again.
                above[0], above[-1] = ends
            crossing = torch.nonzero(above[1:] != above[:-1])
            if len(crossing) == 0:
                raise SolverError(
                    f"the {spec.kind} neuron does not cross {middle} V for inputs in "
                    f"[{low:g}, {high:g}] V; its mapping to an activation is undefined"
                )
            index = int(crossing[0])
            low, high = float(points[index]), float(points[index + 1])
            ends = bool(above[index]), bool(above[index + 1])
    with differentiating():
        threshold = torch.tensor(
            [(low + high) / 2], dtype=torch.float64, device="cpu", requires_grad=True
        )
        output = transfer_curve(spec, threshold)
        (slope,) = torch.autograd.grad(output.sum(), threshold)
    # vdd·f(k·z) has slope vdd·k·f′(0) at its middle; of the sigmoid, f′(0) is 1/4.
    centre = torch.tensor(function.middle, dtype=torch.float64, device="cpu")
    return float(threshold.detach()), float(slope) / float(function.derivative(centre, spec.vdd))
