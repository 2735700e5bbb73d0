"""What reaches the circuits of a model in its runs: how an analysis of circuits asks a whole model.

A run of ResNet-18 has more input vectors than memory holds, and neighbouring positions of an image
say much the same. So some are drawn, all equally likely: every vector gets a random number as it
comes, and those with the smallest stay. Runs of the same shapes draw the same places from equal
generators, whatever is computed there, so that circuits and software are compared place by place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from imac_torch.errors import CircuitError
from imac_torch.model.inputs import Arguments
from imac_torch.model.network import IMACNetwork, evaluating
from imac_torch.model.positions import Positions
from imac_torch.model.ranges import in_software
from imac_torch.model.segment import Segment, watched
from imac_torch.numeric.modes import lasting

__all__ = [
    "ROWS", "Drawn", "Reached", "draws", "places", "reached", "vectors_at", "walk", "watching",
]  # fmt: skip

ROWS: Final = 512
"""Input vectors of a circuit that stand for all of a run."""
NUMBERS: Final = 2**22
"""Numbers that windows are unfolded to at a time."""


@dataclass
class Drawn:
    """Some of the input vectors of one circuit.

    Attributes:
        most: How many.
        generator: Of the random numbers, on the CPU.
        seen: Vectors that have come.
        calls: Of the circuit.
    """

    most: int
    generator: torch.Generator
    seen: int = 0
    calls: int = 0
    _keys: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64, device="cpu"))
    _order: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64, device="cpu"))
    _rows: Tensor | None = None

    def see(self, positions: Positions, x: Tensor) -> None:
        """Take note of one call."""
        count = places(positions, x)
        keys = torch.rand(count, generator=self.generator, dtype=torch.float64, device="cpu")
        order = torch.arange(self.seen, self.seen + count, device="cpu")
        self.calls += 1
        self.seen += count
        if self.most < 1:
            return
        if len(self._keys) == self.most:  # what cannot stay need not be looked at
            smaller = keys < self._keys.max()
            keys, order = keys[smaller], order[smaller]
        keys, order = torch.cat([self._keys, keys]), torch.cat([self._order, order])
        stays = keys.argsort()[: self.most]
        stays = stays[order[stays].argsort()]  # as they came
        old = stays[stays < len(self._keys)]
        new = order[stays[stays >= len(self._keys)]] - (self.seen - count)
        rows = vectors_at(positions, x.detach(), new)
        if self._rows is not None:
            rows = torch.cat([self._rows[old.to(x.device)], rows])
        self._keys, self._order, self._rows = keys[stays], order[stays], rows

    @property
    def rows(self) -> Tensor:
        """(R, G·N) as they came, in the type of the model's tensors.

        Raises:
            CircuitError: Nothing has come.
        """
        if self._rows is None:
            raise CircuitError("no input vector has reached the circuit")
        return self._rows


def places(positions: Positions, x: Tensor) -> int:
    """Input vectors of all samples of a circuit's inputs."""
    return positions.count(x) * (len(x) if positions.batched(x) else 1)


