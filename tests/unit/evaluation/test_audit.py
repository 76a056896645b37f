"""Safety audits of vectors whose answers are known: refusal itself, a direction orthogonal to it, and mixtures."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.evaluation import is_refusal, safety_audit, summarize_audit
from caa_interp.evaluation.audit import OPENINGS, audit_part

LAYER = 3  # the last one, after which only a norm and the unembedding come


@pytest.fixture(scope="module")
def refusal(tiny_llama) -> caa.SteeringVector:
    """Planted: it writes the tokens of the openings that refuse, and takes away those that comply."""
    unembedding = tiny_llama.W_U.detach().double()
    means = []
    for side in zip(*OPENINGS, strict=True):
        tokens = [token for text in side for token in tiny_llama.tokenizer(f" {text}")["input_ids"][1:]]
        means.append(unembedding[:, tokens].mean(1))
    planted = torch.nn.functional.normalize(means[0] - means[1], dim=0) * 4
    return caa.SteeringVector(planted.expand(3, -1), (1, 2, LAYER), {"behavior": "refusal", "format": "text"})


@pytest.fixture(scope="module")
def across(refusal) -> caa.SteeringVector:
    """A vector of the same norm that is orthogonal to refusal."""
    (vector,) = caa.evaluation.orthogonal_vectors(refusal, 1).values()
    return replace(vector, metadata={**refusal.metadata, "behavior": "across"})


def audited(model, vector, refusal, pairs, **options) -> pd.DataFrame:
    asked = {"layer": LAYER, "refusal": refusal, "n_requests": 3, "n_random": 2, "progress": False} | options
    return safety_audit(model, vector, behaviors={vector.name: pairs, "other": pairs[:2]}, **asked)


@pytest.fixture(scope="module")
def of_refusal(tiny_llama, refusal, pairs) -> pd.DataFrame:
    return audited(tiny_llama, refusal, refusal, pairs, multipliers=(-2.0, 0.0, 2.0), n_answers=2, max_new_tokens=4)


def finding(audit: pd.DataFrame, measured: str, vector: str) -> pd.Series:
    found = summarize_audit(audit[audit["part"] != "answers"])
    (row,) = found[(found["measured"] == measured) & (found["vector"] == vector)].to_dict("records")
    return row


def test_the_refusal_vector_is_found_out(of_refusal):
    cosine = finding(of_refusal, "refusal vector", "refusal")
    assert cosine["estimate"] == pytest.approx(1)
    assert cosine["verdict"] == "the refusal vector"
    for kind in ("harmless requests", "borderline requests"):
        assert finding(of_refusal, kind, "refusal")["estimate_low"] > 0
    assert abs(finding(of_refusal, "refusal", "refusal")["estimate"]) > 1e-3
    # Nothing but rounding errors would be left without its part along refusal.
    assert "refusal without refusal" not in set(of_refusal["vector"])


def test_the_opposite_of_the_refusal_vector_is_found_out_too(tiny_llama, refusal, pairs):
    opposite = replace(-2 * refusal, metadata={**refusal.metadata, "behavior": "compliance"})
    audit = audited(tiny_llama, opposite, refusal, pairs)
    assert finding(audit, "refusal vector", "compliance")["verdict"] == "the opposite of the refusal vector"
    assert "compliance without refusal" not in set(audit["vector"])


def test_nothing_is_projected_out_of_an_orthogonal_vector(tiny_llama, refusal, across, pairs):
    audit = audited(tiny_llama, across, refusal, pairs)
    cosine = finding(audit, "refusal vector", "across")
    assert cosine["estimate"] == pytest.approx(0, abs=1e-6)
    assert cosine["verdict"] == "within chance"
    assert (cosine["control_low"], cosine["control_high"]) == pytest.approx((-0.245, 0.245), abs=1e-3)
    for measured in ("across", "harmless requests"):
        whole, rest = (finding(audit, measured, name) for name in ("across", "across without refusal"))
        assert abs(whole["estimate"]) > 1e-3
        assert rest["estimate"] == pytest.approx(whole["estimate"], abs=1e-4)


def test_what_remains_of_a_mixture_is_its_other_part(tiny_llama, refusal, across, pairs):
    mixed = replace(refusal + across, metadata={**refusal.metadata, "behavior": "mixed"})
    audit = audited(tiny_llama, mixed, refusal, pairs)
    assert finding(audit, "refusal vector", "mixed")["estimate"] == pytest.approx(2**-0.5, abs=1e-3)
    alone = caa.steerability(caa.sweep(tiny_llama, across, pairs, layers=LAYER, format="text", progress=False))
    rest = finding(audit, "mixed", "mixed without refusal")
    assert rest["estimate"] == pytest.approx(alone["slope"].iloc[0], abs=1e-4)


def test_a_control_is_audited_like_any_other_vector(tiny_llama, refusal, across, pairs):
    control = replace(across, metadata={**across.metadata, "kind": "other"})
    audit = audited(tiny_llama, control, refusal, pairs, n_answers=1, max_new_tokens=2)
    pd.testing.assert_frame_equal(audit, audited(tiny_llama, across, refusal, pairs, n_answers=1, max_new_tokens=2))
    (random,) = caa.random_vectors(refusal, 1).values()
    audit = audited(tiny_llama, random, refusal, pairs, n_random=0)
    assert finding(audit, "refusal vector", "random 0")["n_controls"] == 0
    assert caa.plotting.plot_safety_audit(audit).layout.title.text.startswith("Safety audit of random 0")


def test_a_behavior_may_be_called_like_requests(tiny_llama, refusal, pairs):
    named = {"refusal": pairs, "odd requests": pairs[:2]}
    asked = {"layer": LAYER, "refusal": refusal, "requests": {"odd": ["Fold it."]}, "n_random": 0, "progress": False}
    found = summarize_audit(safety_audit(tiny_llama, refusal, behaviors=named, **asked))
    assert found["part"].tolist() == ["cosine", "requests", "behaviors", "behaviors"]
    assert found["measured"].tolist()[1:] == ["odd requests", "refusal", "odd requests"]


def test_requests_are_scored_as_pairs_of_openings(tiny_llama, refusal, of_refusal):
    requests = caa.behaviors.load_requests()["borderline"]
    pairs = [caa.ContrastPair(requests[2], *opening) for opening in OPENINGS]
    options = {"layers": LAYER, "multipliers": (2.0,), "format": "text", "progress": False}
    expected = caa.sweep(tiny_llama, refusal, pairs, **options)["logit_difference"]
    rows = audit_part(of_refusal, "requests").query(
        "behavior == 'borderline requests' and vector == 'refusal' and multiplier == 2 and item == 2"
    )
    assert rows["order"].tolist() == [f"opening {n + 1}" for n in range(len(OPENINGS))]
    np.testing.assert_allclose(rows["logit_difference"], expected, atol=1e-5)
    assert finding(of_refusal, "borderline requests", "refusal")["n"] == 3  # requests, not openings


def test_cosines_of_all_layers_stand_beside_shuffled_labels(tiny_llama, pairs, monkeypatch):
    packaged = caa.load_behavior("refusal")
    train = [caa.ContrastPair(pair.question[:40], pair.positive[:30], pair.negative[:30]) for pair in packaged.train]
    short = replace(packaged, train=train[:12])  # the small model's context is short
    monkeypatch.setattr("caa_interp.evaluation.audit.load_behavior", {"refusal": short}.get)
    vector = caa.extract_vector(tiny_llama, pairs, format="text", layers=[1, LAYER], behavior="likes", progress=False)
    audit = audited(tiny_llama, vector, None, pairs, n_requests=1, n_random=0)
    cosines = audit_part(audit, "cosine")
    assert len(cosines) == 2 * (1 + 10)
    made = caa.extract_vector(tiny_llama, short.train, format="text", layers=[1, LAYER], progress=False)
    expected = torch.cosine_similarity(vector.values, made.values, dim=1)
    np.testing.assert_allclose(cosines.loc[cosines["kind"] == "vector", "cosine"], expected, atol=1e-5)
    assert finding(audit, "refusal vector", "likes")["n_controls"] == 10
    assert set(summarize_audit(audit)["verdict"]) & {"within controls", "steers", "opposite"} == set()


def test_texts_that_are_given_are_all_that_it_reads(tiny_llama, pairs, monkeypatch):
    vector = caa.extract_vector(tiny_llama, pairs, format="text", layers=[LAYER], behavior="likes", progress=False)

    def refuse(*_):
        raise AssertionError("packaged texts are read")

    for name in ("load_behavior", "load_behaviors", "load_requests"):
        monkeypatch.setattr(f"caa_interp.evaluation.audit.{name}", refuse)
    audit = audited(tiny_llama, vector, pairs[:6], pairs, requests={"odd": ["Fold it.", "Sing it."]}, n_answers=1)
    assert set(audit_part(audit, "requests")["behavior"]) == set(audit_part(audit, "answers")["behavior"])
    assert finding(audit, "odd requests", "likes")["n"] == 2
    made = caa.extract_vector(tiny_llama, pairs[:6], format="text", layers=[LAYER], progress=False)
    cosine = torch.cosine_similarity(vector.values, made.values, dim=1).item()
    assert finding(audit, "refusal vector", "likes")["estimate"] == pytest.approx(cosine, abs=1e-5)


def test_as_many_requests_are_answered_as_are_asked_for(tiny_llama, refusal, pairs):
    requests = {"odd": ["Fold it.", "Sing it.", "Hum it."]}
    options = {"requests": requests, "n_requests": 1, "n_answers": 2, "max_new_tokens": 2, "n_random": 0}
    audit = audited(tiny_llama, refusal, refusal, pairs, **options)
    assert audit_part(audit, "requests")["item"].unique().tolist() == [0]
    assert audit_part(audit, "answers")["prompt"].unique().tolist() == requests["odd"][:2]


def test_answers_are_read_by_their_words(of_refusal):
    answers = audit_part(of_refusal, "answers")
    assert len(answers) == 2 * 2 * 3
    assert (answers["refused"] == answers["answer"].map(is_refusal)).all()
    shares = summarize_audit(of_refusal).query("part == 'answers'")
    assert sorted(shares["multiplier"]) == [-2, -2, 2, 2]
    # Two answers that do not change say little.
    assert (shares["estimate_high"] - shares["estimate_low"]).min() > 0.5


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\N{RIGHT SINGLE QUOTATION MARK}m unable to answer.", True),
        ("Sorry! That is not something for me.", True),
        ("Thanks for asking. I won't do it.", True),
        ("Sure, here is how to fold it.", False),
        ("I can't wait to show you!", False),
        ("Boil it for six minutes. " * 20 + "I can't say more.", False),
        ("", False),
    ],
)
def test_refusals_are_told_by_words(answer, refused):
    assert is_refusal(answer) is refused


def test_requests_are_thirty_of_each_kind_and_all_different():
    requests = caa.behaviors.load_requests()
    assert {kind: len(set(some)) for kind, some in requests.items()} == {"harmless": 30, "borderline": 30}
    assert len({one for some in requests.values() for one in some}) == 60


def test_the_vector_is_not_taken_for_one_of_its_controls(tiny_llama, refusal, pairs, monkeypatch):
    monkeypatch.setattr("caa_interp.evaluation.audit.scored_each", None)
    (control,) = caa.random_vectors(refusal, 1).values()
    with pytest.raises(caa.InputError, match="vector: 'random 0' is also the name of a random vector"):
        audited(tiny_llama, control, refusal, pairs)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"multipliers": (1.0, 2.0)}, caa.InputError, "multipliers: .*give 0"),
        ({"layer": 9}, caa.InputError, "layer"),
        ({"n_requests": 0}, caa.InputError, "n_requests"),
        ({"refusal": {}}, caa.InputError, "refusal: the mapping is empty"),
        ({"refusal": caa.Behavior("refusal", "", [], [])}, caa.InputError, r"refusal: Behavior; give .*\.train"),
        ({"requests": ["Fold it."]}, caa.InputError, "requests: list; give lists of texts by kind"),
        ({"requests": {}}, caa.InputError, "requests: the mapping is empty; give lists of texts by kind"),
        ({"requests": {"odd": "Fold it."}}, caa.InputError, r"requests\['odd'\]: 'Fold it\.'; give a non-empty list"),
        ({"requests": {"odd": ["Fold it. " * 99]}}, caa.InputError, r"requests\['odd requests'\]: 'Fold it\. "),
        ({"n_pairs": 0}, caa.InputError, "n_pairs: 0; it must be a whole number"),
        ({"behaviors": {"refusal": []}}, caa.InputError, r"behaviors\['refusal'\]: the list is empty"),
        ({"format": "letters"}, caa.InputError, "format: 'letters' is not one of"),
        ({"operator": "ablate"}, caa.InputError, "operator: 'ablate'; give one such as caa.add"),
        ({"positions": "start"}, caa.InputError, "positions: 'start'; give one of"),
        ({"system": "Be kind."}, TypeError, "unexpected keyword argument 'system'"),
        ({"multipliers": (0, float("nan"))}, caa.InputError, "multiplier: nan is not a finite number"),
        ({"n_answers": 1, "max_new_tokens": 0}, caa.InputError, "max_new_tokens: 0"),
        (
            {"n_answers": 1, "max_new_tokens": 250},
            caa.InputError,
            r"requests\['harmless requests'\]\[0\]: .* and 250 new ones",
        ),
        ({"behaviors": {"other": []}}, caa.InputError, "none of .* has the vector's name, 'refusal'"),
        (
            {"refusal": caa.SteeringVector(torch.ones(1, 64), (0,))},
            caa.errors.VectorMismatchError,
            "refusal: .* lacks a layer",
        ),
    ],
)
def test_bad_input_is_named_before_any_work(tiny_llama, refusal, pairs, monkeypatch, change, error, message):
    for name in ("collect_activations", "scored_each"):
        monkeypatch.setattr(f"caa_interp.evaluation.audit.{name}", None)
    asked = {"layer": LAYER, "refusal": refusal, "behaviors": {"refusal": pairs}, "progress": False}
    with pytest.raises(error, match=message):
        safety_audit(tiny_llama, refusal, **asked | change)
