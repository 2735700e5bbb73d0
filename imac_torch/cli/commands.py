"""All commands, added to the application."""

from __future__ import annotations

import typer

from imac_torch.cli import ablation, circuit, simulation, sweeps

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
        simulation.verify,
        simulation.report,
        simulation.compare,
        circuit.netlist,
        circuit.read,
        circuit.characterize,
        circuit.area,
        circuit.doctor,
        sweeps.sweep,
        sweeps.search,
    ):
        app.command()(command)
