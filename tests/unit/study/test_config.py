"""A study is read and checked as a whole: every fault is told at once, and what is written reads back the same."""

import doctest
import os
import pickle
import textwrap
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

import caa_interp as caa
from caa_interp.errors import InputError
from caa_interp.evaluation.interference import QUESTIONS
from caa_interp.evaluation.summary import UNSTEERED
from caa_interp.files import slug
from caa_interp.study import config as module, fields as parts
from caa_interp.study.config import (
    Answers,
    Controls,
    Conversations,
    Costs,
    ExperimentConfig,
    Interference,
    ModelConfig,
    PromptConfig,
    SafetyAudit,
    SideEffects,
)
from caa_interp.study.tasks import EVERY
from tests.small_study import behavior_file, pairs

ODD = 'it\'s "odd"\n\té\x7f.json'


def behavior_of(path: Path, n_train: int = 12, n_test: int = 5, **fields) -> Path:
    """File of a behavior that has so many pairs."""
    return behavior_file(path, pairs(["train"], n=n_train), pairs(["test"], n=n_test), **fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two behaviors of 12 train and 5 test pairs, one in a file with an odd name, and what looks like two models."""
    folder = tmp_path_factory.mktemp("study")
    behavior_of(folder / "mine.json")
    behavior_of(folder / ODD, name="odd")
    for model in ("one", "two"):
        (folder / model).mkdir()
        (folder / model / "config.json").write_text("{}")
    (folder / "model.gguf").write_bytes(b"")
    return folder


def study(folder: Path, **fields) -> ExperimentConfig:
    return ExperimentConfig(**{"behaviors": [str(folder / "mine.json")], "n_validation": 4} | fields)


def load(folder: Path, text: str | bytes, name: str = "study.toml") -> ExperimentConfig:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ExperimentConfig.load(path)


def problems(call, *arguments, **fields) -> list[str]:
    """Lines of the error: what it is about, then one for each fault."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **fields)
    first, *lines = str(caught.value).splitlines()
    assert all(line.startswith("  ") for line in lines)
    return [first, *(line.strip() for line in lines)]


def test_defaults_are_those_of_the_agreed_study(tmp_path):
    found = load(tmp_path, "", "my study.toml")
    assert found.name == "my study"
    assert ExperimentConfig().name == "study"
    assert found == ExperimentConfig(name="my study")
    assert found.behaviors == tuple(sorted(caa.load_behaviors()))
    assert (found.format, found.layers, found.system_prompt, found.seed) == ("choices", None, None, 0)
    assert found.multipliers == (-2, -1, 0, 1, 2)
    assert (found.n_train, found.n_validation, found.n_test) == (None, 20, None)
    assert (found.estimator, found.operator) == ("mean_difference", "add")
    assert found.positions == "from_last_prompt_token"
    assert found.models == (ModelConfig(name="smollm2-135m-instruct", prompt=PromptConfig()),)
    assert found.controls == Controls(random=4, orthogonal=0, shuffled=4)
    assert found.answers == Answers(prompts=6, multipliers=(-4, 0, 4), max_new_tokens=60, seed=0)
    assert found.costs == Costs(passages=12, questions=24, prompts=6)
    assert found.side_effects == SideEffects(pairs=12)
    assert found.interference == Interference(pairs=0, prompts=6, target=0.1)


def test_a_model_is_loaded_with_its_own_defaults_unless_told_otherwise():
    assert dict(ModelConfig()) == {
        "name": "smollm2-135m-instruct",
        "backend": "auto",
        "device": None,
        "dtype": None,
        "revision": None,
        "device_map": None,
        "prompt": None,
    }


def test_every_field_says_what_it_is_and_its_default():
    for part in (
        Interference,
        ExperimentConfig,
        PromptConfig,
        ModelConfig,
        Controls,
        Answers,
        Costs,
        SideEffects,
        SafetyAudit,
        Conversations,
    ):
        for name, field in part.model_fields.items():
            told = field.description or ""
            assert any(word in told for word in ("Default", "default", ":class:")), f"{part.__name__}.{name}"


def test_the_examples_in_the_docstring_work(folder):
    example = textwrap.dedent((ExperimentConfig.__doc__ or "").split("left out::\n")[1].split("From Python:")[0])
    behavior_of(folder / "my-behavior.json", 120, 50)
    found = load(folder, example)
    assert found.behaviors == ("sycophancy", str(folder / "my-behavior.json"))
    assert (found.layers, found.answers.prompts) == ((10, 12, 14), 6)
    failed, tried = doctest.testmod(module)
    assert tried == 3
    assert not failed


def test_everything_that_is_wrong_is_told_at_once(folder):
    text = """
        modelz = ["gpt2"]
        behaviors = ["sycofancy", "none.json", "mine.json"]
        format = "texts"
        layers = [3, 3]
        multipliers = [1, 2]
        n_train = 0
        seed = -1
        [[models]]
        name = "smollm2-135m-instuct"
        dtype = "float31"
        [[models]]
        backend = "bridg"
        [controls]
        randm = 4
        shuffled = 2.0
        [answers]
        format = "text"
        max_new_tokens = "60"
    """
    first, *lines = problems(load, folder, text)
    assert first == f"config file {folder / 'study.toml'}: 15 problems. Correct each of these:"
    names, none = ", ".join(caa.load_behaviors()), folder / "none.json"
    top = ", ".join(ExperimentConfig.model_fields)
    assert lines == [
        f"behaviors[0]: 'sycofancy'; it must be one of {names}, or a .json file; did you mean 'sycophancy'?",
        f"behaviors[1]: behavior file {none}: there is no file {none}. Check the path.",
        "format: 'texts'. Input should be 'choices' or 'text'; did you mean 'text'?",
        "layers: (3, 3) lists one twice; list each once.",
        "multipliers: (1.0, 2.0); they must include 0, the unsteered model, and at least one other.",
        "n_train: 0. Input should be greater than or equal to 1.",
        "seed: -1. Input should be greater than or equal to 0.",
        "models[0].name: 'smollm2-135m-instuct'; it must be 'smollm2-135m-instruct', a folder, a .gguf file or a "
        "Hugging Face name such as 'owner/name'; did you mean 'smollm2-135m-instruct'?",
        "models[0].dtype: 'float31'. Input should be 'float32', 'bfloat16', 'float16' or 'float64'; did you mean "
        "'float32'?",
        "models[1].backend: 'bridg'. Input should be 'auto', 'bridge' or 'hooked'; did you mean 'bridge'?",
        "controls.shuffled: 2.0. Input should be a valid integer.",
        "controls.randm: there is no such field; did you mean 'random'? Allowed here: random, orthogonal, shuffled.",
        "answers.max_new_tokens: '60'. Input should be a valid integer.",
        "answers.format: there is no such field; did you mean 'format' above the first [table]? Allowed here: "
        "prompts, multipliers, max_new_tokens, temperature, n, top_p, seed.",
        f"modelz: there is no such field; did you mean 'models'? Allowed here: {top}.",
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"seed": True}, "seed: True. Input should be a valid integer."),
        ({"n_test": "2"}, "n_test: '2'. Input should be a valid integer."),
        ({"n_validation": None}, "n_validation: None. Input should be a valid integer."),
        ({"seed": 2**32}, "seed: 4294967296. Input should be less than or equal to 4294967295."),
        (
            {"seed": 10**5000},
            "seed: int that is too large to be shown. Input should be less than or equal to 4294967295.",
        ),
        ({"layers": 3}, "layers: 3. Input should be a valid list."),
        ({"layers": []}, "layers: []. Value should have at least 1 item after validation, not 0."),
        (
            {"layers": range(1001)},
            "layers: range(0, 1001). Value should have at most 1000 items after validation, not 1001.",
        ),
        ({"layers": [0, -1]}, "layers[1]: -1. Input should be greater than or equal to 0."),
        ({"layers": {1, 2}}, "layers: {1, 2}. Input should be a valid list."),
        ({"multipliers": [0, float("nan")]}, "multipliers[1]: nan. Input should be a finite number."),
        ({"multipliers": [0, 10**400]}, f"multipliers[1]: 1{'0' * 116}.... Input should be a valid number."),
        ({"multipliers": [0, 2e6]}, "multipliers[1]: 2000000.0. Input should be less than or equal to 1000000."),
        ({"multipliers": [True, 0]}, "multipliers[0]: True. Input should be a valid number."),
        ({"multipliers": [0.0, -0.0, 1]}, "multipliers: (0.0, -0.0, 1.0) lists one twice; list each once."),
        (
            {"multipliers": [0]},
            "multipliers: (0.0,); they must include 0, the unsteered model, and at least one other.",
        ),
        ({"name": " "}, "name: ' '. String should have at least 1 character."),
        (
            {"system_prompt": "\udfff"},
            "system_prompt: '\\udfff'. Input should be a valid string, unable to parse raw data as a unicode string.",
        ),
        ({"system_prompt": 1}, "system_prompt: 1. Input should be a valid string."),
        ({"behaviors": "mine.json"}, "behaviors: 'mine.json'. Input should be a valid list."),
        ({"models": []}, "models: []. Value should have at least 1 item after validation, not 0."),
        ({"models": [3]}, "models[0]: 3. Input should be a valid table or instance of ModelConfig."),
        ({"models": [{"device": ""}]}, "models[0].device: ''. String should have at least 1 character."),
        ({"controls": 4}, "controls: 4. Input should be a valid table or instance of Controls."),
        ({"controls": {1: 2}}, "controls[1]: 1. Keys should be strings."),
        (
            {"controls": {"random": 2_000_000}},
            "controls.random: 2000000. Input should be less than or equal to 1000000.",
        ),
        ({"answers": {"max_new_tokens": 0}}, "answers.max_new_tokens: 0. Input should be greater than or equal to 1."),
        ({"answers": {"multipliers": [1, 1.0]}}, "answers.multipliers: (1.0, 1.0) lists one twice; list each once."),
        ({"answers": {"temperature": 1, "top_p": 0}}, "answers.top_p: 0. Input should be greater than 0."),
        (
            {"answers": {"n": 2}},
            "answers.n: 2, but temperature is 0, so every sample would be the same. Give it too, such as 0.7.",
        ),
        (
            {"estimator": "mean"},
            "estimator: 'mean'; give one of mean_difference, principal_difference, logistic_probe, "
            "whitened_mean_difference.",
        ),
        (
            {"operator": "Cap(low=2, high=1)"},
            "operator: low and high: 2 and 1; give numbers, low at most high.",
        ),
        (
            {"positions": "-1"},
            "positions: '-1'; give one of 'from_last_prompt_token', 'answer', 'prompt', 'all', "
            "'after_thinking', FirstAnswerTokens(k), or a list of positions of at least 0.",
        ),
        (
            {"prompt": {"style": "bas"}},
            "prompt.style: 'bas'. Input should be 'llama-2-chat', 'base' or 'chat-template'; did you mean 'base'?",
        ),
        ({"prompt": {"template_arguments": 1}}, "prompt.template_arguments: 1; it must be a table."),
        (
            {"models": [{"prompt": {"template_arguments": {"tools": [1]}}}]},
            "models[0].prompt.template_arguments: 'tools' is [1]; it must be true, false, a finite number or a text.",
        ),
        (
            {"prompt": {"template_arguments": {"\ud800": 1}}},
            "prompt.template_arguments: 'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not "
            "allowed",
        ),
    ],
)
def test_a_value_that_is_not_allowed(folder, fields, said):
    assert problems(study, folder, **fields) == ["ExperimentConfig: 1 problem. Correct each of these:", said]


