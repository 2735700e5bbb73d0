"""Calibration, ablation, Monte Carlo and transients of models with several circuits."""

import math
import warnings

import pytest
import torch
from small_networks import seeded
from torch import nn

import imac_torch as imac
from imac_torch import Config, Converter, Driver, Interconnect, Memristor, WeightMapping, convert
from imac_torch.conversion import calibration
from imac_torch.datasets.metrics import tensors_in
from imac_torch.devices.effects import LogNormal
from imac_torch.devices.model import DeviceModel
from imac_torch.errors import CircuitError, ConversionError, DataError, MappingError, SolverError
from imac_torch.model.walk import walk
from imac_torch.reports.model_report import ModelReport
from imac_torch.transient.integrator import StepControl
from imac_torch.transient.options import TimingOptions, TransientOptions

pytestmark = [
    pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning"),
    pytest.mark.filterwarnings("ignore::imac_torch.errors.SettingWarning"),
]


class Mixed(nn.Module):
    """A depthwise and a plain convolution, a layer that is called twice, a head of two."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv2d(2, 4, 2, groups=2)
        self.conv = nn.Conv2d(4, 4, 2)
        self.fc = nn.Linear(4, 4)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x):
        x = nn.functional.gelu(self.deep(x))
        x = nn.functional.gelu(self.conv(x)).mean((2, 3))
        x = x + nn.functional.gelu(self.fc(x))
        return self.head(nn.functional.gelu(self.fc(x)))


LOSSY = {
    "device": Memristor.preset("RRAM"),
    "interconnect": Interconnect.preset(9e-9, "1T1R"),
}
MATCHED = Config(**LOSSY, mapping=WeightMapping(levels=17, scheme="matched"))


@pytest.fixture(scope="module")
def x():
    return torch.randn(24, 2, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return seeded(Mixed)


def off(network, model, x) -> float:
    with torch.no_grad():
        found, wanted = network(x).double(), model(x).double()
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    return float((found - wanted).square().mean().sqrt() / spread)


def state(network):
    return {name: item.clone() for name, item in network.state_dict().items()}


def same(network, before) -> bool:
    return all(
        torch.equal(item.nan_to_num(), before[name].nan_to_num())
        for name, item in network.state_dict().items()
    )


@pytest.mark.parametrize("after", ["segment", "partition"])
def test_every_circuit_is_calibrated_and_the_model_is_closer(model, x, after) -> None:
    config = MATCHED.replace(converter=Converter(kind="sar", bits=8, after=after))
    network = convert(model, config, samples=x, rounds=0)
    before = off(network, model, x)
    records = imac.calibrate(network, [x[:16], x[16:]], rounds=1)
    assert [item.layer for item in records] == ["deep", "conv", "fc", "head.0", "head.2"]
    assert off(network, model, x) < 0.7 * before
    assert all(item.error_after <= item.error_before for item in records)
    told = [record.detail for record in network.records if record.target == "analog"]
    assert sum("calibrated, its outputs were off by" in text for text in told) == 5
    # The ranges of converters are those of the circuits as they are now.
    ends = {path: segment.range.ends for path, segment in network.segments.items()}
    network.find_converter_ranges([((x[:16],), {}), ((x[16:],), {})])
    assert ends == {path: segment.range.ends for path, segment in network.segments.items()}


def test_conversion_with_samples_calibrates(model, x) -> None:
    bare = convert(model, MATCHED, samples=x, rounds=0)
    network = convert(model, MATCHED, samples=x)
    assert off(network, model, x) < off(bare, model, x)
    again = convert(model, MATCHED, samples=x)
    assert same(again, state(network))


def test_what_is_no_better_is_taken_back(model, x, monkeypatch) -> None:
    """Every circuit by itself looks better, the model is not: all of it is as it was."""
    network = convert(model, MATCHED, samples=x, rounds=0)
    before = state(network)

    def spoil(segment, wanted, rounds, advance):
        given = calibration._State.of(segment, wanted)
        segment.first.matrix.trim += 0.5
        return given, given

    with monkeypatch.context() as patch:
        patch.setattr(calibration, "_fit", spoil)
        records = imac.calibrate(network, x)
    assert same(network, before) or all(
        layer.calibrated_error is not None for layer in network.analog_layers()
    )
    assert not any(bool(layer.matrix.trim.any()) for layer in network.analog_layers())
    assert all(item.error_after == item.error_before for item in records)
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "search", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            imac.calibrate(network, x)
    assert not any(bool(layer.matrix.trim.any()) for layer in network.analog_layers())
    with pytest.raises(MappingError, match="scheme = 'matched'"):
        imac.calibrate(convert(model, samples=x), x)


def test_steps_of_a_model(model, x) -> None:
    config = Config(
        **LOSSY, mapping=WeightMapping(levels=17), driver=Driver(kind="dac", bits=5),
        converter=Converter(kind="sar", bits=5),
    )  # fmt: skip
    network = convert(model, config, samples=x)
    before = state(network)
    targets = torch.arange(24) % 3
    steps = {step.name: step for step in imac.ablate(network, [x[:16], x[16:]], targets)}
    assert same(network, before)
    assert list(steps) == [
        "software", "clipping", "mapping", "quantisation", "variation", "neuron", "loading",
        "wires", "partitioning", "calibration", "drivers", "converters",
    ]  # fmt: skip
    assert steps["software"].output_error == pytest.approx(0.0, abs=1e-6)
    assert steps["clipping"].output_error == pytest.approx(0.0, abs=1e-6)
    # Continuous weights without wires are the software model (float32, and clipped nowhere).
    assert steps["mapping"].output_error < 1e-3
    assert steps["converters"].output_error == pytest.approx(off(network, model, x), rel=1e-4)
    with torch.no_grad():
        right = (network(x).argmax(1) == targets).double().mean()
    assert steps["converters"].accuracy == float(right)
    # Each of the following is another network that is converted for it.
    for name, changes in {
        "partitioning": {},
        "loading": {"interconnect": config.interconnect.replace(resistance=False)},
    }.items():
        ideal = config.replace(driver=Driver(), converter=Converter(), **changes)
        other = convert(model, ideal, samples=x)
        assert steps[name].output_error == pytest.approx(off(other, model, x), rel=1e-4)
    # Without wires, neurons that nothing loads are the rounded weights: the neuron's step, too.
    rounded = steps["quantisation"].output_error
    assert steps["neuron"].output_error == pytest.approx(rounded, rel=0.05)
    # All 12 positions of 24 images are among the drawn vectors: one channel after the other.
    deep = other.segments["deep"]
    with torch.no_grad():
        found, wanted = (
            item.double().movedim(1, -1).flatten(0, -2) for item in (deep(x), deep.software(x)[-1])
        )
    spread = (wanted - wanted.mean(0)).square().mean().sqrt()
    error = float((found - wanted).square().mean().sqrt() / spread)
    assert steps["loading"].layer_errors[0] == pytest.approx(error, rel=1e-4)
    assert all(math.isfinite(item) for step in steps.values() for item in step.layer_errors)


def test_steps_in_the_users_metric(model, x) -> None:
    network = convert(model, samples=x)
    with torch.no_grad():
        targets = model(x)

    def mse(outputs, wanted):
        return (outputs - wanted).square().mean()

    steps = imac.ablate(network, x, targets, metric=mse)
    assert steps[0].score == pytest.approx(0.0, abs=1e-9)
    with torch.no_grad():
        assert steps[-1].score == pytest.approx(float(mse(network(x), targets)), rel=1e-4)
    assert math.isnan(steps[-1].accuracy)
    with pytest.raises(DataError, match="do not match"):
        imac.ablate(network, x, [targets, targets])


def test_samples_of_devices_in_a_model(model, x) -> None:
    network = convert(model, Config(**LOSSY), samples=x)
    before = state(network)
    trial = imac.MonteCarlo(network, DeviceModel((LogNormal(0.2),)), seed=3)
    targets = torch.arange(24) % 3
    found = trial.run(x, targets, samples=3, keep_outputs=True)
    assert same(network, before)
    for sample in range(3):
        with torch.no_grad():
            outputs = trial.realise(sample)(x)
            nominal = network(x)
        assert torch.allclose(found.outputs[sample], outputs, atol=1e-6)
        right = (outputs.argmax(1) == targets).double().mean()
        assert float(found.accuracy[sample]) == float(right)
        rms = float((outputs - nominal).double().square().mean().sqrt())
        assert float(found.error[sample]) == pytest.approx(rms, rel=1e-4)
    assert len({float(error) for error in found.error}) == 3
    parts = [trial.run(x, targets, samples=n, first=k) for k, n in ((0, 1), (1, 2))]
    joined = type(found).joined(parts)
    assert torch.equal(joined.error, found.error)
    assert joined.outputs is None


def test_amplifiers_of_a_sample_differ(model, x) -> None:
    config = Config(**LOSSY).replace(
        amplifier=imac.Amplifier(kind="transimpedance", offset_spread=2e-3)
    )
    whole = nn.Sequential(nn.Linear(40, 4), nn.GELU(), nn.Linear(4, 2))
    flat = x.flatten(1)
    network = convert(whole, config, samples=flat, generator=torch.Generator().manual_seed(0))
    trial = imac.MonteCarlo(network, seed=1)
    found = trial.run(flat, samples=2)
    offsets = [trial.realise(sample).segments["0"].first.matrix.offsets for sample in (0, 0, 1)]
    assert torch.equal(offsets[0], offsets[1]) and not torch.equal(offsets[0], offsets[2])
    assert float(offsets[0].std()) == pytest.approx(2e-3, rel=0.5)
    assert bool((found.error > 0.0).all())


COARSE = TransientOptions(wires="reduced", control=StepControl(tolerance=1e-3))


def test_settling_of_a_model(model, x, tmp_path) -> None:
    wires = Interconnect.preset(9e-9, "1T1R").replace(capacitance=True)
    network = convert(model, Config(device=LOSSY["device"], interconnect=wires), samples=x)
    targets = torch.arange(24) % 3
    report = imac.evaluate(
        network, [(x, targets)], timing=TimingOptions(COARSE, samples=3), progress=False
    )
    by_path = {item.path: item for item in report.segments}
    for path, item in by_path.items():
        assert item.settling["vectors"] == 3
        assert 0.0 < item.settling["median"] <= item.settling["worst"]
        period = network.segments[path].pace.period
        assert item.settled == pytest.approx(
            item.latency * item.settling["worst"] / period, rel=1e-6, abs=0
        )
    assert by_path["deep"].settling["groups"] == 2
    # One circuit follows the other.
    assert report.settled == pytest.approx(
        sum(item.settled for item in report.segments), rel=1e-6, abs=0
    )
    assert "settled" in str(report)
    loaded = ModelReport.load(report.save(tmp_path / "run"))
    assert (loaded.settled, loaded.segments) == (report.settled, report.segments)
    partitions = convert(
        model, Config(converter=Converter(kind="sar", bits=8, after="partition")), samples=x
    )
    with pytest.raises(SolverError, match="deep: converters stand behind its read-outs"):
        imac.evaluate(partitions, [(x, targets)], timing=True, progress=False)


class Two(nn.Module):
    """Two inputs, outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x, y):
        hidden = nn.functional.gelu(self.left(x)) * self.right(y)
        return {"one": self.last(hidden), "other": [hidden.sum(1)]}


