"""Every read-out there is: natively, against dense solutions of its parts, and in ngspice."""

from dataclasses import replace

import pytest
import torch
from dense_network import VDD, behavioural, finfet, random_layers, signs
from small_networks import LOGISTIC, mlp
from test_native import EXACT, LINEAR, compare, compare_with_ngspice, ngspice_nodes, solve
from torch.autograd import gradcheck

import imac_torch as imac
from imac_torch.config.kinds import READ_OUT_KINDS
from imac_torch.dc.network import chain_layers, solve_dc
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.readout import Transimpedance
from imac_torch.simulator import NgSpice
from imac_torch.study.transient_verification import verify_transient

KINDS = sorted(READ_OUT_KINDS.built_in)
FINITE = {kind: {} for kind in KINDS}
FINITE |= {kind: {"open_loop_gain": 300.0} for kind in ("transimpedance", "current_mirror")}
"""Further settings, each with an operational amplifier that one notices."""
every = pytest.mark.parametrize("kind", KINDS)


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


@every
def test_neurons_that_draw_current_equal_a_dense_solution(kind):
    layers = layers_of(kind, [3, 2, 1], finfet(), columns=2, output_resistance=200.0)
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
    )
    model = mlp(3, 2).append(imac.InverterSigmoid())
    x = signs(2, 3).float() / VDD
    found = verify_transient(
        imac.convert(model, config), [(x, torch.zeros(2, dtype=torch.long))], 2,
        simulator=NgSpice(str(ngspice), timeout=60.0),
    )  # fmt: skip
    swing = found.spice.solution.outputs.amax(0) - found.spice.solution.outputs.amin(0)
    assert float(swing.min()) > 0.02  # otherwise the comparison would be of noise
    assert found.passed


def parameters(read_out):
    """Names of everything that has a gradient."""
    return [name for name, value in vars(read_out).items() if isinstance(value, torch.Tensor)]


@every
def test_gradients(kind):
    """Of outputs and powers, in inputs and everything that the read-out is made of."""
    layers = layers_of(kind, [2, 2], behavioural(), finite=True, columns=2, output_resistance=30.0)
    (spec, neuron), read_out = layers[0], layers[0][0].read_out
    names = parameters(read_out)
    core = neuron.model.core(neuron)

    def function(inputs, factors):
        changed = {name: getattr(read_out, name) * factors[k] for k, name in enumerate(names)}
        other = replace(spec, read_out=replace(read_out, **changed))
        circuit = NeuronCircuit.of(neuron, core, read_out.combination.series_resistance)
        stages = chain_layers(
            [(eliminate_layer(other)[0], circuit)], torch.tensor(VDD, dtype=torch.float64)
        )
        solution = solve_dc(stages, inputs)
        # Powers in units of about 10 µW.
        return solution.outputs, 1e5 * solution.power.inputs, 1e5 * solution.power.amplifiers

    arguments = 0.7 * signs(2, 2), torch.ones(len(names), dtype=torch.float64)
    assert gradcheck(
        function, [item.requires_grad_() for item in arguments], eps=1e-5, atol=1e-6, rtol=1e-5
    )


VIRTUAL = imac.Amplifier(kind="transimpedance")


@pytest.mark.parametrize("scheme", ["unilateral", "balanced", "matched"])
@pytest.mark.parametrize("combine", ["average", "sum"])
def test_lines_at_virtual_ground_compute_the_weights(scheme, combine):
    """Of any mapping, for a feedback resistor that follows from the weights: but for wires."""
    mapping = imac.WeightMapping(levels="continuous", scheme=scheme)
    config = imac.Config(
        mapping=mapping, amplifier=VIRTUAL.replace(combine=combine),
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
