"""What has become of the memory devices of a matrix: draws, and how they are saved."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from imac_torch.config import Config
from imac_torch.devices.effects import Factors
from imac_torch.devices.model import DeviceModel, DeviceSample
from imac_torch.devices.record import from_bytes, name_of, to_bytes
from imac_torch.errors import ConversionError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.numeric.modes import lasting

__all__ = ["Devices"]


class Devices(nn.Module):
    """Pairs of memory devices with their history.

    Attributes:
        config: Of the layer.
        name: For messages.
        devices: What has become of them, one draw after the other.
        sample: What becomes of them in this training step, too (:func:`imac_torch.varied`).
        numbers: In place of those of the configuration, see :func:`imac_torch.devices_at`.
        read: Which read effects of every read are of; None: they are left out.
    """

    def __init__(self, config: Config, name: str) -> None:
        super().__init__()
        self.config, self.name = config, name
        self.devices: tuple[DeviceSample, ...] = ()
        self.sample: DeviceSample | None = None
        self.numbers: Mapping[str, Tensor] = {}
        self.read: int | None = 0

    @abstractmethod
    def nominal_conductances(self) -> ConductancePair:
        """(M·L, N+1) S, as programmed without error."""

    @property
    def history(self) -> tuple[DeviceSample, ...]:
        """Everything that becomes of the devices now."""
        return self.devices if self.sample is None else (*self.devices, self.sample)

    @property
    def varies_by_read(self) -> bool:
        """Whether two reads of the devices differ."""
        return self.read is not None and any(
            sample.model.varies_by_cycle for sample in self.devices
        )

    def conductances(self) -> ConductancePair:
        """(M·L, N+1) S, spread and faults included; differentiable in the weights."""
        pair = self._drawn(self.nominal_conductances(), self.read)
        return pair if self.sample is None else self.sample.of(pair, self.config.device)

    def _drawn(self, pair: ConductancePair, read: int | None) -> ConductancePair:
        for sample in self.devices:
            pair = sample.of(pair, self.config.device, read)
        return pair

    def needs_generator(self, what: str) -> ConversionError:
        """The error of drawing without one."""
        return ConversionError(
            f"{self.name}: {what} a torch.Generator: "
            "convert(..., generator=torch.Generator().manual_seed(0)); commands: --seed 0; "
            "sweeps: seed = [0] in [grid]"
        )

    def draw_devices(self, cells: Tensor, generator: torch.Generator | None) -> None:
        """Take other devices, of the configuration's spreads; they stay.

        Args:
            cells: (M·L, N+1) S, any conductances: a draw depends on their number only.
            generator: Moves on by what is drawn; needed if anything is.

        Raises:
            ConversionError: A generator is needed, and there is none.
        """
        device, model = self.config.device, DeviceModel.of(self.config.device)
        self.devices = ()
        if not model.effects:
            return
        source = torch.Generator() if generator is None else generator
        start = source.get_state()
        model.sample(ConductancePair(cells, cells), device, source)
        if generator is None and not torch.equal(start, source.get_state()):
            if device.variation > 0.0:
                raise self.needs_generator(f"device.variation = {device.variation} needs")
            raise self.needs_generator(f"device.effects ({', '.join(device.effects or {})}) need")
        self.devices = (DeviceSample(model, start),)

    def get_extra_state(self) -> Tensor:
        """What has become of the devices, so that safetensors can hold it.

        Of effects without a registered name it is what they did to each of the present cells.
        """
        known = [name_of(effect) for sample in self.devices for effect in sample.model.effects]
        return to_bytes(self.devices if all(known) else (self._known(),))

    @lasting()
    def _known(self) -> DeviceSample:
        nominal = self.nominal_conductances()
        return DeviceSample.known(Factors.between(nominal, self._drawn(nominal, 0)))

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what :meth:`get_extra_state` stored."""
        self.devices = from_bytes(state)
