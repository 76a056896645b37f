"""``caa-interp`` extract, sweep, generate, analyze, export and import, on the small random model."""

import json
import re
import shlex

import pandas as pd
import pytest
import typer.main

import caa_interp as caa
from caa_interp import cli
from caa_interp.cli import analysis
from tests.command_line import run

WORDS = ("rain", "sea", "garden", "day", "weather", "text", "answer", "choice")


def done(*arguments, **options):
    result = run(*arguments, **options)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working folder with the file of a behavior."""
    monkeypatch.chdir(tmp_path)

    def pairs(words):
        return [
            {"question": f"Is the {word} good?", "positive": f"Yes, the {word} is bright.", "negative": f"No {word}."}
            for word in words
        ]

    content = {
        "format": "caa_interp/behavior/1",
        "name": "liking",
        "train": pairs(WORDS[:5]),
        "test": pairs(WORDS[5:]),
    }
    (tmp_path / "liking.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def loaded(monkeypatch, tiny_llama):
    """Loading gives the small model, whatever is asked for; what was asked for is kept."""
    asked = []

    def load_model(name, **options):
        asked.append((name, options))
        return tiny_llama

    monkeypatch.setattr("caa_interp.models.load_model", load_model)
    return asked


@pytest.fixture
def vector(folder, tiny_llama):
    pairs = caa.load_behavior(folder / "liking.json").train
    found = caa.extract_vector(tiny_llama, pairs, format="text", behavior="liking")
    found.save(folder / "liking.safetensors")
    return found


# extract


def test_extract_writes_the_vector_of_the_library(folder, tiny_folder):
    result = done("extract", "liking.json", "--model", tiny_folder, "--format", "text", "--out", "v.safetensors")
    made = caa.SteeringVector.load("v.safetensors")
    expected = caa.extract_vector(
        caa.load_model(tiny_folder), caa.load_behavior("liking.json").train, format="text", behavior="liking"
    )
    assert made.values.equal(expected.values)
    assert made.metadata == expected.metadata
    assert result.stdout == f"{made!r}, 5 pairs in text form, in v.safetensors\n"
    assert f"Loading {tiny_folder}" in result.stderr


def test_extract_takes_its_options_and_prints_json(folder, loaded):
    options = ["--layers", "0,2-3", "--estimator", "logistic_probe", "--dtype", "float32", "--device", "cpu"]
    told = json.loads(done("extract", "liking.json", "--out", "v.safetensors", "--json", *options).stdout)
    made = caa.SteeringVector.load("v.safetensors")
    assert loaded == [("smollm2-135m-instruct", {"device": "cpu", "dtype": "float32"})]
    assert made.layers == (0, 2, 3)
    assert {key: told[key] for key in ("behavior", "format", "estimator", "n_pairs", "path", "layers")} == {
        "behavior": "liking",
        "format": "choices",
        "estimator": "logistic_probe",
        "n_pairs": 5,
        "path": "v.safetensors",
        "layers": [0, 2, 3],
    }
    assert told["norms"] == pytest.approx(made.norms.tolist())


def test_extract_refuses_a_file_that_is_there_before_it_loads_a_model(vector, loaded):
    result = run("extract", "liking.json", "--out", "liking.safetensors")
    assert result.exit_code == 1
    assert "liking.safetensors already exists" in str(result.exception)
    assert loaded == []
    done("extract", "liking.json", "--out", "liking.safetensors", "--layers", "1", "--force")
    assert caa.SteeringVector.load("liking.safetensors").layers == (1,)


# sweep


def test_sweep_prints_the_summary_of_the_library(vector, loaded, tiny_llama):
    options = ["--layers", "1-2", "--multipliers", "-2,0,1", "--seed", "3"]
    result = done("sweep", "liking.safetensors", "liking.json", "--json", *options)
    told = json.loads(result.stdout)
    pairs = caa.load_behavior("liking.json").test
    table = caa.sweep(tiny_llama, vector, pairs, layers=[1, 2], multipliers=(-2, 0, 1))
    expected = caa.summarize(table, seed=3)
    rows = pd.DataFrame(told.pop("rows")).astype({"position_bias": float})  # null: text has no letters
    pd.testing.assert_frame_equal(rows, expected, check_dtype=False, rtol=1e-12)
    assert told == {
        "format": "text",  # the one of the vector
        "model": "tiny-llama",
        "operator": "add",
        "positions": "from_last_prompt_token",
        "path": table["path"].iloc[0],
        "prompt_digest": table["prompt_digest"].iloc[0],
        "behavior": "liking",
    }
    assert loaded == [("tiny-llama", {"device": None, "dtype": None})]  # the one that the vector names


def test_sweep_prints_a_row_a_condition_with_intervals_and_writes_every_item(vector, loaded):
    options = ["--layers", "1", "--controls", "2", "--out", "t.parquet"]
    result = done("sweep", "liking.safetensors", "liking.json", *options)
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["vector", "layer", "multiplier", "n", "difference", "change", "p(positive)"]
    assert len(rows) == 9  # vector and two controls, at three multipliers
    assert all(len(re.findall(r"[+-]\d+\.\d+ \([+-]\d+\.\d+ to [+-]\d+\.\d+\)", row)) == 3 for row in rows)
    assert "3 test pairs of liking in text form." in result.stderr
    assert "in nats per token" in result.stderr
    table = pd.read_parquet("t.parquet")
    assert list(table["vector"].unique()) == ["liking", "random 0", "random 1"]
    assert len(table) == 3 * 9
    assert set(table["format"]) == {"text"}
    assert set(table["kind"]) == {"vector", "random"}


def test_sweep_writes_csv_and_takes_a_format(vector, loaded):
    done("sweep", "liking.safetensors", "liking.json", "--format", "choices", "--layers", "1", "--out", "t.csv")
    table = pd.read_csv("t.csv")
    assert set(table["order"]) == {"AB", "BA"}
    assert run("sweep", "liking.safetensors", "liking.json", "--out", "t.csv").exit_code == 1


def test_a_control_is_not_measured_under_the_name_of_the_vector(vector, loaded):
    caa.random_vectors(vector, 1)["random 0"].save("control.safetensors")
    result = run("sweep", "control.safetensors", "liking.json", "--layers", "1", "--controls", "1")
    assert "the vector is named 'random 0', as one of its controls. Give --controls 0." in str(result.exception)
    done("sweep", "control.safetensors", "liking.json", "--layers", "1", "--out", "t.csv")
    assert set(pd.read_csv("t.csv")["vector"]) == {"random 0"}


def test_controls_are_those_of_the_seed(vector, loaded):
    arguments = ["sweep", "liking.safetensors", "liking.json", "--layers", "1", "--controls", "1", "--json"]
    first, again, other = (json.loads(done(*arguments, "--seed", seed).stdout)["rows"] for seed in (1, 1, 2))

    def control(rows):
        return [row["logit_difference"] for row in rows if row["vector"] == "random 0" and row["multiplier"] == 1]

    assert control(first) == control(again) != control(other)


# Whose model


def test_a_vector_that_names_no_model_needs_the_option(vector, loaded):
    caa.SteeringVector(vector.values, vector.layers).save("bare.safetensors")
    result = run("sweep", "bare.safetensors", "liking.json")
    assert str(result.exception) == (
        "vector file bare.safetensors: it does not say which model it was made from. Give --model."
    )
    done("sweep", "bare.safetensors", "liking.json", "--model", "there", "--layers", "1")
    assert loaded == [("there", {"device": None, "dtype": None})]


def test_a_model_that_is_not_where_the_vector_says_is_asked_for(vector):
    result = run("generate", "liking.safetensors", "Hello", "--layer", "1")
    assert isinstance(result.exception, caa.errors.ModelError)
    assert str(result.exception).startswith("model 'tiny-llama': ")
    assert str(result.exception).endswith("liking.safetensors names it; if it is somewhere else, give --model.")


# generate


def test_generate_prints_the_answers_of_the_library(vector, loaded, tiny_llama):
    options = ["--layer", "1", "--multipliers=-3,0,3", "--max-new-tokens", "5"]
    told = json.loads(done("generate", "liking.safetensors", "The sea?", "The rain?", "--json", *options).stdout)
    expected = caa.generate(
        tiny_llama, ["The sea?", "The rain?"], vector=vector, layer=1, multipliers=(-3, 0, 3), max_new_tokens=5
    )
    pd.testing.assert_frame_equal(pd.DataFrame(told), expected, check_dtype=False)


def test_generate_shows_the_answers_side_by_side(vector, monkeypatch, loaded):
    rows = [
        {"item": 0, "prompt": "[bold]Hi", "sample": 0, "multiplier": multiplier, "answer": f"[red]answer{number}"}
        for number, multiplier in enumerate((-1.0, 0.0, 1.5))
    ]
    monkeypatch.setattr("caa_interp.steering.generation.generate", lambda *_, **__: pd.DataFrame(rows))
    shown = done(
        "generate", "liking.safetensors", "Hi", "--layer", "1", "--multipliers", "-1,0,1.5"
    ).stdout.splitlines()
    assert shown[0].strip() == "[bold]Hi"  # what looks like markup is text
    (titles,) = [line for line in shown if "unsteered" in line]
    assert re.findall(r"multiplier -1|unsteered|multiplier \+1.5", titles) == [
        "multiplier -1",
        "unsteered",
        "multiplier +1.5",
    ]
    (answers,) = [line for line in shown if "answer0" in line]
    assert re.findall(r"\[red\]answer\d", answers) == ["[red]answer0", "[red]answer1", "[red]answer2"]


@pytest.mark.parametrize(
    ("given", "titles"),
    [
        ("4", ["multiplier -4", "unsteered", "multiplier +2"]),
        ("4,-1", ["multipliers times -1", "unsteered", "multipliers times 0.5"]),
    ],
)
def test_columns_of_generate_are_titled_by_what_was_added(vector, loaded, given, titles):
    asked = ["--layer", "1,2", "--multiplier", given, "--multipliers=-1,0,0.5", "--max-new-tokens", "1"]
    shown = done("generate", "liking.safetensors", "The sea?", *asked).stdout
    found = [
        re.findall(r"multiplier [-+][\d.]+|multipliers times [-\d.]+|unsteered", line) for line in shown.splitlines()
    ]
    assert [found for found in found if found] == [titles]


@pytest.mark.filterwarnings("ignore:vector .* was made from prompts")
def test_several_vectors_are_applied_together(vector, loaded, tiny_llama):
    other = caa.SteeringVector(vector.values.flip(1), vector.layers, {"behavior": "other", "model": "tiny-llama"})
    other.save("other.safetensors")
    options = ["--layer", "1,2", "--multiplier", "1,-0.5", "--multipliers", "0,4", "--max-new-tokens", "4", "--json"]
    options += ["--operator", "add_keeping_norm", "--positions", "all", "--style", "llama-2-chat"]
    options += ["--n", "2", "--temperature", "0.9", "--top-p", "0.8", "--seed", "5"]
    told = json.loads(done("generate", "liking.safetensors", "other.safetensors", "The sea?", *options).stdout)
    applied = {"operator": caa.steering.add_keeping_norm, "positions": "all"}
    both = [caa.Intervention(vector, 1, **applied), caa.Intervention(other, 2, -0.5, **applied)]
    expected = caa.generate(
        tiny_llama,
        ["The sea?"],
        steering=[[0 * one for one in both], [4 * one for one in both]],
        n=2,
        temperature=0.9,
        top_p=0.8,
        seed=5,
        max_new_tokens=4,
        prompt_format=caa.PromptFormat.of(tiny_llama, style="llama-2-chat"),
    )
    pd.testing.assert_frame_equal(pd.DataFrame(told), expected, check_dtype=False)


def test_one_vector_is_applied_at_several_layers(vector, loaded, tiny_llama):
    options = ["--layer", "1-3", "--multiplier", "2", "--multipliers", "1", "--max-new-tokens", "4", "--json"]
    told = json.loads(done("generate", "liking.safetensors", "The sea?", *options).stdout)
    band = [caa.Intervention(vector, layer, 2.0) for layer in (1, 2, 3)]
    expected = caa.generate(tiny_llama, ["The sea?"], steering=[band], max_new_tokens=4)
    pd.testing.assert_frame_equal(pd.DataFrame(told), expected, check_dtype=False)


def test_each_vector_has_its_own_operator_and_positions(vector, loaded, tiny_llama):
    options = ["--layer", "1,2", "--multipliers", "1", "--max-new-tokens", "4", "--json"]
    options += ["--operator", "add", "--operator", "Cap(high=0.5)", "--positions", "all", "--positions", "answer"]
    told = json.loads(done("generate", "liking.safetensors", "liking.safetensors", "The sea?", *options).stdout)
    added = caa.Intervention(vector, 1, positions="all")
    capped = caa.Intervention(vector, 2, operator=caa.Cap(high=0.5), positions="answer")
    expected = caa.generate(tiny_llama, ["The sea?"], steering=[[added, capped]], max_new_tokens=4)
    pd.testing.assert_frame_equal(pd.DataFrame(told), expected, check_dtype=False)
    refused = run("generate", "liking.safetensors", "Hi", "--layer", "1", *options[4:])
    assert "--operator: 2 values for 1 vectors" in refused.stderr


def test_samples_stand_one_below_the_other(vector, loaded):
    options = ["--layer", "1", "--n", "3", "--temperature", "1", "--max-new-tokens", "1", "--multipliers", "0,1"]
    caa_options = [*options, "--json"]
    told = json.loads(done("generate", "liking.safetensors", "Hi", *caa_options).stdout)
    shown = done("generate", "liking.safetensors", "Hi", *options).stdout
    assert sorted({row["sample"] for row in told}) == [0, 1, 2]
    assert all(row["answer"] in shown for row in told)


@pytest.mark.filterwarnings("ignore:vector .* was made from prompts")
def test_operator_positions_and_style_reach_the_sweep(vector, loaded, tiny_llama):
    options = ["--layers", "1", "--operator", "ProjectTo(2)", "--positions", "all", "--style", "llama-2-chat"]
    done("sweep", "liking.safetensors", "liking.json", *options, "--out", "t.parquet")
    expected = caa.sweep(
        tiny_llama,
        vector,
        caa.load_behavior("liking.json").test,
        layers=1,
        operator=caa.steering.ProjectTo(2),
        positions="all",
        prompt_format=caa.PromptFormat.of(tiny_llama, style="llama-2-chat"),
    )
    pd.testing.assert_frame_equal(pd.read_parquet("t.parquet"), expected)


def test_prompts_come_from_standard_input_and_a_file(vector, monkeypatch, loaded, folder):
    asked = []

    def generate(model, prompts, **_):
        asked.append(prompts)
        return pd.DataFrame({"item": [0], "prompt": [prompts[0]], "sample": [0], "answer": ["so"]})

    monkeypatch.setattr("caa_interp.steering.generation.generate", generate)
    (folder / "prompts.txt").write_text("three\n\nfour\n", encoding="utf-8")
    done("generate", "liking.safetensors", "-", "--layer", "1", input="one\ntwo\n")
    done("generate", "liking.safetensors", "--prompts", "prompts.txt", "--layer", "1")
    done("generate", "liking.safetensors", "zero", "-", "--prompts", "prompts.txt", "--layer", "1", input="one\n")
    assert asked == [["one", "two"], ["three", "four"], ["zero", "one", "three", "four"]]


def test_a_file_of_prompts_that_is_no_text(vector, loaded, folder):
    (folder / "prompts.txt").write_bytes(b"fine\n\xff\n")
    result = run("generate", "liking.safetensors", "--prompts", "prompts.txt", "--layer", "1")
    assert str(result.exception) == "prompts: prompts.txt: not UTF-8 at byte 5. Save it as UTF-8."
    assert loaded == []


# analyze


def test_analyze_prints_the_tables_of_the_library(vector, loaded, tiny_llama):
    (vector * -2).save("against.safetensors")
    arguments = ["liking.safetensors", "against.safetensors", "--layers", "0-2", "--model", "x", "--json"]
    told = {name: pd.DataFrame(rows) for name, rows in json.loads(done("analyze", *arguments).stdout).items()}
    assert set(told) == {"norms", "between_layers", "between_vectors", "logit_lens"}
    # Both are called liking inside, so they go by their files.
    both = {"liking": vector, "against": vector * -2}
    assert told["norms"].pivot(index="layer", columns="vector", values="norm")["against"].to_numpy() == pytest.approx(
        2 * vector.norms[:3].numpy()
    )
    for name, between in {"between_layers": "layers", "between_vectors": "vectors"}.items():
        expected = caa.cosine_similarity(both, between=between, layers=[0, 1, 2])
        pd.testing.assert_frame_equal(told[name], expected, check_dtype=False, check_exact=False, rtol=1e-9)
    lens = told["logit_lens"]
    own = lens[lens["vector"] == "liking"].drop(columns="vector").reset_index(drop=True)
    expected = caa.logit_lens(tiny_llama, vector, layers=[0, 1, 2])
    assert own["token"].tolist() == expected["token"].tolist()
    assert loaded == [("x", {"device": None, "dtype": None})]  # once for both


def test_analyze_shows_tables_to_people(vector, loaded):
    (-vector).save("against.safetensors")
    arguments = ["liking.safetensors", "against.safetensors", "--layers", "0,2", "--model", "x"]
    shown = done("analyze", *arguments).stdout
    norms, vectors, tokens = shown.split("\n\n")
    between = caa.cosine_similarity(vector, layers=[0, 2])["cosine"][1]
    first = norms.splitlines()[2].split()
    assert first == ["liking", "0", f"{vector.norms[0]:.3f}", f"{between:.3f}"]
    assert [row.split() for row in vectors.splitlines()[2:]] == [
        ["liking", "against", "0", "-1.0"],
        ["liking", "against", "2", "-1.0"],
    ]
    assert len(tokens.splitlines()) == 2 + 2 * 2 * 2


def test_analyze_leaves_out_the_tokens_of_a_model_that_is_not_here_and_says_so(vector, loaded):
    result = done("analyze", "liking.safetensors", "--json")
    assert set(json.loads(result.stdout)) == {"norms", "between_layers"}
    assert loaded == []
    assert result.stderr == (
        "liking: no tokens, since its model 'tiny-llama' is not on this machine. Give --model to load it.\n"
    )
    caa.SteeringVector(vector.values, vector.layers).save("bare.safetensors")
    result = done("analyze", "bare.safetensors", "--json")
    assert "bare" not in result.stdout
    assert "does not say which model it was made from. Give --model." in result.stderr


def test_analyze_writes_tables_and_figures(vector, loaded, folder):
    result = done("analyze", "liking.safetensors", "--model", "x", "--folder", "out", "--json")
    told = json.loads(result.stdout)
    for name, rows in told.items():
        assert len(pd.read_parquet(f"out/tables/{name}.parquet")) == len(rows)
    assert sorted(path.name for path in (folder / "out" / "figures").iterdir()) == [
        "between_layers.html",
        "logit_lens-liking.html",
    ]
    assert "3 tables and 2 figures in out" in result.stderr


def test_names_that_are_one_as_a_file_have_a_figure_each(vector, loaded, folder):
    for number, name in enumerate(("a b", "a-b", "A*B")):
        caa.SteeringVector(vector.values, vector.layers, {"behavior": name}).save(f"{number}.safetensors")
    done("analyze", "0.safetensors", "1.safetensors", "2.safetensors", "--model", "x", "--folder", "out", "--json")
    found = sorted(path.stem for path in (folder / "out" / "figures").glob("logit_lens*"))
    assert found == ["logit_lens-A-B-3", "logit_lens-a-b", "logit_lens-a-b-2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sweep liking.safetensors liking.json --layers 9", "layer 9: the vector 'liking' has layers 0 to 3"),
        ("effect-lens liking.safetensors liking.json --layers 9", "layer 9: the vector 'liking' has layers"),
        ("generate liking.safetensors Hello --layer 9", "layer 9: the vector has layers 0 to 3"),
        (
            "generate liking.safetensors Hello --layer 1 --n 2",
            "temperature: it is 0, so every sample would be the same",
        ),
        ("monitor none.jsonl liking.safetensors --layer 1", "texts: there is no file none.jsonl"),
        ("monitor texts.jsonl liking.safetensors --layer 9", "layer 9: the vector 'liking' has layers 0 to 3"),
    ],
)
def test_what_needs_no_model_is_told_before_one_is_loaded(vector, loaded, folder, arguments, message):
    (folder / "texts.jsonl").write_text('{"text": "rain"}\n')
    result = run(*arguments.split())
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert loaded == []


def test_a_vector_given_twice(vector):
    result = run("analyze", "liking.safetensors", "./liking.safetensors")
    assert "names a file twice" in str(result.exception)


# export and import


def test_export_and_import_bring_the_vector_back(vector):
    result = done("export", "liking.safetensors", "liking.gguf", "--layers", "1-3")
    assert result.stdout == "liking, 3 layers from 1 to 3, in liking.gguf\n"
    done("import", "liking.gguf", "back.safetensors")
    back = caa.SteeringVector.load("back.safetensors")
    assert back.layers == (1, 2, 3)
    assert back.values.equal(vector.values[1:])
    done("import", "liking.gguf", "one.safetensors", "--layers", "2")
    assert caa.SteeringVector.load("one.safetensors").layers == (2,)


def test_export_takes_its_options(vector):
    options = ["--format", "lm-eval", "--layers", "2", "--multiplier", "-1.5", "--hook", "h.{layer}"]
    done("export", "liking.safetensors", "steering.bin", *options)
    back = caa.import_vector("steering.bin", format="lm-eval")
    assert back.layers == (2,)
    result = run("export", "liking.safetensors", "v.npz", "--multiplier", "2")
    assert "a file of format 'npz' has no place for them" in str(result.exception)


def test_layers_are_added_to_a_folder_of_the_published_code(vector, folder):
    for layer in ("1", "2"):
        done("export", "liking.safetensors", "liking", "--format", "caa", "--layers", layer)
    assert len(list((folder / "liking").iterdir())) == 2
    done("import", "liking", "back.safetensors", "--format", "caa")
    assert caa.SteeringVector.load("back.safetensors").layers == (1, 2)


def test_import_names_the_model(vector):
    done("export", "liking.safetensors", "v.npz")
    done("import", "v.npz", "named.safetensors", "--model", "tiny-llama", "--format", "npz")
    assert caa.SteeringVector.load("named.safetensors").metadata["model"] == "tiny-llama"


@pytest.mark.parametrize("command", [("export", "liking.safetensors", "old.gguf"), ("import", "v.npz", "old.gguf")])
def test_neither_replaces_a_file(vector, folder, command):
    (folder / "old.gguf").write_text("mine")
    (folder / "old.safetensors").write_text("mine")
    done("export", "liking.safetensors", "v.npz")
    name, source, _ = command
    target = "old.gguf" if name == "export" else "old.safetensors"
    result = run(name, source, target)
    assert f"{target} already exists" in str(result.exception)
    assert (folder / target).read_text() == "mine"
    done(name, source, target, "--force", *(["--layers", "1"] if name == "export" else []))
    assert (folder / target).read_bytes() != b"mine"


# The examples of the help


def test_the_examples_run_one_after_another_on_the_small_model(folder, loaded, monkeypatch):
    """As they are printed, but for the layers, of which the small model has four."""
    behavior = caa.load_behavior(folder / "liking.json")
    monkeypatch.setattr("caa_interp.behaviors.behavior.load_behavior", lambda name: {"optimism": behavior}[name])
    commands = typer.main.get_command(cli.app).commands
    outputs = {}
    for name in ("extract", "sweep", "generate", "analyze", "export", "import"):
        example = re.search(r"^Example: caa-interp (.*)$", commands[name].help, re.MULTILINE)[1]
        words = shlex.split(example)
        for option, value in {"--layers": "1-3", "--layer": "1"}.items():
            if option in words:
                words[words.index(option) + 1] = value
        outputs[name] = done(*words).stdout
    assert set(outputs) == {"extract", "sweep", "generate", "analyze", "export", "import"}
    assert all(outputs.values())
    assert caa.SteeringVector.load("back.safetensors").layers == (1, 2, 3)


# effect-lens


def test_effect_lens_shows_the_tokens_of_the_library(vector, loaded, tiny_llama, folder):
    arguments = ["liking.safetensors", "liking.json", "--layers", "1,2", "--controls", "1", "--seed", "3"]
    told = pd.DataFrame(json.loads(done("effect-lens", *arguments, "--json").stdout))
    vectors = {"liking": vector, **caa.random_vectors(vector, 1, seed=3)}
    test = caa.load_behavior("liking.json").test
    expected = caa.effect_lens(tiny_llama, vectors, test, layers=[1, 2], progress=False)
    pd.testing.assert_frame_equal(told, expected, check_dtype=False, check_exact=False, rtol=1e-9)
    shown = done("effect-lens", *arguments, "--figure", "lens.html").stdout
    rows = [line for line in shown.splitlines() if line.lstrip().startswith("1")]
    first = expected[expected["layer"] == 1].iloc[0]
    assert f"{first['token']} {first['effect']:+.2f}" in rows[0]
    applied = ["--layers", "1", "--operator", "ablate", "--positions", "all", "--json"]
    told = pd.DataFrame(json.loads(done("effect-lens", *arguments[:2], *applied).stdout))
    assert set(map(tuple, told[["operator", "positions", "from_multiplier"]].to_numpy())) == {("ablate", "all", 0.0)}
    assert "plotly" in (folder / "lens.html").read_text(encoding="utf-8").lower()


# monitor


def test_monitor_prints_the_outermost_texts_of_the_library(vector, loaded, tiny_llama, folder):
    texts = [f"The {word} is good." for word in WORDS]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"said": text}) for text in texts))
    (-vector).save("against.safetensors")
    arguments = ["texts.jsonl", "liking.safetensors", "against.safetensors", "--layer", "2", "--column", "said"]
    arguments += ["--top", "3", "--out", "result.parquet"]
    told = json.loads(done("monitor", *arguments, "--json").stdout)
    expected = caa.analysis.monitor(tiny_llama, vector, texts, layer=2, progress=False).sort_values("z")
    assert [row["text"] for row in told["liking"]["most aligned"]] == list(expected["text"][:-4:-1])
    assert [row["z"] for row in told["liking"]["least aligned"]] == pytest.approx(list(expected["z"][:3]), abs=1e-4)
    assert [row["text"] for row in told["against"]["most aligned"]] == list(expected["text"][:3])
    assert len(pd.read_parquet("result.parquet")) == 2 * len(texts)
    shown = done("monitor", *arguments)
    headings = ["most aligned with liking", "least aligned with liking", "most aligned with against"]
    assert all(heading in shown.stdout for heading in headings)
    assert expected["text"].iloc[-1] in shown.stdout
    assert "8 rows of texts.jsonl, layer 2, model tiny-llama" in shown.stderr


@pytest.mark.parametrize("text", ["海" * 150, "See https://x.org/" + "a" * 150, "A word  and\nothers " * 9])
def test_what_is_cut_from_a_long_text_is_its_end(text, capsys):
    row = {"z": 1.0, "item": 0, "turn": 0, "role": "", "n_tokens": 9, "text": text}
    analysis._print_texts(pd.DataFrame([row]))
    (shown,) = re.findall(r"\S.*\.\.\.", capsys.readouterr().out)
    assert " ".join(text.split())[:97].rstrip() + "..." in shown
