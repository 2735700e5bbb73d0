"""Evaluation of models with several circuits: scores, energies, latencies by segment."""

import json
import math

import pytest
import torch
from small_networks import LOGISTIC, mlp, seeded
from torch import fx, nn

from imac_torch import Amplifier, Config, Crossbar, Timing, ablate, convert, evaluate
from imac_torch.errors import DataError, ImacError
from imac_torch.reports.html_report import write_report
from imac_torch.reports.model_page import render_model_report, saved_ablation
from imac_torch.reports.model_report import ModelReport, is_model_report
from imac_torch.reports.report import Report
from imac_torch.study.segments import critical_path

pytestmark = pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")


class Branches(nn.Module):
    """Two layers side by side, their sum, one more: three circuits."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 4), nn.Linear(5, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(nn.functional.gelu(self.left(x)) + self.right(x))


CONFIG = Config(timing=Timing(period=2e-9), amplifier=Amplifier(gain=50.0))


def network(model=None, config=CONFIG, samples=None):
    model = seeded(Branches) if model is None else model
    samples = torch.linspace(-1, 1, 40).reshape(8, 5) if samples is None else samples
    return model, convert(model, config, samples=samples), samples


@pytest.fixture(scope="module")
def branches():
    return network()


def batches(x, targets, size=3):
    return list(zip(x.split(size), targets.split(size), strict=True))


def test_scores_and_energy_by_circuit(branches) -> None:
    model, circuits, x = branches
    labels = torch.arange(8) % 3
    report = evaluate(circuits, batches(x, labels), reference=model, progress=False)
    assert isinstance(report, ModelReport)
    with torch.no_grad():
        answers, wanted = circuits(x).argmax(1), model(x).argmax(1)
    assert report.accuracy == pytest.approx(float((answers == labels).double().mean()))
    assert report.score.software == pytest.approx(float((wanted == labels).double().mean()))
    assert report.agreement == pytest.approx(float((answers == wanted).double().mean()))
    for item in report.segments:
        rows = circuits.inputs_of(item.path, x)[0]
        power = circuits.segments[item.path].solve(rows).power.total.mean()
        assert item.uses == 1
        spent = item.energy["arrays"] + item.energy["neurons"]
        assert spent == pytest.approx(float(power.detach()) * 2e-9)
        assert "amplifiers" in item.counted.ideal and "amplifiers" not in item.energy
        wanted = circuits.segments[item.path].software(rows)[-1]
        off = circuits.segments[item.path](rows) - wanted
        # Relative to what varies over everything: one mean, as one output is as good as another.
        assert item.error == pytest.approx(float(off.square().mean().sqrt() / wanted.std(
            correction=0)), rel=1e-5)  # fmt: skip
    # Branches work side by side, so that two circuits follow one another, not three.
    assert report.latency == pytest.approx(2 * 2e-9, rel=1e-6, abs=0)
    assert report.energy()["total"] == pytest.approx(
        sum(item.energy["arrays"] + item.energy["neurons"] for item in report.segments),
        rel=1e-6, abs=0,
    )


def test_positions_share_copies() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 2))
    x = torch.linspace(-1, 1, 60).reshape(2, 6, 5)  # six vectors per sample
    _, circuits, _ = network(model, CONFIG.replace(crossbar=Crossbar(copies=4)), x)
    mean = lambda outputs, targets: (outputs - targets).abs().mean()  # noqa: E731
    report = evaluate(circuits, [(x, model(x).detach())], metric=mean, progress=False)
    for item in report.segments:
        assert (item.uses, item.copies, item.latency) == (6, 4, pytest.approx(
            2 * 2e-9, rel=1e-6, abs=0
        ))
    _, single, _ = network(model, CONFIG, x)
    alone = evaluate(single, [(x, model(x).detach())], metric=mean, progress=False)
    assert report.area()["total"] == pytest.approx(4 * alone.area()["total"], rel=1e-6, abs=0)
    assert report.energy()["total"] == pytest.approx(alone.energy()["total"], rel=1e-6, abs=0)
    assert alone.latency == pytest.approx(12 * 2e-9, rel=1e-6, abs=0)


class Steps(nn.Module):
    """An output per step, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(5, 2)

    def forward(self, x):
        return self.rnn(x)[0]


