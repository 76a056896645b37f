"""Rivals of a vector in a study are what the library makes of the same pairs, beside the vector at equal cost."""

import dataclasses

import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.errors import InputError
from caa_interp.plotting.theme import BEHAVIOR_STYLES
from caa_interp.study import ExperimentConfig, Processes
from caa_interp.study.environment import made_of
from caa_interp.study.findings import intervals
from caa_interp.study.measures import check_rival
from caa_interp.study.results import Results
from caa_interp.study.rivals import compared, section
from caa_interp.study.run import run_experiment
from tests.study_folder import write_study
from tests.unit.study.test_run import likes_file

METHODS = ["system prompt", "examples", "learned vector", "attention heads"]
ASKED = {"format": "text", "system_prompt": "Be brief."}
LESS = {"answers": {"prompts": 0}, "side_effects": {"pairs": 0}, "controls": {"random": 1, "shuffled": 0}}
LESS |= {"costs": {"passages": 0, "questions": 0, "prompts": 2}, "layers": [1], "multipliers": [-1, 0, 2]}
SIDES = {"positive": "Like all.", "negative": "Like nothing."}


@pytest.fixture(scope="module")
def behavior(tmp_path_factory) -> str:
    path = likes_file(tmp_path_factory.mktemp("behaviors") / "likes.json", "Yes, I like", "No, I do not like")
    dataclasses.replace(caa.load_behavior(path), system_prompts=SIDES).save(path)
    return str(path)


@pytest.fixture(scope="module")
def without(behavior, tiny_folder, tmp_path_factory):
    return run(behavior, tiny_folder, tmp_path_factory, {})


@pytest.fixture(scope="module")
def done(behavior, tiny_folder, tmp_path_factory):
    return run(behavior, tiny_folder, tmp_path_factory, {"methods": METHODS})


def run(behavior, tiny_folder, tmp_path_factory, rivals):
    config = ExperimentConfig(behaviors=[behavior], models=[tiny_folder], rivals=rivals, **ASKED, **LESS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAA_INTERP_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run_experiment(config, tmp_path_factory.mktemp("run"), say=lambda _: None)


def tables(folder) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_parquet(path) for path in (folder / "tables").glob("*.parquet")}


@pytest.fixture(scope="module")
def made(done, behavior, tiny_folder):
    """The model, the behavior, and all rivals as a user of the library would make them."""
    model, given = caa.load_model(tiny_folder, device="cpu"), caa.load_behavior(behavior)
    vector = caa.SteeringVector.load(next((done / "vectors").rglob("likes.safetensors")))
    learned = caa.evaluation.learned_vector(model, vector, given.train, layer=1, progress=False, **ASKED)
    heads = caa.vectors.head_vector(model, given.train, behavior="likes", progress=False, **ASKED)
    steering = {
        f"{name} {multiplier:g}": [caa.Intervention(one, layer, multiplier) for layer in one.layers]
        for name, one in (("learned vector", learned), ("attention heads", heads))
        for multiplier in (-1, 0, 2)
    }
    assert len(heads.layers) > 1
    return model, given, vector, steering


def equal(study: pd.DataFrame, expected: pd.DataFrame, measure: str, keys: list[str]) -> None:
    both = expected.merge(study, on=keys, suffixes=("", "_study"), validate="one_to_one")
    assert len(both) == len(expected) == len(study) > 0
    assert both[measure].to_numpy() == pytest.approx(both[f"{measure}_study"].to_numpy(), abs=1e-5)


