"""The arrays: memory devices, wires, and the partitioning of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator
from typing_extensions import Self

from imac_torch.config.kinds import NAMED
from imac_torch.config.named import build_named, frozen, merge_named
from imac_torch.config.quantity import (
    BEND,
    CAPACITANCE,
    FRACTION,
    LENGTH,
    PERMITTIVITY,
    RESISTANCE,
    RESISTIVITY,
)
from imac_torch.config.section import Section
from imac_torch.config.technology import (
    ACCESS,
    ASSUMED_CELLS,
    BIT_CELL_LENGTHS,
    BIT_CELL_WIDTH,
    DEVICES,
    MODELS,
    NODES,
)
from imac_torch.errors import ConfigError


class Memristor(Section):
    """The two end states of the memory device and its spread."""

    rlow: Annotated[float, RESISTANCE] = Field(
        78e3, gt=0, description="Ω. Low-resistance state. IMAC-Sim: rlow."
    )
    rhigh: Annotated[float, RESISTANCE] = Field(
        202e3, gt=0, description="Ω. High-resistance state. IMAC-Sim: rhigh."
    )
    variation: Annotated[float, FRACTION] = Field(
        0.0,
        ge=0,
        lt=1,
        description="Uniform relative spread of each resistance: R·(1 ± variation), drawn once "
        "from the generator given to convert. IMAC-Sim: weight_var, a percentage.",
    )
    states: int | None = Field(
        None,
        ge=2,
        description="Conductances a device can be programmed to, equally spaced from 1/rhigh to "
        "1/rlow; None: any. Read by the mapping scheme 'matched'; the others use the conductances "
        "of their weight levels.",
    )
    bend: Annotated[float | None, BEND] = Field(
        None,
        gt=0,
        description="V. v0 of cells with a curved characteristic i = v0/R·sinh(v/v0), rlow and "
        "rhigh being those at small voltages; None: ohmic. Short for device.cell.sinh.v0.",
    )
    cell: dict[str, dict[str, Any]] | None = Field(
        None,
        description="Current of the memory device over its voltage: one table of parameters by the "
        "kind's name (device.cell.sinh.v0 = 0.3); rlow and rhigh are those at small voltages. "
        "None: ohmic. Kinds, and which analyses know them, are in docs/your_device.md.",
    )
    access: dict[str, dict[str, Any]] | None = Field(
        None,
        description="What stands in series with the memory device, between it and the I± line: one "
        "table of parameters by the kind's name (device.access.diode.saturation = 1e-12). None: "
        "nothing. Known where device.cell is.",
    )
    capacitance: Annotated[float, CAPACITANCE] = Field(
        0.0,
        ge=0,
        description="F. In parallel to every memory device, in transients, noise and netlists: "
        "permittivity·area/thickness of its film. 0 because that is 4 aF for 10 nm × 10 nm of "
        "5 nm HfO2 (relative permittivity 25: J. Robertson, Eur. Phys. J. Appl. Phys. 28, 265, "
        "2004), a tenth of what a cell's wires have.",
    )
    access_capacitance: Annotated[float, CAPACITANCE] = Field(
        0.0,
        ge=0,
        description="F. In parallel to every access device, in transients and netlists: of the "
        "junction of a diode, of the film of a selector. Geometry decides, hence 0. FinFETs have "
        "the charges of their model instead.",
    )
    effects: dict[str, dict[str, Any]] | None = Field(
        None,
        description="What else happens to resistances, in order, after variation: tables of "
        "parameters by the effect's name (device.effects.log_normal.sigma = 0.05), or by any "
        "label if the table has its name as kind; None: nothing. Drawn once, reads included, from "
        "the generator given to convert; names are in docs/your_device.md.",
    )

    @field_validator(*NAMED, mode="after")
    @classmethod
    def _exist(
        cls, values: dict[str, dict[str, Any]] | None, info: ValidationInfo
    ) -> dict[str, dict[str, Any]] | None:
        field = str(info.field_name)
        for label, settings in (values or {}).items():
            build_named(NAMED[field], label, settings)
        if field != "effects" and len(values or {}) > 1:
            names = ", ".join(values or {})
            raise ValueError(f"a bit cell has one {NAMED[field].what}, not {names}")
        return frozen(values) if values else None

    def overridden(self, changes: Mapping[str, Any]) -> Self:
        """See :class:`Section`; effects add to those that there are, parameters to their kind's."""
        merged = dict(changes)
        for name in NAMED.keys() & changes.keys():
            before, after = getattr(self, name) or {}, changes[name] or {}
            if name == "effects" or before.keys() == after.keys():
                merged[name] = merge_named(before, after) or None
        return self.replaced(merged)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.rlow >= self.rhigh:
            raise ValueError(f"rlow = {self.rlow} Ω must be below rhigh = {self.rhigh} Ω")
        if self.bend is not None and self.cell is not None:
            raise ValueError("bend is short for cell.sinh.v0: set one of bend and cell")
        return self

    @property
    def ohmic(self) -> bool:
        """Whether cells are resistors."""
        return self.bend is None and self.cell is None and self.access is None

    @property
    def varies(self) -> bool:
        """Whether anything happens to resistances."""
        return self.variation > 0.0 or bool(self.effects)

    @classmethod
    def preset(cls, name: str, bit_cell: str | None = None) -> Memristor:
        """A device by name.

        Args:
            name: Of :data:`DEVICES`, resistors, or of :data:`MODELS`, compact models.
            bit_cell: Whose access device it has, of :data:`ACCESS` or :data:`ASSUMED_CELLS`; None:
                none, the device alone.

        Raises:
            ConfigError: There is no such preset.
        """
        if name not in DEVICES and name not in MODELS:
            raise ConfigError(
                f"no device preset {name!r}; there are {', '.join((*DEVICES, *MODELS))}"
            )
        fields = dict(MODELS.get(name) or dict(zip(("rlow", "rhigh"), DEVICES[name], strict=True)))
        if bit_cell is not None:
            access = ACCESS.get(bit_cell)
            access = _assumed(bit_cell)["access"] if access is None else access
            fields["access"] = {kind: dict(values) for kind, values in access.items()} or None
        return cls(**fields)


