"""``caa-interp`` demo, run, report and reproduce: what they hand on, what they print, and a whole small study."""

import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest

import caa_interp as caa
from caa_interp import cli
from caa_interp.paper.parts import PARTS
from tests.command_line import run
from tests.small_study import LITTLE, TOPICS, behavior_file, pairs, study_file


@pytest.fixture
def study(tmp_path, monkeypatch, tiny_folder):
    """Working folder with the file of a study as small as can be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    behavior_file(tmp_path / "liking.json", pairs(TOPICS[:5]), pairs(TOPICS[5:]))
    return study_file(
        tmp_path / "small.toml",
        [{"name": str(tiny_folder), "device": "cpu"}],
        ["liking.json"],
        n_validation=2,
        multipliers=[-1, 0, 1],
        controls={"random": 1, "shuffled": 1},
        **LITTLE,
    )


@pytest.fixture
def calls(monkeypatch):
    """What is handed to the runner and to workers; neither does anything."""
    made = SimpleNamespace(runs=[], workers=[], closed=0)

    class Workers:
        def __init__(self, *arguments, **options):
            made.workers.append((type(self).__name__, *arguments, options))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            made.closed += 1

    monkeypatch.setattr("caa_interp.study.processes.Processes", type("Processes", (Workers,), {}))
    monkeypatch.setattr("caa_interp.study.ray_workers.RayWorkers", type("RayWorkers", (Workers,), {}))
    monkeypatch.setattr("caa_interp.study.run.run_experiment", lambda *a, **o: made.runs.append((*a, o)))
    made.kind = Workers
    return made


# run


def test_run_is_given_the_study_and_a_folder_of_its_name(study, calls):
    assert run("run", study).exit_code == 0
    ((config, folder, options),) = calls.runs
    assert config == caa.study.ExperimentConfig.load(study)
    assert str(folder) == "runs/small"
    assert options["executor"] is None
    assert options["progress"] is True
    assert run("run", study, "--folder", "elsewhere").exit_code == 0
    assert str(calls.runs[1][1]) == "elsewhere"
    assert calls.workers == []


@pytest.mark.parametrize(
    ("arguments", "handed_on"),
    [
        (("--workers", "2"), ("Processes", 2, {})),
        (("--ray", "auto"), ("RayWorkers", None, {"address": "auto"})),
        (
            ("--workers", "3", "--ray", "host:6379", "--cpus-per-worker", "4", "--gpus-per-worker", "0.5"),
            ("RayWorkers", 3, {"address": "host:6379", "cpus_per_worker": 4, "gpus_per_worker": 0.5}),
        ),
    ],
)
def test_run_spreads_the_work_and_closes_the_workers(study, calls, arguments, handed_on):
    assert run("run", study, *arguments).exit_code == 0
    assert calls.workers == [handed_on]
    assert isinstance(calls.runs[0][2]["executor"], calls.kind)
    assert calls.closed == 1


def test_the_workers_are_closed_when_the_run_is_interrupted(study, calls, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("caa_interp.study.run.run_experiment", interrupted)
    result = run("run", study, "--workers", "2")
    assert (result.exit_code, calls.closed) == (130, 1)


def test_a_config_with_faults_is_told_line_by_line_before_anything_is_done(study, calls, monkeypatch, capsys):
    study.write_text('behaviour = ["optimism"]\nformat = "texts"\n')
    monkeypatch.setattr(sys, "argv", ["caa-interp", "run", str(study), "--workers", "2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("caa-interp: config file ")
    assert "did you mean 'behaviors'?" in told
    assert "did you mean 'text'?" in told
    assert (calls.workers, calls.runs) == ([], [])


def test_check_says_how_much_would_be_done_and_does_nothing(study, calls, tmp_path, tiny_folder):
    result = run("run", study, "--check")
    assert result.exit_code == 0
    assert calls.runs == []
    assert not (tmp_path / "runs").exists()
    assert result.stdout.splitlines() == [
        "small: the file is valid.",
        "",
        "liking  3 train, 2 validation, 3 test pairs",
        "",
        str(tiny_folder),
        "  every test pair at 3 multipliers and 4 layers",
        "  2 controls for each behavior at the chosen layer",
        "  7 pieces of work",
    ]


def test_check_of_a_model_that_is_not_here_leaves_its_layers_open(study, calls):
    text = study.read_text()
    study.write_text(text.replace("models = [", 'models = [ "no/such",'))
    told = run("run", study, "--check").stdout
    assert "no/such\n  every test pair at 3 multipliers and all layers (their number is known once the" in told
    study.write_text("layers = [1, 3]\n" + study.read_text())
    assert "no/such\n  every test pair at 3 multipliers and 2 layers\n" in run("run", study, "--check").stdout


def test_check_refuses_a_layer_that_the_model_does_not_have(study, calls):
    study.write_text("layers = [1, 9]\n" + study.read_text())
    result = run("run", study, "--check")
    assert result.exit_code == 1
    assert "layer 9: the model has layers 0 to 3" in str(result.exception)


def test_a_small_study_runs_and_its_page_is_written_anew(study, tmp_path):
    result = run("run", study)
    assert result.exit_code == 0, (result.output, result.exception)
    page = tmp_path / "runs" / "small" / "report.html"
    assert result.stdout.splitlines()[-1] == f"The page: {page}"
    assert [path.name for path in page.parent.glob("vectors/*/*")] == ["liking.safetensors"]
    assert len(pd.read_parquet(page.parent / "tables" / "sweep.parquet")) == 3 * 4 * 3
    page.unlink()
    result = run("report", "runs/small")
    assert (result.exit_code, result.stdout) == (0, f"The page: {page}\n")
    assert page.is_file()
    kept = {one["part"]: one["number"] for one in json.loads(run("cache", "ls", "--json").stdout)}
    assert kept["shards"] > 0
    assert run("cache", "clear").exit_code == 0
    assert json.loads(run("cache", "ls", "--json").stdout)[0]["number"] == 0


def test_report_of_a_folder_without_a_run(tmp_path):
    result = run("report", tmp_path)
    assert result.exit_code == 1
    assert "Give the folder of a run." in str(result.exception)


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_code_130_and_says_how_to_go_on(study, tmp_path):
    """A real process, which gets the signal while it works."""
    code = """
