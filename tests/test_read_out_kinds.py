"""Every read-out there is: natively, against dense solutions of its parts, and in ngspice."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from dense_network import (
    VDD,
    behavioural,
    circuit_of,
    finfet,
    random_cells,
    random_layers,
    signs,
    solve_dense,
)
from small_networks import LOGISTIC, mlp
from test_native import EXACT, LINEAR, compare, compare_with_ngspice, ngspice_nodes, solve
from torch.autograd import gradcheck

import imac_torch as imac
from imac_torch.config.kinds import READ_OUT_KINDS
from imac_torch.dc.ir_drop import cell_voltages
from imac_torch.dc.native import Native
from imac_torch.dc.network import chain_layers, solve_dc
from imac_torch.dc.newton import NewtonOptions
from imac_torch.devices import DeviceModel, LogNormal
from imac_torch.elimination import resistive, saturation
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.readout import Transimpedance
from imac_torch.simulator import NgSpice
from imac_torch.study.transient_verification import verify_transient
from imac_torch.transient.integrator import StepControl

KINDS = sorted(READ_OUT_KINDS.built_in)
FINITE = {kind: {"open_loop_gain": 300.0} for kind in KINDS} | {"sense_resistor": {}}
"""Further settings, each with an operational amplifier that one notices."""
every = pytest.mark.parametrize("kind", KINDS)
SCHEMES = {"reference_column": "balanced"}


def layers_of(kind, sizes, neuron, *, finite=False, **case):
    extra = FINITE[kind] if finite else {}
    return random_layers(sizes, neuron, read_out=kind, **extra, **case)


@every
@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"columns": 2, "rows": 2, "opened": 0.2, "output_resistance": 30.0},
        {"columns": 3, "combine": "sum", "ideal": "both"},
        {"columns": 2, "slices": (2, 3), "output_resistance": 30.0},
    ],
    ids=["one", "average", "sum", "slices"],
)
def test_networks_equal_a_dense_solution_of_their_parts(kind, finite, case):
    layers = layers_of(kind, [4, 3, 2], behavioural(), finite=finite, **case)
    inputs = signs(2, 4)
    compare(layers, inputs, solve(layers, inputs), voltage=LINEAR)


def test_neurons_that_draw_current_equal_a_dense_solution():
    """Of the differential amplifier in test_native; nothing of the kind is in the neurons."""
    layers = layers_of("transimpedance", [3, 2, 1], finfet(), columns=2, output_resistance=200.0)
    inputs = signs(1, 3)
    compare(layers, inputs, solve(layers, inputs, EXACT), voltage=LINEAR, power=1e-8)


@every
@pytest.mark.parametrize("finite", [False, True])
def test_every_node_equals_ngspice(ngspice, tmp_path, kind, finite):
    layers = layers_of(
        kind, [4, 3, 2], behavioural(), finite=finite, columns=3, rows=2, output_resistance=50.0
    )
    inputs = signs(3, 4)
    waveforms, spice = ngspice_nodes(layers, inputs, tmp_path / "run", ngspice)
    # Resistors of 10 Ω and more beside cells of 5 µS: ngspice rounds to 1e-16·2e4.
    solution = compare_with_ngspice(layers, inputs, waveforms, spice, 1e-9)
    for part in ("inputs", "bias"):
        torch.testing.assert_close(
            getattr(spice.power, part), getattr(solution.power, part), rtol=1e-9, atol=0
        )


COARSE = imac.TransientOptions(control=StepControl(tolerance=5e-4))
"""V per step: a third of the steps of the default, and enough for what is demanded."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "differential"])
@pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")
def test_transients_equal_ngspice(ngspice, kind):
    """With a pole and wires that have capacitance; the differential's are in other files."""
    config = LOGISTIC.replace(
        neuron=imac.Neuron(kind="logistic", slope=40.0, input_capacitance=2e-15),
        crossbar=imac.Crossbar(rows=2, columns=2),
        interconnect=imac.Interconnect(capacitance=True),
        amplifier=imac.Amplifier(kind=kind, gain=60.0, pole=5e9, output_resistance=2e3),
        timing=imac.Timing(period=1e-9, transition=5e-11),
        mapping=imac.WeightMapping(scheme=SCHEMES.get(kind, "unilateral")),
    )
    model = mlp(3, 2).append(imac.InverterSigmoid())
    x = signs(2, 3).float() / VDD
    found = verify_transient(
        imac.convert(model, config), [(x, torch.zeros(2, dtype=torch.long))], 2,
        simulator=NgSpice(str(ngspice), timeout=60.0), options=COARSE,
    )  # fmt: skip
    swing = found.spice.solution.outputs.amax(0) - found.spice.solution.outputs.amin(0)
    assert float(swing.min()) > 0.02  # otherwise the comparison would be of noise
    assert found.passed


