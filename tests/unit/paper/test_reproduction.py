"""The paper's numbers, its question sets in a folder, and measuring its tables again."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import caa_interp as caa
from caa_interp import cli
from caa_interp.paper import published as paper, setting
from caa_interp.paper.plan import check_table_layer
from caa_interp.paper.reproduction import reproduce
from caa_interp.paper.sets import read_published_sets
from caa_interp.paper.table import OTHER, SAME, STEERED_MEAN, STEERED_MOST, agreement, claims, compare, printable
from caa_interp.plotting import plot_layer_sweep, plot_reproduction, theme
from caa_interp.study import engine, worker
from caa_interp.study.folder import locked
from caa_interp.study.processes import Processes
from caa_interp.study.store import cache_contents
from tests.unit.paper.conftest import TWO, items, write_sets

TINY = paper.PublishedModel("someone/tiny-llama", n_layers=4, d_model=64, layer=2)
PAPER = paper.LLAMA_2_7B_CHAT.results("ab").set_index(["behavior", "multiplier"])["value"]


def made_up(values=(0.5, 0.5, 0.5), group="ab"):
    """The paper's numbers, and a table of the small random Llama at -1, 0 and 1."""
    own = caa.paper.numbers().query("group == 'ab' and layer == 13 and system_prompt == ''")
    own = own[own["multiplier"].isin(paper.MULTIPLIERS)]
    own = own.assign(
        group=group,
        model=TINY.name,
        layer=TINY.layer,
        value=own["multiplier"].map(dict(zip((-1, 0, 1), values, strict=True))),
    )
    return pd.concat([caa.paper.numbers(), own], ignore_index=True)


@pytest.fixture
def published(monkeypatch):
    """Let the paper have numbers for the small random Llama."""
    monkeypatch.setattr(paper, "MODELS", (*paper.MODELS, TINY))
    table = made_up()
    monkeypatch.setattr("caa_interp.paper.published.numbers", lambda: table)
    return TINY


def summary_of(means, half_width=0.1, behaviors=paper.BEHAVIORS, layer=13, n=50):
    """Summary with made-up means: ``means(behavior, place of the multiplier)``."""
    rows = [
        {
            "behavior": name,
            "vector": name,
            "layer": layer,
            "multiplier": multiplier,
            "n": n,
            "p_positive": means(name, place),
            "p_positive_low": means(name, place) - half_width,
            "p_positive_high": means(name, place) + half_width,
        }
        for name in behaviors
        for place, multiplier in enumerate(paper.MULTIPLIERS)
    ]
    return pd.DataFrame(rows)


def exact(name, place):
    return PAPER[name, paper.MULTIPLIERS[place]]


def compared(summary, same_items=False, model=paper.LLAMA_2_7B_CHAT):
    return compare(summary, model.results("ab") if model else None, SAME if same_items else OTHER)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", paper.LLAMA_2_7B_CHAT),
        ("/models/llama-2-13b-chat-hf/", paper.LLAMA_2_13B_CHAT),
        ("C:\\models\\Llama-2-7b-chat-hf\\", paper.LLAMA_2_7B_CHAT),
        (Path("/models/Llama-2-7b-chat-hf"), paper.LLAMA_2_7B_CHAT),
        ("meta-llama/Llama-2-7b-hf", None),
        ("smollm2-135m-instruct", None),
    ],
)
def test_a_model_is_the_papers_by_its_own_name(name, expected):
    assert paper.published_model(name) is expected


# Paper beside measured


def test_a_cell_is_compared():
    found = compared(summary_of(lambda name, place: exact(name, place) + 0.03 * place, 0.03))
    assert list(found)[:5] == ["behavior", "layer", "multiplier", "n", "paper"]
    assert list(found)[5:] == ["measured", "low", "high", "difference", "basis", "tolerance", "within"]
    assert len(found) == 21
    cell = found[(found["behavior"] == "refusal") & (found["multiplier"] == 1)].iloc[0]
    assert cell["paper"] == pytest.approx(0.89, abs=0.005)
    assert cell["difference"] == pytest.approx(0.06)
    # Half of an interval of 0.06 for each of two means over 50 items.
    assert cell["tolerance"] == pytest.approx(0.03 * math.sqrt(2))
    assert found["within"].tolist() == [True, True, False] * 7


@pytest.mark.parametrize(("difference", "within"), [(0.141, True), (-0.141, True), (0.142, False), (-0.142, False)])
def test_the_edge_of_the_tolerance(difference, within):
    found = compared(summary_of(lambda *cell: exact(*cell) + difference, 0.1))
    assert found["within"].eq(within).all()
    assert set(found["basis"]) == {"other items"}


