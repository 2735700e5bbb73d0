"""Models that are not what they seem: what the next forward computes is converted, or refused."""

from __future__ import annotations

import re
import threading
import warnings
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from small_networks import CONTINUOUS, LOGISTIC, mlp, seeded
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from imac_torch import (
    Config,
    DeviceModel,
    IMACLinear,
    MonteCarlo,
    Supplies,
    WeightMapping,
    convert,
    load,
    save,
    to_software,
)
from imac_torch.devices.effects import LogNormal, Stuck
from imac_torch.errors import ConversionError, ConversionWarning, DataError
from imac_torch.study.sources import open_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
WIDE = CONTINUOUS.replace(supplies=Supplies(input_scale=50.0))
VECTORS = torch.linspace(-1, 1, 5 * 8).sin().reshape(5, 8)
IMAGES = torch.linspace(-1, 1, 5 * 25).cos().reshape(5, 1, 5, 5)


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


class Twice(nn.Module):
    """A parametrisation that is another one in training mode."""

    def forward(self, weight):
        return 3.0 * weight if self.training else 2.0 * weight


def doubled(layer):
    parametrize.register_parametrization(layer, "weight", Twice())
    return layer


RECOMPUTED = {
    "pruning": pruned,
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "parametrised weight_norm": parametrizations.weight_norm,
    "parametrised spectral_norm": parametrizations.spectral_norm,
    "parametrisation of one's own": doubled,
    "pruned twice": lambda layer: pruned(pruned(layer)),
    "pruned inside weight_norm": lambda layer: (
        prune.l1_unstructured(weight_norm(layer), "weight_v", 0.5)
    ),
}


def stepped(model, x):
    """The model in training mode after a step of an optimiser, no forward since."""
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), 0.3)
    model(x).square().mean().backward()
    optimiser.step()
    return model


def equal_to_software(network, model, x):
    """Whether the devices stand for what the model computes in evaluation mode, to float32."""
    found = to_software(network.eval())(x.double())
    expected = model.eval()(x).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("place", ["linear", "with BatchNorm", "front", "state dict"])