SUPPLIED = {"quiescent_current": 2e-6}
BEHIND = {"open_loop_gain": 300.0, "open_loop_resistance": 500.0}


@pytest.mark.parametrize(
    ("kind", "pole", "more"),
    [
        ("differential", 5e9, BEHIND | SUPPLIED | {"second_pole": 1e10, "slew_rate": 3e9}),
    ],
)
@pytest.mark.filterwarnings("ignore::imac_torch.errors.ImacWarning")
def test_transients_of_imperfect_amplifiers_equal_ngspice(ngspice, kind, pole, more, generator):
    """From rail to rail; the second layer's amplifiers load the first one's neurons."""
    config = LOGISTIC.replace(
        device=imac.Memristor(rlow=5e3, rhigh=15e3),
        neuron=imac.Neuron(kind="logistic", input_capacitance=5e-15, output_capacitance=1e-14),
        crossbar=imac.Crossbar(rows=2, columns=2),
        amplifier=imac.Amplifier(
            kind=kind, gain=8.0, pole=pole, output_resistance=2e3,
            swing=(-0.25, 0.3), offset=2e-3, offset_spread=5e-3, **more,
        ),
        supplies=imac.Supplies(vss=-0.8),
        timing=imac.Timing(period=3e-10, transition=5e-11),
    )  # fmt: skip
    network = imac.convert(mlp(3, 2, 1), config, generator=generator)
    x = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    solution = network.solve(x)
    first, inputs = network.prepare().layers[0], solution.layers[0].inputs
    assert first.limited(inputs[None]).beyond is not None
    assert float(solution.outputs.detach().diff(dim=0).abs().min()) > 0.01
    found = verify_transient(
        network, [(x, torch.zeros(2, dtype=torch.long))], 2,
        simulator=NgSpice(str(ngspice), timeout=60.0), options=COARSE,
    )  # fmt: skip
    assert found.passed, found
    energies = found.spice.energy.amplifier_supply
    assert bool((energies > 0.0).all()) == ("quiescent_current" in more)


# Amplifiers that are not ideal: each imperfection alone, and all together

IMPERFECT = {
    "offset": {"offset_spread": 5e-3},
    "swing": {"swing": (-0.03, 0.04)},
    "all": {"offset_spread": 5e-3, "swing": (-0.03, 0.04), "finite": True},
    "behind": {"open_loop_resistance": 200.0, "finite": True},
    "all behind": {
        "offset_spread": 5e-3, "swing": (-0.03, 0.04), "finite": True,
        "open_loop_resistance": 200.0,
    },
}  # fmt: skip
def has(kind, what):
    """An output resistance in the loop needs a loop; a shared amplifier is ideal."""
    if kind == "reference_column":
        return not what
    return kind != "sense_resistor" or "behind" not in what


imperfect = pytest.mark.parametrize(
    ("kind", "what"), [(kind, what) for kind in KINDS for what in IMPERFECT if has(kind, what)]
)
COUPLED = {"columns": 2, "rows": 3, "output_resistance": 30.0, "low": 5e3, "high": 15e3}
"""Devices of 5 to 15 kΩ: rows meet in wires, and layers load what drives them."""


