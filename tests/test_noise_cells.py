"""Noise of curved cells: against ngspice's .noise of their tangents, and against laws."""

from __future__ import annotations

from pathlib import Path

import noise_oracle
import pytest
import torch
from small_networks import drawn, reals
from test_access import coarse  # noqa: F401 - small tables of transistors
from test_cells import ENDS, KINDS

import imac_torch as imac
from imac_torch.base.units import BOLTZMANN
from imac_torch.cells import build_cell
from imac_torch.cells.diode import Diode
from imac_torch.config import Memristor

WIRED = imac.Interconnect(capacitance=True)
NOISY: dict[str, tuple[dict[str, object], imac.Interconnect]] = {
    "mtj": ({**KINDS["mtj"], "capacitance": 5e-16}, WIRED),
    "diode": (KINDS["diode"], imac.Interconnect()),
    "1T1R": ({"access": {"finfet": {"fins": 2}}, "bend": 0.3}, WIRED),
    "fefet": ({"cell": {"fefet": {"specific_current": 1e-6}}}, imac.Interconnect()),
}


@pytest.mark.parametrize("name", NOISY)
def test_spectra_are_those_of_ngspice(
    ngspice: Path, generator: torch.Generator, tmp_path: Path, name: str
) -> None:
    # Operating points by dense Newton, cells as their tangents there. Tolerances are those of
    # tests/test_noise.py.
    settings, wires = NOISY[name]
    network = imac.convert(
        drawn(generator, 5, 4, 2),
        imac.Config(
            device=Memristor(**ENDS, **settings),
            crossbar=imac.Crossbar(rows=3, columns=3),
            amplifier=imac.Amplifier(gain=4.0, pole=2e10),
            neuron=imac.Neuron(kind="logistic", output_capacitance=1e-15),
            interconnect=wires,
            mapping=imac.WeightMapping(levels="continuous"),
        ),
    )
    x = 0.4 + 0.5 * reals(generator, 1, 5)
    config = network.config
    cell = build_cell(config.device, config)
    assert cell is not None
    with torch.no_grad():
        solution = network.solve(x)
    circuit = network.circuit()
    cells = [
        noise_oracle.tangents(layer, found.inputs, 0.8, cell, config.temperature, 1e6)
        for layer, found in zip(circuit.layers, solution.layers, strict=True)
    ]
    text = noise_oracle.noise_netlist(
        circuit, network.voltages(x)[0].tolist(), config.temperature, cells=cells,
        noise=config.noise,
    )  # fmt: skip
    nodes = [f"n{k}_{layer.outputs[0]}" for k, layer in enumerate(circuit.layers)]
    frequencies, spectra = noise_oracle.spectra(text, nodes, (2, 1e6, 1e12), tmp_path)
    ((at, _),) = network.segment.noisy(config.noise).by_point(solution)
    signals = at.linearised(solution)
    for index, frequency in enumerate(frequencies):
        if name == "1T1R" and index > 0:
            break  # sources of the netlist are white, as the transistors' 1/f noise is at 1 MHz
        density = at.density(signals, float(frequency))
        for k, spectrum in enumerate(spectra):
            found = float(density[k].outputs[:, 0, 0].sum())
            assert found == pytest.approx(float(spectrum[index]), rel=1e-5, abs=0.0)


def test_one_over_f_noise_of_access_transistors_is_added_up_from_the_lowest_frequency(
    generator: torch.Generator,
) -> None:
    network = imac.convert(
        drawn(generator, 4, 2),
        imac.Config(
            device=Memristor(**ENDS, access={"finfet": {"fins": 1}}),
            neuron=imac.Neuron(kind="logistic"),
            mapping=imac.WeightMapping(levels="continuous"),
        ),
    )
    x = 0.4 + 0.5 * reals(generator, 1, 4)
    band = imac.Noise(bandwidth=1e7, lowest=1e-3, neurons=False)
    found, still = (
        network.noise(x, settings).layers[0].outputs.sum(0)
        for settings in (band, band.replace(flicker=False))
    )
    with torch.no_grad():
        solution = network.solve(x)
    ((at, _),) = network.segment.noisy(band).by_point(solution)
    signals = at.linearised(solution)
    # The trapezoidal rule in ln f, of what falls with it: 8 nodes a decade leave 1 %.
    points = torch.logspace(-3, 7, 81, dtype=torch.float64)
    spectrum = torch.stack([at.density(signals, float(f))[0].outputs[:2].sum(0) for f in points])
    wanted = torch.trapezoid(spectrum * points[:, None, None], points.log(), dim=0)
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=0.0)
    assert bool((found > 1.1 * still).all())


def test_devices_are_as_noisy_as_laws_say() -> None:
    # Nyquist at rest, for every kind; shot noise of tunnelling and of diodes where kT is small.
    g = torch.tensor([1e-4, 0.0], dtype=torch.float64)
    thermal = 4.0 * BOLTZMANN * 300.0
    rest = torch.zeros_like(g)
    for settings in KINDS.values():
        cell = build_cell(Memristor(**ENDS, **settings))
        assert cell is not None
        slope = cell.currents(g, rest).slope
        found = cell.noise(g, rest, None, 300.0)
        torch.testing.assert_close(found, thermal * slope, rtol=1e-9, atol=0.0)
    volts = torch.full_like(g, 0.5)
    shot = 2.0 * 1.602177e-19
    junction = build_cell(Memristor(**ENDS, **KINDS["mtj"]))
    assert junction is not None
    found = junction.noise(g, volts, None, 300.0)
    torch.testing.assert_close(found, shot * junction.currents(g, volts).current, rtol=1e-6, atol=0)
    diode = Diode(saturation=1e-15, v0=0.025852)  # kT/q at 300 K
    found = diode.noise(volts, None, 300.0)
    torch.testing.assert_close(found, shot * diode.currents(volts).current, rtol=1e-4, atol=0)
