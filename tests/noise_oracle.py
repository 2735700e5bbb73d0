"""ngspice's .noise of whole circuits, written out anew from a circuit's elements.

Nothing of the package's netlists is used: their operational amplifiers are ideal equations, in
which the noise of R1 and R3 is lost. Here they have a gain of 1e9, and neurons of transistors are
small-signal circuits made of the exact model's derivatives.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch

from imac_torch.circuit.topology import Circuit
from imac_torch.reference.nonlinear import solve_nonlinear

GAIN = 1e9
SHAPES = {
    "logistic": "'{half}*(1-tanh(0.5*{slope}*v({g})))'",
    "tanh": "'{vdd}*tanh(0.5*{slope}*v({g}))'",
    "identity": "'v({g})'",
}


def noise_netlist(
    circuit: Circuit, voltages, temperature: float, signals=None, *, noise=None, cells=None
) -> str:
    """The circuit at given input voltages; node k of layer l is ``l_k``, vdd is ``vdd``.

    ``noise`` is the configuration's section, of which the white noise of amplifiers and neurons
    is read. ``cells`` are curved ones of every layer, see :func:`tangents`.
    """
    lines = ["* noise", f".options temp={temperature - 273.15} tnom={temperature - 273.15}"]
    lines += [".options reltol=1e-9 abstol=1e-18 vntol=1e-12 gmin=1e-18"]
    if signals is None:
        lines.append(f"Vdd vdd 0 {circuit.vdd}")
    else:
        lines.append("Vdd vdd 0 0")
    count = iter(range(10**9))

    def add(kind: str, *rest) -> str:
        name = f"{kind}x{next(count)}"
        lines.append(" ".join([name, *(str(item) for item in rest)]))
        return name

    white = (0.0, 0.0, 0.0)
    if noise is not None:
        white = (noise.amplifier_voltage, noise.amplifier_current, noise.neuron_voltage)

    def noisy(density: float) -> str:
        """A node and the factor that makes its resistor's noise a density per √Hz."""
        node = f"w{next(count)}"
        add("r", node, 0, 1.0)
        return f"{node} 0 {density / (4.0 * 1.380649e-23 * temperature) ** 0.5!r}"

    for number, layer in enumerate(circuit.layers):
        pins = {}
        if number == 0:
            for k, node in enumerate(layer.inputs):
                pins[int(node)] = f"in{k}"
                ac = " ac 1" if k == 0 else ""
                value = float(voltages[k]) if signals is None else 0.0
                lines.append(f"Vin{k} in{k} 0 {value!r}{ac}")
        else:
            before = circuit.layers[number - 1]
            for node, output in zip(layer.inputs, before.outputs, strict=True):
                pins[int(node)] = f"n{number - 1}_{output}"

        def name(node, number=number, pins=pins) -> str:
            node = int(node)
            return {0: "0", 1: "vdd"}.get(node, pins.get(node, f"n{number}_{node}"))

        for element in layer.elements:
            if cells is not None and element.name in ("rp", "rn"):
                for (a, b), cell in zip(element.nodes, cells[number][element.name], strict=True):
                    _linear_cell(add, noisy, name(a), name(b), cell)
                continue
            letter = {"resistor": "r", "capacitor": "c"}[element.kind]
            for (a, b), value in zip(element.nodes, element.values, strict=True):
                add(letter, name(a), name(b), repr(float(value)))
        amplifier = layer.read_outs.read_out
        for k, (plus, minus, out) in enumerate(layer.read_outs.nodes):
            ideal = f"oi{number}_{k}"
            _read_out(add, noisy, amplifier, (name(plus), name(minus), ideal), white)
            for place, pole in enumerate((amplifier.pole, amplifier.second_pole)):
                if pole is not None:
                    slow, stiff = f"sl{place}_{number}_{k}", f"st{place}_{number}_{k}"
                    add("e", stiff, 0, ideal, 0, 1)
                    add("r", stiff, slow, 1e3, "noisy=0")
                    add("c", slow, 0, repr(1 / (2 * np.pi * 1e3 * pole)))
                    ideal = slow
            add("e", name(out), 0, ideal, 0, 1)
        if layer.sums is not None:
            for terms, output in zip(layer.sums.terms, layer.sums.outputs, strict=True):
                before = "0"
                for term, factor in zip(terms[:-1], layer.sums.factors[:-1], strict=True):
                    node = f"s{next(count)}"
                    add("e", node, before, name(term), 0, float(factor))
                    before = node
                add("e", name(output), before, name(terms[-1]), 0, float(layer.sums.factors[-1]))
        spec = layer.neurons.spec
        for k, (z, out) in enumerate(layer.neurons.nodes):
            z, out = name(z), name(out)
            gate = f"g{number}_{k}"
            if signals is None:
                add("e", f"z{number}_{k}", z, noisy(white[2]))
                lines.append(f"Vs{number}_{k} {gate} z{number}_{k} {spec.level_shift}")
                shape = f"f{number}_{k}"
                text = SHAPES[spec.kind].format(
                    half=circuit.vdd / 2, vdd=circuit.vdd, slope=spec.options.slope, g=gate
                )
                add("b", shape, 0, "v=" + text.strip("'"))
                add("r", shape, out, spec.options.output_resistance)
                add("c", f"z{number}_{k}", 0, repr(spec.input_capacitance))
            else:
                if spec.input_resistance:
                    add("r", z, gate, spec.input_resistance)
                    add("r", gate, out, spec.feedback_resistance)
                else:
                    add("v", z, gate, 0)
                add("c", gate, 0, repr(spec.input_capacitance))
                _linear_core(add, count, signals[number], k, gate, out)
            add("c", out, 0, repr(spec.output_capacitance))
        if number == len(circuit.layers) - 1 and circuit.timing.load_capacitance:
            for node in layer.outputs:
                add("c", name(node), 0, repr(circuit.timing.load_capacitance))
    return "\n".join(lines)


