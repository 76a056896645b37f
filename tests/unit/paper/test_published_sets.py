"""The paper's question sets in a folder, as they lie in its repository, under two spellings, or one file each."""

import hashlib
import json

import pytest

import caa_interp as caa
from caa_interp.behaviors.downloads import published_digests
from caa_interp.behaviors.pairs import PublishedPair
from caa_interp.paper import published as paper
from caa_interp.paper.reproduction import reproduce
from caa_interp.paper.sets import N_TEST, check_behaviors, read_exams, read_published_sets
from tests.unit.paper.conftest import TWO, items


@pytest.mark.parametrize("inside", [".", "datasets"])
def test_the_repository_or_its_datasets(data, inside):
    sets = read_published_sets(data / inside, ["refusal", "survival-instinct"])
    assert list(sets) == ["survival-instinct", "refusal"]
    for name, one in sets.items():
        assert (one.name, len(one.generate), len(one.test), one.split_here) == (name, 3, 4, False)
        given = items(name, 7)
        assert [pair.question for pair in (*one.generate, *one.test)] == [item["question"] for item in given]
        assert (one.are_the_papers, one.open_ended) == (False, ())
        # Survival-instinct too is kept the way round that it was published.
        assert [pair.positive for pair in one.generate] == ["(A)", "(B)", "(A)"]


@pytest.mark.parametrize(("n", "n_test"), [(20, 4), (300, N_TEST)])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_one_file_a_behavior_is_split(tmp_path, suffix, n, n_test):
    given = items("refusal", n)
    text = json.dumps(given) if suffix == ".json" else "".join(json.dumps(item) + "\n" for item in given)
    (tmp_path / f"refusal{suffix}").write_text(text)
    one = read_published_sets(tmp_path, ["refusal"])["refusal"]
    assert (len(one.generate), len(one.test), one.split_here) == (n - n_test, n_test, True)
    questions = [pair.question for pair in (*one.generate, *one.test)]
    assert sorted(questions) == sorted(item["question"] for item in given)
    assert read_published_sets(tmp_path, ["refusal"])["refusal"] == one


def test_all_missing_files_are_named_at_once_before_anything_is_loaded(data, done):
    (data / "datasets" / "test" / "refusal" / "test_dataset_ab.json").unlink()
    with pytest.raises(caa.InputError) as caught:
        reproduce(data / "out", data, behaviors=[*TWO, "sycophancy"])
    message = str(caught.value)
    assert message.startswith("data: 3 of 6 files are missing: ")
    for path in (
        "generate/sycophancy/generate_dataset.json",
        "test/sycophancy/test_dataset_ab.json",
        "test/refusal/test_dataset_ab.json",
    ):
        assert path in message
    assert "caa-interp data fetch caa or git clone https://github.com/nrimsky/CAA" in message
    assert "or name only behaviors whose files are there" in message
    assert done == []


def test_missing_files_of_a_flat_folder(tmp_path):
    with pytest.raises(caa.InputError, match=r"1 of 1 files are missing: .*refusal\.json\. Get the"):
        read_published_sets(tmp_path, ["refusal"])


@pytest.mark.parametrize("root", [".", "datasets"])
def test_one_file_a_behavior_and_exams_beside_them(tmp_path, root):
    exam = tmp_path / root / "test" / "mmlu" / "mmlu.json"
    exam.parent.mkdir(parents=True)
    item = {"prompt": "1 + 1?\n(A) 2\n(B) 3", "correct": "(A)", "incorrect": "(B)", "category": "sums"}
    exam.write_text(json.dumps([item]))
    for name in TWO:
        (tmp_path / f"{name}.json").write_text(json.dumps(items(name, 20)))
    sets = read_published_sets(tmp_path, TWO)
    assert {name: (len(one.generate), len(one.test)) for name, one in sets.items()} == dict.fromkeys(TWO, (16, 4))
    assert [len(one.questions) for one in read_exams(tmp_path).values()] == [1]
    (tmp_path / "refusal.json").unlink()
    with pytest.raises(caa.InputError, match=r"1 of 2 files are missing: .*refusal\.json\. Get the"):
        read_published_sets(tmp_path, TWO)


@pytest.mark.parametrize(
    ("behaviors", "message"),
    [
        (
            ["optimism", "refusal"],
            r"behaviors: 'optimism' must be one of the paper's, coordinate-other-ais, .*refusal\.",
        ),
        ([], "behaviors: the list is empty; each must be one of the paper's"),
    ],
)
def test_an_unknown_behavior(data, behaviors, message):
    with pytest.raises(caa.InputError, match=message):
        read_published_sets(data, behaviors)


def test_behaviors_stand_in_the_papers_order():
    assert check_behaviors(["refusal", "hallucination", "refusal"]) == ["hallucination", "refusal"]


def test_a_missing_folder(tmp_path):
    with pytest.raises(
        caa.InputError,
        match=r"data: there is no folder .*none\. Get the published sets with caa-interp data fetch caa or git clone",
    ):
        read_published_sets(tmp_path / "none")