def named(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of vectors, each with its multiplier in its name."""
    own = table[(table["baseline"] == "none") & (table["kind"] == "vector")]
    return own.assign(vector=[f"{name} {dose:g}" for name, dose in zip(own["vector"], own["multiplier"], strict=True)])


def test_vectors_do_and_cost_what_those_of_the_library_do(done, made):
    model, given, _, steering = made
    scores, costs = parts(done)
    scored = caa.sweep(model, steering, given.test, progress=False, **ASKED)
    equal(named(scores), scored, "logit_difference", ["id", "vector"])
    alone = {"system_prompt": ASKED["system_prompt"], "progress": False}
    priced = caa.divergence(model, steering, given.open_ended[:2], **alone)
    equal(named(costs), priced, "divergence", ["item", "vector"])


def test_prompts_do_and_cost_what_those_of_the_library_do(done, made):
    model, given, vector, _ = made
    scored = caa.baselines(model, vector, given, layer=1, multipliers=[0.0], format="text", progress=False)
    theirs = {"positive system prompt": "system prompt", "positive few-shot": "examples"}
    scored = scored[scored["baseline"].isin(theirs)].replace({"baseline": theirs})
    scores, costs = (one[one["baseline"] != "none"] for one in parts(done))
    equal(scores, scored, "logit_difference", ["id", "baseline"])
    texts = scored.drop_duplicates("baseline").set_index("baseline")["system_prompt"].to_dict()
    along = {"system_prompt": ASKED["system_prompt"], "baselines": texts, "progress": False}
    priced = caa.divergence(model, None, given.open_ended[:2], **along)
    equal(costs, priced[priced["baseline"] != "none"], "divergence", ["item", "baseline"])


def test_a_study_without_them_is_as_before(done, without):
    before, after = tables(without), tables(done)
    assert set(after) - set(before) == {"rivals"}
    for name, table in before.items():
        pd.testing.assert_frame_equal(table, after[name], check_exact=True)
    plain, page = ((folder / "report.html").read_text(encoding="utf-8") for folder in (without, done))
    assert "Rivals at equal cost" in page
    assert "Rivals at equal cost" not in plain
    # Figures of the same names, and nothing in them is changed.
    for path in (without / "figures").iterdir():
        assert path.read_bytes() == (done / "figures" / path.name).read_bytes(), path.name


def test_all_are_compared_where_both_cost_the_same(done):
    found = results_of(done)
    plane, rows = compared(found, "likes")
    assert rows["rival"].tolist() == METHODS
    assert set(plane["baseline"]) == {"none", "system prompt", "examples"}
    effects, costs = (found.tables[name] for name in ("dose_response", "divergence"))
    most = costs[(costs["kind"] == "vector") & (costs["multiplier"] == 2)]["divergence"].mean()
    _, priced = parts(done)
    for row in rows.to_dict("records"):
        at = caa.evaluation.at_equal_cost(effects, costs, cost=row["cost"])
        (own,) = at[(at["side"] == "positive") & (at["kind"] == "vector")].to_dict("records")
        assert own["reached"] == (row["does"] != "costs more than the vector at any positive multiplier")
        ends = ("", "_low", "_high")
        assert [row[f"own{end}"] for end in ends] == pytest.approx([own[f"effect{end}"] for end in ends], nan_ok=True)
        prompted = priced[priced["baseline"] == row["rival"]]["divergence"]
        steered = priced[(priced["vector"] == row["rival"]) & (priced["multiplier"] == 2)]["divergence"]
        if len(prompted):
            assert row["cost"] == pytest.approx(prompted.mean())
        else:
            assert 0.85 < row["cost"] / min(most, steered.mean()) <= 1


def parts(folder) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of scores, and those of costs."""
    table = tables(folder)["rivals"]
    return table[table["divergence"].isna()], table[table["divergence"].notna()]


def results_of(folder) -> Results:
    return Results({name: table for name, table in tables(folder).items() if len(table)}, {}, 0)


@pytest.mark.parametrize(
    ("shift", "cost", "does"),
    [
        (5.0, 0.3, "does more"),
        (-5.0, 0.3, "does less"),
        (0.0, 0.3, "cannot be told apart"),
        (0.0, 3.0, "costs more than the vector at any positive multiplier"),
        (5.0, 0.0, "cannot be compared where nothing is paid"),
    ],
)
def test_one_does_more_where_it_is_beyond_the_vectors_interval(tmp_path, shift, cost, does):
    """Made-up scores: a prompt's effect is ``shift`` beside that of multiplier 1, which costs 0.3 (and 2 costs 0.6)."""
    found = made_up(tmp_path, shift, cost)
    _, part = section(found)
    (row,) = compared(found, "likes")[1].to_dict("records")
    assert (row["does"], row["cost"], row["n"]) == (does, pytest.approx(cost), 12)
    assert row["effect"] == pytest.approx(0.5 + shift, abs=0.05)
    (effect,), (own,) = (intervals(pd.DataFrame([row]), name) for name in ("effect", "own"))
    assert bool(own) == (0 < cost < 0.6)
    assert f"system prompt{own and f' {effect} against {own}'}: {does}" in part.finding
    assert part.table["beside the vector"].tolist() == [does]


def made_up(folder, shift: float, cost: float, name: str = "likes", **study) -> Results:
    """A study with a prompt: its effect is ``shift`` beside that of multiplier 1, whose cost is 0.3."""
    found = results_of(write_study(folder, {name: 0.5}, **study))
    rows = []
    for table, measure in (("dose_response", "logit_difference"), ("divergence", "divergence")):
        own = found.tables[table].query("vector == @name and multiplier == 1")
        value = cost if table == "divergence" else own[measure] + shift
        rows.append(own.assign(baseline="system prompt", multiplier=0.0, **{measure: value}))
    found.tables["rivals"] = pd.concat(rows)
    return found


def test_vectors_that_cost_nothing_are_not_compared(tmp_path):
    """As under a cap that never binds; a page is made all the same."""
    found = made_up(tmp_path, 0.0, 0.3)
    own = found.tables["divergence"]
    found.tables["divergence"] = own.assign(divergence=0.0)
    rival = {"baseline": "none", "vector": "learned vector"}
    scores = found.tables["dose_response"].query("vector == 'likes'")
    found.tables["rivals"] = pd.concat([scores.assign(**rival), own.query("vector == 'likes'").assign(**rival)])
    _, part = section(found)
    assert "learned vector: cannot be compared where nothing is paid" in part.finding


def test_a_negative_multiplier_that_costs_more_is_no_comparison(tmp_path):
    found = made_up(tmp_path, 1.0, 0.45)
    for name in ("dose_response", "divergence"):
        table = found.tables[name]
        found.tables[name] = table[table["multiplier"].isin([-2, 0, 1])].reset_index(drop=True)
    _, part = section(found)
    assert "costs more than the vector at any positive multiplier" in part.finding


def test_without_intervals_nothing_is_said_to_be_alike(tmp_path):
    found = made_up(tmp_path, 5.0, 0.3)
    for name in ("divergence", "rivals"):
        table = found.tables[name]
        found.tables[name] = table[(table["item"] == 0) | table["divergence"].isna()].reset_index(drop=True)
    (row,) = compared(found, "likes")[1].to_dict("records")
    assert row["does"] == "cannot be compared without intervals"


@pytest.mark.parametrize(("format", "unit"), [("choices", "nats"), ("text", "nats per token")])
def test_effects_have_their_own_unit(tmp_path, format, unit):
    _, part = section(made_up(tmp_path, 1.0, 0.3, format=format))
    assert f"beside the vector of likes, in {unit}: " in part.finding
    assert [*part.table][2:4] == ["cost (nats per token)", f"effect ({unit}, 95 % interval)"]


def test_a_prompt_has_its_own_name_and_leaves_the_behavior_its_name_and_color(tmp_path):
    """Whatever the study's positions are: those of a prompt, where nothing is added, are no difference."""
    found = made_up(tmp_path, 1.0, 0.3, name="sycophancy")
    for name in ("dose_response", "divergence"):
        found.tables[name] = found.tables[name].assign(positions="all")
    found.tables["rivals"] = found.tables["rivals"].assign(positions="from_last_prompt_token")
    lines = {one.name: one for one in section(found)[1].figure.data if one.name and one.mode and one.x[0] is not None}
    assert set(lines) == {"sycophancy", "system prompt"}
    assert lines["sycophancy"].line.color == BEHAVIOR_STYLES["sycophancy"].color
    (hover,) = [*(lines["system prompt"].hovertext or lines["system prompt"].customdata)]
    assert hover.startswith("system prompt<br>effect +1.5")


def test_a_name_is_escaped_once(tmp_path):
    _, part = section(made_up(tmp_path, 1.0, 0.3, name="cats & dogs"))
    assert part.figure.layout.title.text.startswith("Rivals: cats &amp; dogs<br>")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rivals": {"methods": ["system prompts"]}}, r"rivals.methods\[0\]: .* did you mean 'system prompt'"),
        ({"rivals": {"method": ["examples"]}}, "did you mean 'rivals.methods' or|did you mean 'methods'"),
        ({"rivals": {"methods": ["examples"] * 2}}, "lists one twice"),
        ({"costs": {"prompts": 0}}, "costs.prompts and a multiplier must be above 0"),
        ({"multipliers": [-1, 0]}, "costs.prompts and a multiplier must be above 0"),
        ({"n_train": 4}, "need open-ended questions, at least 5 train pairs"),
        ({"n_train": 3, "rivals": {"methods": ["examples"]}}, "at least 4 train pairs .* 'likes' lacks one"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(behavior, changed, message):
    with pytest.raises(InputError, match=message):
        ExperimentConfig(**{"behaviors": [behavior], **LESS, "rivals": {"methods": METHODS}, **changed})


def test_another_system_prompt_is_another_study(behavior, tmp_path):
    """So that a finished folder is not taken for that of the changed file."""
    found = []
    for text in ("Like all.", "Like everything."):
        prompts = {**SIDES, "positive": text}
        dataclasses.replace(caa.load_behavior(behavior), system_prompts=prompts).save(tmp_path / "likes.json")
        found.append(made_of(ExperimentConfig(behaviors=[tmp_path / "likes.json"], n_validation=3), {}))
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"system_prompts": {"negative": "Like nothing."}}, "a positive one; 'likes' lacks one of these"),
        ({"open_ended": ()}, "need open-ended questions"),
        ({"name": "learned vector"}, "would be one in tables"),
    ],
)
def test_a_behavior_has_what_they_need(behavior, tmp_path, changed, message):
    dataclasses.replace(caa.load_behavior(behavior), **changed).save(tmp_path / "likes.json")
    with pytest.raises(InputError, match=message):
        ExperimentConfig(behaviors=[tmp_path / "likes.json"], rivals={"methods": METHODS})


