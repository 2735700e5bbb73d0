"""Examples are run at a small size and must reach their numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path, monkeypatch):
    """Run where nothing is; examples are importable as they find each other as scripts."""
    directory = tmp_path / "cwd"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    yield directory
    for name in [path.stem for path in EXAMPLES.glob("*.py")]:
        sys.modules.pop(name, None)


def state_of(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): path.stat().st_mtime_ns
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture
def sample():
    import train_sample

    return train_sample.load_sample(ROOT / "data" / "digits_mlp.safetensors")


def test_shipped_sample_is_ternary_and_as_good_as_it_says(sample):
    import train_sample

    import imac_torch as imac

    for module in sample.ternary:
        if isinstance(module, torch.nn.Linear):
            for parameter in (module.weight, module.bias):
                assert set(parameter.unique().tolist()) <= {-1.0, 0.0, 1.0}
    network = imac.convert(sample.ternary, sample.config)
    assert all(layer.matrix.quantized().error == 0.0 for layer in network.analog_layers())
    inputs, labels = train_sample.tensors(imac.load_dataset("digits", train=False))
    found = {
        "float software": train_sample.accuracy(sample.floating, inputs, labels),
        "ternary, ideal circuit": train_sample.accuracy(
            train_sample.ideal_circuit(network), inputs, labels
        ),
        "ternary, circuit": train_sample.accuracy(network, inputs, labels),
    }
    # One image is 0.28 %; another platform's rounding may turn over a tie, no more.
    for name, value in found.items():
        assert value == pytest.approx(sample.figures[name], abs=1.5 / 360), name
    assert min(found.values()) > 0.97


def test_shipped_lenet_is_ternary_and_its_tail_as_good_as_it_says():
    import train_lenet

    import imac_torch as imac

    sample = train_lenet.shipped()
    for parameter in sample.tail.parameters():
        assert set(parameter.unique().tolist()) <= {-1.0, 0.0, 1.0}
    network = imac.convert(sample.tail, imac.Config.imac_sim())
    found = train_lenet.accuracy(network, sample.inputs, sample.labels)
    assert found == pytest.approx(sample.figures["digits, ternary, circuit"], abs=1.5 / 360)
    images, labels = train_lenet.tensors(imac.load_dataset("digits", train=False))
    features = train_lenet.features(sample.front, train_lenet.enlarged(images), [(0, 0)])
    # What is stored is what the filters make of the images; a sign at 0 may turn over.
    assert (features != sample.inputs).double().mean() < 1e-4
    assert (labels == sample.labels).all()


def test_the_lenet_is_trained_saved_and_read_back(tmp_path):
    import train_lenet

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(60, 1, 28, 28, generator=generator)
    digits = torch.rand(30, 1, 8, 8, generator=generator)
    labels = torch.arange(60) % 10
    made = train_lenet.make(
        images[:40], labels[:40], (digits[:20], digits[20:]), (labels[:20], labels[:10]),
        (images[40:], labels[40:]), float_steps=2, circuit_steps=1,
    )  # fmt: skip
    made.save(tmp_path / "made.npz")
    read = train_lenet.LeNet.load(tmp_path / "made.npz")
    assert read.figures == made.figures
    with torch.no_grad():
        assert (read.front(images) == made.front(images)).all()
        assert (read.tail(made.inputs) == made.tail(made.inputs)).all()
    assert (read.inputs == made.inputs).all()
    with pytest.raises(SystemExit, match="exists"):
        made.save(tmp_path / "made.npz")


def test_training_makes_a_ternary_circuit_better_than_rounding(in_empty_directory):
    import train_sample

    made = train_sample.main(
        ["--out", "new/sample.safetensors", "--float-steps", "300", "--circuit-steps", "80"]
    )
    figures = made.figures
    assert figures["float software"] > 0.9
    # Ten classes: 10 % is chance. 80 of the sample's 1000 steps get most of the way.
    assert figures["ternary, ideal circuit"] > 0.8
    assert figures["ternary, circuit"] > figures["ternary, ideal circuit"] - 0.05
    again = train_sample.load_sample(Path("new/sample.safetensors"))
    assert again.config == made.config
    assert again.figures == figures
    for one, other in ((again.ternary, made.ternary), (again.floating, made.floating)):
        for name, value in other.state_dict().items():
            assert torch.equal(one.state_dict()[name], value)
    with pytest.raises(SystemExit, match="exists"):
        train_sample.save_sample(made, Path("new/sample.safetensors"))


def test_demo_without_ngspice(in_empty_directory, capsys, monkeypatch):
    import demo

    before = state_of(ROOT / "data")
    monkeypatch.setenv("PATH", str(in_empty_directory))  # no ngspice there
    report = demo.main(["--samples", "60", "--timed", "3"])
    assert report.failures == 0
    assert report.accuracy > 0.95
    assert report.agreement is not None and report.agreement > 0.95
    written = set(state_of(in_empty_directory))
    assert written == {
        "runs/demo/1/demo.png",
        *(
            f"runs/demo/1/report/{name}"
            for name in (
                "analysis.json", "analysis.safetensors", "network.safetensors", "report.html",
                "report.json", "report.safetensors", "samples.csv",
            )
        ),
    }
    assert state_of(ROOT / "data") == before
    text = capsys.readouterr().out
    assert "ngspice is not installed" in text
    assert "where accuracy goes" in text
    assert report.timing is not None
    assert f"worst {report.timing.safe_period * 1e12:.0f} ps" in text
    assert str(Path("runs/demo/1/report/report.html").resolve()) in text
    assert Path("runs/demo/1/demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_directories_are_never_reused(in_empty_directory):
    import demo

    found = [demo.new_directory(Path("runs")) for _ in range(3)]
    assert found == [Path("runs/1"), Path("runs/2"), Path("runs/3")]


@pytest.mark.ngspice
def test_demo_check_with_ngspice(sample, in_empty_directory):
    import demo
    import train_sample
    from torch.utils.data import DataLoader, TensorDataset

    # A small network in place of the sample's 64-48-24-10, which takes ngspice many seconds.
    small = train_sample.mlp((12, 6, 4))
    generator = torch.Generator().manual_seed(0)
    train_sample.initialise(small, generator)
    one = train_sample.Sample(small, small, sample.config.replace(amplifier={"gain": 20.0}))
    inputs = 2 * torch.rand(2, 12, generator=generator) - 1
    loader = DataLoader(TensorDataset(inputs, torch.zeros(2, dtype=torch.int64)))
    text = demo.check_with_ngspice(one, loader, in_empty_directory, 2)
    volts, power = map(float, re.findall(r"within (\S+) (?:V|relative)", text))
    # ngspice's dc tolerances are 1e-9 relative, 1e-12 V.
    assert volts < 1e-8
    assert power < 1e-7


def check_losses(found, limit):
    """Steps in order, the mapping as good as software, calibration better than none."""
    from imac_torch.conversion.ablation import STEPS

    (losses,) = found
    assert tuple(step.name for step in losses.steps) == STEPS
    steps = {step.name: step for step in losses.steps}
    software = steps["software"].accuracy
    assert software > 0.85  # a short training; chance is 10 %
    # Digits near the border between two classes may go either way: a twentieth of them.
    for accuracy in (steps["mapping"].accuracy, steps["calibration"].accuracy, losses.ideal):
        assert accuracy > software - 0.05
    assert steps["calibration"].output_error < steps["partitioning"].output_error
    assert software * limit == pytest.approx(round(software * limit))


def test_any_image_set(in_empty_directory, capsys):
    import mlp_mnist

    found = mlp_mnist.main([
        "--steps", "200", "--hidden", "12", "--limit", "100", "--neuron", "logistic",
    ])  # fmt: skip
    check_losses(found, 100)
    text = capsys.readouterr().out
    assert "64-12-10, sigmoid, 100 test images" in text
    assert "calibrated without wires" in text
    assert not state_of(in_empty_directory)


@pytest.mark.slow
def test_cnn_coprocessor(in_empty_directory):
    import cnn_coprocessor

    check_losses(cnn_coprocessor.main(["--steps", "100", "--limit", "60"]), 60)
    assert not state_of(in_empty_directory)
    model = cnn_coprocessor.lenet(28, "relu", 10)
    assert model(torch.zeros(1, 1, 28, 28, dtype=next(model.parameters()).dtype)).shape == (1, 10)


def test_held_out_images_of_the_test_files(in_empty_directory):
    import argparse

    import common

    parser = argparse.ArgumentParser()
    common.add_data_options(parser)
    whole = common.load_data(parser.parse_args([]))
    split = common.load_data(parser.parse_args(["--from-test", "300", "--limit", "50"]))
    assert (len(whole.labels), len(whole.test_labels)) == (1437, 360)
    assert (len(split.labels), len(split.test_labels)) == (300, 50)
    assert torch.equal(split.images, whole.test_images[:300])
    assert torch.equal(split.test_labels, whole.test_labels[300:350])


@pytest.mark.slow
def test_fine_tuning_gives_back_what_wires_took(in_empty_directory, capsys):
    import fine_tuning

    (found,) = fine_tuning.main(["--steps", "30", "--samples", "2"])
    # One of 360 images is 0.3 points. Wires take ten points, far from the noise of training.
    assert found.ideal > 0.95
    assert found.ideal - found.wires > 0.05
    assert found.recovered > 0.5
    assert found.spread_tuned > found.spread_before
    assert "recovered of what wires took" in capsys.readouterr().out
    assert not state_of(in_empty_directory)


def test_imac_sim_directory(in_empty_directory):
    import imac_sim_directory

    report = imac_sim_directory.main(["--testnum", "100"])
    assert report.accuracy > 0.95  # the sample network, its inputs as grey levels
    spread = imac_sim_directory.main(
        ["--data_dir", "runs/imac_sim/1", "--testnum", "100", "--weight_var", "5"]
    )
    assert spread.config.device.variation == 0.05
    difference = (spread.outputs - report.outputs).abs().max()
    assert 1e-4 < float(difference) < 0.8
    assert all(name.startswith("runs/imac_sim/1/") for name in state_of(in_empty_directory))


def test_any_model_of_the_zoo(capsys, monkeypatch):
    import any_model
    import model_zoo

    monkeypatch.setattr(any_model, "BITS", (8,))

    for name, build in model_zoo.ZOO.items():
        assert build(8, 10)(torch.zeros(2, 1, 8, 8)).shape == (2, 10), name
        assert build(28, 10)(torch.zeros(2, 1, 28, 28)).shape == (2, 10), name
    kept = any_model.main(["--network", "lstm", "--steps", "100", "--tune", "1"])["lstm"]
    # Continuous weights at virtual ground: without wires and converters it is the software.
    assert kept.ideal == kept.software > 0.5
    assert abs(kept.wires - kept.software) < 0.1
    assert kept.converters[8] > 0.5
    assert kept.tuned > 0.3
    assert "tuned" in capsys.readouterr().out


def test_coming_from_aihwkit(in_empty_directory, capsys):
    import coming_from_aihwkit

    month = 2592000.0
    found = coming_from_aihwkit.main([
        "--steps", "60", "--limit", "60", "--chips", "1", "--size", "32",
        "--times", "20", str(month),
    ])  # fmt: skip
    for wires in (False, True):
        fresh, old = found[wires, 20.0], found[wires, month]
        # The same cells at the time from which drift counts: nothing to make up for.
        assert fresh.left == 1.0
        assert fresh.drifted == fresh.compensated
        # (t/20 s)^-ν, the mean of ν being 0.049 for large conductances and at most 0.1 for small
        # ones. Read noise, by then as large as small conductances are, adds to magnitudes.
        assert (month / 20.0) ** -0.1 < old.left < 1.2 * (month / 20.0) ** -0.049
    assert found[False, 20.0].drifted > 0.5
    assert "2,592,000 s" in capsys.readouterr().out
    assert not state_of(in_empty_directory)


def test_coming_from_crosssim(capsys, monkeypatch):
    import coming_from_crosssim

    monkeypatch.setattr(coming_from_crosssim, "PLACES", ("partition",))
    monkeypatch.setattr(coming_from_crosssim, "SAMPLES", 64)
    found = coming_from_crosssim.main(["--steps", "40", "--limit", "60", "--bits", "8", "2"])
    shares = {bits: found[bits, "partition", False] for bits in (None, 8, 2)}
    assert shares[None] > 0.5
    # Of 60 images some are ties for the 255 steps of a range; four levels are no network.
    assert abs(shares[8] - shares[None]) < 0.1
    assert shares[2] < shares[None] - 0.1
    # Wires of 9 nm between devices of 10 kΩ.
    assert found[None, "partition", True] < shares[None] - 0.1
    assert "partition, wires" in capsys.readouterr().out


def test_coming_from_neurosim(capsys, monkeypatch):
    import coming_from_neurosim

    monkeypatch.setattr(coming_from_neurosim, "SAMPLES", 16)
    reports = coming_from_neurosim.main([
        "--steps", "10", "--width", "4", "--limit", "5", "--size", "32", "--bits", "6",
    ])  # fmt: skip
    large, small = reports[20], reports[7]
    # A cell is 12 by 15 λ; published converters and drivers are the same ones at every node.
    assert large.area()["cells"] / small.area()["cells"] == pytest.approx((20 / 7) ** 2, rel=1e-12)
    for part in ("drivers", "converters"):
        assert large.area()[part] == small.area()[part]
        assert large.energy()[part] == small.energy()[part]
    first = small.segments[0]
    # 64 positions, a pass per bit besides the sign, four outputs of nine inputs in one array: 63
    # comparisons of 50 fJ each and 1 fJ to hold it; its four outputs share a converter of 1 GHz.
    passes = 64 * 7
    assert first.energy["converters"] == pytest.approx(
        passes * 4 * (63 * 5e-14 + 1e-15), rel=1e-12, abs=0.0
    )
    assert first.latency == pytest.approx(passes * (4e-9 + 4 * 1e-9), rel=1e-12, abs=0.0)
    assert small.energy()["total"] == pytest.approx(
        sum(sum(item.energy.values()) for item in small.segments), rel=1e-12, abs=0.0
    )
    assert "20 nm" in capsys.readouterr().out
