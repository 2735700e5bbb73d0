"""Several decks, processes and points of a sweep in one directory: right answers, or an error."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
import torch
from filelock import FileLock
from small_networks import LOGISTIC, loader, mlp, signs

from imac_torch import NetlistSettings, NgSpice, Spice, compile, convert, evaluate, tabulate_neuron
from imac_torch.base.resources import spice_file
from imac_torch.errors import NetlistError
from imac_torch.netlist.rundir import LOCK
from imac_torch.simulator import check

pytestmark = pytest.mark.filterwarnings("ignore::imac_torch.errors.ConversionWarning")

DC = NetlistSettings(analysis="dc", images_per_netlist=2)


def network():
    return convert(mlp(4, 3, 2), LOGISTIC)


def pairs(seed):
    return loader(signs(4, 4, seed) * (1.0 - 0.1 * seed))


def native(seed):
    return evaluate(network(), pairs(seed), progress=False).outputs


def right(outputs, seed):
    torch.testing.assert_close(outputs, native(seed), rtol=0, atol=1e-9)


def test_a_deck_that_was_replaced_does_not_run(ngspice, tmp_path):
    first = compile(network(), pairs(1), tmp_path / "run", settings=DC)
    second = compile(network(), pairs(2), tmp_path / "run", settings=DC)
    simulator = NgSpice(str(ngspice))
    with pytest.raises(NetlistError, match="another run has used the directory"):
        first.run(simulator, progress=False)
    right(check(second.run(simulator, progress=False)).solution.outputs, 2)
    again = compile(network(), pairs(1), tmp_path / "run", settings=DC)
    right(check(again.run(simulator, progress=False)).solution.outputs, 1)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(NetlistError, match="is gone"):
        again.run(simulator, progress=False)


@pytest.mark.parametrize("name", ["circuit/layer1.sp", "batch_00000/batch.cir"])
def test_an_edited_netlist_does_not_run(ngspice, tmp_path, name):
    deck = compile(network(), pairs(1), tmp_path / "run", settings=DC)
    path = tmp_path / "run" / name
    path.write_text(path.read_text() + "* mine\n")
    with pytest.raises(NetlistError, match=f"{path.name} is not what was written"):
        deck.run(NgSpice(str(ngspice)), progress=False)


def test_a_directory_in_use_is_left_alone(ngspice, tmp_path):
    """The lock of another process, here of another object in this one."""
    deck = compile(network(), pairs(1), tmp_path / "run", settings=DC)
    text = (tmp_path / "run" / "batch_00000" / "batch.cir").read_text()
    with FileLock(tmp_path / "run" / LOCK):
        for action in (
            partial(compile, network(), pairs(2), tmp_path / "run", settings=DC),
            partial(deck.run, NgSpice(str(ngspice)), progress=False),
            partial(
                tabulate_neuron, spice_file("neuron_logistic.sp"), NgSpice(str(ngspice)),
                nodes=(5, 5), directory=tmp_path / "run",
            ),
        ):  # fmt: skip
            with pytest.raises(NetlistError, match="in use by another run"):
                action()
    assert (tmp_path / "run" / "batch_00000" / "batch.cir").read_text() == text
    right(check(deck.run(NgSpice(str(ngspice)), progress=False)).solution.outputs, 1)


def test_results_of_another_netlist_are_not_taken(ngspice, tmp_path):
    """Swapped between batches, brought from another run, or cut: the netlist is run again."""
    simulator = NgSpice(str(ngspice))
    deck = compile(network(), pairs(1), tmp_path / "run", settings=DC)
    other = compile(network(), pairs(2), tmp_path / "other", settings=DC)
    for item in (deck, other):
        check(item.run(simulator, progress=False))
    assert all(o.result.resumed for o in deck.run(simulator, progress=False).outcomes)
    batches = [tmp_path / "run" / f"batch_0000{k}" for k in (0, 1)]
    files = [folder / "batch_0.raw" for folder in batches]
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, reversed(contents), strict=True):
        path.write_bytes(content)
    right(check(deck.run(simulator, progress=False)).solution.outputs, 1)
    for name in ("batch_0.raw", "batch_1.raw", "batch.log", "batch.result.json"):
        shutil.copy(tmp_path / "other" / "batch_00000" / name, batches[0] / name)
        right(check(deck.run(simulator, progress=False)).solution.outputs, 1)
    files[1].write_bytes(contents[1][:-8])
    right(check(deck.run(simulator, progress=False)).solution.outputs, 1)


def solve(directory, program, seed):
    """In a process of its own: what evaluate gives with a kept directory."""
    engine = Spice(NgSpice(program), directory=directory, settings=DC)
    return seed, evaluate(network(), pairs(seed), engine=engine, progress=False).outputs


@pytest.mark.slow
def test_engines_and_processes_share_a_directory(ngspice, tmp_path):
    """Each set of netlists has a place of its own; the same set waits and reads what is there."""
    program = str(ngspice)
    for seed in (1, 2, 1):
        right(solve(tmp_path, program, seed)[1], seed)
    assert len(list(tmp_path.glob("samples_*"))) == 2
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for seed, outputs in pool.map(partial(solve, tmp_path, program), (1, 3, 3, 2)):
            right(outputs, seed)
    assert len(list(tmp_path.glob("samples_*"))) == 3
