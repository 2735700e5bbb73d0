"""Time steps of the whole network between two corners of its inputs, compiled: a group of images.

What :mod:`imac_torch.transient.step` and :mod:`imac_torch.transient.network` do one call of torch
after the other (matrices of a step's size, inputs behind filters, the layers, powers, estimated
errors, acceptance, the next step) is done here without returning, so that groups may be as small as
a tile: images that share their steps with fewer others need fewer of them.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.drives import Drive, advance, levels, shares, slope_at, work
from imac_torch.kernels.errors import GAMMA
from imac_torch.kernels.filters import FAST, FloatArray
from imac_torch.kernels.matrices import fill
from imac_torch.kernels.places import (
    COMBINED,
    ERROR,
    FAILED,
    FIRST_SUM,
    INSIDE,
    KEPT,
    LANES,
    LEFT,
    MIDDLE_OUTPUT,
    RECORDED,
    SUMS,
)
from imac_torch.kernels.steps import step_layer

IntArray = NDArray[np.int64]
Floats: TypeAlias = tuple[FloatArray, ...]
Integers: TypeAlias = tuple[IntArray, ...]

REACHED, FULL, STUCK_ERROR, STUCK_NEWTON = 0, 1, 2, 3
"""How a march ends: at the corner, with all places for records taken, or with no step left."""
POWERS: Final = 6


class Layers(NamedTuple):
    """Arrays of every layer, see :func:`imac_torch.kernels.steps.step_layer`.

    A tuple of arrays each, or one array (layers, ...): a tuple of what has 34 arrays takes many
    times as long to compile.

    ``sizes``: whether there is a next layer, width, filters, rows and columns of the table.
    ``scalars``: steepness; level shift V. ``poles`` and what begins with ``by_filter`` make the
    matrices of a step. ``record``: (places, 2, tiles, M, LANES) V, or of no places.
    """

    kept: Floats
    passed: Floats
    following: Floats
    lines: Floats
    results: FloatArray
    record: Floats
    sizes: IntArray
    scalars: FloatArray
    table: Floats
    grid: Floats
    circuit: Floats
    capacitance: Floats
    first: Integers
    starts: Integers
    poles: Floats
    by_filter: Floats
    by_filter_bias: Floats
    by_filter_transfer: Floats
    admittance: Floats
    left: Floats
    across: Floats
    own: Floats
    bias_currents: Floats
    inverse: Floats
    through: Floats
    transfer: Floats
    onward: Floats
    at_rest: Floats
    missed: Floats
    bias_row: Floats
    bias_filtered: Floats
    forms: Floats
    ends_direct: Floats
    ends_filtered: Floats


class Group(NamedTuple):
    """What belongs to all layers.

    Attributes:
        carried: (tiles, CARRIED, LANES).
        alive: (tiles, LANES), 0 where images do not count.
        inside: (tiles, LANES), 0 where one has left its tables.
        left_out: (tiles, LANES) V, the most that filters miss, without the first layer's.
        largest: (tiles, 6, LANES) W, of every power so far.
        powers: (3, tiles, 6, LANES) W at the start, the stage and the end of a step, without what
            moves charge between constant voltages; and
        moving: (3, tiles, 6, LANES) W, that.
        stored: (2, tiles, 6, LANES) J at the start and the end.
        past: (tiles, 6, LANES) W, the first at the stage of the step before.
        energy: (tiles, 6, LANES) J of the period so far.
        times: (places, 3) s: starts of steps in the period, their stages and ends.
        totals: (places, 2, tiles, 6, LANES) W.
    """

    carried: FloatArray
    alive: FloatArray
    inside: FloatArray
    left_out: FloatArray
    largest: FloatArray
    powers: FloatArray
    moving: FloatArray
    stored: FloatArray
    past: FloatArray
    energy: FloatArray
    times: FloatArray
    totals: FloatArray


@njit(nogil=True, error_model="numpy")
def extrapolate(weights: FloatArray, times: FloatArray, first: int, last: int, at: float) -> None:
    """As :func:`imac_torch.transient.step.extrapolation`, of places ``first`` to ``last``."""
    weights[:] = 0.0
    newest = times[last]
    reach = at - newest
    used = np.zeros(4, dtype=np.bool_)
    count = 0
    for k in range(first, last + 1):
        used[k] = newest - times[k] > 0.2 * reach or k == last
        count += 1 if used[k] else 0
    if count == 3 and newest - times[first] < 0.8 * reach:
        used[first] = False
    for k in range(first, last + 1):
        if used[k]:
            weight = 1.0
            for j in range(first, last + 1):
                if used[j] and j != k:
                    weight *= (at - times[j]) / (times[k] - times[j])
            weights[k] = weight


@njit(nogil=True, error_model="numpy")
def rung(step: float, rungs: float) -> float:
    """As :func:`imac_torch.transient.integrator.ladder`."""
    return 2.0 ** (math.floor(rungs * math.log2(step) + 1e-9) / rungs)


@njit(nogil=True, error_model="numpy")
def proposal(step: float, error: float, longest: float, rungs: float) -> float:
    """As :meth:`imac_torch.transient.integrator.StepControl.proposal`."""
    factor = 2.0 if error <= 0.0 else min(2.0, max(0.2, 0.85 * error ** (-1.0 / 3.0)))
    return rung(min(step * factor, longest), rungs)


@njit(nogil=True, error_model="numpy", fastmath=FAST)
def sources(
    group: Group, drive: Drive, results: FloatArray, scalars: FloatArray, stage: int, vdd: float,
    weights: FloatArray, kinds: FloatArray, amplifiers: bool,
) -> None:
    """Powers of every kind of source, as :func:`imac_torch.transient.power.assembled`."""
    base = FIRST_SUM + SUMS * stage
    rest, moving = group.powers[1 + stage], group.moving[1 + stage]
    for t in range(rest.shape[0]):
        for kind in range(POWERS):
            for lane in range(LANES):
                rest[t, kind, lane] = 0.0
                moving[t, kind, lane] = 0.0
        for n in range(len(weights)):
            row, kind = drive.rows[t, n], drive.kinds[n]
            for lane in range(LANES):
                moving[t, kind, lane] += weights[n] * row[lane]
        for k in range(len(results)):
            sums, level = results[k, t], scalars[k, 1]
            for lane in range(LANES):
                rest[t, 1, lane] += vdd * sums[base + 6, lane]
                rest[t, 2, lane] += vdd * sums[base, lane]
                rest[t, 3, lane] += level * sums[base + 1, lane]
                rest[t, 4, lane] += sums[base + 7, lane]
                moving[t, 2, lane] += vdd * sums[base + 2, lane]
                moving[t, 3, lane] += level * sums[base + 3, lane]
        if amplifiers:
            for i in range(len(kinds)):
                for j in range(i + 1):
                    share = kinds[i] * kinds[j] * (1.0 if i == j else 2.0)
                    for lane in range(LANES):
                        rest[t, 4, lane] += share * drive.form[t, i, j, lane]
        else:
            for lane in range(LANES):
                rest[t, 4, lane] = np.nan
        if stage == 1:
            stored = group.stored[1, t]
            for kind in range(POWERS):
                for lane in range(LANES):
                    stored[kind, lane] = 0.0
            for k in range(len(results)):
                sums, level = results[k, t], scalars[k, 1]
                for lane in range(LANES):
                    stored[2, lane] += vdd * sums[base + 4, lane]
                    stored[3, lane] += level * sums[base + 5, lane]


@njit(nogil=True, error_model="numpy", fastmath=FAST)
def worst_power(
    group: Group, step: float, corner: int, length: float, span: float, least: float,
    amplifiers: bool, found: FloatArray,
) -> None:
    """(tiles, LANES), as :func:`imac_torch.transient.accuracy.power_errors`."""
    first_part, last_part = 1.0 / (GAMMA * step), 1.0 / ((1.0 - GAMMA) * step)
    for t in range(found.shape[0]):
        for lane in range(LANES):
            most = 0.0
            for kind in range(4):
                most = max(most, group.largest[t, kind, lane])
            worst = 0.0
            for kind in range(5 if amplifiers else 4):
                start, middle = group.powers[0, t, kind, lane], group.powers[1, t, kind, lane]
                end = group.powers[2, t, kind, lane]
                one = (middle - start) * first_part
                two = ((end - middle) * last_part - one) / step
                if corner == 0:
                    past = (start - group.past[t, kind, lane]) / length
                    before = (one - past) / (GAMMA * step + length)
                    error = span * step**3 * abs((two - before) / (step + length))
                else:
                    error = span * step**2 * abs(two)
                scale = max(group.largest[t, kind, lane], least * most)
                relative = error / max(scale, 2.2250738585072014e-308)
                if relative > worst:
                    worst = relative
            found[t, lane] = worst


@njit(nogil=True, error_model="numpy", fastmath=FAST)
def march(
    layers: Layers, drive: Drive, group: Group, batch: int, numbers: FloatArray,
    control: FloatArray, clock: FloatArray, sets: IntArray, counts: IntArray, failed: IntArray,
) -> int:
    """Steps up to the next corner, or until all places for records are taken.

    Args:
        layers: In order.
        drive: Of the first one.
        group: What belongs to all of them; its powers at the start are there.
        batch: Images; the last tile may not be full.
        numbers: (20,) of :func:`imac_torch.kernels.steps.step_layer`; those of a step are filled
            in.
        control: Tolerance V, smallest and longest step s, corner s, rungs of step sizes per
            octave, shortest step s whose powers are controlled, span and least part of powers,
            whether amplifiers count; three weights of rates in local errors, times σ-free; of what
            these do not show; weights of a step's integral (3); what left-out parts count.
        clock: Time and length of the step before, wanted step, s; changed. Step tried last.
        sets: (5,) of :func:`step_layer`; changed.
        counts: Steps ever taken, accepted here, rejected here; changed.
        failed: Layer and image where Newton's method did not converge last; written.

    Returns:
        How it ended.
    """
    tolerance, smallest, longest, corner = control[0], control[1], control[2], control[3]
    rungs, shortest, span, least = control[4], control[5], control[6], control[7]
    amplifiers = control[8] != 0.0
    vdd = numbers[2]
    tiles = group.carried.shape[0]
    depth = len(layers.results)
    guesses, times = np.zeros((2, 4)), np.zeros(4)
    ramps, poles = drive.filtered.shape
    half_way, at_end = np.zeros((ramps, poles)), np.zeros((ramps, poles))
    weights, part_of = np.zeros(drive.rows.shape[1]), np.zeros(drive.basis.shape[1])
    spent = np.zeros(drive.rows.shape[1])
    relative = np.zeros((tiles, LANES))
    places = len(group.times)
    largest_passed = 0.0
    while True:
        if counts[1] == places:
            return FULL
        time, wanted = clock[0], clock[2]
        remaining = corner - time
        step = wanted if 2.0 * wanted < remaining else remaining / 2
        if wanted > 0.999 * remaining:
            step = remaining
        clock[3] = step
        finished = step > 0.999999 * remaining
        end = corner if finished else time + step
        sigma, length = 2.0 / (GAMMA * step), clock[1]
        # Where guesses start from.
        times[0], times[1], times[2], times[3] = -length, (GAMMA - 1.0) * length, 0.0, GAMMA * step
        extrapolate(guesses[0], times, 0 if counts[0] > 0 else 2, 2, GAMMA * step)
        extrapolate(guesses[1], times, 1 if counts[0] > 0 else 2, 3, step)
        numbers[0], numbers[1] = step, sigma
        rate = control[9] * step
        numbers[7], numbers[8] = rate / GAMMA, -rate / (GAMMA * (1.0 - GAMMA))
        numbers[9] = rate / (1.0 - GAMMA)
        numbers[10] = 0.0 if sets[4] != 0 else control[10] * step / length
        numbers[13] = (1.0 - GAMMA) * length
        # The first layer.
        advance(half_way, drive.filtered, drive.slopes, drive.poles, GAMMA * step)
        advance(at_end, drive.filtered, drive.slopes, drive.poles, step)
        for stage in range(2):
            here = half_way if stage == 0 else at_end
            then = time + GAMMA * step if stage == 0 else end
            shares(part_of, min(1.0, then / drive.transition[0]), here)
            for t in range(tiles):
                target = layers.passed[0][t, COMBINED + stage]
                target[:] = 0.0
                for j in range(len(part_of)):
                    basis = drive.basis[t, j]
                    for row in range(target.shape[0]):
                        for lane in range(LANES):
                            target[row, lane] += part_of[j] * basis[row, lane]
        group.carried[:] = 0.0
        numbers[16] = 0.0
        bad = False
        for k in range(depth):
            sizes, results = layers.sizes[k], layers.results[k]
            largest_passed = 0.0
            if sizes[0] != 0:
                largest_passed = fill(
                    sigma, layers.poles[k], layers.by_filter[k], layers.by_filter_bias[k],
                    layers.by_filter_transfer[k], sizes[2], sizes[1], layers.first[k],
                    layers.admittance[k], layers.left[k], layers.across[k], layers.own[k],
                    layers.bias_currents[k], layers.inverse[k], layers.through[k],
                    layers.transfer[k],
                )
            numbers[11], layers.circuit[k][3] = layers.scalars[k, 0], sigma
            step_layer(
                0, tiles, batch, layers.kept[k], layers.passed[k], layers.following[k],
                layers.lines[k], group.carried, results, sets, guesses, numbers, layers.table[k],
                (sizes[3], sizes[4]), layers.grid[k], layers.circuit[k], layers.capacitance[k],
                layers.first[k], layers.starts[k], layers.admittance[k], layers.left[k],
                layers.across[k], layers.own[k], layers.bias_currents[k], sizes[0] != 0, sizes[1],
                layers.inverse[k], layers.through[k], layers.onward[k], layers.transfer[k],
                layers.at_rest[k], layers.missed[k], layers.bias_row[k], layers.bias_filtered[k],
                layers.forms[k], layers.ends_direct[k], layers.ends_filtered[k],
            )
            numbers[16] = largest_passed
            for t in range(tiles):
                for lane in range(LANES):
                    if (
                        not bad and group.alive[t, lane] != 0.0
                        and results[t, FAILED, lane] > 0.0
                    ):
                        bad = True
                        failed[0], failed[1] = k, t * LANES + lane
            if bad:
                break
        if bad:
            counts[2] += 1
            clock[2] = rung(step / 4.0, rungs)
            if clock[2] < smallest:
                return STUCK_NEWTON
            continue
        for stage in range(2):
            here = half_way if stage == 0 else at_end
            then = time + GAMMA * step if stage == 0 else end
            part = min(1.0, then / drive.transition[0])
            slope = slope_at(then, drive.transition[0], stage == 0)
            shares(part_of, part, here)
            levels(weights, part, slope, here)
            sources(
                group, drive, layers.results, layers.scalars, stage, vdd, weights, part_of,
                amplifiers,
            )
        relative[:] = 0.0
        if step > shortest:
            worst_power(
                group, step, sets[4], numbers[13], span, least, amplifiers, relative
            )
        error = 0.0
        for t in range(tiles):
            for lane in range(LANES):
                if group.alive[t, lane] == 0.0:
                    for k in range(depth):
                        layers.results[k, t, ERROR, lane] = 0.0
                    continue
                first = layers.results[0, t, ERROR, lane]
                power = vdd * relative[t, lane]
                layers.results[0, t, ERROR, lane] = power if power > first else first
                for k in range(depth):
                    found = layers.results[k, t, ERROR, lane]
                    error = error if found <= error else found
        error /= tolerance
        if not error <= 1.0:
            counts[2] += 1
            shorter = proposal(step, error, longest, rungs)
            clock[2] = min(rung(step / 1.5, rungs), shorter)
            if not clock[2] >= smallest:
                return STUCK_ERROR
            continue
        # Accepted: what was delivered, what is recorded, and on to the next one.
        work(
            spent, time, step, drive.transition[0], drive.filtered, drive.slopes, drive.poles
        )
        place = counts[1]
        group.times[place, 0], group.times[place, 1] = time, time + GAMMA * step
        group.times[place, 2] = end
        for t in range(tiles):
            for n in range(len(spent)):
                row, kind = drive.rows[t, n], drive.kinds[n]
                for lane in range(LANES):
                    group.energy[t, kind, lane] += spent[n] * row[lane]
            for kind in range(POWERS):
                for lane in range(LANES):
                    one, two = group.powers[0, t, kind, lane], group.powers[1, t, kind, lane]
                    three = group.powers[2, t, kind, lane]
                    group.energy[t, kind, lane] += step * (
                        control[11] * one + control[12] * two + control[13] * three
                    )
                    group.energy[t, kind, lane] += (
                        group.stored[1, t, kind, lane] - group.stored[0, t, kind, lane]
                    )
                    group.past[t, kind, lane] = two
                    middle, last = (
                        two + group.moving[1, t, kind, lane],
                        three + group.moving[2, t, kind, lane],
                    )
                    group.totals[place, 0, t, kind, lane] = middle
                    group.totals[place, 1, t, kind, lane] = last
                    most = max(abs(middle), abs(last))
                    if most > group.largest[t, kind, lane]:
                        group.largest[t, kind, lane] = most
            for lane in range(LANES):
                for k in range(depth):
                    if not layers.results[k, t, INSIDE, lane] > 0.0:
                        group.inside[t, lane] = 0.0
                for k in range(depth - 1):
                    left = control[14] * layers.results[k, t, LEFT, lane]
                    group.left_out[t, lane] = max(group.left_out[t, lane], left)
        group.powers[0, :, :, :] = group.powers[2]
        group.moving[0, :, :, :] = group.moving[2]
        group.stored[0, :, :, :] = group.stored[1]
        drive.filtered[:] = at_end
        oldest = sets[0]
        sets[0], sets[1], sets[2] = sets[1], sets[2], oldest
        sets[3], sets[4] = 1 - sets[3], 0
        for k in range(depth):
            if len(layers.record[k]):
                record(layers.record[k][place], layers.kept[k], sets[1] * KEPT)
        clock[0], clock[1] = end, step
        counts[0] += 1
        counts[1] += 1
        shortened = rung(step, rungs) if finished and step < wanted else 0.0
        clock[2] = max(proposal(step, error, longest, rungs), shortened)
        if finished:
            return REACHED


@njit(nogil=True, error_model="numpy")
def record(target: FloatArray, kept: FloatArray, base: int) -> None:
    """Outputs of a step's stage and end, (2, tiles, M, LANES)."""
    for t in range(kept.shape[0]):
        for row in range(kept.shape[1]):
            for lane in range(LANES):
                target[0, t, row, lane] = kept[t, row, base + MIDDLE_OUTPUT, lane]
                target[1, t, row, lane] = kept[t, row, base + RECORDED, lane]