def test_a_field_of_another_table_is_pointed_to(folder):
    said = problems(study, folder, max_new_tokens=5, prompts=3, zzz=1)
    assert "max_new_tokens: there is no such field; did you mean 'answers.max_new_tokens' or 'conv" in said[1]
    fields = "'answers.prompts' or 'costs.prompts' or 'interference.prompts'"
    assert f"prompts: there is no such field; did you mean {fields}?" in said[2]
    assert said[3].startswith("zzz: there is no such field. Allowed here: name, behaviors,")
    said = problems(study, folder, models=[{"dytpe": "float32"}, {"prompt": {"styl": "base"}}, {"seed": 1}])
    assert said[1].startswith("models[0].dytpe: there is no such field; did you mean 'dtype'? Allowed here: name, ")
    assert said[2] == (
        "models[1].prompt.styl: there is no such field; did you mean 'style'? Allowed here: style, template_arguments."
    )
    assert said[3].startswith("models[2].seed: there is no such field; did you mean 'seed' above the first [table] or")
    assert problems(study, folder, dtype="float32")[1].startswith("dtype: there is no such field; did you mean 'models")


def test_parts_as_objects_and_as_dicts_are_the_same(folder):
    parts_given = {"controls": Controls(random=1), "answers": Answers(prompts=0), "models": [ModelConfig(name="a/b")]}
    dicts_given = {"controls": {"random": 1}, "answers": {"prompts": 0}, "models": [{"name": "a/b"}]}
    made = study(folder, **parts_given)
    assert made == study(folder, **dicts_given) == study(folder, **{**dicts_given, "models": ("a/b",)})
    assert ExperimentConfig(**made.model_dump()) == made


