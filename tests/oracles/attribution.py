"""Through which parts and positions a vector acts, to the letter, on plain Hugging Face models.

Slow on purpose: one full forward pass for every sequence, patch and position, with nothing shared.
"""

import torch

from tests.oracles.definition import blocks, put, questions_and_answers, tokenize

# Where a kind of model keeps attention, the matrix after its heads, final norm, and how that matrix is stored.
PLACES = {
    "llama": ("self_attn", "o_proj", "model.norm", False),
    "gpt2": ("attn", "c_proj", "transformer.ln_f", True),
    "gpt_neox": ("attention", "dense", "gpt_neox.final_layer_norm", False),
}


class Pass:
    """One forward pass: log-probabilities, states after blocks, and what components write, at every position.

    ``edits`` are triples (layer, vector ``[d_model]``, positions); ``restored`` maps parts (layer, name, head or None)
    to what they write or, for a head, what it hands to the output matrix, from position ``start`` on.
    """

    def __init__(self, model, tokens, edits=(), restored=None, start=0):
        attention, matrix, _, _ = PLACES[model.config.model_type]
        self.written, self.heads, self.states, handles = {}, {}, {}, []
        restored = restored or {}

        def first(output):
            return (output[0] if isinstance(output, tuple) else output).clone()

        def again(output, changed):
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        for layer, block in enumerate(blocks(model)):

            def after_block(_, __, output, layer=layer):
                hidden = first(output)
                for at, vector, positions in edits:
                    for position in positions if at == layer else ():
                        hidden[0, position] += vector
                self.states[layer] = hidden[0]
                return again(output, hidden)

            def before_matrix(_, args, layer=layer):
                hidden = args[0].clone()
                width = hidden.shape[-1] // model.config.num_attention_heads
                for (at, _name, head), value in restored.items():
                    if at == layer and head is not None:
                        hidden[0, start:, head * width : (head + 1) * width] = value[start:, head]
                self.heads[layer] = hidden[0].unflatten(-1, (-1, width))
                return (hidden,)

            def after(name, layer=layer):
                def hook(_, __, output):
                    hidden = first(output)
                    if (layer, name, None) in restored:
                        hidden[0, start:] = restored[layer, name, None][start:]
                    self.written[layer, name] = hidden[0]
                    return again(output, hidden)

                return hook

            module = getattr(block, attention)
            handles += [
                block.register_forward_hook(after_block),
                getattr(module, matrix).register_forward_pre_hook(before_matrix),
                module.register_forward_hook(after("attention")),
                block.mlp.register_forward_hook(after("MLP")),
            ]
        with torch.no_grad():
            logits = model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        self.log_probs = logits.log_softmax(-1)


def sequences(tokenizer, pair, form="text"):
    """For each letter order: (tokens, length of the prompt, positions and tokens asked, their weights) per sequence."""
    found = []
    for question, positive, negative in questions_and_answers(pair, form):
        n_prompt = len(tokenize(tokenizer, put(tokenizer, question)))
        sides = [tokenize(tokenizer, put(tokenizer, question, answer)) for answer in (positive, negative)]
        order = []
        for tokens, sign in zip(sides, (1, -1), strict=True):
            letter = next(at for at, (a, b) in enumerate(zip(*sides, strict=False)) if a != b)
            asked = [letter] if form == "choices" else range(n_prompt, len(tokens))
            targets = [(at - 1, tokens[at]) for at in asked]
            order.append((tokens[: asked[-1]], n_prompt, targets, sign / len(asked)))
        found.append(order)
    return found


def score(log_probs, targets, weight):
    return weight * sum(float(log_probs[at, token]) for at, token in targets)


def written_by(model, one, part):
    """What a part writes to the residual stream in a pass, ``[n_tokens, d_model]``."""
    layer, name, head = part
    if head is None:
        return one.written[layer, name]
    attention, matrix, _, transposed = PLACES[model.config.model_type]
    weight = getattr(getattr(blocks(model)[layer], attention), matrix).weight
    weight = weight.T if transposed else weight
    width = one.heads[layer].shape[-1]
    return one.heads[layer][:, head] @ weight[:, head * width : (head + 1) * width].T


