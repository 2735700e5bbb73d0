"""Nonlinear cells: against the linear solver, against ngspice, and Newton's own checks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from imac_torch import Config, convert
from imac_torch.cells import Sinh
from imac_torch.circuit.topology import GROUND, SUPPLY, LayerCircuit
from imac_torch.config import Amplifier, Crossbar, Memristor, WeightMapping
from imac_torch.dc.native import Native
from imac_torch.errors import ConfigError, SolverError
from imac_torch.model.network import IMACNetwork
from imac_torch.reference.nonlinear import solve_nonlinear

VDD = 0.8


def small_layer(
    generator: torch.Generator, combine: str = "average"
) -> tuple[LayerCircuit, IMACNetwork]:
    linear = nn.Linear(5, 4, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.rand(4, 5, generator=generator, dtype=torch.float64) * 2 - 1)
        linear.bias.copy_(torch.rand(4, generator=generator, dtype=torch.float64) * 2 - 1)
    config = Config(
        device=Memristor(rlow=2e3, rhigh=20e3),  # low resistances: wires matter
        crossbar=Crossbar(rows=2, columns=3),
        amplifier=Amplifier(gain=5.0, combine=combine),
        mapping=WeightMapping(levels="continuous"),
    )
    network = convert(nn.Sequential(linear), config)
    return network.circuit().layers[0], network


def voltages(generator: torch.Generator, count: int = 3) -> torch.Tensor:
    return (torch.rand(count, 5, generator=generator, dtype=torch.float64) * 2 - 1) * VDD


@pytest.mark.parametrize("combine", ["average", "sum"])
def test_a_cell_that_hardly_bends_is_the_linear_cell(
    generator: torch.Generator, combine: str
) -> None:
    layer, network = small_layer(generator, combine)
    inputs = voltages(generator)
    found = solve_nonlinear(layer, inputs, VDD, Sinh(v0=1e4))
    with torch.no_grad():
        expected = Native().solve(network.prepare(), inputs)
    # sinh(x) - x = x³/6 with x = 1.6 V/1e4 V: 1e-9 relative at most of outputs below 4 V
    torch.testing.assert_close(found.combined, expected.layers[0].combined, rtol=0, atol=1e-8)
    assert bool(found.converged.all())


def test_kirchhoff_and_passivity(generator: torch.Generator) -> None:
    layer, _ = small_layer(generator)
    inputs = voltages(generator)
    found = solve_nonlinear(layer, inputs, VDD, Sinh(v0=0.25))
    assert bool(found.converged.all())
    # Currents are 0.4 mA; residuals are rounding of the sums over a node
    assert float(found.residual.max()) < 1e-12
    ohmic = solve_nonlinear(layer, inputs, VDD, Sinh(v0=1e4))
    # sinh lies above its argument: more current flows, and it is not a rounding matter
    assert float(found.input_current.abs().sum() / ohmic.input_current.abs().sum()) > 1.05


def netlist(layer: LayerCircuit, inputs: torch.Tensor, v0: float) -> str:
    """Written by hand from the elements: cells as B sources, amplifiers from the node equations."""
    lines = ["* nonlinear cells", f"vdd n{SUPPLY} 0 {VDD!r}"]

    def node(index: int) -> str:
        return "0" if index == GROUND else f"n{index}"

    for k, (pin, value) in enumerate(zip(layer.inputs.tolist(), inputs.tolist())):
        lines.append(f"vin{k} {node(pin)} 0 {value!r}")
    count = 0
    for element in layer.elements:
        for (first, second), value in zip(element.nodes.tolist(), element.values.tolist()):
            count += 1
            a, b = node(first), node(second)
            if element.name in ("rp", "rn"):
                across = f"(v({a})-v({b}))"
                lines.append(f"b{count} {a} {b} i={v0 / value!r}*sinh({across}/{v0!r})")
            elif element.name != "ro":
                lines.append(f"r{count} {a} {b} {value!r}")
    amplifier = layer.read_outs
    gain, r = (float(getattr(amplifier.read_out, k)) for k in ("gain", "resistance"))
    for k, (plus, minus, out) in enumerate(amplifier.nodes.tolist()):
        p, q = node(plus), node(minus)
        lines += [
            f"ra{k} {p} x{k} {r!r}",
            f"rb{k} x{k} 0 {r * gain!r}",
            f"ee{k} y{k} 0 x{k} 0 1",  # the ideal op-amp holds both its inputs equal
            f"rc{k} {q} y{k} {r!r}",
            f"eo{k} {node(out)} 0 {p} {q} {gain!r}",
        ]
    outs = [node(index) for index in amplifier.nodes[:, 2].tolist()]
    prints = " ".join(f"v({out})" for out in outs)
    lines += [
        ".options reltol=1e-9 abstol=1e-16 vntol=1e-12 gmin=1e-18 numdgt=12",
        ".control", "set numdgt=12", "op", f"print {prints}", ".endc", ".end", "",
    ]  # fmt: skip
    return "\n".join(lines)


@pytest.mark.parametrize("v0", [0.5, 0.2])
def test_ngspice_finds_the_same(
    ngspice: Path, tmp_path: Path, generator: torch.Generator, v0: float
) -> None:
    layer, _ = small_layer(generator)
    inputs = voltages(generator, count=2)
    found = solve_nonlinear(layer, inputs, VDD, Sinh(v0=v0))
    for sample in range(len(inputs)):
        path = tmp_path / f"sample{sample}.cir"
        path.write_text(netlist(layer, inputs[sample], v0))
        done = subprocess.run(
            [str(ngspice), "-b", str(path)], capture_output=True, text=True, check=False
        )
        values = [
            float(line.split("=")[1])
            for line in done.stdout.splitlines()
            if line.startswith("v(") and "=" in line
        ]
        expected = torch.tensor(values, dtype=torch.float64).reshape(found.amplifiers[0].shape)
        scale = float(expected.abs().max())
        # Issue 6 asks for 1e-5; ngspice iterates to reltol 1e-9
        torch.testing.assert_close(
            found.amplifiers[sample], expected, rtol=0, atol=1e-7 * scale
        )


def test_refusals(generator: torch.Generator) -> None:
    layer, _ = small_layer(generator)
    with pytest.raises(ConfigError, match="v0"):
        Sinh(v0=0.0)
    with pytest.raises(SolverError, match=r"\(B, 5\)"):
        solve_nonlinear(layer, torch.zeros(2, 4, dtype=torch.float64), VDD, Sinh(0.3))
    limited = solve_nonlinear(layer, voltages(generator), VDD, Sinh(0.1), max_iterations=1)
    assert not bool(limited.converged.any())