def test_a_prompt_that_does_not_fit_is_told_before_anything_is_computed(behavior, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    long = dataclasses.replace(caa.load_behavior(behavior), system_prompts={"positive": "Like all. " * 80})
    long.save(tmp_path / "likes.json")
    rivals = {"methods": ["system prompt"]}
    config = ExperimentConfig(behaviors=[tmp_path / "likes.json"], models=[tiny_folder], rivals=rivals, **LESS)
    with pytest.raises(InputError, match=r"rivals.methods: 'system prompt' does not go with .*context holds 256"):
        run_experiment(config, tmp_path / "run", say=lambda _: None)
    # What was done is the check of all else, which makes no table.
    (kept,) = (tmp_path / "run" / "shards").rglob("*.parquet")
    assert pd.read_parquet(kept).empty


def test_heads_that_a_model_does_not_show_are_told_before_anything_is_computed(tiny_llama, monkeypatch):
    hooks = {name: hook for name, hook in tiny_llama.hook_dict.items() if not name.endswith("hook_z")}
    monkeypatch.setattr(type(tiny_llama), "hook_dict", hooks)
    form = caa.PromptFormat.of(tiny_llama)
    nothing = {"pairs": [], "prompts": {}, "conversations": [], "max_new_tokens": 1, "prompt_format": form, **ASKED}
    with pytest.raises(InputError, match=r"rivals.methods: 'attention heads' does not go with this model. .*hook_z"):
        check_rival(tiny_llama, method="attention heads", **nothing)
    assert check_rival(tiny_llama, method="examples", **nothing).empty


def test_processes_find_the_same_to_the_last_bit(done, behavior, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    rivals = {"methods": METHODS}
    config = ExperimentConfig(behaviors=[behavior], models=[tiny_folder], rivals=rivals, **ASKED, **LESS)
    with Processes(2) as executor:
        folder = run_experiment(config, tmp_path / "run", executor=executor, say=lambda _: None)
    before, after = tables(done), tables(folder)
    pd.testing.assert_frame_equal(before["rivals"], after["rivals"], check_exact=True)
