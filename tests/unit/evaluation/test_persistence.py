"""What is left of steering in later turns, against conversations whose cache is kept to the letter."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.evaluation import persistence, summarize_persistence
from caa_interp.evaluation.persistence import CACHE, CONDITIONS
from tests.oracles.conversations import Chat
from tests.tiny_models import appending_eos
from tests.unit.steering.test_generation import begin_with, thinker  # noqa: F401 - thinker is a fixture

N_NEW = 6
# Which turns of three are steered, and whether what was steered in turn 1 stays so.
STEERED = {
    "every turn": ((True, True, True), True),
    "turn 1": ((True, False, False), True),
    "turn 1, as text": ((True, False, False), False),
    "from turn 2": ((False, True, True), True),
    "unsteered": ((False, False, False), True),
}


@pytest.fixture(scope="module")
def vector(tiny_llama) -> caa.SteeringVector:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(3)) * 0.5
    return caa.SteeringVector(values, (0, 1, 2, 3), {"behavior": "drawn"})


@pytest.fixture(scope="module")
def talks(pairs) -> list[list[caa.ContrastPair]]:
    short = [replace(pair, question=pair.question[:16], positive=pair.positive[:16]) for pair in pairs]
    return [[*short[n:], *short[:n]] for n in range(3)]


def measured(model, steering, talks):
    return persistence(model, steering, talks, max_new_tokens=N_NEW, progress=False)


@pytest.fixture(scope="module")
def table(tiny_llama, vector, talks):
    return measured(tiny_llama, caa.Intervention(vector, layer=1, multiplier=2), talks)


def written_out(form, talk, turn):
    """Token ids of a turn's question and answers in the base form, after the model's own answer."""
    question = f"Input: {talk[turn].question}\nResponse:"
    options = {"add_special_tokens": turn == 0}
    asked = form.tokenizer(f"\n\n{question}" if turn else question, **options)["input_ids"]
    answers = [
        form.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        for text in (talk[turn].positive, talk[turn].negative)
    ]
    return asked, answers


@pytest.mark.parametrize("condition", STEERED)
def test_scores_and_answers_are_those_of_a_kept_cache(tiny_llama, plain_llama, vector, talks, table, condition):
    form = caa.PromptFormat.of(tiny_llama)
    turns, keeps = STEERED[condition]
    rows = table[table["condition"] == condition].set_index(["item", "turn"])
    for item, talk in enumerate(talks):
        chat = Chat(plain_llama, 1, 2 * vector.at(1))
        for turn, steered in enumerate(turns):
            asked, answers = written_out(form, talk, turn)
            row = rows.loc[(item, turn + 1)]
            scores = [chat.score(asked, answer, steered) for answer in answers]
            assert row["n_tokens"] == len(chat.tokens) + len(asked)
            assert [row["log_p_positive"], row["log_p_negative"]] == pytest.approx(scores, abs=1e-4)
            if turn + 1 < len(turns):
                written = chat.answer(asked, steered, N_NEW, form.end_ids)
                assert row["answer"] == form.tokenizer.decode(written, skip_special_tokens=True).strip()
            if not keeps:
                read, chat = chat.tokens, Chat(plain_llama, 1, 2 * vector.at(1))
                chat.read(read, [False] * len(read))


def test_conditions_and_turns_are_all_there(table):
    assert set(table["condition"]) == {*CONDITIONS, "unsteered"} == set(STEERED)
    assert table.groupby(["condition", "turn"]).size().tolist() == [3] * 5 * 3
    assert table["answer"].isna().equals(table["turn"] == 3)
    # Otherwise it would not show which turns are steered.
    wide = table.pivot(index=["item", "turn"], columns="condition", values="logit_difference").query("turn == 3")
    assert (wide.corr() < 1 - 1e-6).sum().sum() == 5 * 4


def test_a_tokenizer_that_appends_eos_changes_nothing(tiny_llama, vector, talks, monkeypatch):
    up = caa.Intervention(vector, layer=1, multiplier=2)
    tables = []
    for tokenizer in (tiny_llama.tokenizer, appending_eos(tiny_llama.tokenizer)):
        monkeypatch.setattr(tiny_llama, "tokenizer", tokenizer)
        form = caa.PromptFormat.of(tiny_llama, style="llama-2-chat")
        tables.append(persistence(tiny_llama, up, talks[:1], max_new_tokens=2, prompt_format=form, progress=False))
    pd.testing.assert_frame_equal(*tables)


def test_steering_after_the_last_block_leaves_nothing_in_the_cache(tiny_llama, vector, talks):
    """No later position reads that block's output: what lasts is in the text alone."""
    table = measured(tiny_llama, caa.Intervention(vector, layer=3, multiplier=8), talks)
    found = summarize_persistence(table).set_index(["condition", "turn"])
    assert found.loc[CACHE, "change"].to_numpy() == pytest.approx(0, abs=1e-5)
    assert (found.loc["turn 1, as text"].loc[[2, 3], "change"].abs() > 1e-3).all()


def test_a_push_that_changes_no_word_lasts_in_the_cache_alone(tiny_llama, vector, talks):
    table = measured(tiny_llama, caa.Intervention(vector, layer=0, multiplier=0.02), talks)
    assert table.groupby(["item", "turn"])["answer"].nunique(dropna=False).eq(1).all()
    found = summarize_persistence(table).set_index(["condition", "turn"])
    assert found.loc["turn 1, as text"].loc[[2, 3], "change"].to_numpy() == pytest.approx(0, abs=1e-6)
    assert (found.loc[CACHE].loc[[2, 3], "change"].abs() > 1e-5).all()


