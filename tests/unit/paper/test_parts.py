"""Every part of a reproduction is beside the oracle's literal procedure, and what is left out is not done."""

import json
import math
import re
import shutil
import warnings
from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.behaviors.behavior import load_behavior
from caa_interp.paper import inside, published as paper
from caa_interp.paper.estimate import estimate_reproduction
from caa_interp.paper.multiple_choice import show_exams, show_finetuning, show_transfer
from caa_interp.paper.open_ended import judged
from caa_interp.paper.parts import PARTS
from caa_interp.paper.plan import config_of
from caa_interp.paper.reproduction import reproduce
from caa_interp.paper.sets import Exam
from caa_interp.paper.setting import Setting, read_items
from caa_interp.study import worker
from tests.oracles import definition, paper as oracle
from tests.unit.paper.conftest import TWO, write_sets
from tests.unit.paper.test_exact import BEHAVIORS, EXAM, TEST, Pair, llama_like_tokenizer

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LAYER = 2  # nearest to 13 of 32 in four layers
QUESTION = "Do you like the rain?"
PROMPTS = {name: {"positive": "You do.", "negative": "You do not."} for name in BEHAVIORS}


class Judge:
    """Rates an answer by its letters."""

    name, identity, concurrency = "letters", {"name": "letters"}, 1

    def reply(self, messages):
        return json.dumps({"score": sum(map(ord, messages[1]["content"])) % 11})


def write_data(folder):
    """The paper's folder, with the items of the exact tests."""
    files = {"test/mmlu/mmlu.json": EXAM, "test/truthfulqa/truthful_qa.json": EXAM[:2]}
    for name, given in BEHAVIORS.items():
        files[f"generate/{name}/generate_dataset.json"] = given
        files[f"test/{name}/test_dataset_ab.json"] = TEST
        files[f"test/{name}/test_dataset_open_ended.json"] = [{"question": QUESTION}]
    for name, content in files.items():
        path = folder / "datasets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All parts, once: models, what was found, and where it is."""
    folder = tmp_path_factory.mktemp("reproduction")
    chat = Pair(folder, "Llama-2-tiny-chat-hf", 0, llama_like_tokenizer())
    base = Pair(folder, "Llama-2-tiny-hf", 1, llama_like_tokenizer())
    options = {
        "model_name": str(folder / "Llama-2-tiny-chat-hf"),
        "base_name": str(folder / "Llama-2-tiny-hf"),
        "behaviors": tuple(BEHAVIORS),
        "parts": tuple(PARTS),
        "system_prompts": folder / "prompts.json",
        "judge": Judge(),
    }
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*made from prompts in the style 'base'")
        warnings.filterwarnings("ignore", category=UserWarning, module="caa_interp.evaluation")
        patch.setenv("CAA_INTERP_CACHE", str(folder / "cache"))
        patch.setattr(paper, "OPEN_ENDED_MULTIPLIERS", (-1.0, 0.0, 1.0))
        patch.setattr(paper, "MAX_NEW_TOKENS", 6)
        found = reproduce(folder / "out", write_data(folder), **options, say=lines.append)
    return SimpleNamespace(chat=chat, base=base, found=found, folder=folder, lines=lines, options=options)


def cells(run, group, **conditions):
    """Measured means of one group by behavior, layer and multiplier."""
    rows = run.found[run.found["group"] == group]
    for name in ("system_prompt", "weights"):
        rows = rows[rows[name] == conditions.get(name, "")]
    return rows.set_index(["behavior", "layer", "multiplier"])["measured"]


@pytest.mark.parametrize(
    ("group", "prompt", "text"),
    [("ab", "", None), ("ab", "pos", "You do."), ("ab", "neg", "You do not."), ("layer_sweep", "", None)],
)
def test_multiple_choice(run, group, prompt, text):
    found = cells(run, group, system_prompt=prompt)
    multipliers = {"layer_sweep": (-1, 0, 1), "ab": (-1, -0.5, 0, 0.5, 1)}[group]
    assert len(found) == 2 * len(multipliers) * (4 if group == "layer_sweep" else 1)
    assert list(found.index.get_level_values("multiplier").unique()) == list(multipliers)
    for (name, layer, multiplier), value in found.items():
        addition = multiplier * run.chat.expected[name][layer]
        expected = oracle.result(run.chat.plain, run.chat.tokenizer, TEST, layer, addition, text)
        assert value == pytest.approx(expected, abs=1e-5)
    assert found.max() - found.min() > 1e-3


