"""The command ``caa-interp`` as a whole: help, examples, exit codes, completion, and how quickly help comes."""

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from caa_interp import cli
from caa_interp.errors import InputError
from tests.command_line import run, run_main
from tests.fresh_python import fresh_python

ENTRY_POINT = Path(sys.executable).with_name("caa-interp")
ROOT = typer.main.get_command(cli.app)
COMMANDS = {
    (name, *([] if sub is None else [sub])): command
    for name, outer in ROOT.commands.items()
    for sub, command in getattr(outer, "commands", {None: outer}).items()
}
NAMES = {
    *("demo", "run", "extract", "sweep", "generate", "analyze", "effect-lens", "monitor", "report"),
    *("data", "cache", "export", "import", "lm-eval", "doctor", "models", "reproduce"),
}
HEAVY = ("torch", "pandas", "numpy", "transformers", "transformer_lens", "ray", "huggingface_hub")


def example(command):
    return re.search(r"^Example: caa-interp (.*)$", command.help, re.MULTILINE)[1]


# Help


def test_the_commands_are_these():
    assert set(ROOT.commands) == NAMES
    assert sorted(ROOT.commands["data"].commands) == ["check", "convert", "fetch"]
    assert sorted(ROOT.commands["cache"].commands) == ["clear", "ls"]


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_help_has_a_purpose_of_one_line_and_an_example(names):
    command = COMMANDS[names]
    purpose = command.help.split("\n\n")[0]
    assert "\n" not in purpose
    assert purpose.endswith(".")
    assert len(purpose) < 118
    result = run(*names, "--help")
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert purpose in shown
    assert f"Example: caa-interp {example(command)}" in shown
    for parameter in command.params:
        assert getattr(parameter, "help", "") or parameter.name == "help", parameter.name


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_example_is_a_command_that_parses(names):
    words = shlex.split(example(COMMANDS[names]))
    assert tuple(words[: len(names)]) == names
    context = ROOT.make_context("caa-interp", list(words))
    command, rest = ROOT, words
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)
    assert command is COMMANDS[names]


def test_common_options_are_spelled_and_explained_the_same_everywhere():
    said = {}
    for command in COMMANDS.values():
        for parameter in command.params:
            if parameter.name in ("layers", "multipliers", "seed", "device", "dtype", "force", "as_json"):
                said.setdefault(parameter.name, set()).add((tuple(parameter.opts), parameter.help))
    assert set(said) == {"layers", "multipliers", "seed", "device", "dtype", "force", "as_json"}
    assert all(len(ways) == 1 for ways in said.values()), said


def test_the_help_tells_exit_codes_and_the_rule_of_files():
    shown = " ".join(run("--help").stdout.split())
    assert "Exit codes: 0 done; 1 an input, a model or the disk failed; 2 wrong usage; 3 a check" in shown
    assert "failed (data check, doctor, reproduce --strict); 130 interrupted." in shown
    assert "A file that you name is never replaced, unless you add --force." in shown


def test_help_imports_nothing_heavy_and_is_quick():
    code = f"""
import sys, time
began = time.process_time()
from typer.testing import CliRunner
from caa_interp import cli
for command in {[[], *map(list, COMMANDS)]!r}:
    assert CliRunner().invoke(cli.app, [*command, "--help"]).exit_code == 0, command
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print(repr(heavy), time.process_time() - began)
"""
    heavy, seconds = fresh_python(code).rsplit(maxsplit=1)
    assert heavy == "[]"
    assert float(seconds) < 3  # of CPU, for the help of all commands together


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"caa-interp {version('caa-interp')}\n")


