"""Amplifiers with offsets or a swing, in time.

With wires that hold no charge a layer's crossbars follow the lines that drive them at once. What
its amplifiers put out is that of the operating point at the same voltages, offsets included, and
which of them are at rails. A pole comes behind the clamp, as in the netlists, and commutes with
how outputs meet. What amplifiers at rails draw from the lines is found in turns with the neurons
that drive them, as in operating points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.dc.network import PortLayer
from imac_torch.elimination.feedback import Feedback
from imac_torch.elimination.saturation import Saturated
from imac_torch.transient.dynamics import SeriesModel
from imac_torch.transient.found import KEPT, FoundLines, Seen
from imac_torch.transient.lines import Ends


@dataclass
class _Known:
    """Amplifiers for (B, N) V on the lines that drive them, and what is seen then."""

    voltages: Tensor
    found: Saturated
    seen: Seen | None = None


class RealLines(FoundLines):
    """Crossbars without charge whose amplifiers are not ideal."""

    def __init__(self, layer: PortLayer) -> None:
        super().__init__(SeriesModel.static(layer.ports), layer.ports)
        self.layer = layer
        feedback = layer.network.feedback
        assert feedback is not None  # noqa: S101 - such layers only
        self.feedback: Feedback = feedback
        self._last: list[_Known] = []

    @property
    def name(self) -> str:
        """For reports."""
        return "static, amplifiers with offsets or a swing"

    def _known(self, voltages: Tensor) -> _Known:
        """What was found for (B, N) V that drive the lines; a step asks for the same many times."""
        for known in self._last:
            if torch.equal(known.voltages, voltages):
                return known
        self._last = [_Known(voltages, self.layer.limited(voltages[None])), *self._last[: KEPT - 1]]
        return self._last[0]

    def seen(self, voltages: Tensor) -> Seen:
        """For (B, N) V that drive the lines."""
        known = self._known(voltages)
        if known.seen is None:
            known.seen = self._seen(voltages, known.found)
        return known.seen

    def _seen(self, voltages: Tensor, found: Saturated) -> Seen:
        network = self.layer.network
        lines = self.layer.lines(voltages[None])
        currents = network.block_currents(network.blocks(lines), found.beyond)
        (positive, negative), outputs = self.layer.real_outputs(lines, found.beyond)
        outputs = torch.where(_good(found)[:, None, None, None], outputs[0], torch.nan)
        return Seen(
            self._combined(found),
            network.line_currents(currents)[0],
            Ends(positive[0], negative[0], outputs),
        )

    def _combined(self, found: Saturated) -> Tensor:
        combined = self.feedback.combined(found.outputs, self.layer.network.read_out)[0]
        return torch.where(_good(found)[:, None], combined, torch.nan)

    def combined(self, voltages: Tensor) -> Tensor:
        """(B, M) V for (B, N) V that drive the lines."""
        return self._combined(self._known(voltages).found)

    def drawn(self, voltages: Tensor) -> Tensor:
        """(B, N) A that offsets and amplifiers at rails draw besides, for (B, N) V."""
        network, found = self.layer.network, self._known(voltages).found
        drawn = self.feedback.drawn[0].unsqueeze(-2)  # (H, 1, K)
        if found.beyond is not None:
            drawn = drawn + self.feedback.moved_currents(found.beyond)[0]
        return network.line_currents(drawn)[..., :-1].expand(voltages.shape)

    @property
    def loads(self) -> bool:
        """See :class:`FoundLines`."""
        return self.feedback.loads


def _good(found: Saturated) -> Tensor:
    """(B,) bool: images whose amplifiers were found."""
    return found.converged.all(-1).all(-2)[0]
