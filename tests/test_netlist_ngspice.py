"""ngspice on our netlists against dense solutions that share no code with them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from netlist_oracle import dense_solution, make_circuit, make_inputs, neuron_spec

from imac_torch.circuit.crossbar import build_crossbar
from imac_torch.circuit.topology import Circuit, build_layer
from imac_torch.config import Amplifier, Config, Crossbar, Interconnect, Timing, WeightMapping
from imac_torch.errors import NetlistError, SimulatorConvergenceError
from imac_torch.mapping.quantization import to_conductances
from imac_torch.netlist import NetlistSettings, NgSpiceWriter, SimulationJob, write_netlists
from imac_torch.results.solution import Status
from imac_torch.simulator import HSpice, NgSpice, check, solve_netlists

HAND_WRITTEN = Path(__file__).parent / "data" / "netlist" / "hand_3x2.cir"
DC = NetlistSettings(analysis="dc", save="all", images_per_netlist=3)

# Both sides solve the same equations directly. What remains is rounding, amplified by the span
# of conductances (1e3 S between partitions against 5e-6 S of a memristor, 2e8): 1e-16·2e8 = 2e-8
# at worst for a voltage; required is 1e-6.
TOLERANCE = 1e-7


def node_voltages(outcome, names, image):
    """Voltages that ngspice wrote for layer nodes, by the oracle's names."""
    waveforms = outcome.unwrap().waveforms
    found = {}
    for name in names:
        layer, node = name.split(".")
        key = f"v(x{layer}.{node})"
        if key in waveforms:
            found[name] = waveforms[key][image]
    return found