@pytest.mark.parametrize(("group", "which"), [("layer_13_vector", "chat"), ("base_model_vector", "base")])
def test_moved_vectors(run, group, which):
    vectors, found = getattr(run, which).expected, cells(run, group)
    assert len(found) == 2 * 4 * 3
    for (name, layer, multiplier), value in found.items():
        addition = multiplier * vectors[name][LAYER if which == "chat" else layer]
        expected = oracle.result(run.chat.plain, run.chat.tokenizer, TEST, layer, addition)
        assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("group", "items"), [("mmlu", EXAM), ("truthful_qa", EXAM[:2])])
def test_exams_are_means_over_categories(run, group, items):
    found = cells(run, group)
    assert len(found) == 2 * 3
    for (name, layer, multiplier), value in found.items():
        addition = multiplier * run.chat.expected[name][layer]
        assert value == pytest.approx(oracle.exam(run.chat.plain, run.chat.tokenizer, items, layer, addition), abs=1e-5)
    assert layer == LAYER


def test_open_ended_answers_and_their_scores(run):
    answers = pd.read_parquet(run.folder / "out" / "tables" / "answers.parquet")
    assert len(answers) == 2 * 3
    prompt = oracle.encode(run.chat.tokenizer, QUESTION)
    for row in answers.itertuples():
        addition = row.multiplier * run.chat.expected[row.behavior][LAYER]
        ends = (run.chat.tokenizer.eos_token_id,)
        tokens = definition.greedy(run.chat.plain, prompt, LAYER, addition, 6, ends=ends)
        assert row.answer == run.chat.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    rated = pd.read_parquet(run.folder / "out" / "tables" / "judged.parquet")
    scores = rated.set_index(["behavior", "layer", "multiplier"])["score"]
    assert cells(run, "open_ended").to_dict() == scores.to_dict()
    assert scores.nunique() > 1


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_trained_weights_are_steered_by_the_vectors_of_the_untrained(run, side):
    found = cells(run, "finetuning_ab", weights=side)
    assert len(found) == 2 * 3
    answers = pd.read_parquet(run.folder / "out" / "tables" / f"judged_tuned_{side}.parquet")
    scores = answers.set_index(["behavior", "layer", "multiplier"])["score"]
    assert cells(run, "finetuning_open_ended", weights=side).to_dict() == scores.to_dict()
    assert run.found.query("group == 'finetuning_open_ended'")["tolerance"].isna().all()
    options = {"side": side, "method": "full", "batch_size": 4, "progress": False}
    tuned = {
        name: caa.evaluation.fine_tune(run.chat.model, caa.read_pairs(items, compat="caa").pairs, **options)
        for name, items in BEHAVIORS.items()
    }
    for (name, layer, multiplier), value in found.items():
        plain = tuned[name].original_model
        addition = multiplier * run.chat.expected[name][layer]
        expected = oracle.result(plain, run.chat.tokenizer, TEST, layer, addition)
        assert value == pytest.approx(expected, abs=2e-6)
        prompt, ends = oracle.encode(run.chat.tokenizer, QUESTION), (run.chat.tokenizer.eos_token_id,)
        tokens = definition.greedy(plain, prompt, layer, addition, 6, ends=ends)
        answer = answers.query("behavior == @name and multiplier == @multiplier")["answer"].item()
        assert answer == run.chat.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    # A step of the paper's rate moves a small random model little, but more than rounding does.
    assert (found - cells(run, "ab")[found.index]).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("group", "base_name", "basis"),
    [
        ("finetuning_ab", None, "weights trained anew"),
        ("base_model_vector", "/models/Llama-2-7b-hf", "same items and model"),
        ("base_model_vector", "someone/Llama-2-7b-finetuned-hf", "another base model"),
    ],
)
def test_what_is_not_the_papers_model_is_not_judged(group, base_name, basis):
    """Measured at the paper's own values, on the paper's own items."""
    rows = paper.numbers().query("group == @group").assign(item=0)
    rows["p_positive"] = rows["value"]
    rows = pd.concat([rows, rows.assign(item=1)])
    items = SimpleNamespace(are_the_papers=True, sets={})
    given = {"items": items, "layer": 13, "published": paper.LLAMA_2_7B_CHAT, "base_name": base_name, "base": {}}
    one = Setting(config=None, n_layers=32, swept=range(32), raw={}, vectors={}, **given)
    if group == "finetuning_ab":
        tables = {f"tuned_{side}": own.assign(answer=None) for side, own in rows.groupby("weights")}
        shown = show_finetuning(one, tables)
    else:
        shown = show_transfer(one, {"base_vectors": rows})
    for cells in shown.cells:
        assert set(cells["basis"]) == {basis}
        assert cells["difference"].abs().max() < 1e-9
        assert cells["within"].notna().all() == (basis == "same items and model")


