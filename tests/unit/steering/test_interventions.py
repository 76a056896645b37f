"""Every operator at every rule of positions does the same in trees, plain passes, ``steer`` and ``generate``."""

import math
import warnings
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.evaluation.summary import are_several
from caa_interp.steering.intervention import as_interventions, condition_of, conditions
from caa_interp.steering.operators import AddIf, Cap, ProjectTo, ablate, add, add_keeping_norm, slerp
from caa_interp.steering.positions import RULES, FirstAnswerTokens
from caa_interp.tree import Branch, run_tree
from tests.oracles import steering as oracle

PROMPT = "Is it good?"
ANSWER = " I think so, yes"
OPERATORS = {
    "add": (add, ("add",)),
    "add_keeping_norm": (add_keeping_norm, ("add_keeping_norm",)),
    "slerp": (slerp, ("slerp",)),
    "ablate": (ablate, ("ablate",)),
    "project to": (ProjectTo(1.5), ("project to", 1.5)),
    "cap": (Cap(low=-0.2, high=0.3), ("cap", -0.2, 0.3)),
    "add if below": (AddIf(0.1), ("add if below", 0.1)),
}
POSITIONS = {
    "from_last_prompt_token": "from_last_prompt_token",
    "answer": "answer",
    "first two of the answer": FirstAnswerTokens(2),
    "prompt": "prompt",
    "all": "all",
    (2, 5, 8): [8, 2, 5],
}
WAYS = ("tree", "plain", "steer")


def vector(seed: int = 0, size: float = 4.0) -> caa.SteeringVector:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(size * values / values.norm(dim=1, keepdim=True), (0, 1, 2, 3), {"model": "tiny-llama"})


@pytest.fixture(scope="module")
def sequence(tiny_llama):
    """Tokens of a prompt and its answer, and the number of the prompt's."""
    prompt = caa.PromptFormat.of(tiny_llama).tokens(PROMPT).tokens
    return (*prompt, *tiny_llama.tokenizer(ANSWER, add_special_tokens=False)["input_ids"]), len(prompt)


def logits_of(way, model, tokens, n_prompt, interventions):
    """Log-probabilities of each next token of the answer."""
    wanted = tuple((at, tokens[at + 1]) for at in range(n_prompt - 1, len(tokens) - 1))
    if way == "steer":
        with caa.steer(model, interventions, prompt_length=n_prompt), torch.no_grad():
            logits = model(torch.tensor([tokens]))[0].log_softmax(-1)
        return torch.stack([logits[at, token] for at, token in wanted])
    edits = condition_of(as_interventions(interventions)).edits(n_prompt)
    return run_tree(model, [Branch(tokens, edits, wanted)], path=way).log_probs[0]


def expected(plain, tokens, n_prompt, edits):
    logits = oracle.steered_logits(plain, tokens, edits, n_prompt).log_softmax(-1)
    return torch.stack([logits[at, tokens[at + 1]] for at in range(n_prompt - 1, len(tokens) - 1)])


def edit_of(one: caa.Intervention, operator, rule):
    return (one.layer, one.vector.at(one.layer), one.multiplier, operator, rule)


@pytest.mark.parametrize("rule", POSITIONS, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_scores_are_those_of_the_slow_definition(tiny_llama, plain_llama, sequence, operator, rule):
    tokens, n_prompt = sequence
    (ours, literal) = OPERATORS[operator]
    one = caa.Intervention(vector(), 1, 0.8, ours, POSITIONS[rule])
    wanted = expected(plain_llama, tokens, n_prompt, [edit_of(one, literal, rule)])
    for way in WAYS:
        found = logits_of(way, tiny_llama, tokens, n_prompt, one)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4, msg=lambda text, way=way: f"{way}: {text}")
    unsteered = expected(plain_llama, tokens, n_prompt, [])
    assert float((wanted - unsteered).abs().max()) > 1e-3


