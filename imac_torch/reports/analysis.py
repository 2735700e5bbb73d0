"""What a report shows besides figures: per layer, per sample, and why accuracy was lost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from imac_torch.base.files import (
    parse_json,
    read_tensors,
    read_text,
    strict_json,
    write_tensors,
    write_text,
)
from imac_torch.base.shown import Brief
from imac_torch.config import Noise
from imac_torch.conversion.ablation import ablate
from imac_torch.conversion.layer_effects import LayerEffect, layer_effects
from imac_torch.conversion.outputs import relative_error, software_activations
from imac_torch.datasets.batches import first_samples
from imac_torch.dc.ir_drop import cell_voltages
from imac_torch.dc.layer import with_bias
from imac_torch.errors import DataError, SolverError
from imac_torch.model.linear import IMACLinear
from imac_torch.model.network import IMACNetwork, evaluating
from imac_torch.numeric.modes import lasting
from imac_torch.reports.area import NetworkArea, network_area
from imac_torch.results.solution import LayerSolution, Solution, Status

__all__ = ["Ablation", "Analysis", "LayerAnalysis", "analyse"]

FORMAT: Final = 2
"""Version of saved analyses."""

EFFECTS: Final = {
    "software": "software",
    "clipping": "outputs cut off at vdd",
    "mapping": "read-out without limits of devices",
    "quantisation": "levels of weights and devices",
    "variation": "spread of devices",
    "neuron": "the neurons' own curve",
    "loading": "loading of layers by the next",
    "wires": "wires of undivided arrays",
    "partitioning": "partitioning",
    "amplifiers": "offsets, swing and gain of amplifiers",
    "calibration": "trims of calibration: the circuit",
    "drivers": "rounding by drivers",
    "converters": "rounding by converters",
    "noise": "noise",
}
"""Steps of the ablation in words."""

_JSON, _TENSORS = "analysis.json", "analysis.safetensors"


@dataclass(frozen=True)
class LayerAnalysis:
    """One layer of the circuit.

    Attributes:
        name: Path of the layer in the model.
        inputs: N, without the bias.
        outputs: M.
        column_ends: Last column (1-based) of every horizontal partition.
        row_ends: Last row (1-based) of every vertical partition.
        gain: Output voltage of the layer's amplifiers per voltage between line ends.
        neuron: Kind of activation circuit.
        weight_error: Rms of devices' weights minus software's, relative to software's rms, the
            bias left out (:func:`imac_torch.mapping.quantization.weight_error`). None where all
            weights are 0.
        bias_error: The same of the bias; None where there is none or all of it is 0.
        circuit_weight_error: Likewise of the weights that the crossbars compute with, wires and
            partitions included.
        circuit_bias_error: The same of the bias.
        circuit_weight_gain: Slope of those weights on the software weights: below 1 signals are
            attenuated.
        power: Mean W of ``inputs`` (sources of the first layer; neurons drive the others),
            ``bias``, ``neurons`` and the supplies of ``amplifiers`` that have some.
        area: m² by part; None where the model says nothing.
        swing: Mean V between the largest and smallest neuron input of a sample.
        map_note: Why there are no maps; empty where there are.
        output_error: Rms difference of the outputs from the software layer's, relative to what
            varies in those (:func:`imac_torch.conversion.outputs.relative_error`).
    """

    name: str
    inputs: int
    outputs: int
    column_ends: tuple[int, ...]
    row_ends: tuple[int, ...]
    gain: float
    neuron: str
    weight_error: float | None
    bias_error: float | None
    circuit_weight_error: float | None
    circuit_bias_error: float | None
    circuit_weight_gain: float
    power: dict[str, float]
    area: dict[str, float | None]
    swing: float
    map_note: str = ""
    output_error: float | None = None


@dataclass(frozen=True)
class Ablation:
    """Accuracy with one more effect at a time (:func:`imac_torch.conversion.ablation.ablate`).

    Attributes:
        effect: What was added.
        accuracy: Share of samples classified as labelled; unsolved ones count as wrong.
        output_error: Rms difference of outputs from software's, relative to their spread.
    """

    effect: str
    accuracy: float
    output_error: float


@dataclass(frozen=True)
class Analysis(Brief):
    """Details of an evaluation, over a subset of its samples.

    Shapes: S samples, M outputs.

    Attributes:
        layers: Per layer.
        area_model: Name of the model that areas are from.
        ablation: Effects in the order they were added; empty where not asked for.
        circuit: (S, M) outputs of the circuit in software units, before any (Log)Softmax.
        software: (S, M) outputs of the software model at the same place.
        labels: (S,) int64.
        maps: Per layer with maps: ``name.input`` and ``name.output``, (M, C) V, mean magnitudes
            of the drop on input lines and on I± lines.
        reference: What the software model is, in words.
        borders: m² of ``drivers`` and ``converters``, None where they are ideal.
    """

    layers: tuple[LayerAnalysis, ...]
    area_model: str
    ablation: tuple[Ablation, ...]
    circuit: Tensor
    software: Tensor
    labels: Tensor
    maps: dict[str, Tensor] = field(default_factory=dict)
    reference: str = "the software model"
    borders: dict[str, float | None] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """S."""
        return len(self.labels)

    @property
    def area(self) -> float:
        """m², of everything that the model covers, and of borders."""
        parts = (part for layer in self.layers for part in layer.area.values())
        return sum(part for part in (*parts, *self.borders.values()) if part is not None)

    def save(self, directory: str | Path) -> None:
        """Write ``analysis.json`` and ``analysis.safetensors`` into a directory.

        Raises:
            DataError: They cannot be written.
        """
        content = {
            "format": FORMAT,
            "layers": [asdict(layer) for layer in self.layers],
            "area_model": self.area_model,
            "ablation": [asdict(item) for item in self.ablation],
            "reference": self.reference,
            "borders": self.borders,
        }
        tensors = {"circuit": self.circuit, "software": self.software, "labels": self.labels}
        tensors.update({f"map.{name}": value for name, value in self.maps.items()})
        try:
            write_tensors(Path(directory) / _TENSORS, tensors)
            write_text(Path(directory) / _JSON, strict_json(content, indent=2))
        except OSError as error:
            raise DataError(f"cannot write the analysis to {directory}: {error}") from None

    @classmethod
    def load(cls, directory: str | Path) -> Analysis | None:
        """Read what :meth:`save` wrote; None where there is none.

        Raises:
            DataError: The files are damaged or of another version.
        """
        directory = Path(directory)
        if not (directory / _JSON).is_file():
            return None
        try:
            content = parse_json(read_text(directory / _JSON, limit=2**30))
            tensors, _ = read_tensors(directory / _TENSORS)
            if content["format"] != FORMAT:
                raise DataError(
                    f"{directory}: analysis format {content['format']!r}, this version reads "
                    f"{FORMAT}; write the report anew with this version"
                )
            found = cls(
                layers=tuple(_read(LayerAnalysis, item) for item in content["layers"]),
                area_model=content["area_model"],
                ablation=tuple(_read(Ablation, item) for item in content["ablation"]),
                circuit=tensors["circuit"],
                software=tensors["software"],
                labels=tensors["labels"],
                maps={
                    name.removeprefix("map."): value
                    for name, value in tensors.items()
                    if name.startswith("map.")
                },
                reference=content["reference"],
                borders=dict(content.get("borders", {})),
            )
            if not (isinstance(found.area_model, str) and isinstance(found.reference, str)):
                raise TypeError("area_model and reference are texts")
            for layer in found.layers:
                if not layer.map_note:
                    _ = [found.maps[f"{layer.name}.{side}"] for side in ("input", "output")]
            return found
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{directory} holds no readable analysis: {error}") from None


Record = TypeVar("Record", LayerAnalysis, Ablation)


def _read(kind: type[Record], values: dict[str, Any]) -> Record:
    """A record from a file, if its values are of the types that they should be; null is NaN."""
    hints = get_type_hints(kind)
    read = {}
    for name, value in values.items():
        found = math.nan if value is None and hints[name] is float else value
        found = tuple(found) if isinstance(found, list) else found
        read[name] = TypeAdapter(hints[name]).validate_python(found, strict=True)
    return kind(**read)


@lasting()
def analyse(
    network: IMACNetwork,
    software: nn.Module,
    loader: Iterable[object],
    *,
    samples: int = 500,
    map_samples: int = 16,
    area_model: str = "imac-sim",
    ablation: bool = True,
    reference: str = "the software model",
    noise: Noise | None = None,
    seed: int = 0,
) -> Analysis:
    """Look into a network on the first samples of a loader, with the native engine.

    Args:
        network: A converted model.
        software: What it is compared with.
        loader: Yields pairs (inputs, labels).
        samples: Samples to look at.
        map_samples: Samples that IR-drop maps are averaged over.
        area_model: A name of :data:`imac_torch.reports.area.AREA_MODELS`.
        ablation: Whether to attribute the loss of accuracy to effects.
        reference: What the software model is, in words.
        noise: A step of the ablation; None: there is none.
        seed: Of the generator that draws it.

    Raises:
        DataError: The loader gives no labelled samples.
        SolverError: No sample was solved.
    """
    inputs, labels = first_samples(loader, samples)
    # Of one read, the first, where reads differ: powers and maps are of one circuit.
    solution = network.segment.native.solve(network.prepare(), network.voltages(inputs))
    solved = solution.status == int(Status.CONVERGED)
    if not bool(solved.any()):
        raise SolverError("none of the samples to analyse was solved")
    area = network_area(network, area_model)
    layers, maps = [], {}
    effects = layer_effects(network)
    wanted = software_activations(network, network.features(inputs))
    for index, layer in enumerate(network.analog_layers()):
        item, layer_maps = _layer(
            network, layer, effects[index], index, solution, solved, wanted[index + 1], area,
            map_samples,
        )  # fmt: skip
        layers.append(item)
        maps.update(layer_maps)
    return Analysis(
        layers=tuple(layers),
        area_model=area.model,
        ablation=tuple(
            Ablation(EFFECTS[step.name], step.accuracy, step.output_error)
            for step in ablate(
                network, inputs, labels, noise=noise or False,
                generator=None if noise is None else torch.Generator().manual_seed(seed),
            )
        )
        if ablation
        else (),
        circuit=network.decode(solution.outputs).cpu(),
        software=_scores(software, inputs).cpu(),
        labels=labels,
        maps=maps,
        reference=reference,
        borders=dict(area.borders),
    )


def _scores(software: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs of a software model before a final (Log)Softmax."""
    if type(software) is nn.Sequential:
        leaves = list(software)
        while leaves and (
            isinstance(leaves[-1], nn.LogSoftmax | nn.Softmax)
            or (type(leaves[-1]) is nn.Sequential and not _computes(leaves[-1]))
        ):
            leaves.pop()
        software = nn.Sequential(*leaves)
    with evaluating(software):
        return software(inputs)


