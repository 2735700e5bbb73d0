"""What is asked of a segment besides operating points: waveforms, latencies, noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.config import Noise, Timing
from imac_torch.dc.dissipation import dissipated
from imac_torch.dc.native import Native, Prepared
from imac_torch.elimination.ports import refuse_real
from imac_torch.model.linear import IMACLinear
from imac_torch.noise.analysis import analyse, solved_only
from imac_torch.noise.circuit import NoisyCircuit
from imac_torch.noise.result import NoiseReport
from imac_torch.noise.sampling import COARSE, REFERENCES, TOLD, NoiseDraws
from imac_torch.numeric.modes import lasting
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.readout.noise import AmplifierNoise
from imac_torch.results.solution import Dissipation, Solution

if TYPE_CHECKING:  # imported where they are used: operating points need no transients
    from imac_torch.transient.inference import InferenceRun
    from imac_torch.transient.inference_report import InferenceReport
    from imac_torch.transient.options import TimingOptions, TransientOptions
    from imac_torch.transient.preparation import DynamicLayer
    from imac_torch.transient.result import TransientResult

Made = TypeVar("Made")


class Analyses(nn.Module):
    """Transients and noise of a chain of analog layers, which :class:`Segment` is."""

    pace: Timing

    @abstractmethod
    def analog_layers(self) -> Iterator[IMACLinear]:
        """The analog layers, in order."""

    @property
    @abstractmethod
    def first(self) -> IMACLinear:
        """The layer at the border before."""

    @property
    @abstractmethod
    def threshold(self) -> float | None:
        """V, above which a single output says yes; None: there is none."""

    @property
    @abstractmethod
    def native(self) -> Native:
        """The native engine."""

    @abstractmethod
    def parts(self) -> list[tuple[CrossbarSpec, NeuronSpec]]:
        """Crossbar and neuron of every layer."""

    @abstractmethod
    def prepare(self, engine: Native | None = None) -> Prepared:
        """The eliminated circuit."""

    @abstractmethod
    def kept(self, settings: object, make: Callable[[], Made]) -> Made:
        """What was made of the layers, remembered."""

    @abstractmethod
    def voltages(self, features: Tensor) -> Tensor:
        """Input voltages of (B, N) software units."""

    @abstractmethod
    def solve(self, features: Tensor, *, power: bool = True) -> Solution:
        """Operating points of (B, N) software units."""

    # Time

    def _in_time(self, options: TransientOptions) -> tuple[DynamicLayer, ...]:
        from imac_torch.transient.preparation import prepare_transient

        interconnects = [layer.config.interconnect for layer in self.analog_layers()]
        for crossbar, _ in self.parts():
            if crossbar.cell is not None:
                refuse_real(crossbar, "a transient of curved cells")
        return prepare_transient(
            self.parts(), interconnects, self.prepare().layers, options, self.pace
        )

    @lasting()
    def transient(
        self,
        features: Tensor,
        *,
        initial: Tensor | None = None,
        options: TransientOptions | None = None,
    ) -> TransientResult:
        """Waveforms while samples follow one another at the inputs, one per ``timing.period``.

        Args:
            features: (L, N) software units: one sequence.
            initial: (1, N), whose operating point is the start; None: all inputs at 0 V.
            options: Step control, wires, what to keep. ``StepControl(grid=…,
                method="trapezoidal")`` integrates with the rule and on the time points of another
                simulator.

        Returns:
            A batch of one (B = 1).

        Raises:
            SolverError: Time steps became too small.
        """
        from imac_torch.transient.network import solve_transient
        from imac_torch.transient.options import TransientOptions

        options = TransientOptions() if options is None else options
        start = None if initial is None else self.voltages(initial)
        return solve_transient(
            self._in_time(options), self.voltages(features)[None], self.pace,
            initial=start, options=options,
        )  # fmt: skip

    @lasting()
    def timing(self, options: TimingOptions | None = None) -> InferenceRun:
        """What measures latency and energy of samples that arrive in batches.

        Args:
            options: Step control, wires, settling band; None: the defaults.

        Returns:
            An object whose ``add`` takes input voltages (:meth:`voltages`).
        """
        from imac_torch.transient.inference import InferenceRun
        from imac_torch.transient.options import TimingOptions

        options = TimingOptions() if options is None else options
        layers = self._in_time(options.transient)
        return InferenceRun(layers, self.pace, options, self.threshold)

    @lasting()
    def measure(
        self, features: Tensor, *, options: TimingOptions | TransientOptions | None = None
    ) -> InferenceReport:
        """Latency and energy of every sample, from transients of the whole circuit.

        Samples follow each other as in a stream, each from the settled state of the one before.
        Wires have capacitance where ``interconnect.capacitance`` says so.

        Args:
            features: (B, N) software units.
            options: Settings of the measurement, or of its transients only; None: the defaults.

        Raises:
            SolverError: No sample was solved: time steps became too small.
        """
        from imac_torch.transient.options import TimingOptions, TransientOptions

        if isinstance(options, TransientOptions):
            options = TimingOptions(transient=options)
        run = self.timing(options)
        run.add(self.voltages(features))
        return run.report()

    # Power

    def dissipation(self, features: Tensor) -> Dissipation:
        """Where the power of operating points goes; its parts add up to what sources deliver.

        Args:
            features: (B, N) software units.

        Raises:
            SolverError: Another engine solves.
        """
        return self.dissipation_at(self.voltages(features))

    @lasting()
    def dissipation_at(self, voltages: Tensor) -> Dissipation:
        """:meth:`dissipation` for (B, N) V on the lines."""
        prepared = self.prepare()
        solution = self.native.solve(prepared, voltages, power=False)
        # By the same tables as the powers of solutions, where all voltages are within them.
        inside = all(
            bool(layer.neuron.core.inside(found.gates, found.outputs).all())
            for layer, found in zip(prepared.layers, solution.layers, strict=True)
        )
        layers = prepared.layers if inside else prepared.exact
        return dissipated(layers, solution, self.native.newton)

    # Noise

    def noisy(self, settings: Noise) -> NoisyCircuit:
        """The circuit as noise sees it, remembered like :meth:`prepare`."""
        amplifiers = AmplifierNoise(settings.amplifier_voltage, settings.amplifier_current)
        wires = [layer.config.interconnect for layer in self.analog_layers()]
        return self.kept(
            ("noise", self.pace.load_capacitance, self.native, amplifiers, settings.flicker),
            lambda: NoisyCircuit.of(
                self.parts(), wires, self.prepare().exact, self.pace.load_capacitance, amplifiers,
                flicker=settings.flicker,
            ),
        )  # fmt: skip

    @lasting()
    def noise(self, features: Tensor, settings: Noise | None = None) -> NoiseReport:
        """Noise of every neuron's input and output, by part, at the samples' operating points.

        Args:
            features: (B, N) software units.
            settings: Amplitudes and band; None: those of the configuration.

        Raises:
            CircuitError: Nothing limits the bandwidth: set ``noise.bandwidth``, or capacitances.
            SolverError: A sample has no operating point.
        """
        settings = self.first.config.noise if settings is None else settings
        names = [layer.name for layer in self.analog_layers()]
        solution = self.solve(features, power=False)
        return analyse(self.noisy(settings), names, solution, settings)

    def noise_drawn(self, voltages: Tensor, settings: Noise) -> NoiseReport:
        """Noise as :meth:`noise_draws` sees it, by part.

        Args:
            voltages: (B, N) V at the inputs; the first ones are among those that draws are
                measured at, all are signals.
            settings: Amplitudes and band.

        Raises:
            CircuitError: Nothing limits the bandwidth.
            SolverError: No sample has an operating point.
        """
        names = [layer.name for layer in self.analog_layers()]
        solution = solved_only(self.native.solve(self.prepare(), voltages, power=False))
        return analyse(
            self.noisy(settings), names, solution, settings, few=TOLD, nodes=COARSE
        )

    def noise_draws(self, voltages: Tensor, settings: Noise | None = None) -> NoiseDraws:
        """Draws of noise for operating points, measured at the first of some.

        Args:
            voltages: (B, N) V at the inputs.
            settings: Amplitudes and band; None: those of the configuration.

        Raises:
            CircuitError: Nothing limits the bandwidth.
            SolverError: No sample has an operating point.
        """
        settings = self.first.config.noise if settings is None else settings
        solution = self.native.solve(self.prepare(), voltages[:REFERENCES], power=False)
        return NoiseDraws.of(self.noisy(settings), solved_only(solution), settings)