@pytest.mark.parametrize("rule", POSITIONS, ids=str)
def test_answers_are_those_of_the_slow_definition(tiny_llama, plain_llama, sequence, rule):
    prompt = sequence[0][: sequence[1]]
    asked = {
        name: caa.Intervention(vector(1, 8.0), 2, 1.0, ours, POSITIONS[rule]) for name, (ours, _) in OPERATORS.items()
    }
    answers = caa.generate(
        tiny_llama, [PROMPT, "The sea"], steering={"unsteered": None, **asked}, max_new_tokens=6, progress=False
    )
    mine = answers[answers["item"] == 0].set_index("vector")
    form = caa.PromptFormat.of(tiny_llama)
    for name, one in asked.items():
        wanted = oracle.greedy(plain_llama, prompt, [edit_of(one, OPERATORS[name][1], rule)], 6, form.end_ids)
        assert mine.loc[name, "answer"] == tiny_llama.tokenizer.decode(wanted, skip_special_tokens=True).strip(), name
        assert mine.loc[name, "n_tokens"] == len(wanted), name


@pytest.mark.parametrize("way", WAYS)
def test_multiplier_zero_is_the_unsteered_model_exactly(tiny_llama, sequence, way):
    tokens, n_prompt = sequence
    unsteered = logits_of(way, tiny_llama, tokens, n_prompt, None)
    for operator, (ours, _) in OPERATORS.items():
        for rule, positions in POSITIONS.items():
            one = caa.Intervention(vector(), 1, 0.0, ours, positions)
            found = logits_of(way, tiny_llama, tokens, n_prompt, one)
            assert torch.equal(found, unsteered), (operator, rule)


@pytest.mark.parametrize("layers", [(1, 1), (0, 2), (2, 0)])
@pytest.mark.parametrize("way", WAYS)
def test_several_are_applied_in_turn(tiny_llama, plain_llama, sequence, layers, way):
    tokens, n_prompt = sequence
    first = caa.Intervention(vector(), layers[0], 1.0)
    second = caa.Intervention(vector(), layers[1], 1.0, Cap(high=0.5))
    literal = [
        edit_of(first, ("add",), "from_last_prompt_token"),
        edit_of(second, ("cap", -math.inf, 0.5), "from_last_prompt_token"),
    ]
    found = logits_of(way, tiny_llama, tokens, n_prompt, [first, second])
    torch.testing.assert_close(found, expected(plain_llama, tokens, n_prompt, literal), rtol=0, atol=1e-4)
    if layers[0] == layers[1]:  # where they meet, the order matters
        other = logits_of(way, tiny_llama, tokens, n_prompt, [second, first])
        torch.testing.assert_close(other, expected(plain_llama, tokens, n_prompt, literal[::-1]), rtol=0, atol=1e-4)
        assert float((found - other).abs().max()) > 1e-3


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_list_equals_nested_contexts(tiny_llama, sequence, operator):
    tokens, n_prompt = sequence
    first = caa.Intervention(vector(), 1, 1.5, OPERATORS[operator][0])
    second = caa.Intervention(vector(3), 1, 0.5, Cap(high=0.2), "all")
    listed = logits_of("steer", tiny_llama, tokens, n_prompt, [first, second])
    with caa.steer(tiny_llama, first, prompt_length=n_prompt):
        nested = logits_of("steer", tiny_llama, tokens, n_prompt, second)
    assert torch.equal(listed, nested)


def test_one_vector_at_many_layers(tiny_llama, plain_llama, sequence):
    tokens, n_prompt = sequence
    several = [caa.Intervention(vector(), layer, 0.3) for layer in range(4)]
    wanted = expected(
        plain_llama, tokens, n_prompt, [edit_of(one, ("add",), "from_last_prompt_token") for one in several]
    )
    for way in WAYS:
        found = logits_of(way, tiny_llama, tokens, n_prompt, several)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rule", POSITIONS, ids=str)
def test_a_batch_of_conditions_equals_single_ones(tiny_llama, rule):
    asked = [
        None,
        caa.Intervention(vector(), 1, 2.0, add, POSITIONS[rule]),
        [caa.Intervention(vector(), 1, 2.0), caa.Intervention(vector(2), 3, 1.0, ablate, POSITIONS[rule])],
    ]
    prompts = ["Is it good?", "What do you think of the weather today?", "The"]
    options = {"max_new_tokens": 5, "progress": False}
    together = caa.generate(tiny_llama, prompts, steering=asked, **options)
    for item, prompt in enumerate(prompts):
        for place, one in enumerate(asked):
            alone = caa.generate(tiny_llama, [prompt], steering=[one], **options)
            assert together["answer"][item * len(asked) + place] == alone["answer"][0]


