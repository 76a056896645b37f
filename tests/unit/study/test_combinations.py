"""Several interventions at once in a study are what the library does with the same interventions."""

import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.errors import InputError
from caa_interp.study import ExperimentConfig
from caa_interp.study.combinations import section
from caa_interp.study.results import Results, scores_and_costs
from caa_interp.study.run import run_experiment
from tests.unit.study.test_run import likes_file

BAND = {"name": "band", "interventions": [{"vector": "likes", "layers": [1, 2], "multiplier": 0.5}]}
CAPPED = {
    "name": "likes, agrees capped",
    "interventions": [{"vector": "likes", "positions": "answer"}, {"vector": "agrees", "operator": "Cap(high=0.1)"}],
}


@pytest.fixture(scope="module")
def behaviors(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("behaviors")
    likes = likes_file(folder / "likes.json", "Yes, I like", "No, I do not like")
    return [str(likes), str(likes_file(folder / "agrees.json", "I agree with you on", "I do not agree on"))]


def fields(behaviors: list[str], **given):
    return {"behaviors": behaviors, "format": "text", "n_validation": 4, "combinations": [BAND, CAPPED], **given}


def test_a_study_scores_and_prices_them_as_the_library_does(behaviors, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    less = {"answers": {"prompts": 0}, "side_effects": {"pairs": 0}, "controls": {"random": 1, "shuffled": 0}}
    costs = {"costs": {"passages": 0, "questions": 0, "prompts": 1}}
    config = ExperimentConfig(
        **fields(behaviors, **less, **costs, models=[tiny_folder], layers=[1, 2], multipliers=[-1, 0, 1], n_test=3)
    )
    folder = run_experiment(config, tmp_path / "run", say=lambda _: None)
    tables = {path.stem: pd.read_parquet(path) for path in (folder / "tables").glob("*.parquet")}
    layer = tables["layers"].set_index("behavior")["layer"]
    vectors = {
        name: caa.SteeringVector.load(next((folder / "vectors").rglob(f"{name}.safetensors")))
        for name in ("likes", "agrees")
    }
    model = caa.load_model(tiny_folder, device="cpu")
    band = [caa.Intervention(vectors["likes"], one, 0.5) for one in (1, 2)]
    capped = [
        caa.Intervention(vectors["likes"], int(layer["likes"]), positions="answer"),
        caa.Intervention(vectors["agrees"], int(layer["agrees"]), operator=caa.Cap(high=0.1)),
    ]
    steering = {"band": band, "likes, agrees capped": capped}
    both = scores_and_costs(tables["combinations"].set_index("behavior"))
    for name, path in zip(("likes", "agrees"), behaviors, strict=True):
        behavior = caa.load_behavior(path)
        scored, priced = (table.loc[name] for table in both)
        pairs = [pair for pair in behavior.test if pair.id in set(scored["id"])]
        expected = caa.sweep(model, steering, pairs, format="text", progress=False)
        keys = ["id", "vector"]
        found = expected.merge(scored, on=keys, suffixes=("", "_study"), validate="one_to_one")
        assert len(found) == len(expected) == 2 * 3
        assert found["logit_difference"].tolist() == pytest.approx(found["logit_difference_study"].tolist(), abs=1e-5)
        assert found["operator"].tolist() == found["operator_study"].tolist()
        costs = caa.divergence(model, steering, behavior.open_ended[:1], progress=False)
        shown = priced[priced["kind"] != "unsteered"].set_index("vector")["divergence"]
        assert costs.set_index("vector")["divergence"].to_dict() == pytest.approx(shown.to_dict(), abs=1e-6)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Combinations" in page
    assert "likes, agrees capped" in page
    assert "own vector stands beside them" in page


@pytest.mark.parametrize(("format", "unit"), [("text", "nats per token"), ("choices", "nats")])
def test_without_prompts_the_page_shows_effects_alone_with_their_unit(format, unit):
    steered = {"kind": "vector", "layer": 1, "multiplier": 1.0}
    rows = [
        {"item": item, "behavior": "likes", "format": format, "divergence": float("nan"), **given}
        for item in range(3)
        for given in (
            {"vector": "unsteered", **steered, "kind": "unsteered", "multiplier": 0.0, "logit_difference": 0.5},
            {"vector": "band", **steered, "logit_difference": 1.5},
        )
    ]
    (shown,) = section(Results({"combinations": pd.DataFrame(rows)}, {}, seed=0))
    assert list(shown.table) == ["behavior", "combination", f"effect ({unit}, 95 % interval)", "n"]
    assert shown.table["combination"].tolist() == ["band"]
    assert shown.figure is None
    assert "beside" not in shown.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "likes"}, "would be one in tables"),
        ({"interventions": [{"vector": "like"}]}, "it must be one of likes, agrees; did you mean 'likes'"),
        ({"interventions": [{"vector": "likes", "layers": [3]}]}, "layers has 3, which is none of the study's"),
        ({"interventions": [{"vector": "likes", "operator": "Cup(high=1)"}]}, "operator"),
        ({"interventions": [{"vector": "likes", "layer": 3}]}, "did you mean 'layers'"),
        ({"interventions": []}, "interventions"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(behaviors, changed, message):
    with pytest.raises(InputError, match=message):
        ExperimentConfig(**fields(behaviors, layers=[1, 2], combinations=[{**BAND, **changed}]))


def test_they_name_no_files(behaviors):
    named = [{**BAND, "name": name} for name in ("诚实", "勇气", "a b", "a/b")]
    assert len(ExperimentConfig(**fields(behaviors, combinations=named)).combinations) == 4
    with pytest.raises(InputError, match=r"\('Band', 'band'\) would be one in tables\. Give each combination another"):
        ExperimentConfig(**fields(behaviors, combinations=[{**BAND, "name": "Band"}, BAND]))


def test_a_file_of_a_study_holds_them(behaviors, tmp_path):
    config = ExperimentConfig(**fields(behaviors))
    path = tmp_path / "study.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert ExperimentConfig.load(path) == config
    other = ExperimentConfig(**fields(behaviors, combinations=[BAND]))
    assert "combinations" in other.differences(path)[0]
