"""Elimination of blocks: two methods and two kernels against independent solutions."""

from __future__ import annotations

import dataclasses
import decimal
import sys
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

import imac_torch.elimination.cuts
import imac_torch.elimination.rows
import imac_torch.elimination.tiles
from imac_torch.circuit.crossbar import CrossbarSpec, build_crossbar
from imac_torch.circuit.topology import build_layer
from imac_torch.config import Amplifier, Config, Crossbar
from imac_torch.elimination.blocks import BlockLayout, BlockPorts, Termination
from imac_torch.elimination.choice import CROSSOVER, EliminationInfo, eliminate
from imac_torch.elimination.linalg import inverse, solve
from imac_torch.errors import SolverError
from imac_torch.kernels.compiled import obstacle
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.numeric.side_by_side import side_by_side
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.reference.nodal import solve_layer, stamp

WAYS = [("rows", "torch"), ("rows", "numba"), ("tiles", "torch"), ("tiles", "numba")]
ways = pytest.mark.parametrize(("method", "kernel"), WAYS, ids=list(map("-".join, WAYS)))
EPS = 2.0**-52


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def termination(
    input_segment: float = 9.24,
    output_segment: float = 11.55,
    gain: float = 30.0,
    load: float = 1e3,
    alpha: float | None = None,
) -> Termination:
    return Termination(
        scalar(input_segment),
        scalar(output_segment),
        scalar(load * (1 + gain)),
        scalar(load),
        scalar(gain / (1 + gain) if alpha is None else alpha),
    )


def cells(
    *shape: int, seed: int = 0, scale: float = 1e-5, open_share: float = 0.1
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pair = []
    for _ in range(2):
        values = (torch.rand(*shape, generator=generator, dtype=torch.float64) + 0.1) * scale
        values[torch.rand(*shape, generator=generator) < open_share] = 0.0
        pair.append(values)
    return pair[0], pair[1]


def parts(ports: BlockPorts) -> list[torch.Tensor]:
    return [ports.admittance, ports.positive_end, ports.negative_end]


def difference(first: BlockPorts, second: BlockPorts) -> float:
    """Largest difference of each part relative to its largest entry; the worst of the three."""
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-300))
        for a, b in zip(parts(first), parts(second), strict=True)
    )


def exact(positive: np.ndarray, negative: np.ndarray, wires: Termination) -> BlockPorts:
    """One block by nodal analysis in 60-digit arithmetic: no shared code, no rounding to speak of.

    Segments must not be 0. Nodes: a (R·K), p (R·K), q (R·K), pe (R), ne (R).
    """
    rows, columns = positive.shape
    count = 3 * rows * columns + 2 * rows
    with decimal.localcontext() as context:
        context.prec = 60
        input_g = 1 / Decimal(float(wires.input_segment))
        output_g = 1 / Decimal(float(wires.output_segment))
        plus_g = 1 / Decimal(float(wires.positive_load))
        minus_g = 1 / Decimal(float(wires.negative_load))
        alpha = Decimal(float(wires.alpha))
        matrix = [[Decimal(0)] * (count + columns) for _ in range(count)]

        def couple(i: int, j: int, g: Decimal) -> None:
            matrix[i][i] += g
            matrix[j][j] += g
            matrix[i][j] -= g
            matrix[j][i] -= g

        for r in range(rows):
            for c in range(columns):
                a, p, q = (n * rows * columns + r * columns + c for n in range(3))
                if r == 0:
                    matrix[a][a] += input_g
                    matrix[a][count + c] += input_g
                else:
                    couple(a, a - columns, input_g)
                last = c == columns - 1
                couple(p, 3 * rows * columns + r if last else p + 1, output_g)
                couple(q, 3 * rows * columns + rows + r if last else q + 1, output_g)
                couple(a, p, Decimal(float(positive[r, c])))
                couple(a, q, Decimal(float(negative[r, c])))
            pe, ne = 3 * rows * columns + r, 3 * rows * columns + rows + r
            matrix[pe][pe] += plus_g
            matrix[ne][ne] += minus_g
            matrix[ne][pe] -= alpha * minus_g
        for k in range(count):
            scale = 1 / matrix[k][k]
            pivot = [x * scale if x else x for x in matrix[k]]
            matrix[k] = pivot
            used = [j for j in range(k, count + columns) if pivot[j]]
            for i in range(count):
                if i != k and matrix[i][k]:
                    factor = matrix[i][k]
                    for j in used:
                        matrix[i][j] -= factor * pivot[j]
        solution = [row[count:] for row in matrix]
        admittance = [
            [input_g * ((i == j) - solution[i][j]) for j in range(columns)] for i in range(columns)
        ]

    def tensor(values: list[list[Decimal]]) -> torch.Tensor:
        return torch.tensor([[float(x) for x in row] for row in values], dtype=torch.float64)

    first = 3 * rows * columns
    return BlockPorts(
        tensor(admittance),
        tensor(solution[first : first + rows]),
        tensor(solution[first + rows : first + 2 * rows]),
    )


