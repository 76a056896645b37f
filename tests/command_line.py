"""The command line, run in this process."""

import sys

import pytest
from typer.testing import CliRunner

from caa_interp import cli


def run(*arguments, **options):
    """Result of a command; an exception of ours is kept in it."""
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner().invoke(cli.app, [str(one) for one in arguments], env=environment, **options)


def run_main(monkeypatch, capsys, *arguments):
    """Run ``main()`` and return its exit code, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["caa-interp", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err