@pytest.mark.parametrize(
    "case",
    [
        {"sizes": [3, 2]},
        {"sizes": [5, 4, 3], "rows": 3, "columns": 3},
        {"sizes": [5, 4, 3], "rows": 2, "columns": 2, "kind": "tanh"},
        {"sizes": [4, 3], "columns": 2, "kind": "identity"},
        {"sizes": [4, 3, 2], "columns": 3, "kind": "relu"},
        {"sizes": [4, 3, 2], "columns": 3, "kind": "hardtanh"},
        {"sizes": [4, 3], "columns": 2, "amplifier": Amplifier(combine="sum")},
        {"sizes": [4, 3], "columns": 2, "amplifier": Amplifier(output_resistance=50.0)},
        {"sizes": [4, 3], "interconnect": Interconnect(resistance=False, capacitance=False)},
        {"sizes": [4, 3, 2], "columns": 3, "rows": 5, "mapping": WeightMapping(slices=3)},
        {
            "sizes": [4, 3],
            "columns": 2,
            "mapping": WeightMapping(slices=2, slice_base=2),
            "amplifier": Amplifier(combine="sum"),
        },
    ],
    ids=lambda case: "-".join(map(str, case.values())).replace(" ", ""),
)
def test_operating_points_equal_a_dense_solution(ngspice, tmp_path, case):
    sizes = case.pop("sizes")
    circuit = make_circuit(sizes, **case)
    case["sizes"] = sizes
    inputs = make_inputs(circuit, 4)
    run = write_netlists(circuit, inputs, tmp_path / "run", NgSpiceWriter(), DC)
    assert len(run.batches) == 2
    spice = check(solve_netlists(run, NgSpice(str(ngspice), timeout=60.0)))
    assert spice.solution.converged.all()
    for image in range(4):
        expected, power_inputs, power_bias = dense_solution(circuit, inputs[image])
        outcome = spice.outcomes[image // 3]
        found = node_voltages(outcome, expected, image % 3)
        # all nodes inside layers; ports are nodes of the top level
        ports = sum(len(layer.inputs) + len(layer.outputs) + 2 for layer in circuit.layers)
        assert len(found) == len(expected) - ports
        for name, voltage in found.items():
            assert voltage == pytest.approx(expected[name], rel=TOLERANCE, abs=TOLERANCE), name
        last = circuit.layers[-1]
        outputs = [expected[f"{last.name}.out{m + 1}"] for m in range(len(last.outputs))]
        np.testing.assert_allclose(spice.solution.outputs[image], outputs, rtol=TOLERANCE)
        power = spice.solution.power
        assert float(power.inputs[image]) == pytest.approx(power_inputs, rel=1e-6)
        assert float(power.bias[image]) == pytest.approx(power_bias, rel=1e-6)
        assert float(power.neurons[image]) == 0.0  # behavioural neurons draw nothing


def test_a_netlist_written_by_hand_agrees(ngspice, tmp_path):
    netlist = tmp_path / "hand" / HAND_WRITTEN.name
    netlist.parent.mkdir()
    shutil.copy(HAND_WRITTEN, netlist)
    simulator = NgSpice(str(ngspice), timeout=60.0)
    job = SimulationJob(netlist, waveform_files=("hand_3x2.raw",))
    by_hand = simulator.run(job).waveforms

    weights = torch.tensor([[1.0, -1, 0, 1], [-1, 1, 1, -1]], dtype=torch.float64)
    config = Config(crossbar=Crossbar(rows=32, columns=2))
    pair = to_conductances(weights, config.device, config.mapping, where="test")
    spec = build_crossbar(pair, config, 20.0)
    spec = dataclasses.replace(
        spec,
        input_segment=torch.tensor(9.25, dtype=torch.float64),
        output_segment=torch.tensor(11.5, dtype=torch.float64),
    )
    layer = build_layer("layer1", spec, neuron_spec(), config)
    circuit = Circuit((layer,), 0.8, Timing())
    inputs = torch.tensor([[0.8, -0.8, 0.8]], dtype=torch.float64)
    run = write_netlists(circuit, inputs, tmp_path / "run", NgSpiceWriter(), DC)
    spice = check(solve_netlists(run, simulator))
    ours = spice.outcomes[0].unwrap().waveforms
    # The hand-written op-amps have a gain of A = 1e8 instead of infinity. That shifts outputs by
    # 21/A = 2e-7 of themselves, and multiplies the rounding of the node voltages (0.1 V: 1e-17 V
    # and some) by A, 1e-8 V. A larger A would be worse.
    for by, our in [
        *((f"a{r}{c}", f"a{r}_{c}") for r in (1, 2) for c in (1, 2, 3, 4)),
        *((f"p{r}{c}", f"p{r}_{c}") for r in (1, 2) for c in (1, 2, 3, 4)),
        *((f"n{r}{c}", f"n{r}_{c}") for r in (1, 2) for c in (1, 2, 3, 4)),
        *((f"ep{r}{h}", f"pe{r}_{h}") for r in (1, 2) for h in (1, 2)),
        *((f"o{r}{h}", f"o{r}_{h}") for r in (1, 2) for h in (1, 2)),
        ("z1", "z1"),
        ("z2", "z2"),
    ]:
        np.testing.assert_allclose(
            ours[f"v(xlayer1.{our})"], by_hand[f"v({by})"], rtol=1e-6, atol=2e-8, err_msg=by
        )
    np.testing.assert_allclose(ours["v(y1)"], by_hand["v(y1)"], rtol=1e-6)
    np.testing.assert_allclose(ours["v(y2)"], by_hand["v(y2)"], rtol=1e-6)


def test_transient_without_capacitance_ends_at_operating_points(ngspice, tmp_path):
    circuit = make_circuit([5, 4, 3], rows=3, columns=3)
    inputs = make_inputs(circuit, 5)
    simulator = NgSpice(str(ngspice), timeout=60.0)
    static = check(
        solve_netlists(
            write_netlists(circuit, inputs, tmp_path / "dc", NgSpiceWriter(), DC), simulator
        )
    )
    seen = []
    run = write_netlists(
        circuit,
        inputs,
        tmp_path / "tran",
        NgSpiceWriter(),
        NetlistSettings(images_per_netlist=2),
    )
    spice = check(
        solve_netlists(
            run, simulator, workers=2, progress=lambda done, total, outcome: seen.append(done)
        )
    )
    assert seen == [1, 2, 3]
    # Nothing stores charge, so every instant is an operating point, to Newton's tolerance 1e-6.
    torch.testing.assert_close(
        spice.solution.outputs, static.solution.outputs, rtol=1e-6, atol=1e-8
    )
    for part in ("inputs", "bias"):
        torch.testing.assert_close(
            getattr(spice.solution.power, part),
            getattr(static.solution.power, part),
            rtol=1e-5,
            atol=0.0,
        )
    # Energy holds the ramps too, a fortieth of the period.
    ratio = spice.supply_energy / (static.solution.power.supply * circuit.timing.period)
    assert ((ratio - 1.0).abs() < 0.025).all()
    # What `meas` prints agrees with the waveform to its seven digits.
    for batch, outcome in zip(run.batches, spice.outcomes, strict=True):
        for k in range(batch.deck.images):
            for m in range(3):
                printed = outcome.unwrap().measures[f"y{m + 1}_{k}"]
                exact = float(spice.solution.outputs[batch.first + k, m])
                assert printed == pytest.approx(exact, rel=1e-6)

    again = solve_netlists(run, simulator)
    assert all(outcome.unwrap().resumed for outcome in again.outcomes)
    torch.testing.assert_close(again.solution.outputs, spice.solution.outputs, rtol=0, atol=0)


def test_wire_capacitance_delays_but_does_not_shift(ngspice, tmp_path):
    # 1 fF per segment (20 times the real one) against 100 kΩ: 1e-10 s, seen within 2 ns.
    interconnect = Interconnect(capacitance=True, permittivity=20 * 8.854e-12 * 20)
    timing = Timing(period=2e-9, transition=1e-10)
    circuit = make_circuit([4, 3], columns=3, interconnect=interconnect, timing=timing)
    assert any(element.kind == "capacitor" for element in circuit.layers[0].elements)
    inputs = make_inputs(circuit, 2)
    simulator = NgSpice(str(ngspice), timeout=60.0)
    run = write_netlists(circuit, inputs, tmp_path / "c", NgSpiceWriter())
    spice = check(solve_netlists(run, simulator))
    for image in range(2):
        expected, _, _ = dense_solution(circuit, inputs[image])
        outputs = [expected[f"layer1.out{m + 1}"] for m in range(3)]
        # 2 ns are many time constants, so that the outputs have settled
        np.testing.assert_allclose(spice.solution.outputs[image], outputs, rtol=0, atol=1e-6)
    waveforms = spice.outcomes[0].unwrap().waveforms
    just_after = np.interp(1e-10, waveforms["time"], waveforms["v(y1)"])
    settled = float(spice.solution.outputs[0, 0])
    assert abs(just_after - settled) > 1e-6


def test_stiff_wires_do_not_ring(ngspice, tmp_path):
    # Real wire capacitances settle within picoseconds, time steps grow to 100 ps. The trapezoidal
    # rule would ring and miss the settled outputs by 8e-5 V here; Gear's method damps.
    circuit = make_circuit([8, 4], gains=[30.0], interconnect=Interconnect(capacitance=True))
    inputs = make_inputs(circuit, 2)
    run = write_netlists(circuit, inputs, tmp_path / "run", NgSpiceWriter())
    spice = check(solve_netlists(run, NgSpice(str(ngspice), timeout=60.0)))
    for image in range(2):
        expected, _, _ = dense_solution(circuit, inputs[image])
        outputs = [expected[f"layer1.out{m + 1}"] for m in range(4)]
        np.testing.assert_allclose(spice.solution.outputs[image], outputs, rtol=0, atol=1e-9)


def test_failed_images_are_marked_and_others_kept(ngspice, tmp_path):
    # A user's neuron that has no solution once its input is above -0.05 V.
    path = tmp_path / "bad_neuron.sp"
    path.write_text(
        ".subckt bad_neuron z out vdd\nBout 0 out i=(v(z)>-0.05)*(v(out)*v(out)+1)-v(out)\n.ends\n"
    )
    spec = neuron_spec(subcircuit=str(path))
    circuit = make_circuit([2, 1], neuron=spec)
    candidates = torch.tensor(
        [[a, b] for a in (-0.8, 0.8) for b in (-0.8, 0.8)], dtype=torch.float64
    )
    z = torch.tensor([dense_solution(circuit, row)[0]["layer1.z1"] for row in candidates])
    order = [int(z.argmin()), int(z.argmax()), int(z.argmin())]
    assert z.min() < -0.05 < z.max()
    simulator = NgSpice(str(ngspice), timeout=60.0)
    settings = NetlistSettings(analysis="dc")
    run = write_netlists(circuit, candidates[order], tmp_path / "run", NgSpiceWriter(), settings)
    spice = solve_netlists(run, simulator)
    assert spice.solution.status.tolist() == [
        Status.CONVERGED,
        Status.FAILED,
        Status.CONVERGED,
    ]
    assert spice.solution.outputs.isnan().squeeze().tolist() == [False, True, False]
    with pytest.raises(SimulatorConvergenceError):
        check(spice)


def test_another_simulator_is_refused(tmp_path):
    circuit = make_circuit([2, 1])
    run = write_netlists(circuit, make_inputs(circuit, 1), tmp_path / "run", NgSpiceWriter())
    with pytest.raises(NetlistError, match="are for ngspice, not for hspice"):
        solve_netlists(run, HSpice())
