"""Anderson's acceleration of fixed-point iterations."""

from __future__ import annotations

import torch

from imac_torch.dc.anderson import DEPTH, Anderson


def test_a_linear_system_is_solved_in_as_many_steps_as_it_has_unknowns(
    generator: torch.Generator,
) -> None:
    # On linear systems the method is GMRES (Walker and Ni 2011), which ends after N steps; one
    # more shows it. The plain iteration x + b - A·x diverges: eigenvalues of A are above 2.
    size = DEPTH - 1
    spread = torch.rand(3, size, size, generator=generator, dtype=torch.float64)
    matrix = 3.0 * torch.eye(size, dtype=torch.float64) + 0.3 * spread
    right = torch.rand(3, size, generator=generator, dtype=torch.float64)
    solution = torch.linalg.solve(matrix, right)
    point = torch.zeros_like(right)
    acceleration = Anderson()
    for _ in range(size + 1):
        step = right - (matrix @ point[..., None]).squeeze(-1)
        point = point + acceleration.step(point, step)
    # rounding, times the squared condition of the normal equations' scaled columns
    torch.testing.assert_close(point, solution, rtol=0, atol=1e-7)


def test_without_a_past_the_step_is_the_plain_one() -> None:
    point = torch.zeros(2, 3, dtype=torch.float64)
    step = torch.ones_like(point)
    acceleration = Anderson()
    assert torch.equal(acceleration.step(point, step), step)
    acceleration.step(point + 1.0, 0.5 * step)
    acceleration.restart()
    assert torch.equal(acceleration.step(point, step), step)


def test_a_step_that_repeats_divides_by_nothing() -> None:
    point = torch.zeros(1, 3, dtype=torch.float64)
    step = torch.ones_like(point)
    acceleration = Anderson()
    acceleration.step(point, step)
    assert torch.equal(acceleration.step(point, step), step)