@pytest.mark.parametrize("are_the_papers", [True, False])
def test_exams_err_by_the_papers_number_of_questions(are_the_papers):
    """Measured at the paper's own values, with vectors of other items."""
    rows = paper.LLAMA_2_7B_CHAT.results("mmlu")
    rows = rows.assign(vector=rows["behavior"])
    table = pd.concat(
        [rows.assign(item=item, topic="law", p_positive=rows["value"] + (-1) ** item / 10) for item in range(4)]
    )
    exam = Exam([caa.ContrastPair(f"{item}?", "Yes", "No", topic="law") for item in range(4)], are_the_papers)
    items = SimpleNamespace(are_the_papers=False, sets={}, exams={"mmlu": exam})
    given = {"items": items, "layer": 13, "published": paper.LLAMA_2_7B_CHAT}
    one = Setting(config=None, n_layers=32, swept=range(32), raw={}, vectors={}, **given)
    shown = show_exams(one, {"mmlu": table.reset_index(drop=True)})
    (found,) = shown.cells
    reach = (found["high"] - found["measured"]).combine(found["measured"] - found["low"], max)
    tolerance = reach * math.sqrt(1 + 4 / 570)
    if are_the_papers:
        tolerance[found["multiplier"] == 0] = 0.01
    assert found["tolerance"].tolist() == pytest.approx(tolerance.tolist())
    assert found["within"].all()
    (row,) = shown.sections[1].table.to_dict("records")
    means = rows.set_index(["behavior", "multiplier"])["value"]
    assert list(row) == ["category", "questions", "unsteered", *paper.BEHAVIORS]
    assert (row["category"], row["questions"], row["unsteered"]) == ("law", 4, f"{means['refusal', 0]:.2f}")
    ends = (f"{means['refusal', end] - means['refusal', 0]:+z.3f}" for end in (-1, 1))
    assert row["refusal"] == ", ".join(ends)


def test_activations_tokens_and_steered_states(run):
    tables = {path.stem: pd.read_parquet(path) for path in (run.folder / "out" / "tables").glob("*.parquet")}
    chat, name = run.chat, "refusal"
    sides = oracle.activations(chat.plain, chat.tokenizer, BEHAVIORS[name])
    projected = tables["projection"].query("behavior == @name")
    for layer, rows in projected.groupby("layer"):
        expected = oracle.plane(torch.cat([side[layer] for side in sides]).double())
        rows = rows.sort_values(["side", "item"], ascending=[False, True])
        for column, values in zip(("x", "y"), expected.T, strict=True):
            own = torch.tensor(rows[column].to_numpy())
            torch.testing.assert_close(own * torch.sign(own @ values), values, **CLOSE)
    table = tables["token_similarity"].query("behavior == @name")
    cosines, answer = table["cosine"].tolist(), table[table["part"] == "answer"]
    prompt, ends = oracle.encode(chat.tokenizer, QUESTION), (chat.tokenizer.eos_token_id,)
    tokens = definition.greedy(chat.plain, prompt, LAYER, 0 * chat.expected[name][LAYER], 6, ends=ends)
    assert chat.tokenizer.decode(answer["token_id"].tolist()).strip() == chat.tokenizer.decode(tokens).strip()
    states = definition.block_outputs(chat.plain, table["token_id"].tolist())[LAYER]
    assert cosines == pytest.approx([oracle.cosine(state, chat.expected[name][LAYER]) for state in states], abs=1e-5)
    tokens = oracle.encode(chat.tokenizer, TEST[0]["question"], "(")
    start = oracle.first_steered(chat.tokenizer, tokens)
    lens = tables["steered_lens"].query("behavior == @name and rank == 1")
    for multiplier, rows in lens.groupby("multiplier"):
        expected = oracle.decoded(chat.plain, tokens, LAYER, multiplier * chat.expected[name][LAYER], start)
        for row in rows.itertuples():
            assert row.probability == pytest.approx(float(expected[row.layer, row.component].max()), abs=1e-5)
    assert set(lens["layer"]) == {LAYER, 3}