@pytest.mark.parametrize("kind", RECOMPUTED)
def test_weights_are_those_of_the_next_forward(kind, place, tmp_path):
    wrap = RECOMPUTED[kind]

    def make():
        if place == "front":
            return nn.Sequential(
                wrap(nn.Conv2d(1, 2, 3)), nn.ReLU(), nn.Flatten(), wrap(nn.Linear(18, 3))
            )
        norm = [nn.BatchNorm1d(6)] if place == "with BatchNorm" else []
        return nn.Sequential(wrap(nn.Linear(8, 6)), *norm, nn.Sigmoid(), nn.Linear(6, 3))

    x = IMAGES if place == "front" else VECTORS
    model = stepped(seeded(make), x)
    if place == "state dict":
        trained, model = model, seeded(make, seed=4)
        model(x)
        model.load_state_dict(trained.state_dict())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = convert(model, WIDE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        equal_to_software(network, model, x)
        path = save(network, tmp_path / "n.safetensors")
        assert torch.equal(load(path)(x), network(x))
    network(x).sum().backward()  # and what stays in software can still learn
    MonteCarlo(network, DeviceModel((LogNormal(0.05),))).realise(0)


class Net(nn.Sequential):
    """A Sequential with nothing of its own."""

    def __init__(self):
        super().__init__(OrderedDict(a=nn.Linear(8, 6), b=nn.Sigmoid(), c=nn.Linear(6, 3)))


class Plain(nn.Linear):
    """A Linear with nothing of its own."""


def averaged():
    model = mlp(8, 6, 3, activation=nn.Sigmoid)
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    average.update_parameters(mlp(8, 6, 3, activation=nn.Sigmoid, seed=9))
    return average


def structured():
    """Half of the hidden neurons are cut out, the counts still those of before."""
    model = mlp(8, 6, 3, activation=nn.Sigmoid)
    model[0].weight = nn.Parameter(model[0].weight[::2].detach())
    model[0].bias = nn.Parameter(model[0].bias[:1].detach())
    model[2].weight = nn.Parameter(model[2].weight[:, ::2].detach())
    return model


def lazily_loaded():
    model = nn.Sequential(nn.LazyLinear(6), nn.Sigmoid(), nn.LazyLinear(3))
    model.load_state_dict(mlp(8, 6, 3).state_dict())
    return model


def locked():
    model = mlp(8, 6, 3, activation=nn.Sigmoid)
    model.lock = model[0].lock = threading.Lock()
    return model


class Restless(nn.BatchNorm1d):
    """Statistics of the batch in evaluation mode, too."""

    def train(self, mode=True):
        return super().train()


class Frozen(nn.BatchNorm1d):
    """Statistics that training does not move."""

    def train(self, mode=True):
        return super().train(False)


def lasting_inside():
    """The model's own eval leaves a part of torch's in training mode."""
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    model.eval = lambda: model
    return model


FINE = {
    "frozen BatchNorm": lambda: nn.Sequential(nn.Linear(8, 6), Frozen(6), nn.Linear(6, 3)).train(),
    "subclass of Sequential": Net,
    "nested subclass": lambda: nn.Sequential(nn.Flatten(), Net()),
    "subclass of Linear": lambda: nn.Sequential(Plain(8, 6), nn.Sigmoid(), Plain(6, 3)),
    "DataParallel": lambda: nn.DataParallel(mlp(8, 6, 3, activation=nn.Sigmoid)),
    "AveragedModel": averaged,
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "compiled inside": lambda: nn.Sequential(torch.compile(Net(), backend="eager"), nn.Identity()),
    "all dropouts": lambda: nn.Sequential(
        nn.Linear(8, 6), nn.AlphaDropout(), nn.Sigmoid(), nn.FeatureAlphaDropout(), nn.Linear(6, 3)
    ),
    "half": lambda: mlp(8, 6, 3, activation=nn.Sigmoid).bfloat16().float(),
    "structured pruning": structured,
    "lazy, from a state dict": lazily_loaded,
    "cannot be copied": locked,
}


@pytest.mark.parametrize("name", FINE)
@torch.no_grad()
def test_models_that_only_look_odd(name):
    model = seeded(FINE[name])
    equal_to_software(convert(model, WIDE), model, VECTORS)


class Half(nn.Linear):
    def forward(self, x):
        return 0.5 * super().forward(x)


class Called(nn.Linear):
    def __call__(self, x):
        return -super().__call__(x)


class Own(nn.Sequential):
    def forward(self, x):
        return 2.0 * super().forward(x)


class Backwards(nn.Sequential):
    def __iter__(self):
        return iter(list(self._modules.values())[::-1])


class Mine(IMACLinear):
    def target(self):
        return super().target()


def own(kind, *arguments):
    """A module of a subclass of ``kind`` with a forward of its own."""

    class Changed(kind):
        def forward(self, x):
            return -3.0 * x

    return Changed(*arguments)


def middle(*modules):
    return nn.Sequential(nn.Linear(8, 6), *modules, nn.Linear(6, 3))


def hooked(model, path="", *, before=False):
    module = model.get_submodule(path)
    if before:
        module.register_forward_pre_hook(lambda _, inputs: (-inputs[0],))
    else:
        module.register_forward_hook(lambda _, inputs, output: -output)
    return model


def replaced():
    model = mlp(8, 6, 3)
    model[0].forward = lambda x: x[:, :6]
    return model


def nan_bias():
    model = mlp(8, 3)
    model[0].bias.data[1] = float("nan")
    return model


REFUSED = {
    "__call__": (lambda: nn.Sequential(Called(8, 3)), r"0 \(Called 8→3\).*__call__"),
    "parametrised": (lambda: nn.Sequential(doubled(Half(8, 3))), "has a forward of its own"),
    "IMACLinear": (lambda: nn.Sequential(Mine(8, 3)), r"a target of its own \(Mine.target\)"),
    "hook of all": (lambda: hooked(mlp(8, 6, 3)), r"Sequential \(Sequential\).*forward hooks"),
    "hook of a wrapper": (lambda: hooked(nn.DataParallel(mlp(8, 3))), "forward hooks"),
    "TorchScript": (lambda: torch.jit.script(nn.Sequential(nn.Linear(8, 3))), "TorchScript"),
    "lasting training": (lasting_inside, r"0 \(Linear\) stays in training mode"),
    "bias": (nan_bias, r"0: bias \[1\] is nan"),
    "meta": (lambda: nn.Sequential(nn.Linear(8, 3, device="meta")), r"0\.weight is on the device"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_computes_something_else_is_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises(ConversionError, match=message):
        convert(seeded(make), WIDE)


STAYING = {
    "Linear": (lambda: nn.Sequential(nn.Linear(8, 6), nn.Sigmoid(), Half(6, 3)), r"2 \(Half 6→3\)"),
    "Dropout": (lambda: middle(own(nn.Dropout)), r"1 \(Changed\).*forward of its own"),
    "Flatten": (lambda: middle(own(nn.Flatten)), r"1 \(Changed\).*forward of its own"),
    "BatchNorm": (lambda: middle(own(nn.BatchNorm1d, 6)), r"1 \(Changed\).*forward of its own"),
    "activation": (lambda: middle(own(nn.Tanh)), r"1 \(Changed\).*forward of its own"),
    "hook": (lambda: hooked(mlp(8, 6, 3), "0"), r"0 \(Linear 8→6\).*forward hooks"),
    "mode": (lambda: middle(Restless(6)), r"1 \(Restless\).*stays in training mode"),
    "pre-hook": (lambda: hooked(mlp(8, 6, 3), "1", before=True), r"1 \(Inv.*forward pre-hooks"),
    "instance": (replaced, r"0 \(Linear 8→6\).*replaced on the instance"),
    # followed call by call, so that there is nothing to say
    "Sequential": (lambda: nn.Sequential(Own(nn.Linear(8, 6), nn.Sigmoid())), None),
    "order": (lambda: middle(Backwards(nn.Sigmoid(), nn.Dropout())), None),
    "traced": (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 3))), None),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYING)