def test_samples_come_first() -> None:
    x = torch.linspace(-1, 1, 30).reshape(2, 3, 5)
    mean = nn.functional.mse_loss
    model, circuits, _ = network(seeded(Steps), samples=x)
    with pytest.raises(DataError, match=r"rnn \(RNN\) takes \(2, 3, 5\), time first"):
        evaluate(circuits, [(x, model(x).detach())], metric=mean, progress=False)
    with pytest.raises(DataError, match=r"2 samples.*targets \(3, 2\) are not"):
        evaluate(circuits, [(x, torch.zeros(3, 2))], metric=mean, progress=False)
    model, circuits, _ = network(samples=x[0])
    with pytest.raises(DataError, match=r"left gets a single sample \(5,\)"):
        evaluate(circuits, [(x[0, 0], torch.zeros(5))], metric=mean, progress=False)


class Collecting:
    """As torchmetrics' metrics are used."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.values = []

    def update(self, outputs, targets) -> None:
        self.values.append((outputs - targets).square().flatten())

    def compute(self):
        return torch.cat(self.values).mean()


def test_metrics_of_the_users_own(branches) -> None:
    model, circuits, x = branches
    targets = model(x).detach() + 0.1
    pairs = batches(x, targets)

    def off(outputs, targets):
        return (outputs - targets).square().mean()

    mean = evaluate(circuits, pairs, reference=model, metric=off, progress=False)
    own = evaluate(circuits, pairs, reference=model, metric=Collecting(), progress=False)
    assert (mean.score.name, own.score.name) == ("off", "Collecting")
    # Three batches of 3, 3 and 2 samples: a mean over batches would be another number.
    assert mean.score.circuit == pytest.approx(own.score.circuit)
    assert mean.score.software == pytest.approx(0.01, rel=1e-5)
    with pytest.raises(DataError, match="score of this report is off"):
        mean.accuracy  # noqa: B018


def test_a_chain_with_a_metric_too() -> None:
    model = mlp(4, 3, 2, activation=nn.Sigmoid)
    circuits = convert(model, LOGISTIC)
    x = torch.linspace(0, 1, 16).reshape(4, 4)
    report = evaluate(
        circuits, [(x, model(x).detach())], metric=nn.functional.mse_loss, progress=False
    )
    assert isinstance(report, ModelReport)
    assert report.score.name == "mse_loss"
    with torch.no_grad():
        wanted = (circuits(x) - model(x)).square().mean()
    assert report.score.circuit == pytest.approx(float(wanted))


def test_what_is_no_classification_is_refused(branches) -> None:
    _, circuits, x = branches
    with pytest.raises(DataError, match="integer class indices"):
        evaluate(circuits, [(x, torch.zeros(8, 3))], progress=False)
    with pytest.raises(DataError, match="pair"):
        evaluate(circuits, [x], progress=False)
    with pytest.raises(DataError, match="8 samples"):
        evaluate(circuits, [(x, torch.zeros(8).long())], limit=9, progress=False)
    with pytest.raises(DataError, match="no number"):
        evaluate(circuits, [(x, x)], metric=lambda a, b: a, progress=False)
    sequence = nn.Sequential(nn.Linear(5, 1), nn.GELU(), nn.Linear(1, 1))
    _, single, _ = network(sequence)
    with pytest.raises(DataError, match="one output per class"):
        evaluate(single, [(x, torch.zeros(8).long())], progress=False)


def test_samples_that_are_not_solved_are_counted(branches) -> None:
    _, circuits, x = branches
    broken = x.clone()
    broken[2] = math.nan
    labels = torch.arange(8) % 3
    report = evaluate(circuits, batches(x, labels), first=1, limit=5, progress=False)
    assert report.samples == 5
    handle = circuits.segments[report.segments[-1].path].register_forward_hook(
        lambda segment, arguments, output: output.index_fill(0, torch.tensor([0]), math.nan)
    )
    try:
        report = evaluate(circuits, batches(x, labels, 4), progress=False)
    finally:
        handle.remove()
    assert report.failures == 2
    assert 0.0 <= report.accuracy <= 1.0


def test_saved_and_shown(branches, tmp_path) -> None:
    model, circuits, x = branches
    data = batches(x, torch.arange(8) % 3)
    report = evaluate(circuits, data, reference=model, progress=False)
    # The same call as for a model of one circuit: what is evaluated has a page.
    page = write_report(
        tmp_path / "run", report, network=circuits, software=model, loader=data, title="Branches"
    )
    assert "Branches" in page.read_text() and (tmp_path / "run" / "network.safetensors").exists()
    steps = saved_ablation(tmp_path / "run")
    wanted = ablate(circuits, x, torch.arange(8) % 3)
    assert [step.name for step in steps] == [step.name for step in wanted]
    assert [step.output_error for step in steps] == [step.output_error for step in wanted]
    assert render_model_report(report, ablation=steps, title="Branches") == page.read_text()
    write_report(tmp_path / "short", report, network=circuits, loader=data, ablation=False)
    assert not (tmp_path / "short" / "ablation.json").exists()
    kept = tmp_path / "run" / "ablation.json"
    for text in ("{}", '[{"name": "software"}]', kept.read_text().replace("wires", "wine")):
        kept.write_text(text)
        with pytest.raises(DataError, match="no readable steps"):
            saved_ablation(tmp_path / "run")
    assert is_model_report(tmp_path / "run")
    again = ModelReport.load(tmp_path / "run")
    assert str(again) == str(report)
    assert torch.equal(again.tensors["predictions"], report.tensors["predictions"])
    with pytest.raises(DataError, match="already"):
        report.save(tmp_path / "run")
    with pytest.raises(DataError):
        Report.load(tmp_path / "run")
    for change in ({"score": None}, {"segments": [{}]}, {"format": 99}):
        content = json.loads((tmp_path / "run" / "report.json").read_text())
        (tmp_path / "run" / "report.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(DataError):
            ModelReport.load(tmp_path / "run")
        (tmp_path / "run" / "report.json").write_text(json.dumps(content))


def test_critical_path_of_calls_that_share_a_circuit() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Identity()

        def forward(self, x):
            return self.a(self.a(x)) + self.b(x)

    class Leaves(fx.Tracer):
        def is_leaf_module(self, module, path):
            return True

    model = Twice()
    traced = fx.GraphModule(model, Leaves().trace(model))
    assert critical_path(traced, {"a": 4.0, "b": 1.0}) == 4.0
    assert critical_path(traced, {"a": 1.0, "b": 4.0}) == 4.0
    assert critical_path(model, {"a": 4.0, "b": 1.0}) == 5.0


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ValueError("disk is gone"), None])
def test_what_was_done_is_not_lost(branches, stop) -> None:
    model, circuits, x = branches
    labels = torch.arange(8) % 3
    pairs = batches(x, labels, 2)

    def loader():
        yield from pairs[:2]
        if stop is not None:
            raise stop
        yield x[4:] * math.nan, labels[4:]

    with pytest.raises(BaseException) as caught:
        evaluate(circuits, loader(), reference=model, progress=False)
    done = caught.value.report
    whole = evaluate(circuits, pairs[:2], reference=model, progress=False)
    assert done.stopped.startswith(type(caught.value).__name__)
    assert (done.samples, done.score, done.agreement) == (4, whole.score, whole.agreement)
    assert [item.uses for item in done.segments] == [1, 1, 1]
    assert done.segments[-1].power == pytest.approx(whole.segments[-1].power)
    assert "STOPPED EARLY" in str(done)
    if isinstance(caught.value, ImacError):
        assert "4 samples were finished before" in str(caught.value)