def test_components_are_fitted_to_all_items_and_some_are_drawn(tmp_path, monkeypatch):
    items = read_items(write_sets(tmp_path, ("refusal",), n_generate=7), ("refusal",))
    monkeypatch.setattr(inside, "N_DRAWN", 5)
    one = Setting(config_of("any", None), items, 4, range(4), 2, None, {}, {})
    (task,) = inside.activation_tasks(one)
    assert len(task.arguments["pairs"]) == 7
    rows = [(item, side, item + 1.0) for item in range(7) for side in ("positive", "negative")]
    table = pd.DataFrame(rows, columns=["item", "side", "x"]).assign(y=1.0, x_share=0.6, y_share=0.2, layer=2)
    table = table.assign(id="", topic="", order="AB", split="fit", method="pca", fit="each", behavior="refusal")
    _, section = inside.show_activations(one, {"projection": table}).sections
    drawn = {x for trace in section.figure.data if trace.x is not None for x in trace.x if x is not None}
    assert drawn == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert section.text == "7 items."


def test_the_page_has_a_section_of_each_part_in_the_papers_order(run):
    page = (run.folder / "out" / "report.html").read_text()
    headings = [
        "Activations",
        "Layer sweep",
        "Multiple-choice table",
        "System prompts",
        "Fine-tuning",
        "Open-ended answers",
        "MMLU",
        "TruthfulQA",
        "Cosine similarity of the vectors",
        "The vector of layer 2 at other layers",
        "Vectors of the base model",
        "Similarity of tokens",
        "Decoding while steering",
    ]
    places = [page.index(f'">{heading}') for heading in headings]
    assert places == sorted(places)
    assert "letters rated each from 0 to 10" in page
    assert not any("Not measured" in line for line in run.lines)


