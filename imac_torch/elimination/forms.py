"""Power of a layer's amplifiers, as a quadratic form in what determines it.

Every voltage and current within the read-outs of a block is linear in z = (a, w, 1): the voltages
on its input lines, how far its amplifiers are beyond their rails, and a constant from offsets. What
the outputs deliver, Σ v·i, is therefore zᵀ·F·z with a matrix per block that all images share. With
read-outs that are linear z is a.

Shapes: H, V partitions of R rows and K columns, N amplifiers of a block, B images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.elimination.ports import PortNetwork
from imac_torch.kernels import choose_kernel
from imac_torch.kernels.ahead import ready

TILES_PER_THREAD: Final = 16
"""A tile takes some 20 µs, starting threads up to 1 ms."""
FORMING: Final = 5e-8
"""s per voltage in torch, roughly."""


@dataclass(frozen=True)
class AmplifierForms:
    """What outputs deliver within the read-outs and, where several meet, towards that point.

    The meeting voltage and the neuron are left to
    :meth:`imac_torch.periphery.readout.Combination.meeting_power`.

    Attributes:
        lines: (..., H, K, K) S, of a and a.
        line: (..., H, K) A, of a; None: no offsets.
        constant: (...,) W; None likewise.
        mixed: (..., H, V·N, K) S, of w and a; None: nothing saturates.
        beyond: (..., H, V, N, N) S, of w and w.
        over: (..., H, V, N) A, of w.
    """

    lines: Tensor
    line: Tensor | None = None
    constant: Tensor | None = None
    mixed: Tensor | None = None
    beyond: Tensor | None = None
    over: Tensor | None = None

    @classmethod
    def of(cls, network: PortNetwork) -> AmplifierForms:
        """Of a layer's read-outs."""
        if network.feedback is None:
            return cls._linear(network)
        return cls._real(network)

    @classmethod
    def _linear(cls, network: PortNetwork) -> AmplifierForms:
        read_out, layout = network.read_out, network.layout
        both = network.positive_end, network.negative_end
        alone = both[0].ndim == 3 and network.groups == 1 and not read_out.shared
        if alone and not _followed(network):
            return cls(_compiled_forms(network))
        positive, negative = (
            layout.gather_inputs(end).transpose(-3, -2)  # (..., H, M·L, K)
            for end in both
        )
        (output, current), *others = read_out.sources(positive, negative)
        if read_out.combination.tied:
            current = current + output * read_out.combination.conductance(output.shape[-2])
        form = output.mT @ current
        for volts, current in others:
            form = form + volts.mT @ current
        return cls(form)

    @classmethod
    def _real(cls, network: PortNetwork) -> AmplifierForms:
        read_out, layout, feedback = network.read_out, network.layout, network.feedback
        assert feedback is not None  # noqa: S101 - the caller has looked
        columns, count = network.admittance.shape[-1], feedback.mutual.shape[-1]

        def over_z(of_lines: Tensor, of_beyond: Tensor, constant: Tensor) -> Tensor:
            return torch.cat([of_lines, of_beyond, constant[..., None]], dim=-1)

        identity = torch.eye(
            count, dtype=feedback.mutual.dtype, device=feedback.mutual.device
        )
        outputs = over_z(feedback.transfer, -feedback.mutual - identity, feedback.outputs)
        outputs = outputs.unflatten(-2, (-1, feedback.count)).movedim(-2, -1)  # (…, R, Z, n)
        positive, negative = (
            over_z(layout.gather(end), feedback.ends_beyond[..., k, :, :], feedback.ends[..., k, :])
            for k, end in enumerate((network.positive_end, network.negative_end))
        )
        pairs = [*read_out.deliveries(outputs, positive, negative)]
        if read_out.combination.tied:
            onward = read_out.combination.conductance(len(layout.row_position))
            rows = layout.gather_rows(onward[:, None].expand(-1, len(layout.column_index), 1))
            whole = read_out.join(outputs)
            pairs.append((whole, whole * rows[..., None]))
        # Padded rows, whose amplifiers may be at rails, too, do not exist.
        real = layout.row_mask[..., None]
        form = reduce(add, ((volts * real).mT @ current for volts, current in pairs))
        a, w = slice(0, columns), slice(columns, columns + count)

        def mixed(first: slice, second: slice) -> Tensor:
            return form[..., first, second] + form[..., second, first].mT

        one = slice(columns + count, None)
        plain = form[..., a, a].sum(-3), mixed(a, one)[..., 0].sum(-2)
        constant = form[..., -1, -1].sum((-1, -2))
        if not feedback.offset:
            return cls(plain[0], None, None, mixed(w, a).flatten(-3, -2), form[..., w, w])
        return cls(
            *plain, constant, mixed(w, a).flatten(-3, -2), form[..., w, w], mixed(w, one)[..., 0]
        )

    def power(self, blocks: Tensor, beyond: Tensor | None) -> Tensor:
        """(..., B) W for (..., H, B, K) V on the lines and (..., H, B, V, N) V of w."""
        by_line = blocks @ self.lines
        if self.line is not None:
            by_line = by_line + self.line.unsqueeze(-2)
        total = (blocks * by_line).sum((-3, -1))
        if self.constant is not None:
            total = total + self.constant[..., None]
        if beyond is None or self.mixed is None or self.beyond is None:
            return total
        current = (blocks @ self.mixed.mT).unflatten(-1, beyond.shape[-2:])
        current = current + (beyond.transpose(-2, -3) @ self.beyond).transpose(-2, -3)
        if self.over is not None:
            current = current + self.over.unsqueeze(-3)
        return total + (beyond * current).sum((-4, -2, -1))