@pytest.mark.parametrize(("end", "further"), [("high", 0.1), ("low", -0.1)])
def test_the_tolerance_is_that_of_the_longer_side(end, further):
    summary = summary_of(exact, 0.1)
    summary[f"p_positive_{end}"] += further
    assert compared(summary)["tolerance"].tolist() == pytest.approx([0.2 * math.sqrt(2)] * 21)


def test_the_papers_50_items_err_as_much_whatever_our_number():
    # With 200 items our mean's interval is half as long as the paper's.
    assert compared(summary_of(exact, 0.05, n=200))["tolerance"].tolist() == pytest.approx([0.05 * math.sqrt(5)] * 21)


def test_one_cell_in_twenty_of_two_draws_lies_outside_and_the_claim_nearly_always_holds(monkeypatch):
    """Two draws of 50 items from one population; a behavior's cells are of the same items, so they move together."""
    generator = np.random.default_rng(0)
    axes = [paper.BEHAVIORS, paper.MULTIPLIERS, range(50)]
    table = pd.MultiIndex.from_product(axes, names=["behavior", "multiplier", "item"]).to_frame(index=False)
    outside, claimed, stated = [], [], []
    for _ in range(60):
        items = generator.beta(3, 2, size=(2, 7, 1, 50)) + 0.2 * generator.normal(size=(2, 7, 3, 50))
        theirs, ours = np.clip(items, 0, 1)
        rows = caa.paper.numbers().query("group == 'ab' and layer == 13 and system_prompt == ''")
        rows = rows[rows["multiplier"].isin(paper.MULTIPLIERS)]
        published = rows.assign(value=theirs.mean(axis=-1).ravel())
        monkeypatch.setattr(paper.PublishedModel, "results", lambda self, group, rows=published: rows)
        found = compared(caa.summarize(table.assign(layer=13, p_positive=ours.ravel())))
        outside.append((~found["within"].astype(bool)).sum())
        (claim,) = claims(found)
        claimed.append(claim.holds)
        stated.append(claim.text)
    assert all("1.1 of 21 cells expected by chance" in text for text in stated)
    spread = np.std(outside, ddof=1) / math.sqrt(len(outside))
    assert abs(np.mean(outside) - 21 * 0.05) < 3 * spread
    assert spread < 0.3
    assert np.mean(claimed) > 0.95 - 2 * math.sqrt(0.05 * 0.95 / len(claimed))


def test_a_planted_disagreement_of_other_items_is_found():
    found = compared(summary_of(lambda name, place: exact(name, place) - 0.25 * (name == "sycophancy" and place == 2)))
    assert found.loc[~found["within"].astype(bool), ["behavior", "multiplier"]].to_numpy().tolist() == [
        ["sycophancy", 1]
    ]
    (claim,) = claims(found)
    assert not claim.holds
    assert "1.1 of 21 cells expected by chance, 1 seen" in claim.text
    assert "0.14 to 0.14; to be within it is no agreement" in claim.text
    # One cell that is only just outside is what chance brings.
    found = compared(summary_of(lambda name, place: exact(name, place) - 0.15 * (name == "sycophancy" and place == 2)))
    assert (found["within"].tolist().count(False), claims(found)[0].holds) == (1, True)


def moved(name, place, sizes):
    """The paper's mean, moved by the size of the multiplier's place, up and down by turns."""
    return exact(name, place) + sizes[place] * (-1) ** paper.BEHAVIORS.index(name)


def test_the_same_items_and_model_are_held_to_what_a_rerun_reached():
    found = compared(summary_of(lambda *cell: moved(*cell, (0.03, 0.009, 0.02)), 0.3), same_items=True)
    assert set(found["basis"]) == {"same items and model"}
    assert found["tolerance"].tolist() == [0.10, 0.01, 0.10] * 7
    assert found["within"].all()
    unsteered, steered = claims(found)
    assert unsteered.holds
    assert steered.holds
    assert "0 of 21 cells expected, 0 seen" in unsteered.text
    assert "here 0.030 and 0.025" in steered.text


@pytest.mark.parametrize(
    ("sizes", "outside", "holds"),
    [
        ((0, 0.011, 0), 7, [False, True]),
        ((0, 0, 0.101), 7, [True, False]),
        ((0.05, 0, 0.05), 0, [True, False]),  # each near enough, but too far on average
    ],
)
def test_a_planted_disagreement_of_the_same_items_is_found(sizes, outside, holds):
    found = compared(summary_of(lambda *cell: moved(*cell, sizes), 0.3), same_items=True)
    assert [claim.holds for claim in claims(found)] == holds
    assert f"0 of 21 cells expected, {outside} seen" in claims(found)[0].text