@ways
@pytest.mark.parametrize("ratio", [1e-4, 1e0, 1e2, 1e4, 1e6, 1e8])
def test_precision_does_not_depend_on_the_ratio_of_wires_and_cells(
    method: str, kernel: str, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sums and products of numbers of one sign lose at most an ulp or so each; a path crosses
    # fewer than 30 of them per row and column here. 1e-13 is 450 ulp.
    monkeypatch.setattr(imac_torch.elimination.cuts, "BASE", 2)  # merge even this small a block
    monkeypatch.setattr(imac_torch.elimination.tiles, "HALVED", 1)  # as large ones are
    positive, negative = cells(4, 5, scale=1e-5)
    wires = termination(1e5 / ratio, 1.3e5 / ratio)
    found, info = eliminate(positive, negative, wires, method=method, kernel=kernel)
    assert info == EliminationInfo(method, kernel)
    assert difference(found, exact(positive.numpy(), negative.numpy(), wires)) < 1e-13


def crossbar(
    outputs: int, inputs: int, horizontal: int, vertical: int, seed: int, ideal: str
) -> tuple[CrossbarSpec, Config]:
    size = Crossbar(horizontal=horizontal, vertical=vertical)
    config = Config(crossbar=size, amplifier=Amplifier(gain=30.0)).for_layer(0, "layer", 1)
    spec = build_crossbar(ConductancePair(*cells(outputs, inputs + 1, seed=seed)), config, 30.0)
    if ideal in ("input", "both"):
        spec = dataclasses.replace(spec, input_segment=scalar(0.0))
    if ideal in ("output", "both"):
        spec = dataclasses.replace(spec, output_segment=scalar(0.0))
    return spec, config


@ways
@settings(max_examples=8, deadline=None)
@given(
    outputs=st.integers(1, 6),
    inputs=st.integers(1, 6),
    parts_=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ideal=st.sampled_from(["", "input", "output", "both"]),
    seed=st.integers(0, 1000),
)
def test_layers_equal_the_stamped_circuit(
    method: str,
    kernel: str,
    outputs: int,
    inputs: int,
    parts_: tuple[int, int],
    ideal: str,
    seed: int,
) -> None:
    horizontal, vertical = min(parts_[0], inputs + 1), min(parts_[1], outputs)
    spec, config = crossbar(outputs, inputs, horizontal, vertical, seed, ideal)
    neuron = NeuronSpec("logistic", 0.0, float("inf"), 0.0, 0.8, 298.15, config.neuron)
    layer = build_layer("layer1", spec, neuron, config)
    drive = torch.rand(3, inputs, dtype=torch.float64) * 1.6 - 0.8
    nodes = solve_layer(layer, drive, 0.8)

    layout = BlockLayout.of(spec)
    pair = spec.conductances
    ports, _ = eliminate(
        layout.gather(pair.positive),
        layout.gather(pair.negative),
        Termination.of(spec),
        method=method,
        kernel=kernel,
    )
    everything = torch.cat([drive, torch.full((3, 1), 0.8, dtype=torch.float64)], dim=1)
    for name, ends in (("pe", ports.positive_end), ("ne", ports.negative_end)):
        transfer = layout.scatter(ends)
        found = torch.stack(
            [everything[:, a:b] @ transfer[:, a:b].T for a, b in spec.column_ranges], dim=-1
        )
        expected = nodes[:, torch.from_numpy(layer.array(name).index)]
        assert float((found - expected).abs().max()) <= 1e-10 * 0.8
    voltages = layout.gather_inputs(everything)
    currents = (ports.admittance.sum(-3) @ voltages[..., None]).squeeze(-1)
    currents = layout.scatter_inputs(currents)[:, :-1]
    # Open cells leave isolated nodes NaN-free; amplifier outputs carry no stamped current.
    stamped = torch.nan_to_num(nodes) @ stamp(layer).dense().T
    expected = stamped[:, torch.from_numpy(layer.inputs)]
    # The oracle subtracts voltages of 0.8 V across 0.1 S: rounding of 1e-17 A per segment.
    tolerance = 1e-10 * float(expected.abs().max()) + 1e-15
    assert float((currents - expected).abs().max()) <= tolerance


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    base=st.sampled_from([2, 5, 16]),
    segments=st.sampled_from([(9.24, 11.55), (0.0, 11.55), (9.24, 0.0), (0.0, 0.0), (1e4, 1e5)]),
    seed=st.integers(0, 1000),
)
def test_all_ways_agree(
    rows: int, columns: int, base: int, segments: tuple[float, float], seed: int
) -> None:
    positive, negative = cells(rows, columns, seed=seed)
    wires = termination(*segments)
    before = imac_torch.elimination.cuts.BASE
    imac_torch.elimination.cuts.BASE = base
    try:
        results = [
            eliminate(positive, negative, wires, method=method, kernel=kernel)[0]
            for method, kernel in WAYS
        ]
    finally:
        imac_torch.elimination.cuts.BASE = before
    for other in results[1:]:
        # Up to 40 rows and columns, each a few ulp: see the precision test.
        assert difference(other, results[0]) < 1e-12