class Tied(nn.Module):
    """Weights that are another layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(nn.functional.gelu(self.one(x)))


class Twice(nn.Module):
    """A layer that is used at two sizes, one after dropout, of half precision where asked."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.fc = nn.Conv1d(1, 2, 2), nn.Dropout(0.5), nn.Linear(2, 3)

    def forward(self, x):
        x = x[:, None]
        both = self.conv(x).mean(2) + self.drop(self.conv(x[..., ::2])).mean(2)
        return self.fc(nn.functional.gelu(both))


class ByValue(nn.Module):
    """How often its layer is called depends on what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        for _ in range(5):
            if float(x.abs().max()) < self.limit:
                break
            x = 0.9 * nn.functional.gelu(self.fc(x))
        return self.last(x)


def tensors(outputs):
    return [item.detach().double().flatten() for item in tensors_in(outputs)]


@pytest.mark.parametrize(
    ("kind", "given", "dtype"),
    [
        (Two, ((5, 4), (5, 3)), torch.float32),
        (Tied, ((5, 4),), torch.float64),
        (Twice, ((5, 4),), torch.bfloat16),
    ],
    ids=["two", "tied", "bfloat"],
)
def test_odd_models_too(kind, given, dtype, tmp_path) -> None:
    model = seeded(kind).to(dtype)
    generator = torch.Generator().manual_seed(2)
    inputs = tuple(torch.randn(*shape, generator=generator).to(dtype) for shape in given)
    network = convert(model, MATCHED, samples=[inputs], rounds=0)
    with torch.no_grad():
        wanted = model.eval()(*inputs)

    def metric(outputs, targets):
        pairs = zip(tensors(outputs), tensors(targets), strict=True)
        return sum(float((one - other).square().mean()) for one, other in pairs)

    report = imac.evaluate(network, [(inputs, wanted)], metric=metric, progress=False)
    assert len(report.segments) == len(network.segments)
    imac.calibrate(network, [inputs], rounds=1)
    after = imac.evaluate(network, [(inputs, wanted)], metric=metric, progress=False)
    assert after.score.circuit <= report.score.circuit
    steps = imac.ablate(network, [inputs], [wanted], metric=metric)
    # bfloat16 has 8 bits: outputs of two ways of adding differ in the last of them.
    close = 0.05 if dtype == torch.bfloat16 else 1e-6
    assert steps[0].output_error == pytest.approx(0.0, abs=close)
    assert steps[-1].score == pytest.approx(after.score.circuit, rel=0.05)
    trial = imac.MonteCarlo(network, DeviceModel((LogNormal(0.2),)), seed=3)
    found = trial.run([inputs], samples=1)
    with torch.no_grad():
        pairs = zip(tensors(trial.realise(0)(*inputs)), tensors(network(*inputs)), strict=True)
        rms = float(torch.cat([one - other for one, other in pairs]).square().mean().sqrt())
    assert float(found.error) == pytest.approx(rms, rel=1e-3)
    imac.save(network, tmp_path / "network.safetensors")
    loaded = imac.load(tmp_path / "network.safetensors", model)
    again = imac.evaluate(loaded, [(inputs, wanted)], metric=metric, progress=False)
    assert again.score == after.score


def test_circuits_that_are_called_otherwise_than_software_are_refused() -> None:
    model, x = seeded(ByValue), torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    model.limit = 0.0
    network = convert(model, MATCHED, samples=x, rounds=0)
    network.summary()  # chooses the gains
    before = state(network)
    calls = []
    # The circuit's first outputs end the loop, software's do not.
    network.segments["fc"].register_forward_hook(
        lambda segment, _, output: output * (segment.stand_in is not None or calls.append(1) or 0)
    )
    for part in network.modules():
        if isinstance(part, ByValue):
            part.limit = 1e-9
    with pytest.raises(CircuitError, match="fc: the model calls this circuit otherwise"):
        list(walk(network, [((x,), {})], torch.Generator()))
    assert same(network, before)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 2, device="meta"), "weight is on the device meta"),
        (nn.Sequential(nn.LazyLinear(2), nn.GELU()), "0.weight has no shape yet"),
    ],
)
def test_weights_without_values_are_refused(model, message) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(model, samples=torch.zeros(2, 3))


def test_a_circuit_that_nothing_reaches_changes_no_count() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.never, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.never(x) if float(x.sum()) > 1e6 else x)

    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    network = convert(seeded(Asks), MATCHED, samples=x, rounds=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is taken from this batch
        network(x)
    report = imac.evaluate(network, [(x, torch.zeros(6).long())], progress=False)
    assert [(item.path, item.uses) for item in report.segments] == [("last", 1)]
    assert imac.calibrate(network, x, rounds=1)[1].error_after < 1.0
    steps = imac.ablate(network, x)
    assert math.isnan(steps[-1].layer_errors[0]) and steps[-1].layer_errors[1] < 1.0