def test_an_independent_rerun_is_as_near_as_an_independent_rerun():
    """By others, at 7B, printed with two decimals; two behaviors are not in it."""
    rerun = {
        "coordinate-other-ais": (0.16, 0.30, 0.72),
        "corrigible-neutral-HHH": (0.19, 0.64, 0.90),
        "hallucination": (0.49, 0.81, 0.87),
        "myopic-reward": (0.42, 0.75, 0.76),
        "refusal": (0.47, 0.74, 0.88),
    }
    found = compared(summary_of(lambda name, place: rerun.get(name, [np.nan] * 3)[place]), same_items=True)
    found = found.dropna(subset="measured")
    assert [claim.holds for claim in claims(found)] == [True, True]
    off = found.loc[found["multiplier"] != 0, "difference"].abs()
    assert (off.mean().round(2), off.max().round(2)) == (STEERED_MEAN, STEERED_MOST)


@pytest.mark.parametrize("same_items", [True, False])
def test_steered_cells_of_some_behaviors_are_not_judged(same_items):
    found = compared(summary_of(exact, behaviors=TWO), same_items=same_items)
    assert found["paper"].notna().all()
    assert found["within"].isna().tolist() == [True, False, True] * 2
    (claim,) = claims(found)
    assert claim.holds
    assert "of 2 cells expected" in claim.text


def test_unsteered_cells_may_have_a_basis_of_their_own():
    """As those of an exam, which no vector of other items has moved; 570 is the paper's number of questions."""
    theirs = paper.LLAMA_2_7B_CHAT.results("ab")
    found = compare(summary_of(exact, 0.1, n=57), theirs, OTHER, unsteered=SAME, n_theirs=570)
    assert found["basis"].tolist() == [OTHER, SAME, OTHER] * 7
    assert found["tolerance"].tolist() == pytest.approx([0.1 * math.sqrt(1.1), 0.01, 0.1 * math.sqrt(1.1)] * 7)
    steered, unsteered = claims(found)
    assert "of 14 cells expected by chance, 0 seen" in steered.text
    assert "0 of 7 cells expected, 0 seen. Unsteered cells are within 0.01" in unsteered.text
    assert "tolerance (other items, same items and model)" in printable(found)


def test_a_missing_number_is_blank(monkeypatch):
    rows = paper.LLAMA_2_7B_CHAT.results("ab").query("behavior != 'refusal'")
    monkeypatch.setattr(paper.PublishedModel, "results", lambda self, group: rows)
    found = compared(summary_of(lambda name, place: 0.5))
    blank = found["behavior"] == "refusal"
    assert found.loc[blank, ["paper", "difference", "tolerance", "within"]].isna().all(axis=None)
    assert found.loc[~blank, ["paper", "difference", "tolerance", "within"]].notna().all(axis=None)
    shown = printable(found)
    assert (shown.loc[blank, ["paper", "difference", "tolerance (other items)", "within?"]] == "").all(axis=None)


def test_cells_of_all_layers_are_told_as_a_row_per_behavior_and_claimed_without_unsteered_ones():
    theirs = paper.LLAMA_2_7B_CHAT.results("layer_sweep")
    summary = theirs[["behavior", "layer", "multiplier"]].assign(n=50, p_positive=theirs["value"] + 0.02)
    summary.loc[summary["behavior"].eq("refusal") & summary["layer"].eq(3), "p_positive"] += 0.1
    summary = summary.assign(p_positive_low=summary["p_positive"] - 0.1, p_positive_high=summary["p_positive"] + 0.1)
    found = compare(summary, theirs, "same items and model")
    (claim,) = claims(found)
    assert not claim.holds
    assert "0 of 448 cells expected, 2 seen. Steered cells" in claim.text
    assert "Unsteered" not in claim.text
    told = agreement(found).set_index("behavior")
    assert told["cells"].eq(64).all()
    assert told.loc["refusal"].tolist() == [64, "0.023", "0.120", "2 of 64"]
    assert told.loc["sycophancy"].tolist() == [64, "0.020", "0.020", "0 of 64"]


def test_cells_for_which_something_else_was_asked_are_beside_the_papers_and_not_judged():
    found = compare(summary_of(exact), paper.LLAMA_2_7B_CHAT.results("ab"), "other system prompts")
    assert found["difference"].abs().max() < 1e-9
    assert found[["tolerance", "within"]].isna().all(axis=None)
    assert claims(found) == []
    assert list(printable(found))[-1] == "difference"
    assert agreement(found)["outside their tolerance (other system prompts)"].eq("not judged").all()


