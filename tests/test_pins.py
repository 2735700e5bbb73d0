"""A change of the code's structure changes no figure: what is pinned in ``data/pins.json``."""

import json

import pytest
import torch
from pins import FILE, IN_TIME, RELATIVE, configurations, figures

PINS = json.loads(FILE.read_text())


def differences(found, pinned, where=""):
    """Places where two trees of numbers and texts differ by more than rounding."""
    if isinstance(pinned, dict):
        if found.keys() != pinned.keys():
            return [f"{where}: {sorted(found.keys() ^ pinned.keys())} on one side only"]
        pairs = [(found[key], pinned[key], f"{where}/{key}") for key in pinned]
        return [line for pair in pairs for line in differences(*pair)]
    if isinstance(pinned, list):
        mine, theirs = (torch.tensor(item, dtype=torch.float64) for item in (found, pinned))
        if mine.shape != theirs.shape:
            return [f"{where}: {tuple(mine.shape)} instead of {tuple(theirs.shape)}"]
        largest = float(theirs.abs().nan_to_num().max())
        allowed = max(RELATIVE * largest, IN_TIME if where.endswith("/waveform") else 0.0)
        same = torch.allclose(mine, theirs, rtol=0.0, atol=allowed, equal_nan=True)
        return [] if same else [f"{where}: differs by {float((mine - theirs).abs().max()):.3g}"]
    return [] if found == pinned else [f"{where}: {found} instead of {pinned}"]


@pytest.mark.parametrize("name", configurations())
def test_figures_are_those_pinned(name: str) -> None:
    found = json.loads(json.dumps(figures(name)))
    assert differences(found, PINS[name]) == []


def test_the_comparison_sees_differences() -> None:
    pinned = {"a": [1.0, 2.0], "b": "x", "c": 3}
    assert differences({"a": [1.0, 2.0 + 1e-13], "b": "x", "c": 3}, pinned) == []
    assert len(differences({"a": [1.0, 2.0 + 1e-11], "b": "y", "c": 4}, pinned)) == 3
    assert differences({"a": [1.0]}, pinned)
