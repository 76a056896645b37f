"""Fine-tuning on the answers, the paper's strongest baseline (Rimsky et al. 2024).

1. Put each pair's question to the model, and train it on the answer that shows the behavior: cross-entropy on the
   answer letter alone, all weights, one epoch of SGD.
2. Score held-out pairs with the tuned model, and once more with a steering vector on top.

Where this differs: low-rank updates of the weights (LoRA, Hu et al. 2022) are the default and the paper's form is
``method="full"``; every pair is shown in both letter orders, in one step, so that no step favors a letter; and with
``format="text"`` the model is trained on the answer itself.
"""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, check_choice, check_count, check_installed
from caa_interp.files import fingerprint, publish_folder
from caa_interp.models.access import check_model, check_unsteered, model_id
from caa_interp.models.wrapping import plain_copy, wrap
from caa_interp.prompts.format import PromptFormat, form_of, style_of
from caa_interp.prompts.rendering import Format, render_pairs

Method = Literal["lora", "full"]
# For all weights what the paper and its code say: plain SGD at a constant rate, and nothing is clipped.
_METHODS: dict[str, dict[str, Any]] = {
    "lora": {"learning_rate": 5e-4, "optim": "adamw_torch", "lr_scheduler_type": "linear"},
    "full": {"learning_rate": 1e-4, "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0},
}
IGNORED = -100  # label of a token that carries no loss
# The sequences of one pair: ``input_ids``, and as ``labels`` the answer's own tokens, IGNORED in front of them.
Examples = list[dict[str, list[int]]]


def fine_tune(
    model: Any,
    pairs: Iterable[ContrastPair],
    *,
    side: Literal["positive", "negative"] = "positive",
    method: Method = "lora",
    format: Format = "choices",
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    learning_rate: float | None = None,
    epochs: int = 1,
    batch_size: int = 2,
    rank: int = 16,
    seed: int = 0,
    output: str | Path | None = None,
    progress: bool = True,
) -> Any:
    """Train a copy of a model to give the answers of one side.

    Needs ``pip install 'caa-interp[finetune]'``.

    Parameters
    ----------
    model
        A ``TransformerBridge``, see :func:`caa_interp.load_model`, on one device. It is not changed.
    pairs, side
        Pairs to train on, usually a behavior's ``train``; ``"positive"``: the answers that show the behavior,
        ``"negative"``: the others.
    method
        ``"lora"`` (default): low-rank updates of every linear map within the blocks, by AdamW with a rate that falls
        to zero, merged into the weights at the end. ``"full"``: all weights, by SGD without momentum (the paper's).
    format
        ``"choices"`` (default, the paper's): the loss is that of the answer letter, in both letter orders.
        ``"text"``: that of the answer's tokens.
    system_prompt
        Optional system prompt for every pair.
    prompt_format
        How the model is addressed; default: ``PromptFormat.of(model)``.
    learning_rate
        Default: 5e-4 for LoRA, 1e-4 (the paper's) for all weights.
    epochs
        How often every pair is shown; default 1, as in the paper.
    batch_size
        Pairs per step, in the choices form two sequences each, one per letter order; the default of 2 makes 4
        sequences per step, as in the paper's code on one GPU.
    rank
        Rank of LoRA's updates, which are scaled by two; not used by ``"full"``.
    seed
        Seed of the order of pairs and of LoRA's first weights. On the CPU it fixes the result to the bit, for a
        fixed number of threads.
    output
        New folder for the tuned model in Hugging Face's layout, which ``caa.load_model(output)`` loads. Default: none.
    progress
        Show the Trainer's progress bar and the loss.

    Returns
    -------
    TransformerBridge
        A model of its own, in the precision of ``model``, that every function takes. Its id is the name of the folder
        ``output``, as if loaded from there; without one, ``model``'s id with method, side and a digest of
        texts and settings after it. So the vectors of ``model`` must be ``transferred_to`` it.

    Raises
    ------
    MissingDependencyError
        If ``peft`` (LoRA) or ``accelerate`` is not installed.
    ModelError
        If the model's weights cannot be copied.

    Notes
    -----
    ``"full"`` trains in float32 at least, since SGD's small steps would be lost in 16 bits: that takes 8 more
    bytes per weight. LoRA leaves the weights in the model's own precision.
    """
    check_model(model)
    checked = check_pairs(pairs)
    check_choice("side", side, ("positive", "negative"))
    check_choice("method", method, _METHODS)
    if learning_rate is not None and not (math.isfinite(learning_rate) and learning_rate > 0):
        raise InputError(f"learning_rate: {learning_rate}; it must be a positive number, or None for the default.")
    for argument, value in {"epochs": epochs, "batch_size": batch_size, "rank": rank}.items():
        check_count(argument, value)
    check_count("seed", seed, least=0)
    for package in ("accelerate", "peft") if method == "lora" else ("accelerate",):
        check_installed(package, "fine_tune", "'caa-interp[finetune]'")
    check_unsteered(model, "Fine-tune it")
    examples = answer_examples(form_of(model, prompt_format), checked, side, format, system_prompt)
    settings = dict(_METHODS[method], num_train_epochs=epochs, per_device_train_batch_size=batch_size, seed=seed)
    if learning_rate is not None:
        settings["learning_rate"] = float(learning_rate)
    folder = None if output is None else Path(output).expanduser().resolve()
    if folder is None:
        name = f"{model_id(model)}+{method}-{side}-{fingerprint([examples, settings, rank])[:8]}"
    else:
        name = folder.name
        _check_folder(folder, model)

    plain = plain_copy(model)
    device, dtype = plain.device, plain.dtype
    with _randomness(seed):
        if method == "lora":
            adapted = with_adapters(plain, rank)
            train(adapted, examples, settings, progress)
            plain = adapted.merge_and_unload()
        else:
            _cast(plain, torch.promote_types(dtype, torch.float32))
            train(plain, examples, settings, progress)
            _cast(plain, dtype)
    plain = plain.to(device)
    if folder is not None:
        with publish_folder(folder) as partial:
            plain.save_pretrained(partial)
            model.tokenizer.save_pretrained(partial)
    return wrap(plain, model.tokenizer, name)


def answer_examples(
    form: PromptFormat, pairs: Sequence[ContrastPair], side: str, format: Format, system_prompt: str | None = None
) -> list[Examples]:
    """Sequences to train on: for each pair two in the choices form, which end at the letter, and one for text."""
    examples = []
    for renderings in render_pairs(form, pairs, format, system_prompt):
        sequences = []
        for rendering in renderings:
            tokens, begin = list(getattr(rendering, side)), rendering.n_prompt
            if format == "choices":
                begin = rendering.n_shared
                tokens = tokens[: begin + 1]
            sequences.append({"input_ids": tokens, "labels": [IGNORED] * begin + tokens[begin:]})
        examples.append(sequences)
    return examples


def with_adapters(plain: Any, rank: int) -> Any:
    """Put trainable low-rank updates beside the linear maps of a Hugging Face model, whose own weights are frozen."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with warnings.catch_warnings():
        # peft uses an old name of transformers', and says how it treats GPT-2's transposed matrices.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out", category=UserWarning)
        return get_peft_model(plain, config)


def train(plain: Any, examples: list[Examples], settings: Mapping[str, Any], progress: bool) -> None:
    """Train a Hugging Face model with the Trainer, without files, reports or a second GPU."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    on_cpu, use_cache = plain.device.type == "cpu", plain.config.use_cache
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            save_strategy="no",
            logging_strategy="steps" if progress else "no",
            logging_steps=0.1,
            report_to="none",
            disable_tqdm=not progress,
            use_cpu=on_cpu,
            dataloader_pin_memory=not on_cpu,
            remove_unused_columns=False,
            **settings,
        )
        if arguments.n_gpu > 1:
            arguments._n_gpu = 1
        trainer = Trainer(plain, arguments, train_dataset=examples, data_collator=batched)
        trainer.remove_callback(PrinterCallback)
        with torch.enable_grad():
            trainer.train()
    plain.config.use_cache = use_cache
    plain.eval()