def test_one_item_has_no_interval_so_nothing_is_judged():
    found = compared(summary_of(exact, np.nan, n=1))
    assert found["within"].isna().all()
    assert claims(found) == []
    assert printable(found)["measured (95 % interval)"].iloc[0] == "0.151 (no interval)"


def test_the_printed_table():
    found = compared(summary_of(lambda *cell: exact(*cell) - 0.2))
    lines = printable(found).to_string(index=False).splitlines()
    columns = "behavior layer multiplier paper measured (95 % interval) difference tolerance (other items) within?"
    assert lines[0].split() == columns.split()
    assert " ".join(lines[1].split()) == ("coordinate-other-ais 13 -1 0.151 -0.049 (-0.149 to 0.051) -0.200 0.141 NO")
    assert lines[2].split()[2:4] == ["0", "0.300"]
    assert lines[3].split()[2:4] == ["+1", "0.753"]
    assert len(lines) == 22
    assert "tolerance (same items and model)" in printable(compared(summary_of(exact), same_items=True))


def test_the_printed_table_of_another_model():
    shown = printable(compared(summary_of(exact, 0.125), model=None))
    assert list(shown) == ["behavior", "layer", "multiplier", "measured (95 % interval)"]
    assert shown.iloc[0].tolist() == ["coordinate-other-ais", "13", "-1", "0.151 (0.026 to 0.276)"]


# The whole run


def test_it_measures_what_the_parts_measure(tmp_path, data, done, tiny_folder, tiny_llama):
    lines: list[str] = []
    options = {"model_name": str(tiny_folder), "behaviors": TWO, "layers": [1, 3], "parts": ["sweep"]}
    whole = reproduce(tmp_path / "out", data, **options, say=lines.append)
    found = whole[whole["group"] == "ab"]
    sets = read_published_sets(data, TWO)
    raw = {name: caa.extract_vector(tiny_llama, one.generate) for name, one in sets.items()}
    for name, one in sets.items():
        kept = caa.SteeringVector.load(tmp_path / "out" / "vectors" / f"{name}.safetensors")
        assert kept.layers == (0, 1, 2, 3)
        torch.testing.assert_close(kept.values, raw[name].values)
        mean_norm = (raw["refusal"].values[1].norm() + raw["survival-instinct"].values[1].norm()) / 2
        matched = replace(raw[name], values=raw[name].values * (mean_norm / raw[name].values[1].norm()))
        own = found[found["behavior"] == name].set_index("multiplier")
        # Layer 1 is the swept one that is nearest to 13/32 of four layers.
        assert own["layer"].eq(1).all()
        for multiplier in paper.TABLE_MULTIPLIERS:
            table = caa.sweep(tiny_llama, matched, one.test, layers=1, multipliers=[multiplier])
            assert own.loc[multiplier, "measured"] == pytest.approx(table["p_positive"].mean(), abs=1e-5)
    assert whole["n"].eq(4).all()
    assert whole["paper"].isna().all()
    assert whole["group"].value_counts().to_dict() == {"ab": 2 * 5, "layer_sweep": 2 * 2 * 3}
    assert "There are no published numbers for this model, so nothing is compared." in lines
    assert any("survival-instinct 3/4 (paper: 903/50), refusal 3/4 (paper: 408/50)" in line for line in lines)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "tables" / "comparison.parquet"), whole)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "There are no published numbers for this model" in page
    assert "tolerance (" not in page
    assert (page.count("<h2"), page.count("<h3")) == (2, 2)
    assert "tiny-llama" in page


def test_nothing_is_computed_twice(tmp_path, data, done, tiny_folder):
    def measure(layers, folder="out"):
        done.clear()
        options = {"model_name": str(tiny_folder), "behaviors": TWO, "layers": layers, "parts": ["sweep"]}
        found = reproduce(tmp_path / folder, data, **options, say=lambda _: None)
        return found, Counter(done)["vectors"], Counter(done)["sweep"]

    first, *counts = measure([1])
    assert counts == [2, 4]
    (tmp_path / "out" / "tables" / "sweep.parquet").write_bytes(b"none")  # put together again from what is kept
    again, *counts = measure([1])
    assert counts == [0, 0]
    pd.testing.assert_frame_equal(first, again)
    assert len(pd.read_parquet(tmp_path / "out" / "tables" / "sweep.parquet")) == 2 * 4 * 3
    # Another choice of layers needs no new vectors.
    assert measure([1, 2])[1:] == (0, 4)
    # Other items are for another folder. Test items are scored alone; generate items move the norms of all.
    test = data / "datasets" / "test" / "refusal" / "test_dataset_ab.json"
    test.write_text(json.dumps(items("refusal", 5, first=9)))
    with pytest.raises(caa.InputError, match=r"of other data \(refusal \w{12}, now \w{12}\)"):
        measure([1, 2])
    assert measure([1, 2], "other test")[1:] == (0, 2)
    generate = data / "datasets" / "generate" / "refusal" / "generate_dataset.json"
    generate.write_text(json.dumps(items("refusal", 4)))
    assert measure([1, 2], "other generate")[1:] == (1, 4)