def tangents(layer, inputs, vdd: float, cell, temperature: float, frequency: float):
    """Per side, what every curved cell is at (1, N) V on the lines, by dense Newton and autograd.

    Numbers: currents out of the input line and into the I± line, their derivatives by the voltages
    of both lines, A²/Hz at a frequency, these voltages, and whether the noise is of a current
    from vdd.
    """
    solved = solve_nonlinear(layer, inputs, vdd, cell)
    assert bool(solved.converged.all())
    nodes = solved.nodes[0]
    found = {}
    for element in layer.elements:
        if element.name not in ("rp", "rn"):
            continue
        at = nodes[torch.from_numpy(element.nodes)].T.clone().requires_grad_()
        line, end = at
        g = torch.from_numpy(1.0 / element.values)
        both = cell.currents(g, line - end, end if cell.absolute else None)
        into = both.current if both.leak is None else both.current + both.leak
        slopes = [
            torch.autograd.grad(item.sum(), at, retain_graph=True)[0]
            if item.requires_grad else torch.zeros_like(at)
            for item in (both.current, into)
        ]  # fmt: skip
        with torch.no_grad():
            noise = cell.noise(g, line - end, end if cell.absolute else None, temperature)
            slow = cell.flicker(g, line - end, end if cell.absolute else None)
            noise = noise if slow is None else noise + slow.density / frequency**slow.exponent
        rows = torch.stack([both.current, into, *slopes[0], *slopes[1], noise, line, end], dim=1)
        found[element.name] = [(*row, cell.gated) for row in rows.detach().tolist()]
    return found


def _linear_cell(add, noisy, line: str, end: str, cell) -> None:
    current, into, by_line, by_end, into_line, into_end, noise, at, there, gated = cell
    add("g", line, 0, line, 0, repr(by_line))
    add("g", line, 0, end, 0, repr(by_end))
    add("i", line, 0, "dc", repr(current - by_line * at - by_end * there))
    add("g", 0, end, line, 0, repr(into_line))
    add("g", 0, end, end, 0, repr(into_end))
    add("i", 0, end, "dc", repr(into - into_line * at - into_end * there))
    add("g", "vdd" if gated else line, end, noisy(noise**0.5))