def _assumed(bit_cell: str) -> Mapping[str, Any]:
    """Of a bit cell without published numbers.

    Raises:
        ConfigError: There is no such one.
    """
    if bit_cell not in ASSUMED_CELLS:
        known = ", ".join((*BIT_CELL_LENGTHS, *ASSUMED_CELLS))
        raise ConfigError(f"no bit cell {bit_cell!r}; there are {known}")
    return ASSUMED_CELLS[bit_cell]


class Interconnect(Section):
    """Geometry and material of the wires; resistances and capacitances follow (``wires.py``)."""

    tech_node: Annotated[float, LENGTH] = Field(
        9e-9, gt=0, description="m. λ of the layout. IMAC-Sim: tech_node."
    )
    metal: Annotated[float | None, LENGTH] = Field(
        None, gt=0, description="m. Width of a wire; None: 3 λ. IMAC-Sim: metal."
    )
    thickness: Annotated[float, LENGTH] = Field(
        22e-9, gt=0, description="m. Metal thickness. IMAC-Sim: T."
    )
    height: Annotated[float, LENGTH] = Field(
        20e-9, gt=0, description="m. Dielectric between the metal and the plane below. IMAC-Sim: H."
    )
    length: Annotated[float | None, LENGTH] = Field(
        None,
        gt=0,
        description="m. Bit-cell length, the segment of an I± line; None: 15 λ (1T1R). "
        "IMAC-Sim: L.",
    )
    width: Annotated[float | None, LENGTH] = Field(
        None,
        gt=0,
        description="m. Bit-cell width, the segment of an input line; None: 12 λ. IMAC-Sim: W.",
    )
    spacing: Annotated[float | None, LENGTH] = Field(
        None, gt=0, description="m. Distance of the I+ and I- lines; None: 5 λ. IMAC-Sim: D."
    )
    resistivity: Annotated[float, RESISTIVITY] = Field(
        1.9e-8, gt=0, description="Ω·m. Bulk resistivity of the metal. IMAC-Sim: rho."
    )
    permittivity: Annotated[float, PERMITTIVITY] = Field(
        20 * 8.854e-12, gt=0, description="F/m. Permittivity of the dielectric. IMAC-Sim: eps."
    )
    resistance: bool = Field(True, description="Whether wires have resistance.")
    capacitance: bool = Field(
        False, description="Whether wires have capacitance (seen by transients only)."
    )
    imac_sim_capacitance: bool = Field(
        False,
        description="Take the bit-cell width instead of its length for the capacitance of I± "
        "lines, as IMAC-Sim's (commented) code does.",
    )

    @property
    def metal_width(self) -> float:
        """Wire width, m."""
        return 3.0 * self.tech_node if self.metal is None else self.metal

    @property
    def cell_length(self) -> float:
        """Segment of an I± line, m."""
        if self.length is not None:
            return self.length
        return BIT_CELL_LENGTHS["1T1R"] * self.tech_node

    @property
    def cell_width(self) -> float:
        """Segment of an input line, m."""
        return BIT_CELL_WIDTH * self.tech_node if self.width is None else self.width

    @property
    def line_spacing(self) -> float:
        """Distance of the I+ line from its I- line, m."""
        return 5.0 * self.tech_node if self.spacing is None else self.spacing

    @classmethod
    def preset(cls, tech_node: float, bit_cell: str = "1T1R") -> Interconnect:
        """The wires of a technology node with a bit cell.

        Args:
            tech_node: m, of :data:`NODES`.
            bit_cell: Of :data:`BIT_CELL_LENGTHS`, or of :data:`ASSUMED_CELLS`.

        Raises:
            ConfigError: There is no such node or bit cell.
        """
        if not any(abs(tech_node - node) < 1e-12 for node in NODES):
            known = ", ".join(f"{node * 1e9:g}" for node in NODES)
            raise ConfigError(
                f"no preset for tech_node = {tech_node} m; there are {known} nm, written {NODES[0]}"
            )
        if bit_cell in BIT_CELL_LENGTHS:
            return cls(tech_node=tech_node, length=BIT_CELL_LENGTHS[bit_cell] * tech_node)
        sizes = ("length", "width", "spacing")
        return cls(
            tech_node=tech_node, **{name: _assumed(bit_cell)[name] * tech_node for name in sizes}
        )


class Crossbar(Section):
    """Size of one physical array and the partitioning of layers onto arrays."""

    rows: int = Field(
        32, ge=1, description="Outputs (rows) of one array, from which vertical cuts follow."
    )
    columns: int = Field(
        32,
        ge=1,
        description="Inputs (columns, the bias included) of one array, from which horizontal "
        "cuts follow.",
    )
    horizontal: int | tuple[int, ...] | None = Field(
        None,
        description="Parts into which the I± lines are cut, one number or one per layer; None: "
        "ceil((N+1)/columns). IMAC-Sim: hpar.",
    )
    vertical: int | tuple[int, ...] | None = Field(
        None,
        description="Parts into which the input lines are cut, one number or one per layer; "
        "None: ceil(M/rows). IMAC-Sim: vpar.",
    )
    copies: int = Field(
        1,
        ge=1,
        description="Replicas of a segment's arrays, which share the input vectors of one sample "
        "(positions of a convolution, tokens): its latency is divided, its area multiplied.",
    )

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for name in ("horizontal", "vertical"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            if any(number < 1 for number in numbers):
                raise ValueError(f"{name} = {value}: every number of partitions must be >= 1")
        return self