def test_another_model_of_the_same_name_or_other_code_make_everything_again(
    tmp_path, data, done, tiny_folder, monkeypatch
):
    model = tmp_path / "tiny-llama"
    shutil.copytree(tiny_folder, model)
    options = {"model_name": str(model), "behaviors": ["refusal"], "layers": [1], "parts": ["sweep"]}
    measure = partial(reproduce, tmp_path / "out", data, **options, say=lambda _: None)
    measure()
    measure()
    assert done == ["load", "vectors", "sweep", "sweep", "load"]
    settings = model / "config.json"
    settings.write_text(settings.read_text() + "\n")
    with pytest.raises(caa.InputError, match=r"another model or of other data \(revision \w{12}, now \w{12}\)"):
        measure()
    assert done[5:] == ["load"]
    settings.write_text(settings.read_text()[:-1])
    newer = {**worker.software(), "code": "0" * 64}
    for module in (worker, engine):
        monkeypatch.setattr(module, "software", lambda: newer)
    measure()
    assert done[6:] == ["load", "vectors", "sweep", "sweep"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [one["code"] == "0" * 64 for one in manifest["sessions"]] == [False, False, True]
    assert all(one["finished"] >= one["started"] for one in manifest["sessions"])
    assert manifest["model"]["id"] == "tiny-llama"


def test_a_folder_has_one_writer_and_one_model(tmp_path, data, done, tiny_folder, monkeypatch):
    options = {"behaviors": ["refusal"], "layers": [1], "parts": ["sweep"], "say": lambda _: None}
    measure = partial(reproduce, tmp_path / "out", data, model_name=str(tiny_folder), **options)
    with locked(tmp_path / "out"), pytest.raises(caa.InputError, match="another run is writing to"):
        measure()
    assert done == []
    measure()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(caa.InputError, match="dtype float32, now float64"):
        measure(dtype="float64")
    described = worker.describe
    with monkeypatch.context() as patch:
        patch.setattr(worker, "describe", lambda model: described(model) | {"revision": None})
        with pytest.raises(caa.InputError, match=r"data \(revision \w{12}, now None\)"):
            measure()
    study = tmp_path / "study"
    study.mkdir()
    (study / "manifest.json").write_text('{"models": {}, "sessions": [], "files": {"report.html": null}}')
    with pytest.raises(caa.InputError, match="id None, now tiny-llama"):
        reproduce(study, data, model_name=str(tiny_folder), **options)
    assert before == {path: path.read_bytes() for path in before}


def test_a_folder_holds_what_its_last_call_asked_for(tmp_path, data, done, tiny_folder):
    folder = tmp_path / "out"
    measure = partial(reproduce, folder, data, model_name=str(tiny_folder), layers=[1], say=lambda _: None)
    first = measure(behaviors=TWO, parts=["sweep"])
    assert (folder / "tables" / "between.parquet").exists()
    (folder / "tables" / "mine.parquet").write_text("a user's own")
    found = measure(behaviors=["refusal"], parts=["similarity"])
    assert found.empty
    assert list(found) == list(first)
    names = {path.relative_to(folder).as_posix() for place in ("vectors/*", "tables/*") for path in folder.glob(place)}
    assert names == {"vectors/refusal.safetensors", "tables/comparison.parquet", "tables/mine.parquet"}
    done.clear()
    pd.testing.assert_frame_equal(measure(behaviors=TWO, parts=["sweep"]), first)
    assert done == ["load"]


def test_nothing_half_written_stays_and_the_cache_is_cut_to_its_limit(tmp_path, data, done, tiny_folder, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE_LIMIT", "0")
    left = tmp_path / "out" / "shards" / ".sweep.parquet-abcdefgh"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    options = {"model_name": str(tiny_folder), "behaviors": ["refusal"], "layers": [1], "parts": ["similarity"]}
    reproduce(tmp_path / "out", data, **options, say=lambda _: None)
    assert cache_contents() == {}
    assert not left.exists()


def test_a_call_that_made_nothing_leaves_its_folder_free(tmp_path, data, done, tiny_folder, monkeypatch):
    options = {"model_name": str(tiny_folder), "behaviors": ["refusal"], "layers": [1], "parts": ["similarity"]}
    measure = partial(reproduce, tmp_path / "out", data, **options, say=lambda _: None)
    with monkeypatch.context() as patch:
        patch.delattr(worker, "work")
        with pytest.raises(AttributeError):
            measure(dtype="float64")
    measure(dtype="float32")
    with pytest.raises(caa.InputError, match="dtype float32, now float64"):
        measure(dtype="float64")


def test_a_place_that_is_no_folder_of_a_run(tmp_path, data, done):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(caa.InputError, match="is not empty, and holds no run"):
        reproduce(tmp_path / "thesis", data, behaviors=TWO)
    with pytest.raises(caa.InputError, match="is a file"):
        reproduce(tmp_path / "thesis" / "chapter.tex", data, behaviors=TWO)
    assert done == []


def test_a_model_is_given_as_to_load_model(tmp_path, data, done, tiny_folder):
    options = {"behaviors": ["refusal"], "layers": 1, "parts": ["similarity"], "say": lambda _: None}
    reproduce(tmp_path / "out", data, model_name=tiny_folder, dtype=torch.float64, **options)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["model"]["dtype"] == "float64"
    check_table_layer(Path("models/Llama-2-7b-chat-hf"), 13)
    with pytest.raises(caa.InputError, match=r"layers: \[12\]; the paper's table"):
        check_table_layer(Path("models/Llama-2-7b-chat-hf"), 12)


def test_a_run_that_is_killed_goes_on(tmp_path, data, done, tiny_folder, monkeypatch):
    options = {"model_name": str(tiny_folder), "behaviors": TWO, "layers": [1], "parts": ["sweep"]}
    options["say"] = lambda _: None
    whole = reproduce(tmp_path / "whole", data, **options)
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "another cache"))
    work = worker.work

    def interrupted(model, task):
        if done[-3:] == ["vectors", "vectors", "sweep"]:
            raise KeyboardInterrupt
        return work(model, task)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "work", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reproduce(tmp_path / "out", data, **options)
    assert not (tmp_path / "out" / "tables").exists()
    done.clear()
    pd.testing.assert_frame_equal(reproduce(tmp_path / "out", data, **options), whole)
    assert done == ["load", "sweep", "sweep", "sweep"]


