"""From images to the input values of a circuit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from imac_torch.datasets.torchvision_compat import import_torchvision
from imac_torch.errors import DataError

__all__ = ["Encode"]


@dataclass(frozen=True)
class Encode:
    """Image → input values of a circuit in [-1, 1], which the circuit scales to ±vdd.

    Accepts a PIL image, an integer tensor in [0, 255], or a floating tensor in [0, 1].

    Attributes:
        size: Height and width to resize to (bilinear, with antialiasing); None leaves it.
        binarise: Whether to reduce every value to -1 or +1, as IMAC-Sim does with its inputs.
            The value 0 becomes +1; IMAC-Sim's sign would leave it 0.
        threshold: The scaled value, in (-1, 1), from which on a binarised input is +1.
        dtype: Floating dtype of the result.

    Example:
        >>> import torch
        >>> Encode(binarise=True)(torch.tensor([[[0, 255], [127, 128]]], dtype=torch.uint8))
        tensor([[[-1.,  1.],
                 [-1.,  1.]]])
    """

    size: tuple[int, int] | None = None
    binarise: bool = False
    threshold: float = 0.0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        """Check every field."""
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise DataError(f"size must be a height and a width of at least 1, got {self.size}")
        if not -1.0 < self.threshold < 1.0:
            raise DataError(f"threshold must lie between -1 and 1, got {self.threshold}")
        if not self.dtype.is_floating_point:
            raise DataError(f"dtype must be a floating one, got {self.dtype}")

    def __call__(self, image: Any) -> Tensor:
        """Encode one image.

        Args:
            image: A PIL image, or a tensor of shape (..., H, W).

        Returns:
            Tensor of shape (..., H, W), or (channels, H, W) for a PIL image; no unit.

        Raises:
            DataError: The image holds NaN or values outside its range.
        """
        if not isinstance(image, Tensor):
            image = import_torchvision().transforms.functional.pil_to_tensor(image)
        if not image.numel():
            raise DataError(f"image without pixels, of shape {tuple(image.shape)}")
        top = 1.0 if image.is_floating_point() else 255.0
        low, high = float(image.min()), float(image.max())
        if not 0.0 <= low <= high <= top:  # false for NaN as well
            raise DataError(
                f"image values span [{low}, {high}], expected [0, {top:g}] for {image.dtype}"
            )
        value: Tensor = image.to(self.dtype) / top
        if self.size is not None:
            resize = import_torchvision().transforms.functional.resize
            value = cast(Tensor, resize(value, list(self.size), antialias=True))
        value = 2.0 * value - 1.0
        if self.binarise:
            value = torch.where(value >= self.threshold, 1.0, -1.0).to(self.dtype)
        return value
