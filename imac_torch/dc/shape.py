"""The sigmoid or tanh that an activation circuit's curve comes closest to."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch

from imac_torch.circuit import NeuronSpec
from imac_torch.dc.transfer import threshold_and_slope, transfer_curve

FIT_SPREAD: Final = 2.0
"""Standard deviation of the pre-activations, in units of the activation's argument, over which
curves are compared."""
FIT_POINTS: Final = 401
FIT_STEPS: Final = 30


@lru_cache(maxsize=64)  # a pure function of a frozen specification
def fitted_threshold_and_slope(spec: NeuronSpec) -> tuple[float, float]:
    """z0 (V) and k (1/V) of the closest vdd·sigmoid(k·(z - z0)), least squares.

    The tangent of :func:`imac_torch.dc.transfer.threshold_and_slope` serves small signals; an
    inverter is steeper further out, and a layer's pre-activations are not small. They are taken
    as normal with a standard deviation of :data:`FIT_SPREAD`. Behavioural neurons are exact
    already.
    """
    threshold, slope = threshold_and_slope(spec)
    if spec.kind in {"relu", "identity", "logistic", "tanh"}:
        return threshold, slope
    argument = torch.linspace(-3.0, 3.0, FIT_POINTS, dtype=torch.float64) * FIT_SPREAD
    density = torch.exp(-0.5 * (argument / FIT_SPREAD).square()).sqrt()
    inputs = argument / slope + threshold
    with torch.no_grad():
        curve = transfer_curve(spec, inputs) / spec.vdd
        parameters = torch.tensor([threshold, slope], dtype=torch.float64)
        for _ in range(FIT_STEPS):  # Gauss-Newton; the residual is small, so it converges
            z0, k = parameters.tolist()
            value = torch.sigmoid(k * (inputs - z0))
            steep = value * (1.0 - value)
            jacobian = torch.stack([-k * steep, (inputs - z0) * steep], dim=-1)
            step = torch.linalg.lstsq(
                jacobian * density[:, None], ((curve - value) * density)[:, None]
            ).solution[:, 0]
            parameters = parameters + step
            if float(step.abs().max()) < 1e-12:
                break
    return float(parameters[0]), float(parameters[1])
