"""The paper's procedure as its published code takes it (Rimsky et al. 2024), on a plain Hugging Face Llama.

Slow on purpose: one item, one layer and one multiplier at a time, one full pass each, nothing shared.

1. Chat: ``[INST] {question} [/INST] {answer}``, a system prompt in front of ``[INST]``. Base: ``Input: {question}``, a
   new line, ``Response: {answer}``, no system prompt. White space around a question is taken off, BOS is put in front.
2. The vector at layer L is the mean over items of the difference of block L's output one token before the last: with
   the answers ``(A)`` and ``(B)``, at the letter.
3. At every layer the vectors of all behaviors are rescaled to their mean norm.
4. The end marker, ``[/INST]`` or ``\\nResponse:``, is tokenized by itself without BOS, and looked for in the tokens.
   Steering adds multiplier * vector to block L's output from the marker's last token on. That of a base model is never
   found, since its own tokens begin with a space: every position is steered.
5. A multiple-choice prompt ends with ``(``; a and b are the next token's probabilities of ``A`` and ``B``. An item's
   score is that of its matching letter over a + b, and 0 if that letter is neither; the result is the mean over items.
   MMLU and TruthfulQA: the same with ``correct``, mean over the categories of their means.
"""

import torch

from tests.oracles.definition import block_outputs, blocks, steered_outputs


def encode(tokenizer, question, answer="", system_prompt=None, base=False):
    """Token ids of a prompt with an answer, or with its beginning."""
    if base:
        return tokenizer.encode(f"Input: {question.strip()}\nResponse: {answer}")
    system = f"<<SYS>>\n{system_prompt}\n<</SYS>>\n\n" if system_prompt else ""
    return tokenizer.encode(f"{system}[INST] {question.strip()} [/INST]" + (f" {answer}" if answer else ""))


def first_steered(tokenizer, tokens, base=False):
    """Position of the end marker's last token; 0 if the marker is not found."""
    marker = tokenizer.encode("\nResponse:" if base else "[/INST]")[1:]
    found = [at for at in range(len(tokens)) if tokens[at : at + len(marker)] == marker]
    return found[-1] + len(marker) - 1 if found else 0


def activations(model, tokenizer, items, base=False):
    """Block outputs at the letter of the matching and of the other answer, ``[n_layers, n_items, d_model]`` each."""
    return [
        torch.stack(
            [block_outputs(model, encode(tokenizer, item["question"], item[side], base=base))[:, -2] for item in items],
            dim=1,
        )
        for side in ("answer_matching_behavior", "answer_not_matching_behavior")
    ]


def vectors(model, tokenizer, items, base=False):
    """Steering vectors of one behavior, ``[n_layers, d_model]``."""
    positive, negative = activations(model, tokenizer, items, base)
    return (positive - negative).mean(1)


def normalized(by_behavior):
    """The vectors of all behaviors with their mean norm at every layer."""
    norms = torch.stack([vector.norm(dim=1) for vector in by_behavior.values()])
    mean = norms.mean(0)
    return {name: vector * (mean / vector.norm(dim=1))[:, None] for name, vector in by_behavior.items()}


def letters(model, tokenizer, question, layer, addition, system_prompt=None, base=False):
    """Probabilities of A and B after ``(``, steered."""
    tokens = encode(tokenizer, question, "(", system_prompt, base)
    logits = steered_outputs(model, tokens, layer, addition, first_steered(tokenizer, tokens, base))[-1]
    probabilities = logits.softmax(-1)
    return [float(probabilities[tokenizer.convert_tokens_to_ids(letter)]) for letter in "AB"]


def score(a, b, matching):
    """Score of one item."""
    return {"(A)": a, "(B)": b}.get(matching, 0.0) / (a + b)


def result(model, tokenizer, items, layer, addition, system_prompt=None, base=False):
    """The result of a multiple-choice test."""
    scores = [
        score(
            *letters(model, tokenizer, item["question"], layer, addition, system_prompt, base),
            item["answer_matching_behavior"],
        )
        for item in items
    ]
    return sum(scores) / len(items)


def exam(model, tokenizer, items, layer, addition):
    """The result of MMLU or TruthfulQA."""
    by_category = {}
    for item in items:
        both = letters(model, tokenizer, item["prompt"], layer, addition)
        by_category.setdefault(item["category"], []).append(score(*both, item["correct"]))
    means = [sum(scores) / len(scores) for scores in by_category.values()]
    return sum(means) / len(means)


def cosine(one, other):
    """Cosine of two vectors."""
    return float(one @ other / (one.norm() * other.norm()))


def plane(points):
    """Two principal components of the rows, each up to its sign, ``[n, 2]``."""
    centered = points - points.mean(0)
    values, directions = torch.linalg.eigh(centered.T @ centered)
    return centered @ directions[:, values.argsort(descending=True)[:2]]


def decoded(model, tokens, layer, addition, start):
    """Probabilities to which the states at the last token decode: ``{(layer, component): [d_vocab]}``, steered."""
    states = {}

    def add(block, _, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[:, start:] += addition
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def keep(name):
        def hook(_, inputs, output):
            value = output[0] if isinstance(output, tuple) else output
            states[name] = value[0, -1] if value.dim() == 3 else value[-1]

        return hook

    def keep_input(at):
        def hook(_, inputs):
            states[at, "mid residual"] = inputs[0][0, -1]

        return hook

    handles = [blocks(model)[layer].register_forward_hook(add)]
    for at, block in enumerate(blocks(model)):
        handles += [
            block.self_attn.register_forward_hook(keep((at, "attention output"))),
            block.post_attention_layernorm.register_forward_pre_hook(keep_input(at)),
            block.mlp.register_forward_hook(keep((at, "MLP output"))),
            block.register_forward_hook(keep((at, "block output"))),
        ]
    with torch.no_grad():
        model(torch.tensor([tokens]), use_cache=False)
        found = {name: model.lm_head(model.model.norm(state)).softmax(-1) for name, state in states.items()}
    for handle in handles:
        handle.remove()
    return found
