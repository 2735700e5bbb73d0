"""The next layer as a load: products, solutions and the memory that they take."""

from __future__ import annotations

import pytest
import torch
from dense_network import behavioural, random_layers, scalar

import imac_torch.dc.load
from imac_torch.dc.load import Load
from imac_torch.elimination.ports import PortNetwork, eliminate_layer

VDD = scalar(0.8)


def network(inputs=7, outputs=5, *, columns=3, samples=1, **options) -> PortNetwork:
    specs = [
        random_layers([inputs, outputs], behavioural(), columns=columns, seed=s, **options)[0][0]
        for s in range(samples)
    ]
    ports = [eliminate_layer(spec)[0] for spec in specs]
    first = ports[0]
    return PortNetwork(
        *(
            torch.stack([getattr(item, name) for item in ports])
            for name in ("positive_end", "negative_end", "admittance")
        ),
        first.layout, first.read_out,
    )


def dense(load: Load, count: int) -> torch.Tensor:
    """(S, M, M) S by unit vectors."""
    samples = load.admittance.shape[0]
    unit = torch.eye(count, dtype=torch.float64).expand(samples, count, count)
    return load.product(unit).transpose(-1, -2)


def vectors(*shape: int, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("columns", [1, 3, 8])
def test_currents_are_those_of_the_ports_with_the_bias_at_vdd(columns):
    ports = network(columns=columns, samples=2)
    load = Load.of(ports, VDD)
    voltages = vectors(2, 4, 7)
    everything = torch.cat([voltages, VDD.expand(2, 4, 1)], dim=-1)
    expected = ports.input_currents(everything)[..., :-1]
    torch.testing.assert_close(load.currents(voltages), expected, rtol=1e-12, atol=1e-18)
    matrix = dense(load, 7)
    torch.testing.assert_close(
        load.product(voltages, transpose=True), voltages @ matrix, rtol=1e-12, atol=1e-18
    )


@pytest.mark.parametrize("columns", [1, 3, 8])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("stiff", [1e-7, 1e-3, 10.0], ids=["loaded", "equal", "stiff"])
def test_solutions(columns, transpose, stiff):
    ports = network(columns=columns, samples=2)
    load = Load.of(ports, VDD)
    diagonal = stiff * (0.1 + vectors(2, 9, 7).abs())
    right = vectors(2, 9, 7, seed=4)
    matrix = dense(load, 7)
    matrix = matrix.transpose(-1, -2) if transpose else matrix
    whole = torch.diag_embed(diagonal) + matrix[:, None]
    found = load.solve(diagonal, right, tolerance=1e-13, transpose=transpose)
    defect = (whole @ found[..., None]).squeeze(-1) - right
    # The residual is bounded by the tolerance or by rounding of the products.
    size = (whole.abs() @ found.abs()[..., None]).squeeze(-1).amax()
    assert float(defect.abs().max()) <= 1e-13 * float(right.abs().max()) + 1e-14 * float(size)


def test_no_solution_needs_every_jacobian_at_once(monkeypatch):
    """Where iterations fail, matrices are factored a few at a time, and only the needed ones."""
    load = Load.of(network(40, 5, columns=41), VDD)
    seen = []
    exact = imac_torch.dc.load.solve

    def recording(matrix, right):
        seen.append(matrix.shape)
        return exact(matrix, right)

    monkeypatch.setattr(imac_torch.dc.load, "solve", recording)
    monkeypatch.setattr(imac_torch.dc.load, "DENSE_BYTES", 10 * 41 * 41 * 8)
    diagonal = vectors(1, 64, 40).abs() * 1e-4
    diagonal[:, 5:] = 1e3  # these are diagonal for all purposes: the first iteration suffices
    # For these the preconditioner is nearly singular, though the matrix is not.
    smooth = dense(load, 40)[0].diagonal() - (load.left * load.right)[0, 0, :40]
    diagonal[0, :5] = -smooth * (1.0 + 1e-4 * vectors(5, 40, seed=9).abs())
    right = vectors(1, 64, 40, seed=4)
    found = load.solve(diagonal, right, tolerance=1e-10)
    assert 1 <= sum(shape[0] for shape in seen) <= 5
    whole = torch.diag_embed(diagonal) + dense(load, 40)[:, None]
    expected = torch.linalg.solve(whole, right[..., None]).squeeze(-1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_samples_that_are_not_finite_factor_nothing(monkeypatch):
    load = Load.of(network(), VDD)
    diagonal, right = torch.full((1, 6, 7), 1e-3, dtype=torch.float64), vectors(1, 6, 7)
    expected = load.solve(diagonal, right, tolerance=1e-13)
    monkeypatch.setattr(imac_torch.dc.load, "solve", lambda *_: pytest.fail("nothing to factor"))
    right[0, 2, 3] = torch.nan
    right[0, 4] = torch.inf
    found = load.solve(diagonal, right, tolerance=1e-13)
    good = torch.tensor([0, 1, 3, 5])
    torch.testing.assert_close(found[0, good], expected[0, good], rtol=1e-12, atol=0)


@pytest.mark.parametrize("inputs", [6, 150, 300])
def test_one_factorisation_for_all(inputs):
    """Above order 64, torch's batched factorisation is not used (see elimination.linalg)."""
    load = Load.of(network(inputs, 3, columns=inputs // 2 + 1, samples=2), VDD)
    sources, resistance = vectors(2, 5, inputs), scalar(1e3)
    found, defect = load.behind(resistance, sources)
    system = dense(load, inputs)[0] + 1e-3 * torch.eye(inputs, dtype=torch.float64)
    right = sources[0] / resistance - load.offset[0]
    expected = torch.linalg.solve(system, right.T).T
    torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-9)
    assert float(defect.abs().max()) < 1e-12
    again, _ = load.behind(resistance, sources[:, :1])
    torch.testing.assert_close(again, found[:, :1], rtol=1e-12, atol=1e-15)
    other, _ = load.behind(scalar(2e3), sources)
    assert not torch.allclose(other, found)


def test_typical_load_draws_the_mean():
    ports = network(samples=3)
    load = Load.of(ports, VDD)
    typical = load.typical(0.4)
    voltages = torch.full((3, 1, 7), 0.4, dtype=torch.float64)
    single = torch.full((1, 1, 1), 0.4, dtype=torch.float64)
    torch.testing.assert_close(
        typical.currents(single).squeeze(), load.currents(voltages).mean(), rtol=1e-12, atol=0
    )


def test_plain_arrays_hold_the_same():
    load = Load.of(network(columns=3), VDD)
    blocks = load.blocks
    assert blocks.first.tolist() == [0, 3, 6, 7] or blocks.first[-1] == 7
    matrix = torch.zeros(7, 7, dtype=torch.float64)
    for part, (begin, end) in enumerate(zip(blocks.first, blocks.first[1:])):
        count = end - begin
        matrix[begin:end, begin:end] = torch.from_numpy(blocks.admittance[0, part, :count, :count])
    torch.testing.assert_close(matrix, dense(load, 7)[0], rtol=0, atol=0)


def test_rank_one_part_fits_floating_lines():
    """With ideal wires and one partition, I± lines float at means: nearly rank one."""
    load = Load.of(network(20, 6, columns=21, ideal="both"), VDD)
    off = dense(load, 20)[0]
    off = off - torch.diag(off.diagonal())
    fit = load.left[0, 0, -21:-1, None] * load.right[0, 0, None, -21:-1]
    fit = fit - torch.diag(fit.diagonal())
    assert float((fit - off).norm() / off.norm()) < 0.2
