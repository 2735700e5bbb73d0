"""The application: its commands, its exit codes, its errors."""

from __future__ import annotations

import contextlib
import signal
import sys
import warnings
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from typer.core import TyperGroup

from imac_torch.base.tables import console as make_console
from imac_torch.cli.exits import ExitCode, exit_code
from imac_torch.cli.output import secure_output
from imac_torch.errors import ImacError, ImacWarning, SimulatorError

__all__ = ["app", "main"]


class _Group(TyperGroup):
    """Turns the package's errors and warnings into messages on standard error and exit codes."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - the library's signature
        console = make_console(stderr=True, soft_wrap=True)
        with warnings.catch_warnings():
            usual = warnings.showwarning

            def show(
                message: Warning | str,
                category: type[Warning],
                filename: str,
                lineno: int,
                file: TextIO | None = None,
                line: str | None = None,
            ) -> None:
                if not issubclass(category, ImacWarning):
                    usual(message, category, filename, lineno, file, line)
                    return
                console.print("warning:", style="bold yellow", end=" ")
                console.print(str(message))

            warnings.showwarning = show
            return self._invoke(ctx, console)

    def _invoke(self, ctx: Any, console: Console) -> Any:  # noqa: ANN401
        try:
            return super().invoke(ctx)
        except ImacError as error:
            _say(console, str(error))
            if isinstance(error, SimulatorError) and error.directory is not None:
                console.print(f"the run is kept in {error.directory}")
            raise typer.Exit(int(exit_code(error))) from None
        except OSError as error:
            _say(console, str(error))
            raise typer.Exit(int(ExitCode.INPUT)) from None
        except (MemoryError, RecursionError) as error:
            _say(console, _exhausted(error))
            raise typer.Exit(int(ExitCode.UNSOLVED)) from None
        except RuntimeError as error:
            if "not enough memory" not in str(error) and "out of memory" not in str(error):
                raise
            _say(console, _exhausted(error))
            raise typer.Exit(int(ExitCode.UNSOLVED)) from None
        except KeyboardInterrupt:
            console.print("stopped")
            raise typer.Exit(int(ExitCode.INTERRUPTED)) from None


def _say(console: Console, text: str) -> None:
    console.print("error:", style="bold red", end=" ")
    console.print(text)


def _exhausted(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "a file or a model is nested too deeply"
    return (
        f"the memory does not suffice ({str(error).splitlines()[0] if str(error) else 'refused'}): "
        "take fewer samples at once (--testnum-per-batch), smaller arrays or fewer workers"
    )


_HELP = """
Trained PyTorch networks as in-memory analog circuits: solved natively, or by SPICE.

A MODEL is one of

* a network that `imac-torch convert` wrote (`network.safetensors`);
* `module:factory`, a function in a Python file or package that returns the trained model, with
  its weights in `--weights weights.safetensors`;
* a directory of IMAC-Sim: its top (with `testIMAC.py`, whose inputs are read) or its `data/`.

DATA is the name of a data set (`digits`, `MNIST`, ...), a file of your own samples (`.npz` with
`inputs` and `labels`; `.csv` with the class last), a directory of IMAC-Sim, or `module:factory`
for a PyTorch data set of your own.

Every command takes a configuration file (`--config circuit.toml`) and changes to it
(`--set amplifier.gain=30`); `imac-torch config` writes a file to start from.

A first session:

    imac-torch simulate path/to/IMAC-Sim --testnum 100

    imac-torch convert mymodel:trained --weights mymodel.safetensors -o net.safetensors

    imac-torch simulate net.safetensors --data MNIST --data-root ~/data --output run

    imac-torch verify net.safetensors --data MNIST --data-root ~/data --samples 3
"""

_EPILOG = (
    "Exit codes: 0 done; 1 crash (please report); 2 wrong command line; 3 wrong configuration, "
    "model or data; 4 circuit not solved (for some samples at least); 5 simulator missing or "
    "failed; 6 verify found a difference; 7 standard output could not be written; 130 interrupted."
)

app = typer.Typer(
    name="imac-torch",
    cls=_Group,
    help=_HELP,
    epilog=_EPILOG,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        from imac_torch.reports.report import environment

        typer.echo(f"imac-torch {environment()['imac_torch']}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line of this process and exit."""
    from imac_torch.cli import commands

    printed, _ = secure_output()
    with contextlib.suppress(ValueError, OSError):  # what `kill` sends ends us as Ctrl-C does
        signal.signal(signal.SIGTERM, _interrupt)
    commands.register(app)
    try:
        app()
    finally:
        if printed is not None:
            printed.flush()
            if printed.failure is not None and not isinstance(printed.failure, BrokenPipeError):
                sys.stderr.write(f"error: standard output: {printed.failure.strerror}\n")
                sys.exit(int(ExitCode.OUTPUT))


def _interrupt(number: int, frame: object) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)  # the second one ends us at once
    raise KeyboardInterrupt