def real_layers(kind, sizes, what, neuron=None, **case):
    case = {**COUPLED, **case}
    cells = partial(random_cells, low=case.pop("low"), high=case.pop("high"))
    neuron = behavioural(output_resistance=2e3) if neuron is None else neuron
    return layers_of(kind, sizes, neuron, cells=cells, **IMPERFECT[what], **case)


def saturated(layers, solution):
    """How many amplifiers are at a rail."""
    count = 0
    for prepared, layer in zip(Native().prepare(layers).layers, solution.layers):
        held = prepared.limited(layer.inputs[None]).at_rails
        count += 0 if held is None else int(held.sum())
    return count


def test_amplifiers_that_meet_are_also_solved_at_once(monkeypatch):
    """As where turns do not end: wires that couple amplifiers strongly."""
    layers = real_layers("differential", [4, 3, 2], "all behind")
    wanted = solve(layers, signs(3, 4))
    monkeypatch.setattr(resistive, "TURNS", 1)
    found = solve(layers, signs(3, 4))
    assert found.converged.all()
    torch.testing.assert_close(found.outputs, wanted.outputs, rtol=0.0, atol=1e-10)


@imperfect
@pytest.mark.parametrize("combine", ["average", "sum"])
def test_imperfect_amplifiers_equal_a_dense_solution(kind, what, combine):
    layers = real_layers(kind, [4, 3, 2], what, combine=combine)
    inputs = signs(2, 4)
    solution = solve(layers, inputs, Native(newton=NewtonOptions(tolerance=1e-12)))
    assert solution.converged.all()
    assert (saturated(layers, solution) > 0) == ("swing" in IMPERFECT[what])
    circuit = circuit_of(layers)
    for image in range(2):
        dense = solve_dense(circuit, inputs[image].numpy())
        assert dense.residual < 1e-11
        assert sum(dense.power.values()) == pytest.approx(dense.dissipation, rel=1e-9)
        for k, layer in enumerate(solution.layers):
            for found, expected in (
                (layer.gates[image], dense.gates[k]),
                (layer.outputs[image], dense.layer(circuit, k, "out")),
            ):
                np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-10)
        for part in ("inputs", "bias", "amplifiers"):
            found = float(getattr(solution.power, part)[image])
            wanted = dense.power[part] - (dense.behind if part == "amplifiers" else 0.0)
            assert found == pytest.approx(wanted, rel=1e-7, abs=1e-14), part


