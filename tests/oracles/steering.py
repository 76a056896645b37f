"""Interventions to the letter, one position at a time, on a plain Hugging Face model in the layout of Llama.

Slow on purpose: one full forward pass per sequence, no cache, one row of the residual stream after the other.
"""

import math

import torch


def changed(x, v, m, operator):
    """One row x of the residual stream, ``[d_model]``, after an operator with vector v and multiplier m."""
    name, *numbers = operator
    u = v / v.norm()
    along = float(x @ u)
    if name == "add":
        return x + m * v
    if name == "add_keeping_norm":
        return (x + m * v) * x.norm() / (x + m * v).norm()
    if name == "slerp":
        angle = math.acos(along / float(x.norm()))
        arc = max(min(m * float(v.norm() / x.norm()), angle), angle - math.pi)
        return x.norm() * (math.sin(angle - arc) * x / x.norm() + math.sin(arc) * u) / math.sin(angle)
    if name == "ablate":
        return x - m * along * u
    if name == "project to":
        return x + m * (numbers[0] - along) * u
    if name == "cap":
        low, high = numbers
        return x + m * (min(max(along, low), high) - along) * u
    if name == "add if below":
        return x + m * v if along < numbers[0] else x
    raise ValueError(name)


def positions(rule, n_prompt, n_tokens):
    """0-based positions of a sequence of ``n_tokens`` that a rule names."""
    begin, end = {
        "from_last_prompt_token": (n_prompt - 1, n_tokens),
        "answer": (n_prompt, n_tokens),
        "first two of the answer": (n_prompt, n_prompt + 2),
        "prompt": (0, n_prompt),
        "all": (0, n_tokens),
    }.get(rule, (None, None))
    return [at for at in (rule if begin is None else range(begin, end)) if at < n_tokens]


def steered_logits(model, tokens, edits, n_prompt):
    """Logits ``[n_tokens, d_vocab]``; an edit is ``(layer, vector, multiplier, operator, rule)``, applied in turn."""

    def hook(layer):
        def change(_, __, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            for at, vector, multiplier, operator, rule in edits:
                if at == layer:
                    for position in positions(rule, n_prompt, len(tokens)):
                        hidden[0, position] = changed(hidden[0, position], vector.to(hidden), multiplier, operator)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return change

    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(model.model.layers)]
    with torch.no_grad():
        logits = model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits


def greedy(model, prompt, edits, n_new, ends=()):
    """Greedy tokens after ``prompt``, each from a full pass over all tokens so far."""
    tokens = list(prompt)
    for _ in range(n_new):
        token = int(steered_logits(model, tokens, edits, len(prompt))[-1].argmax())
        if token in ends:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


INFINITE = math.inf