def _followed(network: PortNetwork) -> bool:
    """Whether gradients may go through, or it is not on the CPU."""
    read_out = network.read_out
    numbers = [*vars(read_out).values(), *vars(read_out.combination).values()]
    tensors = [network.positive_end, network.negative_end, *numbers]
    gradients = any(isinstance(item, Tensor) and item.requires_grad for item in tensors)
    return gradients or choose_kernel("auto", network.positive_end) != "numba"


def _compiled_forms(network: PortNetwork) -> Tensor:
    """(S, H, K, K) S: what :meth:`AmplifierForms._linear` finds, where the ends lie."""
    from imac_torch.kernels.forms import read_out_forms
    from imac_torch.kernels.threads import run_blocks

    plus, minus = (
        end.detach().contiguous() for end in (network.positive_end, network.negative_end)
    )
    samples, rows, _ = plus.shape
    # Read-outs are linear, and these elementwise: what they make of each end alone is all there is.
    of_ends = torch.eye(2, dtype=plus.dtype, device=plus.device).expand(rows, 2, 2)
    sources = [*network.read_out.sources(of_ends[..., 0], of_ends[..., 1])]
    combination = network.read_out.combination
    if combination.tied:
        output, current = sources[0]
        sources[0] = output, current + output * combination.conductance(rows)
    volts, flows = (
        torch.stack([part.expand(rows, 2) for part in parts]).detach().contiguous().numpy()
        for parts in zip(*sources, strict=True)
    )
    result = torch.empty_like(network.admittance)
    run_blocks(
        read_out_forms, samples * result.shape[1], torch.get_num_threads(),
        plus.numpy(), minus.numpy(),
        np.append(0, network.layout.column_mask.sum(1).cumsum(0).numpy()), volts, flows,
        result.numpy(),
    )  # fmt: skip
    return result


