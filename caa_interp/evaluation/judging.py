"""Judging open-ended answers (Rimsky et al. 2024, section 4).

1. The steered model answers each prompt: greedy, 100 new tokens (:func:`caa_interp.generate`).
2. A strong model reads the behavior's rubric, the prompt and the answer, at temperature 0, and rates the answer from
   0 to 10.
3. The mean over the prompts is reported for each multiplier (:func:`caa_interp.summarize`).

Where this differs: the text under judgment is fenced off from the judge's instructions; the judge replies in JSON; a
reply without a score is counted, not guessed; and every reply is kept on disk, so that none is paid for twice.
Coherence, if it is asked for, is rated by a request of its own (as in Chen et al. 2025, "Persona Vectors", section 2),
so that it leaves the score as it is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.errors import CAAError, InputError, ModelError, is_number, warn
from caa_interp.evaluation.judge_requests import (
    Judge,
    Request,
    UnjudgedError,
    by_file,
    check_writable,
    parse_score,
    requests_of,
)
from caa_interp.evaluation.ratings import unjudged
from caa_interp.progress import track


@dataclass(frozen=True)
class CostEstimate:
    """What judging will take: calls and their estimated tokens, and the cost in the currency of the prices.

    ``n_calls`` replies are still to be asked for, and ``n_kept`` are kept from earlier runs; equal requests count once.
    """

    n_calls: int
    n_kept: int
    tokens_in: int
    tokens_out: int
    cost: float


def judge_answers(
    answers: pd.DataFrame,
    rubric: str,
    judge: Judge,
    *,
    coherence: bool = False,
    scale: int = 10,
    wordings: int = 1,
    cache: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Have a judge rate every answer, and how well it holds together.

    Every reply is written to disk as it arrives. If a run is cut short by an error or Ctrl-C, another one with
    the same arguments asks only for the rest.

    Parameters
    ----------
    answers
        Result of :func:`caa_interp.generate`, or any table with the columns ``prompt`` and ``answer``.
    rubric
        What the numbers mean, usually a behavior's ``rubric``.
    judge
        :class:`OpenAIJudge`, :class:`LocalJudge`, or any :class:`Judge`.
    coherence
        Whether coherence is rated, too: a second request for each answer, with a rubric of this package (fluent, on
        topic, not broken). The scores, and the replies kept for them, are the same with and without it.
    scale
        10 (default), as in the paper, or 100: the ratings' upper end. If the rubric does not name 100, its numbers are
        taken to run from 0 to 10, and the judge is told to give ten times that.
    wordings
        1 (default), or 2 or 3: in how many ways each answer is put before the judge. The rubric stays the same; what
        is said around it, and the order of rubric, answer and form of the reply, differ. A rating is the mean of those
        that could be read.
    cache
        Folder of the kept replies: one JSON file each, named by the sha256 of the judge's identity (model, server,
        parameters) and the messages. Default: ``judge`` in the package's cache folder.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        The answers with more columns, which take the place of those of an earlier judgment:

        - ``score``: 0 to ``scale``; NaN, and a warning, where the reply does not hold one such number as ``"score"``
          in JSON;
        - ``reply``: the judge's words; ``judge``: its name; ``scale``: as given;
        - with ``coherence``: ``coherence``, 0 to ``scale``, read in the same way from ``coherence_reply``;
        - with several ``wordings``: the rating under each, ``score_1``, ``score_2`` and so on, and ``score_spread``,
          the largest minus the smallest of them; the same of ``coherence``. A reply has a line for each wording.

    Raises
    ------
    InputError
        If the table, the rubric or the cache folder cannot be used.
    ModelError
        If the judge gave no reply to some answers. If it refuses one, as a content filter may, the
        others are still judged; after any other error, retries included, no more are asked for. Replies are kept.
    """
    asked = requests_of(answers, rubric, judge, coherence, scale, wordings, cache)
    unique = by_file(asked)
    outcomes: dict[Path, str | BaseException] = {}
    outcomes |= {path: reply for path, request in unique.items() if (reply := request.kept()) is not None}
    missing = [request for path, request in unique.items() if path not in outcomes]
    check_writable(missing)
    outcomes |= track(_ask(judge, missing), "Judging", progress, total=len(missing))
    found = [
        (row, outcomes.get(request.path))
        for rows in asked.values()
        for row, requests in zip(answers.index, rows, strict=True)
        for request in requests
    ]
    failed = [(row, outcome) for row, outcome in found if isinstance(outcome, BaseException)]
    if failed:
        # What ended the run, if anything did, rather than what failed before.
        row, error = next((one for one in failed if not isinstance(one[1], UnjudgedError)), failed[0])
        n_failed = sum(isinstance(outcome, BaseException) for outcome in outcomes.values())
        n_left = len(unique) - len(outcomes)
        said = error if isinstance(error, CAAError) else f"{type(error).__name__}: {error}."
        raise ModelError(
            f"judge {judge.name!r}: {len(outcomes) - n_failed} of {len(unique)} different requests are answered and "
            f"kept, {n_failed} failed and {n_left} were not sent. In row {row!r}: {said} Call judge_answers again "
            "with the same arguments to ask for the rest only, or leave out rows that cannot be judged."
        ) from error
    result, unread = unjudged(answers).assign(score=np.nan, reply="", judge=judge.name, scale=scale), []
    for measure, rows in asked.items():
        replies = pd.DataFrame([[outcomes[request.path] for request in requests] for requests in rows], answers.index)
        ratings = replies.map(parse_score, scale=scale)
        unread += replies.to_numpy()[ratings.isna().to_numpy()].tolist()
        result = result.assign(**_rated(measure, replies, ratings))
    if unread:
        warn(
            f"judge {judge.name!r}: {len(unread)} of {len(found)} replies hold no single score from 0 to {scale} in "
            f"JSON and get NaN, such as {unread[0][:80]!r}."
        )
    return result