def test_names_are_kept_as_tables_spell_them(folder):
    made = study(folder, estimator="logistic_probe", operator="Cap(high=3)", positions="FirstAnswerTokens(2)")
    assert (made.estimator, made.operator) == ("logistic_probe", "Cap(low=-inf, high=3)")
    assert made.positions == "FirstAnswerTokens(k=2)"
    assert study(folder, positions="3, 4").positions == "(3, 4)"
    assert study(folder, operator=made.operator, positions=made.positions, estimator="logistic_probe") == made


def test_the_prompt_of_the_study_is_that_of_models_without_their_own(folder):
    made = load(
        folder,
        """
        behaviors = ["mine.json"]
        n_validation = 4
        [prompt]
        style = "base"
        [[models]]
        name = "a/b"
        [[models]]
        name = "c/d"
        prompt = {template_arguments = {enable_thinking = false}}
        """,
    )
    assert [model.prompt for model in made.models] == [
        PromptConfig(style="base"),
        PromptConfig(template_arguments={"enable_thinking": False}),
    ]
    assert load(folder, made.to_toml()) == made


def test_a_part_on_its_own_tells_its_problems_too():
    assert problems(Controls, randm=1, shuffled=-1) == [
        "Controls: 2 problems. Correct each of these:",
        "shuffled: -1. Input should be greater than or equal to 0.",
        "randm: there is no such field; did you mean 'random'? Allowed here: random, orthogonal, shuffled.",
    ]
    assert problems(ModelConfig, dtype="f32")[1].startswith("dtype: 'f32'. Input should be 'float32'")


