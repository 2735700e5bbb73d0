"""How software inputs become voltages at a circuit's border."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from imac_torch.config import Supplies
from imac_torch.errors import CircuitError, SettingWarning


def reach(inputs: Tensor) -> float:
    """The largest magnitude, in one pass; NaN where one is no number."""
    if inputs.numel() == 0:
        return 0.0
    low, high = (float(x) for x in torch.aminmax(inputs.detach()))
    return max(-low, high)


def relative_inputs(inputs: Tensor, supplies: Supplies, scale: float) -> Tensor:
    """Software inputs relative to full scale.

    Args:
        inputs: (B, N) float64.
        supplies: The kind of coding.
        scale: Software input that is full scale.

    Returns:
        (B, N) in [-1, 1].

    Raises:
        CircuitError: An input is not finite or, with the linear coding, beyond full scale.
    """
    relative = inputs / scale
    largest = reach(relative)  # rounded to the type of the inputs, as what is cut off at full scale
    if not largest < math.inf:
        row = int(torch.nonzero(~torch.isfinite(relative))[0, 0])
        raise CircuitError(f"input {row} of the batch is not finite")
    if supplies.encoding == "sign":
        relative = torch.sign(relative)
    elif largest > 1.0 + 1e-9:
        raise CircuitError(
            f"inputs reach {largest * scale:g}, full scale is {scale:g}: "
            "voltages would leave the supplies. Scale the data, or set supplies.input_scale"
        )
    return relative


def line_voltages(relative: Tensor, supplies: Supplies) -> Tensor:
    """Relative inputs (…) as voltages: 1 is vdd, 0 is 0 V, -1 is vss, linear between."""
    if supplies.vss == -supplies.vdd:
        return relative * supplies.vdd
    return torch.where(relative >= 0, relative * supplies.vdd, -relative * supplies.vss)


def encode(inputs: Tensor, supplies: Supplies, scale: float) -> Tensor:
    """Software inputs (B, N) as V: :func:`line_voltages` of :func:`relative_inputs`."""
    return line_voltages(relative_inputs(inputs, supplies, scale), supplies)


def check_tensor(features: object, where: str) -> None:
    """Refuse what is no tensor of a real type.

    Raises:
        CircuitError: It is something else.
    """
    if not isinstance(features, Tensor):
        raise CircuitError(
            f"{where} takes a tensor, the digital part gives a {type(features).__name__}; wrap "
            "the module that returns it"
        )
    if features.is_complex():
        raise CircuitError(f"{where} takes real inputs, they are {features.dtype}")


def check_features(features: object, inputs: int, where: str) -> None:
    """Refuse what is not (B, N) of a real type.

    Raises:
        CircuitError: It is something else.
    """
    check_tensor(features, where)
    assert isinstance(features, Tensor)  # noqa: S101 - narrows the type
    if features.ndim != 2 or features.shape[1] != inputs:
        raise CircuitError(
            f"{where} takes (B, {inputs}), the digital part gives {tuple(features.shape)}"
        )


class Signs:
    """Whether supplies suit inputs; what is only uneven, or beyond full scale, is said once.

    Copies share whether it was said.
    """

    def __init__(self) -> None:
        self._said = False
        self._beyond = False

    def __deepcopy__(self, memo: dict[int, object]) -> Signs:
        return self

    def check(self, features: Tensor, supplies: Supplies) -> None:
        """Refuse negative inputs that are lost; say where they are smaller or larger.

        Args:
            features: (B, N) software units.
            supplies: Of the circuit.

        Raises:
            CircuitError: There are some, and ``supplies.vss`` is 0.

        Warns:
            SettingWarning: ``supplies.vss`` is not -vdd.
        """
        if supplies.vss == -supplies.vdd or not bool((features < 0).any()):
            return
        what = (
            f"inputs reach {float(features.detach().min()):g}, and with supplies.vss = "
            f"{supplies.vss:g} V, vdd = {supplies.vdd:g} V"
        )
        advice = (
            f"Set supplies.vss = {-supplies.vdd:g}, or give model and circuit inputs from 0 on"
        )
        if supplies.vss == 0.0:
            raise CircuitError(f"{what} all negative inputs would become 0 V. {advice}")
        if not self._said:
            self._said = True
            warnings.warn(
                f"{what} negative inputs have {-supplies.vss / supplies.vdd:.3g} times the voltage "
                f"of positive ones: the circuit does not compute what the model does. {advice}",
                SettingWarning,
                stacklevel=4,
            )

    def saturation(self, features: Tensor, scale: float, where: str) -> None:
        """Say once that inputs are beyond full scale.

        Args:
            features: Software units, any shape.
            scale: Full scale.
            where: What takes them.

        Warns:
            SettingWarning: Some are.
        """
        if self._beyond:
            return
        beyond = features.detach().abs()
        count = int((beyond > scale).sum())
        if count:
            self._beyond = True
            warnings.warn(
                f"{where}: {count} of {features.numel()} inputs are beyond full scale ({scale:.3g})"
                f", up to {float(beyond.max()):.3g}; they become full scale, here "
                "and in runs to come. Convert with samples that reach as far as the data do",
                SettingWarning,
                stacklevel=3,
            )
