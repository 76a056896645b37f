"""What is asked for, written and read in the explorer: its state, apart from any widget.

1. A :class:`Choice` asks for a strip of trials: one prompt, steered by the same vectors times several factors.
2. A :class:`Session` writes the answers that it does not hold yet, one token at a time.
3. One tree per answer then reads it twice, unsteered and steered, at every token (:meth:`Session.read`).

Whatever was computed is kept, so a choice that was made before is there at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from caa_interp.analysis.effect import effect_lens
from caa_interp.analysis.lens import logit_lens
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.models.readout import token_texts
from caa_interp.prompts.format import PromptFormat
from caa_interp.steering.context import ambient
from caa_interp.steering.generation import Answer, stream_answer
from caa_interp.steering.intervention import Intervention
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions, end_of_thinking
from caa_interp.tree.branches import Branch
from caa_interp.tree.edits import Operator
from caa_interp.tree.run import run_tree
from caa_interp.vectors.vector import SteeringVector

N_WORDS = 8
N_LIKELIEST = 5


class Added(NamedTuple):
    """A vector, by name, that is added at a layer."""

    vector: str
    layer: int
    multiplier: float

    def __str__(self) -> str:
        return f"{self.vector}, layer {self.layer}, multiplier {self.multiplier:+g}"


class Trial(NamedTuple):
    """One answer: to which prompt, and what is added, in turn; nothing for the unsteered one."""

    prompt: str
    added: tuple[Added, ...] = ()

    def __str__(self) -> str:
        return " + ".join(map(str, self.added)) or "Unsteered"


class Choice(NamedTuple):
    """What the controls say: a prompt, what is added, and the factors by which its multipliers are taken."""

    prompt: str
    added: tuple[Added, ...]
    factors: tuple[float, ...]

    @property
    def trials(self) -> list[Trial]:
        """The answers of the strip, each once."""
        scaled = ([one._replace(multiplier=one.multiplier * by) for one in self.added] for by in self.factors)
        return list(dict.fromkeys(Trial(self.prompt, tuple(one for one in some if one.multiplier)) for some in scaled))


@dataclass
class Record:
    """An answer so far, where in its text each token ends, and whether it is complete.

    Once it is read, ``tokens`` has a row per token, see :attr:`caa_interp.explorer.widget.Explorer.tokens`.
    """

    answer: Answer = field(default_factory=lambda: Answer("", (), False))
    ends: list[int] = field(default_factory=list)
    written: bool = False
    tokens: pd.DataFrame | None = None


class Session:
    """Everything that was written and read; ``pairs`` are those of the effect lens, or None for own answers."""

    def __init__(
        self,
        model: Any,
        vectors: Mapping[str, SteeringVector],
        pairs: Sequence[ContrastPair] | None = None,
        operator: Operator = add,
        positions: Positions = "from_last_prompt_token",
    ) -> None:
        self.model, self.vectors, self.pairs = model, dict(vectors), pairs
        self.applied: dict[str, Any] = {"operator": operator, "positions": positions}
        self.records: dict[Trial, Record] = {}
        self._lenses: dict[tuple[str, int], pd.DataFrame] = {}
        self._effects: dict[tuple[str, int, str | None], pd.DataFrame] = {}

    def write(self, trials: Iterable[Trial]) -> Iterator[Trial]:
        """Write what is not complete from its beginning, a token of each answer in turn; yields whose it was."""
        missing = [trial for trial in trials if not self.is_written(trial)]
        streams = {trial: stream_answer(self.model, trial.prompt, self._interventions(trial)) for trial in missing}
        self.records |= {trial: Record() for trial in missing}
        while streams:
            for trial, stream in list(streams.items()):
                record = self.records[trial]
                if (answer := next(stream, None)) is None:
                    record.written = True
                    del streams[trial]
                    continue
                if len(answer.tokens) > len(record.ends):
                    record.ends.append(len(answer.text))
                elif record.ends:  # the whole text, which may end in part of a character
                    record.ends[-1] = len(answer.text)
                record.answer = answer
                yield trial

    def is_written(self, trial: Trial) -> bool:
        """Whether an answer is complete."""
        return trial in self.records and self.records[trial].written

    def read(self, trial: Trial) -> None:
        """Read a complete answer, unsteered and steered, in one tree."""
        record = self.records[trial]
        if not record.answer.tokens:
            return
        form = PromptFormat.of(self.model)
        prompt = form.tokens(trial.prompt, "", None, "prompt").tokens
        tokens = (*prompt, *record.answer.tokens)
        places = range(len(prompt), len(tokens))
        start = (len(prompt), end_of_thinking(form, tokens, len(prompt), growing=True))
        steering = self._interventions(trial)
        with ambient(self.model) as outer:
            every = [tuple(one.edit(*start) for one in (*outer, *several)) for several in ((), steering)]
            result = run_tree(
                self.model,
                [Branch(tokens, edits, reads=(at,), averaged=(at - 1,)) for edits in every for at in places],
                [one.layer for one in steering[:1]],
            )
        ids = list(record.answer.tokens)
        columns: dict[str, Any] = {"position": places, "token": token_texts(form.tokenizer, ids), "token_id": ids}
        for name, some in (("_unsteered", slice(len(ids))), ("", slice(len(ids), None))):
            found = result.distributions[some]
            columns[f"log_prob{name}"] = [float(one[0, at]) for one, at in zip(found, ids, strict=True)]
            columns[f"likeliest{name}"] = [_likeliest(form.tokenizer, one[1]) for one in found]
        record.tokens = pd.DataFrame(columns)
        record.tokens["change"] = record.tokens["log_prob"] - record.tokens["log_prob_unsteered"]
        record.tokens["cosine"] = float("nan")
        if steering:
            residual, direction = result.residual[: len(ids), 0].double(), steering[0].vector.at(steering[0].layer)
            record.tokens["cosine"] = (residual @ direction.double() / residual.norm(dim=1) / direction.norm()).numpy()

    def lens(self, choice: Choice) -> pd.DataFrame:
        """Logit lens of every chosen vector at its layer."""
        for name, layer, _ in choice.added:
            if (name, layer) not in self._lenses:
                lens = logit_lens(self.model, self.vectors[name], layers=layer, top_k=N_WORDS)
                self._lenses[name, layer] = lens.assign(vector=name)
        return pd.concat(self._lenses[key] for key in dict.fromkeys(one[:2] for one in choice.added))

    def effect(self, choice: Choice) -> pd.DataFrame:
        """Effect lens of every chosen vector at its layer, over the pairs or the prompt's own answer."""
        texts: Any = self.pairs or [choice.prompt]
        keys = dict.fromkeys((one.vector, one.layer, None if self.pairs else choice.prompt) for one in choice.added)
        for key in keys.keys() - self._effects.keys():
            vector = {key[0]: self.vectors[key[0]]}
            asked: dict[str, Any] = {"layers": key[1], **self.applied}
            self._effects[key] = effect_lens(
                self.model, vector, texts, top_k=N_WORDS, words_only=True, progress=False, **asked
            )
        return pd.concat(self._effects[key] for key in keys)

    def table(self, trials: Iterable[Trial]) -> pd.DataFrame:
        """Answers so far; layer and multiplier are those of the first vector that is added."""
        rows = []
        for trial in trials:
            if (record := self.records.get(trial)) and (record.written or record.ends):
                first = trial.added[0] if trial.added else ("unsteered", None, 0.0)
                answer = record.answer
                rows.append((trial.prompt, str(trial), *first, answer.text, len(answer.tokens), answer.finished))
        columns = ["prompt", "steering", "vector", "layer", "multiplier", "answer", "n_tokens", "finished"]
        return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})

    def _interventions(self, trial: Trial) -> list[Intervention]:
        return [
            Intervention(self.vectors[one.vector], one.layer, one.multiplier, **self.applied) for one in trial.added
        ]


def _likeliest(tokenizer: Any, probabilities: Any) -> str:
    """Tokens with the highest of the probabilities ``[d_vocab]``, a line each."""
    values, ids = probabilities.topk(N_LIKELIEST)
    texts = token_texts(tokenizer, ids.tolist())
    return "\n".join(f"{value:.3f} {text}" for value, text in zip(values.tolist(), texts, strict=True))