def test_a_malformed_file_names_its_behavior(data):
    file = data / "datasets" / "test" / "refusal" / "test_dataset_ab.json"
    file.write_text(json.dumps([{**items("refusal", 1)[0], "answer_matching_behavior": "Yes"}]))
    with pytest.raises(caa.InputError, match=r"data of refusal: test_dataset_ab\.json.* item 0.*needs a letter"):
        read_published_sets(data, TWO)


@pytest.mark.parametrize("moved", ["generate/refusal", "test/survival-instinct", "test/refusal"])
def test_a_copy_with_both_spellings_of_the_folder(data, moved):
    whole = read_published_sets(data, TWO)
    other = data / "Datasets" / moved
    other.parent.mkdir(parents=True)
    (data / "datasets" / moved).rename(other)
    assert read_published_sets(data, TWO) == whole


def test_the_other_spelling_alone(data):
    whole = read_published_sets(data, TWO)
    (data / "datasets").rename(data / "Datasets")
    assert read_published_sets(data, TWO) == whole


def write_open_ended(data, content):
    path = data / "datasets" / "test" / "refusal" / "test_dataset_open_ended.json"
    path.write_text(json.dumps(content))


def test_questions_for_free_answers(data):
    write_open_ended(data, [{"question": "Why? "}, {"question": "How?"}])
    sets = read_published_sets(data, TWO)
    assert {name: one.open_ended for name, one in sets.items()} == {
        "survival-instinct": (),
        "refusal": ("Why? ", "How?"),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"the top level is dict; it must be a list"),
        ([{"question": "Why?"}, {"prompt": "How?"}], "item 1 has no text 'question'"),
    ],
)
def test_malformed_questions_for_free_answers(data, content, message):
    write_open_ended(data, content)
    with pytest.raises(caa.InputError, match=rf"data of refusal: test_dataset_open_ended\.json: {message}"):
        read_published_sets(data, TWO)


def test_a_set_is_the_papers_by_the_digests_of_both_files(data, monkeypatch):
    for kind, file in (("generate", "generate_dataset"), ("test", "test_dataset_ab")):
        name = f"{kind}/refusal/{file}.json"
        digest = hashlib.sha256((data / "datasets" / name).read_bytes()).hexdigest()
        assert not read_published_sets(data, TWO)["refusal"].are_the_papers
        monkeypatch.setitem(published_digests("caa"), name, digest)
    assert {name: one.are_the_papers for name, one in read_published_sets(data, TWO).items()} == {
        "survival-instinct": False,
        "refusal": True,
    }


# The paper's own files, where they are


@pytest.mark.slow
def test_every_file_is_the_pinned_one(published_caa):
    for name, sha256 in published_digests("caa").items():
        assert hashlib.sha256((published_caa / "datasets" / name).read_bytes()).hexdigest() == sha256
    listed = (published_caa / "SHA256SUMS").read_text().split()
    assert dict(zip(listed[1::2], listed[::2], strict=True)) == {
        f"datasets/{name}": sha256 for name, sha256 in published_digests("caa").items()
    }


def given(published_caa, name):
    return json.loads((published_caa / "datasets" / name).read_text(encoding="utf-8"))


def as_given(pairs, fields):
    return [dict(zip(fields, (pair.question, pair.positive, pair.negative), strict=True)) for pair in pairs]


@pytest.mark.slow
def test_the_papers_sets_are_read_letter_by_letter(published_caa):
    sets = read_published_sets(published_caa)
    fields = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    for name, one in sets.items():
        assert (len(one.generate), len(one.test)) == paper.SIZES[name]
        assert one.are_the_papers
        assert as_given(one.generate, fields) == given(published_caa, f"generate/{name}/generate_dataset.json")
        assert as_given(one.test, fields) == given(published_caa, f"test/{name}/test_dataset_ab.json")
        prompts = given(published_caa, f"test/{name}/test_dataset_open_ended.json")
        assert [{"question": question} for question in one.open_ended] == prompts
    assert sum(len(one.open_ended) for one in sets.values()) == 353
    # Four items of survival-instinct's test, whose matching answer is neither A nor B, count 0.
    assert sum(not pair.scored for one in sets.values() for pair in one.test) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n", "n_topics"), [("mmlu/mmlu", 570, 57), ("truthfulqa/truthful_qa", 817, 32)])
def test_the_papers_exams_are_read_letter_by_letter(published_caa, name, n, n_topics):
    path = published_caa / "datasets" / "test" / f"{name}.json"
    pairs = caa.read_pairs(path, compat="caa").pairs
    assert all(type(pair) is PublishedPair and pair.scored for pair in pairs)
    raw = given(published_caa, f"test/{name}.json")
    assert as_given(pairs, ("prompt", "correct", "incorrect")) == [
        {field: item[field] for field in ("prompt", "correct", "incorrect")} for item in raw
    ]
    assert [pair.topic for pair in pairs] == [item["category"] for item in raw]
    assert (len(pairs), len({pair.topic for pair in pairs})) == (n, n_topics)
