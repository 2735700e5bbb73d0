"""Latency and energy of the 400-120-84-10 network's images, and what wires and nodes do to them.

    python benchmarks/transient.py [--images 10000] [--workers 2]
    python benchmarks/transient.py --table [--images 200] [--workers 2]

The first runs images with wire capacitances on worker processes of one thread each, and prints
times, latencies, energies and memory; with ``--table`` it prints the latency for capacitances on
and off and technology nodes (λ) from 7 to 45 nm. The network is the published one where
IMAC_TORCH_SHARED names the shared references, otherwise that of ``data/``.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from golden import ReferenceNetwork

import imac_torch as it
from imac_torch.results.energy import Energy
from imac_torch.results.latency import Latency, sampling_cost
from imac_torch.transient.inference_report import InferenceReport
from imac_torch.transient.integrator import StepControl

PARTS = ("inputs", "bias", "neurons", "total")


@dataclass(frozen=True)
class Job:
    """Images ``first`` to ``last`` - 1 at one technology."""

    first: int
    last: int
    tolerance: float
    tech_node: float = 9e-9
    capacitance: bool = True


@dataclass(frozen=True)
class Done:
    """What came of a job.

    Attributes:
        report: The measurement.
        preparation: s, before the first image.
        seconds: s, of the run.
        core: s, that the process computed meanwhile: what a machine of its own would take.
        memory: B, peak of the process.
    """

    report: InferenceReport
    preparation: float
    seconds: float
    core: float
    memory: int


@torch.no_grad()
def run(job: Job) -> Done:
    """Measure the images of a job on one thread, each after the one before it in the data set."""
    torch.set_num_threads(1)
    reference = ReferenceNetwork.at_hand(job.last)
    wires = it.Interconnect(tech_node=job.tech_node, capacitance=job.capacitance)
    network = reference.circuit_f(it.Config.imac_sim(interconnect=wires))
    options = it.TimingOptions(
        it.TransientOptions(control=StepControl(tolerance=job.tolerance), amplifiers=False),
        waveforms=0,
    )
    voltages = network.voltages(reference.inputs)
    before = torch.cat([torch.zeros_like(voltages[:1]), voltages[:-1]])
    warm = network.timing(options)
    warm.add(voltages[:8])
    warm.flush()  # compiles
    begin = time.perf_counter()
    measurement = network.timing(options)
    prepared, core = time.perf_counter(), time.process_time()
    measurement.add(voltages[job.first :], initial=before[job.first :])
    measurement.flush()
    seconds, core = time.perf_counter() - prepared, time.process_time() - core
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Done(measurement.report(), prepared - begin, seconds, core, memory)


def spread(done: list[Done], workers: int, images: int) -> None:
    """What all images of a data set say together."""
    reports = [item.report for item in done]
    labels = ReferenceNetwork.at_hand(images).labels
    status = torch.cat([report.status for report in reports])
    good = status == 0
    latency = Latency.join([report.latency for report in reports])
    energy, static = (
        Energy.join([getattr(report, kind) for report in reports], 0)
        for kind in ("energy", "static")
    )
    seconds = max(item.seconds for item in done)
    print(f"{images} images on {workers} processes of one thread: {seconds:.1f} s, "
          f"{seconds / images * 1e3:.1f} ms an image; preparation "
          f"{max(item.preparation for item in done):.2f} s")
    core = sum(item.core for item in done)
    print(f"of which computing: {core:.1f} core seconds, {core / images * 1e3:.1f} ms an image")
    print(f"peak memory of a process: {max(item.memory for item in done) / 2**20:.0f} MiB")
    print(f"not solved: {int((~good).sum())} {next((r.failure for r in reports if r.failure), '')}")
    first = reports[0]
    print(f"{first.method}; wires: {', '.join(dict.fromkeys(first.wires))}; first term left out "
          f"{max(report.reduction_error for report in reports) * 1e6:.1f} uV at most")
    steps = [count for report in reports for count in report.steps]
    print(f"{len(steps)} batches of {min(steps)} to {max(steps)} steps")
    for name, decision in (("all outputs settled", False), ("class stable", True)):
        found = latency.quantiles((0.5, 0.95, 0.99, 1.0), decision=decision)
        text = ", ".join(f"{100 * level:g} %: {at * 1e12:.1f} ps" for level, at in found.items())
        print(f"latency, {name}: {text} (image {latency.worst(decision=decision)})")
    safe = latency.safe_period()
    print(f"smallest safe period {safe * 1e12:.1f} ps, {1 / safe:.4g} inferences/s at most")
    for part in PARTS:
        whole, rest = (getattr(item, part)[good].mean().item() for item in (energy, static))
        print(f"energy, {part}: {whole * 1e12:.3f} pJ, static {rest * 1e12:.3f} pJ, switching "
              f"{(whole - rest) * 1e12:.3f} pJ")
    print(f"largest energy: {float(energy.total[good].max()) * 1e12:.2f} pJ")
    sampled, settled = (
        torch.cat([getattr(report, kind) for report in reports])[good, None]
        for kind in ("sampled", "settled")
    )
    period = first.timing.period
    print(sampling_cost(sampled, settled, latency.select(good), period, labels[good, None]))


def table(pool: ProcessPoolExecutor, images: int, tolerance: float) -> None:
    """Latency and energy by node, capacitances off and on."""
    jobs = [
        Job(0, images, tolerance, node, capacitance)
        for node in it.NODES
        for capacitance in (False, True)
    ]
    print("| λ, nm | wire C | median, ps | worst, ps | class, worst, ps | energy, pJ "
          "| switching, pJ |")
    print("|---|---|---|---|---|---|---|")
    for job, done in zip(jobs, pool.map(run, jobs), strict=True):
        report = done.report
        found = report.latency.quantiles((0.5, 1.0))
        decision = report.latency.safe_period(decision=True)
        good = report.measured
        print(f"| {job.tech_node * 1e9:g} | {'on' if job.capacitance else 'off'} | "
              f"{found[0.5] * 1e12:.0f} | {found[1.0] * 1e12:.0f} | {decision * 1e12:.0f} | "
              f"{float(report.energy.total[good].mean()) * 1e12:.1f} | "
              f"{float(report.switching.total[good].mean()) * 1e12:.2f} |", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, help="default: 512, with --table 100")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="V, of a time step")
    parser.add_argument("--table", action="store_true", help="latency by technology node")
    arguments = parser.parse_args()
    print(ReferenceNetwork.at_hand(1).name)
    workers = arguments.workers
    images = arguments.images or (100 if arguments.table else 512)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        if arguments.table:
            table(pool, images, arguments.tolerance)
            return
        ends = [images * k // workers for k in range(workers + 1)]
        jobs = [
            Job(first, last, arguments.tolerance)
            for first, last in itertools.pairwise(ends)
        ]
        spread(list(pool.map(run, jobs)), workers, images)


if __name__ == "__main__":
    main()