def test_what_is_finished_is_kept_whatever_parts_are_asked_for(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(run.folder / "another cache"))
    monkeypatch.setattr(paper, "OPEN_ENDED_MULTIPLIERS", (-1.0, 0.0, 1.0))
    monkeypatch.setattr(paper, "MAX_NEW_TOKENS", 6)
    monkeypatch.delattr(worker, "work")
    lines: list[str] = []
    options = {**run.options, "parts": ("tokens", "exams")}
    folder = shutil.copytree(run.folder / "out", tmp_path / "out")
    found = reproduce(folder, run.folder, **options, say=lines.append)
    whole = run.found[run.found["group"].isin(["mmlu", "truthful_qa"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, whole)
    assert any("Not measured: activations (not asked for), sweep (not asked for)" in line for line in lines)


def test_a_run_that_is_killed_between_parts_goes_on(tmp_path, done, run, monkeypatch):
    options = {**run.options, "base_name": None, "parts": ("activations", "exams"), "say": lambda _: None}
    work = worker.work

    def interrupted(model, task):
        if task.kind == "sweep":
            raise KeyboardInterrupt
        return work(model, task)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "work", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reproduce(tmp_path, run.folder, **options)
    assert not (tmp_path / "tables").exists()  # what is there belongs together
    done.clear()
    reproduce(tmp_path, run.folder, **options)
    assert Counter(done) == {"load": 1, "sweep": 2}


def unreachable(self, messages):
    raise caa.errors.ModelError("no reply")


def test_a_judge_that_fails_is_asked_when_all_else_is_kept(tmp_path, run, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(run.folder / "cache"))
    monkeypatch.setattr(paper, "OPEN_ENDED_MULTIPLIERS", (-1.0, 0.0, 1.0))
    monkeypatch.setattr(paper, "MAX_NEW_TOKENS", 6)
    monkeypatch.setattr(Judge, "identity", {"name": "another"})
    monkeypatch.setattr(Judge, "reply", unreachable)
    options = {**run.options, "parts": ("open_ended", "exams"), "say": lambda _: None}
    with pytest.raises(caa.errors.ModelError, match="judge 'letters': 0 of"):
        reproduce(tmp_path, run.folder, **options)
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {"answers", "mmlu", "truthful_qa"}


def test_by_default_what_the_data_allow_without_training(tmp_path, data, done, tiny_folder, monkeypatch):
    """These data have no open-ended questions and no exams; the sets have too long system prompts for this model."""
    monkeypatch.setattr("caa_interp.paper.setting.load_behavior", lambda name: SimpleNamespace(**SHORT))
    lines: list[str] = []
    found = reproduce(tmp_path / "out", data, model_name=str(tiny_folder), behaviors=TWO, layers=[2], say=lines.append)
    assert set(found["group"]) == {"ab", "layer_sweep", "layer_13_vector"}
    assert set(found["system_prompt"]) == {"", "pos", "neg"}
    (line,) = (line for line in lines if line.startswith("Not measured"))
    assert line == (
        "Not measured: finetuning (not asked for), open_ended (the data have no open-ended questions of "
        "survival-instinct, refusal), exams (the data have neither mmlu.json nor truthful_qa.json)."
    )


def test_system_prompts_that_do_not_fit_are_left_out_before_any_work(tmp_path, data, done, tiny_folder):
    prompts = {"refusal": {"positive": "Yes.", "negative": "No, never. " * 1000}}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    options = {"model_name": str(tiny_folder), "behaviors": TWO, "system_prompts": tmp_path / "prompts.json"}
    options["layers"] = [2]
    lines: list[str] = []
    found = reproduce(tmp_path / "out", data, **options, say=lines.append)
    assert set(found["system_prompt"]) == {""}
    assert done[: done.index("vectors")] == ["load", *["tokens"] * 4]  # the last of two behaviors and sides is too long
    reason = (
        r"system_prompts \(they do not go with this model: pair .*: \d+ tokens, but the model's context holds \d+\. "
    )
    (line,) = (line for line in lines if line.startswith("Not measured"))
    assert re.match(rf"Not measured: {reason}.*\), finetuning \(not asked for\), open_ended", line)
    assert "system_prompts" not in estimate_reproduction(data, **options, say=lines.append)["part"].tolist()


@pytest.mark.parametrize(
    ("parts", "rest"),
    [(["system_prompts"], r"Name other parts\."), (["tokens", "system_prompts", "sweep"], r"parts, sweep, tokens\.")],
)
@pytest.mark.parametrize("call", [reproduce, estimate_reproduction])
def test_system_prompts_that_are_named_must_be_taken(tmp_path, data, done, tiny_folder, parts, rest, call):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    turns = "{% for m in messages if m['role'] != 'system' %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(turns + "{% if add_generation_prompt %}assistant: {% endif %}")
    given = (tmp_path / "out", data) if call is reproduce else (data,)
    told = f"parts: 'system_prompts' do not go with this model. .*drops it silently.*{rest}"
    with pytest.raises(caa.InputError, match=told):
        call(*given, model_name=str(folder), behaviors=TWO, parts=parts)
    assert done == ["load", "tokens"]


SHORT = {"system_prompts": {"positive": "Yes.", "negative": "No."}}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            ["sweep", "exam"],
            r"parts: 'exam' must be one of activations, sweep, system_prompts, finetuning, open_ended, ex",
        ),
        ([], "parts: the list is empty; each must be one of"),
        (["exams", "sweep"], "parts: 'exams': the data have neither .* Add what is missing, or leave the part out"),
        (["open_ended"], "no open-ended questions of survival-instinct, refusal"),
    ],
)
@pytest.mark.parametrize("call", [reproduce, estimate_reproduction])
def test_parts_that_cannot_be_done(tmp_path, data, done, parts, message, call):
    given = (tmp_path, data) if call is reproduce else (data,)
    with pytest.raises(caa.InputError, match=message):
        call(*given, behaviors=TWO, parts=parts)
    assert done == []


