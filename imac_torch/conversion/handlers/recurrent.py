"""Recurrent layers: one matrix for [x, h] in every step, gates in software.

Formulas are those of the pages of ``torch.nn.RNN``, ``torch.nn.LSTM`` and ``torch.nn.GRU``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from imac_torch.conversion.handlers.dense import dense
from imac_torch.conversion.handlers.source import Expanded
from imac_torch.errors import CircuitError

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "Recurrent", "cell", "recurrent"]

NONLINEARITIES: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "tanh": torch.tanh, "relu": torch.relu,
}  # fmt: skip
"""Of ``nn.RNN``."""

State = tuple[Tensor, ...]
"""(B, …) hidden state h, and of an LSTM the cell state c."""
Weights = tuple[Tensor, Tensor, "Tensor | None", "Tensor | None"]
"""By inputs and by h, and their biases; rows gate after gate."""


class Cell(Expanded, ABC):
    """One step of a recurrent layer, called like torch's cell.

    Attributes:
        sizes: Of every part of the state.
    """

    states: ClassVar[int] = 1

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.stands_for = type(self).__name__
        self.sizes = sizes

    @abstractmethod
    def step(self, x: Tensor, state: State) -> State:
        """The next state of inputs (B, N) and a state."""

    def start(self, x: Tensor) -> State:
        """The state of zeros for inputs (B, N)."""
        return tuple(x.new_zeros(len(x), size) for size in self.sizes)

    def forward(self, input: Tensor, hx: Any = None) -> Any:  # noqa: ANN401 - torch's names
        """As torch's cell has it.

        Args:
            input: (B, N) or (N,).
            hx: h, of an LSTM (h, c), shaped likewise; None: zeros.
        """
        alone = input.dim() == 1
        x = input[None] if alone else input
        if hx is None:
            state = self.start(x)
        else:
            given = hx if self.states > 1 else (hx,)
            state = tuple(item[None] if alone else item for item in given)
        state = self.step(x, state)
        found = tuple(item[0] if alone else item for item in state)
        return found if self.states > 1 else found[0]


def _joined(weights: Weights, trained: bool) -> nn.Linear:
    """One layer of [x, h]."""
    by_input, by_hidden, bias, other = weights
    both = None if bias is None or other is None else bias + other
    return dense(torch.cat([by_input, by_hidden], dim=1), both, trained=trained)


class RNNCell(Cell):
    """h′ = f(W·[x, h] + b), f being tanh or ReLU."""

    def __init__(self, weights: Weights, nonlinearity: str, *, trained: bool) -> None:
        super().__init__((weights[1].shape[1],))
        self.gates = _joined(weights, trained)
        self.nonlinearity = nonlinearity

    def step(self, x: Tensor, state: State) -> State:
        """See :class:`Cell`."""
        found = self.gates(torch.cat([x, state[0]], dim=-1))
        return (NONLINEARITIES[self.nonlinearity](found),)


class LSTMCell(Cell):
    """i, f, g, o = W·[x, h] + b; c′ = σ(f)·c + σ(i)·tanh(g); h′ = P·(σ(o)·tanh(c′))."""

    states = 2

    def __init__(
        self, weights: Weights, projection: Tensor | None = None, *, trained: bool
    ) -> None:
        super().__init__((weights[1].shape[1], len(weights[0]) // 4))
        self.gates = _joined(weights, trained)
        self.project = None if projection is None else dense(projection, None, trained=trained)

    def step(self, x: Tensor, state: State) -> State:
        """See :class:`Cell`."""
        hidden, kept = state
        i, f, g, o = self.gates(torch.cat([x, hidden], dim=-1)).chunk(4, dim=-1)
        kept = torch.sigmoid(f) * kept + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(kept)
        return (hidden if self.project is None else self.project(hidden)), kept


class GRUCell(Cell):
    """r, z = σ(W·[x, h] + b); n = tanh(U·x + a + r·(V·h + d)); h′ = (1 - z)·n + z·h.

    The gates are one matrix of [x, h]; n scales its part of h on the way, so that the parts of x
    and h are a matrix each.
    """

    def __init__(self, weights: Weights, *, trained: bool) -> None:
        super().__init__((weights[1].shape[1],))
        size = 2 * len(weights[0]) // 3
        of_gates, of_new = (
            [None if item is None else item[part] for item in weights]
            for part in (slice(size), slice(size, None))
        )
        self.gates = _joined(tuple(of_gates), trained)  # type: ignore[arg-type]
        by_input, by_hidden, bias, other = of_new
        assert by_input is not None  # noqa: S101 - narrows the type
        assert by_hidden is not None  # noqa: S101 - narrows the type
        self.new_input = dense(by_input, bias, trained=trained)
        self.new_hidden = dense(by_hidden, other, trained=trained)

    def step(self, x: Tensor, state: State) -> State:
        """See :class:`Cell`."""
        (hidden,) = state
        r, z = torch.sigmoid(self.gates(torch.cat([x, hidden], dim=-1))).chunk(2, dim=-1)
        new = torch.tanh(self.new_input(x) + r * self.new_hidden(hidden))
        return ((1.0 - z) * new + z * hidden,)


class Recurrent(Expanded):
    """``nn.RNN``, ``nn.LSTM`` or ``nn.GRU`` as a loop over time.

    Args:
        of: The original; weights are copied.

    Attributes:
        cells: Layer after layer; of a bidirectional one, both directions of a layer.
    """

    def __init__(self, of: nn.RNNBase) -> None:
        super().__init__()
        self.stands_for = type(of).__name__
        self.batch_first, self.dropout = of.batch_first, of.dropout
        self.directions = 2 if of.bidirectional else 1
        trained = all(parameter.requires_grad for parameter in of.parameters())
        cells: list[Cell] = []
        for layer in range(of.num_layers):
            for suffix in ("", "_reverse")[: self.directions]:
                names = [f"{name}_l{layer}{suffix}" for name in _NAMES]
                weights: Any = tuple(getattr(of, name, None) for name in names[:4])
                if isinstance(of, nn.LSTM):
                    projection = getattr(of, names[4], None)
                    cells.append(LSTMCell(weights, projection, trained=trained))
                elif isinstance(of, nn.GRU):
                    cells.append(GRUCell(weights, trained=trained))
                else:
                    assert isinstance(of, nn.RNN)  # noqa: S101 - there is no other kind
                    cells.append(RNNCell(weights, of.nonlinearity, trained=trained))
        self.cells = nn.ModuleList(cells)
        self.train(of.training)

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:  # noqa: ANN401
        """As torch's layer has it.

        Args:
            input: (L, B, N), batch first (B, L, N), or (L, N).
            hx: (layers·directions, B, H) h, of an LSTM (h, c); None: zeros.

        Returns:
            Outputs of the last layer, shaped like the input, and the last state, like ``hx``.

        Raises:
            CircuitError: Sequences are packed.
        """
        if isinstance(input, PackedSequence):
            raise CircuitError(
                "packed sequences have no circuit: the steps of a batch run together. Pad them "
                "(torch.nn.utils.rnn.pad_packed_sequence) and mask what follows, or keep the "
                "layer in software (exclude=...)"
            )
        cells = [part for part in self.cells if isinstance(part, Cell)]
        alone = input.dim() == 2
        x = input.unsqueeze(1) if alone else input.transpose(0, 1) if self.batch_first else input
        starts: list[State | None] = [None] * len(cells)
        if hx is not None:
            given = hx if cells[0].states > 1 else (hx,)
            given = tuple(item.unsqueeze(1) if alone else item for item in given)
            starts = [tuple(item[k] for item in given) for k in range(len(cells))]
        lasts: list[State] = []
        for k in range(0, len(cells), self.directions):
            if k and self.dropout and self.training:
                x = nn.functional.dropout(x, self.dropout)
            outputs = []
            for reverse in range(self.directions):
                cell = cells[k + reverse]
                state = starts[k + reverse]
                state = cell.start(x[0]) if state is None else state
                steps = []
                for one in x.flip(0) if reverse else x:
                    state = cell.step(one, state)
                    steps.append(state[0])
                lasts.append(state)
                outputs.append(torch.stack(steps[::-1] if reverse else steps))
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        x = x.squeeze(1) if alone else x.transpose(0, 1) if self.batch_first else x
        found = [torch.stack(items) for items in zip(*lasts, strict=True)]
        found = [item.squeeze(1) if alone else item for item in found]
        return x, tuple(found) if cells[0].states > 1 else found[0]


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def recurrent(module: nn.RNNBase) -> Recurrent:
    """A loop over time with cells of linear layers."""
    return Recurrent(module)


def cell(module: nn.RNNCell | nn.LSTMCell | nn.GRUCell) -> Cell:
    """A cell of linear layers."""
    weights: Any = (module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)
    trained = all(parameter.requires_grad for parameter in module.parameters())
    made: Cell
    if isinstance(module, nn.LSTMCell):
        made = LSTMCell(weights, trained=trained)
    elif isinstance(module, nn.GRUCell):
        made = GRUCell(weights, trained=trained)
    else:
        made = RNNCell(weights, module.nonlinearity, trained=trained)
    made.training = module.training
    return made
