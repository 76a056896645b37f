"""A conversation with a plain Hugging Face model in the layout of Llama, whose key-value cache is kept to the letter.

Slow on purpose: one token a pass; a token is steered when it is read, and is never read again.
"""

import copy

import torch
from transformers import DynamicCache


class Chat:
    """What was said, as a cache. ``vector`` is added after block ``layer`` to tokens that are read as steered."""

    def __init__(self, model, layer, vector):
        self.model, self.layer, self.vector = model, layer, vector
        self.cache, self.tokens = DynamicCache(), []

    def read(self, tokens, steered):
        """Read tokens one by one; log-probabilities of what follows each, ``[n_tokens, d_vocab]``."""

        def add(_, __, output):
            return (output[0] + self.vector, *output[1:]) if isinstance(output, tuple) else output + self.vector

        rows = []
        for token, change in zip(tokens, steered, strict=True):
            handles = [self.model.model.layers[self.layer].register_forward_hook(add)] if change else []
            with torch.no_grad():
                rows.append(
                    self.model(torch.tensor([[token]]), past_key_values=self.cache, use_cache=True).logits[0, -1]
                )
            for handle in handles:
                handle.remove()
            self.tokens.append(token)
        return torch.stack(rows).double().log_softmax(-1)

    def score(self, prompt, answer, steered):
        """Mean log-probability per token of an answer to a prompt; nothing of either stays."""
        branch = copy.deepcopy(self.cache)
        ask = [False] * (len(prompt) - 1)
        rows = self.read([*prompt, *answer], [*ask, *[steered] * (1 + len(answer))])
        self.tokens = self.tokens[: -len(prompt) - len(answer)]
        self.cache = branch
        said = rows[len(prompt) - 1 : -1]
        return float(said[range(len(answer)), list(answer)].mean())

    def answer(self, prompt, steered, n_new, ends):
        """Read a prompt, and write greedily; prompt and answer stay."""
        row = self.read(prompt, [*[False] * (len(prompt) - 1), steered])[-1]
        written = []
        while len(written) < n_new and int(row.argmax()) not in ends:
            written.append(int(row.argmax()))
            row = self.read(written[-1:], [steered])[-1]
        return written