def contribution(model, unsteered, steered, part, targets, weight, n_points=200):
    """Integral of the score's slope along ``part``, over the straight line between two last states: a midpoint rule."""
    norm, places = model.get_submodule(PLACES[model.config.model_type][2]), [at for at, _ in targets]
    before, after, step = unsteered[places], steered[places], 1e-6
    shares = (torch.arange(n_points) + 0.5)[:, None, None] / n_points
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            states = before + shares * (after - before) + sign * step * part[places]
            log_probs = model.get_output_embeddings()(norm(states)).log_softmax(-1)
        ends.append(sum(log_probs[:, row, token] for row, (_, token) in enumerate(targets)))
    return weight * float((ends[0] - ends[1]).mean()) / (2 * step)


def attribution(model, tokenizer, pair, layer, vector, parts, form="text", below=()):
    """Effect, direct contribution, and contribution and restored of every part, of one pair and all of ``vector``.

    ``below`` are edits of both passes, pairs (layer, vector), at the same positions.
    """
    effect, direct = 0.0, 0.0
    contributions, restored = dict.fromkeys(parts, 0.0), dict.fromkeys(parts, 0.0)
    orders = sequences(tokenizer, pair, form)
    last = len(blocks(model)) - 1
    for tokens, n_prompt, targets, weight in [one for order in orders for one in order]:
        weight = weight / len(orders)
        places = range(n_prompt - 1, len(tokens))
        always = [(at, added, places) for at, added in below]
        edits = [*always, (layer, vector, places)]
        unsteered, steered = Pass(model, tokens, always), Pass(model, tokens, edits)
        line = (unsteered.states[last], steered.states[last])
        whole = score(steered.log_probs, targets, weight)
        effect += whole - score(unsteered.log_probs, targets, weight)
        added = steered.states[layer] - unsteered.states[layer]
        direct += contribution(model, *line, added, targets, weight)
        for part in parts:
            change = written_by(model, steered, part) - written_by(model, unsteered, part)
            contributions[part] += contribution(model, *line, change, targets, weight)
            at, name, head = part
            value = unsteered.written[at, name] if head is None else unsteered.heads[at]
            patched = Pass(model, tokens, edits, {part: value}, n_prompt - 1)
            restored[part] += whole - score(patched.log_probs, targets, weight)
    return effect, direct, contributions, restored


def single_positions(model, tokenizer, pair, layer, vector, n_tokens):
    """Effects of one pair's places, ``[n_tokens + 3]``; None where an answer has no such position."""
    (order,) = sequences(tokenizer, pair)
    found = []
    for place in range(n_tokens + 3):
        total, there = 0.0, True
        for tokens, n_prompt, targets, weight in order:
            first = n_prompt - 1
            positions = list(range(first, len(tokens)))
            if place:
                positions = positions[place - 1 : place] if place < n_tokens + 2 else positions[n_tokens + 1 :]
            there &= bool(positions)
            steered, unsteered = Pass(model, tokens, [(layer, vector, positions)]), Pass(model, tokens)
            total += score(steered.log_probs, targets, weight) - score(unsteered.log_probs, targets, weight)
        found.append(total if there else None)
    return found


def pulse(model, tokenizer, pair, layer, vector, distance, read_layers, below=()):
    """Divergence, and projection at every layer, so far after a pulse: means over the answers that are long enough.

    ``below`` are edits of both passes, pairs (layer, vector), from the last prompt token on.
    """
    (order,) = sequences(tokenizer, pair)
    rows = []
    for tokens, n_prompt, _, _ in order:
        at = n_prompt - 1 + distance
        if at < len(tokens):
            always = [(lower, added, range(n_prompt - 1, len(tokens))) for lower, added in below]
            edits = [*always, (layer, vector, [n_prompt - 1])]
            steered, unsteered = Pass(model, tokens, edits), Pass(model, tokens, always)
            p, q = unsteered.log_probs[at], steered.log_probs[at]
            rows.append([float((p.exp() * (p - q)).sum())])
            for read in read_layers:
                change = steered.states[read][at] - unsteered.states[read][at]
                rows[-1].append(float(change @ vector / vector.norm() / vector.norm()))
    return torch.tensor(rows).mean(0).tolist() if rows else None