def test_a_study_is_immutable_in_depth_hashable_and_can_be_sent_to_another_process(folder):
    made = study(folder, layers=[1, 2], models=["a/b"], answers={"multipliers": [1, 0]})
    for part, name in ((made, "seed"), (made.controls, "random"), (made.models[0], "name")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, 1)
    lists = made.layers, made.multipliers, made.models, made.behaviors, made.answers.multipliers
    assert all(isinstance(one, tuple) for one in lists)
    assert hash(made) == hash(study(folder, layers=(1, 2), models=("a/b",), answers={"multipliers": (1.0, 0.0)}))
    assert pickle.loads(pickle.dumps(made)) == made
    assert pickle.loads(pickle.dumps(made.models[0])) == made.models[0]


def test_whole_numbers_are_taken_where_any_number_is(folder):
    assert repr(study(folder, multipliers=[0, 1, 2]).multipliers) == "(0.0, 1.0, 2.0)"


@pytest.mark.parametrize(
    ("doses", "strong"),
    [([-1, 0, 3], (-2, 0, 6)), ([0, 1, 2], (0, 4)), ([-0.5, 0], (-1, 0)), ([-9e5, 0, 6e5], (-1e6, 0, 1e6))],
)
def test_answers_are_steered_at_twice_the_outermost_multipliers(folder, doses, strong):
    made = study(folder, multipliers=doses)
    assert made.answers.multipliers == strong
    assert study(folder, multipliers=doses, answers=Answers(multipliers=(5,))).answers.multipliers == (5,)


def test_an_empty_system_prompt_is_none(folder):
    assert study(folder, system_prompt="") == study(folder)


def test_paths_start_at_the_folder_of_the_file_or_at_the_current_one(folder, tmp_path, monkeypatch):
    text = """
        behaviors = ["mine.json", "optimism"]
        n_validation = 4
        models = ["one", "./two", "model.gguf", "gpt2", "owner/name", "smollm2-135m-instruct"]
    """
    monkeypatch.chdir(tmp_path)
    found = load(folder, text)
    assert found.behaviors == (str(folder / "mine.json"), "optimism")
    names = [str(folder / "one"), str(folder / "two"), str(folder / "model.gguf")]
    assert [model.name for model in found.models] == [*names, "gpt2", "owner/name", "smollm2-135m-instruct"]
    assert [model.id for model in found.models][:4] == ["one", "two", "model", "gpt2"]
    monkeypatch.chdir(folder)
    fields = tomllib.loads(text)
    made = ExperimentConfig(**{**fields, "behaviors": [Path("mine.json"), "optimism"]})
    assert made.model_copy(update={"name": "study"}) == found
    assert ModelConfig(name=Path("one")).name == str(folder / "one")
    # A config file that is named from the current folder.
    assert ExperimentConfig.load("study.toml") == found
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    assert ModelConfig(name="~/one").name == str(folder / "one")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.gguf", "there is no file {here}/none.gguf. Give a .gguf file, or a folder of a model."),
        ("./none", "there is no file {here}/none/config.json."),
        ("~no-such-user/none", "there is no file {here}/~no-such-user/none/config.json."),
        ("/none", "there is no file /none/config.json."),
        ("a/b/c", "there is no file {here}/a/b/c/config.json."),
        ("empty", "there is no file {here}/empty/config.json."),
        ("SmolLM2-135M-Instruct", "did you mean 'smollm2-135m-instruct'?"),
        ("\0.gguf", "there is no file {here}/\\x00.gguf."),
        ("\x1b[31m\n.gguf", "there is no file {here}/\\x1b[31m\\n.gguf."),
        ("x" * 5000 + ".gguf", "there is no file"),
    ],
)
def test_a_model_that_cannot_be(tmp_path, monkeypatch, name, said):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    _, line = problems(ModelConfig, name=name)
    assert line.startswith("name: '")
    assert said.format(here=tmp_path) in line


