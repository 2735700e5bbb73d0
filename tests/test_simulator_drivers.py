"""The driver contract, with a stand-in for HSPICE and the real ngspice."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from imac_torch.errors import (
    MeasureError,
    NetlistError,
    SimulatorConvergenceError,
    SimulatorError,
    SimulatorLicenceError,
    SimulatorNotFoundError,
    SimulatorTimeoutError,
)
from imac_torch.simulator import HSpice, NgSpice, SimulationJob, content_digest, run_jobs

FAKE = Path(__file__).parent / "data" / "hspice" / "fake_hspice.py"

TRANSIENT = """* deck
.tran 1p 1n
.measure tran vout0 find v(a) at=1n
.measure tran vout1 find v(b) at=1n
.end
"""

NGSPICE_TRANSIENT = """* deck
v1 in 0 pwl(0 0 1n 0.8 2n 0.8)
r1 in out 1k
r2 out 0 2k
.tran 10p 2n
.control
set numdgt=17
set filetype=binary
run
meas tran v_late find v(out) at=1.5n
print v_late
meas tran v_half find v(out) at=0.5n
print v_half
{more}
write {stem}.raw v(out) i(v1)
quit 0
.endc
.end
"""

# Solvable for small v(in), without a real solution for v(in) > 1.
NGSPICE_POINTS = """* deck
v1 in 0 0
b1 0 x i=v(in)+(v(in)>1)*(v(x)*v(x)+1)
r1 x 0 1
.control
set filetype=binary
alter v1 dc=0.1
op
write points_0.raw all
alter v1 dc=10
op
write points_1.raw all
alter v1 dc=0.2
op
write points_2.raw all
quit 0
.endc
.end
"""


@pytest.fixture
def hspice(tmp_path):
    """A driver whose program is the stand-in, started by this Python."""
    program = tmp_path / "bin" / "hspice"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return HSpice(str(program), timeout=30.0)


def job_of(directory, text=TRANSIENT, measures=("vout0", "vout1"), name="deck.sp", **others):
    directory.mkdir(exist_ok=True)
    netlist = directory / name
    netlist.write_text(text)
    return SimulationJob(netlist, measures, **others)


def runs(directory):
    path = directory / "runs.txt"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("driver", [NgSpice, HSpice])
def test_missing_program_says_how_to_install(driver, tmp_path):
    simulator = driver("no-such-simulator-here")
    assert not simulator.available()
    with pytest.raises(SimulatorNotFoundError, match=r"(?s)no-such-simulator-here.*nstall"):
        simulator.run(job_of(tmp_path / "run"))


def test_program_that_is_something_else(tmp_path):
    with pytest.raises(SimulatorError, match="is it the right program"):
        HSpice(sys.executable).version()


def test_hspice_run(hspice, tmp_path):
    before = Path.cwd()
    result = hspice.run(job_of(tmp_path / "run"))
    assert Path.cwd() == before
    assert result.measures == {"vout0": 1e-3, "vout1": 2e-3}
    assert result.version == "T-2022.06"
    assert result.log == tmp_path / "run" / "deck.lis"
    assert result.waveforms is None
    assert result.wall_time > 0


def test_hspice_sweep_rows_become_names(hspice, tmp_path):
    text = "* fake: rows 3\n" + TRANSIENT.replace(".tran 1p 1n", ".dc x 0 1 1")
    wanted = tuple(f"vout1[{k}]" for k in range(3))
    result = hspice.run(job_of(tmp_path / "run", text, wanted))
    assert [result.measures[name] for name in wanted] == [2e-3, 4e-3, 6e-3]


@pytest.mark.parametrize(
    ("mode", "error", "message"),
    [
        ("licence", SimulatorLicenceError, "Unable to checkout"),
        ("convergence", SimulatorConvergenceError, "internal timestep too small"),
        ("silent", SimulatorError, "does not say that the job concluded"),
        ("code", SimulatorError, "exit code 1"),
        ("failed vout1", MeasureError, r"vout1 \(failed\)"),
    ],
)
def test_hspice_failures(hspice, tmp_path, mode, error, message):
    job = job_of(tmp_path / "run", f"* t\n* fake: {mode}\n" + TRANSIENT)
    with pytest.raises(error, match=message) as caught:
        hspice.run(job)
    assert type(caught.value) is error
    assert caught.value.directory == tmp_path / "run"


def test_partial_results_are_kept(hspice, tmp_path):
    outcome = hspice.attempt(job_of(tmp_path / "run", "* fake: convergence\n" + TRANSIENT))
    assert isinstance(outcome.error, SimulatorConvergenceError)
    assert "job aborted" in outcome.error.stdout
    assert outcome.result is not None
    assert outcome.result.measures == {"vout0": 1e-3}
    outcome = hspice.attempt(job_of(tmp_path / "run2", "* fake: failed vout1\n" + TRANSIENT))
    assert isinstance(outcome.error, MeasureError)
    assert outcome.result is not None
    assert outcome.result.measures == {"vout0": 1e-3}


def test_missing_measure_is_named(hspice, tmp_path):
    with pytest.raises(MeasureError, match=r"vout7 \(missing\)"):
        hspice.run(job_of(tmp_path / "run", measures=("vout0", "vout7")))


def test_timeout_ends_the_whole_process_group(hspice, tmp_path):
    hspice.version()
    hspice.timeout = 2.0
    started = time.monotonic()
    with pytest.raises(SimulatorTimeoutError, match="2 s"):
        hspice.run(job_of(tmp_path / "run", "* fake: hang\n" + TRANSIENT))
    assert time.monotonic() - started < 20.0  # the stand-in would sleep for 60 s
    child = int((tmp_path / "run" / "child.pid").read_text())
    for _ in range(50):
        if not is_running(child):
            break
        time.sleep(0.1)
    assert not is_running(child)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    # Where nobody collects orphans a dead process stays as a zombie.
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_stale_results_are_not_read(hspice, tmp_path):
    job = job_of(tmp_path / "run")
    hspice.run(job)
    job.netlist.write_text("* fake: silent\n" + TRANSIENT)
    outcome = hspice.attempt(job)
    assert not outcome.ok
    assert outcome.result is None


def test_batches_resume_and_notice_changes(hspice, tmp_path):
    jobs = [job_of(tmp_path / f"run{k}") for k in range(3)]
    (tmp_path / "run2" / "part.sp").write_text("* part 1\n")
    jobs[2].netlist.write_text(TRANSIENT.replace(".end", ".include 'part.sp'\n.end"))
    seen = []
    outcomes = run_jobs(
        hspice, jobs, workers=2, progress=lambda done, total, o: seen.append((done, total, o.ok))
    )
    assert [outcome.ok for outcome in outcomes] == [True] * 3
    assert [outcome.job for outcome in outcomes] == jobs
    assert seen == [(1, 3, True), (2, 3, True), (3, 3, True)]

    again = run_jobs(hspice, jobs)
    assert [outcome.unwrap().resumed for outcome in again] == [True] * 3
    assert again[1].unwrap().measures == outcomes[1].unwrap().measures
    assert again[1].unwrap().wall_time == outcomes[1].unwrap().wall_time
    assert [len(runs(job.directory)) for job in jobs] == [1, 1, 1]

    # A changed netlist, a changed included file and a lost result are all run again.
    jobs[0].netlist.write_text(TRANSIENT + "* changed\n")
    (tmp_path / "run1" / "deck.mt0").unlink()
    (tmp_path / "run1" / "deck.lis").unlink()
    (tmp_path / "run2" / "part.sp").write_text("* part 2\n")
    third = run_jobs(hspice, jobs)
    assert [outcome.unwrap().resumed for outcome in third] == [False] * 3
    assert [len(runs(job.directory)) for job in jobs] == [2, 2, 2]
    assert run_jobs(hspice, jobs[:1], resume=False)[0].unwrap().resumed is False


def test_failed_batch_does_not_stop_others_and_is_retried(hspice, tmp_path):
    texts = [TRANSIENT, "* fake: convergence\n" + TRANSIENT, TRANSIENT]
    jobs = [job_of(tmp_path / f"run{k}", text) for k, text in enumerate(texts)]
    outcomes = run_jobs(hspice, jobs)
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    jobs[1].netlist.write_text(TRANSIENT)
    outcomes = run_jobs(hspice, jobs)
    assert [outcome.ok for outcome in outcomes] == [True] * 3
    assert [len(runs(job.directory)) for job in jobs] == [1, 2, 1]


def test_licence_failure_stops_starting_more(hspice, tmp_path):
    jobs = [job_of(tmp_path / f"run{k}", "* fake: licence\n" + TRANSIENT) for k in range(4)]
    outcomes = run_jobs(hspice, jobs)
    assert all(isinstance(outcome.error, SimulatorLicenceError) for outcome in outcomes)
    assert [len(runs(job.directory)) for job in jobs] == [1, 0, 0, 0]


def test_two_jobs_on_one_netlist_are_refused(hspice, tmp_path):
    job = job_of(tmp_path / "run")
    with pytest.raises(SimulatorError, match="same netlist"):
        run_jobs(hspice, [job, job])


@pytest.mark.parametrize("name", ["-x.sp", "a b.sp", "a;b.sp", "$(id).sp", "a'b.sp"])
def test_dangerous_file_names_are_refused(name, tmp_path):
    with pytest.raises(NetlistError, match="not accepted as a file name"):
        SimulationJob(tmp_path / name)
    with pytest.raises(NetlistError, match="not accepted as a file name"):
        SimulationJob(tmp_path / "deck.sp", waveform_files=("../../x.raw",))


def test_digest_follows_includes(tmp_path):
    job = job_of(tmp_path / "run", "* t\n.include 'missing.sp'\n")
    with pytest.raises(SimulatorError, match=r"missing\.sp"):
        content_digest(job.netlist)


@pytest.mark.parametrize("bad", [{"timeout": 0}, {"timeout": -1.0}, {"licences": 0}])
def test_settings_are_checked(bad):
    with pytest.raises(SimulatorError):
        NgSpice(**bad)


def ngspice_job(directory, more="", measures=("v_late", "v_half")):
    text = NGSPICE_TRANSIENT.format(stem="deck", more=more)
    return job_of(directory, text, measures, name="deck.cir", waveform_files=("deck.raw",))


def test_ngspice_transient(ngspice, tmp_path):
    simulator = NgSpice(str(ngspice), timeout=60.0)
    result = simulator.run(ngspice_job(tmp_path / "run"))
    # A divider by 2/3; ngspice 39 hands the value of `meas` on with seven digits.
    assert result.measures["v_late"] == pytest.approx(0.8 * 2 / 3, rel=1e-6)
    assert result.measures["v_half"] == pytest.approx(0.4 * 2 / 3, rel=1e-6)
    assert result.waveforms is not None
    assert list(result.waveforms) == ["time", "v(out)", "i(v1)"]
    np.testing.assert_allclose(result.waveforms["i(v1)"][-1], -0.8 / 3e3, rtol=1e-9)
    assert simulator.version()[0].isdigit()


def test_ngspice_names_the_failed_measure_and_keeps_the_rest(ngspice, tmp_path):
    job = ngspice_job(
        tmp_path / "run", "meas tran v_never find v(out) at=9n", ("v_late", "v_never")
    )
    outcome = NgSpice(str(ngspice)).attempt(job)
    assert isinstance(outcome.error, MeasureError)
    assert "v_never (failed)" in str(outcome.error)
    assert outcome.result is not None
    assert outcome.result.measures["v_late"] == pytest.approx(0.8 * 2 / 3, rel=1e-6)


def test_ngspice_convergence_failure_keeps_other_points(ngspice, tmp_path):
    files = tuple(f"points_{k}.raw" for k in range(3))
    job = job_of(tmp_path / "run", NGSPICE_POINTS, (), name="points.cir", waveform_files=files)
    outcome = NgSpice(str(ngspice)).attempt(job)
    assert isinstance(outcome.error, SimulatorConvergenceError)
    assert outcome.result is not None
    assert outcome.result.waveforms is not None
    np.testing.assert_allclose(outcome.result.waveforms["v(x)"], [0.1, np.nan, 0.2], rtol=1e-9)


def test_ngspice_syntax_error(ngspice, tmp_path):
    job = job_of(tmp_path / "run", "* t\nv1 a 0 1\nx1 a 0 nosuch\n.op\n.end\n", (), name="a.cir")
    with pytest.raises(SimulatorError, match="unknown subckt") as caught:
        NgSpice(str(ngspice)).run(job)
    assert type(caught.value) is SimulatorError


def test_ngspice_parallel_batches_resume(ngspice, tmp_path):
    jobs = [ngspice_job(tmp_path / f"run{k}") for k in range(3)]
    simulator = NgSpice(str(ngspice))
    first = run_jobs(simulator, jobs, workers=2)
    again = run_jobs(simulator, jobs, workers=2)
    for one, two in zip(first, again, strict=True):
        assert not one.unwrap().resumed
        assert two.unwrap().resumed
        assert two.unwrap().measures == one.unwrap().measures