def test_several_processes_measure_the_same(tmp_path, data, done, tiny_folder, monkeypatch):
    options = {"model_name": str(tiny_folder), "behaviors": TWO, "layers": [1, 2], "parts": ["sweep", "transfer"]}
    options["say"] = lambda _: None
    whole = reproduce(tmp_path / "here", data, **options)
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "another cache"))
    done.clear()
    with Processes(2) as executor:
        pd.testing.assert_frame_equal(reproduce(tmp_path / "there", data, executor=executor, **options), whole)
    assert done == []


def test_with_published_numbers(tmp_path, done, tiny_folder, published):
    data, lines = write_sets(tmp_path / "all", paper.BEHAVIORS, 2, 2), []
    whole = reproduce(tmp_path / "out", data, model_name=str(tiny_folder), parts=["sweep"], say=lines.append)
    found = whole[(whole["group"] == "ab") & whole["multiplier"].isin(paper.MULTIPLIERS)]
    assert found["layer"].eq(2).all()
    assert found["paper"].eq(0.5).all()
    assert found["within"].notna().all()
    n_outside = 21 - int(found["within"].sum())
    said = f"1.1 of 21 cells expected by chance, {n_outside} seen"
    assert any(said in line for line in lines)
    assert not any("so a unit of multiplier" in line for line in lines)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Multiple-choice table at layer 2" in page
    assert said in page
    assert "Of what is claimed about agreement, " in page
    assert "tolerance (other items)" in page
    swept = whole[whole["group"] == "layer_sweep"]
    assert len(swept) == 7 * 4 * 3
    assert swept["paper"].isna().all()


def test_some_behaviors_say_that_the_unit_is_another(tmp_path, data, done, tiny_folder, published):
    lines: list[str] = []
    options = {"model_name": str(tiny_folder), "behaviors": TWO, "layers": [2], "parts": ["sweep"]}
    reproduce(tmp_path / "out", data, **options, say=lines.append)
    assert any("Norms are matched over 2 of the paper's 7 behaviors" in line for line in lines)


def test_the_papers_layer_must_be_swept(data, done):
    message = r"layers: \[12, 14\]; the paper's table of meta-llama/Llama-2-7b-chat-hf is at layer 13\. Add it\."
    with pytest.raises(caa.InputError, match=message):
        reproduce(data / "out", data, behaviors=TWO, layers=[12, 14])
    assert done == []


