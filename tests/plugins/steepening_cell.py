"""A memory device whose conductance grows with the voltage: i = g·v·(1 + |v|/v0)."""

from dataclasses import dataclass

from imac_torch.cells import Cell, CellCurrents, register_cell


@dataclass(frozen=True)
class Steepening(Cell):
    v0: float

    @property
    def bend(self):
        return self.v0

    def currents(self, conductance, across, end=None):
        size = across.abs() / self.v0
        return CellCurrents(
            conductance * across * (1.0 + size), conductance * (1.0 + 2.0 * size)
        )

    def lines(self, name, first, second, resistance):
        v = f"v({first},{second})"
        return [f"G{name} {first} {second} cur='{v}/{resistance}*(1+abs({v})/{self.v0!r})'"]


register_cell("steepening", Steepening)
