"""One contract for every operator, what each promises, and the same numbers on every path."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import caa_interp as caa
from caa_interp.prompts.format import PromptFormat
from caa_interp.steering.operators import name_of, operator_named
from caa_interp.steering.positions import name_of_positions, positions_named
from caa_interp.tree import Branch, run_tree
from tests.tiny_models import edit_from

OPERATORS = [
    caa.add,
    caa.steering.add_keeping_norm,
    caa.steering.slerp,
    caa.ablate,
    caa.steering.ProjectTo(1.5),
    caa.Cap(low=-0.5, high=0.25),
    caa.steering.AddIf(0.1),
    caa.steering.AddIf(0.1, side="above"),
]
each = pytest.mark.parametrize("operator", OPERATORS, ids=name_of)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def along(residual: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return residual @ (vector / vector.norm())


@each
def test_multiplier_zero_leaves_the_residual_stream_alone(operator):
    residual, vector = drawn(5, 7, 16), drawn(16, seed=1)
    torch.testing.assert_close(operator(residual, vector, 0.0), residual, rtol=1e-15, atol=1e-15)


@each
def test_rows_are_edited_one_by_one_whatever_stands_beside_them(operator):
    residual, vectors = drawn(6, 16), drawn(6, 16, seed=1)
    multipliers = drawn(6, 1, seed=2)
    together = operator(residual, vectors, multipliers)
    for row in range(6):
        alone = operator(residual[row], vectors[row], float(multipliers[row]))
        torch.testing.assert_close(together[row], alone, rtol=1e-14, atol=1e-14)


@each
def test_what_is_changed_lies_along_the_vector_or_along_what_was_there(operator):
    residual, vector = drawn(40, 16), drawn(16, seed=1)
    plane = torch.stack([vector.expand(40, -1), residual], dim=2)
    change = operator(residual, vector, 0.7) - residual
    outside = change[..., None] - plane @ torch.linalg.lstsq(plane, change[..., None]).solution
    assert float(outside.abs().max()) < 1e-12
    assert float(change.abs().max()) > 1e-3


@each
def test_a_zero_vector_changes_nothing(operator):
    residual = drawn(5, 16)
    torch.testing.assert_close(operator(residual, torch.zeros(16, dtype=torch.float64), 1.0), residual)


def test_add_is_the_papers_formula():
    residual, vector = drawn(4, 16), drawn(16, seed=1)
    torch.testing.assert_close(caa.add(residual, vector, -1.5), residual - 1.5 * vector)


def test_add_keeping_norm_turns_without_stretching():
    residual, vector = drawn(4, 16), drawn(16, seed=1)
    found = caa.steering.add_keeping_norm(residual, vector, 2.0)
    torch.testing.assert_close(found.norm(dim=-1), residual.norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity(found, residual + 2 * vector)
    torch.testing.assert_close(cosine, torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("multiplier", [0.02, -0.02, 0.5, 100.0, -100.0])
def test_slerp_turns_by_the_arc_and_never_past_the_vector(multiplier):
    residual, vector = drawn(4, 16), drawn(16, seed=1)
    found = caa.steering.slerp(residual, vector, multiplier)
    norm = residual.norm(dim=-1)
    torch.testing.assert_close(found.norm(dim=-1), norm)

    def angle(first, second):
        return torch.nn.functional.cosine_similarity(first, second).acos()

    between = angle(residual, vector.expand_as(residual))
    whole = between if multiplier > 0 else math.pi - between
    torch.testing.assert_close(
        angle(found, residual), torch.minimum(abs(multiplier) * vector.norm() / norm, whole), atol=1e-6, rtol=1e-6
    )
    left = angle(found, math.copysign(1, multiplier) * vector.expand_as(residual))
    torch.testing.assert_close(left, whole - angle(found, residual), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, -30.0])
def test_ablate_takes_out_the_direction_whatever_its_length_and_sign(scale):
    residual, vector = drawn(4, 16), drawn(16, seed=1)
    found = caa.ablate(residual, scale * vector, 1.0)
    assert float(along(found, vector).abs().max()) < 1e-14
    torch.testing.assert_close(caa.ablate(residual, vector, 2.0), 2 * found - residual)  # the mirror image


def test_project_to_moves_the_projection_to_the_value_and_part_of_the_way():
    residual, vector = drawn(4, 16), drawn(16, seed=1)
    torch.testing.assert_close(
        along(caa.steering.ProjectTo(-3.0)(residual, vector, 1.0), vector),
        torch.full((4,), -3.0, dtype=torch.float64),
    )
    half = along(caa.steering.ProjectTo(-3.0)(residual, vector, 0.5), vector)
    torch.testing.assert_close(half, (along(residual, vector) - 3) / 2)


def test_cap_moves_only_what_is_outside():
    residual, vector = drawn(200, 16), drawn(16, seed=1)
    before, after = along(residual, vector), along(caa.Cap(low=-0.5, high=0.25)(residual, vector, 1.0), vector)
    torch.testing.assert_close(after, before.clamp(-0.5, 0.25))
    inside = (before > -0.5) & (before < 0.25)
    assert 0 < int(inside.sum()) < 200
    assert torch.equal(caa.Cap(low=-0.5, high=0.25)(residual, vector, 1.0)[inside], residual[inside])


def test_add_if_adds_on_one_side_of_the_threshold():
    residual, vector = drawn(200, 16), drawn(16, seed=1)
    low = along(residual, vector) < 0.1
    assert 0 < int(low.sum()) < 200
    below = caa.steering.AddIf(0.1)(residual, vector, 2.0)
    assert torch.equal(below[~low], residual[~low])
    torch.testing.assert_close(below[low], residual[low] + 2 * vector)
    above = caa.steering.AddIf(0.1, side="above")(residual, vector, 2.0)
    torch.testing.assert_close(below + above, 2 * residual + 2 * vector)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: caa.steering.ProjectTo(math.nan), "value: nan is not a finite number"),
        (lambda: caa.Cap(), "neither is given"),
        (lambda: caa.steering.operator_named("Cap(3.0)"), r"operator: 'Cap\(3.0\)'; give one of"),
        (lambda: caa.Cap(low=2, high=1), "low at most high"),
        (lambda: caa.steering.AddIf(1.0, "over"), "side: 'over' is not one of 'below', 'above'"),
        (lambda: caa.steering.AddIf(math.inf), "threshold: inf is not a finite number"),
        (lambda: caa.steering.AddIf(None), "threshold: None is not a finite number"),
        (lambda: caa.steering.ProjectTo("2"), "value: '2' is not a finite number"),
        (lambda: caa.steering.ProjectTo(10**400), "value: 10+ is not a finite number"),
        (lambda: caa.Cap(low=None, high=3), "low and high: None and 3; give numbers"),
        (lambda: caa.Cap(high=math.nan), "low and high: -inf and nan; give numbers"),
        (lambda: operator_named("ProjectTo(" + "-" * 5000 + "1)"), "operator: 'ProjectTo\\(-+; give one of"),
        (lambda: positions_named("9" * 5000), "positions: '9+; give one of"),
        (lambda: positions_named("FirstAnswerTokens(" + "9" * 5000 + ")"), "positions: 'First.*; give one of"),
    ],
)
def test_parameters_that_cannot_be_used(make, message):
    with pytest.raises(caa.InputError, match=message):
        make()


@dataclass
class Unhashable:
    factor: float

    def __call__(self, residual, vector, multiplier):
        return residual + self.factor * multiplier * vector


def test_an_operator_need_not_be_hashable(tiny_llama, pairs):
    vector, options = caa.SteeringVector(drawn(4, 64).float(), (0, 1, 2, 3)), {"layers": 1, "progress": False}
    own = caa.sweep(tiny_llama, vector, pairs[:1], operator=Unhashable(2.0), multipliers=[1], **options)
    added = caa.sweep(tiny_llama, vector, pairs[:1], multipliers=[2], **options)
    assert own["logit_difference"].tolist() == pytest.approx(added["logit_difference"].tolist(), abs=1e-4)


@pytest.mark.parametrize("wrong", [lambda x, v, m: (x + m * v)[:1, :1], lambda x, v, m: None, lambda x, v, m: x[None]])
@pytest.mark.parametrize("rows", [1, 2])
def test_an_operator_that_returns_something_else(tiny_llama, wrong, rows):
    vector = caa.SteeringVector(drawn(4, 64).float(), (0, 1, 2, 3))
    with pytest.raises(caa.InputError, match=r"operator: .* returned shape .*; it must return what it got"):
        caa.generate(tiny_llama, ["I"] * rows, vector=vector, layer=1, operator=wrong, max_new_tokens=2)


@each
def test_tree_and_plain_passes_agree(operator, tiny_llama_64, stay_double):
    trunk = (0, 40, 41, 42, 43, 44)
    vectors = [4 * drawn(64, seed=n) for n in range(3)]
    branches = [
        Branch(
            (*trunk, 80, 81, 70),
            (edit_from(layer, vectors[layer], 5, m, operator), *more),
            targets=((6, 81), (7, 70)),
            reads=(5, 7),
        )
        for layer in range(3)
        for m in (-1.0, 0.5)
        # A second edit after the same layer and one after a later layer, by addition.
        for more in ((), (edit_from(layer, vectors[0], 6, 1.0), edit_from(3, vectors[1], 7, -1.0)))
    ]
    tree = run_tree(tiny_llama_64, branches, (0, 1, 2, 3), path="tree")
    plain = run_tree(tiny_llama_64, branches, (0, 1, 2, 3), path="plain")
    for mine, theirs in zip(tree.log_probs, plain.log_probs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tree.residual, plain.residual, rtol=1e-9, atol=1e-9)


@each
def test_a_sweep_steers_with_the_operator_and_says_which(operator, tiny_llama, pairs):
    vector = caa.extract_vector(tiny_llama, pairs, format="text")
    options = {"format": "text", "layers": [1], "multipliers": (0.0, 1.0)}
    table = caa.sweep(tiny_llama, vector, pairs, operator=operator, **options)
    assert set(table["operator"]) == {name_of(operator)}
    if operator is not caa.add:
        added = caa.sweep(tiny_llama, vector, pairs, **options)
        same = table["multiplier"] == 0
        assert table[same].drop(columns="operator").equals(added[same].drop(columns="operator"))
        assert not (table["log_p_positive"][~same] == added["log_p_positive"][~same]).all()


def test_names_in_tables():
    assert name_of(caa.ablate) == "ablate"
    assert name_of(caa.Cap(high=2.0)) == "Cap(low=-inf, high=2.0)"


@pytest.mark.parametrize("number", [np.float64(2.5), np.float32(2.5), np.int64(2)])
def test_numbers_of_other_libraries_are_named_like_python_s(number):
    plain = number.item()
    for made, same in (
        (caa.steering.ProjectTo(number), caa.steering.ProjectTo(plain)),
        (caa.Cap(low=-number, high=number), caa.Cap(low=-plain, high=plain)),
        (caa.steering.AddIf(number), caa.steering.AddIf(plain)),
    ):
        assert name_of(made) == name_of(same)
        assert operator_named(name_of(made)) == made == same
    first = caa.steering.FirstAnswerTokens(np.int64(3))
    assert positions_named(name_of_positions(first)) == first


@each
def test_a_steer_context_and_generation_use_the_operator(operator, tiny_llama, pairs):
    """Against a plain hook on the same positions, and greedy decoding without a cache."""
    vector = caa.extract_vector(tiny_llama, pairs, format="text")
    tokens = list(PromptFormat.of(tiny_llama).tokens("Is the weather good?").tokens)
    start, direction = len(tokens) - 1, vector.at(1)

    def hook(activation, hook):
        activation[:, start:] = operator(activation[:, start:], direction, 2.0)
        return activation

    expected = []
    for _ in range(6):
        with torch.no_grad():
            plain = tiny_llama.run_with_hooks(torch.tensor([tokens]), fwd_hooks=[("blocks.1.hook_resid_post", hook)])
            with caa.steer(tiny_llama, vector, layer=1, multiplier=2.0, operator=operator, prompt_length=start + 1):
                steered = tiny_llama(torch.tensor([tokens]))
        torch.testing.assert_close(steered, plain, rtol=1e-4, atol=1e-4)
        tokens.append(int(plain[0, -1].argmax()))
        expected.append(tokens[-1])
    table = caa.generate(
        tiny_llama,
        ["Is the weather good?", "I like the sea."],
        vector=vector,
        layer=1,
        multipliers=(0.0, 2.0),
        operator=operator,
        max_new_tokens=6,
    )
    answer = table[(table["item"] == 0) & (table["multiplier"] == 2)]["answer"].iloc[0]
    ends = [n for n, token in enumerate(expected) if token == tiny_llama.tokenizer.eos_token_id]
    shown = expected[: ends[0]] if ends else expected
    assert answer == tiny_llama.tokenizer.decode(shown, skip_special_tokens=True).strip()