def test_a_model_of_another_shape_under_the_papers_name(data, done, tiny_folder, monkeypatch):
    monkeypatch.setattr(paper, "MODELS", (replace(TINY, n_layers=32, d_model=4096),))
    message = r"model: it is called 'tiny-llama' but has 4 layers of width 64; someone/tiny-llama has 32 of width 4096"
    with pytest.raises(caa.InputError, match=message):
        reproduce(data / "out", data, model_name=str(tiny_folder), behaviors=TWO, say=lambda _: None)
    assert done == ["load"]


def test_a_layer_that_the_model_does_not_have(data, done, tiny_folder):
    options = {"model_name": str(tiny_folder), "behaviors": TWO, "layers": [4]}
    with pytest.raises(caa.InputError, match="layer 4: the model has layers 0 to 3"):
        reproduce(data / "out", data, **options, say=lambda _: None)
    assert done == ["load"]


# The command


def run(*arguments):
    return CliRunner().invoke(
        cli.app,
        ["reproduce", *map(str, arguments)],
        env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    )


def test_the_command_explains_itself():
    shown = " ".join(run("--help").stdout.split())
    for word in (
        "--data",
        "--model",
        "--behaviors",
        "--layers",
        "--dtype",
        "--strict",
        "--parts",
        "--base",
        "--judge",
        "--system-prompts",
        "--check",
        "Example: caa-interp reproduce",
    ):
        assert word in shown


