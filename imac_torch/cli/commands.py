"""All commands, added to the application."""

from __future__ import annotations

import typer

from imac_torch.cli import (
    ablation,
    characterization,
    circuit,
    montecarlo,
    noise,
    simulation,
    sweeps,
    transient,
    tuning,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add every command that is not there yet, in the order of a project's life."""
    if app.registered_commands:
        return
    for command in (
        circuit.config,
        circuit.convert,
        circuit.summary,
        simulation.simulate,
        ablation.ablate,
        montecarlo.montecarlo,
        noise.noise,
        transient.transient,
        tuning.tune,
        simulation.verify,
        simulation.report,
        simulation.compare,
        circuit.netlist,
        circuit.read,
        characterization.characterize,
        circuit.area,
        circuit.doctor,
        sweeps.sweep,
        sweeps.search,
    ):
        app.command()(command)
