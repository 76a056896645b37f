"""The command ``caa-interp``.

Each command is a function that imports what it needs when it is called: help must not wait for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from caa_interp.cli import analysis, cache, checks, data, exchange, study, vectors
from caa_interp.errors import CAAError

EPILOG = (
    "Results go to standard output, everything else to standard error. With --json results are JSON.\n\n"
    "A file that you name is never replaced, unless you add --force. A folder that you name may be there already: "
    "what an earlier call of the same command left in it is used again, or written anew.\n\n"
    "Exit codes: 0 done; 1 an input, a model or the disk failed; 2 wrong usage; 3 looked, and found wanting (data "
    "check, doctor, reproduce --strict); 130 interrupted."
)

app = typer.Typer(no_args_is_help=True, epilog=EPILOG)
_STUDIES, _VECTORS, _AROUND = "Whole studies", "One vector after another", "Data, models and this machine"

_PANELS: dict[Callable[..., None], str] = {
    study.demo: _STUDIES,
    study.run: _STUDIES,
    vectors.extract: _VECTORS,
    vectors.sweep: _VECTORS,
    vectors.generate: _VECTORS,
    analysis.analyze: _VECTORS,
    study.report: _STUDIES,
}
for command, panel in _PANELS.items():
    app.command(rich_help_panel=panel)(command)
app.add_typer(data.app, name="data", rich_help_panel=_AROUND)
app.add_typer(cache.app, name="cache", rich_help_panel=_AROUND)
app.command("export", rich_help_panel=_VECTORS)(exchange.export)
app.command("import", rich_help_panel=_VECTORS)(exchange.import_)
app.command(rich_help_panel=_AROUND)(checks.doctor)
app.command(rich_help_panel=_AROUND)(checks.models)
app.command(rich_help_panel=_STUDIES)(study.reproduce)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"caa-interp {version('caa-interp')}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Interpretability for Contrastive Activation Addition."""


def main() -> None:
    """Run the command.

    An error of this package or of the disk is told on standard error, without a traceback, with exit code 1; Ctrl-C
    ends it with 130.
    """
    try:
        app()
    except (CAAError, OSError) as error:
        typer.echo(f"caa-interp: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