def vectors_at(positions: Positions, x: Tensor, which: Tensor) -> Tensor:
    """(R, G·N): some of ``positions.vectors(x)``, without the others.

    Args:
        positions: Of a circuit.
        x: Its inputs.
        which: (R,) int64.
    """
    if not positions.batched(x):
        return positions.vectors(x)[which.to(x.device)]
    each = positions.count(x)
    if not len(which) or each == 0:
        return x.new_zeros(0, positions.inputs(x))
    samples, place = which.div(each, rounding_mode="floor"), which % each
    step = max(1, NUMBERS // (each * positions.inputs(x)))
    found = x.new_empty(len(which), positions.inputs(x))
    for first in range(0, len(x), step):
        inside = ((samples >= first) & (samples < first + step)).nonzero()[:, 0]
        if len(inside):
            own, back = samples[inside].unique(return_inverse=True)
            rows = positions.vectors(x[own.to(x.device)])
            found[inside.to(x.device)] = rows[(back * each + place[inside]).to(x.device)]
    return found


@contextmanager
def watching(segments: Mapping[str, Segment], drawn: Mapping[str, Drawn]) -> Iterator[None]:
    """Let draws see what reaches circuits, whatever answers there."""

    @lasting()
    def see(path: str, x: Tensor) -> None:
        drawn[path].see(segments[path].positions, x)

    with watched({path: segments[path] for path in drawn}, see):
        yield


class _Enough(BaseException):
    """Nothing that happens behind is asked for. A model's own forward catches no such exception."""


@dataclass(frozen=True)
class Reached:
    """One circuit of a model, with input vectors that reach it.

    Attributes:
        path: In the model.
        segment: The circuit.
        rows: (R, G·N) what it gets in the model with its circuits, itself answering as software
            does where circuits change on the way.
        software: (R, G·N) what it gets at the same places where all of the model is software.
        uses: Input vectors in all runs.
    """

    path: str
    segment: Segment
    rows: Tensor
    software: Tensor
    uses: int


def draws(
    segments: Mapping[str, Segment], most: int, generator: torch.Generator
) -> dict[str, Drawn]:
    """Draws for all circuits of a model.

    Args:
        segments: By path.
        most: Vectors per circuit.
        generator: It is left as it was, so that the next draws are of the same places.
    """
    state = generator.get_state()
    found = {}
    for path in segments:
        seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
        found[path] = Drawn(most, torch.Generator().manual_seed(seed))
    generator.set_state(state)  # the same again in the next run
    return found


@lasting()
def reached(
    network: IMACNetwork,
    runs: Sequence[Arguments],
    generator: torch.Generator,
    *,
    most: int = ROWS,
    software: bool = False,
    only: str | None = None,
    calls: int | None = None,
) -> dict[str, Drawn]:
    """Input vectors that reach the circuits of a model.

    Args:
        network: Run in evaluation mode, without gradients.
        runs: Arguments of its forward, of some runs.
        generator: What is drawn; it is left as it was, so that it draws the same again.
        most: Vectors per circuit.
        software: Whether circuits compute what the software layers do.
        only: Path of the one circuit that is asked for.
        calls: Of that one, after which nothing more is computed.

    Returns:
        By path, in the order in which circuits are first called; those that are not are left out.
    """
    segments = network.segments
    drawn = draws(segments, most, generator)
    order: dict[str, Drawn] = {}

    @lasting()
    def see(path: str, x: Tensor) -> None:
        drawn[path].see(segments[path].positions, x)
        order.setdefault(path, drawn[path])
        if calls is not None and drawn[path].calls == calls:
            raise _Enough

    asked = {path: segments[path] for path in (segments if only is None else [only])}
    run = network.software if software else network
    with evaluating(network), suppress(_Enough), watched(asked, see):
        for arguments in runs:
            positional, named = tree_map_only(
                Tensor, lambda item: item.to(network.device), arguments
            )
            run(*positional, **named)
    return order


def walk(
    network: IMACNetwork,
    runs: Sequence[Arguments],
    generator: torch.Generator,
    *,
    most: int = ROWS,
    anew: bool = False,
) -> Iterator[Reached]:
    """One circuit of a model after the other, in the order in which they are called.

    Args:
        network: A converted model.
        runs: Arguments of its forward, of some runs.
        generator: What draws vectors; it is left as it was.
        most: Vectors per circuit.
        anew: Whether circuits change on the way, and what reaches later ones is computed again.

    Raises:
        CircuitError: Circuits are called otherwise than in software, so that nothing compares.
    """
    software = reached(network, runs, generator, most=most, software=True)
    circuits = {} if anew else reached(network, runs, generator, most=most)
    for path, wanted in software.items():
        if anew:
            # What a circuit gives itself, as recurrent ones do, is what it is to become: fitted to
            # what comes of its present errors it would be wrong once they are gone.
            with in_software({path: network.segments[path]}):
                circuits = reached(
                    network, runs, generator, most=most, only=path, calls=wanted.calls
                )
        found = circuits.get(path)
        if found is None or (found.seen, found.calls) != (wanted.seen, wanted.calls):
            raise CircuitError(
                f"{path}: the model calls this circuit otherwise than the software layer in its "
                "place: its forward asks for values, and cannot be compared place by place"
            )
        yield Reached(path, network.segments[path], found.rows, wanted.rows, wanted.seen)
