"""The sigmoid neuron of two magnetic tunnel junctions and a CMOS inverter.

The circuit is IMAC-Sim's ``spice/neuron.sp``: the input, less a level shift of 0.4 V, goes through
one device to the inverter's gate, and a second device feeds the output back to the gate. Its file
has 8.488 kΩ and 25.465 kΩ, the parallel and antiparallel states of a junction with a tunnelling
magnetoresistance of 200 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

import imac_torch as imac
from imac_torch.config import DEVICES
from imac_torch.reports.plots import loaded_curve
from imac_torch.study.characterization import NeuronCurve, characterize_neuron
from paper_systems.drawing import finish, new_figure, save

__all__ = ["JUNCTION", "curves", "draw_neuron", "figures"]

JUNCTION: Final = (8488.26363157, 25464.7908947)
"""Ω, of IMAC-Sim's neuron.sp."""
LOAD: Final = 32 * (1 / DEVICES["MRAM"][0] + 1 / DEVICES["MRAM"][1])
"""S, of the 32 pairs of MRAM devices that the neuron drives in an array."""
MEAN: Final = 0.4
"""V, where the other ends of these pairs float if half of the neurons are high."""


def curves(points: int) -> dict[str, NeuronCurve]:
    """Transfer curves by name: the junctions of IMAC-Sim, and the devices of the presets."""
    devices = {"SOT-MRAM (neuron.sp)": JUNCTION, **DEVICES}
    return {
        name: characterize_neuron(
            imac.Config(neuron=imac.Neuron(rlow=low, rhigh=high)),
            low=-0.8,
            high=0.8,
            points=points,
            exact=False,  # the native engine's table, 0.1 µV from the transistors
        )
        for name, (low, high) in devices.items()
    }


def figures(curve: NeuronCurve) -> tuple[str, ...]:
    """Threshold, slope, steepest gain, swing, and power from vdd and from the input."""
    found = curve.figures()
    driven = float(((curve.inputs + curve.spec.level_shift) * curve.input_current).mean())
    return (
        f"{1e3 * found['threshold']:.1f}",
        f"{found['slope']:.2f}",
        f"{found['steepest_gain']:.2f}",
        f"{found['output_low']:.3f} … {found['output_high']:.3f}",
        f"{1e6 * found['mean_power']:.1f}",
        f"{1e6 * found['largest_power']:.1f}",
        f"{1e6 * driven:.1f}",
        f"{1e3 * found['sigmoid_rms_error']:.0f}",
    )


def draw_neuron(found: Mapping[str, NeuronCurve], path: Path) -> Path:
    """Transfer curves, the loaded curve of the first, and powers."""
    figure, grid = new_figure(1, 3, (11.5, 3.8))
    left, middle, right = grid[0]
    shades = ("#1f6fb4", "#8db6d9", "#d1602b", "#7a5aa6", "#2b8a5c")
    for colour, (name, curve) in zip(shades, found.items(), strict=True):
        left.plot(curve.inputs, curve.outputs, color=colour, label=name)
        right.plot(curve.inputs, 1e6 * curve.power, color=colour, label=name)
    name, curve = next(iter(found.items()))
    ideal = curve.spec.vdd * torch.sigmoid(curve.slope * (curve.inputs - curve.threshold))
    middle.plot(curve.inputs, curve.outputs, color=shades[0], label="no load")
    middle.plot(curve.inputs, ideal, ":", color="0.4", label="sigmoid of equal slope")
    loaded = loaded_curve(curve.spec, curve.inputs, conductance=LOAD, voltage=MEAN)
    middle.plot(
        curve.inputs, loaded.outputs, color=shades[2], label=f"{1e3 * LOAD:.1f} mS to {MEAN} V"
    )
    finish(left, "neuron input, V", "output, V", "transfer curves by device")
    finish(middle, "neuron input, V", "output, V", name)
    finish(right, "neuron input, V", "power from vdd, µW", "supply power")
    left.legend(frameon=False, fontsize=8)
    middle.legend(frameon=False, fontsize=8)
    return save(figure, path)
