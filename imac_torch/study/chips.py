"""Chips: networks with devices of their own, drawn one by one.

Every chip has its own generator, seeded from the run's seed and the chip's number alone: it is the
same whatever it is solved with, and can be had again, singly, for a netlist.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.config import Memristor
from imac_torch.devices.model import CELLS, READ_MULTIPLIER, DeviceModel, DeviceSample, reader
from imac_torch.errors import MappingError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import IMACNetwork
from imac_torch.numeric.modes import lasting

SEED_MULTIPLIER: Final = 0x9E3779B97F4A7C15
"""2⁶⁴/φ (D. E. Knuth, TAOCP vol. 3, 6.4): neighbouring samples get distant seeds."""
RUN_MULTIPLIER: Final = 0xD1342543DE82EF95
"""Multiplier of a good congruential generator modulo 2⁶⁴ (G. L. Steele and S. Vigna, Softw. Pract.
Exper. 52(2), 443-458, 2022, doi:10.1002/spe.3030): neighbouring runs do not share samples."""


@dataclass(frozen=True)
class Chips:
    """What becomes of a network's devices, sample by sample.

    Attributes:
        network: A converted model; with a model, what has become of its devices counts as nominal.
        model: What happens to the devices, of all layers; None: what the configuration of each
            says, its variation and effects, instead of the devices that the network has.
        seed: Of the run.

    Raises:
        MappingError: There is no model, and the configuration says nothing either.
    """

    network: IMACNetwork
    model: DeviceModel | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse samples that would all be the same."""
        if self.model is None and not any(
            layer.matrix.varies for layer in self.network.analog_layers()
        ):
            raise MappingError(
                "the network's configuration says nothing of what happens to devices or amplifiers "
                "(device.variation, device.effects, amplifier.offset_spread): give a model, "
                "MonteCarlo(network, DeviceModel((LogNormal(0.05),)))"
            )

    def generator(self, sample: int, layer: int = -1) -> torch.Generator:
        """The generator of one sample's programming, or of a layer's (from 0) first read."""
        mixed = self.seed * RUN_MULTIPLIER + (sample + 1) * SEED_MULTIPLIER
        return torch.Generator().manual_seed((mixed + (layer + 1) * READ_MULTIPLIER) % 2**63)

    def nominal(self, layer: IMACLinear) -> tuple[ConductancePair, DeviceModel]:
        """What becomes of which conductances."""
        matrix = layer.matrix
        if self.model is None:
            return matrix.nominal_conductances(), DeviceModel.of(layer.config.device)
        return matrix.conductances(), self.model

    @property
    def varies_by_read(self) -> bool:
        """Whether two images see different conductances of the same sample."""
        return any(
            self.nominal(layer)[1].varies_by_cycle for layer in self.network.analog_layers()
        )

    @lasting()
    def drawn(self, sample: int) -> list[DeviceSample]:
        """What becomes of the devices of one sample, by layer."""
        programming, found = self.generator(sample), []
        for index, layer in enumerate(self.network.analog_layers()):
            pair, model = self.nominal(layer)
            begin = programming.get_state()
            model.program(pair, layer.config.device, programming)  # the next layer's come after
            found.append(DeviceSample(model, begin, self.generator(sample, index).get_state()))
        return found

    @lasting()
    def programmed(self, sample: int) -> list[ConductancePair]:
        """(M·L, N+1) S per layer, of one sample as it stays from read to read."""
        return self.programmed_from(self.all_nominal(), sample)

    def all_nominal(self) -> list[tuple[ConductancePair, DeviceModel, Memristor]]:
        """What becomes of which conductances of which device, by layer: of all samples."""
        layers = self.network.analog_layers()
        return [(*self.nominal(layer), layer.config.device) for layer in layers]

    def programmed_from(
        self, nominal: list[tuple[ConductancePair, DeviceModel, Memristor]], sample: int
    ) -> list[ConductancePair]:
        """What :meth:`programmed` gives, from what all samples have in common."""
        generator = self.generator(sample)
        return [model.program(pair, device, generator) for pair, model, device in nominal]

    @lasting()
    def conductances(self, sample: int, read: int = 0) -> list[ConductancePair]:
        """(M·L, N+1) S per layer, of one sample in one read; L slices of an output are neighbours.

        Args:
            sample: Its number.
            read: From 0; image k of a batch is read k.
        """
        return self.read_from(self.programmed(sample), sample, read)

    def read_from(
        self, programmed: list[ConductancePair], sample: int, read: int
    ) -> list[ConductancePair]:
        """What :meth:`conductances` gives, from programmed ones."""
        found = []
        for index, (pair, layer) in enumerate(
            zip(programmed, self.network.analog_layers(), strict=True)
        ):
            first = self.generator(sample, index).get_state()
            model, device = self.nominal(layer)[1], layer.config.device
            found.append(model.read(pair, device, reader(first, read), reader(first, CELLS)))
        return found

    @lasting()
    def offsets(self, sample: int) -> list[Tensor | None]:
        """(M·L, H, n) V of every layer's amplifiers; None: they do not differ.

        With a model of one's own they are the network's, as its devices are.
        """
        layers = list(self.network.analog_layers())
        if self.model is not None:
            return [layer.matrix.offsets for layer in layers]
        return [
            layer.matrix.drawn_offsets(self.generator(sample, len(layers) + index))
            for index, layer in enumerate(layers)
        ]

    @lasting()
    def realise(self, sample: int) -> IMACNetwork:
        """A copy of the network whose devices are those of one sample.

        It computes what the sample does, in every read. A netlist of it is of the first one, that
        of image 0.
        """
        network = copy.deepcopy(self.network)
        self._put(network, sample)
        return network

    def _put(self, network: IMACNetwork, sample: int) -> None:
        """Give a network the devices and amplifiers of a sample."""
        parts = zip(
            network.analog_layers(), self.drawn(sample), self.offsets(sample), strict=True
        )
        for layer, drawn, offsets in parts:
            matrix = layer.matrix
            before = () if self.model is None else matrix.history
            matrix.devices, matrix.sample = (*before, drawn), None
            matrix.offsets = offsets

    @contextmanager
    def realised(self, sample: int) -> Iterator[IMACNetwork]:
        """The network itself with the devices of a sample, for as long as the context is open."""
        matrices = [layer.matrix for layer in self.network.analog_layers()]
        before = [(matrix.devices, matrix.sample, matrix.offsets) for matrix in matrices]
        try:
            self._put(self.network, sample)
            yield self.network
        finally:
            for matrix, (devices, own, offsets) in zip(matrices, before, strict=True):
                matrix.devices, matrix.sample, matrix.offsets = devices, own, offsets