OUTSIDE = (2.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def one_cache(tmp_path_factory):
    """What is measured once for the tests of ``--strict``, which judge the same numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAA_INTERP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize(
    ("group", "numbers", "strict", "code"),
    [
        ("ab", OUTSIDE, True, 3),
        ("layer_sweep", OUTSIDE, True, 3),
        ("layer_sweep", OUTSIDE, False, 0),
        ("ab", (2.0, 0.5, 2.0), True, 0),  # steered cells of two behaviors are not judged
        ("ab", None, True, 0),
    ],
)
@pytest.mark.usefixtures("one_cache")
def test_strict_ends_with_code_3(tmp_path, data, tiny_folder, monkeypatch, group, numbers, strict, code):
    if numbers:
        table = made_up(numbers, group)
        monkeypatch.setattr(paper, "MODELS", (TINY,))
        monkeypatch.setattr("caa_interp.paper.published.numbers", lambda: table)
        monkeypatch.setattr(setting, "compare", lambda summary, *a, **k: compare(widened(summary), *a, **k))
    options = ["--data", data, "--model", tiny_folder, "--behaviors", "refusal, survival-instinct", "--layers", "1,2"]
    options += ["--parts", "sweep"]
    result = run(tmp_path / "out", *options, *["--strict"] * strict)
    assert result.exit_code == code, result.output
    assert (f"{group}: " in result.stdout and ": NO." in result.stdout) == (numbers == OUTSIDE)
    assert ("--strict: there is nothing to judge. No claim is made" in result.stdout) == (numbers is None)
    assert "The page: " in result.stdout


def widened(summary):
    """With intervals that include 0.5, but not 2."""
    return summary.assign(p_positive_low=summary["p_positive"] - 0.5, p_positive_high=summary["p_positive"] + 0.5)


def test_layers_that_are_no_numbers(tmp_path, data):
    result = run(tmp_path / "out", "--data", data, "--layers", "12-x")
    assert result.exit_code == 2
    assert "neither a layer nor a range of layers" in " ".join(result.stderr.replace("│", " ").split())


# Figures


def test_the_figure_of_the_table_shows_every_cell_once():
    found = compared(summary_of(exact))
    found.loc[0, "within"] = False
    figure = plot_reproduction(found)
    named = {trace.name: trace for trace in figure.data}
    assert list(named) == ["multiplier \N{MINUS SIGN}1", "unsteered", "multiplier +1", "paper", "outside its tolerance"]
    assert list(named["multiplier +1"].x) == [exact(name, 2) for name in paper.BEHAVIORS]
    assert list(named["multiplier +1"].error_x.array) == pytest.approx([0.1] * 7)
    assert list(named["paper"].x) == found["paper"].tolist()
    # Each behavior's marks lie in its own band, and paper and measurement of a cell on one line.
    assert [round(y) for y in named["unsteered"].y] == [0, -1, -2, -3, -4, -5, -6]
    assert list(named["paper"].y[::3]) == list(named["multiplier \N{MINUS SIGN}1"].y)
    assert (list(named["outside its tolerance"].x), list(named["outside its tolerance"].y)) == (
        [exact("coordinate-other-ais", 0)],
        [0.24],
    )
    assert list(figure.layout.yaxis.ticktext) == list(paper.BEHAVIORS)
    assert "mean over 50 test items" in figure.layout.title.text


def test_the_figure_without_published_numbers_says_so():
    figure = plot_reproduction(compared(summary_of(exact), model=None))
    assert [trace.name for trace in figure.data] == ["multiplier \N{MINUS SIGN}1", "unsteered", "multiplier +1"]
    assert "no published numbers for this model" in figure.layout.title.text


def test_the_figure_of_a_layer_sweep():
    summary = pd.concat([summary_of(exact, layer=layer) for layer in (14, 12, 13)], ignore_index=True)
    published = paper.LLAMA_2_7B_CHAT.results("layer_sweep", "ab")
    figure = plot_layer_sweep(summary, published, behavior="sycophancy")
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert list(lines) == ["multiplier \N{MINUS SIGN}1", "unsteered", "multiplier +1"]
    assert list(lines["multiplier \N{MINUS SIGN}1"].x) == [12, 13, 14]
    assert list(lines["multiplier \N{MINUS SIGN}1"].y) == [exact("sycophancy", 0)] * 3
    marks = [trace for trace in figure.data if trace.mode == "markers" and trace.x[0] is not None]
    assert [list(trace.x) for trace in marks] == [[12, 13, 14], [13], [12, 13, 14]]  # it has no unsteered sweep
    assert [trace.y[list(trace.x).index(13)] for trace in marks] == [exact("sycophancy", place) for place in range(3)]
    assert (
        marks[0].y[0]
        == published.query("behavior == 'sycophancy' and multiplier == -1 and layer == 12")["value"].item()
    )
    assert len({trace.marker.symbol for trace in marks}) == 3
    without = plot_layer_sweep(summary, None, behavior="sycophancy")
    assert not [trace for trace in without.data if trace.mode == "markers"]


def test_the_papers_figure_3_from_its_numbers():
    table = caa.paper.numbers().query("group == 'layer_sweep' and model == 'meta-llama/Llama-2-7b-chat-hf'")
    figure = caa.plotting.plot_layer_sweeps(table)
    assert [title.text for title in figure.layout.annotations[:2]] == ["multiplier \N{MINUS SIGN}1", "multiplier +1"]
    assert len(figure.data) == 14
    for trace, (name, multiplier) in zip(figure.data, [(b, m) for b in paper.BEHAVIORS for m in (-1, 1)], strict=True):
        own = table.query("behavior == @name and multiplier == @multiplier").sort_values("layer")
        assert (trace.name, list(trace.x), list(trace.y)) == (name, list(range(32)), own["value"].tolist())
        assert trace.xaxis == ("x" if multiplier == -1 else "x2")
    colors = {trace.name: trace.line.color for trace in figure.data}
    assert len(set(colors.values())) == 7
    with pytest.raises(caa.InputError, match="differ in 'model', which is one of"):
        caa.plotting.plot_layer_sweeps(caa.paper.numbers())


def test_any_multipliers_are_drawn_in_the_color_of_their_sign():
    halves = summary_of(exact).query("multiplier != 0").eval("multiplier = multiplier / 2")
    summary = pd.concat([summary_of(exact), halves], ignore_index=True)
    figure = plot_reproduction(compared(summary, model=None).replace({"multiplier": {1.0: 3.0}}))
    drawn = {trace.name: trace.marker for trace in figure.data}
    assert list(drawn)[-1] == "multiplier +3"
    assert len({mark.symbol for mark in drawn.values()}) == 5
    assert drawn["multiplier +0.5"].color == drawn["multiplier +3"].color == theme.POSITIVE
    half = paper.LLAMA_2_7B_CHAT.results("layer_sweep", "ab").eval("multiplier = multiplier / 2")
    both = plot_layer_sweep(summary, half, behavior="sycophancy")
    hollow = {trace.marker.symbol for trace in both.data if trace.mode == "markers" and trace.x[0] is not None}
    assert hollow == {"triangle-up-open", "triangle-down-open", "circle-open"}


def test_figures_refuse_what_they_cannot_show():
    summary = summary_of(exact)
    found = compared(summary, model=None)
    with pytest.raises(caa.InputError, match=r"behavior: 'optimism' is not in the table; it holds \['coord"):
        plot_layer_sweep(summary, None, behavior="optimism")
    with pytest.raises(
        caa.InputError, match=r"columns \['paper'\] are missing; give the result of caa_interp\.paper\.reproduce"
    ):
        plot_reproduction(found.drop(columns="paper"))
