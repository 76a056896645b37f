"""From states of the residual stream to tokens: states inside blocks, their logits, and how tokens are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from caa_interp.errors import ModelError
from caa_interp.models.access import HOOK, input_device, is_bridge, model_id, not_numbers, on_cpu
from caa_interp.models.hooks import has_hooks

COMPONENTS = {
    "attention output": "blocks.{layer}.hook_attn_out",
    "mid residual": "blocks.{layer}.hook_resid_mid",
    "MLP output": "blocks.{layer}.hook_mlp_out",
    "block output": HOOK,
}
SPACE = "\u2423"
# Columns of the unembedding that are multiplied at a time where they are converted.
_COLUMNS = 16384


def can_unembed(model: Any) -> bool:
    """Whether a model's logits are the unembedding of its final norm (not in OPT-350M), and neither is offloaded."""
    if not hasattr(model, "ln_final"):
        return False
    return not any(weight.is_meta for part in (model.ln_final, model.unembed) for weight in part.parameters())


def check_readable(model: Any) -> None:
    """Raise :class:`ModelError` unless states of the model can be read as tokens."""
    if not can_unembed(model):
        raise ModelError(
            f"model {model_id(model)!r}: it has no final norm between its last block and its logits, or offloads it or "
            "the unembedding, so states cannot be read as tokens. Use a model whose logits are the unembedding of its "
            "final norm, both on a device."
        )


def unembed(model: Any, residual: torch.Tensor) -> torch.Tensor:
    """Logits ``[n, d_vocab]`` of states ``[n, d_model]``, as from the last block: final norm, unembedding, cap.

    In float32 at least, unless somebody hooks the unembedding: between 16 and 32 bfloat16 steps by 0.125, as much as
    steering often does.
    """
    check_readable(model)
    matrix = model.W_U
    residual = residual.to(next(model.ln_final.parameters(), residual).device)
    if matrix.dtype.itemsize >= 4 or has_hooks(model.unembed.modules()):
        logits = model.unembed(model.ln_final(residual.to(matrix.dtype)[None]))[0]
    else:
        norm = {name: weight.float() for name, weight in model.ln_final.named_parameters()}
        normed = torch.func.functional_call(model.ln_final, norm, (residual[None].float(),))[0]
        normed = normed.to(matrix.device).float()  # HookedTransformer's norms round to the type of the weights
        # A few columns at a time: the whole matrix in float32 may be gigabytes.
        parts = [normed @ columns.float() for columns in matrix.split(_COLUMNS, dim=1)]
        logits = torch.cat(parts, dim=1) + model.b_U.float()
    if is_bridge(model):
        return model.adapter.apply_output_logits_transform(logits)
    cap = float(model.cfg.output_logits_soft_cap or 0)
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


@torch.no_grad()
def read_logits(model: Any, states: torch.Tensor, label: str = "") -> torch.Tensor:
    """Logits ``[n, d_vocab]`` of ``states`` ``[n, d_model]``, as if they were the last block's output.

    Final norm, unembedding and, if the model has one, the cap on its logits. Float32 (float64 for a float64 model), on
    the CPU. Raises :class:`ModelError` if the model has no final norm, or if a logit is NaN; ``label`` says where.
    """
    logits = unembed(model, states.to(model.W_U.device)).cpu()
    if bool(logits.isnan().any()):
        raise not_numbers(model, label)
    return logits


@torch.no_grad()
def component_states(model: Any, tokens: Sequence[int], layers: Iterable[int]) -> dict[tuple[int, str], torch.Tensor]:
    """States inside blocks at the last position of one sequence: ``{(layer, component): [d_model]}``, on the CPU.

    The components are those of :data:`COMPONENTS` that a block has: with parallel attention and MLP there is no mid
    residual. Hooks on the model, such as those of :func:`caa_interp.steer`, act.
    """
    check_readable(model)
    available = model.hook_dict
    names = {
        (layer, component): name.format(layer=layer)
        for layer in layers
        for component, name in COMPONENTS.items()
        if name.format(layer=layer) in available
    }
    ids = torch.tensor([tokens], device=input_device(model))
    _, cache = model.run_with_cache(
        ids,
        attention_mask=torch.ones_like(ids),
        names_filter=list(names.values()),
        pos_slice=[-1],
        return_cache_object=False,
    )
    return dict(zip(names, on_cpu([cache[name][0, -1] for name in names.values()]), strict=True))


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    r"""Return the texts of tokens with every invisible character made visible, so that different tokens look different.

    A space is ``␣``, however the tokenizer writes it (``Ġ``, ``▁``). Everything else is written as in Python: ``\n``,
    ``\u200b``, ``\xe2`` for part of a character, ``\\`` for a backslash. An id without a token is ``<unused 151700>``.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    # Byte-level vocabularies write every byte as a letter, a space as this one.
    of_bytes = "Ġ" in "".join(tokenizer.tokenize(" a"))
    byte_of = {letter: bytes([byte]) for byte, letter in bytes_to_unicode().items()}
    added = tokenizer.added_tokens_decoder
    texts = []
    for token_id in ids:
        raw = tokenizer.convert_ids_to_tokens(int(token_id))
        if raw is None:
            texts.append(f"<unused {int(token_id)}>")
        elif int(token_id) in added:
            texts.append(visible(str(added[int(token_id)]).encode()))
        elif of_bytes:
            texts.append(visible(b"".join(byte_of.get(letter, letter.encode()) for letter in raw)))
        elif re.fullmatch(r"<0x[0-9A-F]{2}>", raw):
            texts.append(visible(bytes.fromhex(raw[3:5])))
        else:
            texts.append(visible(raw.replace("▁", " ").encode()))
    return texts


def is_word(text: str) -> bool:
    """Whether a token, written as by :func:`token_texts`, begins a word and is nothing but three letters or more."""
    return len(text) > 3 and text.startswith(SPACE) and text[1:].isalpha()


def visible(content: bytes) -> str:
    """Write UTF-8 bytes as in :func:`token_texts`."""

    def write(letter: str) -> str:
        code = ord(letter)
        if letter == " ":
            return SPACE
        if letter == "\\":
            return r"\\"
        if letter.isprintable() and letter != SPACE:
            return letter
        if 0xDC80 <= code <= 0xDCFF:  # Python's place for a byte that is no character
            return f"\\x{code - 0xDC00:02x}"
        if code < 0x80:
            return letter.encode("unicode_escape").decode()
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return "".join(map(write, content.decode(errors="surrogateescape")))


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of special tokens, such as BOS and the markers of a chat template."""
    added = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)
