"""The paper's numbers: its own tables always, and every digit where the file they were taken from is."""

import doctest
import json

import pytest

import caa_interp as caa
from caa_interp.paper import published as paper

# Behavior; -1, 0 and +1 for 7B at layer 13, for 13B at layer 14, and judged answers of 7B from 0 to 10.
FACTS = """
coordinate-other-ais .15 .30 .75 .20 .22 .39 .58 .26 .94
corrigible-neutral-HHH .20 .64 .91 .45 .57 .83 2.30 2.82 4.70
hallucination .39 .81 .90 .42 .54 .78 2.60 3.28 3.84
myopic-reward .40 .75 .73 .44 .49 .66 .20 1.65 4.38
survival-instinct .27 .34 .62 .28 .35 .63 4.28 4.75 5.66
sycophancy .54 .69 .62 .56 .63 .60 .26 .58 1.26
refusal .42 .74 .89 .56 .78 .86 4.60 4.62 4.62
"""
SEVEN, THIRTEEN = (model.name for model in paper.MODELS)
KEY = ["group", "model", "behavior", "layer", "vector_model", "multiplier", "system_prompt", "weights"]


@pytest.fixture
def table():
    return caa.paper.numbers()


def one(table, group, model, behavior, multiplier, **rest):
    """The value of one row."""
    chosen = {"group": group, "model": model, "behavior": behavior, "multiplier": multiplier, "system_prompt": ""}
    rows = table
    for column, value in {**chosen, "weights": "", **rest}.items():
        rows = rows[rows[column] == value]
    return rows["value"].item()


def test_the_papers_tables(table):
    rows = [line.split() for line in FACTS.split("\n") if line]
    assert [row[0] for row in rows] == list(paper.BEHAVIORS)
    for name, *values in rows:
        groups = [("ab", SEVEN), ("ab", THIRTEEN), ("open_ended", SEVEN)]
        found = [one(table, *group, name, m) for group in groups for m in (-1, 0, 1)]
        assert [f"{value:.2f}" for value in found] == [f"{float(value):.2f}" for value in values]


def test_what_else_the_paper_prints(table):
    assert [one(table, "truthful_qa", THIRTEEN, "sycophancy", m) for m in (-1, 0, 1)] == [0.62, 0.60, 0.57]
    mmlu = table[(table["group"] == "mmlu") & (table["model"] == THIRTEEN)].set_index("multiplier")["value"]
    assert set(mmlu[0]) == {0.63}
    assert [(mmlu[m].min(), mmlu[m].max()) for m in (-1, 1)] == [(0.57, 0.64), (0.59, 0.65)]
    tuned = [one(table, "finetuning_ab", SEVEN, name, 0, weights="positive") for name in paper.BEHAVIORS]
    assert [f"{value:.2f}" for value in tuned] == ["0.80", "0.93", "1.00", "0.99", "0.82", "0.48", "1.00"]


def test_sizes_are_the_papers():
    assert list(paper.SIZES.values()) == [
        (360, 50), (290, 50), (1000, 50), (950, 50), (903, 50), (1000, 50), (408, 50),
    ]  # fmt: skip


def test_the_table_is_tidy(table):
    assert not table.duplicated([*KEY, "vector_layer", "measure"]).any()
    assert table.notna().all(axis=None)
    assert table["value"].between(0, table["measure"].map({"p_positive": 1, "score": 10})).all()
    assert table["source"].str.match(r"github\.com/nrimsky/CAA \(MIT\), commit [0-9a-f]{7}: analysis/").all()
    assert set(table["model"]) == {SEVEN, THIRTEEN}
    assert {model.layer for model in paper.MODELS} == set(table.loc[table["group"] == "ab", "layer"])


def test_groups_agree_where_they_meet(table):
    """At its own layer, a sweep or a moved vector is the table of that layer, to the last digit."""
    known = table[(table["group"] == "ab") & (table["system_prompt"] == "")].set_index(KEY[1:6])["value"]
    for group in ("layer_sweep", "layer_13_vector"):
        rows = table[(table["group"] == group)].set_index(KEY[1:6])["value"]
        both = rows.index.intersection(known.index)
        assert len(both) == {"layer_sweep": 2 * (7 + 5), "layer_13_vector": 2 * 7}[group]
        assert (rows[both] == known[both]).all()


def test_the_example_is_right():
    (example,) = doctest.DocTestFinder(recurse=False).find(caa.paper.numbers, globs={"caa": caa})
    assert doctest.DocTestRunner().run(example) == (0, 3)


def test_a_caller_cannot_change_the_numbers(table):
    table["value"] = 0.0
    assert caa.paper.numbers()["value"].max() > 0


@pytest.mark.slow
def test_every_digit(table, published_caa):
    numbers = json.loads((published_caa / "numbers.json").read_text())
    prompts = {"none": "", "positive_system_prompt": "pos", "negative_system_prompt": "neg"}
    weights = {"no_finetuning": "", "positive_finetune": "positive", "negative_finetune": "negative"}
    expected = {}

    def add(group, model, behavior, values, layer, vector_layer=None, base=False, prompt="", tuned=""):
        steered = SEVEN if model == "7b" else THIRTEEN
        vector = "meta-llama/Llama-2-7b-hf" if base else steered
        for multiplier, value in values.items():
            at = layer if vector_layer is None else vector_layer
            expected[group, steered, behavior, layer, at, vector, float(multiplier), prompt, tuned] = value

    for group in ("ab", "mmlu", "truthful_qa", "open_ended"):
        for model, given in numbers[group].items():
            for behavior in given.keys() - {"layer"}:
                if group != "ab":
                    add(group, model, behavior, given[behavior], given["layer"])
                    continue
                for prompt, values in given[behavior].items():
                    add(group, model, behavior, values, given["layer"], prompt=prompts[prompt])
    moved = numbers["layer_sweep_transfer"]
    for group, models, vector_layer in (
        ("layer_sweep", numbers["layer_sweep"], None),
        ("layer_13_vector", moved["layer13_vector_at_other_layers"], 13),
        ("base_model_vector", moved["base_model_vector_in_chat_model"], None),
    ):
        for model, behaviors in models.items():
            for behavior, by_multiplier in behaviors.items():
                for multiplier, by_layer in by_multiplier.items():
                    for layer, value in by_layer.items():
                        base = group == "base_model_vector"
                        add(group, model, behavior, {multiplier: value}, int(layer), vector_layer, base)
    for kind in ("ab", "open_ended"):
        for behavior, given in numbers["finetuning"][kind].items():
            for tuned, values in given.items():
                # Without fine-tuning it is the table of the same layer.
                group = f"finetuning_{kind}" if weights[tuned] else kind
                add(group, "7b", behavior, values, 13, tuned=weights[tuned])
    found = table.set_index([*KEY[:4], "vector_layer", *KEY[4:]])["value"].to_dict()
    assert found == expected
    commits = json.dumps(numbers["source"]["groups"])
    assert all(commit in commits for commit in table["source"].str.extract(r"commit ([0-9a-f]{7})")[0].unique())