@pytest.mark.parametrize(
    ("kind", "what"),
    [(kind, what) for kind in KINDS for what in IMPERFECT if has(kind, what) and what != "behind"],
)
def test_imperfect_amplifiers_equal_ngspice(ngspice, tmp_path, kind, what):
    layers = real_layers(kind, [4, 3, 2], what)
    inputs = signs(3, 4)
    _, spice = ngspice_nodes(layers, inputs, tmp_path / "run", ngspice)
    solution = solve(layers, inputs, Native(newton=NewtonOptions(tolerance=1e-12)))
    torch.testing.assert_close(spice.outputs, solution.outputs, rtol=0.0, atol=1e-9)
    for part in ("inputs", "bias"):
        torch.testing.assert_close(
            getattr(spice.power, part), getattr(solution.power, part), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize(
    ("kind", "what"),
    [(kind, what) for kind in KINDS for what in ("all", "all behind") if has(kind, what)],
)
def test_maps_of_imperfect_amplifiers_equal_a_dense_solution(kind, what):
    layers = real_layers(kind, [4, 3], what)
    inputs = signs(1, 4)
    circuit = circuit_of(layers)
    dense = solve_dense(circuit, inputs[0].numpy())
    lines = torch.cat([inputs, torch.full((1, 1), VDD, dtype=torch.float64)], dim=1)
    found = cell_voltages(layers[0][0], lines, torch.zeros(1, 3, dtype=torch.float64))
    for name, ours in (("a", found.cell), ("p", found.positive), ("n", found.negative)):
        wanted = dense.layer(circuit, 0, name)
        np.testing.assert_allclose(ours[0], wanted, rtol=0.0, atol=1e-10)
    last = [stop - 1 for stop in layers[0][0].column_ends]
    for name, ours in (("pe", found.positive_end), ("ne", found.negative_end)):
        wanted = dense.layer(circuit, 0, name)
        np.testing.assert_allclose(ours[0][:, last], wanted, rtol=0.0, atol=1e-10)


def parameters(read_out):
    """Names of everything that has a gradient."""
    found = vars(read_out).items()
    return [
        name for name, value in found
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "what"),
    [(kind, what) for kind in KINDS for what in ("", "all", "all behind") if has(kind, what)],
)
def test_gradients(kind, what):
    """Of outputs and powers, in inputs and everything that the read-out is made of."""
    case = {"finite": True, "columns": 2, "output_resistance": 30.0}
    make = None if what else layers_of(kind, [2, 2], behavioural(), **case)
    layers = real_layers(kind, [2, 2], what) if make is None else make
    (spec, neuron), read_out = layers[0], layers[0][0].read_out
    names = parameters(read_out)
    core = neuron.model.core(neuron)

    def function(inputs, factors):
        changed = {name: getattr(read_out, name) * factors[k] for k, name in enumerate(names)}
        real = read_out.imperfections
        if real is not None and real.resistance is not None:
            changed["imperfections"] = replace(real, resistance=real.resistance * factors[-1])
        other = replace(spec, read_out=replace(read_out, **changed))
        circuit = NeuronCircuit.of(neuron, core, read_out.combination.series_resistance)
        prepared = chain_layers(
            [(eliminate_layer(other)[0], circuit)], torch.tensor(VDD, dtype=torch.float64)
        )
        solution = solve_dc(prepared, inputs)
        # Powers in units of about 10 µW.
        return solution.outputs, 1e5 * solution.power.inputs, 1e5 * solution.power.amplifiers

    arguments = 0.7 * signs(2, 2), torch.ones(len(names) + 1, dtype=torch.float64)
    assert gradcheck(
        function, [item.requires_grad_() for item in arguments], eps=1e-5, atol=1e-6, rtol=1e-5
    )


def test_outputs_that_meet_have_gradients_by_what_neurons_draw():
    """Alone, too: where the weights behind are trained and nothing in front of them is."""
    layers = real_layers("differential", [4, 3, 2], "behind")
    first = Native().prepare(layers).layers[0]
    assert first.network.feedback.loaded.tied

    def function(milliamperes):
        return first.limited(signs(2, 4)[None], 1e-3 * milliamperes).outputs

    assert gradcheck(function, torch.zeros(1, 2, 3, dtype=torch.float64).requires_grad_())


VIRTUAL = imac.Amplifier(kind="transimpedance")


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [*(("transimpedance", scheme) for scheme in ("unilateral", "balanced", "matched")),
     ("reference_column", "balanced")],
)  # fmt: skip
@pytest.mark.parametrize("combine", ["average", "sum"])
def test_lines_at_virtual_ground_compute_the_weights(kind, scheme, combine):
    """Of any mapping, for a feedback resistor that follows from the weights: but for wires."""
    mapping = imac.WeightMapping(levels="continuous", scheme=scheme)
    config = imac.Config(
        mapping=mapping, amplifier=VIRTUAL.replace(kind=kind, combine=combine),
        crossbar=imac.Crossbar(rows=4, columns=4), interconnect=imac.Interconnect(resistance=False),
    )  # fmt: skip
    (layer,) = imac.convert(mlp(9, 5), config).analog_layers()
    matrix = layer.matrix
    wanted = matrix.wanted_transfer().detach()
    if scheme != "matched":
        wanted[:, -1] -= matrix.target().threshold
    found = eliminate_layer(matrix.crossbar())[0].transfer
    # S·R_f: nine cells of 13 µS, and 1 V at most of 7.9 µS·0.8 V: 30 for one partition, 90 for
    # the mean of three.
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-7 * float(wanted.abs().max()))
    torch.testing.assert_close(matrix.transfer(), found, rtol=1e-9, atol=1e-12)
    largest = matrix.effective().abs().max()
    torch.testing.assert_close(
        matrix.effective(), matrix.target().weights.detach(), rtol=0.0, atol=1e-6 * float(largest)
    )


