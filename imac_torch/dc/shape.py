"""The sigmoid or other activation that an activation circuit's curve comes closest to."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch

from imac_torch.dc.transfer import range_of, threshold_and_slope, transfer_curve
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.neuron.base import NeuronKind, NeuronSpec

FIT_SPREAD: Final = 2.0
"""Standard deviation of the pre-activations, in units of the activation's argument, over which
curves are compared."""
FIT_POINTS: Final = 401
FIT_STEPS: Final = 30


def fitted_threshold_and_slope(spec: NeuronSpec) -> tuple[float, float]:
    """z0 (V) and k (1/V) of the closest vdd·f(k·(z - z0)), least squares; f is the activation.

    The tangent of :func:`imac_torch.dc.transfer.threshold_and_slope` serves small signals; an
    inverter is steeper further out, and a layer's pre-activations are not small. They are taken
    as normal with a standard deviation of :data:`FIT_SPREAD`. Kinds that know their threshold and
    slope are exact already.
    """
    line = spec.model.line(spec)
    return _fitted(spec, spec.model) if line is None else line


@lru_cache(maxsize=64)  # a pure function of a frozen specification and its kind
def _fitted(spec: NeuronSpec, kind: NeuronKind) -> tuple[float, float]:
    function = range_of(kind)
    threshold, slope = threshold_and_slope(spec)
    argument = torch.linspace(-3.0, 3.0, FIT_POINTS, dtype=torch.float64, device="cpu") * FIT_SPREAD
    density = torch.exp(-0.5 * (argument / FIT_SPREAD).square()).sqrt()
    inputs = argument / slope + threshold
    with lasting():
        curve = transfer_curve(spec, inputs) / spec.vdd
        parameters = torch.tensor([threshold, slope], dtype=torch.float64, device="cpu")
        for _ in range(FIT_STEPS):  # Gauss-Newton; the residual is small, so it converges
            z0, k = parameters.tolist()
            value = function(k * (inputs - z0))
            steep = function.derivative(value, 1.0)
            jacobian = torch.stack([-k * steep, (inputs - z0) * steep], dim=-1)
            step = torch.linalg.lstsq(
                jacobian * density[:, None], ((curve - value) * density)[:, None]
            ).solution[:, 0]
            parameters = parameters + step
            if float(step.abs().max()) < 1e-12:
                break
    return float(parameters[0]), float(parameters[1])
