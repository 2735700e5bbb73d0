"""From a trained model to a network of analog layers: plan, convert, calibrate, ablate, store."""

from imac_torch.conversion.convert import (
    Fitting,
    convert,
    unread,
)
from imac_torch.conversion.layers import Source, register_layer
from imac_torch.conversion.software import to_software

__all__ = [
    "Fitting",
    "Source",
    "convert",
    "register_layer",
    "to_software",
    "unread",
]
