"""Training and inference mode, types, torch's generator: what callers set and what they meet."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from small_networks import LOGISTIC, loader, mlp, seeded, signs
from torch import nn

import imac_torch as imac
from imac_torch.devices.effects import LogNormal
from imac_torch.errors import SolverError
from imac_torch.finfet import FinFET, builtin_14nm_hp
from imac_torch.model.network import evaluating
from imac_torch.numeric.modes import lasting, once

MATCHED = LOGISTIC.replace(mapping=imac.WeightMapping(levels=17, scheme="matched"))
INPUTS = seeded(lambda: 2.0 * torch.rand(6, 1, 4, 4) - 1.0)
LABELS = torch.arange(6) % 3


def cnn() -> nn.Sequential:
    """With all that differs between the modes: batch statistics and dropout."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Sigmoid(), nn.Dropout(0.5), nn.Flatten(),
            nn.Linear(18, 4), nn.Sigmoid(), nn.Linear(4, 3),
        )
    )  # fmt: skip


def variation(network):
    model = imac.DeviceModel((LogNormal(0.1),))
    return imac.MonteCarlo(network, model).run(INPUTS, LABELS, samples=2, keep_outputs=True)


ANALYSES = {
    "solve": lambda network: network.solve(INPUTS).outputs,
    "voltages": lambda network: network.voltages(INPUTS),
    "evaluate": lambda network: imac.evaluate(
        network, loader(INPUTS, LABELS), progress=False
    ).outputs,
    "montecarlo": lambda network: variation(network).outputs,
    "ablate": lambda network: torch.tensor(
        [step.output_error for step in imac.ablate(network, INPUTS, LABELS)]
    ),
    "calibrate": lambda network: (
        imac.calibrate(network, INPUTS, rounds=1), network.layers[0].matrix.trim.clone()
    )[1],
    "measure": lambda network: network.measure(INPUTS[:2]).latency.outputs,
    "transient": lambda network: network.transient(INPUTS[:2]).outputs,
}  # fmt: skip


@pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES.keys())
@pytest.mark.filterwarnings("ignore")
def test_training_mode_is_evaluation_mode_to_every_analysis(analysis):
    training, still = imac.convert(cnn(), MATCHED), imac.convert(cnn(), MATCHED).eval()
    training.train()
    training.digital[1].eval()  # every module has a mode of its own
    modes = [part.training for part in training.modules()]
    before = {name: value.clone() for name, value in training.digital.named_buffers()}
    torch.testing.assert_close(analysis(training), analysis(still), rtol=0, atol=0, equal_nan=True)
    assert modes == [part.training for part in training.modules()]
    for name, value in training.digital.named_buffers():
        assert torch.equal(value, before[name])


def test_modes_come_back_after_an_exception_and_forward_trains():
    wide = LOGISTIC.replace(supplies=imac.Supplies(input_scale=2.0))  # dropout doubles
    network = imac.convert(cnn(), wide).train()
    with pytest.raises(KeyError), evaluating(network):
        assert not any(part.training for part in network.modules())
        raise KeyError
    assert all(part.training for part in network.modules())
    mean = network.digital[1].running_mean.clone()
    network(INPUTS)
    assert not torch.equal(mean, network.digital[1].running_mean)


# Inference mode


def gradients(network):
    network.zero_grad()
    network(INPUTS).square().sum().backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", [LOGISTIC, MATCHED], ids=["plain", "matched"])
def test_training_after_inference_mode(config):
    expected = gradients(imac.convert(cnn(), config).eval())
    network = imac.convert(cnn(), config).eval()
    with torch.inference_mode():
        for _ in range(2):
            network(INPUTS)
        network.measure(INPUTS[:1])
        variation(network)
        imac.ablate(network, INPUTS, LABELS)
        made = imac.convert(cnn(), config).eval()
    for item in (network, made):
        assert not any(value.is_inference() for value in item.state_dict().values())
        for found, wanted in zip(gradients(item), expected, strict=True):
            assert torch.equal(found, wanted)