import os, signal
from caa_interp.study import worker
from caa_interp import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it
worker.work = lambda *_: os.kill(os.getpid(), signal.SIGINT)
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "run", study],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 128 + signal.SIGINT
    assert "run it again to go on" in done.stdout
    assert "Traceback" not in done.stderr


# demo and reproduce


def test_demo_hands_on_its_options(monkeypatch):
    asked = []
    monkeypatch.setattr("caa_interp.study.demo.run_demo", lambda *a, **o: asked.append((*map(str, a), o)))
    assert run("demo", "--folder", "d", "--model", "m", "--behavior", "refusal").exit_code == 0
    ((folder, options),) = asked
    assert (folder, options["model"], options["behavior"]) == ("d", "m", "refusal")


@pytest.mark.parametrize(
    ("within", "strict", "code"),
    [
        ((True, False, True), True, 3),
        ((True, True, False), True, 3),
        ((True, False, False), False, 0),
        ((True, None, None), True, 0),
    ],
    ids=["table", "exam", "not strict", "not judged"],
)
def test_reproduce_hands_on_its_options_and_is_strict_when_asked(monkeypatch, within, strict, code):
    asked = []

    def reproduce(*arguments, **options):
        asked.append((*map(str, arguments), options))
        cells = {"group": ["ab", "ab", "mmlu"], "multiplier": [0.0, 1.0, 0.0], "within": within}
        told = {"system_prompt": "", "weights": "", "basis": "same items and model", "difference": 0.0}
        return pd.DataFrame(cells).assign(**told).astype({"within": "boolean"})

    monkeypatch.setattr("caa_interp.paper.reproduction.reproduce", reproduce)
    options = ["--data", "CAA", "--behaviors", "refusal, sycophancy", "--layers", "10-12", *["--strict"] * strict]
    options += ["--parts", "sweep,exams", "--base", "b", "--system-prompts", "p.json"]
    assert run("reproduce", "out", *options).exit_code == code
    ((folder, data, handed),) = asked
    assert (folder, data, handed["behaviors"], handed["layers"]) == (
        "out",
        "CAA",
        ("refusal", "sycophancy"),
        (10, 11, 12),
    )
    assert (handed["parts"], handed["base_name"], str(handed["system_prompts"])) == (("sweep", "exams"), "b", "p.json")
    assert (handed["judge"], handed["judge_prices"], handed["executor"]) == (None, None, None)


def test_reproduce_in_several_processes(monkeypatch, calls):
    asked = []
    nothing = pd.DataFrame(columns=["group", "within"])
    monkeypatch.setattr("caa_interp.paper.reproduction.reproduce", lambda *a, **o: asked.append(o) or nothing)
    monkeypatch.setattr("caa_interp.paper.table.all_claims", lambda comparison: [])
    assert run("reproduce", "out", "--data", "CAA", "--workers", "3").exit_code == 0
    assert calls.workers == [("Processes", 3, {})]
    assert isinstance(asked[0]["executor"], calls.kind)
    assert calls.closed == 1


@pytest.mark.parametrize(("given", "code"), [("2.5,10", 0), ("2.5", 2), ("a,b", 2)])
def test_prices_of_a_judge_are_two(monkeypatch, given, code):
    asked = []
    monkeypatch.setattr(
        "caa_interp.paper.estimate.estimate_reproduction", lambda *a, **o: asked.append(o) or pd.DataFrame()
    )
    assert run("reproduce", "out", "--data", "CAA", "--check", "--judge-prices", given).exit_code == code
    assert [one["judge_prices"] for one in asked] == [(2.5, 10.0)] * (code == 0)


def test_reproduce_check_prints_the_estimate_and_measures_nothing(monkeypatch):
    monkeypatch.delattr("caa_interp.paper.reproduction.reproduce")
    table = pd.DataFrame({"part": ["sweep"], "minutes": [12.5]})
    asked = []
    monkeypatch.setattr(
        "caa_interp.paper.estimate.estimate_reproduction", lambda *a, **o: asked.append((*map(str, a), o)) or table
    )
    result = run("reproduce", "out", "--data", "CAA", "--parts", "sweep", "--check")
    assert result.exit_code == 0
    assert result.stdout.split() == ["part", "minutes", "sweep", "12.5"]
    ((data, handed),) = asked
    assert (data, handed["parts"]) == ("CAA", ("sweep",))


def test_reproduce_names_its_parts():
    shown = " ".join(run("reproduce", "--help").stdout.replace("│", " ").split())
    assert f"Of {', '.join(PARTS)}; default" in shown


def test_check_of_such_a_model_takes_the_layers_of_combinations(study, calls):
    combined = """
[[combinations]]
name = "twice"
interventions = [{vector = "liking", layers = [13, 14]}]
"""
    text = re.sub(r"models = \[.*?\n\]", 'models = ["no/such"]', study.read_text(), flags=re.DOTALL)
    study.write_text(text + combined)
    result = run("run", study, "--check")
    assert result.exit_code == 0, result.exception
    assert "all layers (their number is known once the" in result.stdout