@dataclass(frozen=True)
class LineForms:
    """What sources deliver to the lines of a layer, and its read-outs, which are linear.

    A line's voltage times its current, and what :class:`AmplifierForms` has, are quadratic in the
    voltages of a partition's K lines. The bias is one of them and always the same, which leaves a
    square, a linear part and a constant in those that sources or neurons drive.

    Attributes:
        lines: Per partition: its first line, the one after its last, and its first column.
        squares: (S, H, K, 2·K) S: of inputs and of amplifiers.
        linear: (S, H, 2·K) A, 0 but in the last partition, where the bias is.
        constants: (S, 1, 2) W, of inputs (0) and of amplifiers.
        bias: (S, K) A per V, into the bias line from the last partition's.
        at_bias: (S,) A, into it from itself.
        vdd: V on it, 0-dimensional.
    """

    lines: tuple[tuple[int, int, int], ...]
    squares: Tensor
    linear: Tensor
    constants: Tensor
    bias: Tensor
    at_bias: Tensor
    vdd: Tensor

    @classmethod
    def of(cls, network: PortNetwork, vdd: Tensor) -> LineForms:
        """Of a layer with a sample dimension S, in one group."""
        admittance, forms = network.admittance, AmplifierForms.of(network).lines
        lines = network.layout.driven
        first, last, start = lines[-1]
        at = start + last - first  # the column of the bias, in the last partition
        squares = torch.cat([admittance.mT, forms], dim=-1)
        constant = vdd.square() * forms[:, -1, at, at]
        linear = torch.zeros_like(squares[..., 0, :])
        of_bias = [admittance[:, -1, :, at], forms[:, -1, :, at] + forms[:, -1, at, :]]
        linear[:, -1] = vdd * torch.cat(of_bias, dim=-1)
        return cls(
            lines,
            squares,
            linear,
            torch.stack([torch.zeros_like(constant), constant], dim=-1)[:, None],
            admittance[:, -1, at],
            admittance[:, -1, at, at] * vdd,
            vdd,
        )

    def power(self, voltages: Tensor, *, first: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Of inputs (0 where sources do not drive the lines), the bias line, and amplifiers.

        Args:
            voltages: (S, B, N) V on the lines.
            first: Whether sources drive them.

        Returns:
            (S, B) W each.
        """
        tensors = voltages, self.squares, self.linear, self.bias
        tracked = torch.is_grad_enabled() and any(item.requires_grad for item in tensors)
        compiled = not tracked and choose_kernel("auto", voltages) == "numba"
        if compiled and ready("forms.form_tiles", voltages.numel() * FORMING):
            return self._compiled(voltages, first)
        total = self._of_many(voltages, first)
        begin, end, start = self.lines[-1]
        bias = self.bias[:, start : start + end - begin, None]
        current = (voltages[..., begin:end] @ bias).squeeze(-1) + self.at_bias[:, None]
        amplifiers = total[..., -1]
        inputs = total[..., 0] if first else torch.zeros_like(amplifiers)
        return inputs, self.vdd * current, amplifiers

    def _compiled(self, voltages: Tensor, first: bool) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`power` without a graph, on the CPU: each image is read once."""
        from imac_torch.kernels.forms import LANES, form_tiles
        from imac_torch.kernels.threads import run_blocks

        squares, linear = self._triangles[0 if first else 1]
        samples, batch = len(squares), voltages.shape[1]
        if voltages.stride(0) == 0:  # the same images for all
            voltages = voltages[:1]
        found = voltages.new_empty(samples, batch, squares.shape[2] + 1)
        tiles = samples * (-(-batch // LANES))
        run_blocks(
            form_tiles,
            tiles,
            min(torch.get_num_threads(), max(1, tiles // TILES_PER_THREAD)),
            voltages.detach().contiguous().numpy(),
            squares,
            linear,
            np.array([0, *(end for _, end, _ in self.lines)]),
            found.numpy(),
        )
        amplifiers = found[..., -2] + self.constants[..., 1]
        bias = self.vdd * (found[..., -1] + self.at_bias[:, None])
        inputs = found[..., 0] if first else torch.zeros_like(amplifiers)
        return inputs, bias, amplifiers

    @cached_property
    def _triangles(self) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]:
        """Lower triangles (S, H, F, K, K) of both forms and of the latter alone.

        With each the linear forms (S, F+1 or F+2, K) of the last partition's lines: what belongs to
        them, and A per V into the bias; the others have none.
        """
        from imac_torch.kernels.forms import WIDTH

        most = max(end - begin for begin, end, _ in self.lines)
        width = -(-most // WIDTH) * WIDTH
        size, samples = self.squares.shape[-2], len(self.squares)
        squares = self.squares.new_zeros(samples, len(self.lines), 2, width, width)
        linear = self.squares.new_zeros(samples, 4, width)
        both = self.squares.detach().unflatten(-1, (2, size)).transpose(-2, -3)
        both = (both + both.mT).tril() - torch.diag_embed(both.diagonal(dim1=-2, dim2=-1))
        for part, (begin, end, start) in enumerate(self.lines):
            count, own = end - begin, slice(start, start + end - begin)
            squares[:, part, :, :count, :count] = both[:, part, :, own, own]
        linear[:, :2, :count] = self.linear[:, -1].detach().unflatten(-1, (2, size))[..., own]
        linear[:, 2, :count] = self.bias.detach()[:, own]
        return tuple(
            (squares[:, :, k:].contiguous().numpy(), linear[:, k : k + few].contiguous().numpy())
            for k, few in ((0, 4), (1, 2))
        )

    def _of_many(self, voltages: Tensor, first: bool) -> Tensor:
        """(S, B, 2) W, or (S, B, 1) of amplifiers alone, partition after partition.

        Lines of one lie side by side: no image is copied.
        """
        size = self.squares.shape[-2]
        total = self.constants if first else self.constants[..., 1:]
        for part, (begin, end, start) in enumerate(self.lines):
            own = slice(start, start + end - begin)
            both = (own, slice(size + own.start, size + own.stop))
            volts = voltages[..., begin:end]
            found = []
            for where in both if first else both[1:]:
                flow = volts @ self.squares[:, part, own, where]
                flow = flow + self.linear[:, part, None, where]
                found.append((volts * flow).sum(-1))
            total = total + torch.stack(found, dim=-1)
        return total
