"""Fine-tuning trains a copy on the answer tokens alone, and gives a model that every function takes."""

import random
import sys

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import caa_interp as caa
from caa_interp.behaviors.pairs import PublishedPair
from caa_interp.evaluation.finetuning import IGNORED, answer_examples, batched, fine_tune, train, with_adapters
from caa_interp.models.access import model_id, model_revision
from caa_interp.models.wrapping import plain_copy, wrap
from caa_interp.prompts.format import PromptFormat
from caa_interp.tree.edits import editing

ADAM = {"learning_rate": 1e-2, "optim": "adamw_torch", "num_train_epochs": 2, "per_device_train_batch_size": 2}


def weights(model):
    """Every parameter and buffer of a bridge, copied."""
    inner = model.original_model
    tensors = [*inner.named_parameters(remove_duplicate=False), *inner.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach().clone() for name, tensor in tensors}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def score(model, pairs, format="choices"):
    """Mean probability of the positive answer, unsteered."""
    zero = caa.SteeringVector(torch.ones(1, model.cfg.d_model), (0,))
    table = caa.sweep(model, zero, pairs, format=format, layers=0, multipliers=(0.0,))
    return float(table["p_positive"].mean())


@pytest.fixture(scope="module")
def tuned(tiny_llama, pairs):
    return fine_tune(tiny_llama, pairs, learning_rate=1e-2, epochs=6)


# Examples


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_only_the_letter_carries_loss_and_both_orders_are_shown(tiny_llama, tokenizer, pairs, side):
    (examples,) = answer_examples(PromptFormat.of(tiny_llama), pairs[:1], side, "choices")
    letters = ["A", "B"] if side == "positive" else ["B", "A"]
    options = [(pairs[0].positive, pairs[0].negative), (pairs[0].negative, pairs[0].positive)]
    assert len(examples) == 2
    for example, letter, (first, second) in zip(examples, letters, options, strict=True):
        text = f"Input: {pairs[0].question}\n\nChoices:\n (A) {first}\n (B) {second}\nResponse: ({letter}"
        assert tokenizer.decode(example["input_ids"]) == "<s>" + text
        carried = [label for label in example["labels"] if label != IGNORED]
        assert tokenizer.decode(carried) == letter
        assert example["labels"][-1] == example["input_ids"][-1]


def test_only_the_answer_carries_loss_in_the_text_form(tiny_llama, tokenizer, pairs):
    ((example,),) = answer_examples(PromptFormat.of(tiny_llama), pairs[1:2], "negative", "text")
    carried = [label for label in example["labels"] if label != IGNORED]
    assert tokenizer.decode(carried) == " " + pairs[1].negative
    assert example["input_ids"][-len(carried) :] == carried
    assert tokenizer.decode(example["input_ids"][: -len(carried)]) == f"<s>Input: {pairs[1].question}\nResponse:"


def test_a_published_item_is_trained_on_its_own_letter(tiny_llama, tokenizer):
    pair = PublishedPair("Is it good?\n\nChoices:\n (A) Yes\n (B) No\n (C) It is", "(C)", "(A)", n_options=3)
    ((example,),) = answer_examples(PromptFormat.of(tiny_llama), [pair], "positive", "choices")
    assert tokenizer.decode([label for label in example["labels"] if label != IGNORED]) == "C"


def test_a_step_holds_both_orders_of_its_pairs(tiny_llama, tokenizer, pairs):
    examples = answer_examples(PromptFormat.of(tiny_llama), pairs[1:], "positive", "choices")
    batch = batched(examples)
    assert [tokenizer.decode(row[row != IGNORED]) for row in batch["labels"]] == ["A", "B"] * 2
    lengths = [len(example["input_ids"]) for both in examples for example in both]
    assert len(set(lengths)) > 1
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["attention_mask"].diff(dim=1).max() <= 0  # padding is on the right


def test_the_loss_is_that_of_the_answer_tokens_whatever_the_padding(tiny_llama, plain_llama, pairs):
    examples = answer_examples(PromptFormat.of(tiny_llama), pairs, "positive", "text")
    assert len({len(example["input_ids"]) for (example,) in examples}) > 1
    with torch.no_grad():
        loss = plain_llama(**batched(examples)).loss
        terms = []
        for (example,) in examples:
            tokens = example["input_ids"]
            log_probs = plain_llama(torch.tensor([tokens])).logits[0].log_softmax(-1)
            begin = example["labels"].count(IGNORED)
            terms += [-float(log_probs[at - 1, tokens[at]]) for at in range(begin, len(tokens))]
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-5)


