"""Names of the measures of a transient, the same in every dialect.

For image k and output node y: ``y_k`` is the output at the end of the period, ``up_y_k`` and
``low_y_k`` are the last times at which it crosses the edges of its settling band (see
:mod:`imac_torch.results.latency`; the final value is ``y_k``). An edge that is never crossed has
no time.
``y_start`` is the output before the first image. For each source q, ``p_q_k`` is its mean power
after the transition (W), ``e_q_k`` its energy over the period (J), ``s_q_k`` its power at the end
of the period (W).
"""

from __future__ import annotations

from typing import Final

SOURCES: Final = ("inputs", "supply", "neurons")
"""Input sources; vdd into bias lines and neurons; of this, the neurons' part."""
AMPLIFIERS: Final = "amplifiers"
"""Both supplies of the amplifiers, where these have some: one more source."""


def before(node: str, k: int) -> str:
    """The measure of an output at the start of image k: the end of the image before."""
    return f"{node}_start" if k == 0 else f"{node}_{k - 1}"


def band(node: str, k: int, fraction: float, resolution: float) -> str:
    """Half-width of the settling band, from measures; both dialects understand it."""
    return f"max({fraction!r}*abs({node}_{k}-{before(node, k)}),{resolution!r})"


def crossings(nodes: list[str], images: int) -> tuple[str, ...]:
    """Measures that may find nothing."""
    return tuple(f"{edge}_{node}_{k}" for k in range(images) for node in nodes for edge in EDGES)


EDGES: Final = ("up", "low")
"""Of the settling band."""