def test_a_finite_gain_is_what_the_derivation_says(generator):
    """Cells count (1 + S·R_f)/(1 + A + S·R_f) less."""
    spec = layers_of("transimpedance", [5, 3], behavioural(), finite=True, ideal="both")[0][0]
    found = eliminate_layer(spec)[0].transfer
    feedback, gain = float(spec.read_out.feedback), float(spec.read_out.open_loop_gain)

    def side(cells):
        noise = 1.0 + cells.sum(-1, keepdim=True) * feedback
        return feedback * cells * (1.0 - noise / (gain + noise))

    pair = spec.conductances
    torch.testing.assert_close(
        found, side(pair.positive) - side(pair.negative), rtol=1e-12, atol=1e-14
    )


def test_values_that_are_not_physical_are_refused():
    read_out = layers_of("transimpedance", [2, 1], behavioural())[0][0].read_out
    assert isinstance(read_out, Transimpedance)
    for name, value in (("feedback", 0.0), ("open_loop_gain", 0.0), ("feedback", float("inf"))):
        with pytest.raises(imac.errors.CircuitError, match=f"{name} of the amplifiers = {value}"):
            replace(read_out, **{name: torch.tensor(value)})


OFFSET = LOGISTIC.replace(
    amplifier=imac.Amplifier(gain=20.0, offset=1e-3, offset_spread=5e-3, swing=(-0.2, 0.3)),
    crossbar=imac.Crossbar(rows=3, columns=3),
)


@pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")
def test_offsets_are_drawn_per_amplifier_and_saved(tmp_path, generator):
    with pytest.raises(imac.errors.ConversionError, match=r"offset_spread = 0.005 needs a torch"):
        imac.convert(mlp(5, 4, 2), OFFSET)
    network = imac.convert(mlp(5, 4, 2), OFFSET, generator=generator)
    first, second = (layer.matrix for layer in network.analog_layers())
    assert first.offsets.shape == (4, 2, 1) and second.offsets.shape == (2, 2, 1)
    assert 1e-3 < float(first.offsets.std()) < 2e-2
    x = 0.9 * signs(3, 5).float() / VDD
    outputs = network(x)
    imac.save(network, tmp_path / "network.safetensors")
    loaded = imac.load(tmp_path / "network.safetensors")
    torch.testing.assert_close(loaded(x), outputs, rtol=0.0, atol=0.0)
    with torch.no_grad():  # what is made of layers is remembered
        assert torch.equal(network(x), outputs)
        first.draw(generator)
        assert not torch.equal(network(x), outputs)


@pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")
def test_monte_carlo_draws_other_amplifiers_in_every_sample(generator):
    network = imac.convert(mlp(5, 4, 2), OFFSET, generator=generator)
    v = 0.9 * signs(3, 5)
    study = imac.MonteCarlo(network, seed=3)
    together = study.solve(range(3), v)
    assert float(together.outputs.std(0).max()) > 1e-3
    for sample in range(3):
        alone = study.realise(sample).solve(v.float() / VDD)
        torch.testing.assert_close(alone.outputs, together.outputs[sample], rtol=0.0, atol=1e-9)
        torch.testing.assert_close(
            alone.power.amplifiers, together.power.amplifiers[sample], rtol=1e-6, atol=0.0
        )
    # With effects of one's own the network's amplifiers stay.
    fixed = imac.MonteCarlo(network, DeviceModel((LogNormal(1e-12),)))
    torch.testing.assert_close(
        fixed.solve(range(2), v).outputs[1], network.solve(v.float() / VDD).outputs,
        rtol=0.0, atol=1e-8,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::imac_torch.errors.ImacWarning")
@pytest.mark.parametrize("power", [False, True])
def test_groups_of_imperfect_amplifiers_are_circuits_side_by_side(power, generator):
    """The circuits of both groups, one by one: outputs, offsets and what saturates, powers."""
    spec, neuron = real_layers("differential", [6, 4], "all")[0]
    pair = ConductancePair(
        *(torch.stack([side, side.flip(0)]) for side in vars(spec.conductances).values())
    )
    real = spec.read_out.imperfections
    offsets = 5e-3 * torch.randn(
        8, len(spec.column_ends), 1, generator=generator, dtype=torch.float64
    )
    core = neuron.model.core(neuron)

    def solved(conductances, groups, offsets, inputs):
        read_out = replace(spec.read_out, imperfections=replace(real, offsets=offsets))
        crossbar = replace(spec, conductances=conductances, groups=groups, read_out=read_out)
        circuit = NeuronCircuit.of(neuron, core, read_out.combination.series_resistance)
        layers = chain_layers(
            [(eliminate_layer(crossbar)[0], circuit)], torch.tensor(VDD, dtype=torch.float64)
        )
        return solve_dc(layers, inputs, power=power)

    inputs = signs(3, 12)
    found = solved(pair, 2, offsets, inputs)
    parts = [
        solved(
            ConductancePair(pair.positive[k], pair.negative[k]), 1,
            offsets[4 * k : 4 * k + 4], inputs[:, 6 * k : 6 * k + 6],
        )
        for k in range(2)
    ]  # fmt: skip
    wanted = torch.cat([part.outputs for part in parts], dim=1)
    torch.testing.assert_close(found.outputs, wanted, rtol=0.0, atol=1e-12)
    for name in ("inputs", "bias", "amplifiers") if power else ():
        total = sum(getattr(part.power, name) for part in parts)
        torch.testing.assert_close(getattr(found.power, name), total, rtol=1e-9, atol=1e-15)


@pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")
def test_what_does_not_know_imperfect_amplifiers_refuses_them(generator):
    x = signs(2, 5).float() / VDD
    charged = imac.convert(
        mlp(5, 2), OFFSET.replace(interconnect=imac.Interconnect(capacitance=True)),
        generator=generator,
    )  # fmt: skip
    with pytest.raises(imac.errors.SolverError, match="a transient with capacitances of wires"):
        charged.transient(x)
    behind = OFFSET.replace(amplifier=imac.Amplifier(gain=20.0, **BEHIND))
    with pytest.raises(imac.errors.SolverError, match=r"set amplifier\.pole"):
        imac.convert(mlp(5, 2), behind).transient(x)
    bent = behind.replace(device=imac.Memristor(bend=0.5))
    with pytest.raises(imac.errors.SolverError, match=r"is for.*knows them: netlists"):
        imac.convert(mlp(5, 2), bent, generator=generator)(x)


@pytest.mark.parametrize("size", [0.03, 0.7, 30.0], ids=["weak", "strong", "diverging"])
@pytest.mark.parametrize("compiled", [True, False])
def test_amplifiers_that_meet_saturate_all_the_same(size, compiled, generator, monkeypatch):
    """Of circuits they meet weakly; coupled by a skew matrix, however strongly, they do so once."""
    if not compiled:
        monkeypatch.setattr(saturation, "obstacle", lambda: "none wanted")
    low, high, count = -0.03, 0.04, 6
    draw = torch.randn(2, 3, count, count, generator=generator, dtype=torch.float64)
    mutual = draw - draw.mT
    mutual = size * mutual / mutual.abs().sum(-1).amax()
    linear = 0.1 * torch.randn(2, 70, 3, count, generator=generator, dtype=torch.float64)
    found = saturation.limit(mutual, linear, low, high)
    assert found.converged.all() and (found.beyond != 0).any(-1).float().mean() > 0.9
    outputs = found.outputs
    assert outputs.min() >= low and outputs.max() <= high
    # y = o + w is O - E·w, and w is not 0 at rails only.
    wanted = linear - (mutual[:, None] @ found.beyond[..., None])[..., 0]
    torch.testing.assert_close(outputs + found.beyond, wanted, rtol=0.0, atol=1e-12)
    inner = (outputs > low) & (outputs < high)
    assert not found.beyond[inner].any()
    few = linear[:1, :2, :1].requires_grad_(), mutual[:1, :1].clone().requires_grad_()
    assert gradcheck(lambda o, e: saturation.limit(e, o, low, high)[:2], few)


@pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")
def test_a_model_of_one_layer_is_no_matrix_where_amplifiers_saturate():
    """The same as the circuit solved vector by vector, and not what the matrix would give."""
    config = OFFSET.replace(amplifier=imac.Amplifier(gain=20.0, swing=(-0.02, 0.02)))
    network, linear = (
        imac.convert(mlp(5, 4), item)
        for item in (config, OFFSET.replace(amplifier=imac.Amplifier(gain=20.0)))
    )
    x = signs(3, 5).float() / VDD
    found = network.solve(x).outputs
    torch.testing.assert_close(
        network(x).double(), network.segment.decode(found), rtol=0.0, atol=1e-6
    )
    assert not torch.allclose(network(x), linear(x), atol=1e-3)


# One device per weight, and a reference that the rows of an array share

REFERENCE = LOGISTIC.replace(
    amplifier=imac.Amplifier(kind="reference_column"),
    mapping=imac.WeightMapping(scheme="balanced"),
    crossbar=imac.Crossbar(rows=2, columns=3),
    device=imac.Memristor(effects={"gaussian": {"sigma": 0.1}}),
)


def test_rows_of_an_array_share_their_reference(generator):
    """5 rows of 8 columns in 3 by 3 arrays: a cell for each weight, one per array and column."""
    network = imac.convert(mlp(7, 5), REFERENCE, generator=generator)
    (layer,) = network.analog_layers()
    pair, spec = layer.matrix.conductances(), layer.matrix.crossbar()
    assert spec.row_ends == (2, 4, 5)
    first = [0, 0, 2, 2, 4]
    assert torch.equal(pair.negative, pair.negative[first])
    assert int((spec.conductances.negative > 0.0).sum()) == 3 * 8
    assert torch.equal(spec.conductances.negative[[0, 2, 4]], pair.negative[[0, 2, 4]])
    # What devices make of the weights is told by the same cells.
    device = network.config.device
    window = 1.0 / device.rlow - 1.0 / device.rhigh
    values = 2.0 * (pair.positive - pair.negative) / window * layer.matrix.quantized().scale
    torch.testing.assert_close(layer.matrix.effective().abs(), values.abs(), rtol=1e-12, atol=0.0)
    trained = network(signs(2, 7).float())
    trained.sum().backward()
    assert bool((next(network.parameters()).grad != 0.0).any())
    # A pulse leads from end to end and a look takes as long: one cell or one line after the other.
    effects = {"write_verify": {"tolerance": 0.999, "pulses": 1, "pulse": 1.0, "look": 1.0}}
    written = imac.convert(
        mlp(7, 5), REFERENCE.replace(device=imac.Memristor(effects=effects)), generator=generator
    )
    (made,) = written.programming()
    (layer,) = written.analog_layers()
    low = layer.matrix.nominal_conductances().positive * device.rlow > 0.999
    assert (made.cells, made.pulses) == ((5 + 3) * 8, int(low.sum()))
    assert made.time == 2.0 * made.pulses + (5 + 3) * 8
    assert made.time_by_rows == 2.0 * int(low.any(-1).sum()) + (5 + 3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mapping": imac.WeightMapping()}, imac.errors.ConversionError, "one device per weight"),
        ({"amplifier": imac.Amplifier(kind="reference_column", offset_spread=1e-3)},
         imac.errors.CircuitError, "no operational amplifiers that could have an offset"),
    ],
    ids=["mapping of pairs", "offsets"],
)  # fmt: skip
def test_what_a_shared_reference_does_not_know_is_refused(changes, error, message, generator):
    with pytest.raises(error, match=message):
        imac.convert(mlp(4, 2), REFERENCE.replace(**changes), generator=generator)


def test_noise_of_a_shared_reference_is_refused(generator):
    network = imac.convert(mlp(4, 2), REFERENCE, generator=generator)
    with pytest.raises(imac.errors.CircuitError, match="rows share that of their reference"):
        network.noise(signs(1, 4).float())
