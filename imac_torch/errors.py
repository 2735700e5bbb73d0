"""Every error and warning of the package; each message says what, where and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

LONGEST: Final = 4000
"""Characters of a message; the values quoted in one may be as long as a file."""


class ImacError(Exception):
    """Base class of all errors raised by ``imac_torch``.

    Attributes:
        report: Of :func:`imac_torch.evaluate`, where it stopped midway: the
            :class:`imac_torch.Report` of the samples that were finished. None otherwise.
    """

    report: Any = None

    def __str__(self) -> str:
        """The message, without its middle where nobody could read it."""
        text = super().__str__()
        if len(text) <= LONGEST:
            return text
        half = LONGEST // 2
        return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"


class ConfigError(ImacError, ValueError):
    """A configuration value is missing, of the wrong type, or physically impossible."""


class ConversionError(ImacError, ValueError):
    """A PyTorch model cannot be turned into circuits; the message carries the module path."""


class ImacWarning(UserWarning):
    """Base class of all warnings given by ``imac_torch``."""


class ConversionWarning(ImacWarning):
    """A conversion that works but will cost accuracy; the message says how to avoid that."""


class SettingWarning(ImacWarning):
    """A setting that does not do what it seems to; the message says what would make it."""


class SamplingWarning(ImacWarning):
    """Outputs are sampled before they have settled; the message says what that costs."""


class NeuronWarning(ImacWarning):
    """A sub-circuit in netlists stands for a neuron that the native engine solves differently."""


class AmplifierWarning(ImacWarning):
    """A sub-circuit in netlists stands for a read-out that the native engine solves differently."""


class FileWarning(ImacWarning):
    """A file that was read names other files, which are not read unless that is asked for."""


class MeasureWarning(ImacWarning):
    """A simulator did not make some measures of a netlist; the message says what to do."""


class MappingError(ConversionError):
    """Weights cannot be mapped to memristor conductances."""


class CircuitError(ImacError, ValueError):
    """A circuit is malformed: shapes do not chain, or element values are not physical."""


class DataError(ImacError, ValueError):
    """Input data (files, loaders, labels) are malformed; file and line are named."""


class ModelCardError(DataError):
    """A SPICE model card is malformed or asks for something that is not implemented."""


class NetlistError(ImacError, ValueError):
    """A netlist cannot be written or read back."""


class SolverError(ImacError, RuntimeError):
    """The native solver was asked for something it cannot do, or failed on every sample."""


class SolverMemoryError(SolverError):
    """Work would take more memory than is free; it was not begun.

    Attributes:
        needed: Bytes, estimated.
        free: Bytes.
    """

    def __init__(self, message: str, *, needed: int, free: int) -> None:
        """Store the message together with both numbers."""
        super().__init__(message)
        self.needed = needed
        self.free = free


class SimulatorError(ImacError, RuntimeError):
    """An external simulator failed.

    Attributes:
        directory: Run directory with the netlist and every log, kept for inspection.
        stdout: What the simulator printed, or an empty string.
        stderr: What the simulator printed as errors, or an empty string.
    """

    def __init__(
        self,
        message: str,
        *,
        directory: Path | None = None,
        stdout: str = "",
        stderr: str = "",
    ) -> None:
        """Store the message together with everything needed to look into the failure."""
        super().__init__(message)
        self.directory = directory
        self.stdout = stdout
        self.stderr = stderr


class SimulatorNotFoundError(SimulatorError):
    """The simulator's executable was not found."""


class SimulatorTimeoutError(SimulatorError):
    """The simulator did not finish in the time allowed."""


class SimulatorLicenceError(SimulatorError):
    """The simulator could not check out a licence."""


class SimulatorConvergenceError(SimulatorError):
    """The simulator did not converge."""


class MeasureError(SimulatorError):
    """A measure is missing from the simulator's results or was reported as failed."""
