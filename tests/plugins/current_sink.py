"""An ideal current sink: both lines end in (nearly) 0 V, o = R·(i+ - i-)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.periphery.readout import ReadOut, register_read_out

SINK = 1e-3  # Ω


@dataclass(frozen=True)
class CurrentSink(ReadOut):
    resistance: Tensor
    kind = "current_sink"

    @classmethod
    def of(cls, config, gain, combination):
        resistance = gain * config.amplifier.input_resistance
        return cls(combination, config.amplifier.pole, torch.tensor(resistance).double())

    @property
    def positive_load(self):
        return torch.full_like(self.resistance, SINK)

    negative_load = positive_load

    @property
    def coupling(self):
        return torch.zeros_like(self.resistance)

    def output(self, positive, negative):
        return self.resistance / SINK * (positive - negative)

    def sources(self, positive, negative):
        output = self.output(positive, negative)
        return ((output, output / self.resistance),)

    subcircuit = "sink"
    subcircuit_text = """.subckt sink plus minus out r=1
Rp plus 0 1m
Rm minus 0 1m
Eout out 0 plus minus '1000*r'
Rf out 0 'r'
.ends sink
"""

    def parameters(self):
        return {"r": float(self.resistance)}

    @property
    def resistance_total(self):
        return float(self.resistance)


register_read_out(CurrentSink)
