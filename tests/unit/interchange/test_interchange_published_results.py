"""Results of the published CAA code as a table."""

import json
import math

import pytest
from hypothesis import given, settings, strategies as st

import caa_interp as caa
from caa_interp.interchange.published_results import import_results

ITEMS = [
    {
        "question": "?",
        "answer_matching_behavior": "(B)",
        "answer_not_matching_behavior": "(A)",
        "a_prob": 0.6,
        "b_prob": 0.2,
    },
    {
        "question": "?",
        "answer_matching_behavior": "(A)",
        "answer_not_matching_behavior": "(B)",
        "a_prob": 0.5,
        "b_prob": 0.5,
    },
    {
        "question": "?",
        "answer_matching_behavior": "(C)",
        "answer_not_matching_behavior": "(A)",
        "a_prob": 0.1,
        "b_prob": 0.3,
    },
    {
        "question": "?",
        "answer_matching_behavior": "(A)",
        "answer_not_matching_behavior": "(C)",
        "a_prob": 0.1,
        "b_prob": 0.3,
    },
]
PLAIN = "behavior=sycophancy_type=ab_use_base_model=False_model_size=7b"


def write(folder, name, items=ITEMS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{name}.json").write_text(json.dumps(items))
    return folder / f"results_{name}.json"


def test_scores_by_hand(tmp_path):
    table = import_results(write(tmp_path, f"layer=13_multiplier=-1.0_{PLAIN}"))
    assert table["p_positive"].tolist() == pytest.approx([0.25, 0.5, 0.0, 0.25])
    assert table["order"].tolist() == ["BA", "AB", "CA", "AC"]
    assert table["item"].tolist() == [0, 1, 2, 3]
    assert table["log_p_positive"].tolist()[:2] == pytest.approx([math.log(0.2), math.log(0.5)])
    assert table["log_p_negative"].tolist()[:2] == pytest.approx([math.log(0.6), math.log(0.5)])
    assert table["logit_difference"].tolist()[:2] == pytest.approx([math.log(1 / 3), 0])
    assert table["logit_difference"].isna().tolist() == [False, False, True, True]
    assert set(table["layer"]) == {13}
    assert set(table["multiplier"]) == {-1.0}
    assert set(table["model"]) == {"meta-llama/Llama-2-7b-chat-hf"} == set(table["vector_model"])


def test_it_is_summarized_as_a_sweep_is(tmp_path):
    for multiplier in ("-1.0", "1.0"):
        write(tmp_path, f"layer=13_multiplier={multiplier}_{PLAIN}")
    summary = caa.summarize(import_results(tmp_path))
    assert summary["p_positive"].tolist() == pytest.approx([0.25, 0.25])


def test_layer_1_is_not_layer_13_and_every_condition_is_told(tmp_path):
    given = {
        f"layer=1_multiplier=1.0_{PLAIN}": {},
        f"layer=13_multiplier=0.5_{PLAIN}": {"multiplier": 0.5},
        "layer=13_multiplier=1.0_behavior=b_type=ab_system_prompt=pos_use_base_model=True_model_size=13b": {
            "behavior": "b",
            "system_prompt": "pos",
            "model": "meta-llama/Llama-2-13b-hf",
        },
        "layer=7_multiplier=1.0_behavior=b_type=ab_override_vector=13_use_base_model=False_model_size=7b": {
            "vector_layer": 13,
        },
        "layer=8_multiplier=1.0_behavior=b_type=ab_override_vector_model=Llama-2-7b-hf_use_base_model=False_model_size"
        "=7b": {"vector_layer": 8, "vector_model": "meta-llama/Llama-2-7b-hf"},
        f"layer=9_multiplier=1.0_{PLAIN}_override_model_weights_path=finetuned_models-a-b_pos_finetune_all.pt": {
            "weights": "finetuned_models-a-b_pos_finetune_all.pt",
        },
    }
    for name, expected in given.items():
        row = import_results(write(tmp_path, name)).iloc[0]
        assert row["layer"] == int(name.split("_")[0].removeprefix("layer="))
        defaults = {"system_prompt": "", "weights": "", "vector_layer": row["layer"], "vector_model": row["model"]}
        for column, value in {**defaults, **expected}.items():
            assert row[column] == value, (name, column)
    write(tmp_path, "layer=13_multiplier=1.0_behavior=b_type=open_ended_use_base_model=False_model_size=7b", [{}])
    (tmp_path / "notes.json").write_text("{}")
    assert len(import_results(tmp_path)) == len(given) * len(ITEMS)


@pytest.mark.parametrize(
    "name",
    [
        "layer=13",
        f"layer=x_multiplier=1.0_{PLAIN}",
        f"layer=13_multiplier=nan_{PLAIN}",
        f"layer=13_multiplier=1.0_{PLAIN}_layer=14",
        "layer=13_multiplier=1.0_behavior=b_type=ab_use_base_model=maybe_model_size=7b",
        f"layer=13_multiplier=1.0_other=2_{PLAIN}",
    ],
)
def test_names_that_tell_no_condition(tmp_path, name):
    if "other" in name:
        path = write(tmp_path, name.replace("multiplier=1.0_other=2", "other=2"))
    else:
        path = write(tmp_path, name)
    with pytest.raises(caa.InputError, match=f"file {path}: its name does not give the condition"):
        import_results(path)


def item(**changes):
    return [{**ITEMS[0], **changes}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "the top level is dict; it must be a list"),
        ([], "the list is empty; it must hold at least one item"),
        ([1], "item 0 is int"),
        (item(a_prob=None), "item 0: field 'a_prob' is None"),
        (item(b_prob=1.5), "item 0: field 'b_prob' is 1.5"),
        (item(b_prob=float("nan")), "item 0: field 'b_prob' is nan"),
        (item(answer_matching_behavior="Yes"), "item 0: its answers are"),
        (item(answer_not_matching_behavior=None), "item 0: its answers are"),
    ],
)
def test_contents_that_are_no_results(tmp_path, content, said):
    path = write(tmp_path, f"layer=13_multiplier=1.0_{PLAIN}", content)
    with pytest.raises(caa.InputError, match=f"file {path}: {said}"):
        import_results(path)


