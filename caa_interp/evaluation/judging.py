"""Judging open-ended answers (Rimsky et al. 2024, section 4).

1. The steered model answers each prompt: greedy, 100 new tokens (:func:`caa_interp.generate`).
2. A strong model reads the behavior's rubric, the prompt and the answer, at temperature 0, and replies with a number
   from 0 to 10.
3. The mean over the prompts is reported for each multiplier (:func:`caa_interp.summarize`).

Where this differs: the text under judgment is fenced off from the judge's instructions; a reply without a number has
no score and is counted; and every reply is kept on disk, so that none is paid for twice.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from caa_interp.errors import CAAError, InputError, ModelError
from caa_interp.evaluation.judge_requests import Judge, Request, UnjudgedError, judge_messages
from caa_interp.evaluation.replies import parse_score
from caa_interp.files import cache_folder
from caa_interp.progress import track

# Failures without a success between them after which the judge, not an answer, is taken to be at fault.
_FAILURES_IN_A_ROW = 5
_BYTES_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True)
class CostEstimate:
    """What judging will take.

    Attributes
    ----------
    n_calls, n_kept
        Replies still to be asked for, and replies that are kept from earlier runs; equal answers count once.
    tokens_in, tokens_out
        Estimated tokens of the calls.
    cost
        In the currency of the prices.
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
    cache: str | Path | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Have a judge rate every answer from 0 to 10.

    Every reply is written to disk as it arrives. When a run breaks off, by an error or by Ctrl-C, another one with
    the same arguments asks for the rest only.

    Parameters
    ----------
    answers
        Result of :func:`caa_interp.generate`, or any table with the columns ``prompt`` and ``answer``.
    rubric
        What the numbers mean, usually a behavior's ``rubric``.
    judge
        :class:`OpenAIJudge`, :class:`LocalJudge`, or any :class:`Judge`.
    cache
        Folder of the kept replies: one JSON file each, named by the sha256 of the judge's identity (model, server,
        parameters) and the messages. Default: ``judge`` in the package's cache folder.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        The answers with the columns ``score`` (0 to 10; NaN where the reply holds no number that can be read in one
        way only), ``reply`` and ``judge``.

    Raises
    ------
    InputError
        If the table, the rubric or the cache folder cannot be used.
    ModelError
        If the judge gave no reply to some answers: refused, or still failing after its retries. All others have been
        judged and are kept, unless nothing but failures came, which ends the run early.

    Warns
    -----
    UserWarning
        If some replies hold no score.
    """
    requests = _requests(answers, rubric, judge, cache)
    unique = {request.path: request for request in requests}
    replies = {path: reply for path, request in unique.items() if (reply := request.kept()) is not None}
    missing = [request for path, request in unique.items() if path not in replies]
    new, failures = _ask(judge, missing, progress)
    replies |= new
    if failures:
        number = next(number for number, request in enumerate(requests) if request.path in failures)
        row, error = answers.index[number], failures[requests[number].path]
        n_left = len(unique) - len(replies) - len(failures)
        left = f" and {n_left} were not asked for" if n_left else ""
        raise ModelError(
            f"judge {judge.name!r}: {len(replies)} of {len(unique)} different answers are judged and kept; "
            f"{len(failures)} failed{left}. The first, in row {row!r}: {error} Call judge_answers again with the "
            "same arguments to ask for the rest only, or leave out rows that cannot be judged."
        ) from error
    said = [replies[request.path] for request in requests]
    result = answers.assign(score=[parse_score(reply) for reply in said], reply=said, judge=judge.name)
    unread = result.loc[result["score"].isna(), "reply"]
    if len(unread):
        warnings.warn(
            f"judge {judge.name!r}: {len(unread)} of {len(result)} replies hold no single number from 0 to 10 and "
            f"have no score, such as {unread.iloc[0][:80]!r}.",
            stacklevel=2,
        )
    return result


def estimate_cost(
    answers: pd.DataFrame,
    rubric: str,
    judge: Judge,
    *,
    price_in: float,
    price_out: float,
    reply_tokens: int = 5,
    cache: str | Path | None = None,
) -> CostEstimate:
    """Estimate what :func:`judge_answers` will cost, before anything is asked.

    Tokens are estimated, since a server's tokenizer is not known here: one for every 4 bytes of text, and 4 a
    message. By the embedded model's tokenizer, and with the package's rubrics, that is a few percent too few; scripts
    other than Latin may take twice as many.

    Parameters
    ----------
    answers, rubric, judge, cache
        As in :func:`judge_answers`. What is kept in the cache costs nothing.
    price_in, price_out
        Price of a million tokens sent and received, in any one currency.
    reply_tokens
        Tokens of one reply; 5 hold a number. A model that thinks before it replies is paid for its thoughts, which
        can be many hundreds.
    """
    for name, value in (("price_in", price_in), ("price_out", price_out), ("reply_tokens", reply_tokens)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name}: {value}; it must be a number of at least 0.")
    unique = {request.path: request for request in _requests(answers, rubric, judge, cache)}
    missing = [request for request in unique.values() if request.kept() is None]
    texts = [message["content"] for request in missing for message in request.content["messages"]]
    tokens_in = sum(math.ceil(len(text.encode()) / _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE for text in texts)
    tokens_out = len(missing) * reply_tokens
    cost = (tokens_in * price_in + tokens_out * price_out) / 1e6
    return CostEstimate(len(missing), len(unique) - len(missing), tokens_in, tokens_out, cost)


def _requests(answers: pd.DataFrame, rubric: str, judge: Judge, cache: str | Path | None) -> list[Request]:
    """Check what was given, and return one request a row."""
    if not isinstance(answers, pd.DataFrame):
        raise InputError(f"answers: {type(answers).__name__}, not a table; give the result of caa_interp.generate.")
    missing = {"prompt", "answer"} - set(answers.columns)
    if missing or answers.empty:
        what = f"columns {sorted(missing)} are missing" if missing else "the table has no rows"
        raise InputError(f"answers: {what}; give the result of caa_interp.generate.")
    for name in ("prompt", "answer"):
        for row, text in answers[name].items():
            if not isinstance(text, str):
                raise InputError(f"answers: {name} of row {row!r} is {text!r}; it must be a text.")
    if not all(hasattr(judge, name) for name in ("name", "identity", "concurrency", "reply")):
        raise InputError(f"judge: {judge!r}; give an OpenAIJudge(model), a LocalJudge(model), or a Judge of your own.")
    if not isinstance(rubric, str) or not rubric.strip():
        raise InputError(f"rubric: {rubric!r}; give a text that says what 0 and 10 mean, such as a behavior's rubric.")
    folder = Path(cache).expanduser() if cache is not None else cache_folder() / "judge"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cache: {folder} cannot be made a folder ({error}). Name another one.") from error
    return [
        Request.of(judge, judge_messages(rubric, prompt, answer), folder)
        for prompt, answer in zip(answers["prompt"], answers["answer"], strict=True)
    ]


def _ask(judge: Judge, requests: Sequence[Request], progress: bool) -> tuple[dict[Path, str], dict[Path, CAAError]]:
    """Ask for replies side by side, keep each as it comes, and give up where nothing but failures comes."""
    given_up, lock, in_a_row = threading.Event(), threading.Lock(), 0

    def ask(request: Request) -> str | None:
        nonlocal in_a_row
        if given_up.is_set():
            return None
        try:
            reply = judge.reply(request.content["messages"])
        except CAAError as error:
            with lock:
                in_a_row += 1
                if not isinstance(error, UnjudgedError) or in_a_row == _FAILURES_IN_A_ROW:
                    given_up.set()
            raise
        with lock:
            in_a_row = 0
        request.keep(reply)
        return reply

    replies: dict[Path, str] = {}
    failures: dict[Path, CAAError] = {}
    pool = ThreadPoolExecutor(judge.concurrency, thread_name_prefix="judge")
    try:
        futures = {pool.submit(ask, request): request.path for request in requests}
        for future in track(as_completed(futures), "Judging", progress, total=len(futures)):
            try:
                reply = future.result()
            except CAAError as error:
                failures[futures[future]] = error
            else:
                if reply is not None:
                    replies[futures[future]] = reply
    finally:
        # After Ctrl-C nothing new is asked for, and what is on its way is still kept, without waiting for it here.
        given_up.set()
        pool.shutdown(wait=False, cancel_futures=True)
    return replies, failures