def batched(pairs: Sequence[Examples]) -> dict[str, torch.Tensor]:
    """Stack the examples of some pairs, padded on the right: tensors ``[n_examples, length]``."""
    examples = [{**one, "attention_mask": [1] * len(one["labels"])} for examples in pairs for one in examples]
    padding = {"input_ids": 0, "labels": IGNORED, "attention_mask": 0}
    return {
        name: pad_sequence([torch.tensor(one[name]) for one in examples], batch_first=True, padding_value=fill)
        for name, fill in padding.items()
    }


def _check_folder(folder: Path, model: Any) -> None:
    """Raise :class:`InputError` if the folder is there, or if a model of its name would be addressed differently."""
    if folder.exists():
        raise InputError(f"output: {str(folder)!r} exists; give the name of a new folder.")
    before, after = (style_of(model.tokenizer, name) for name in (model.cfg.model_name, folder.name))
    if before != after:
        raise InputError(
            f"output: the model is addressed in the form {before!r}, but named {folder.name!r} it would be in "
            f"the form {after!r}, since its tokenizer has no chat template. Keep its name {model_id(model)!r} as a "
            "part of the folder's."
        )


@contextlib.contextmanager
def _randomness(seed: int) -> Iterator[None]:
    """Seed all generators, and set them back at the end: the Trainer seeds them too."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _cast(plain: Any, dtype: torch.dtype) -> None:
    """Change the type of the weights alone: buffers such as rotary frequencies need their own."""
    for parameter in plain.parameters():
        parameter.data = parameter.data.to(dtype)