@pytest.mark.parametrize(("begun", "alike"), [("<think> I I I I I I", None), (" I", "answer")])
def test_what_was_not_steered_while_writing_is_not_so_later(thinker, vector, talks, monkeypatch, begun, alike):  # noqa: F811
    """An answer that is cut off in its thinking has nothing steered; without thinking, all of it has."""
    model, _ = thinker
    begin_with(monkeypatch, model.tokenizer(begun, add_special_tokens=False)["input_ids"])
    late = caa.Intervention(vector, layer=1, multiplier=2, positions="after_thinking")
    found = summarize_persistence(measured(model, late, talks)).set_index(["condition", "turn"])["change"]
    later = found["turn 1"][[2, 3]].to_numpy()
    if alike is None:
        assert (found[CACHE] == 0).all()
        assert (later == 0).all()
    else:
        other = summarize_persistence(measured(model, replace(late, positions=alike), talks))
        expected = other.set_index(["condition", "turn"])["change"]["turn 1"][[2, 3]]
        np.testing.assert_allclose(later, expected, atol=1e-6)
        assert (abs(later) > 1e-3).all()


def test_changes_are_paired_with_the_unsteered_conversation(table):
    found = summarize_persistence(table.sample(frac=1, random_state=0))
    assert found["condition"].unique().tolist() == [*list(CONDITIONS)[:3], CACHE, "from turn 2"]
    assert found.groupby("condition")["turn"].apply(list).tolist() == [[1, 2, 3]] * 5
    wide = table.pivot(index=["item", "turn"], columns="condition", values="logit_difference")
    change = (wide["turn 1"] - wide["unsteered"]).groupby("turn").mean()
    np.testing.assert_allclose(found.loc[found["condition"] == "turn 1", "change"], change)
    cache = (wide["turn 1"] - wide["turn 1, as text"]).groupby("turn").mean()
    np.testing.assert_allclose(found.loc[found["condition"] == CACHE, "change"], cache)
    assert (found["n"] == 3).all()
    assert (found.loc[found["condition"] == CACHE, "change"].iloc[0]) == 0  # turn 1 is the same for both


def test_several_conditions_share_the_unsteered_conversation(tiny_llama, vector, talks, table):
    up = caa.Intervention(vector, layer=1, multiplier=2)
    several = measured(tiny_llama, {"up": up, "both": [up, replace(up, layer=2, positions="answer")]}, talks[:2])
    assert (several["kind"] == "unsteered").sum() == 2 * 3
    mine = several[several["vector"] == "up"].sort_values(["condition", "item", "turn"])
    alone = table[(table["item"] < 2) & (table["kind"] == "vector")].sort_values(["condition", "item", "turn"])
    np.testing.assert_allclose(mine["logit_difference"], alone["logit_difference"], atol=1e-5)
    assert set(summarize_persistence(several)["vector"]) == {"up", "both"}


def test_steerings_that_differ_in_positions_alone_are_kept_apart(tiny_llama, vector, talks, table):
    up = caa.Intervention(vector, layer=1, multiplier=2)
    answer = replace(up, positions="answer")
    found = summarize_persistence(measured(tiny_llama, [up, answer], talks))
    assert found["positions"].unique().tolist() == ["from_last_prompt_token", "answer"]
    for steering, alone in ((up, table), (answer, measured(tiny_llama, answer, talks))):
        own, expected = found[found["positions"] == steering.positions], summarize_persistence(alone)
        np.testing.assert_allclose(own["change"], expected["change"], atol=1e-5)
        assert own["condition"].tolist() == expected["condition"].tolist()


def test_stacked_tables_are_summarized_one_by_one(table):
    other = table.assign(logit_difference=table["logit_difference"] * np.where(table["kind"] == "vector", 2, 1))
    both = pd.concat([table.assign(behavior="a"), other[other["item"] < 2].assign(behavior="b")])
    found = summarize_persistence(both)
    for name, alone in (("a", table), ("b", other[other["item"] < 2])):
        own = found[found["behavior"] == name].drop(columns="behavior").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, summarize_persistence(alone))
    change = caa.summarize(table).set_index(["condition", "turn"])["logit_difference_change"]
    expected = summarize_persistence(table).set_index(["condition", "turn"])["change"].drop(CACHE, level=0)
    np.testing.assert_allclose(change.drop("unsteered", level=0)[expected.index], expected)


@pytest.mark.parametrize("options", [{}, {"keep_default_na": False}])
def test_a_file_is_summarized_like_the_table(table, options):
    read = pd.read_csv(io.StringIO(table.to_csv(index=False)), **options)
    pd.testing.assert_frame_equal(summarize_persistence(read), summarize_persistence(table), check_dtype=False)


def test_without_the_unsteered_conversation_there_is_no_change(table):
    with pytest.raises(caa.InputError, match="table: no conversation in it is unsteered"):
        summarize_persistence(table[table["condition"] != "unsteered"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": []}, "conversations: .*non-empty"),
        ({"conversations": [[0]]}, "conversations"),
        ({"turns": 1}, r"conversations: of \[1\] pairs"),
        ({"steering": None}, "steering: nothing in it steers"),
        ({"positions": "prompt"}, "positions: 'prompt' are not those of one turn"),
        ({"positions": [3, 4]}, "positions: .* are not those of one turn"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 200}, r"conversations\[0\]: up to .* context holds 256"),
    ],
)
def test_bad_input_is_named(tiny_llama, vector, talks, change, message):
    given = {"positions": "answer", "turns": 3, **change}
    up = caa.Intervention(vector, layer=1, positions=given.pop("positions"))
    asked = {"steering": up, "conversations": [talk[: given["turns"]] for talk in talks]} | given
    asked.pop("turns")
    with pytest.raises(caa.InputError, match=message):
        persistence(tiny_llama, progress=False, **asked)