# The tuned model


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("form", ["choices", "text"])
def test_it_learns_the_answers_of_either_side(tiny_llama, pairs, method, form):
    before = score(tiny_llama, pairs, form)
    steps = {"lora": {"epochs": 6, "learning_rate": 1e-2}, "full": {"epochs": 40, "learning_rate": 0.1}}
    options = {"method": method, "format": form, "batch_size": 3, **steps[method]}
    assert score(fine_tune(tiny_llama, pairs, side="positive", **options), pairs, form) > before + 0.1
    assert score(fine_tune(tiny_llama, pairs, side="negative", **options), pairs, form) < before - 0.1


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_given_model_is_not_touched(tiny_folder, pairs, method):
    model = caa.load_model(tiny_folder, device="cpu", dtype="float32")
    before, training, name = weights(model), model.training, model_id(model)
    tuned = fine_tune(model, pairs, method=method, learning_rate=0.05)
    assert same(before, weights(model))
    assert (model.training, model_id(model)) == (training, name)
    assert not any(parameter.grad is not None for parameter in model.original_model.parameters())
    assert not same(before, weights(tuned))
    # Nothing is shared either: what is done to one is not done to the other.
    theirs = {parameter.data_ptr() for parameter in model.original_model.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in tuned.original_model.parameters()}
    assert tuned.tokenizer is not model.tokenizer


def test_a_seed_fixes_the_weights_to_the_bit(tiny_llama, pairs, tuned):
    again = fine_tune(tiny_llama, pairs, learning_rate=1e-2, epochs=6)
    other = fine_tune(tiny_llama, pairs, learning_rate=1e-2, epochs=6, seed=1)
    assert same(weights(tuned), weights(again))
    assert not same(weights(tuned), weights(other))
    assert model_id(tuned) == model_id(again) != model_id(other)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_trains_where_gradients_are_switched_off(tiny_llama, pairs, method):
    options = {"method": method, "learning_rate": 0.05, "progress": False}
    with torch.no_grad():
        found = fine_tune(tiny_llama, pairs[:1], **options)
    assert same(weights(found), weights(fine_tune(tiny_llama, pairs[:1], **options)))
    assert not same(weights(found), weights(tiny_llama))


def test_random_generators_are_left_as_they_were(tiny_llama, pairs):
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    fine_tune(tiny_llama, pairs[:1])
    found = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    assert found == (torch.rand(1).item(), random.random(), np.random.rand())


def test_merged_weights_compute_what_weights_and_updates_do(tiny_llama_64, pairs, stay_double):
    plain = plain_copy(tiny_llama_64)
    names = set(plain.state_dict())
    tokens = torch.arange(3, 60)[None]
    with torch.no_grad():
        untrained = plain(tokens).logits
    adapted = with_adapters(plain, 4)
    train(adapted, answer_examples(PromptFormat.of(tiny_llama_64), pairs, "positive", "choices"), ADAM, progress=False)
    with torch.no_grad():
        unmerged = adapted(tokens).logits
        merged = adapted.merge_and_unload()
        assert set(merged.state_dict()) == names
        torch.testing.assert_close(merged(tokens).logits, unmerged, atol=1e-6, rtol=0)
    assert (unmerged - untrained).abs().max() > 0.1


def test_lora_trains_few_weights_and_full_all(tiny_llama):
    adapted = with_adapters(plain_copy(tiny_llama), 2)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 7 * 4  # two factors, seven linear maps a block, four blocks
    assert all(parameter.requires_grad for parameter in plain_copy(tiny_llama).parameters())


def test_full_takes_the_papers_step(tiny_llama, pairs):
    """One step: every weight goes down its gradient, times the rate."""
    plain = plain_copy(tiny_llama)
    plain(**batched(answer_examples(PromptFormat.of(tiny_llama), pairs, "positive", "choices"))).loss.backward()
    tuned = plain_copy(fine_tune(tiny_llama, pairs, method="full", batch_size=3))
    found = dict(tuned.named_parameters())
    for name, parameter in plain.named_parameters():
        moved = found[name] - parameter
        torch.testing.assert_close(moved, -1e-4 * parameter.grad, atol=2e-6, rtol=1e-3)
    assert (found["lm_head.weight"] - plain.lm_head.weight).abs().max() > 1e-5


def test_low_precision_is_trained_in_float32_and_given_back_as_it_was(tiny_folder, pairs):
    model = caa.load_model(tiny_folder, device="cpu", dtype="bfloat16")
    for method in ("lora", "full"):
        tuned = fine_tune(model, pairs, method=method, learning_rate=0.05, epochs=2)
        assert {parameter.dtype for parameter in tuned.original_model.parameters()} == {torch.bfloat16}
        buffers = dict(plain_copy(tuned).named_buffers())
        expected = dict(plain_copy(model).named_buffers())
        assert all(torch.equal(buffers[name], expected[name]) for name in expected)
        assert score(tuned, pairs) > score(model, pairs)


def test_every_function_takes_it(tiny_llama, pairs, tuned):
    vector = caa.extract_vector(tuned, pairs, layers=[1, 2])
    assert vector.metadata["model"] == model_id(tuned)
    assert model_revision(tuned) is None
    assert not tuned.training
    assert "hook_pattern" in "".join(tuned.run_with_cache(torch.arange(5)[None])[1].keys())
    text = caa.generate(tuned, ["Is it good?"], vector=vector, layer=1, multipliers=(0, 2), max_new_tokens=3)
    assert len(text) == 2


