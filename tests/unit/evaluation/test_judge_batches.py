"""A batch asks what a server would be asked, and its result is as good as having asked."""

import json

import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.errors import InputError, ModelError
from caa_interp.evaluation.judge_batches import read_judge_batch, write_judge_batch
from caa_interp.evaluation.judge_requests import judge_messages
from caa_interp.evaluation.judges import OpenAIJudge
from caa_interp.evaluation.judging import estimate_cost, judge_answers

RUBRIC = "How cheerful is the answer? 0: not at all. 10: wholly."
PRICES = {"price_in": 1, "price_out": 1}


@pytest.fixture
def judge() -> OpenAIJudge:
    """A judge whose server does not exist: whatever is asked of it is an error."""
    return OpenAIJudge("strong", base_url="http://127.0.0.1:9/v1", max_retries=0, timeout=5.0)


@pytest.fixture
def given(judge, tmp_path) -> dict:
    return {"answers": answers("a", "bb", "bb"), "rubric": RUBRIC, "judge": judge, "cache": tmp_path / "cache"}


def answers(*texts: str) -> pd.DataFrame:
    rows = [(number, "Prompt", 13, 1.0, text) for number, text in enumerate(texts)]
    return pd.DataFrame(rows, columns=["item", "prompt", "layer", "multiplier", "answer"])


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def done(request: dict, content: str | None, finish_reason: str = "stop", **message) -> dict:
    """The result line of a request."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish_reason,
    }
    body = {"id": "1", "object": "chat.completion", "choices": [choice]}
    return {"id": "b", "custom_id": request["custom_id"], "error": None, "response": {"status_code": 200, "body": body}}


def failed(request: dict) -> dict:
    response = {"status_code": 400, "body": {"error": {"message": "content filter"}}}
    return {"id": "b", "custom_id": request["custom_id"], "error": None, "response": response}


def written(path, results) -> object:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in results))
    return path


def test_a_batch_holds_what_the_server_would_be_asked(given, tmp_path):
    path = tmp_path / "batch.jsonl"
    assert write_judge_batch(**given, path=path) == 2  # equal answers are asked about once
    first, second = lines(path)
    assert first == {
        "custom_id": first["custom_id"],
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "strong",
            "messages": judge_messages(RUBRIC, "Prompt", "a"),
            "temperature": 0.0,
            "max_tokens": 32,
            "response_format": {"type": "json_object"},
        },
    }
    assert second["body"]["messages"] == judge_messages(RUBRIC, "Prompt", "bb")
    assert estimate_cost(**given, **PRICES).n_calls == 2
    assert list(given["cache"].iterdir()) == []


def test_after_its_result_is_read_nothing_is_asked(given, tmp_path):
    asked = {"coherence": True, "wordings": 2}
    n = write_judge_batch(**given, path=tmp_path / "batch.jsonl", **asked)
    requests = lines(tmp_path / "batch.jsonl")
    assert n == len(requests) == 8
    results = [done(one, f'{{"score": {place}}}') for place, one in enumerate(requests)]
    path = written(tmp_path / "result.jsonl", reversed(results))
    assert read_judge_batch(path, **given, **asked) == 8
    assert {kept.stem for kept in given["cache"].iterdir()} == {one["custom_id"] for one in requests}
    judged = judge_answers(**given, **asked)
    assert judged["score_1"].tolist() == [0, 2, 2]
    assert judged["score_2"].tolist() == [1, 3, 3]
    assert judged["coherence"].tolist() == [4.5, 6.5, 6.5]
    # Again, and with nothing left to ask.
    before = {kept: kept.stat().st_mtime_ns for kept in given["cache"].iterdir()}
    assert read_judge_batch(path, **given, **asked) == 8
    assert before == {kept: kept.stat().st_mtime_ns for kept in given["cache"].iterdir()}
    assert write_judge_batch(**given, path=tmp_path / "none.jsonl", **asked) == 0
    assert not (tmp_path / "none.jsonl").exists()
    assert estimate_cost(**given, **PRICES, **asked).n_calls == 0


def test_replies_are_kept_as_if_they_had_been_asked_for(given, tmp_path):
    given["answers"] = answers("a", "bb", "ccc", "dddd")
    write_judge_batch(**given, path=tmp_path / "batch.jsonl")
    cut, refused, silent, odd = lines(tmp_path / "batch.jsonl")
    results = [
        done(cut, '{"score": 1', "length"),
        done(refused, None, refusal="I will not."),
        done(silent, None),
        done(odd, 'One\u2028line. {"score": 7}'),
    ]
    read_judge_batch(written(tmp_path / "result.jsonl", results), **given)
    with pytest.warns(UserWarning, match="3 of 4 replies"):
        judged = judge_answers(**given)
    assert judged["reply"].tolist() == ['{"score": 1…', "I will not.", "", 'One\u2028line. {"score": 7}']


def test_requests_that_failed_are_told_and_only_they_are_left(given, tmp_path):
    write_judge_batch(**given, path=tmp_path / "batch.jsonl")
    good, bad = lines(tmp_path / "batch.jsonl")
    path = written(tmp_path / "result.jsonl", [failed(bad), done(good, '{"score": 7}')])
    said = (
        rf"1 replies in .* are kept, and 1 requests failed, such as '{bad['custom_id']}': .*content filter.* Write an"
    )
    with pytest.raises(ModelError, match=said):
        read_judge_batch(path, **given)
    assert write_judge_batch(**given, path=tmp_path / "rest.jsonl") == 1
    (rest,) = lines(tmp_path / "rest.jsonl")
    assert rest == bad
    assert read_judge_batch(written(tmp_path / "second.jsonl", [done(rest, '{"score": 3}')]), **given) == 1
    assert judge_answers(**given)["score"].tolist() == [7, 3, 3]
    assert read_judge_batch(path, **given) == 1  # what failed then has been answered


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:-20], r"line 2 of .* is no result of a chat completion .*Fetch the file again"),
        (lambda text: text.replace('"choices"', '"choice"'), "line 1 of .* is no result of a chat completion"),
        (lambda text: text + "[]\n", "line 3 of .* is no result of a chat completion"),
        (
            lambda text: text.replace('"custom_id": "', '"custom_id": "x'),
            "line 1 of .* is about 'x.*no request that these",
        ),
    ],
)
def test_a_file_that_is_not_its_result_changes_nothing(given, tmp_path, change, said):
    write_judge_batch(**given, path=tmp_path / "batch.jsonl")
    path = written(tmp_path / "result.jsonl", [done(one, '{"score": 7}') for one in lines(tmp_path / "batch.jsonl")])
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=said):
        read_judge_batch(path, **given)
    assert list(given["cache"].iterdir()) == []


def test_a_batch_of_other_answers_is_told(given, tmp_path):
    write_judge_batch(**given, path=tmp_path / "batch.jsonl")
    path = written(tmp_path / "result.jsonl", [done(one, "{}") for one in lines(tmp_path / "batch.jsonl")])
    with pytest.raises(InputError, match=r"no request that these arguments make\. Give the answers, rubric, judge"):
        read_judge_batch(path, **given | {"rubric": RUBRIC + " Be strict."})


def test_a_reply_with_half_a_surrogate_pair_is_kept_like_the_others(given, tmp_path):
    write_judge_batch(**given, path=tmp_path / "batch.jsonl")
    results = [done(one, '{"score": 7} \ud83d') for one in lines(tmp_path / "batch.jsonl")]
    path = tmp_path / "result.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in results))
    assert read_judge_batch(path, **given) == 2
    assert judge_answers(**given)["reply"].tolist() == ['{"score": 7} \\ud83d'] * 3


def test_a_cache_that_cannot_be_written_is_told(given, tmp_path, monkeypatch):
    write_judge_batch(**given, path=tmp_path / "batch.jsonl")
    results = [done(one, '{"score": 7}') for one in lines(tmp_path / "batch.jsonl")]
    path = written(tmp_path / "result.jsonl", results)
    monkeypatch.setattr("os.access", lambda folder, mode: False)
    for call in (lambda: read_judge_batch(path, **given), lambda: judge_answers(**given)):
        with pytest.raises(InputError, match=r"cache: .* cannot be written, and 2 replies are to be kept there"):
            call()
    assert list(given["cache"].iterdir()) == []


def test_bad_input_is_told(given, tmp_path, tiny_llama):
    with pytest.raises(InputError, match=r"must end in '.jsonl'"):
        write_judge_batch(**given, path=tmp_path / "batch.json")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match=r"path: .*folder.jsonl is a folder. Name a file to write"):
        write_judge_batch(**given, path=tmp_path / "folder.jsonl")
    with pytest.raises(InputError, match=r"cannot be read .* Give the result of a batch"):
        read_judge_batch(tmp_path / "folder.jsonl", **given)
    with pytest.raises(InputError, match=r"cannot be read .* Give the result of a batch"):
        read_judge_batch(tmp_path / "nowhere.jsonl", **given)
    given["judge"] = caa.evaluation.LocalJudge(tiny_llama)
    with pytest.raises(InputError, match=r"judge: LocalJudge; a batch is for a server. Give an OpenAIJudge\(model\)"):
        write_judge_batch(**given, path=tmp_path / "batch.jsonl")