def test_the_installed_command_works():
    if not ENTRY_POINT.is_file():
        pytest.skip(f"the package is not installed: there is no {ENTRY_POINT}")
    options = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    done = subprocess.run([ENTRY_POINT, "--help"], **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo" in done.stdout
    done = subprocess.run([ENTRY_POINT, "data", "check", "no-such"], **options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("caa-interp: behavior: 'no-such' is not one of coordinate-other-ais, ")
    assert done.stderr.count("\n") == 1


# Exit codes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data", "check", "no-such"), "behavior: 'no-such' is not one of "),
        (("data", "check", "none.json"), "behavior file none.json: there is no file none.json. Check the path."),
        (("data", "convert", "none.jsonl", "t.json"), "none.jsonl: there is no file none.jsonl. Check the path."),
        (("data", "fetch", "anthropic", "no-such"), "'no-such'"),
        (("demo", "--model", "./none"), "model './none': there is no such folder."),
        (("sweep", "none.safetensors", "optimism"), "vector file none.safetensors: there is no such file."),
        (("generate", "none.safetensors", "Hi", "--layer", "1"), "vector file none.safetensors: there is no such"),
        (("analyze", "none.safetensors"), "vector file none.safetensors: there is no such file."),
        (("export", "none.safetensors", "t.gguf"), "vector file none.safetensors: there is no such file."),
        (("import", "none.gguf", "t.safetensors"), "path: 'none.gguf' does not exist."),
        (("extract", "no-such", "--out", "v.safetensors"), "behavior: 'no-such' is not one of "),
        (("extract", "optimism", "--out", "v.safetensors", "--estimator", "mean"), "estimator: 'mean'; give one of "),
        (("sweep", "v.safetensors", "optimism", "--operator", "plus"), "operator: 'plus'; give one of add, "),
        (("generate", "v.safetensors", "Hi", "--layer", "1", "--positions", "x"), "positions: 'x'; give one of "),
        (("export", "none.safetensors", "t", "--format", "x"), "vector file none.safetensors: there is no such file."),
    ],
)
def test_an_error_of_the_package_is_one_line_and_code_1(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, stderr = run_main(monkeypatch, capsys, *arguments)
    assert code == 1
    *progress, error = stderr.splitlines()
    assert error.startswith("caa-interp: ")
    assert message in error
    assert all(line.startswith("Loading ./none") for line in progress)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such",), "No such command 'no-such'"),
        (("swep",), "Did you mean 'sweep'?"),
        (("extract", "optimism"), "Missing option '--out'"),
        (("extract", "optimism", "--out", "v.pt"), "'v.pt' must end in .safetensors."),
        (("sweep", "v.safetensors", "optimism", "--layers", "10,x"), "Invalid value for '--layers': '10,x': 'x' is"),
        (
            ("sweep", "v.safetensors", "optimism", "--multipliers", "1,,2"),
            "Invalid value for '--multipliers': '1,,2'",
        ),
        (("sweep", "v.safetensors", "optimism", "--format", "letters"), "'letters' is not one of 'choices', 'text'"),
        (
            ("extract", "optimism", "--out", "v.safetensors", "--style", "x"),
            "'x' is not one of 'llama-2-chat', 'base',",
        ),
        (("sweep", "v.safetensors", "optimism", "--out", "t.xlsx"), "'t.xlsx' must end in .parquet or .csv."),
        (("generate", "v.safetensors", "--layer", "1"), "there is no prompt."),
        (("generate", "Hi", "--layer", "1"), "there is no vector. Give a .safetensors file."),
        (("generate", "v.safetensors", "w.safetensors", "Hi", "--layer", "1,2,3"), "--layer: 3 values for 2 vectors."),
        (("generate", "v.safetensors", "Hi", "--layer", "1", "--multiplier", "1,2"), "--multiplier: 2 values for 1"),
        (("run", "s.toml", "--gpus-per-worker", "1"), "--gpus-per-worker: only for workers of a Ray cluster."),
        (("cache", "clear", "everything"), "'everything' is not one of 'shards', 'models', 'judge', 'published'"),
    ],
)
def test_wrong_usage_says_what_is_wrong_with_code_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""


def test_errors_that_are_not_ours_are_not_hidden(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("caa_interp.behaviors.quality.measure_quality", broken)
    monkeypatch.setattr(sys, "argv", ["caa-interp", "data", "check", "optimism"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_an_error_of_many_lines_is_told_whole(monkeypatch, capsys):
    def broken(*_):
        raise InputError("config: 2 faults:\n  a\n  b")

    monkeypatch.setattr("caa_interp.behaviors.quality.measure_quality", broken)
    code, _, stderr = run_main(monkeypatch, capsys, "data", "check", "optimism")
    assert (code, stderr) == (1, "caa-interp: config: 2 faults:\n  a\n  b\n")


@pytest.mark.parametrize("where", ["in the command", "outside of it"])
def test_an_interruption_is_code_130_without_a_traceback(monkeypatch, capsys, where):
    def interrupted(*_):
        raise KeyboardInterrupt

    if where == "in the command":
        monkeypatch.setattr("caa_interp.behaviors.quality.measure_quality", interrupted)
    else:
        monkeypatch.setattr(cli, "app", interrupted)
    code, stdout, stderr = run_main(monkeypatch, capsys, "data", "check", "optimism")
    assert (code, stdout, stderr) == (130, "", "")


# Completion


@pytest.mark.parametrize(
    ("typed", "offered", "not_offered"),
    [
        ("caa-interp s", ["sweep"], ["demo"]),
        ("caa-interp extract sy", ["sycophancy"], ["refusal"]),
        ("caa-interp data check re", ["refusal"], ["sycophancy"]),
        ("caa-interp demo --behavior opt", ["optimism"], ["refusal"]),
        ("caa-interp extract optimism --format ", ["choices", "text"], []),
        ("caa-interp export v.safetensors t --format l", ["lm-eval"], ["gguf"]),
        ("caa-interp extract optimism --model meta", ["meta-llama/Llama-2-7b-chat-hf"], ["smollm2-135m-instruct"]),
        ("caa-interp extract optimism --estimator log", ["logistic_probe"], ["mean_difference"]),
        ("caa-interp sweep v.safetensors b --operator a", ["add", "ablate"], ["Cap("]),
        ("caa-interp generate v.safetensors --positions a", ["all", "answer"], ["prompt"]),
        ("caa-interp generate v.safetensors --style b", ["base"], ["llama-2-chat"]),
        ("caa-interp data fetch an", ["anthropic"], ["caa"]),
        ("caa-interp cache clear j", ["judge"], ["shards"]),
    ],
)
def test_the_shell_completes(typed, offered, not_offered):
    result = CliRunner().invoke(
        cli.app,
        [],
        prog_name="caa-interp",
        env={"_CAA_INTERP_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))},
    )
    found = result.stdout.split()
    assert set(offered) <= set(found)
    assert not set(not_offered) & set(found)


def test_completion_imports_nothing_heavy():
    code = f"""
import sys
from caa_interp.cli import options
print(options.complete_behavior("sy"), options.complete_model("smol"))
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert fresh_python(code).splitlines() == ["['sycophancy'] ['smollm2-135m-instruct']", "[]"]


def test_the_default_model_is_the_embedded_one():
    from caa_interp.cli.options import EMBEDDED
    from caa_interp.models import EMBEDDED as LOADED_BY_DEFAULT

    assert EMBEDDED == LOADED_BY_DEFAULT


def test_json_goes_alone_to_standard_output(monkeypatch):
    result = run("data", "check", "optimism", "--json")
    assert json.loads(result.stdout)[0]["name"] == "optimism"