def _read_out(add, noisy, read_out, ports, white) -> None:
    """From ``plus`` and ``minus`` to ``ideal``, operational amplifiers with a finite gain."""
    plus, minus, ideal = ports
    open_loop = getattr(read_out, "open_loop_gain", None)
    open_loop = GAIN if open_loop is None else float(open_loop)
    voltage, current, _ = white
    real = read_out.imperfections

    def amplifier(above: str, below: str, out: str, gain: float) -> None:
        heard = f"{out}_en"
        add("e", heard, above, noisy(voltage))
        if real is None:
            add("e", out, 0, heard, below, gain)
        else:
            inner = out if real.resistance is None else f"{out}_u"
            value = f"{gain!r}*(v({heard})-v({below}))"
            add("b", inner, 0, f"v=min(max({value},{real.low}),{real.high})")
            if inner != out:
                add("r", inner, out, float(real.resistance), "noisy=0")
        for pin in (above, below):
            if pin != "0":
                add("g", pin, 0, noisy(current))

    if read_out.kind == "differential":
        gain, r = float(read_out.gain), float(read_out.resistance)
        n1, n2 = f"{ideal}_n1", f"{ideal}_n2"
        for a, b, value in ((plus, n2, 1.0), (n2, 0, gain), (minus, n1, 1.0), (n1, ideal, gain)):
            add("r", a, b, value * r)
        amplifier(n2, n1, ideal, open_loop)
    elif read_out.kind == "transimpedance":
        for line in (plus, minus):
            add("r", line, f"{ideal}_{line}", float(read_out.feedback))
            amplifier("0", line, f"{ideal}_{line}", open_loop)
        add("e", ideal, 0, f"{ideal}_{minus}", f"{ideal}_{plus}", 1)
    elif read_out.kind == "sense_resistor":
        for line in (plus, minus):
            add("r", line, 0, float(read_out.resistance))
        amplifier(plus, minus, ideal, float(read_out.gain))
    else:
        assert read_out.kind == "current_mirror"
        r = float(read_out.resistance)
        add("r", plus, 0, r, "noisy=0")
        add("g", minus, 0, plus, 0, 1.0 / r)
        for line in (plus, minus):  # channels of the mirror: 4kT·2/3·g_m
            add("r", channel := f"{ideal}_ch{line}", 0, 1.0)
            add("g", line, 0, channel, 0, (2.0 / 3.0 / r) ** 0.5)
        add("r", minus, ideal, float(read_out.feedback))
        amplifier("0", minus, ideal, open_loop)


def _linear_core(add, count, signal, k, gate, out) -> None:
    """Currents, charges and white noise of one core, from numbers."""
    i, q = signal.currents, signal.charges
    add("g", 0, out, gate, 0, repr(float(i.output_by_gate[0, k])))
    add("g", 0, out, out, 0, repr(float(i.output_by_output[0, k])))
    add("g", gate, 0, gate, 0, repr(float(i.gate_by_gate[0, k])))
    add("g", gate, 0, out, 0, repr(float(i.gate_by_output[0, k])))
    for into, of, value in (
        (gate, gate, q.gate_by_gate), (gate, out, q.gate_by_output),
        (out, gate, q.output_by_gate), (out, out, q.output_by_output),
    ):  # fmt: skip
        copy, sense = f"y{next(count)}", f"q{next(count)}"
        add("e", copy, 0, of, 0, 1)
        add("c", copy, sense, repr(abs(float(value[0, k]))))
        source = add("v", sense, 0, 0)
        add("f", into, 0, source, 1 if float(value[0, k]) > 0 else -1)
    noise = f"x{next(count)}"
    add("r", noise, 0, 1.0)
    white = float(signal.noise.channels[0, k] + signal.noise.resistors[0, k])
    add("g", 0, out, noise, 0, repr((white / (4 * 1.380649e-23 * signal.spec.temperature)) ** 0.5))


def spectra(netlist: str, nodes, frequencies: tuple[int, float, float], directory: Path):
    """(points,) Hz and per node V²/Hz."""
    points, low, high = frequencies
    control = [".control", "set wr_vecnames", "set wr_singlescale", "op"]
    for k, node in enumerate(nodes):
        control += [
            f"noise v({node}) Vin0 dec {points} {low!r} {high!r}",
            f"setplot noise{2 * k + 1}", f"wrdata spectrum{k} onoise_spectrum",
        ]  # fmt: skip
    path = directory / "noise.cir"
    path.write_text("\n".join([netlist, *control, "quit", ".endc", ".end", ""]))
    done = subprocess.run(
        [shutil.which("ngspice") or "ngspice", "-b", path.name], cwd=directory,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    found = []
    for k in range(len(nodes)):
        file = directory / f"spectrum{k}"
        assert file.exists(), done.stdout[-2000:] + done.stderr[-2000:]
        table = np.loadtxt(file, skiprows=1, ndmin=2)
        found.append(table[:, 1] ** 2)
    return table[:, 0], found
