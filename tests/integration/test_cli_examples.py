"""The examples that the commands' help prints, as they are printed, one after another on the embedded model."""

import re
import shlex

import pytest
import typer.main
from typer.testing import CliRunner

import caa_interp as caa
from caa_interp import cli


@pytest.mark.slow
def test_the_examples_run_as_they_are_printed(tmp_path, monkeypatch, embedded):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("caa_interp.models.load_model", lambda *_, **__: embedded)
    outputs = {}
    for name in ("extract", "sweep", "generate", "analyze", "effect-lens", "export", "import"):
        command = typer.main.get_command(cli.app).commands[name]
        example = re.search(r"^Example: caa-interp (.*)$", command.help, re.MULTILINE)[1]
        result = CliRunner().invoke(cli.app, shlex.split(example), env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert result.exit_code == 0, (name, result.output, result.exception)
        outputs[name] = result.stdout
    assert len(outputs["sweep"].splitlines()) == 1 + 3 * 3
    vector, back = caa.SteeringVector.load("optimism.safetensors"), caa.SteeringVector.load("back.safetensors")
    assert back.values.equal(vector.values[1:])
    # What is measured is no chance: more of the vector makes the answers more optimistic.
    rows = [row.split() for row in outputs["sweep"].splitlines()[1:] if row.startswith("optimism ")]
    means = {row[2]: float(row[4]) for row in rows}
    assert means["-1.0"] < means["0.0"] < means["1.0"]
