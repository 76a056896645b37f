"""Contrastive Activation Addition to the letter of the paper (Rimsky et al. 2024), on a plain Hugging Face model.

Slow on purpose: one full forward pass per question, answer and letter order, one sequence at a time, no cache,
nothing shared.

1. A question is put as ``Input: {question}\\nResponse: {answer}``, or in the tokenizer's chat template. In the
   choices form the question ends in the two options, and the answer is ``(A)`` or ``(B)``; every pair is put in both
   letter orders.
2. The activation at layer L is the output of block L at the answer letter, or its mean over the answer's tokens.
3. The vector at layer L is the mean over pairs of (positive - negative).
4. Steering adds multiplier * vector to the output of block L at every position from the last token of the prompt on.
"""

import torch


def tokenize(tokenizer, text):
    """Token ids of a text, BOS included; a chat template holds it already."""
    return tokenizer(text, add_special_tokens=tokenizer.chat_template is None)["input_ids"]


def put(tokenizer, question, answer=None):
    """Question and answer in the form for base models, or in the tokenizer's chat template."""
    if tokenizer.chat_template is not None:
        turn = [{"role": "user", "content": question}]
        return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) + (answer or "")
    return f"Input: {question}\nResponse:" + ("" if answer is None else f" {answer}")


def questions_and_answers(pair, form):
    """(question, positive answer, negative answer), once per letter order."""
    if form == "text":
        return [(pair.question, pair.positive, pair.negative)]
    asked = f"{pair.question}\n\nChoices:\n (A) {{}}\n (B) {{}}"
    return [
        (asked.format(pair.positive, pair.negative), "(A)", "(B)"),
        (asked.format(pair.negative, pair.positive), "(B)", "(A)"),
    ]


def first_difference(one, other):
    """First position at which two token lists differ."""
    return next(position for position, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def blocks(model):
    """The transformer blocks of a Hugging Face model: its first list of as many modules as it has layers.

    Blocks for images, in a model that takes them, do not count.
    """
    config, model = model.config.get_text_config(), getattr(model.base_model, "language_model", model)
    n_layers = next(getattr(config, name) for name in ("num_hidden_layers", "n_layer") if hasattr(config, name))
    lists = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    return next(module for module in lists if len(module) == n_layers)


def block_outputs(model, tokens):
    """Output of every block, ``[n_layers, n_tokens, d_model]``."""
    caught = []
    handles = [
        block.register_forward_hook(lambda _, __, output: caught.append(_tensor(output)[0])) for block in blocks(model)
    ]
    with torch.no_grad():
        model(torch.tensor([tokens]), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack(caught)


def answer_activations(model, tokenizer, pair, form):
    """Positive and negative activation of one pair, mean over letter orders, ``[n_layers, d_model]`` each."""
    found = {"positive": [], "negative": []}
    for question, positive, negative in questions_and_answers(pair, form):
        sequences = {
            "positive": tokenize(tokenizer, put(tokenizer, question, positive)),
            "negative": tokenize(tokenizer, put(tokenizer, question, negative)),
        }
        letter = first_difference(*sequences.values())
        n_prompt = len(tokenize(tokenizer, put(tokenizer, question)))
        for side, tokens in sequences.items():
            outputs = block_outputs(model, tokens)
            read = outputs[:, letter] if form == "choices" else outputs[:, n_prompt:].mean(1)
            found[side].append(read)
    return [torch.stack(found[side]).mean(0) for side in ("positive", "negative")]


def steering_vectors(model, tokenizer, pairs, form):
    """Mean over pairs of (positive - negative), ``[n_layers, d_model]``."""
    differences = []
    for pair in pairs:
        positive, negative = answer_activations(model, tokenizer, pair, form)
        differences.append(positive - negative)
    return torch.stack(differences).mean(0)


def steered_outputs(model, tokens, layer, addition, start):
    """Logits ``[n_tokens, d_vocab]`` while ``addition`` is added to block ``layer``'s output from ``start`` on."""

    def add(_, __, output):
        hidden = _tensor(output).clone()
        hidden[:, start:] += addition
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = blocks(model)[layer].register_forward_hook(add)
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    handle.remove()
    return logits


def scores(model, tokenizer, pair, form, layer, addition):
    """Log-probabilities (positive, negative) of the two answers under steering, once per letter order.

    Choices: of the letter. Text: mean per token of the answer.
    """
    found = []
    for question, positive, negative in questions_and_answers(pair, form):
        n_prompt = len(tokenize(tokenizer, put(tokenizer, question)))
        sides = [tokenize(tokenizer, put(tokenizer, question, answer)) for answer in (positive, negative)]
        letter = first_difference(*sides)
        both = []
        for tokens in sides:
            log_probs = steered_outputs(model, tokens, layer, addition, n_prompt - 1).log_softmax(-1)
            asked = [letter] if form == "choices" else range(n_prompt, len(tokens))
            both.append(sum(float(log_probs[position - 1, tokens[position]]) for position in asked) / len(asked))
        found.append(tuple(both))
    return found


def greedy(model, prompt, layer, addition, n_new, ends=()):
    """Greedy tokens after ``prompt`` under steering, each from a full pass over all tokens so far."""
    tokens = list(prompt)
    for _ in range(n_new):
        token = int(steered_outputs(model, tokens, layer, addition, len(prompt) - 1)[-1].argmax())
        if token in ends:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def _tensor(output):
    return output[0] if isinstance(output, tuple) else output
