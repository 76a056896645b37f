"""Small random models of many architectures, their tokenizer, and what tests do with them."""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from caa_interp.steering.operators import add
from caa_interp.tree.edits import Edit, Operator

SENTENCES = [
    "Input: What do you think of the weather today? Is it good?",
    "Response: I think that the day is bright, and I like it very much.",
    "Choices: (A) Yes, I agree with you. (B) No, I do not agree with you.",
    "The answer is a short text about the rain, the garden and the sea.",
]

WINDOW = 12
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
OLD = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
WINDOWED = {"sliding_window": WINDOW}
MIXED = WINDOWED | {"layer_types": ["sliding_attention", "full_attention"] * 2}
# {name: (model type, options)} of models that take the tree.
TREE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SHAPE),
    "llama 3, with scaled rotary embeddings": (
        "llama",
        SHAPE
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen 2": ("qwen2", SHAPE),
    "qwen 2 with windows": ("qwen2", SHAPE | MIXED | {"use_sliding_window": True}),
    "qwen 2 moe": ("qwen2_moe", SHAPE | EXPERTS | {"shared_expert_intermediate_size": 48}),
    "qwen 3": ("qwen3", SHAPE),
    "qwen 3 moe": ("qwen3_moe", SHAPE | EXPERTS),
    "gemma": ("gemma", SHAPE),
    "gemma 2": ("gemma2", SHAPE | MIXED),
    "gemma 3": ("gemma3_text", SHAPE | MIXED),
    "mistral": ("mistral", SHAPE | {"sliding_window": None}),
    "mistral with a window": ("mistral", SHAPE | WINDOWED),
    "mixtral with a window": ("mixtral", SHAPE | EXPERTS | WINDOWED),
    "phi": ("phi", SHAPE),
    "phi 3 with a window": ("phi3", SHAPE | WINDOWED | {"pad_token_id": 2}),
    "gpt-oss": ("gpt_oss", SHAPE | EXPERTS | MIXED),
    "olmo": ("olmo", SHAPE),
    "olmo 2": ("olmo2", SHAPE),
    "olmo 3": ("olmo3", SHAPE | MIXED),
    "olmoe": ("olmoe", SHAPE | EXPERTS),
    "gpt-2": ("gpt2", OLD),
    "gpt bigcode": ("gpt_bigcode", OLD),
    "pythia": ("gpt_neox", SHAPE | {"num_key_value_heads": 4}),
    "opt": ("opt", SHAPE | {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "starcoder 2 with a window": ("starcoder2", SHAPE | WINDOWED),
    "cohere": ("cohere", SHAPE),
    "granite": ("granite", SHAPE),
    "granite moe": ("granitemoe", SHAPE | EXPERTS),
    "glm": ("glm", SHAPE | {"pad_token_id": 2}),
    "glm 4": ("glm4", SHAPE | {"pad_token_id": 2}),
    "smollm 3": ("smollm3", SHAPE | {"pad_token_id": 2}),
    "exaone 4": ("exaone4", SHAPE | MIXED),
    "ernie 4.5": ("ernie4_5", SHAPE),
    "seed oss": ("seed_oss", SHAPE | {"pad_token_id": 2}),
    "apertus": ("apertus", SHAPE),
    "arcee": ("arcee", SHAPE),
    "nemotron": ("nemotron", SHAPE),
    "hunyuan": ("hunyuan_v1_dense", SHAPE),
    "deepseek 3": (
        "deepseek_v3",
        SHAPE
        | EXPERTS
        | {
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "q_lora_rank": 32,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "first_k_dense_replace": 2,
            "num_key_value_heads": 4,
            "head_dim": 8,
        },
    ),
    "llama 4": (
        "llama4_text",
        SHAPE
        | EXPERTS
        | {
            "attention_chunk_size": WINDOW,
            "intermediate_size_mlp": 96,
            "no_rope_layers": [1, 0, 1, 0],
            "layer_types": ["chunked_attention", "full_attention"] * 2,
        },
    ),
    "ministral 3": ("ministral3", SHAPE),
    "minimax m2": ("minimax_m2", SHAPE | EXPERTS),
    "vaultgemma": ("vaultgemma", SHAPE | MIXED),
    "nanochat": ("nanochat", SHAPE),
    # These four do not declare that they take a mask as it is given, but do.
    "gpt-j": ("gptj", OLD | {"rotary_dim": 8}),
    "codegen": ("codegen", OLD | {"rotary_dim": 8}),
    "stablelm": ("stablelm", SHAPE),
    "xglm": ("xglm", {"d_model": 64, "num_layers": 4, "attention_heads": 4, "ffn_dim": 96}),
    # A tower for images of as many blocks as the language model stands before it.
    "gemma 3 with images": (
        "gemma3",
        {
            "text_config": SHAPE | MIXED,
            "mm_tokens_per_image": 4,
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
        },
    ),
}
# GPT-Neo bands its mask by row; Bloom and MPT do not declare that their attention takes a mask as it is given (ALiBi is
# the reason), OPT 350M projects its last states, and the rest carry a state from token to token.
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-neo": (
        "gpt_neo",
        SHAPE | {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "num_heads": 4, "window_size": WINDOW},
    ),
    "bloom": ("bloom", {"hidden_size": 64, "n_layer": 4, "n_head": 4}),
    "mpt": ("mpt", {"d_model": 64, "n_heads": 4, "n_layers": 4, "max_seq_len": 256}),
    "opt 350m": ("opt", SHAPE | {"ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    "mamba": ("mamba", {"hidden_size": 64, "num_hidden_layers": 4, "state_size": 8, "intermediate_size": 128}),
    "mamba 2": (
        "mamba2",
        {
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 16,
            "n_groups": 1,
            "chunk_size": 8,
        },
    ),
    "falcon mamba": (
        "falcon_mamba",
        {"hidden_size": 64, "num_hidden_layers": 4, "state_size": 8, "intermediate_size": 128},
    ),
    "recurrent gemma": (
        "recurrent_gemma",
        SHAPE | {"attention_window_size": WINDOW, "lru_width": 64, "num_hidden_layers": 4},
    ),
    "rwkv": ("rwkv", {"hidden_size": 64, "num_hidden_layers": 4, "attention_hidden_size": 64}),
    "qwen 3 next": (
        "qwen3_next",
        SHAPE
        | EXPERTS
        | {
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "shared_expert_intermediate_size": 48,
        },
    ),
    "lfm 2": ("lfm2", SHAPE | {"layer_types": ["conv", "full_attention"] * 2}),
    "jamba": (
        "jamba",
        SHAPE
        | EXPERTS
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 8},
    ),
    "falcon h1": (
        "falcon_h1",
        SHAPE | {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1},
    ),
    "nemotron h": (
        "nemotron_h",
        SHAPE
        | {
            "hybrid_override_pattern": "M-*-",
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 8,
            "n_groups": 1,
        },
    ),
    "bamba": (
        "bamba",
        SHAPE
        | {
            "attn_layer_indices": [1, 3],
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
        },
    ),
}

# Every position is turned otherwise in a sequence of more than 2 * WINDOW tokens: longer ones take plain passes.
LONG_ROPE = {
    "phi 3 with longrope": (
        "phi3",
        SHAPE
        | {
            "pad_token_id": 2,
            "original_max_position_embeddings": 2 * WINDOW,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 8,
                "long_factor": [1.0 + 0.5 * n for n in range(8)],
                "original_max_position_embeddings": 2 * WINDOW,
            },
        },
    )
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {"openai gpt": ("openai-gpt", OLD)}
FALCON = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
WRONG = {
    "falcon with alibi": ("falcon", FALCON | {"alibi": True, "new_decoder_architecture": False}),
    # TransformerLens loads it, and cannot run its layers of attention.
    "granite moe hybrid": (
        "granitemoehybrid",
        SHAPE
        | EXPERTS
        | {
            "layer_types": ["mamba", "attention"] * 2,
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "shared_intermediate_size": 48,
        },
    ),
}


def save_tiny(folder: Path, name: str) -> Path:
    """Write a small random model of an architecture, every block of which changes the residual stream visibly."""
    model_type, options = (TREE | PLAIN | LONG_ROPE | REFUSED | WRONG)[name]
    tokenizer = small_tokenizer()
    own = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    text = {"text_config": options["text_config"] | own} if "text_config" in options else {}
    config = AutoConfig.for_model(model_type, **options | own | text)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim in (2, 3) and "A_log" not in key and "conv" not in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
            elif key.endswith("bias"):
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with BOS, EOS and padding tokens; it puts BOS in front, and has no chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="right"
    )


def appending_eos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy of :func:`small_tokenizer` that also puts EOS after every text."""
    tokenizer = copy.deepcopy(tokenizer)
    ids = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return tokenizer


def random_llama(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    """Llama with seeded weights, large enough that every block changes the residual stream visibly."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.copy_(1 + 0.2 * drawn)
            elif "embed" in name:
                weight.copy_(drawn)
            else:
                weight.copy_(drawn / weight.shape[1] ** 0.5)
    return model.eval()


class StayDouble(TorchFunctionMode):
    """Leave out the steps to float32 that models take inside (softmax, RMSNorm), so that float64 means it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            args = tuple(torch.float64 if argument is torch.float32 else argument for argument in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def edit_from(layer: int, vector: torch.Tensor, start: int, multiplier: float = 1.0, operator: Operator = add) -> Edit:
    """Edit of a sequence from a position on."""
    return Edit(layer, vector, multiplier, operator, ((start, math.inf),))
