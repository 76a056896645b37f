"""Batch files: a judge's requests to hand in all at once, and its replies, which come back hours later at less cost.

1. Write what is still to be asked in OpenAI's batch format, one JSON object a line. Its ``custom_id`` is the key under
   which the reply will be kept.
2. Hand the file to the server (OpenAI's batch API, ``vllm run-batch``), and fetch the result.
3. Read it into the kept replies. :func:`caa_interp.judge_answers` then finds them there and asks for nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from caa_interp.errors import InputError, ModelError, check_ending
from caa_interp.evaluation.judge_requests import Judge, Request, by_file, check_writable, requests_of
from caa_interp.evaluation.judges import OpenAIJudge, reply_text
from caa_interp.files import write_atomically


def write_judge_batch(
    answers: pd.DataFrame,
    rubric: str,
    judge: OpenAIJudge,
    path: str | Path,
    *,
    coherence: bool = False,
    scale: int = 10,
    wordings: int = 1,
    cache: str | Path | None = None,
) -> int:
    """Write the requests that are still to be answered into a batch file; nothing is sent.

    Parameters
    ----------
    answers, rubric, judge, coherence, scale, wordings, cache
        As in :func:`caa_interp.judge_answers`, to which the same are given afterwards. What it will cost is said by
        :func:`caa_interp.evaluation.estimate_cost`, with the server's prices for batches.
    path
        File to write, ``.jsonl``. It is written as a whole, and replaced if it exists.

    Returns
    -------
    int
        Number of requests in the file; equal ones count once. If it is 0, all replies are kept and no file is written.
        OpenAI takes at most 50,000 in a file: give part of the answers then.
    """
    path = Path(path)
    check_ending(path, ".jsonl")
    if path.is_dir():
        raise InputError(f"path: {path} is a folder. Name a file to write.")
    unique = _by_key(answers, rubric, judge, coherence, scale, wordings, cache)
    missing = {key: request.content for key, request in unique.items() if request.kept() is None}
    lines = [
        {
            "custom_id": key,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": content["judge"]["model"],
                "messages": content["messages"],
                **content["judge"]["parameters"],
            },
        }
        for key, content in missing.items()
    ]
    if lines:
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return len(lines)


def read_judge_batch(
    path: str | Path,
    answers: pd.DataFrame,
    rubric: str,
    judge: OpenAIJudge,
    *,
    coherence: bool = False,
    scale: int = 10,
    wordings: int = 1,
    cache: str | Path | None = None,
) -> int:
    """Keep the replies in the result of a batch, so that :func:`caa_interp.judge_answers` does not ask for them.

    Reading a file again changes nothing: a reply that is kept stays as it is.

    Parameters
    ----------
    path
        Result of a batch, or its file of errors: one JSON object a line, in any order.
    answers, rubric, judge, coherence, scale, wordings, cache
        As given to :func:`caa_interp.evaluation.write_judge_batch`.

    Returns
    -------
    int
        Number of replies in the file.

    Raises
    ------
    InputError
        If a line is no result of a request that these arguments make. No reply is kept then.
    ModelError
        If some requests failed. The replies to the others are kept, and another batch holds only the rest.
    """
    path, unique = Path(path), _by_key(answers, rubric, judge, coherence, scale, wordings, cache)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not at other separators, which a reply may hold
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"path: {path} cannot be read ({error}). Give the result of a batch, .jsonl.") from error
    replies: dict[str, str] = {}
    failed: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            result = json.loads(line)
            key, fault, response = result["custom_id"], result.get("error"), result.get("response") or {}
            if fault or response.get("status_code") != 200:
                failed[key] = str(fault or response.get("body"))[:200]
            else:
                choice = response["body"]["choices"][0]
                message, ended = choice["message"], choice.get("finish_reason")
                replies[key] = reply_text(message.get("content"), message.get("refusal"), ended)
        except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise InputError(
                f"path: line {number} of {path} is no result of a chat completion ({type(error).__name__}: {error}). "
                "Fetch the file again; no reply in it was kept."
            ) from error
        if key not in unique:
            raise InputError(
                f"path: line {number} of {path} is about {str(key)[:70]!r}, no request that these arguments make. Give "
                "the answers, rubric, judge and options that the batch was written with; no reply in it was kept."
            )
    missing = {key: reply for key, reply in replies.items() if unique[key].kept() is None}
    check_writable([unique[key] for key in missing])
    for key, reply in missing.items():
        unique[key].keep(reply)
    if failed := {key: said for key, said in failed.items() if unique[key].kept() is None}:
        raise ModelError(
            f"path: {len(replies)} replies in {path} are kept, and {len(failed)} requests failed, such as "
            f"{next(iter(failed))!r}: {next(iter(failed.values()))}. Write another batch, which holds only what is "
            "missing, or let judge_answers ask."
        )
    return len(replies)


def _by_key(answers: pd.DataFrame, rubric: str, judge: Judge, *asked: Any) -> dict[str, Request]:
    """Each different request once, by the name of its file."""
    if not isinstance(judge, OpenAIJudge):
        raise InputError(f"judge: {type(judge).__name__}; a batch is for a server. Give an OpenAIJudge(model).")
    return {path.stem: request for path, request in by_file(requests_of(answers, rubric, judge, *asked)).items()}