def test_what_a_context_does_is_added_to_what_a_call_does(tiny_llama, pairs):
    outer, inner = caa.Intervention(vector(), 1, 1.0), caa.Intervention(vector(2), 2, 1.0)
    options = {"format": "text", "progress": False}
    listed = caa.sweep(tiny_llama, {"both": [outer, inner], "one": [outer]}, pairs[:2], **options)
    answers = caa.generate(tiny_llama, [PROMPT], steering=[[outer, inner]], max_new_tokens=6, progress=False)
    with caa.steer(tiny_llama, outer):
        nested = caa.sweep(tiny_llama, [inner, None], pairs[:2], **options)
        nested_answers = caa.generate(tiny_llama, [PROMPT], steering=[inner], max_new_tokens=6, progress=False)
    assert list(nested["logit_difference"]) == pytest.approx(list(listed["logit_difference"]), abs=1e-5)
    assert list(nested_answers["answer"]) == list(answers["answer"])


@pytest.mark.parametrize("prompt", ["Is it good?", "What do you think?", "The sea"])
def test_generate_inside_a_context_steers_as_generate_itself(tiny_llama, plain_llama, prompt):
    one = caa.Intervention(vector(1, 8.0), 2)
    with caa.steer(tiny_llama, one):
        inside = caa.generate(tiny_llama, [prompt], max_new_tokens=6, progress=False)
    ids = caa.PromptFormat.of(tiny_llama).tokens(prompt).tokens
    literal = [edit_of(one, ("add",), "from_last_prompt_token")]
    wanted = oracle.greedy(plain_llama, ids, literal, 6, caa.PromptFormat.of(tiny_llama).end_ids)
    assert inside["answer"][0] == tiny_llama.tokenizer.decode(wanted, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    "body",
    [
        lambda model: None,
        lambda model: model.reset_hooks() or model(torch.tensor([[0, 40, 41]])),
        lambda model: model(torch.tensor([[0, 40, 41]]), stop_at_layer=1),
    ],
)
def test_a_context_in_which_nothing_was_changed_says_so(tiny_llama, body):
    with pytest.warns(UserWarning, match="no position was changed"), caa.steer(tiny_llama, vector(), 2):
        body(tiny_llama)


@pytest.mark.parametrize("positions", [[50], "answer"])
def test_positions_beyond_what_the_model_was_given_say_so(tiny_llama, positions):
    told = pytest.warns(UserWarning, match="no position was changed")
    with told, caa.steer(tiny_llama, vector(), 2, positions=positions):
        tiny_llama(torch.tensor([[0, 40, 41]]))


def test_an_intervention_is_frozen_equal_to_its_like_and_scaled_by_numbers():
    one = caa.Intervention(vector(), 1, 0.5)
    with pytest.raises(FrozenInstanceError):
        one.layer = 2
    assert one == caa.Intervention(vector(), 1, 0.5)
    assert 2 * one == one * 2 == replace(one, multiplier=1.0)
    assert caa.Intervention(vector(), 1, positions=[4, 2, 4]).positions == (2, 4)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"vector": torch.ones(64)}, "vector: Tensor; it must be one SteeringVector"),
        ({"vector": [vector()]}, "vector: list; it must be one SteeringVector"),
        ({"layer": 7}, "layer 7: the vector has layers 0 to 3"),
        ({"multiplier": math.nan}, "multiplier: nan is not a finite number"),
        ({"multiplier": 10**400}, "multiplier: 10+ is not a finite number"),
        ({"operator": "add"}, "operator: 'add'; give one such as caa.add"),
        ({"operator": caa.Cap}, r"operator: <class .*Cap'>; give one such as caa\.add, .* or caa\.Cap\(high=3\)"),
        ({"positions": "last"}, r"positions: 'last'; give one of 'from_last_prompt_token', .* FirstAnswerTokens\(k\)"),
        ({"positions": [-1]}, r"positions: \[-1\]; give one of"),
        ({"positions": []}, r"positions: \[\]; give one of"),
        ({"positions": 3}, "positions: 3; give one of"),
    ],
)
def test_what_an_intervention_refuses(fields, said):
    with pytest.raises(caa.InputError, match=said):
        caa.Intervention(**{"vector": vector(), "layer": 1, **fields})