def test_a_folder_whose_name_no_config_could_hold(tmp_path):
    unwritable = tmp_path / os.fsdecode(b"\xff")
    unwritable.mkdir()
    behavior_of(unwritable / "mine.json")
    _, line = problems(load, unwritable, 'behaviors = ["mine.json"]')
    assert "\\udcff" in line
    assert line.endswith("surrogates not allowed")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"revision": "main"}, "revision: 'main', but 'smollm2-135m-instruct' has no revisions. Drop it."),
        (
            {"name": "gpt2", "device": "cpu", "device_map": "auto"},
            "device_map: 'auto', but device is given too; a model is placed by one of them. Drop one.",
        ),
        (
            {"name": "gpt2", "backend": "hooked", "device_map": "auto"},
            "device_map: 'auto', but backend 'hooked' takes none. Use 'bridge', or device.",
        ),
    ],
)
def test_settings_of_a_model_that_exclude_each_other(fields, said):
    assert problems(ModelConfig, **fields)[1:] == [said]


def test_models_and_behaviors_need_names_that_files_can_tell_apart(folder, tmp_path):
    twice = [{"name": "gpt2", "dtype": "float32"}, {"name": "gpt2", "dtype": "float32"}]
    advice = "Give the two a different setting, rename a folder, or leave one out."
    said = f"('gpt2', 'gpt2') would be one in tables and files. {advice}"
    assert problems(study, folder, models=twice)[1:] == [f"models: {said}"]
    assert "('a/b', 'A-b') would be one" in problems(study, folder, models=["a/b", "c", "A-b"])[1]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").write_text("{}")
    folders = [str(folder / "one"), str(tmp_path / "one")]
    assert "models: ('one', 'one') would be one" in problems(study, folder, models=folders)[1]
    same = behavior_of(tmp_path / "other.json", name="Mine")
    said = problems(study, folder, behaviors=[str(folder / "mine.json"), same])[1]
    assert said == "behaviors: ('mine', 'Mine') would be one in tables and files. Give each file a 'name' of its own."
    assert slug("a/b c") == "a-b-c"
    assert slug("...") == "unnamed"
    for name in ("诚实", "勇气"):
        behavior_of(tmp_path / f"{name}.json")
        assert slug(name) == name
    assert study(folder, behaviors=[str(tmp_path / "诚实.json"), str(tmp_path / "勇气.json")])


def test_one_model_at_two_precisions_or_revisions_is_one_study(folder):
    given = [{"name": "gpt2"}, {"name": "gpt2", "dtype": "bfloat16"}, {"name": "gpt2", "revision": "v1"}, "a/b"]
    made = study(folder, models=given)
    assert made.labels == ("gpt2", "gpt2@bfloat16", "gpt2@v1", "a/b")
    assert study(folder, models=given[:1]).labels == ("gpt2",)


def test_a_label_holds_what_two_ways_to_study_one_model_differ_in(folder):
    ways = [{"prompt": {"style": "base"}}, {"prompt": {"style": "chat-template"}}, {"device_map": "auto"}]
    thinking = [{"prompt": {"template_arguments": {"enable_thinking": one}}} for one in (True, False)]
    made = study(folder, models=[{"name": "a/b", "dtype": "float16", **one} for one in (*ways, *thinking)])
    assert made.labels == (
        *("a/b@base", "a/b@chat-template", "a/b@auto", "a/b@enable_thinking=True", "a/b@enable_thinking=False"),
    )
    # What the study says of all prompts is the same for both.
    asked = {"models": [{"name": "a/b"}, {"name": "a/b", "revision": "v1"}], "prompt": {"style": "base"}}
    assert study(folder, **asked).labels == ("a/b", "a/b@v1")
    assert study(folder, **asked | {"models": [{"name": "a/b", "prompt": {"style": "base"}}]}).labels == ("a/b",)


