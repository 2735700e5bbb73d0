"""The I+ and I- lines of one row: factorisation, admittance, and the adjoint of both."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.dense import total
from imac_torch.kernels.lanes import LANES, load, same, store

Array = NDArray[np.float64]

# Order of the scalars that describe wires and amplifier inputs in every kernel.
INPUT_SEGMENT: Final = 0  # Ω
OUTPUT_SEGMENT: Final = 1  # Ω
POSITIVE_END: Final = 2  # S, from the last node of an I+ line to ground
NEGATIVE_END: Final = 3  # S, from the last node of an I- line to the virtual node
POSITIVE_SHARE: Final = 4  # I+ end voltage per last node's voltage
NEGATIVE_SHARE: Final = 5  # likewise for I-, relative to the virtual node
ALPHA: Final = 6  # virtual node's voltage per I+ end voltage
SCALARS: Final = 7

# Rows of a line's factorisation.
LEFT: Final = 0  # S, seen from node i with everything to its right cut off
LEFT_RATIO: Final = 1  # voltage of node i per voltage of node i+1, currents injected further right
RIGHT_RATIO: Final = 2  # voltage of node i per voltage of node i-1, currents injected further left
DIAGONAL: Final = 3  # Ω, Z_ii
EXCESS: Final = 4  # 1 - g_i·Z_ii
REACH: Final = 5  # voltage of the last node per input node voltage, g_i·Z_{i,last}
FACTORS: Final = 6


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def factor(
    positive: Array,
    negative: Array,
    segment: float,
    beyond_plus: float,
    beyond_minus: float,
    plus: Array,
    minus: Array,
) -> None:
    """Factor both lines of a row; sums and ratios of positive numbers only.

    Args:
        positive: (K,) S.
        negative: (K,) S.
        segment: Ω, >= 0.
        beyond_plus: Ω, >= 0, from the last node of the I+ line to a fixed voltage.
        beyond_minus: Likewise for the I- line.
        plus: (FACTORS, >= K), written.
        minus: (FACTORS, >= K), written.
    """
    count = positive.shape[0]
    left_plus, left_minus = 0.0, 0.0  # S, of everything to the left
    right_plus, right_minus = beyond_plus, beyond_minus  # Ω, of everything to the right
    # Four independent recurrences in one loop hide each other's division.
    for i in range(count):
        j = count - 1 - i
        own = positive[i] + left_plus
        ratio = 1.0 / (1.0 + segment * own)
        plus[LEFT, i], plus[LEFT_RATIO, i], left_plus = own, ratio, own * ratio
        own = negative[i] + left_minus
        ratio = 1.0 / (1.0 + segment * own)
        minus[LEFT, i], minus[LEFT_RATIO, i], left_minus = own, ratio, own * ratio
        plus[DIAGONAL, j], minus[DIAGONAL, j] = right_plus, right_minus
        here = right_plus / (1.0 + positive[j] * right_plus)
        right_plus = segment + here
        plus[RIGHT_RATIO, j] = here
        here = right_minus / (1.0 + negative[j] * right_minus)
        right_minus = segment + here
        minus[RIGHT_RATIO, j] = here
    for i in range(count):
        left = 0.0 if i == 0 else plus[LEFT, i - 1] * plus[LEFT_RATIO, i - 1]
        right = plus[DIAGONAL, i]
        scale = 1.0 / (1.0 + right * plus[LEFT, i])
        plus[DIAGONAL, i] = right * scale
        plus[EXCESS, i] = (1.0 + right * left) * scale
        far = segment + plus[RIGHT_RATIO, i]
        plus[RIGHT_RATIO, i] = plus[RIGHT_RATIO, i] / far if far > 0.0 else 0.0
        left = 0.0 if i == 0 else minus[LEFT, i - 1] * minus[LEFT_RATIO, i - 1]
        right = minus[DIAGONAL, i]
        scale = 1.0 / (1.0 + right * minus[LEFT, i])
        minus[DIAGONAL, i] = right * scale
        minus[EXCESS, i] = (1.0 + right * left) * scale
        far = segment + minus[RIGHT_RATIO, i]
        minus[RIGHT_RATIO, i] = minus[RIGHT_RATIO, i] / far if far > 0.0 else 0.0
    last_plus, last_minus = plus[DIAGONAL, count - 1], minus[DIAGONAL, count - 1]
    for i in range(count - 1, -1, -1):
        if i < count - 1:
            last_plus *= plus[LEFT_RATIO, i]
            last_minus *= minus[LEFT_RATIO, i]
        plus[REACH, i] = positive[i] * last_plus
        minus[REACH, i] = negative[i] * last_minus


@njit(nogil=True, fastmath={"contract"})
def add_admittance(
    positive: Array,
    negative: Array,
    coupling: float,
    plus: Array,
    minus: Array,
    work: Array,
    buffer: Array,
) -> None:
    """Add the row's admittance to work, see :func:`imac_torch.elimination.chain.eliminate_lines`.

    Args:
        positive: (K,) S.
        negative: (K,) S.
        coupling: S, current into the last I- node per voltage of the last I+ node.
        plus: Factorisation of the I+ line.
        minus: Factorisation of the I- line.
        work: (>= K, >= K) S.
        buffer: (2, >= K), overwritten.
    """
    count = positive.shape[0]
    for i in range(count - 1, -1, -1):
        gp, gn = positive[i], negative[i]
        ratio_plus, ratio_minus = plus[LEFT_RATIO, i], minus[LEFT_RATIO, i]
        for j in range(i + 1, count):
            zp = buffer[0, j] * ratio_plus
            zn = buffer[1, j] * ratio_minus
            buffer[0, j] = zp
            buffer[1, j] = zn
            work[i, j] -= gp * zp + gn * zn
        buffer[0, i] = gp * plus[DIAGONAL, i]
        buffer[1, i] = gn * minus[DIAGONAL, i]
    for i in range(count):
        gp, gn = positive[i], negative[i]
        ratio_plus, ratio_minus = plus[RIGHT_RATIO, i], minus[RIGHT_RATIO, i]
        for j in range(i):
            zp = buffer[0, j] * ratio_plus
            zn = buffer[1, j] * ratio_minus
            buffer[0, j] = zp
            buffer[1, j] = zn
            work[i, j] -= gp * zp + gn * zn
        buffer[0, i] = gp * plus[DIAGONAL, i]
        buffer[1, i] = gn * minus[DIAGONAL, i]
        work[i, i] += gp * plus[EXCESS, i] + gn * minus[EXCESS, i]
    # The virtual node follows the I+ end and drives the I- line.
    if coupling != 0.0:
        for i in range(count):
            drive = coupling * minus[REACH, i]
            for j in range(count):
                work[i, j] -= drive * plus[REACH, j]


@njit(nogil=True, fastmath={"contract"})
def factor_row(
    positive: Array, negative: Array, scalars: Array, plus: Array, minus: Array
) -> None:
    """:func:`factor` of lines that end in amplifiers."""
    segment = scalars[OUTPUT_SEGMENT]
    beyond_plus, beyond_minus = 1.0 / scalars[POSITIVE_END], 1.0 / scalars[NEGATIVE_END]
    factor(positive, negative, segment, beyond_plus, beyond_minus, plus, minus)


@njit(nogil=True, fastmath={"contract"})
def add_row(
    both: Array, scalars: Array, plus: Array, minus: Array, work: Array, units: Array
) -> None:
    """The same as :func:`add_admittance` does, of lines that end in amplifiers, in whole strips.

    Args:
        both: (2, width) S, conductances of both sides, zero beyond the cells.
        scalars: (SCALARS,).
        plus: Factorisation of the I+ line, zero likewise.
        minus: Factorisation of the I- line, zero likewise.
        work: (width, width) S.
        units: (LANES, LANES), the identity.
    """
    coupling = scalars[NEGATIVE_END] * scalars[ALPHA] * scalars[POSITIVE_SHARE]
    width = work.shape[0]
    strips = width // LANES
    for s in range(strips):
        first, last = s * LANES, s * LANES + LANES
        # The virtual node follows the I+ end and drives the I- line.
        reach = coupling * load(plus, REACH * strips + s)
        ofplus, ofminus = same(0.0), same(0.0)
        for i in range(last - 1, -1, -1):
            ofplus *= plus[LEFT_RATIO, i]
            ofminus *= minus[LEFT_RATIO, i]
            at = i * strips + s
            row = load(work, at) - both[0, i] * ofplus - both[1, i] * ofminus
            row -= minus[REACH, i] * reach
            if i >= first:
                own = load(units, i - first)
                gp, gn = both[0, i], both[1, i]
                ofplus += gp * plus[DIAGONAL, i] * own
                ofminus += gn * minus[DIAGONAL, i] * own
                row += (gp * plus[EXCESS, i] + gn * minus[EXCESS, i]) * own
            store(work, at, row)
        ofplus, ofminus = same(0.0), same(0.0)
        for i in range(first, width):
            ofplus *= plus[RIGHT_RATIO, i]
            ofminus *= minus[RIGHT_RATIO, i]
            at = i * strips + s
            row = load(work, at) - both[0, i] * ofplus - both[1, i] * ofminus
            if i < last:
                own = load(units, i - first)
                ofplus += both[0, i] * plus[DIAGONAL, i] * own
                ofminus += both[1, i] * minus[DIAGONAL, i] * own
            else:
                row -= minus[REACH, i] * reach
            store(work, at, row)


@njit(nogil=True, fastmath={"contract"})
def write_ends(
    scalars: Array, plus: Array, minus: Array, positive_end: Array, negative_end: Array, count: int
) -> None:
    """Voltages of the line ends per input node voltage, two vectors of length ``count``."""
    share = scalars[NEGATIVE_SHARE]
    last = minus[DIAGONAL, count - 1]
    driven = share * last * scalars[NEGATIVE_END] + (1.0 - share)
    for j in range(count):
        end = scalars[POSITIVE_SHARE] * plus[REACH, j]
        positive_end[j] = end
        negative_end[j] = share * minus[REACH, j] + driven * scalars[ALPHA] * end


@njit(nogil=True, fastmath={"contract"})
def _accumulate(conductance: Array, factors: Array, nodes: Array, sign: float, sums: Array) -> None:
    """Forward substitution with injected currents sign·g_i·nodes[i]; sums (K, width) written."""
    count = conductance.shape[0]
    width = nodes.shape[1]
    for j in range(width):
        sums[0, j] = sign * conductance[0] * nodes[0, j]
    for i in range(1, count):
        ratio = factors[LEFT_RATIO, i - 1]
        g = sign * conductance[i]
        for j in range(width):
            sums[i, j] = g * nodes[i, j] + ratio * sums[i - 1, j]


@njit(nogil=True, fastmath={"contract"})
def _line_gradients(
    factors: Array,
    segment: float,
    voltages: Array,
    adjoints: Array,
    sums: Array,
    adjoint_sums: Array,
    last: Array,
    adjoint_last: Array,
    products: Array,
    drops: Array,
    gradient: Array,
) -> None:
    """Back substitution of a line and of its adjoint; gradients on the way.

    Args:
        factors: The line's factorisation.
        segment: Ω.
        voltages: (K, width) input node voltages.
        adjoints: (K, width) cotangents of the currents into the row.
        sums: From forward substitution of the line.
        adjoint_sums: From forward substitution of its adjoint.
        last: (width,) last node's voltage, overwritten.
        adjoint_last: (width,), overwritten.
        products: (width,), overwritten.
        drops: (width,), products of segment currents are added.
        gradient: (K,) with respect to the conductances, written.
    """
    count = gradient.shape[0]
    width = voltages.shape[1]
    for i in range(count - 1, -1, -1):
        if i < count - 1:
            ratio, left = factors[LEFT_RATIO, i], factors[LEFT, i]
            for j in range(width):
                after, adjoint_after = last[j], adjoint_last[j]
                current = ratio * (sums[i, j] - left * after)
                adjoint_current = ratio * (adjoint_sums[i, j] - left * adjoint_after)
                drops[j] += current * adjoint_current
                here = after + segment * current
                adjoint_here = adjoint_after + segment * adjoint_current
                last[j] = here
                adjoint_last[j] = adjoint_here
                products[j] = (adjoints[i, j] + adjoint_here) * (voltages[i, j] - here)
        else:
            for j in range(width):
                products[j] = (adjoints[i, j] + adjoint_last[j]) * (voltages[i, j] - last[j])
        gradient[i] = total(products)


@njit(nogil=True, fastmath={"contract"})
def row_gradients(
    positive: Array,
    negative: Array,
    scalars: Array,
    plus: Array,
    minus: Array,
    voltages: Array,
    adjoints: Array,
    grad_positive_end: Array,
    grad_negative_end: Array,
    sums: Array,
    vectors: Array,
    grad_positive: Array,
    grad_negative: Array,
    grad_scalars: Array,
) -> None:
    """Gradients of one row with respect to everything in it.

    With a the voltages of the input nodes and i(a), pe(a), qe(a) the row's currents and ends, the
    objective is <adjoints, i> + <grad_positive_end, pe> + <grad_negative_end, qe>, summed over the
    columns of ``voltages``. Both lines' voltages and adjoint voltages come from tridiagonal
    solves; a cell's gradient is the product of its voltage and its adjoint voltage (Tellegen).

    Args:
        positive: (K,) S.
        negative: (K,) S.
        scalars: (SCALARS,).
        plus: Factorisation of the I+ line.
        minus: Factorisation of the I- line.
        voltages: (>= K, width).
        adjoints: (>= K, width).
        grad_positive_end: (width,).
        grad_negative_end: (width,).
        sums: (4, >= K, width), overwritten.
        vectors: (8, width), overwritten.
        grad_positive: (K,), written.
        grad_negative: (K,), written.
        grad_scalars: (SCALARS,), added to.
    """
    count = positive.shape[0]
    width = voltages.shape[1]
    final = count - 1
    end_plus, end_minus = scalars[POSITIVE_END], scalars[NEGATIVE_END]
    share_plus, share_minus = scalars[POSITIVE_SHARE], scalars[NEGATIVE_SHARE]
    alpha, segment = scalars[ALPHA], scalars[OUTPUT_SEGMENT]
    z_plus = 1.0 / (plus[LEFT, final] + end_plus)
    z_minus = 1.0 / (minus[LEFT, final] + end_minus)
    _accumulate(positive, plus, voltages, 1.0, sums[0])
    _accumulate(negative, minus, voltages, 1.0, sums[1])
    _accumulate(negative, minus, adjoints, -1.0, sums[2])
    _accumulate(positive, plus, adjoints, -1.0, sums[3])
    d_alpha, d_end_plus, d_end_minus, d_share_plus, d_share_minus = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(width):
        p = z_plus * sums[0, final, j]
        pe = share_plus * p
        virtual = alpha * pe
        sums[1, final, j] += end_minus * virtual
        q = z_minus * sums[1, final, j]
        cotangent = grad_negative_end[j]
        sums[2, final, j] += share_minus * cotangent
        mu = z_minus * sums[2, final, j]
        grad_virtual = (1.0 - share_minus) * cotangent + end_minus * mu
        grad_pe = grad_positive_end[j] + alpha * grad_virtual
        sums[3, final, j] += share_plus * grad_pe
        lam = z_plus * sums[3, final, j]
        vectors[0, j], vectors[1, j], vectors[2, j], vectors[3, j] = p, lam, q, mu
        d_alpha += grad_virtual * pe
        d_end_plus -= lam * p
        d_end_minus += mu * (virtual - q)
        d_share_plus += grad_pe * p
        d_share_minus += cotangent * (q - virtual)
        vectors[5, j] = 0.0
    _line_gradients(
        plus, segment, voltages, adjoints, sums[0], sums[3], vectors[0], vectors[1], vectors[4],
        vectors[5], grad_positive,
    )
    _line_gradients(
        minus, segment, voltages, adjoints, sums[1], sums[2], vectors[2], vectors[3], vectors[4],
        vectors[5], grad_negative,
    )
    grad_scalars[OUTPUT_SEGMENT] += total(vectors[5])
    grad_scalars[POSITIVE_END] += d_end_plus
    grad_scalars[NEGATIVE_END] += d_end_minus
    grad_scalars[POSITIVE_SHARE] += d_share_plus
    grad_scalars[NEGATIVE_SHARE] += d_share_minus
    grad_scalars[ALPHA] += d_alpha
