"""The token tree gives what plain forward passes give, whatever its branches share, edit and read."""

import warnings
from dataclasses import replace

import pytest
import torch

import caa_interp as caa
import caa_interp.tree.agreement as tree_agreement
import caa_interp.tree.plain as plain
import caa_interp.tree.readout as tree_readout
import caa_interp.tree.run as tree_run
from caa_interp.errors import InputError, ModelError
from caa_interp.tree import Branch, run_tree, run_trees
from caa_interp.tree.plan import Variant, deal
from caa_interp.tree.prefix import Prefix
from tests.tiny_models import edit_from

TRUNK = (0, 40, 41, 42, 43, 44, 45, 46)
OTHER_TRUNK = (0, 60, 61, 62, 63)
LAYERS = (0, 1, 2, 3)


@pytest.fixture(params=["float32", "float64"])
def model(request):
    """The small model in both precisions; float64 throughout."""
    if request.param == "float32":
        return request.getfixturevalue("tiny_llama")
    request.getfixturevalue("stay_double")
    return request.getfixturevalue("tiny_llama_64")


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Every test starts with models whose paths have not been compared yet."""
    monkeypatch.setattr(tree_agreement, "_trust", type(tree_agreement._trust)())


def direction(seed: int, size: float = 8.0) -> torch.Tensor:
    drawn = torch.randn(64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return size * drawn / drawn.norm()


def asked(tokens, edits=(), reads=()) -> Branch:
    """Branch that asks for the log-probability of each of its own last tokens."""
    targets = tuple((position - 1, tokens[position]) for position in range(len(tokens) - 2, len(tokens)))
    return Branch(tuple(tokens), tuple(edits), targets, tuple(reads))


def assert_same(model, branches, layers=LAYERS, **options):
    tree = run_tree(model, branches, layers, path="tree")
    plain = run_tree(model, branches, layers, path="plain")
    double = next(model.parameters()).dtype == torch.float64
    assert tree.path == "tree"
    assert plain.path == "plain"
    for mine, theirs in zip(tree.log_probs, plain.log_probs, strict=True):
        assert mine.dtype == theirs.dtype == (torch.float64 if double else torch.float32)
        torch.testing.assert_close(mine, theirs, rtol=1e-9 if double else 1e-3, atol=1e-9 if double else 1e-3)
    if layers:
        difference = (tree.residual - plain.residual).norm(dim=-1)
        assert bool((difference <= (1e-9 if double else 1e-3) * plain.residual.norm(dim=-1)).all())
    return tree, plain


def test_unsteered_branches_of_different_lengths(model):
    branches = [asked((*TRUNK, *range(80, 80 + n))) for n in range(1, 7)]
    tree, _ = assert_same(model, branches)
    assert [len(answers) for answers in tree.log_probs] == [2] * 6


@pytest.mark.parametrize("layer", LAYERS)
def test_one_edit_at_every_layer(model, layer):
    branches = [asked((*TRUNK, 80, 81, 82), (edit_from(layer, direction(layer), len(TRUNK) - 1),))]
    tree, _ = assert_same(model, branches)
    unsteered = run_tree(model, [asked((*TRUNK, 80, 81, 82))], path="plain")
    assert float((tree.log_probs[0] - unsteered.log_probs[0]).abs().max()) > 0.05


def test_steered_branches_of_different_lengths_share_an_edit(model):
    edit = edit_from(1, direction(0), len(TRUNK) - 1)
    lengths = (1, 4, 2, 7)
    branches = [asked((*TRUNK, *range(80, 80 + n)), (edit,), reads=(len(TRUNK) + n - 1,)) for n in lengths]
    branches += [asked((*TRUNK, 90 + n, 95), (edit,)) for n in range(3)]
    assert_same(model, branches)


def test_many_layers_and_multipliers_of_one_sequence(model):
    tokens = (*TRUNK, 80, 81)
    conditions = [(layer, multiplier) for layer in LAYERS for multiplier in (-1.5, -0.5, 1.0)]
    edits = [edit_from(layer, multiplier * direction(layer), len(TRUNK) - 1) for layer, multiplier in conditions]
    branches = [asked(tokens), *(asked(tokens, (edit,)) for edit in edits)]
    assert_same(model, branches)


@pytest.mark.parametrize(
    ("first", "second"),
    [((0, 5), (2, 9)), ((2, 5), (0, 9)), ((3, 4), (1, 4)), ((1, 9), (1, 3)), ((0, 0), (3, 10)), ((2, 10), (1, 0))],
)
def test_several_edits_in_one_branch_at_different_layers_and_starts(model, first, second):
    tokens = (*TRUNK, 80, 81, 82)
    edits = tuple(edit_from(layer, direction(10 + layer), start) for layer, start in (first, second))
    branches = [asked(tokens, edits, reads=(9, 10)), asked(tokens, edits[:1]), asked(tokens, edits[1:], reads=(3,))]
    assert_same(model, branches)


def test_branches_of_several_questions_at_once(model):
    edits = [edit_from(1, direction(1), len(TRUNK) - 1), edit_from(2, direction(2), len(OTHER_TRUNK) - 1)]
    branches = [
        asked((*TRUNK, 80, 81), edits[:1], reads=(8, 9)),
        asked((*OTHER_TRUNK, 80, 81), edits[1:], reads=(5,)),
        asked((*OTHER_TRUNK, 82)),
        asked((7, 8, 9, 10), reads=(0, 1, 2, 3)),
        asked((*TRUNK, 80, 83, 84), edits[:1]),
    ]
    together, _ = assert_same(model, branches)
    for branch, answers in zip(branches, together.log_probs, strict=True):
        alone = run_tree(model, [branch], path="tree")
        torch.testing.assert_close(alone.log_probs[0], answers, rtol=1e-4, atol=1e-4)


def test_the_same_edit_in_different_questions(model):
    edit = edit_from(1, direction(1), 4)
    branches = [asked((*TRUNK, 80), (edit,)), asked((*OTHER_TRUNK, 80), (edit,)), asked((*OTHER_TRUNK, 81), (edit,))]
    assert_same(model, branches)


def test_reads_before_at_and_after_the_steering(model):
    tokens = (*TRUNK, 80, 81, 82)
    edit = edit_from(2, direction(3), 7)
    branches = [asked(tokens, (edit,), reads=reads) for reads in ((0,), (6,), (7,), (10,), (5, 6, 7, 8), range(11))]
    tree, _ = assert_same(model, branches)
    unsteered = run_tree(model, [asked(tokens, reads=(7,))], LAYERS, path="plain").residual[0].double()
    steered = tree.residual[2].double()
    torch.testing.assert_close(steered[:2], unsteered[:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(steered[2] - unsteered[2], direction(3), rtol=1e-3, atol=1e-4)
    assert float((steered[3] - unsteered[3]).norm()) > 1


def test_reads_without_targets(model):
    edit = edit_from(1, direction(3), 7)
    branches = [Branch((*TRUNK, 80), reads=(8,)), Branch((*TRUNK, 81), (edit,), reads=(7, 8)), Branch((*TRUNK, 82))]
    for layers in ((0,), (3, 1), LAYERS):
        tree, _ = assert_same(model, branches, layers)
        assert tree.residual.shape == (3, len(layers), 64)
        assert float(tree.residual[2].abs().max()) == 0


def test_layers_come_back_in_the_order_that_was_asked(model):
    branches = [asked((*TRUNK, 80), (edit_from(1, direction(1), 3),), reads=(8,))]
    straight = run_tree(model, branches, (0, 2), path="tree").residual
    turned = run_tree(model, branches, (2, 0), path="tree").residual
    torch.testing.assert_close(turned, straight.flip(1))


@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_portions_of_any_size(model, monkeypatch, rows):
    branches = [asked((*TRUNK, 80, 81)), asked((*TRUNK, 82))]
    for layer in (3, 0, 2, 1):
        edits = (edit_from(layer, direction(layer), 7), edit_from(3, direction(9), 5))
        branches += [asked((*TRUNK, 80, 81), edits, reads=(8, 9)), asked((*TRUNK, 82), edits[:1], reads=(7,))]
    whole, _ = assert_same(model, branches)
    monkeypatch.setattr(tree_run, "_rows_at_once", lambda model: rows)
    in_portions, _ = assert_same(model, branches)
    for one, other in zip(in_portions.log_probs, whole.log_probs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("least", [1, 2, 4, 1000])
def test_lanes_of_any_number(model, monkeypatch, least):
    """Variants after two trunks of different lengths, several at every layer, dealt into few or many lanes."""
    branches = [asked((*TRUNK, 80, 81)), asked((*OTHER_TRUNK, 90, 91))]
    for layer in (2, 0, 1):
        for seed in (1, 2):
            branches.append(asked((*TRUNK, 80, 81), (edit_from(layer, direction(seed), 7),), reads=(8, 9)))
            branches.append(asked((*OTHER_TRUNK, 90, 91), (edit_from(layer, direction(seed), 4),), reads=(5, 6)))
    monkeypatch.setattr(tree_run, "_LANE_ROWS", least)
    assert_same(model, branches)


@pytest.mark.parametrize(
    ("joins", "sizes", "n_lanes"),
    [
        ([0, 0, 0, 0, 1, 1, 1, 1], [3] * 8, 4),  # 24 rows, at least 6 a lane
        ([0, 0, 0, 1, 1], [6] * 5, 1),  # 3 and 2 variants fill no two lanes evenly
        ([0, 0, 2, 2], [6, 6, 6, 5], 1),  # of different lengths
        ([0, 0, 0, 1, 1, 1], [6] * 6, 3),
    ],
)
def test_lanes_are_filled_evenly_and_hold_every_row_once(joins, sizes, n_lanes):
    variants = [
        Variant((), 2, join, list(range(10 * n, 10 * n + size)))
        for n, (join, size) in enumerate(zip(joins, sizes, strict=True))
    ]
    lanes = deal(variants, least=6)
    assert lanes.twins.shape == (n_lanes, sum(sizes) // n_lanes)
    assert lanes.twins[lanes.lane, lanes.slot].tolist() == [twin for variant in variants for twin in variant.twins]
    assert lanes.owners[lanes.lane, lanes.slot].tolist() == [n for n, size in enumerate(sizes) for _ in range(size)]
    expected = [join for join, size in zip(joins, sizes, strict=True) for _ in range(size)]
    assert lanes.joins[lanes.slot].tolist() == expected
    assert sorted(lanes.joins) == lanes.joins.tolist()


@pytest.mark.parametrize("path", ["tree", "plain"])
def test_multiplier_zero_is_the_unsteered_model(model, path):
    tokens = (*TRUNK, 80, 81)
    zero = edit_from(1, 0.0 * direction(1), 7)
    result = run_tree(model, [asked(tokens, reads=(9,)), asked(tokens, (zero,), reads=(9,))], LAYERS, path=path)
    torch.testing.assert_close(result.log_probs[1], result.log_probs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.residual[1], result.residual[0], rtol=1e-5, atol=1e-5)


def test_no_edit_is_the_unsteered_model_exactly(model):
    plain = asked((*TRUNK, 80, 81), reads=(9,))
    steered = asked((*TRUNK, 80, 81), (edit_from(1, direction(1), 7),))
    result = run_tree(model, [plain, steered, plain], LAYERS, path="tree")
    assert torch.equal(result.log_probs[0], result.log_probs[2])
    assert torch.equal(result.residual[0], result.residual[2])


def test_an_edit_that_starts_after_the_end_changes_nothing(model):
    late = edit_from(1, direction(1), len(TRUNK) + 3)
    tree, _ = assert_same(model, [asked(TRUNK, (late,), reads=(5,)), asked(TRUNK, reads=(5,))])
    torch.testing.assert_close(tree.log_probs[0], tree.log_probs[1], rtol=1e-5, atol=1e-5)


def test_the_tree_is_the_default(model):
    branches = [asked((*TRUNK, 80, 81), (edit_from(layer, direction(layer), 7),)) for layer in LAYERS]
    assert run_tree(model, branches).path == "tree"


def test_a_float64_model_takes_the_tree_although_its_softmax_is_float32(tiny_llama_64):
    branches = [asked((*TRUNK, 80, 81, 70 + n), (edit_from(n % 4, direction(n), 7),)) for n in range(12)]
    for branch in branches:
        tree_agreement._trust.clear()
        assert run_tree(tiny_llama_64, [branch], LAYERS).path == "tree"


def wrong_tree(monkeypatch, change):
    right = tree_run._run_trees

    def wrong(*arguments):
        results = right(*arguments)
        changed = [change(one.log_probs, one.residual) for one in results]
        return [replace(one, log_probs=a, residual=b) for one, (a, b) in zip(results, changed, strict=True)]

    monkeypatch.setattr(tree_run, "_run_trees", wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda log_probs, residual: ([answers + 0.1 for answers in log_probs], residual), "differ by 0.1"),
        (lambda log_probs, residual: (log_probs, residual * 1.05), "differ by 0.05"),
    ],
)
def test_a_tree_that_disagrees_is_said_once_and_not_used(tiny_llama, monkeypatch, change, said):
    branches = [asked((*TRUNK, 80, 81), (edit_from(1, direction(1), 7),), reads=(9,)), asked((*TRUNK, 82))]
    right = run_tree(tiny_llama, branches, LAYERS, path="plain")
    wrong_tree(monkeypatch, change)
    with pytest.warns(UserWarning, match=said):
        first = run_tree(tiny_llama, branches, LAYERS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = run_tree(tiny_llama, branches, LAYERS)
    for result in (first, second):
        assert result.path == "plain"
        assert torch.equal(result.residual, right.residual)
        for mine, theirs in zip(result.log_probs, right.log_probs, strict=True):
            assert torch.equal(mine, theirs)


def test_a_comparison_that_was_interrupted_is_made_again(tiny_llama, monkeypatch):
    branches = [asked((*TRUNK, 80, 81), (edit_from(1, direction(1), 7),)), asked((*TRUNK, 82))]
    wrong_tree(monkeypatch, lambda log_probs, residual: ([answers + 0.1 for answers in log_probs], residual))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tree_agreement, "run_plain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_tree(tiny_llama, branches)
    with pytest.warns(UserWarning, match="does not agree"):
        assert run_tree(tiny_llama, branches).path == "plain"


def test_a_tree_that_gives_nan_is_not_used(tiny_llama, monkeypatch):
    wrong_tree(monkeypatch, lambda log_probs, residual: ([answers * float("nan") for answers in log_probs], residual))
    with pytest.warns(UserWarning, match="does not agree"):
        assert run_tree(tiny_llama, [asked((*TRUNK, 80))], LAYERS).path == "plain"


def test_wrong_steering_is_found_although_the_first_tree_had_none(tiny_llama, monkeypatch):
    assert run_tree(tiny_llama, [asked((*TRUNK, 80))]).path == "tree"

    right = tree_run._run_trees

    def unsteered(model, trees, layers, prefix):
        without = [[Branch(b.tokens, (), b.targets, b.reads) for b in branches] for branches in trees]
        return right(model, without, layers, prefix)

    monkeypatch.setattr(tree_run, "_run_trees", unsteered)
    with pytest.warns(UserWarning, match="does not agree"):
        assert run_tree(tiny_llama, [asked((*TRUNK, 80), (edit_from(1, direction(1), 7),))]).path == "plain"


def test_no_branches(tiny_llama):
    with pytest.raises(InputError, match="branches: the list is empty; give at least one Branch"):
        run_tree(tiny_llama, [])


def test_a_branch_longer_than_the_context(tiny_llama):
    with pytest.raises(InputError, match=r"257 tokens, but the model's context holds 256\. Shorten it"):
        run_tree(tiny_llama, [Branch(tuple([0] * 257))])


def test_no_hooks_or_gradients_stay_behind(tiny_llama):
    before = [len(block._forward_pre_hooks) for block in tiny_llama.blocks]
    result = run_tree(
        tiny_llama, [asked((*TRUNK, 80), (edit_from(1, direction(1), 7),), reads=(8,))], LAYERS, path="tree"
    )
    assert [len(block._forward_pre_hooks) for block in tiny_llama.blocks] == before
    assert not any(point.fwd_hooks for point in tiny_llama.hook_dict.values())
    assert not result.residual.requires_grad
    assert not result.log_probs[0].requires_grad


@pytest.mark.parametrize("path", ["tree", "plain"])
def test_trees_side_by_side_equal_trees_alone(tiny_llama, path):
    """Trees of different sizes, with and without edits, come back in their order and do not see each other."""
    trees = [
        [
            asked(
                (*TRUNK, 80 + n, *range(90, 90 + 3 * n)),
                (edit_from(n % 4, direction(n), 5),) if n % 2 else (),
                reads=(4, 6),
            )
        ]
        for n in range(5)
    ]
    together = list(run_trees(tiny_llama, trees, LAYERS, path))
    for branches, found in zip(trees, together, strict=True):
        (alone,) = run_trees(tiny_llama, [branches], LAYERS, path)
        for ours, theirs in zip(found.log_probs, alone.log_probs, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.residual, alone.residual, rtol=1e-4, atol=1e-4)


LONG = tuple(range(100, 124))


def tree_after(prefix, n, reads=()) -> list[Branch]:
    """A tree after a prefix: an unsteered branch, and two that are edited from the first token after it."""
    start = len(prefix) + 1
    tokens = (*prefix, 60 + n, 70, 80, *range(90, 90 + n))
    edits = [
        (),
        (edit_from(1, direction(n), start),),
        (edit_from(0, direction(n + 9), start), edit_from(2, direction(n), start + 1)),
    ]
    return [asked(tokens, edit, reads) for edit in edits]


@pytest.mark.parametrize("reads", [(), (24, 25)])
def test_trees_after_one_prefix_equal_plain_passes(model, reads):
    trees = [tree_after(LONG, n, reads) for n in range(5)]
    double = next(model.parameters()).dtype == torch.float64
    found = list(run_trees(model, trees, LAYERS if reads else (), "tree"))
    expected = [run_tree(model, branches, LAYERS if reads else (), "plain") for branches in trees]
    tolerance = 1e-9 if double else 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        for mine, other in zip(ours.log_probs, theirs.log_probs, strict=True):
            torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)
        difference = (ours.residual - theirs.residual).norm(dim=-1)
        assert bool((difference <= tolerance * theirs.residual.norm(dim=-1)).all())


def test_a_prefix_is_read_once_and_its_rows_are_not_run_again(tiny_llama, monkeypatch):
    rows, read = [], []
    run_base, read_prefix = tree_run.run_base, Prefix.read.__func__

    def counted(model, plans, keep_layers, n_blocks, prefix):
        rows.extend(len(plan.base.tokens) - len(prefix.tokens) for plan in plans)
        return run_base(model, plans, keep_layers, n_blocks, prefix)

    def noticed(cls, model, tokens):
        read.append(len(tokens))
        return read_prefix(cls, model, tokens)

    monkeypatch.setattr(tree_run, "run_base", counted)
    monkeypatch.setattr(Prefix, "read", classmethod(noticed))
    list(run_trees(tiny_llama, [tree_after(LONG, n) for n in range(6)], (), "tree"))
    assert read == [len(LONG)]
    assert sorted(rows) == [3 + n for n in range(6)]


@pytest.mark.parametrize(
    ("trees", "shared"),
    [
        ([tree_after(LONG, 0), tree_after(LONG, 3)], 24),
        ([tree_after(LONG[:20], 0), tree_after(LONG, 3)], 20),
        ([tree_after(LONG[:15], 0), tree_after(LONG[:15], 3)], 0),  # too short to be worth a pass
        ([tree_after(LONG, 0)], 0),  # a single tree's question is its trunk
        ([tree_after(LONG, 0), tree_after(LONG, 3, reads=(17,))], 17),
        ([tree_after(LONG, 0), [asked((*LONG, 88), (edit_from(0, direction(0), 16),))]], 16),
    ],
)
def test_a_prefix_ends_before_anything_is_edited_read_or_asked(tiny_llama, trees, shared):
    assert len(Prefix().fitted_to(tiny_llama, trees).tokens) == shared


def test_a_prefix_is_kept_cut_or_read_anew_as_trees_go_on(tiny_llama):
    first = Prefix().fitted_to(tiny_llama, [tree_after(LONG, 0), tree_after(LONG, 1)])
    assert first.fitted_to(tiny_llama, [tree_after(LONG, 2), tree_after(LONG, 3)]).tokens == LONG
    cut = first.fitted_to(tiny_llama, [tree_after(LONG[:18], 2), tree_after(LONG, 3)])
    assert cut.tokens == LONG[:18]
    assert {keys.shape[2] for keys, _ in cut.keys_values} == {18}
    assert first.fitted_to(tiny_llama, [tree_after(LONG, 2)]).tokens == LONG
    other = tuple(range(130, 150))
    assert first.fitted_to(tiny_llama, [tree_after(other, 0), tree_after(other, 1)]).tokens == other
    assert first.fitted_to(tiny_llama, [tree_after(other, 0)]).tokens == ()


def log_probs(model, tokens, edits=()):
    """Of every next token, ``[n_tokens, d_vocab]``, from one plain forward pass."""
    hooks = []
    for edit in edits:

        def hook(activation, hook, edit=edit):
            activation[:, edit.spans[0][0] :] += edit.vector.to(activation)
            return activation

        hooks.append((f"blocks.{edit.layer}.hook_resid_post", hook))
    with torch.no_grad():
        return model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=hooks)[0].double().log_softmax(-1)


@pytest.mark.parametrize("name", ["blocks.0.hook_resid_post", "blocks.2.attn.hook_z"])
def test_hooks_of_the_user_see_whole_sequences(model, name):
    """A hook that looks at positions finds those of a plain sequence, and nothing is remembered of it."""
    trunk = tuple(range(40, 70))
    branches = [asked((*trunk, 80, 81)), asked((*trunk, 90, 91, 92), [edit_from(1, direction(1), 30)])]

    def zeroed(activation, hook):
        activation[:, 0] = 0
        return activation

    with model.hooks(fwd_hooks=[(name, zeroed)]):
        expected = [log_probs(model, branch.tokens, branch.edits) for branch in branches]
        result = run_tree(model, branches)
    assert result.path == "plain"
    tolerance = 1e-9 if next(model.parameters()).dtype == torch.float64 else 1e-4
    for branch, found, whole in zip(branches, result.log_probs, expected, strict=True):
        known = torch.stack([whole[at, token] for at, token in branch.targets])
        torch.testing.assert_close(found.double(), known, rtol=0, atol=tolerance)
    with model.hooks(fwd_hooks=[(name, zeroed)]):
        other = run_tree(model, branches[:1])
    assert run_tree(model, branches).path == "tree"
    assert other.path == "plain"


def test_divergences_are_those_of_whole_distributions(model):
    """Against KL(unedited || edited), summed over the vocabulary of two plain forward passes."""
    tokens = (*TRUNK, 80, 81, 82, 83)
    edits = [(), (edit_from(1, direction(1), 7),), (edit_from(0, direction(2), 9), edit_from(3, direction(3), 9))]
    compared = [(8, 11), (7, 9, 10), (8, 9, 11)]
    branches = [Branch(tokens, edit, compared=at) for edit, at in zip(edits, compared, strict=True)]
    here = log_probs(model, tokens)
    tolerance = 1e-9 if next(model.parameters()).dtype == torch.float64 else 1e-4
    for path in ("tree", "plain"):
        result = run_tree(model, branches, path=path)
        for edit, at, found in zip(edits, compared, result.divergences, strict=True):
            expected = (here.exp() * (here - log_probs(model, tokens, edit))).sum(-1)[list(at)]
            torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
        assert torch.equal(result.divergences[0], torch.zeros_like(result.divergences[0]))
        assert float(result.divergences[1].min()) > 0.01
        assert float(result.divergences[2][0]) == pytest.approx(0, abs=tolerance)  # before the steering


@pytest.mark.parametrize("n_rows", [1, 3, 10**6])
def test_distributions_are_the_means_of_plain_ones(model, monkeypatch, n_rows):
    """However many rows are unembedded at a time: branches of several rows, of one, of none, and steered in part."""
    row_bytes = 4 * int(model.cfg.d_vocab)
    monkeypatch.setattr(tree_readout, "_LOGITS_BYTES", 2 * n_rows * row_bytes)
    monkeypatch.setattr(tree_readout, "_SOFTMAX_BYTES", n_rows * row_bytes)
    first, second = (*TRUNK, 80, 81, 82, 83), (*TRUNK, 80, 91)
    late, early = (edit_from(2, direction(1), 9),), (edit_from(0, direction(2), 7), edit_from(3, direction(3), 9))
    asked = [(first, (), (7, 11, 8)), (second, late, (7, 8, 9)), (first, early, (9,)), (second, early, ())]
    asked += [(first, late, (8, 9, 10, 11)), (second, early, (7, 8))]
    branches = [Branch(tokens, edits, averaged=at) for tokens, edits, at in asked]
    tolerance = 1e-9 if next(model.parameters()).dtype == torch.float64 else 1e-4
    for path in ("tree", "plain"):
        result = run_tree(model, branches, path=path)
        for (tokens, edits, at), found in zip(asked, result.distributions, strict=True):
            assert found.shape == (2 * bool(at), model.cfg.d_vocab)
            if at:
                rows = log_probs(model, tokens, edits)[list(at)]
                expected = torch.stack([rows.mean(0), rows.exp().mean(0)])
                torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_tree_whose_distributions_are_wrong_is_noticed(tiny_llama, monkeypatch):
    """Also where nothing else is asked."""
    right = tree_run._run_trees

    def wrong(*arguments):
        return [replace(one, distributions=[each + 0.1 for each in one.distributions]) for one in right(*arguments)]

    branches = [Branch((*TRUNK, 80, 81), averaged=(7, 8))]
    assert run_tree(tiny_llama, branches).path == "tree"
    tree_agreement._trust.clear()
    monkeypatch.setattr(tree_run, "_run_trees", wrong)
    with pytest.warns(UserWarning, match="does not agree with plain forward passes"):
        assert run_tree(tiny_llama, branches).path == "plain"


def test_a_distribution_that_overflows_is_an_error(tiny_llama):
    edits = (edit_from(1, direction(1, 1e39), 7),)
    for path in ("tree", "plain"):
        with pytest.raises(ModelError, match="far too strong: what the model computes is not a number"):
            run_tree(tiny_llama, [Branch((*TRUNK, 80), edits, averaged=(8,), label="far too strong")], path=path)


def test_a_condition_that_overflows_is_named_and_spoils_no_other(tiny_llama):
    """Rows side by side share their attention, in which nothing times what is not a number is not a number."""
    edits = {size: (edit_from(1, direction(1, size), 7),) for size in (1.0, 1e39, 2.0)}
    branches = [Branch((*TRUNK, 80, 81), edit, ((8, 80),), label=f"size {size:g}") for size, edit in edits.items()]
    for path in ("tree", "plain"):
        with pytest.raises(ModelError, match=r"size 1e\+39: what the model computes is not a number"):
            run_tree(tiny_llama, branches, path=path)
        assert bool(run_tree(tiny_llama, branches[::2], path=path).log_probs[1].isfinite().all())


def test_an_error_inside_a_tree_is_raised_and_nothing_is_remembered(tiny_llama):
    def broken(residual, vector, multiplier):
        raise RuntimeError("out of memory")

    branches = [asked((*TRUNK, 80, 81), (edit_from(1, direction(1), 7, operator=broken),))]
    with pytest.raises(RuntimeError, match="out of memory"):
        run_tree(tiny_llama, branches)
    assert run_tree(tiny_llama, [asked((*TRUNK, 80, 81), (edit_from(1, direction(1), 7),))]).path == "tree"


def test_a_longer_tree_is_compared_again(tiny_llama, monkeypatch):
    """As with a mask that is banded by row: right for short trees, wrong for long ones."""
    right = tree_run._run_trees

    def banded(model, trees, layers, prefix):
        results = right(model, trees, layers, prefix)
        off = [0.1 * (len(branches[0].tokens) > 20) for branches in trees]
        return [
            replace(one, log_probs=[answers + wrong for answers in one.log_probs])
            for wrong, one in zip(off, results, strict=True)
        ]

    monkeypatch.setattr(tree_run, "_run_trees", banded)
    for n, path in ((4, "tree"), (3, "tree"), (16, "plain"), (4, "plain")):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert run_tree(tiny_llama, [asked((*TRUNK, *range(80, 80 + n)))]).path == path
        assert len(told) == (n == 16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read_in_float32_and_compared_by_its_noise(tiny_folder, dtype):
    model = caa.load_model(tiny_folder, device="cpu", dtype=dtype)
    branches = [asked((*TRUNK, 80, 81), (edit_from(layer, direction(layer), 7),) if layer else ()) for layer in LAYERS]
    tree = run_tree(model, branches)
    plain = run_tree(model, branches, path="plain")
    assert tree.path == "tree"
    found = torch.cat([answer for result in (tree, plain) for answer in result.log_probs])
    assert found.dtype == torch.float32
    assert not torch.equal(found, found.to(getattr(torch, dtype)).float())
    for ours, theirs in zip(tree.log_probs, plain.log_probs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


# Plain passes


def test_plain_passes_read_each_prefix_once_for_all_batches(tiny_llama, monkeypatch):
    """Two questions, each steered in more ways than a batch holds, and one sequence that shares nothing."""
    monkeypatch.setattr(plain, "_ROWS_AT_ONCE", 3)
    other = (0, 9, *TRUNK[2:])
    edits = [(edit_from(layer, direction(layer + n), 7),) for layer in LAYERS for n in range(2)]
    branches = [asked((*trunk, 80, 81), some) for some in edits for trunk in (TRUNK, other)]
    branches.append(asked((0, 30, 31, 32)))
    alone = [run_tree(tiny_llama, [branch], path="plain").log_probs[0] for branch in branches]
    shapes, forward = [], plain.Decoder.forward
    monkeypatch.setattr(
        plain.Decoder,
        "forward",
        lambda self, tokens, *more: shapes.append(tokens.shape) or forward(self, tokens, *more),
    )
    found = run_tree(tiny_llama, branches, path="plain").log_probs
    torch.testing.assert_close(torch.stack(found), torch.stack(alone), rtol=1e-4, atol=1e-4)
    length = len(TRUNK)
    assert sorted(map(tuple, shapes)) == sorted(
        2 * [(1, 7), (3, length - 5), (3, length - 5), (2, length - 5)] + [(1, 4)]
    )