def test_tables_name_what_was_done(tiny_llama):
    up = caa.Intervention(vector(), 1, 1.5)
    cap = caa.Intervention(vector(), 2, 1.0, Cap(high=1.0), "all")
    found = [one.columns for one in conditions(tiny_llama, [None, up, [up, cap]], None)]
    assert [(one["vector"], one["kind"], one["layer"], one["multiplier"]) for one in found] == [
        ("unsteered", "unsteered", None, 0.0),
        ("vector", "vector", 1, 1.5),
        ("vector + vector (Cap(low=-inf, high=1.0))", "vector", 1, 1.5),
    ]
    assert found[2]["operator"] == "add + Cap(low=-inf, high=1.0)"
    assert found[2]["positions"] == "from_last_prompt_token + all"
    named = conditions(tiny_llama, {"both": [up, cap], "none": None}, None)
    assert [one.vector for one in named] == ["both", "none"]


@pytest.mark.parametrize("factor", ["a", None, 10**400, math.nan])
def test_what_an_intervention_is_not_scaled_by(factor):
    with pytest.raises(caa.InputError, match=r"multiplier: .* is not a finite number"):
        caa.Intervention(vector(), 1) * factor


SHORT_FORM = [{"operator": ablate}, {"positions": "all"}, {"positions": [1, 2]}]


@pytest.mark.parametrize("more", [*SHORT_FORM, {"layer": 1}, {"multiplier": 9.0}])
def test_what_describes_a_vector_is_refused_beside_interventions(tiny_llama, more):
    said = f"{next(iter(more))}: only a vector needs it; interventions have their own. Leave it out"
    with pytest.raises(caa.InputError, match=said), caa.steer(tiny_llama, caa.Intervention(vector(), 1), **more):
        pass


@pytest.mark.parametrize("more", [*SHORT_FORM, {"layers": 1}, {"multipliers": [-1, 0, 1]}])
def test_what_describes_vectors_is_refused_beside_conditions(tiny_llama, pairs, more):
    said = f"{next(iter(more))}: only a vector needs it; interventions have their own. Leave it out"
    with pytest.raises(caa.InputError, match=said):
        caa.sweep(tiny_llama, [None, caa.Intervention(vector(), 1)], pairs[:1], **more)


@pytest.mark.parametrize(
    "given",
    [
        [[caa.Intervention(vector(), 1), caa.Intervention(vector(2), 2, m)] for m in (1.0, -1.0)],
        [caa.Intervention(vector(), 1), caa.Intervention(-vector(), 1)],
        {1: vector(), "1": -vector()},
        [None, None],
    ],
)
def test_conditions_that_a_table_cannot_tell_apart(tiny_llama, given):
    with pytest.raises(caa.InputError, match=r"2 conditions look alike in a table, vector .*Name them: {name: cond"):
        conditions(tiny_llama, given, None)
    if isinstance(given, list):
        assert len(conditions(tiny_llama, dict(enumerate(given)), None)) == 2


@pytest.mark.parametrize("positions", [[200], [200, 255]])
def test_positions_that_no_sequence_of_a_table_has_say_so(tiny_llama, pairs, positions):
    one, said = caa.Intervention(vector(), 1, positions=positions), r"positions: \(200.*\): nothing is steered"
    for format in ("choices", "text"):
        with pytest.warns(UserWarning, match=said):
            caa.sweep(tiny_llama, one, pairs[:1], format=format, progress=False)
    with pytest.warns(UserWarning, match=said):
        caa.evaluation.divergence(tiny_llama, one, [PROMPT], n_tokens=2, progress=False)


