"""What a sweep computes at a point, and what neighbouring points share."""

from __future__ import annotations

import hashlib
import json
import secrets
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from imac_torch.circuit.engine import Engine
from imac_torch.config import Config
from imac_torch.config.assignment import path_keys
from imac_torch.conversion.calibration import ROUNDS
from imac_torch.conversion.convert import Fitting, convert, unread
from imac_torch.conversion.selection import named_layers
from imac_torch.datasets.batches import chosen, first_samples
from imac_torch.dc.native import Native
from imac_torch.errors import (
    ConfigError,
    ConversionWarning,
    DataError,
    ImacWarning,
    SamplingWarning,
    SettingWarning,
)
from imac_torch.model.network import Chain, IMACNetwork, evaluating
from imac_torch.numeric.modes import lasting
from imac_torch.reports.area import area_model, network_area
from imac_torch.reports.model_report import ModelReport
from imac_torch.reports.report import Report, environment
from imac_torch.study.evaluation import evaluate
from imac_torch.sweep.digest import Undigestible, content_of, files_of
from imac_torch.sweep.metrics import (
    METRICS,
    PHYSICAL,
    PROGRAMMING_METRICS,
    drawn_metrics,
    model_metrics,
    timing_metrics,
    written_metrics,
)
from imac_torch.sweep.points import SEED, Point, configure, seed_of
from imac_torch.sweep.tasks import Bench
from imac_torch.transient.options import TimingOptions

__all__ = ["Evaluator", "NetworkEvaluator"]

LOOKED_AT: Final = 200
"""Points of a sweep that are looked at for settings without effect."""
KEPT_NETWORKS: Final = 4
"""Converted and eliminated networks that a worker keeps for the points that follow."""


class Evaluator(Protocol):
    """What a sweep needs; it travels to workers by pickle, once each."""

    def key(self, point: Point) -> str:
        """Name of the point's content: equal keys mean equal results.

        Raises:
            ConfigError: The point is not valid.
        """
        ...

    def bench(self) -> Bench:
        """Called once in every worker."""
        ...

    def licences(self) -> int:
        """Simulator licences that one evaluation holds; 0 for none."""
        ...