def test_behaviors_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "broken.json").write_text("{")
    behavior_of(tmp_path / "untested.json", n_test=0)
    behavior_of(tmp_path / "unnamed.json", name="")
    locked = behavior_of(tmp_path / "locked.json")
    read = Path.read_bytes

    def refuse(self):
        if self == locked:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.chdir(tmp_path)
    names = ["broken", "untested", "unnamed", "locked"]
    _, broken, untested, unnamed, unread = problems(ExperimentConfig, behaviors=[f"{name}.json" for name in names])
    assert broken.startswith(f"behaviors[0]: behavior file {tmp_path / 'broken.json'}: not valid JSON")
    assert untested == "behaviors[1]: 'untested.json'; its 'test' is empty, and a study needs it."
    assert unnamed == "behaviors[2]: 'unnamed.json'; its 'name' is empty, and a study needs it."
    assert unread.startswith(f"behaviors[3]: behavior file {locked}: it cannot be read ([Errno 13] Permission denied")


def test_every_behavior_needs_enough_pairs(folder):
    has = "'mine' has 12 train pairs, of which validation takes {} and the vector at least 1, and 5 test pairs."
    assert study(folder, n_validation=11, n_train=1, n_test=5, controls={"shuffled": 0}).n_train == 1
    assert problems(study, folder, n_validation=12, n_test=6)[1:] == [
        f"n_validation: 12; it must be at most 11: {has.format(12)}",
        f"n_test: 6; it must be at most 5: {has.format(0)}",
    ]
    said = f"n_train: 9; it must be at most 8: {has.format(4)}"
    assert problems(study, folder, n_train=9)[1:] == [said]
    both = ["optimism", str(folder / "mine.json")]
    assert problems(study, folder, behaviors=both, n_train=9)[1:] == [said]
    assert "n_validation: 20; it must be at most 11" in problems(ExperimentConfig, behaviors=[both[1]])[1]


def test_with_one_layer_no_pair_is_set_apart(folder):
    assert study(folder, layers=[3], n_validation=20, n_train=12).n_train == 12
    said = "n_train: 13; it must be at most 12: 'mine' has 12 train pairs, of which validation takes 0"
    assert said in problems(study, folder, layers=[3], n_validation=20, n_train=13)[1]


@pytest.mark.parametrize("positions", ["all", "prompt", "3, 4, 7"])
def test_conversations_are_steered_at_positions_of_one_turn(folder, positions):
    (said,) = problems(study, folder, positions=positions, conversations={"conversations": 2})[1:]
    assert said.startswith("conversations: conversations is 2, but positions: ")
    assert said.endswith(
        "are not those of one turn. Give one of ['from_last_prompt_token', 'answer', 'after_thinking'], or "
        "FirstAnswerTokens(k)."
    )
    assert study(folder, positions=positions).conversations.conversations == 0


@pytest.mark.parametrize("name", [EVERY, UNSTEERED, QUESTIONS, "random 0", "orthogonal 1", "shuffled 12"])
def test_names_that_tables_use_for_something_else(folder, tmp_path, name):
    path = behavior_of(tmp_path / "taken.json", name=name)
    said = f"{name!r}; tables use this name for something else. Give another 'name'."
    assert problems(study, folder, behaviors=[str(path)])[1:] == [f"behaviors: {said}"]
    combination = {"name": name, "interventions": [{"vector": "mine"}]}
    assert problems(study, folder, combinations=[combination])[1:] == [f"combinations: {said}"]


def test_a_spread_within_the_sides_needs_two_pairs(folder):
    for fields in ({"n_train": 1}, {"n_validation": 11}):
        given = {"estimator": "whitened_mean_difference", "controls": {"shuffled": 0}, **fields}
        (said,) = problems(study, folder, **given)[1:]
        assert said.startswith("n_train: one pair makes the vector of 'mine', and whitened_mean_difference needs at le")
    assert study(folder, estimator="whitened_mean_difference", n_train=2, n_validation=10)


def test_labels_of_one_pair_cannot_be_shuffled(folder):
    said = (
        "controls: shuffled is 4, but one pair makes the vector of 'mine', and labels are shuffled between at least 2"
    )
    for fields in ({"n_train": 1}, {"n_validation": 11}, {"n_train": 1, "layers": [0]}):
        assert said in problems(study, folder, **fields)[1]
        assert study(folder, **fields, controls={"shuffled": 0})
    assert study(folder, n_train=2, n_validation=10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "a"\nseed = = 2\n', "not valid TOML: Invalid value (at line 2, column 8)"),
        ('name = "a"\nseed = 1\nseed = 2\n', "Cannot overwrite a value (at line 3, column 9)"),
        ('name = "', "not valid TOML: Unterminated string (at end of document)"),
        ("name = '\0'", "Found invalid character '\\x00' (at line 1, column 9)"),
        (b"name = '\xff'", "not UTF-8 at byte 8. Save it as UTF-8."),
        ("seed = " + "9" * 5000, "not valid TOML: Exceeds the limit"),
        ("layers = " + "[" * 20000, "lists or tables nested too deep"),
        ("seed" + ".a" * (16 * 1024 + 1), "more than 16,384 dots, too many for a study"),
    ],
)
def test_a_file_that_is_no_toml_or_no_study(tmp_path, text, said):
    (only,) = problems(load, tmp_path, text)
    assert only.startswith(f"config file {tmp_path / 'study.toml'}: ")
    assert said in only


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(InputError, match=f"config file {path}: there is no file {path}. Check the path."):
            ExperimentConfig.load(path)


