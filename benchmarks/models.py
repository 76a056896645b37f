"""Random models of a given shape, for what depends on the shape alone."""

import tempfile
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast

import caa_interp as caa

# Llama 2 Chat's form, for conversations that end with the user.
CHAT_TEMPLATE = "{{ bos_token }}{% for turn in messages %}{{ '[INST] ' + turn['content'] + ' [/INST]' }}{% endfor %}"
N_TOKENS = 8000


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of the package's own texts, with about as many tokens a word as those of real models."""
    pairs = [pair for behavior in caa.behaviors.load_behaviors().values() for pair in behavior.train]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_TOKENS,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([f"{pair.question} {pair.positive} {pair.negative}" for pair in pairs], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def save(config: PretrainedConfig, folder: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """Write a model with random weights, made on the device, and the tokenizer."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def _loaded(config: PretrainedConfig) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        save(config, folder)
        return caa.load_model(folder, device="cpu", progress=False)


def narrow_llama(n_heads: int) -> Any:
    """32 layers, width 32: next to no arithmetic."""
    config = LlamaConfig(
        vocab_size=N_TOKENS, hidden_size=32, intermediate_size=64, num_hidden_layers=32, num_attention_heads=n_heads
    )
    return _loaded(config)


def windowed_gemma() -> Any:
    """Shape of Gemma 3 270M with fewer tokens and windows of 64."""
    config = Gemma3TextConfig(
        vocab_size=N_TOKENS,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=64,
    )
    return _loaded(config)


def llama(size: str) -> LlamaConfig:
    """Llama 2 7B's shape, or a toy of the same layout."""
    if size == "7b":
        return LlamaConfig(max_position_embeddings=4096)
    return LlamaConfig(
        vocab_size=N_TOKENS, hidden_size=64, intermediate_size=172, num_hidden_layers=4, num_attention_heads=4
    )