@torch.no_grad()
def test_what_computes_something_else_stays_in_software_and_is_named(name):
    make, message = STAYING[name]
    model = seeded(make).eval()
    if message is not None:  # in a Sequential only if one asks for it
        with pytest.raises(ConversionError, match=f"{message}.*include=torch.nn.Module"):
            convert(model, WIDE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        network = convert(model, WIDE, include=nn.Module)
    said = " ".join(str(item.message) for item in caught)
    assert "stays in software" not in said if message is None else re.search(message, said)
    expected = model(VECTORS)
    torch.testing.assert_close(network.software(VECTORS), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_excluded_layers_keep_what_is_their_own():
    model = seeded(lambda: nn.Sequential(Half(8, 6), nn.Sigmoid(), nn.Linear(6, 3)))
    equal_to_software(convert(model, WIDE, exclude=["0"]), model, VECTORS)


def test_hooks_of_the_whole_process_are_refused():
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(ConversionError, match="all modules"):
            convert(mlp(8, 3), WIDE)
    finally:
        handle.remove()


def test_a_front_that_cannot_be_copied_is_named():
    front = nn.Tanhshrink()
    front.lock = threading.Lock()
    with pytest.raises(ConversionError, match=r"0 \(Tanhshrink\) cannot be copied"):
        convert(nn.Sequential(front, nn.Linear(8, 3)), WIDE)


@torch.no_grad()
def test_fronts_with_something_of_their_own_are_asked_for(tmp_path):
    model = hooked(seeded(lambda: nn.Sequential(nn.Hardtanh(), nn.Linear(8, 3))), "0")
    network = convert(model, WIDE).eval()
    with pytest.warns(ConversionWarning, match=r"Hardtanh before the circuit.*digital="):
        path = save(network, tmp_path / "n.safetensors")
    with pytest.raises(DataError, match="digital="):
        load(path)
    assert torch.equal(load(path, model)(VECTORS), network(VECTORS))


# Bias


@pytest.mark.parametrize("levels", ["binary", "ternary", 4, (-1.0, -0.2, 0.3, 1.0), "continuous"])
@pytest.mark.parametrize("scheme", ["unilateral", "balanced"])
@torch.no_grad()
def test_without_a_bias_circuits_are_odd(levels, scheme):
    """tanh and read-outs without bias: f(-x) = -f(x), with wires and with faulty devices too."""
    model = seeded(lambda: nn.Sequential(
        nn.Linear(8, 6, bias=False), nn.Tanh(), nn.Linear(6, 3, bias=False)
    ))  # fmt: skip
    config = Config(mapping=WeightMapping(levels=levels, scheme=scheme))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        network = convert(model, config)
    for layer in network.analog_layers():
        assert not bool(layer.matrix.quantized().values[:, -1].any())
        assert not bool(layer.matrix.conductances().positive[:, -1].any())
        assert not bool(layer.effective_weights()[1].any())
    faulty = DeviceModel((Stuck(on=0.2, open=0.1), LogNormal(0.2)))
    for built in (network, MonteCarlo(network, faulty).realise(0)):
        found = built(VECTORS)
        # Newton's method ends below 1e-9 V
        torch.testing.assert_close(built(-VECTORS), -found, rtol=0, atol=1e-9)
        assert float(found.abs().max()) > 1e-3


def test_errors_of_weights_and_bias_are_said_apart():
    """A bias of 10 beside weights of 0.1: ternary levels keep the one and lose the others."""
    linear = nn.Linear(8, 4)
    with torch.no_grad():
        linear.weight.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
        linear.bias.fill_(10.0)
    with pytest.warns(ConversionWarning, match=r"0: rounding .* weights by 100 %.*the bias"):
        network = convert(nn.Sequential(linear, nn.Sigmoid()), LOGISTIC)
    found = next(network.analog_layers()).matrix.quantized()
    assert (found.error, found.bias_error) == (1.0, 0.0)
    words = "rms error of the weights 100 % of their rms, of the bias 0 %"
    assert words in network.records[0].detail
    assert "rms error of the" in " ".join(network.summary().split())


def test_zeros_that_are_no_level_are_said():
    linear = nn.Linear(100, 4)
    with torch.no_grad():
        linear.weight.sign_()[:, 7] = 0.0
        linear.bias.sign_()
    binary = LOGISTIC.replace(mapping=WeightMapping(levels="binary"))
    with pytest.warns(ConversionWarning, match="0: 4 of its weights and biases are 0"):
        convert(nn.Sequential(linear), binary)


# From files


@pytest.mark.parametrize("wrap", [pruned, weight_norm])
@pytest.mark.parametrize("built", ["alike", "plain"])
def test_weights_of_a_file_are_put_where_they_belong(wrap, built, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"factory_of_{wrap.__name__}_{built}"
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\nfrom torch.nn.utils import prune, weight_norm\n"
        "def pruned(k):\n    prune.l1_unstructured(k, 'weight', 0.5)\n    return k\n"
        "def plain():\n    return nn.Sequential(nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 3))\n"
        f"def alike():\n    m = plain()\n    {wrap.__name__}(m[0])\n    return m\n"
        "def other():\n    return nn.Sequential(nn.Linear(8, 3))\n"
    )
    model = mlp(8, 6, 3, activation=nn.Sigmoid)
    wrap(model[0])
    stepped(model, VECTORS)
    path = tmp_path / "w.safetensors"
    save_file({f"module.{name}": t.contiguous() for name, t in model.state_dict().items()}, path)
    found = open_model(f"{name}:{built}", weights=path).software
    with torch.no_grad():
        equal_to_software(convert(found, WIDE), model, VECTORS)
    with pytest.raises(DataError, match=r"0\.weight"):
        open_model(f"{name}:other", weights=path)


def test_a_sequential_with_a_forward_of_its_own_is_traced_when_it_can_be_compared():
    model = seeded(lambda: Own(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3)))
    x = torch.linspace(-1, 1, 16).reshape(2, 8)
    with pytest.raises(ConversionError, match=r"Own is a subclass of Sequential.*forward.*samples"):
        convert(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for network in (convert(model, samples=x), convert(model, include=nn.Module)):
            torch.testing.assert_close(network.software(x), model(x))