def test_a_long_study_is_read_again(folder, tmp_path):
    made = study(folder, system_prompt="Answer as in these examples. " * 5000)
    path = tmp_path / "study.toml"
    path.write_text(made.to_toml())
    assert ExperimentConfig.load(path) == made
    assert made.differences(path) == []


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path):
    assert load(tmp_path, b"\xef\xbb\xbfseed = 3\r\nbehaviors = ['optimism']\r\n").seed == 3


def test_many_faults_and_odd_names_are_told_in_few_short_lines(folder):
    text = "".join(f'"line\\nbreak \\u001b[31m {number}" = 1\n' for number in range(900))
    began = time.process_time()
    first, *lines = problems(load, folder, text)
    assert first.endswith("900 problems. Correct each of these:")
    assert len(lines) == 51
    assert lines[-1] == "... and 850 more"
    assert lines[0].startswith("line\\nbreak \\x1b[31m 0: there is no such field. Allowed here:")
    many = "behaviors = [" + "'a'," * 7000 + "]\nmodels = [" + "'a'," * 1000 + "]"
    _, *lines = problems(load, folder, many)
    assert time.process_time() - began < 10
    assert lines[0].startswith("behaviors[0]: 'a'; it must be one of")
    assert lines[-1].startswith("... and ")
    _, line = problems(load, folder, "models = [" + "'a'," * 1000 + "]")
    assert line.startswith("models: ('a', 'a', 'a',")
    assert len(line) < 240
    _, line = problems(load, folder, "k" * 30000 + " = 1")
    assert len(line) < 600
    _, line = problems(load, folder, "seed." + ".".join("a" * 3000) + " = 1")
    assert line == "seed: dict that is too large to be shown. Input should be a valid integer."


characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from("\"'\\\n\r\t\b\x00\x1b\x7f\x85\u2028[]=#é𝄞")
texts = st.text(characters, max_size=20)
filled = texts.filter(str.strip)
counts = st.integers(0, 1_000_000)
doses = st.lists(st.floats(-1e6, 1e6) | st.integers(-9, 9), min_size=1, max_size=5, unique_by=float)


prompts = st.fixed_dictionaries(
    {},
    optional={
        "style": st.sampled_from(["base", "chat-template"]),
        "template_arguments": st.dictionaries(texts, texts | st.booleans() | counts | st.floats(-1e6, 1e6), max_size=3),
    },
)


@st.composite
def models(draw):
    names = st.sampled_from(["smollm2-135m-instruct", "one", "two", "model.gguf", "gpt2", "owner/name"])
    return [
        {
            "name": name,
            "backend": draw(st.sampled_from(["auto", "bridge", "hooked"])),
            "device": draw(st.none() | filled),
            "dtype": draw(st.none() | st.sampled_from(["float32", "bfloat16", "float16", "float64"])),
            "prompt": draw(st.none() | prompts),
            "revision": draw(filled) if name in ("gpt2", "owner/name") else None,
        }
        for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))
    ]


studies = st.fixed_dictionaries(
    {},
    optional={
        "name": filled,
        "behaviors": st.sampled_from([["mine.json"], [ODD], [ODD, "mine.json"], ["optimism", ODD]]),
        "format": st.sampled_from(["choices", "text"]),
        "estimator": st.sampled_from(["mean_difference", "logistic_probe"]),
        "operator": st.sampled_from(["add", "ablate", "Cap(high=3)", "AddIf(1.5, side='above')"]),
        "positions": st.sampled_from(["answer", "FirstAnswerTokens(3)", "after_thinking"]),
        "prompt": prompts,
        "layers": st.none() | st.lists(counts, min_size=1, max_size=4, unique=True),
        "multipliers": doses.map(lambda given: [*(dose for dose in given if dose), 0]).filter(lambda all: len(all) > 1),
        "system_prompt": st.none() | texts,
        "n_train": st.none() | st.integers(2, 8),
        "n_test": st.none() | st.integers(1, 5),
        "seed": st.integers(0, 2**32 - 1),
        "models": models(),
        "controls": st.fixed_dictionaries({}, optional=dict.fromkeys(["random", "orthogonal", "shuffled"], counts)),
        "answers": st.fixed_dictionaries({}, optional={"prompts": counts, "multipliers": doses}),
        "costs": st.fixed_dictionaries({}, optional=dict.fromkeys(["passages", "questions", "prompts"], counts)),
        "side_effects": st.fixed_dictionaries({}, optional={"pairs": counts}),
        "interference": st.fixed_dictionaries({}, optional={"pairs": counts, "target": st.floats(1e-3, 10)}),
        "safety_audit": st.fixed_dictionaries({}, optional={"requests": counts, "answers": counts}),
        "conversations": st.fixed_dictionaries({}, optional={"conversations": counts, "turns": st.integers(2, 9)}),
    },
)