@ways
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (33, 20)])
def test_networks_are_row_dominant_m_matrices(
    method: str, kernel: str, shape: tuple[int, int]
) -> None:
    # What elimination without pivoting rests on: no input attracts current from another one, and
    # with all inputs at one voltage current flows in. Holds with the amplifiers' feedback.
    for wires in (termination(), termination(500.0, 300.0, gain=1e4), termination(0.0, 0.0)):
        positive, negative = cells(*shape, scale=1e-3)
        ports, _ = eliminate(positive, negative, wires, method=method, kernel=kernel)
        admittance = ports.admittance
        rounding = 100 * EPS * float(admittance.abs().max())
        off = admittance - torch.diag(admittance.diagonal())
        assert float(off.max()) <= rounding
        assert float(admittance.sum(dim=1).min()) >= -rounding
        for ends in (ports.positive_end, ports.negative_end):
            assert float(ends.min()) >= -1e-14
            assert float(ends.sum(dim=1).max()) <= 1 + 1e-13


@ways
def test_reciprocal_without_feedback(method: str, kernel: str) -> None:
    positive, negative = cells(20, 24)
    wires = termination(alpha=0.0)
    passive = eliminate(positive, negative, wires, method=method, kernel=kernel)[0].admittance
    assert float((passive - passive.T).abs().max() / passive.abs().max()) < 1e-13
    # The test can fail: with feedback the network is not reciprocal.
    active = eliminate(positive, negative, termination(), method=method, kernel=kernel)[0]
    asymmetry = (active.admittance - active.admittance.T).abs().max() / passive.abs().max()
    assert float(asymmetry) > 1e-4


