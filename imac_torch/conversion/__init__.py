"""From a trained model to a network of analog layers: plan, convert, calibrate, ablate, store."""

from imac_torch.conversion.convert import (
    Fitting,
    convert,
    to_software,
    unread,
)

__all__ = [
    "Fitting",
    "convert",
    "to_software",
    "unread",
]
