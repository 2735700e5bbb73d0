"""FinFET: terminal currents, charges and capacitances of BSIM-CMG at any bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from imac_torch.errors import ModelCardError
from imac_torch.finfet.card import ModelCard, normalise_version
from imac_torch.finfet.channel import Channel
from imac_torch.finfet.charge import Terminals
from imac_torch.finfet.geometry import build_geometry
from imac_torch.finfet.intrinsic import Intrinsic
from imac_torch.finfet.junction import build_junction
from imac_torch.finfet.noise import CarriedNoise, TransistorNoise, transistor_noise
from imac_torch.finfet.numerics import float64
from imac_torch.finfet.parameters import check_parameters, resolve_parameters
from imac_torch.finfet.resistance import InternalNodes, jacobian, solve_internal_nodes
from imac_torch.finfet.temperature import build_thermal
from imac_torch.finfet.tunnelling import Tunnelling
from imac_torch.numeric.modes import differentiating, leaf, once, ordinary

Voltage = Tensor | float
_CHUNK = 16384


class FinFET:
    """A multi-gate transistor after BSIM-CMG, behind its series resistances.

    Every method broadcasts its voltages, V (tensors of any shape and device, or numbers), and
    returns float64 tensors of the broadcast shape. Results are differentiable with respect to
    voltages, temperature and overridden parameters, through the solution for the internal nodes
    (implicit function theorem, first derivatives).

    Args:
        card: Model card.
        nfin: Number of fins of the instance.
        length: Designed gate length of the instance, m; the card's ``l`` if not given.
        temperature: Temperature, K.
        version: ``"105.03"`` (as HSPICE runs it: TNOM read in °C as in 107, multiplicative
            temperature coefficients of mobility, channel length modulation against VASAT,
            extension resistance) or ``"107"``; the card's version if not given.
        overrides: Parameters to replace, by name. Tensors may require gradients, and may have
            batch dimensions, which broadcast with the voltages.

    Raises:
        ModelCardError: The card asks for something not implemented, or a dimension is not
            physical.
    """

    @ordinary()  # its tensors are used in derivatives, whatever mode it is made in
    def __init__(
        self,
        card: ModelCard,
        *,
        nfin: Tensor | float = 1.0,
        length: Tensor | float | None = None,
        temperature: Tensor | float = 298.15,
        version: str | None = None,
        overrides: Mapping[str, Tensor | float] | None = None,
    ) -> None:
        self.card = card
        self.version = card.version if version is None else normalise_version(version, card.name)
        where = f"model card {card.name!r}"
        check_parameters(card.parameters, where)
        replaced = {name.lower(): value for name, value in (overrides or {}).items()}
        for name in ("nfin", "l"):
            if name in replaced:
                raise ModelCardError(
                    f"{where}: {name} cannot be overridden; use the argument "
                    f"{'length' if name == 'l' else name}"
                )
        replaced["nfin"] = nfin
        if length is not None:
            replaced["l"] = length
        p = resolve_parameters(card.parameters, replaced, where)
        if self.version == "105.03" and "vasat" not in p:
            raise ModelCardError(f"{where}: version 105.03 needs the parameter vasat")
        kelvin = float64(temperature) + p["dtemp"]
        self._sign = 1 if card.polarity == "n" else -1
        early = self.version == "105.03"
        sdterm = card.parameters.get("sdterm", 0.0) == 1.0
        g = build_geometry(p, self._sign, extension=early, sdterm=sdterm)
        physical = {
            "gate length": g.length,
            "length for charges": g.length_cv,
            "width": g.width,
            "nfin": g.nfin,
            "temperature": kelvin,
        }
        for name, value in physical.items():
            if not bool((value > 0.0).all()):
                raise ModelCardError(
                    f"{where}: {name} must be positive, got {value.min().item():g}"
                )
        t = build_thermal(p, g, kelvin, multiplicative=early)
        flags = card.parameters
        self._intrinsic = Intrinsic(
            p=p,
            g=g,
            t=t,
            channel=Channel(p, g, t, fixed_vasat=early),
            tunnelling=Tunnelling(
                p, g, t,
                to_channel=flags.get("igcmod", 0.0) == 1.0,
                to_bulk=flags.get("igbmod", 0.0) == 1.0,
            ),
            source_junction=build_junction(p, g, t, kelvin, "s"),
            drain_junction=build_junction(p, g, t, kelvin, "d"),
        )  # fmt: skip
        self._batched = kelvin.numel() > 1 or any(value.numel() > 1 for value in p.values())
        self._differentiable = kelvin.requires_grad or any(v.requires_grad for v in p.values())

    @property
    def source_resistance(self) -> Tensor:
        """Source series resistance at zero bias, all fins, Ω."""
        return self._zero_bias_resistances()[1]

    @property
    def drain_resistance(self) -> Tensor:
        """Drain series resistance at zero bias, all fins, Ω."""
        return self._zero_bias_resistances()[0]

    def _zero_bias_resistances(self) -> tuple[Tensor, Tensor]:
        zero = torch.zeros((), dtype=torch.float64, device="cpu")
        return self._intrinsic.resistances(zero, zero, zero)

    def currents(
        self, drain: Voltage, gate: Voltage, source: Voltage = 0.0, bulk: Voltage = 0.0
    ) -> Terminals:
        """DC currents into all terminals.

        Args:
            drain: Drain voltage, V (real sign, also for p devices).
            gate: Gate voltage, V.
            source: Source voltage, V.
            bulk: Bulk voltage, V.

        Returns:
            The currents into the terminals, A, NaN where the internal nodes were not found (never
            seen within ±10 V; :meth:`internal_nodes` tells).
        """
        return Terminals(*self._in_chunks(self._currents, drain, gate, source, bulk))

    def charges(
        self, drain: Voltage, gate: Voltage, source: Voltage = 0.0, bulk: Voltage = 0.0
    ) -> Terminals:
        """Quasi-static charges at the terminals; those at internal nodes count at theirs."""
        return Terminals(*self._in_chunks(self._charges, drain, gate, source, bulk))

    def capacitances(
        self, drain: Voltage, gate: Voltage, source: Voltage = 0.0, bulk: Voltage = 0.0
    ) -> Tensor:
        """Small-signal capacitance matrix C[i, j] = ∂Q_i/∂V_j, series resistances included.

        Returns:
            Capacitances, F, shape (..., 4, 4), terminals in the order drain, gate, source, bulk;
            rows and columns sum to zero. Detached: without gradients of its own.
        """
        with differentiating():
            terminals = [leaf(v) for v in self._volts(drain, gate, source, bulk)]
            q = self.charges(*terminals)
            rows = []
            for charge in (q.drain, q.gate, q.source, q.bulk):
                row = torch.autograd.grad(
                    charge.sum(), terminals, retain_graph=True, materialize_grads=True
                )
                rows.append(torch.stack(row, dim=-1))
        return torch.stack(rows, dim=-2).detach()

    @torch.no_grad()
    def noise(
        self, drain: Voltage, gate: Voltage, source: Voltage = 0.0, bulk: Voltage = 0.0
    ) -> TransistorNoise:
        """Noise of the current into the drain while all terminals are held.

        Returns:
            Thermal and 1/f noise, without gradients; NaN where internal nodes were not found.
        """
        bias = self._bias(drain, gate, source, bulk)
        x, y = self._inner(*bias)
        return transistor_noise(
            self._intrinsic, self.card.parameters, (x, bias[1], y), self._carried(x, y, bias)
        )

    def _carried(self, x: Tensor, y: Tensor, bias: tuple[Tensor, ...]) -> CarriedNoise:
        """How noise behind the series resistances reaches the drain.

        The residuals (f_x, f_y) of the internal nodes x, y get -R_d·i and R_s·i of a current i
        through the channel, and e of a voltage in series with a resistance; the nodes follow by
        -J⁻¹ times that.
        """
        rd, rs = self._intrinsic.resistances(x, bias[1], y)
        with differentiating():
            inner = leaf(x), leaf(y)
            current = self._intrinsic.currents(inner[0], bias[1], inner[1], bias[3]).drain
            by_x, by_y = torch.autograd.grad(current.sum(), inner)
        _, _, ax, ay, bx, by = jacobian(self._residual, x, y, bias)
        det = ax * by - ay * bx
        by_drain = (bx * by_y - by * by_x) / det  # A per V of f_x
        by_source = (ay * by_x - ax * by_y) / det
        return CarriedNoise(1.0 - rd * by_drain + rs * by_source, by_drain, by_source)

    def internal_nodes(
        self, drain: Voltage, gate: Voltage, source: Voltage = 0.0, bulk: Voltage = 0.0
    ) -> InternalNodes:
        """Detached voltages behind the series resistances, residual and status per bias point."""
        nodes = self._solve(*self._bias(drain, gate, source, bulk))
        sign = self._sign
        return InternalNodes(
            sign * nodes.drain, sign * nodes.source, nodes.residual, nodes.converged
        )

    def _volts(self, *terminals: Voltage) -> tuple[Tensor, ...]:
        """Broadcast the terminals to one shape and device."""
        tensors = [v for v in terminals if isinstance(v, Tensor)]
        device = tensors[0].device if tensors else None
        return torch.broadcast_tensors(
            *(torch.as_tensor(v, dtype=torch.float64, device=device) for v in terminals)
        )

    def _bias(self, *terminals: Voltage) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Terminal voltages of the n-type frame, all of the shape of the result."""
        vd, vg, vs, vb = (self._sign * v for v in self._volts(*terminals))
        if self._batched:
            shape = torch.broadcast_shapes(
                vd.shape, *(v.shape for v in self._intrinsic.p.values()), self._intrinsic.t.vt.shape
            )
            vd, vg, vs, vb = (v.expand(shape) for v in (vd, vg, vs, vb))
        return vd, vg, vs, vb

    def _in_chunks(
        self, function: Callable[..., tuple[Tensor, ...]], *terminals: Voltage
    ) -> tuple[Tensor, ...]:
        """Evaluate in pieces that stay in the processor's cache (twice as fast for many points)."""
        bias = self._bias(*terminals)
        whole = bias[0].numel() <= _CHUNK or bias[0].device.type != "cpu"
        if whole or self._batched or self._records_gradient(bias):
            results = function(*bias)
        else:
            shape = bias[0].shape
            pieces = zip(*(v.reshape(-1).split(_CHUNK) for v in bias), strict=True)
            parts = [function(*piece) for piece in pieces]
            results = tuple(torch.cat(part).reshape(shape) for part in zip(*parts, strict=True))
        return tuple(self._sign * result for result in results)

    def _currents(self, vd: Tensor, vg: Tensor, vs: Tensor, vb: Tensor) -> tuple[Tensor, ...]:
        x, y = self._inner(vd, vg, vs, vb)
        i = self._intrinsic.currents(x, vg, y, vb)
        return i.drain, i.gate, i.source, i.bulk

    def _charges(self, vd: Tensor, vg: Tensor, vs: Tensor, vb: Tensor) -> tuple[Tensor, ...]:
        x, y = self._inner(vd, vg, vs, vb)
        q = self._intrinsic.charges(x, vg, y, vb)
        direct = self._intrinsic.p["cdsp"] * (vd - vs)
        return q.drain + direct, q.gate, q.source - direct, q.bulk

    def _records_gradient(self, bias: tuple[Tensor, ...]) -> bool:
        return torch.is_grad_enabled() and (
            self._differentiable or any(v.requires_grad for v in bias)
        )

    def _residual(
        self, x: Tensor, y: Tensor, drain: Tensor, gate: Tensor, source: Tensor, bulk: Tensor
    ) -> tuple[Tensor, Tensor]:
        i = self._intrinsic.currents(x, gate, y, bulk)
        rd, rs = self._intrinsic.resistances(x, gate, y)
        return drain - x - rd * i.drain, source - y - rs * i.source

    def _solve(self, *bias: Tensor) -> InternalNodes:
        detached = [v.detach() for v in bias]
        return solve_internal_nodes(self._residual, *detached, pointwise=not self._batched)

    def _inner(self, *bias: Tensor) -> tuple[Tensor, Tensor]:
        """Internal drain and source voltage, with their gradient."""
        nodes = self._solve(*bias)
        nan = float("nan")
        x = torch.where(nodes.converged, nodes.drain, nan)
        y = torch.where(nodes.converged, nodes.source, nan)
        if not self._records_gradient(bias):
            return x, y
        # x − J⁻¹·F with J held constant: one more Newton step in value, and in gradient
        # −J⁻¹·∂F/∂θ, the derivative of the implicit function.
        _, _, ax, ay, bx, by = jacobian(self._residual, x, y, bias)
        fx, fy = self._residual(x, y, *bias)
        det = ax * by - ay * bx
        return once(x + (ay * fy - by * fx) / det), once(y + (bx * fx - ax * fy) / det)


def inverter_currents(
    n: FinFET, p: FinFET, gate: Tensor, out: Tensor, vdd: Voltage
) -> tuple[Tensor, Tensor, Tensor]:
    """Currents of a CMOS inverter with forced gate and output.

    Args:
        n: Pull-down transistor, source and bulk at 0 V.
        p: Pull-up transistor, source and bulk at ``vdd``.
        gate: Gate voltage, V.
        out: Output voltage, V, broadcasts with ``gate``.
        vdd: Supply voltage, V.

    Returns:
        Output current delivered into the load, gate current into the gates, supply current drawn
        from ``vdd``, all A.
    """
    down = n.currents(out, gate, 0.0, 0.0)
    up = p.currents(out, gate, vdd, vdd)
    return -(down.drain + up.drain), down.gate + up.gate, up.source + up.bulk