def test_what_is_shared_by_a_process_is_made_outside_of_inference_mode():
    # The tables of transistors are filled once per process: it takes a fresh one.
    code = (
        "import torch, imac_torch as imac; from torch import nn\n"
        "make = lambda: imac.convert(nn.Sequential(nn.Linear(3, 2), imac.InverterSigmoid(), "
        "nn.Linear(2, 2)))\n"
        "x = torch.ones(1, 3)\n"
        "with torch.inference_mode():\n"
        "    network = make(); network(x); network.measure(x)\n"
        "network(x).sum().backward(); make()(x).sum().backward()\n"
        "v = x.clone().requires_grad_(); network.requires_grad_(False)(v).sum().backward()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_lasting_leaves_modes_as_they_were():
    with torch.inference_mode():
        with lasting():
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        with lasting():
            pass
        assert not torch.is_grad_enabled()


# Second derivatives


def test_once_is_transparent_to_first_derivatives_and_to_what_is_linear():
    x = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(once(x * x), x, weight, create_graph=True)
    torch.testing.assert_close(first.detach(), torch.tensor([4.0, 6.0], dtype=torch.float64))
    # by the incoming gradient: the Jacobian's transpose, right
    (jacobian,) = torch.autograd.grad(first.sum(), weight, retain_graph=True)
    torch.testing.assert_close(jacobian, first.detach())
    with pytest.raises(SolverError, match="second derivative"):
        torch.autograd.grad(first.sum(), x)


# Forward derivatives, transforms, reduced precision


@pytest.mark.filterwarnings("ignore")
def test_forward_derivatives_and_transforms_are_refused_and_autocast_changes_nothing():
    network, x = imac.convert(mlp(4, 3, 2), LOGISTIC), 0.9 * signs(3, 4).double()
    expected = network(x).detach()

    def one(v):
        return network(v[None])[0]

    def dual():
        with torch.autograd.forward_ad.dual_level():
            network(torch.autograd.forward_ad.make_dual(x, x))

    named = dict(network.named_parameters())
    asked = {
        "jvp": lambda: torch.func.jvp(network, (x,), (x,)),
        "jacfwd": lambda: torch.func.jacfwd(one)(x[0]),
        "jacrev": lambda: torch.func.jacrev(one)(x[0]),
        "vmap": lambda: torch.func.vmap(one)(x),
        "dual": dual,
        "weights": lambda: torch.func.grad(
            lambda values: torch.func.functional_call(network, values, (x,)).sum()
        )(named),
    }
    for call in asked.values():
        with pytest.raises(SolverError, match="differentiated backwards"):
            call()
    jacobian = torch.autograd.functional.jacobian(one, x[0])
    step = 1e-5 * torch.eye(4, dtype=torch.float64)
    differences = (network(x[0] + step) - network(x[0] - step)).T / 2e-5
    # rounding of 1e-16 over 2e-5, and the step's third order
    torch.testing.assert_close(jacobian, differences.detach(), rtol=0, atol=1e-9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(x), expected)


def finfet(v):
    return FinFET(builtin_14nm_hp()[0]).currents(v, 0.5 * v, 0.0, 0.0).drain


SECOND = {
    "inputs": (LOGISTIC, False, False),
    "inputs, FinFET": (imac.Config(), False, False),
    "inputs, powers": (LOGISTIC, False, True),
    "weights": (LOGISTIC, True, False),
    "weights, matched": (MATCHED, True, False),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("config", "weights", "power"), SECOND.values(), ids=SECOND.keys())
def test_second_derivatives_of_networks_are_refused(config, weights, power):
    network = imac.convert(mlp(4, 3, 2), config)
    x = signs(2, 4).double().requires_grad_()
    solution = network.requires_grad_(weights).solve(x)
    value = solution.power.total.sum() if power else solution.outputs.sum()
    by = network.layers[0].weight if weights else x
    (first,) = torch.autograd.grad(value, by, create_graph=True)
    with pytest.raises(SolverError, match="second derivative"):
        torch.autograd.grad(first.square().sum(), by)


def test_second_derivatives_of_transistors_and_ideal_layers_are_refused():
    bias = torch.tensor([0.6], dtype=torch.float64, requires_grad=True)
    layer = imac.convert(mlp(4, 3, 2), MATCHED).layers[0]
    for value, by in ((finfet(bias), bias), (layer(signs(2, 4)).sum(), layer.weight)):
        (first,) = torch.autograd.grad(value, by, create_graph=True)
        with pytest.raises(SolverError, match="second derivative"):
            torch.autograd.grad(first.square().sum(), by)


# Types and generators


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_outputs_and_gradients_have_the_type_of_the_input(dtype):
    network = imac.convert(mlp(4, 3, 2), LOGISTIC)
    exact = network(signs(2, 4).double())
    x = signs(2, 4).to(dtype).requires_grad_()
    found = network(x)
    found.sum().backward()
    assert found.dtype == x.grad.dtype == dtype
    assert network.solve(x).outputs.dtype == torch.float64
    assert torch.equal(found, exact.to(dtype))  # signs are exact in every type: one rounding
    layer = network.layers[0]
    assert layer(x).dtype == dtype
    assert torch.equal(layer(signs(2, 4).to(torch.int8)), layer(signs(2, 4).double()))


def test_torchs_generator_is_left_alone(tmp_path):
    model = cnn().append(nn.BatchNorm1d(3))
    state = torch.get_rng_state()
    network = imac.convert(model, LOGISTIC)
    imac.to_software(network)
    imac.load(imac.save(network, tmp_path / "network.safetensors"))
    assert torch.equal(state, torch.get_rng_state())
