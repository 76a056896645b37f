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
    "A file that you name is never replaced, unless you add --force. A folder that you name may exist: what an "
    "earlier run of the same command left in it is reused or rewritten.\n\n"
    "Exit codes: 0 done; 1 an input, a model or the disk failed; 2 wrong usage; 3 a check failed (data check, doctor, "
    "reproduce --strict); 130 interrupted."
)

app = typer.Typer(no_args_is_help=True, epilog=EPILOG)
_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Whole studies": {"demo": study.demo, "run": study.run, "report": study.report, "reproduce": study.reproduce},
    "One vector at a time": {
        "extract": vectors.extract,
        "sweep": vectors.sweep,
        "generate": vectors.generate,
        "analyze": analysis.analyze,
        "effect-lens": analysis.effect_lens,
        "monitor": analysis.monitor,
        "export": exchange.export,
        "import": exchange.import_,
        "lm-eval": exchange.lm_eval,
    },
    "Data, models and this machine": {"doctor": checks.doctor, "models": checks.models},
}
for panel, commands in _PANELS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
for name, group in {"data": data.app, "cache": cache.app}.items():
    app.add_typer(group, name=name, rich_help_panel=panel)


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
    """Run the command; an error of this package or of the disk is printed without a traceback."""
    try:
        app()
    except (CAAError, OSError) as error:
        typer.echo(f"caa-interp: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
