"""Rivals of a vector in a study are what the library makes of the same pairs, beside the vector at equal cost."""

import dataclasses
import json
import re
from collections import Counter

import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.errors import InputError
from caa_interp.study import ExperimentConfig, Processes
from caa_interp.study.results import Results
from caa_interp.study.rivals import BEYOND, compare, section, sentence
from caa_interp.study.run import run_experiment
from tests.study_folder import write_study
from tests.unit.study.test_run import behavior_file

METHODS = ["system prompts", "few-shot prompts", "learned vector", "attention heads"]
ASKED = {"format": "text", "system_prompt": "Be brief."}
LESS = {"answers": {"prompts": 0}, "side_effects": {"pairs": 0}, "controls": {"random": 1, "shuffled": 0}}
LESS |= {"costs": {"passages": 0, "questions": 0, "prompts": 2}, "layers": [1], "multipliers": [-1, 0, 2]}
SIDES = {"positive": "Like all.", "negative": "Like nothing."}


@pytest.fixture(scope="module")
def behavior(tmp_path_factory) -> str:
    path = behavior_file(tmp_path_factory.mktemp("behaviors") / "likes.json", "Yes, I like", "No, I do not like")
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
    found = tables(done)
    scored = caa.sweep(model, steering, given.test, progress=False, **ASKED)
    equal(named(found["rivals"]), scored, "logit_difference", ["id", "vector"])
    prompts, alone = given.open_ended[:2], {"system_prompt": ASKED["system_prompt"], "progress": False}
    priced = caa.divergence(model, steering, prompts, **alone)
    equal(named(found["rival_costs"]), priced, "divergence", ["item", "vector"])


def test_prompts_do_and_cost_what_those_of_the_library_do(done, made):
    model, given, vector, _ = made
    found = tables(done)
    asked = {"layer": 1, "multipliers": [0.0], "format": "text", "progress": False}
    scored = caa.baselines(model, vector, given, **asked)
    texts = scored.drop_duplicates("baseline").set_index("baseline")["system_prompt"].drop("none").to_dict()
    assert set(texts) == {f"{side} {kind}" for side in SIDES for kind in ("system prompt", "few-shot")}
    prompted = found["rivals"][found["rivals"]["baseline"] != "none"]
    equal(prompted, scored[scored["baseline"] != "none"], "logit_difference", ["id", "baseline"])
    along = {"system_prompt": ASKED["system_prompt"], "baselines": texts, "progress": False}
    priced = caa.divergence(model, None, given.open_ended[:2], **along)
    prompted = found["rival_costs"][found["rival_costs"]["baseline"] != "none"]
    equal(prompted, priced[priced["baseline"] != "none"], "divergence", ["item", "baseline"])


def test_a_study_without_them_is_as_before(done, without):
    before, after = tables(without), tables(done)
    assert set(after) - set(before) == {"rivals", "rival_costs"}
    for name, table in before.items():
        pd.testing.assert_frame_equal(table, after[name], check_exact=True)
    plain, page = ((folder / "report.html").read_text(encoding="utf-8") for folder in (without, done))
    assert "ivals" not in re.sub(r"<script.*?</script>", "", plain, flags=re.DOTALL).split("Configuration")[0]
    assert "Rivals at equal cost" in page


def test_all_are_compared_where_both_cost_the_same(done):
    found, cost = results_of(done), {}
    rows = compare(found, "likes").set_index("rival")
    prompts = [f"{side} {kind}" for side in SIDES for kind in ("system prompt", "few-shot")]
    vectors = [f"{name}, {side} multipliers" for name in METHODS[2:] for side in SIDES]
    assert set(rows.index) == {*prompts, *vectors}
    effects, costs = (found.tables[name] for name in ("dose_response", "divergence"))
    for name, row in rows.iterrows():
        side = "negative" if "negative" in name else "positive"
        own = caa.evaluation.at_equal_cost(effects, costs, cost=row["cost"])
        (own,) = own[(own["side"] == side) & (own["kind"] == "vector")].to_dict("records")
        assert own["reached"] == (row["does"] != BEYOND)
        assert row[["own", "own_low", "own_high"]].tolist() == pytest.approx(
            [own[f"effect{end}"] for end in ("", "_low", "_high")], nan_ok=True
        )
        cost[name] = row["cost"]
    found = named_means(found.tables["rival_costs"])
    assert {name: cost[name] for name in prompts} == pytest.approx({name: found[name] for name in prompts})


def named_means(costs: pd.DataFrame) -> dict[str, float]:
    return costs.groupby("baseline")["divergence"].mean().to_dict()