@dataclass(frozen=True)
class NetworkEvaluator:
    """Convert a model at a point's configuration and seed, and run data through it.

    Metrics: ``accuracy``, ``reference_accuracy``, ``agreement``, ``samples``, ``failures``,
    ``power`` and its parts (W; those of :data:`PHYSICAL` where they are not ideal), ``energy``
    (J), ``period`` (s), ``area`` (m²), ``residual`` (A).
    With ``noise`` also :data:`NOISE_METRICS`, at the last outputs: ``noise_rms`` (V) and ``snr``
    (dB, see :class:`imac_torch.noise.result.LayerFigures`).
    With ``device.effects.write_verify`` also :data:`PROGRAMMING_METRICS`, of all layers:
    ``write_pulses`` per cell and ``write_pulses_worst`` of the cell that took most,
    ``write_missed`` (share of the cells), ``write_energy`` (J), ``write_time`` and
    ``write_time_by_rows`` (s), as far as pulses have a voltage and a length.
    With ``timing`` also :data:`TIMING_METRICS`: ``latency`` (median), ``latency_worst``,
    ``decision_latency`` (worst), ``safe_period`` (s), ``unsettled`` (share of samples at the end
    of the period), ``energy_measured`` and ``energy_switching`` (J, means).

    Attributes:
        model: The trained software model.
        inputs: (B, …) samples.
        labels: (B,) int64.
        base: Configuration that points change.
        engine: What solves.
        area_model: A name of :data:`imac_torch.reports.area.AREA_MODELS`.
        exclude: Layers that stay in software: paths, or classes by name.
        include: The only layers to become analog, named likewise; none: all that can be, as
            :func:`imac_torch.convert` has it.
        batch_size: Samples per solve.
        timing: Whether to integrate transients too, which takes hundreds of times as long.
        noise: Whether noise is drawn for every image, from the point's seed (0 where it has none)
            and with its section ``noise``.
        calibration: (B, …) samples that every circuit is fitted to (``samples`` of
            :func:`imac_torch.convert`); None: none is.
        calibration_rounds: Repetitions of calibration's row fits.
    """

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    base: Config = field(default_factory=Config)
    engine: Engine = field(default_factory=Native)
    area_model: str = "imac-sim"
    exclude: Sequence[str] = ()
    include: Sequence[str] = ()
    batch_size: int = 1000
    timing: bool | TimingOptions = False
    noise: bool = False
    calibration: Tensor | None = None
    calibration_rounds: int = ROUNDS

    def __post_init__(self) -> None:
        """Find what is mistyped before the first point.

        Raises:
            ConfigError: There is no area model of that name, no such module, or no batch size.
        """
        area_model(self.area_model)
        modules = dict(self.model.named_modules())
        for field_name, chosen_layers in self._choice.items():
            for name in chosen_layers or ():
                if isinstance(name, str) and name not in modules:
                    raise ConfigError(
                        f"{field_name} = {name!r}: the model has no module of that path or class"
                    )
        if self.batch_size < 1:
            raise ConfigError(f"batch_size = {self.batch_size} must be at least 1")

    @classmethod
    def of(
        cls, model: nn.Module, loader: Iterable[object], base: Config, **options: Any
    ) -> NetworkEvaluator:
        """With all samples of a loader.

        Raises:
            DataError: It has none.
        """
        return cls(model, *first_samples(loader), base, **options)

    @cached_property
    def _choice(self) -> dict[str, Any]:
        """Arguments of :func:`imac_torch.convert`."""
        include = named_layers(self.model, self.include) if self.include else None
        return {"exclude": named_layers(self.model, self.exclude), "include": include}

    # Frozen for its users; hashing megabytes of data again for every key would be waste.
    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that is the same for all points.

        Warns:
            ImacWarning: Something of it cannot be digested; the digest is then another one each
                time, so that nothing is taken for what it may not be.
        """
        try:
            return content_of(
                model=self.model,
                inputs=self.inputs,
                labels=self.labels,
                calibration=self.calibration,
                rounds=None if self.calibration is None else self.calibration_rounds,
                engine=self.engine.content(),
                area_model=self.area_model,
                exclude=tuple(self.exclude),
                version=environment()["imac_torch"],
                timing=_timing_options(self.timing) if self.timing else None,
                **({"noise": True} if self.noise else {}),
                **({"include": tuple(self.include)} if self.include else {}),
            )
        except Undigestible as problem:
            warnings.warn(
                f"the sweep reuses no earlier results: what {problem} holds cannot be told; give "
                "the model plain attributes (numbers, texts, tensors) to have its points kept",
                ImacWarning,
                stacklevel=2,
            )
            return f"undigestible {secrets.token_hex(16)}"

    def key(self, point: Point) -> str:
        """See :class:`Evaluator`; a seed that nothing depends on is not part of the content."""
        config, seed = self.configure(point), seed_of(point)
        content = {
            "evaluator": self.fingerprint,
            "config": (described := config.to_dict()),
            "files": files_of(described),
            "seed": seed if self.noise or _random(config) else None,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def configure(self, point: Point) -> Config:
        """The configuration of a point; what it leaves open follows from calibration's samples.

        Raises:
            ConfigError: The point is not valid.
        """
        config = configure(self.base, point)
        if seed_of(point) is None and _drawn(config):
            raise ConfigError(
                f"point {dict(point)}: its devices or offsets are drawn at random; add a seed, "
                "such as seed = [0] in [grid]"
            )
        return config if self._fitting is None else self._fitting.config(config)

    @cached_property
    def _fitting(self) -> Fitting | None:
        if self.calibration is None:
            return None
        return Fitting.of(self.model, self.calibration, **self._choice)

    def warn_of_unread(self, points: Sequence[Point]) -> None:
        """Say which fields that points set change no metric, before anything is computed.

        Args:
            points: Of a sweep; of very many some are looked at.

        Warns:
            SettingWarning: There are such fields; with what would make them count.
        """
        looked = points[:: -(-len(points) // LOOKED_AT)] if points else ()
        found: dict[str, tuple[int, str]] = {}
        random = False
        for point in looked:
            config = self.configure(point)
            random = random or self.noise or _random(config)
            idle = unread(
                self.model,
                config,
                **self._choice,
                transients=bool(self.timing) or self.engine.over_time,
                netlists=self.engine.netlists,
                noise=self.noise,
            )
            axes = {tuple(path_keys(name)): name for name in point if name != SEED}
            for item in idle:
                name = axes.get(tuple(path_keys(item.path)), item.path)
                found[name] = (found.get(name, (0, ""))[0] + 1, item.needs)
        texts = []
        for name, (count, needs) in found.items():
            where = "" if count == len(looked) else f" at {count} of {len(looked)} points"
            texts.append(f"{name}{where} (it needs {needs})")
        if not random and len({point.get(SEED) for point in points}) > 1:
            texts.append("seed (it needs device.variation > 0 or device.effects: nothing is drawn)")
        if texts:
            warnings.warn(
                f"settings without effect in this sweep: {'; '.join(texts)}",
                SettingWarning,
                stacklevel=3,
            )

    def require(self, objectives: Iterable[str], points: Sequence[Point]) -> None:
        """Refuse objectives of programming that no point has, before anything is computed.

        Args:
            objectives: Metrics.
            points: Of a sweep; looked at until each objective is found.

        Raises:
            ConfigError: No point's devices are written by pulses, or pulses lack what it takes.
        """
        missing = [name for name in objectives if name in PROGRAMMING_METRICS]
        for point in points:
            if not missing:
                return
            known = written_metrics(self.configure(point))
            missing = [name for name in missing if name not in known]
        if missing:
            name = missing[0]
            further = {"write_energy": ", set_voltage and pulse", "write_time": " and pulse"}
            raise ConfigError(
                f"no point has the objective {name}: it needs device.effects.write_verify with "
                f"tolerance, pulses{further.get(name.removesuffix('_by_rows'), '')}"
            )

    def circuit(self, point: Point) -> str:
        """Name of what has to be solved at a point; points that share it are solved once.

        Operating points do not see the section ``timing``, for example.
        """
        config, seed = self.configure(point), seed_of(point)
        content = config.to_dict()
        if not (self.engine.netlists or self.timing or self.noise):
            content.pop("timing")
        drawn = seed if self.noise or _random(config) else None
        return json.dumps([content, drawn], sort_keys=True)

    def bench(self) -> Bench:
        """See :class:`Evaluator`."""
        return _NetworkBench(self)

    def licences(self) -> int:
        """See :class:`Evaluator`."""
        return self.engine.held_licences


def _timing_options(timing: bool | TimingOptions) -> TimingOptions:
    """Without waveforms: a table has no place for them."""
    options = timing if isinstance(timing, TimingOptions) else TimingOptions()
    return replace(options, waveforms=0)


def _random(config: Config) -> bool:
    """Whether anything of a configuration may be drawn at random."""
    return (
        _drawn(config)
        or bool(config.device.effects)
        or any(layer.device.get("effects") for layer in config.layers.values())
    )


def _drawn(config: Config) -> bool:
    """Whether something is drawn whatever effects devices have; some of those draw nothing."""
    return config.device.variation > 0.0 or config.amplifier.offset_spread > 0.0 or any(
        layer.device.get("variation", 0.0) > 0.0 or layer.amplifier.get("offset_spread", 0.0) > 0.0
        for layer in config.layers.values()
    )


class _NetworkBench:
    """Evaluates in one process; keeps software's answers and the latest circuits' solutions.

    Transistor tables are kept by the devices themselves. Points that differ only in what the
    circuit's DC solution does not see (timing, capacitances) share the whole solution.
    """

    def __init__(self, evaluator: NetworkEvaluator) -> None:
        self.evaluator = evaluator
        size, model = evaluator.batch_size, evaluator.model
        self.batches = list(
            zip(evaluator.inputs.split(size), evaluator.labels.split(size), strict=True)
        )
        try:
            with lasting(), evaluating(model):
                self.software = torch.cat([model(inputs) for inputs, _ in self.batches])
        except Exception as error:  # the user's modules, with the user's data
            raise DataError(
                f"the model fails on samples of shape {tuple(evaluator.inputs.shape[1:])}: "
                f"{type(error).__name__}: {error}"
            ) from error
        self.kept: OrderedDict[str, tuple[IMACNetwork, Report | ModelReport]] = OrderedDict()
        self._lossy = False

    def __call__(self, point: Point) -> dict[str, float]:
        config = self.evaluator.configure(point)
        network, report = self._solve(point, config)
        if isinstance(report, ModelReport):
            return {**model_metrics(report, config), **drawn_metrics(report)}
        solved, period = report.solved, config.timing.period
        power = report.mean_power()
        software = chosen(self.software, network.threshold)
        metrics = {
            "accuracy": report.accuracy,
            "reference_accuracy": float((software == report.labels)[solved].double().mean()),
            "agreement": float((software == report.predictions)[solved].double().mean()),
            "samples": float(len(report.labels)),
            "failures": float(report.failures),
            "period": period,
            "area": network_area(network, self.evaluator.area_model).whole,
            "residual": report.figures()["largest_residual"],
        }
        if power:
            metrics["power"] = power["total"]
            metrics.update({
                name: power[name.removeprefix("power_")] for name in (*METRICS, *PHYSICAL)
                if name.removeprefix("power_") in power
            })  # fmt: skip
            metrics["energy"] = power["total"] * period
        if report.timing is not None:
            metrics.update(timing_metrics(report))
        return {**metrics, **drawn_metrics(report)}

    def _solve(self, point: Point, config: Config) -> tuple[IMACNetwork, Report | ModelReport]:
        timing, noise, seed = self.evaluator.timing, self.evaluator.noise, seed_of(point)
        text = self.evaluator.circuit(point)
        if text in self.kept:
            self.kept.move_to_end(text)
            return self.kept[text]
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        with warnings.catch_warnings(record=True) as said:
            # What they would say is in the table, for every point (``unsettled``), or has been
            # said before the first one.
            warnings.simplefilter("ignore", SamplingWarning)
            warnings.simplefilter("ignore", SettingWarning)
            network = convert(
                self.evaluator.model,
                config,
                **self.evaluator._choice,
                generator=generator,
                samples=self.evaluator.calibration,
                rounds=self.evaluator.calibration_rounds,
            ).eval()
            report = evaluate(
                network,
                self.batches,
                reference=None if isinstance(network.model, Chain) else self.evaluator.model,
                engine=self.evaluator.engine,
                timing=_timing_options(timing) if timing else False,
                noise=noise,
                generator=torch.Generator().manual_seed(seed or 0) if noise else None,
                seed=seed,
                progress=False,
            )
        for warning in said:
            self._say(warning, point)
        self.kept[text] = (network, report)
        while len(self.kept) > KEPT_NETWORKS:
            self.kept.popitem(last=False)
        return network, report

    def _say(self, warning: warnings.WarningMessage, point: Point) -> None:
        """Pass a warning on; what conversions lose, of the first point that loses something."""
        text = warning.message
        if issubclass(warning.category, ConversionWarning):
            if self._lossy:
                return  # a thousand paragraphs, whose effect is in the column accuracy
            self._lossy = True
            text = ConversionWarning(
                f"point {dict(point)}: {text}\nFurther points lose what their accuracy says; "
                "convert one of them alone to read why."
            )
        warnings.warn_explicit(text, warning.category, warning.filename, warning.lineno)