def test_an_answer_of_one_token_has_no_position_to_steer_and_says_so(tiny_llama):
    """It is scored at the last token of the prompt."""
    form = caa.PromptFormat.of(tiny_llama)
    words = [
        word
        for word in ("good", "sea", "you")
        if len(form.tokens(PROMPT, word).tokens) == len(form.tokens(PROMPT).tokens) + 1
    ]
    pair, one = caa.ContrastPair(PROMPT, *words[:2]), caa.Intervention(vector(), 1, positions="answer")
    with pytest.warns(UserWarning, match="positions: answer: nothing is steered: .* none of them there"):
        table = caa.sweep(tiny_llama, [None, one], [pair], format="text", progress=False)
    assert table["logit_difference"].nunique() == 1
    with pytest.warns(UserWarning, match="positions: answer: nothing is steered"):
        caa.generate(tiny_llama, [PROMPT], steering=one, max_new_tokens=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caa.generate(tiny_llama, [PROMPT], steering=one, max_new_tokens=2, progress=False)


def test_no_multiplier_is_minus_zero(tiny_llama):
    assert str((-1 * caa.Intervention(vector(), 1, 0.0)).multiplier) == "0.0"
    found = conditions(tiny_llama, vector(), None, 1, -np.array([0.0, 1.0]))
    assert [str(one.multiplier) for one in found] == ["0.0", "-1.0"]


@pytest.mark.parametrize("given", [{}, [], 3, "vector", {"a": vector(), "b": 3}, [vector()]])
def test_what_cannot_steer(tiny_llama, given):
    with pytest.raises(caa.InputError, match=r"^(vector|layer): "):
        conditions(tiny_llama, given, None)


def test_every_rule_is_tested():
    assert set(RULES) - {"after_thinking"} <= set(POSITIONS)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, tuple, list, lambda given: [torch.tensor(n) for n in given]])
def test_layers_multipliers_and_positions_in_arrays_and_tensors(tiny_llama, pairs, kind):
    up = caa.Intervention(vector(), 1, positions=kind([3, 1]))
    assert up.positions == (1, 3)
    table = caa.sweep(
        tiny_llama, vector(), pairs[:1], layers=kind([1, 2]), multipliers=kind([0.0, 1.5]), progress=False
    )
    assert set(zip(table["layer"], table["multiplier"], strict=True)) == {(1, 0.0), (1, 1.5), (2, 0.0), (2, 1.5)}
    assert caa.collect_activations(tiny_llama, pairs[:1], layers=kind([2, 0]), progress=False).layers == (2, 0)
    assert caa.SteeringVector(torch.ones(2, 8), kind([4, 7])).layers == (4, 7)


def test_a_vector_in_a_list_is_refused_with_advice_that_works(tiny_llama, pairs):
    """A vector of one layer, too: in a list it would be added once, where by itself it has three multipliers."""
    one_layer = caa.SteeringVector(vector().values[1:2], (1,))
    calls = [
        lambda given: caa.steer(tiny_llama, given).__enter__(),
        lambda given: caa.steer(tiny_llama, given, 1).__enter__(),
        lambda given: caa.sweep(tiny_llama, given, pairs, progress=False),
        lambda given: caa.sweep(tiny_llama, given, pairs, layers=1, progress=False),
        lambda given: caa.generate(tiny_llama, ["Why?"], steering=given, progress=False),
        lambda given: caa.sweep(tiny_llama, {"a": given[0], "b": None}, pairs, progress=False),
    ]
    for call in calls:
        for given in (vector(), one_layer):
            with pytest.raises(caa.InputError, match=r"stands in a list .*caa.Intervention\(vector, layer=...\)"):
                call([given])
    with caa.steer(tiny_llama, [caa.Intervention(one_layer, layer=1)]):
        tiny_llama(torch.tensor([[1, 2, 3]]))
    table = caa.sweep(tiny_llama, {"one": one_layer}, pairs, progress=False)
    assert set(table["multiplier"]) == {-1, 0, 1}


def test_two_operators_of_one_name_are_refused_in_a_table(tiny_llama, pairs):
    one, other = (
        caa.Intervention(vector(), 1, operator=lambda r, v, m, sign=sign: r + sign * m * v) for sign in (1, -1)
    )
    with pytest.raises(caa.InputError, match=r"operator: two different ones are both '<lambda>' .*Define each"):
        caa.sweep(tiny_llama, {"one": one, "other": other}, pairs, progress=False)
    table = caa.sweep(tiny_llama, {"one": one, "half": 0.5 * one}, pairs, format="text", progress=False)
    assert set(table["operator"]) == {"<lambda>"}


def test_one_operator_with_a_plus_in_its_name_is_one(tiny_llama):
    def both(residual, vector, multiplier):
        return residual + multiplier * vector

    both.__name__ = "add + add"
    one, two = caa.Intervention(vector(), 1, operator=both), caa.Intervention(vector(), 2)
    asked = conditions(tiny_llama, {"one": one, "two": [one, two]}, None)
    table = pd.DataFrame([condition.columns for condition in asked])
    assert are_several(table).tolist() == [False, True]