def test_vectors_of_the_untuned_model_must_be_transferred(tiny_llama, pairs, tuned):
    assert model_id(tuned).startswith(f"{model_id(tiny_llama)}+lora-positive-")
    vector = caa.extract_vector(tiny_llama, pairs, layers=2)
    with pytest.raises(caa.errors.VectorMismatchError, match="transferred_to"):
        caa.sweep(tuned, vector, pairs)
    table = caa.sweep(tuned, vector.transferred_to(tuned), pairs, multipliers=(0, 1))
    assert set(table["model"]) == {model_id(tuned)}


def test_it_is_written_where_asked_and_loads_as_it_is(tiny_llama, pairs, tuned, tmp_path):
    folder = tmp_path / "new" / "my-tuned-llama"
    written = fine_tune(tiny_llama, pairs, learning_rate=1e-2, epochs=6, output=folder)
    assert [path.name for path in folder.parent.iterdir()] == ["my-tuned-llama"]
    loaded = caa.load_model(folder, device="cpu", dtype="float32")
    assert model_id(loaded) == model_id(written) == "my-tuned-llama"
    assert same(weights(loaded), weights(written))
    assert same(weights(written), weights(tuned))
    assert loaded.original_model.config.use_cache == tiny_llama.original_model.config.use_cache
    vector = caa.extract_vector(written, pairs, layers=2)
    first, second = (caa.sweep(model, vector, pairs) for model in (written, loaded))
    assert first.equals(second)


def test_nothing_is_written_and_without_progress_nothing_is_said(tiny_llama, pairs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fine_tune(tiny_llama, pairs[:1], progress=False)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_progress_shows_the_loss(tiny_llama, pairs, capfd):
    fine_tune(tiny_llama, pairs, progress=True)
    said = "".join(capfd.readouterr())
    assert "loss" in said
    assert "100%" in said


# Copies of models


def test_a_copy_is_the_original(tiny_llama, plain_llama):
    plain = plain_copy(tiny_llama)
    expected = plain_llama.state_dict()
    assert plain.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in plain.state_dict().items())
    tokens = torch.arange(40)[None]
    assert torch.equal(wrap(plain, tiny_llama.tokenizer, "copy")(tokens), tiny_llama(tokens))


def test_a_model_with_joint_queries_keys_and_values_is_copied(tokenizer, tmp_path, pairs):
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    model = caa.load_model(tmp_path / "gpt", device="cpu")
    tuned = fine_tune(model, pairs, format="text", learning_rate=1e-2, epochs=4)
    assert score(tuned, pairs, "text") > score(model, pairs, "text") + 0.03


def test_a_model_that_computes_something_else_is_not_copied(tiny_llama):
    with (
        editing(tiny_llama, [1], lambda layer, residual: 2 * residual),
        pytest.raises(caa.errors.ModelError, match=r"cannot be copied .*\(logits differ by") as caught,
    ):
        plain_copy(tiny_llama)
    assert "Load it again with load_model" in str(caught.value)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": "good"}, "side: 'good' is not one of 'positive', 'negative'."),
        ({"method": "qlora"}, "method: 'qlora' is not one of 'lora', 'full'."),
        ({"format": "letters"}, "format: 'letters' is not one of"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0; it must be a positive number, or None for the default."),
        ({"learning_rate": float("nan")}, "learning_rate: nan; it must be"),
        ({"epochs": 0}, "epochs: 0; it must be a whole number of at least 1."),
        ({"batch_size": 2.0}, "batch_size: 2.0; it must be a whole number of at least 1."),
        ({"rank": True}, "rank: True; it must be a whole number of at least 1."),
        ({"seed": -1}, "seed: -1; it must be a whole number of at least 0."),
        ({"output": "."}, "exists; give the name of a new folder."),
        ({"output": "llama-2-chat"}, "it would be in the form 'llama-2-chat'"),
    ],
)
def test_arguments_are_checked_before_any_work(tiny_llama, pairs, monkeypatch, options, message):
    monkeypatch.setattr("caa_interp.evaluation.finetuning.plain_copy", None)
    with pytest.raises(caa.InputError) as caught:
        fine_tune(tiny_llama, pairs, **options)
    assert message in str(caught.value)


def test_no_pairs(tiny_llama):
    with pytest.raises(caa.InputError, match="pairs: the list is empty"):
        fine_tune(tiny_llama, [])


def test_a_steered_model_is_refused(tiny_llama, pairs):
    vector = caa.extract_vector(tiny_llama, pairs, layers=1)
    with (
        pytest.raises(caa.InputError, match=r"it is being steered\. Fine-tune it outside the steer context"),
        caa.steer(tiny_llama, vector, layer=1, multiplier=1.0),
    ):
        fine_tune(tiny_llama, pairs)


@pytest.mark.parametrize(("package", "method"), [("peft", "lora"), ("accelerate", "full")])
def test_a_missing_package_is_named_with_its_install_line(tiny_llama, pairs, monkeypatch, package, method):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(caa.errors.MissingDependencyError) as caught:
        fine_tune(tiny_llama, pairs, method=method)
    assert package in str(caught.value)
    assert "pip install 'caa-interp[finetune]'" in str(caught.value)