@ways
def test_open_cells(method: str, kernel: str) -> None:
    wires = termination()
    nothing = torch.zeros(3, 4, dtype=torch.float64)
    ports, _ = eliminate(nothing, nothing, wires, method=method, kernel=kernel)
    for part in parts(ports):
        assert torch.equal(part, torch.zeros_like(part))
    # An open row changes nothing for the others but the length of the input line.
    positive, negative = cells(3, 4, open_share=0.0)
    positive[2] = negative[2] = 0.0
    with_row, _ = eliminate(positive, negative, wires, method=method, kernel=kernel)
    without, _ = eliminate(positive[:2], negative[:2], wires, method=method, kernel=kernel)
    assert difference(BlockPorts(with_row.admittance, *_first(with_row, 2)), without) < 1e-14
    assert float(with_row.positive_end[2].abs().max()) == 0.0


def _first(ports: BlockPorts, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    return ports.positive_end[:rows], ports.negative_end[:rows]


@ways
def test_equal_rows_fall_off_along_the_input_line(method: str, kernel: str) -> None:
    positive, negative = cells(1, 6, open_share=0.0)
    ports, _ = eliminate(
        positive.expand(5, 6), negative.expand(5, 6), termination(), method=method, kernel=kernel
    )
    sums = ports.positive_end.sum(dim=1)
    assert bool((sums[1:] < sums[:-1]).all())
    ideal, _ = eliminate(
        positive.expand(5, 6),
        negative.expand(5, 6),
        termination(input_segment=0.0),
        method=method,
        kernel=kernel,
    )
    assert float((ideal.positive_end - ideal.positive_end[:1]).abs().max()) < 1e-15


@ways
def test_batch_equals_loop(method: str, kernel: str) -> None:
    positive, negative = cells(2, 3, 9, 10)
    wires = termination()
    together, _ = eliminate(positive, negative, wires, method=method, kernel=kernel)
    for i in range(2):
        for j in range(3):
            alone, _ = eliminate(
                positive[i, j], negative[i, j], wires, method=method, kernel=kernel
            )
            part = BlockPorts(*(x[i, j] for x in parts(together)))
            # torch may sum a batch of another size in another order.
            assert difference(part, alone) < (1e-14 if kernel == "torch" else 1e-300)


def test_threads_change_nothing() -> None:
    positive, negative = cells(11, 12, 13)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(eliminate(positive, negative, termination(), kernel="numba")[0])
    finally:
        torch.set_num_threads(before)
    for first, second in zip(parts(results[0]), parts(results[1]), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("rows", [3, 9, 40])
def test_both_directions_of_the_compiled_recursion_agree(rows: int) -> None:
    # Few rows carry transfers up, many rows voltages down: 40 rows of 5 columns take the latter.
    positive, negative = cells(2, rows, 5)
    reference, _ = eliminate(positive, negative, termination(), method="rows", kernel="torch")
    found, _ = eliminate(positive, negative, termination(), method="rows", kernel="numba")
    assert difference(found, reference) < 1e-13


GRADIENT_WAYS = [("rows", "torch"), ("rows", "numba"), ("tiles", "torch")]
gradient_ways = pytest.mark.parametrize(
    ("method", "kernel"), GRADIENT_WAYS, ids=list(map("-".join, GRADIENT_WAYS))
)


@gradient_ways
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 1, 1), (1, 5, 2)])
def test_gradients(
    method: str, kernel: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imac_torch.elimination.cuts, "BASE", 2)

    def ports(
        positive: torch.Tensor, negative: torch.Tensor, wires: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        # Units that bring everything to order 1, as gradcheck's absolute steps need.
        termination = Termination(
            wires[0] * 3e3, wires[1] * 2e3, wires[2] * 1e4, wires[3] * 1e3, wires[4]
        )
        found, _ = eliminate(
            positive * 1e-4, negative * 1e-4, termination, method=method, kernel=kernel
        )
        return found.admittance * 1e4, found.positive_end, found.negative_end

    positive, negative = cells(*shape, scale=1.0, open_share=0.0)
    wires = torch.tensor([1.0, 1.5, 1.2, 0.8, 0.9], dtype=torch.float64)
    assert gradcheck(
        ports,
        (positive.requires_grad_(), negative.requires_grad_(), wires.requires_grad_()),
        fast_mode=method == "tiles",  # torch differentiates the merges, not we
    )


def gradients_of(
    wires: Termination, method: str, kernel: str, shape: tuple[int, ...] = (3, 12, 10)
) -> list[torch.Tensor]:
    inputs = [x.requires_grad_() for x in cells(*shape, seed=5)]
    scalars = [x.clone().requires_grad_() for x in vars(wires).values()]
    found, _ = eliminate(*inputs, Termination(*scalars), method=method, kernel=kernel)
    generator = torch.Generator().manual_seed(3)
    objective = sum(
        (part * torch.rand(part.shape, generator=generator, dtype=torch.float64)).sum() * scale
        for part, scale in zip(parts(found), (1e5, 1.0, 1.0), strict=True)
    )
    return list(torch.autograd.grad(objective, inputs + scalars))


def test_gradients_agree_between_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = gradients_of(termination(), "rows", "torch")
    compiled = gradients_of(termination(), "rows", "numba")
    # nothing is kept: recomputed
    monkeypatch.setattr(imac_torch.elimination.rows, "CHUNK_BYTES", 1)
    recomputed = gradients_of(termination(), "rows", "numba")
    chunked = gradients_of(termination(), "rows", "torch")
    tiles = gradients_of(termination(), "tiles", "torch")
    for others in (compiled, recomputed, chunked, tiles):
        for found, expected in zip(others, reference, strict=True):
            # Sums of about 100 products of either sign, each a few ulp off.
            assert float((found - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


@gradient_ways
def test_gradients_at_ideal_wires(method: str, kernel: str) -> None:
    # One-sided difference quotients: steps of 1e-4 Ω are 1e-9 of a cell, whose square is lost in
    # the quotient's own rounding (1e-16/1e-9); both stay below 1e-5.
    def objective(input_segment: torch.Tensor, output_segment: torch.Tensor) -> torch.Tensor:
        wires = dataclasses.replace(
            termination(), input_segment=input_segment, output_segment=output_segment
        )
        found, _ = eliminate(*cells(6, 5), wires, method=method, kernel=kernel)
        return found.admittance.sum() * 1e5 + found.negative_end.sum()

    zero = [scalar(0.0).requires_grad_() for _ in range(2)]
    gradients = torch.autograd.grad(objective(*zero), zero)
    step = scalar(1e-3)
    for k in range(2):
        moved = [step if n == k else scalar(0.0) for n in range(2)]
        quotient = (objective(*moved) - objective(scalar(0.0), scalar(0.0))) / step
        assert float(gradients[k]) == pytest.approx(float(quotient), rel=1e-5)


def test_second_derivatives_are_refused() -> None:
    positive, negative = (x.requires_grad_() for x in cells(3, 3))
    for kernel in ("torch", "numba"):
        found, _ = eliminate(positive, negative, termination(), method="rows", kernel=kernel)
        (first,) = torch.autograd.grad(found.admittance.sum(), positive, create_graph=True)
        with pytest.raises(SolverError, match="second derivative"):
            torch.autograd.grad(first.sum(), positive)


def test_choice_is_reported() -> None:
    def choose(columns: int, **options: str) -> str:
        pair = cells(1, columns)
        return str(eliminate(*pair, termination(), **options)[1])

    assert choose(CROSSOVER) == "rows (numba)"
    assert choose(CROSSOVER + 1) == "tiles (numba)"
    assert choose(4, method="tiles", kernel="torch") == "tiles (torch)"
    single = [x.float() for x in cells(2, 3)]
    assert str(eliminate(*single, termination())[1]) == "rows (torch)"
    wanted = [x.requires_grad_() for x in cells(2, 3)]
    assert str(eliminate(*wanted, termination(), method="tiles")[1]) == "tiles (torch)"


def test_torch_serves_where_numba_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it then fails as if not there
    monkeypatch.setattr("imac_torch.kernels.obstacle", obstacle.__wrapped__)
    assert str(eliminate(*cells(2, 3), termination())[1]) == "rows (torch)"
    with pytest.raises(SolverError, match="numba is not installed"):
        eliminate(*cells(2, 3), termination(), kernel="numba")


def test_errors_say_what_is_wrong() -> None:
    positive, negative = cells(2, 3)
    wires = termination()
    with pytest.raises(SolverError, match="method = 'magic'"):
        eliminate(positive, negative, wires, method="magic")
    with pytest.raises(SolverError, match="kernel = 'magic'"):
        eliminate(positive, negative, wires, kernel="magic")
    with pytest.raises(SolverError, match=r"torch\.float32"):
        eliminate(positive.float(), negative.float(), wires, kernel="numba")
    with pytest.raises(SolverError, match="no gradients"):
        eliminate(positive.requires_grad_(), negative, wires, method="tiles", kernel="numba")
    with pytest.raises(SolverError, match="same"):
        eliminate(positive, negative[:1], wires)
    with pytest.raises(SolverError, match="at least one"):
        eliminate(positive[:0], negative[:0], wires)
    with pytest.raises(SolverError, match="positive conductances"):
        eliminate(-positive, negative, wires)
    with pytest.raises(SolverError, match="negative conductances"):
        eliminate(positive, negative * float("nan"), wires)
    with pytest.raises(SolverError, match="input_segment"):
        eliminate(positive, negative, termination(input_segment=-1.0))
    with pytest.raises(SolverError, match="positive_load"):
        eliminate(positive, negative, termination(load=0.0))
    with pytest.raises(SolverError, match="alpha"):
        eliminate(positive, negative, termination(alpha=1.5))


def test_batched_solve_is_right_with_threads() -> None:
    # torch.linalg.solve is not, for batches of matrices of this order on two threads.
    generator = torch.Generator().manual_seed(0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for order, columns in ((64, 100), (65, 3), (200, 30)):
            matrix = torch.rand(4, order, order, generator=generator, dtype=torch.float64) / order
            matrix = matrix + 2 * torch.eye(order, dtype=torch.float64)
            right = torch.rand(4, order, columns, generator=generator, dtype=torch.float64)
            assert float((matrix @ solve(matrix, right) - right).abs().max()) < 1e-12
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("halved", [1, 10**6])
@pytest.mark.parametrize("shape", [(70, 90), (130, 40), (20, 150)])
def test_merging_halves_and_wholes_on_one_core_and_on_two(
    halved: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # From 100 lines on inverses are made by halves; two threads take a band of rows each.
    monkeypatch.setattr(imac_torch.elimination.tiles, "HALVED", halved)
    positive, negative = cells(*shape, seed=1)
    reference, _ = eliminate(positive, negative, termination(), method="rows")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found, _ = eliminate(positive, negative, termination(), method="tiles", kernel="numba")
            # Up to 150 rows or columns, each a few ulp: see the precision test.
            assert difference(found, reference) < 1e-12
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_inverse_by_halves() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(2, 150, 150, generator=generator, dtype=torch.float64) / 150
    matrix = matrix + torch.eye(150, dtype=torch.float64)
    assert float((inverse(matrix) @ matrix - torch.eye(150)).abs().max()) < 1e-13
    # The upper left corner cannot be inverted: what comes out is noticed, and done by LAPACK.
    swap = torch.eye(150, dtype=torch.float64).flip(0)[None]
    assert torch.equal(inverse(swap), swap)


def test_what_is_done_side_by_side_has_one_thread_of_torchs_each() -> None:
    def threads() -> tuple[int, int]:
        before = torch.get_num_threads()
        torch.ones(2**17, dtype=torch.float64).sum()  # computes: threads would be started here
        return before, torch.get_num_threads()

    own = torch.get_num_threads()
    assert side_by_side([threads] * 4, 2) == [(1, 1)] * 4
    assert torch.get_num_threads() == own