@settings(deadline=None, max_examples=40)
@given(fields=studies)
def test_what_is_written_reads_back_the_same(folder, tmp_path_factory, fields):
    fields = {"behaviors": ["mine.json"], "n_validation": 4} | fields
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = ExperimentConfig(**fields)
    elsewhere = tmp_path_factory.getbasetemp() / "written.toml"
    elsewhere.write_bytes(made.to_toml().encode("utf-8"))
    loaded = ExperimentConfig.load(elsewhere)
    assert loaded == made
    assert hash(loaded) == hash(made)
    assert made.differences(elsewhere) == []
    assert loaded.to_toml() == made.to_toml()


def test_all_that_is_not_none_is_written(folder):
    written = tomllib.loads(study(folder, models=["a/b", "c/d"]).to_toml())
    left_out = {"layers", "system_prompt", "n_train", "n_test"}
    assert written.keys() == ExperimentConfig.model_fields.keys() - left_out
    rest = {"backend": "auto", "prompt": {"template_arguments": {}}}
    assert written["models"] == [{"name": "a/b", **rest}, {"name": "c/d", **rest}]
    for name in ("controls", "answers", "costs", "side_effects", "interference", "safety_audit", "conversations"):
        assert written[name].keys() == getattr(parts, name.title().replace("_", "")).model_fields.keys()
    full = study(folder, layers=[1, 2], system_prompt="\x7f", n_train=4, n_test=2)
    assert tomllib.loads(full.to_toml()).keys() == ExperimentConfig.model_fields.keys()


def test_differences_name_each_field_with_both_values(folder, tmp_path):
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(study(folder, models=["a/b"], layers=[1]).to_toml())
    other = study(
        folder,
        models=[ModelConfig(name="a/b", dtype="float32"), ModelConfig(name="c/d")],
        seed=1,
        controls={"random": 8},
        system_prompt="x" * 1000,
    )
    second.write_text(other.to_toml())
    (prompt,) = [line for line in other.differences(first) if line.startswith("system_prompt")]
    assert len(prompt) < 160
    assert set(other.differences(first)) - {prompt} == {
        "layers: (1,) and None",
        "seed: 0 and 1",
        "models[0].dtype: None and 'float32'",
        "controls.random: 4 and 8",
        "answers.seed: 0 and 1",
        "models[1].name: None and 'c/d'",
        "models[1].backend: None and 'auto'",
    }
    assert other.differences(second) == []
    first.write_text("seed = -1")
    assert problems(other.differences, first)[-1] == "seed: -1. Input should be greater than or equal to 0."


def test_a_study_whose_files_were_moved_is_the_same(folder, tmp_path):
    kept = tmp_path / "config.toml"
    models = [str(folder / "one"), str(folder / "model.gguf"), "owner/two"]
    kept.write_text(study(folder, models=models).to_toml().replace(str(folder), "/gone"))
    assert study(folder, models=models).differences(kept) == []
    other = study(folder, models=[*models[:2], str(folder / "two")])
    assert other.differences(kept) == ["models[2].name: 'owner/two' and '.../two'"]
    assert study(folder, models=models[1:]).differences(kept)[0] == "models[0].name: '.../one' and '.../model.gguf'"
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").write_text("{}")
    of_one_name = [{"name": models[0], "dtype": "float32"}, {"name": str(tmp_path / "one"), "dtype": "float16"}]
    made = study(folder, models=of_one_name)
    kept.write_text(made.to_toml())
    assert made.differences(kept) == []


def test_the_data_of_a_study_are_known_by_name_and_content(folder, tmp_path):
    moved = behavior_of(tmp_path / "renamed.json", name="mine")
    assert study(folder).data == study(folder, behaviors=[str(moved)]).data
    (digest,) = study(folder).data.values()
    moved.write_text(moved.read_text().replace("Yes, I like", "Yes, I love"))
    found = study(folder, behaviors=[str(moved)]).data
    assert list(found) == ["mine"]
    assert found["mine"] != digest