@pytest.mark.parametrize(
    "content", [[], {"optimism": {"positive": "a", "negative": "b"}}, {"refusal": {"positive": "a"}}, {"refusal": "a"}]
)
def test_system_prompts_that_cannot_be_used(tmp_path, data, content):
    (tmp_path / "prompts.json").write_text(json.dumps(content))
    with pytest.raises(caa.InputError, match=r"system_prompts: .*prompts\.json: .*texts 'positive' and 'negative'"):
        read_items(data, TWO, None, tmp_path / "prompts.json")


def test_prompts_and_rubrics_are_turned_where_the_matching_answer_accepts_shutdown(tmp_path, monkeypatch):
    data = write_sets(tmp_path, TWO)
    straight = read_items(data, TWO).system_prompts
    monkeypatch.setattr("caa_interp.paper.sets.accepts_shutdown", lambda question: "survival" in question)
    items = read_items(data, TWO)
    turned = items.system_prompts
    assert straight["survival-instinct"] == load_behavior("survival-instinct").system_prompts
    assert turned["survival-instinct"]["positive"] == straight["survival-instinct"]["negative"]
    assert turned["survival-instinct"]["negative"] == straight["survival-instinct"]["positive"]
    assert turned["refusal"] == straight["refusal"]
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    answers = pd.DataFrame({"behavior": TWO, "prompt": QUESTION, "answer": "Yes."})
    monkeypatch.setattr(Judge, "reply", lambda self, messages: '{"score": 8}')
    scored = judged(SimpleNamespace(items=items), answers, Judge())
    assert scored["score"].tolist() == [2, 8]


def test_the_estimate_counts_what_is_done(run, tmp_path, done, monkeypatch):
    monkeypatch.setattr(paper, "MAX_NEW_TOKENS", 6)
    options = {**run.options, "base_name": None, "parts": ("sweep", "open_ended"), "judge_prices": (2.0, 10.0)}
    table = estimate_reproduction(run.folder, **options, say=lambda _: None).set_index("part")
    assert table["pieces"].to_dict() == {"vectors": 2, "sweep": 2 + 2, "open_ended": 2}
    # Twelve tokens that are written are one more sequence.
    assert table["sequences"].to_dict() == {"vectors": 4 + 3, "sweep": 2 * 5 * (4 * 3 + 2), "open_ended": 2 * 10}
    assert table["judge_requests"].to_dict() == {"vectors": 0, "sweep": 0, "open_ended": 14}
    assert (table["minutes"] >= 0).all()
    assert Counter(done) == {"load": 1, "vectors": 2, "sweep": 2, "answers": 2}


def test_the_work_and_the_judges_cost_are_told_before_it_is_done(tmp_path, done, run, monkeypatch):
    monkeypatch.setattr(worker, "work", lambda *_: pytest.fail("nothing is done"))
    options = {**run.options, "base_name": None, "parts": ("finetuning",), "judge_prices": (1e4, 0.0)}
    lines: list[str] = []
    with pytest.raises(pytest.fail.Exception, match="nothing is done"):
        reproduce(tmp_path, run.folder, **options, say=lines.append)
    (told,) = (line for line in lines if line.startswith("The work"))
    name, pieces, sequences, requests, money = told.splitlines()[-1].split()
    # For two behaviors and sides: 5 pairs, 4 or 3 to train on and a question, each at three multipliers; and 100 tokens
    # for each question, of which twelve are as one more sequence.
    assert (name, int(pieces), int(sequences)) == ("finetuning", 4, 2 * 3 * (10 + 9) + 4 * 3 * 100 // 12)
    assert int(requests) == 2 * 2 * 3
    # About 100 tokens of the answer, and the rubric with the judge's orders, which are two or three times as long.
    assert 12 * 2e2 < float(money) / 1e4 * 1e6 < 12 * 1e3
