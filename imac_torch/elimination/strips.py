"""One row of a tile as a hybrid matrix, in torch; its ports are explained in ``tiles``."""

from __future__ import annotations

import torch
from torch import Tensor

from imac_torch.elimination.blocks import Termination
from imac_torch.elimination.linalg import solve


def _line(
    conductance: Tensor, segment: Tensor, beyond: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A line between an injected current on the left and a voltage behind ``beyond`` Ω.

    Returns:
        (T, K, K) S, current out of the input nodes per their voltage; (T, K) node voltages per
        far voltage; (T, K) Ω node voltages per current from the left; (T,) S conductance of the
        line seen from the far voltage; (T,) share of the far voltage that reaches the last node.
    """
    columns = conductance.shape[-1]
    nothing = torch.zeros_like(conductance[..., 0])
    left = [nothing]  # S
    for i in range(columns):
        own = conductance[..., i] + left[-1]
        left.append(own / (1.0 + segment * own))
    right = [nothing + beyond]  # Ω
    for i in range(columns - 1, 0, -1):
        right.append(segment + right[-1] / (1.0 + conductance[..., i] * right[-1]))
    from_left = torch.stack(left[:-1], dim=-1)
    from_right = torch.stack(right[::-1], dim=-1)
    own = conductance + from_left
    scale = 1.0 / (1.0 + from_right * own)
    ratio = torch.log1p(own[..., :-1] * segment)
    total = torch.nn.functional.pad(ratio.cumsum(-1), (1, 0))
    decay = torch.exp(-(total[..., None, :] - total[..., :, None]).clamp(min=0.0))
    upper = torch.triu(decay * (from_right * scale)[..., None, :])
    inverse = upper + torch.triu(upper, diagonal=1).transpose(-1, -2)
    mutual = conductance[..., :, None] * inverse * conductance[..., None, :]
    elsewhere = 1.0 - torch.eye(columns, dtype=conductance.dtype, device=conductance.device)
    diagonal = conductance * (1.0 + from_right * from_left) * scale
    admittance = torch.diag_embed(diagonal) - mutual * elsewhere
    share = scale[..., -1]
    far = decay[..., :, -1] * share[..., None]
    return admittance, far, inverse[..., 0], own[..., -1] * share, share


def strip_matrix(
    positive: Tensor, negative: Tensor, wires: Termination, *, terminated: bool
) -> Tensor:
    """Single rows seen from their edges, every edge present.

    Args:
        positive: (T, K) S.
        negative: (T, K) S.
        wires: Segments and, for terminated rows, amplifier inputs.
        terminated: Right outputs are end voltages and right inputs are without effect.

    Returns:
        (T, 2K+4, 2K+4), ports in the order u, j, s, k.
    """
    tiles, columns = positive.shape
    segment = wires.output_segment
    beyond_plus, beyond_minus = segment, segment
    if terminated:
        beyond_plus = segment + wires.positive_load
        beyond_minus = segment + wires.negative_load
    a_plus, far_plus, near_plus, seen_plus, _ = _line(positive, segment, beyond_plus)
    a_minus, far_minus, near_minus, seen_minus, share = _line(negative, segment, beyond_minus)
    zero, one = positive.new_zeros(tiles), positive.new_ones(tiles)
    nothing = torch.zeros_like(positive)

    def over(cells: Tensor, s: Tensor, t: Tensor, k: Tensor, m: Tensor) -> Tensor:
        """A functional of node voltages (T, K) and of s+, s-, k+, k- (T,)."""
        return torch.cat([cells, torch.stack([s, t, k, m], dim=-1)], dim=-1)

    # Functionals on (a, s+, s-, k+, k-).
    out_plus = over(positive * far_plus, -seen_plus, zero, far_plus[:, 0], zero)
    out_minus = over(negative * far_minus, zero, -seen_minus, zero, far_minus[:, 0])
    left_plus = over(positive * near_plus, far_plus[:, 0], zero, near_plus[:, 0], zero)
    left_minus = over(negative * near_minus, zero, far_minus[:, 0], zero, near_minus[:, 0])
    drive_plus, drive_minus = positive * far_plus, negative * far_minus
    lines = torch.stack(
        [-drive_plus, -drive_minus, -positive * near_plus, -negative * near_minus], dim=-1
    )
    into = torch.cat([a_plus + a_minus, lines], dim=-1)  # (T, K, K+4)
    if terminated:
        present = over(torch.ones_like(nothing), zero, zero, one, one)
        out_plus, out_minus = out_plus * present, out_minus * present
        left_plus, left_minus = left_plus * present, left_minus * present
        into = into * present[:, None, :]
        virtual = (wires.alpha * wires.positive_load) * out_plus
        into = into - drive_minus[:, :, None] * virtual[:, None, :]
        left_minus = left_minus + far_minus[:, 0, None] * virtual
        # 1 - R1·(conductance seen), in a form that does not cancel
        kept = share + segment * seen_minus
        out_minus = wires.negative_load * out_minus + kept[:, None] * virtual
        out_plus = wires.positive_load * out_plus
    outer = torch.stack([out_plus, out_minus, left_plus, left_minus], dim=1)  # (T, 4, K+4)
    # Voltages of the input nodes are a = u - r·i, i = A·a + j + rest: i = (1 + rA)⁻¹·(A·u + j + …).
    identity = torch.eye(columns, dtype=positive.dtype, device=positive.device)
    admittance, rest = into[:, :, :columns], into[:, :, columns:]
    identities = identity.expand(tiles, columns, columns)
    right_side = torch.cat([admittance, identities, rest], dim=-1)
    current = solve(identity + wires.input_segment * admittance, right_side)
    voltage = -wires.input_segment * current
    voltage = voltage + torch.nn.functional.pad(identities, (0, columns + 4))
    ends = outer[:, :, :columns] @ voltage
    ends = ends + torch.nn.functional.pad(outer[:, :, columns:], (2 * columns, 0))
    return torch.cat([current, voltage, ends], dim=1)
