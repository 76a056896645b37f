"""What a vector makes the model say, to the letter, on a plain Hugging Face model in the layout of Llama.

Slow on purpose: one full forward pass per sequence and multiplier, whole distributions at every position, all kept.
"""

import torch

from tests.oracles.steering import greedy, steered_logits


def places(tokens, n_prompt, at):
    """Positions that predict the answer's tokens, the first of them, or the later ones."""
    every = list(range(n_prompt - 1, len(tokens) - 1))
    return {"answer": every, "first": every[:1], "later": every[1:]}[at]


def distributions(model, sequences, edits, at, multiplier):
    """Log-probabilities ``[n_places, d_vocab]`` of an item of ``(tokens, n_prompt)`` under scaled edits."""
    rows = []
    for tokens, n_prompt in sequences:
        scaled = [(layer, vector, multiplier * own, operator, rule) for layer, vector, own, operator, rule in edits]
        logits = steered_logits(model, tokens, scaled if multiplier else [], n_prompt)
        rows.append(logits.log_softmax(-1)[places(tokens, n_prompt, at)])
    return torch.cat(rows)


def effects(model, items, edits, multipliers, at="answer"):
    """Of every item: effect and change of probability, ``[n_items, d_vocab]`` each, and unsteered probability."""
    found = []
    for sequences in items:
        low, high = (distributions(model, sequences, edits, at, multiplier) for multiplier in multipliers)
        step = multipliers[1] - multipliers[0]
        change = (high.mean(0) - low.mean(0)) / step
        unsteered = distributions(model, sequences, edits, at, 0).exp().mean(0)
        found.append((change - change.mean(), (high.exp().mean(0) - low.exp().mean(0)) / step, unsteered))
    return [torch.stack(part) for part in zip(*found, strict=True)]


def steered_greedy(model, prompt, n_new, ends):
    """The unsteered model's greedy answer, without its end."""
    return greedy(model, prompt, [], n_new, ends)