def estimate_cost(
    answers: pd.DataFrame,
    rubric: str,
    judge: Judge,
    *,
    price_in: float,
    price_out: float,
    reply_tokens: int = 8,
    coherence: bool = False,
    scale: int = 10,
    wordings: int = 1,
    cache: str | Path | None = None,
) -> CostEstimate:
    """Estimate what :func:`judge_answers` will cost, before anything is asked.

    Tokens are estimated, since a server's tokenizer is not known here: one for every 4 bytes of text, and 4 a
    message. By the embedded model's tokenizer, and with the package's rubrics, that is a few percent too few; scripts
    other than Latin may take twice as many.

    Parameters
    ----------
    answers, rubric, judge, coherence, scale, wordings, cache
        As in :func:`judge_answers`. What is kept in the cache costs nothing.
    price_in, price_out
        Price of a million tokens sent and received, in any one currency.
    reply_tokens
        Tokens of one reply; 8 hold ``{"score": 7}``. Thoughts before a reply, which are paid for, can take hundreds.
    """
    for name, value in (("price_in", price_in), ("price_out", price_out), ("reply_tokens", reply_tokens)):
        if not is_number(value) or value < 0:
            raise InputError(f"{name}: {value!r}; it must be a number of at least 0.")
    unique = by_file(requests_of(answers, rubric, judge, coherence, scale, wordings, cache))
    missing = [request for request in unique.values() if request.kept() is None]
    texts = [message["content"] for request in missing for message in request.content["messages"]]
    tokens_in = sum(math.ceil(len(text.encode(errors="replace")) / 4) + 4 for text in texts)
    tokens_out = len(missing) * reply_tokens
    cost = (tokens_in * price_in + tokens_out * price_out) / 1e6
    return CostEstimate(len(missing), len(unique) - len(missing), tokens_in, tokens_out, cost)


def _rated(measure: str, replies: pd.DataFrame, ratings: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """Columns of a measure, from replies and ratings with a column for each wording."""
    columns: dict[str, pd.Series[Any]] = {measure: ratings.mean(axis=1)}
    columns["reply" if measure == "score" else f"{measure}_reply"] = replies.agg("\n".join, axis=1)
    if ratings.shape[1] > 1:
        columns |= {f"{measure}_{number}": rated for number, (_, rated) in enumerate(ratings.items(), 1)}
        columns[f"{measure}_spread"] = ratings.max(axis=1) - ratings.min(axis=1)
    return columns


def _ask(judge: Judge, requests: Sequence[Request]) -> Iterator[tuple[Path, str | BaseException]]:
    """Ask for replies side by side; after an error that meets all, requests not yet asked are missing.

    Only requests that have a thread are handed out, so after an error or Ctrl-C nothing more is sent. What is under
    way by then is kept by its own thread; after an error, before the error is reported.
    """

    def ask(request: Request) -> str:
        reply = judge.reply(request.content["messages"])
        if not isinstance(reply, str):
            raise ModelError(f"its reply is {reply!r}; reply() must return a text.")
        return request.keep(reply)

    left, under_way = deque(requests), dict[Future[str], Path]()
    pool = ThreadPoolExecutor(judge.concurrency, thread_name_prefix="judge")
    try:
        while left or under_way:
            while left and len(under_way) < judge.concurrency:
                request = left.popleft()
                under_way[pool.submit(ask, request)] = request.path
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                if not isinstance(error, UnjudgedError | None):
                    left.clear()
                yield under_way.pop(future), error or future.result()
    finally:
        pool.shutdown(wait=False)