def _computes(module: nn.Module) -> bool:
    """Whether a Sequential has anything but normalisation in it."""
    return any(
        not isinstance(item, nn.Sequential | nn.LogSoftmax | nn.Softmax)
        for item in module.modules()
    )


def _layer(
    network: IMACNetwork,
    layer: IMACLinear,
    effect: LayerEffect,
    index: int,
    solution: Solution,
    solved: Tensor,
    wanted: Tensor,
    area: NetworkArea,
    map_samples: int,
) -> tuple[LayerAnalysis, dict[str, Tensor]]:
    spec, voltages = layer.matrix.crossbar(), solution.layers[index]
    prepared = network.prepare().layers[index]
    driven = voltages.inputs[solved]
    lines = with_bias(driven, prepared.vdd)
    combined = voltages.combined[solved]
    neurons = prepared.neuron.static_power(
        prepared.vdd, voltages.gates[solved], voltages.outputs[solved]
    )
    of_solved = LayerSolution(
        *(getattr(voltages, part.name)[solved][None] for part in fields(voltages))
    )
    found = prepared.driven_at(
        of_solved, neurons.drawn[None], network.segment.native.newton
    ).power(neurons.drawn[None], first=index == 0)
    power = {
        "inputs": float(found.inputs.mean()),
        "bias": float(found.bias.mean()),
        "neurons": float(neurons.supply.mean()),
    }
    if layer.config.amplifier.supplied:
        power["amplifiers"] = float(found.amplifier_supply.mean())
    errors = layer.matrix.weight_errors()
    maps, note = {}, ""
    try:
        cells = cell_voltages(
            spec, lines[:map_samples], neurons.drawn[:map_samples]
        )
        maps[f"{layer.name}.input"] = cells.input_drop.abs().mean(0).cpu()
        maps[f"{layer.name}.output"] = cells.output_drop.abs().mean(0).cpu()
    except SolverError as error:
        note = str(error)
    return (
        LayerAnalysis(
            name=layer.name,
            inputs=layer.in_features,
            outputs=layer.out_features,
            column_ends=spec.column_ends,
            row_ends=spec.row_ends,
            gain=layer.matrix.gain(),
            neuron=layer.neuron_spec().kind,
            weight_error=_known(errors.weights),
            bias_error=None if layer.bias is None else _known(errors.bias),
            circuit_weight_error=_known(effect.error),
            circuit_bias_error=None if layer.bias is None else _known(effect.bias_error),
            circuit_weight_gain=effect.gain,
            power=power,
            area=area.layers[layer.name].parts(),
            swing=float((combined.amax(1) - combined.amin(1)).mean()),
            map_note=note,
            output_error=relative_error(
                layer.software_units(voltages.outputs[solved]), wanted[solved],
                layer.scaling.output_scale,
            ),
        ),
        maps,
    )


def _known(error: float) -> float | None:
    """An error, where there is something that it could be relative to."""
    return None if math.isinf(error) else error