def results_of(folder) -> Results:
    found = tables(folder)
    return Results({name: table for name, table in found.items() if len(table)}, {}, 0)


@pytest.mark.parametrize(
    ("shift", "does"), [(5.0, ("more", "less")), (-5.0, ("less", "more")), (0.0, ("intervals overlap",) * 2)]
)
def test_one_does_more_where_it_is_beyond_the_vectors_interval(tmp_path, shift, does):
    """Made-up scores: a prompt for each side, about at the cost of multiplier 1, ``shift`` beside its effect."""
    folder = write_study(tmp_path, {"likes": 0.5})
    found = results_of(folder)
    for name, measure, at in (("dose_response", "logit_difference", None), ("divergence", "divergence", 0.3)):
        own = found.tables[name].query("vector == 'likes'").assign(baseline="none")
        bare = own[own["multiplier"] == 0].assign(vector="unsteered", kind="unsteered", layer=float("nan"))
        parts = [bare]
        for sign, side in ((1, "positive"), (-1, "negative")):
            moved = own.loc[own["multiplier"] == sign, measure].to_numpy()
            moved = moved + shift if at is None else at
            parts.append(bare.assign(baseline=f"{side} system prompt", **{measure: moved}))
        found.tables[{"dose_response": "rivals", "divergence": "rival_costs"}[name]] = pd.concat(parts)
    rows = compare(found, "likes")
    assert tuple(rows["does"]) == does
    if shift:
        (part,) = [one for one in section(found) if one.level == 3]
        assert f"more: {'positive' if shift > 0 else 'negative'} system prompt" in part.finding
        assert "1 of 2 rivals do more than the vector" in sentence(found)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rivals": {"methods": ["system prompt"]}}, "did you mean 'system prompts'"),
        ({"rivals": {"method": ["system prompts"]}}, "did you mean 'methods'"),
        ({"rivals": {"methods": ["attention heads"] * 2}}, "lists one twice"),
        ({"costs": {"prompts": 0}}, "costs.prompts is 0, but rivals are compared at equal cost"),
        ({"n_train": 4}, "'attention heads' need at least 5 train pairs, but 4 make the vector of 'likes'"),
        ({"n_train": 3}, "'few-shot prompts' need at least 4 train pairs, but 3 make"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(behavior, changed, message):
    with pytest.raises(InputError, match=message):
        ExperimentConfig(**{"behaviors": [behavior], **LESS, "rivals": {"methods": METHODS}, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"system_prompts": {}}, "'likes' has no 'system_prompts'"),
        ({"open_ended": ()}, "'likes' has no 'open_ended'"),
        ({"name": "learned vector"}, "'learned vector' is a rival, and the name of a behavior"),
    ],
)
def test_a_behavior_holds_what_they_need(behavior, tmp_path, changed, message):
    dataclasses.replace(caa.load_behavior(behavior), **changed).save(tmp_path / "likes.json")
    with pytest.raises(InputError, match=message):
        ExperimentConfig(behaviors=[tmp_path / "likes.json"], rivals={"methods": METHODS})


def test_a_prompt_that_does_not_fit_is_told_before_anything_is_computed(behavior, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    long = dataclasses.replace(caa.load_behavior(behavior), system_prompts={"positive": "Like all. " * 80})
    long.save(tmp_path / "likes.json")
    rivals = {"methods": ["system prompts"]}
    config = ExperimentConfig(behaviors=[tmp_path / "likes.json"], models=[tiny_folder], rivals=rivals, **LESS)
    with pytest.raises(InputError, match="256"):
        run_experiment(config, tmp_path / "run", say=lambda _: None)
    # What was done is the check of all else, which counts tokens.
    (kept,) = (tmp_path / "run" / "shards").rglob("*.parquet")
    assert list(pd.read_parquet(kept)) == ["what", "number", "n_tokens"]


def test_processes_find_the_same_to_the_last_bit(done, behavior, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    rivals = {"methods": METHODS}
    config = ExperimentConfig(behaviors=[behavior], models=[tiny_folder], rivals=rivals, **ASKED, **LESS)
    with Processes(2) as executor:
        folder = run_experiment(config, tmp_path / "run", executor=executor, say=lambda _: None)
    before, after = tables(done), tables(folder)
    for name in ("rivals", "rival_costs"):
        pd.testing.assert_frame_equal(before[name], after[name], check_exact=True)


def test_each_vector_is_made_once(done):
    record = json.loads((done / "manifest.json").read_text(encoding="utf-8"))
    kinds = Counter(one["kind"] for one in record["shards"])
    assert (kinds["rival_vectors"], kinds["rivals"], kinds["rival_costs"]) == (2, 1, 1)