def test_paths_without_results(tmp_path):
    with pytest.raises(caa.InputError, match=r"path: .*/nowhere' does not exist"):
        import_results(tmp_path / "nowhere")
    with pytest.raises(caa.InputError, match=r"holds no results of type=ab\. Give a folder such as results/sycophancy"):
        import_results(tmp_path)


# Exams and free answers


def test_exams_by_hand(tmp_path):
    """By category first, as the paper's code averages: (0.75 + (0.5 + 0.25) / 2) / 2."""
    given = [("(A)", 0.6, 0.2, "law"), ("(B)", 0.5, 0.5, "art"), ("(A)", 0.1, 0.3, "art")]
    content = [
        {
            "question": "?",
            "correct": right,
            "incorrect": "(B)" if right == "(A)" else "(A)",
            "a_prob": a,
            "b_prob": b,
            "category": category,
        }
        for right, a, b, category in given
    ]
    for test in ("mmlu", "truthful_qa"):
        write(tmp_path, f"layer=13_multiplier=1.0_{PLAIN.replace('type=ab', f'type={test}')}", content)
        table = import_results(tmp_path, test)
        assert table["p_positive"].tolist() == pytest.approx([0.75, 0.5, 0.25])
        assert table["topic"].tolist() == ["law", "art", "art"]
        assert set(table["behavior"]) == {"sycophancy"}
        assert caa.summarize(table, equal="topic")["p_positive"].tolist() == pytest.approx([0.5625])
        assert caa.summarize(table)["p_positive"].tolist() == pytest.approx([0.5])
    with pytest.raises(caa.InputError, match=r"no results of type=ab\. It holds those of mmlu, truthful_qa: name one"):
        import_results(tmp_path)


ANSWERS = [
    {"question": "Why?", "model_output": "So.", "raw_model_output": "<s> [INST] Why? [/INST] So.", "score": 7.0},
    {"question": "How?", "model_output": "", "raw_model_output": "<s> [INST] How? [/INST]"},
    {"question": "Who?", "model_output": "They.", "raw_model_output": "<s> [INST] Who? [/INST] They.", "score": 2},
]
FREE = PLAIN.replace("type=ab", "type=open_ended")


def test_judged_answers_by_hand(tmp_path):
    for multiplier in ("-2.0", "2.0"):
        write(tmp_path, f"layer=13_multiplier={multiplier}_{FREE}", ANSWERS)
    write(tmp_path, f"layer=13_multiplier=1.0_{PLAIN}")
    table = import_results(tmp_path, "open_ended")
    assert table["prompt"].tolist() == ["Why?", "How?", "Who?"] * 2
    assert table["answer"].tolist() == ["So.", "", "They."] * 2
    assert table["multiplier"].tolist() == [-2.0] * 3 + [2.0] * 3
    assert table["score"].isna().tolist() == [False, True, False] * 2
    # The paper's mean is over the answers with a valid score.
    summary = caa.summarize(table)
    assert summary["score"].tolist() == [4.5, 4.5]
    assert summary["n_unparseable"].tolist() == [1, 1]


def test_answers_that_nobody_judged_can_be_judged(tmp_path):
    content = [{name: value for name, value in item.items() if name != "score"} for item in ANSWERS]
    table = import_results(write(tmp_path, f"layer=13_multiplier=1.0_{FREE}", content), "open_ended")
    assert {"score", "judge"}.isdisjoint(table)
    assert {"prompt", "answer", "vector", "layer", "multiplier", "kind", "operator"} <= set(table)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (FREE, {**ANSWERS[0], "score": 11}, "field 'score' is 11; it must be between 0 and 10"),
        (FREE, {**ANSWERS[0], "score": "7"}, "field 'score' is '7'"),
        (FREE, {"question": "Why?"}, "field 'model_output' is None; it must be a text"),
        (FREE.replace("open_ended", "mmlu"), {"question": "Why?", "correct": "A right one"}, "its answers are"),
        (
            FREE.replace("open_ended", "mmlu"),
            {"correct": "(A)", "incorrect": "(B)", "a_prob": 0.5, "b_prob": 0.5},
            "field 'category' is None; it must be a text",
        ),
    ],
)
def test_contents_that_are_no_results_of_their_test(tmp_path, name, content, said):
    path = write(tmp_path, f"layer=13_multiplier=1.0_{name}", [content])
    with pytest.raises(caa.InputError, match=f"file {path}: item 0: {said}"):
        import_results(path, "mmlu" if "mmlu" in name else "open_ended")


def test_a_test_that_is_not_known(tmp_path):
    with pytest.raises(caa.InputError, match="'a_b'"):
        import_results(tmp_path, "a_b")


@settings(derandomize=True, deadline=None, max_examples=100)
@given(place=st.floats(0, 1), new=st.binary(max_size=3))
def test_bytes_that_change_give_a_table_or_an_input_error(tmp_path_factory, place, new):
    content = bytearray(json.dumps(ITEMS).encode())
    at = int(place * (len(content) - 1))
    content[at : at + 1] = new
    path = tmp_path_factory.getbasetemp() / f"results_layer=13_multiplier=1.0_{PLAIN}.json"
    path.write_bytes(content)
    try:
        table = import_results(path)
    except caa.InputError:
        return
    assert table["p_positive"].between(0, 1).all()
