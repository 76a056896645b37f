"""Two judges: a model on an OpenAI-compatible server, and a loaded TransformerLens model."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from caa_interp.errors import InputError, ModelError, check_count, check_installed, is_number
from caa_interp.evaluation.judge_requests import Messages, UnjudgedError
from caa_interp.models.access import is_bridge, model_id, model_revision, steered
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import common_prefix
from caa_interp.tree import Branch, run_tree

_CUE = '{"score":'


class OpenAIJudge:
    """A judge asked through OpenAI's chat completions API, or any server that speaks it, such as vLLM.

    Needs the ``openai`` package: ``pip install 'caa-interp[judge]'``. The server is asked to hold the reply to JSON
    (``response_format``); one that refuses this parameter is asked again and from then on without it.

    Parameters
    ----------
    model
        The server's name of the model. The paper used GPT-4.
    base_url
        Address of the server, such as ``"http://localhost:8000/v1"``. Default: ``$OPENAI_BASE_URL``, else OpenAI's.
    api_key
        Key of the server. Default: ``$OPENAI_API_KEY``; but a server that ``base_url`` names gets only one given here.
    concurrency
        Number of requests under way at once.
    max_retries
        How often ``openai``'s client repeats a request after a lost connection, a timeout, a rate limit (429) or a
        server's error (5xx), with a wait of half a second to 8 seconds, or as long as the server asks for.
    timeout
        Seconds without a word from the server after which a request counts as failed.
    temperature
        0 (default), as in the paper. None leaves it to the server, for models that take no temperature.
    max_tokens
        Longest reply; ``{"score": 7}`` needs about 8. None sets no limit, for models that think before they reply.

    Raises
    ------
    MissingDependencyError
        If ``openai`` is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 8,
        max_retries: int = 5,
        timeout: float = 60.0,
        temperature: float | None = 0.0,
        max_tokens: int | None = 32,
    ) -> None:
        if not isinstance(model, str) or not model.strip():
            raise InputError(f"model: {model!r}; give the name by which the server knows the judge.")
        if base_url is not None and not str(base_url).startswith(("http://", "https://")):
            raise InputError(f"base_url: {base_url!r}; give an address such as 'http://localhost:8000/v1'.")
        counts = {"concurrency": (concurrency, 1), "max_retries": (max_retries, 0), "max_tokens": (max_tokens, 1)}
        for name, (value, least) in counts.items():
            if name != "max_tokens" or value is not None:
                check_count(name, value, least)
        if not is_number(timeout) or timeout <= 0:
            raise InputError(f"timeout: {timeout!r}; it must be a positive number of seconds.")
        if temperature is not None and (not is_number(temperature) or temperature < 0):
            raise InputError(f"temperature: {temperature!r}; it must be a number of at least 0, or None.")
        check_installed("openai", "OpenAIJudge", "'caa-interp[judge]'")
        import openai

        key = "none" if base_url is not None and api_key is None else api_key  # the client insists on one
        try:
            self._client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=max_retries, timeout=timeout)
        except openai.OpenAIError as error:
            raise InputError(f"api_key: there is none. Give one, or set OPENAI_API_KEY. ({error})") from error
        self.name = model
        self.concurrency = concurrency
        given = {"temperature": temperature, "max_tokens": max_tokens, "response_format": {"type": "json_object"}}
        self._parameters = {name: value for name, value in given.items() if value is not None}
        server = self._client.base_url
        # Without a user's name, password and query, which may be secret.
        self.identity: dict[str, Any] = {
            "model": model,
            "base_url": f"{server.scheme}://{server.netloc.decode()}{server.path}",
            "parameters": self._parameters,
        }

    def reply(self, messages: Messages) -> str:
        """Ask the server; a reply that was cut off for its length ends in an ellipsis."""
        import openai

        where = f"{self.name!r} at {self.identity['base_url']}"
        parameters = self._parameters  # as they are now: another thread may change them
        response: Any = "what is not JSON"
        create: Any = self._client.chat.completions.create
        try:
            response = create(model=self.name, messages=list(messages), **parameters)
            choice = response.choices[0]
            message, ended = choice.message, choice.finish_reason
            return reply_text(message.content, getattr(message, "refusal", None), ended)
        except openai.APIError as error:
            status = getattr(error, "status_code", None)
            if status in (400, 422) and "response_format" in parameters and "response_format" in str(error.body):
                self._parameters = {name: value for name, value in parameters.items() if name != "response_format"}
                return self.reply(messages)
            detail = "" if " - " in str(error) else error.body or error.__cause__ or ""
            said = " ".join(f"{type(error).__name__}: {error} {detail}".split())[:300].rstrip(".")
            # A parameter that the model does not take is refused with every answer.
            if status in (400, 413, 422) and not str(error.code).startswith("unsupported_"):
                raise UnjudgedError(f"{where} does not take this answer: {said}.") from error
            raise ModelError(
                f"{where} gives no replies: {said}. Check model, base_url and api_key (a server that is named by "
                "base_url gets a key only if you give it)."
            ) from error
        except (json.JSONDecodeError, AttributeError, IndexError, TypeError) as error:
            raise ModelError(f"{where} sent no chat completion: {str(response)[:200]}.") from error


def reply_text(content: Any, refusal: Any, finish_reason: Any) -> str:
    """The judge's words in a chat completion; if they were cut off for their length, they end in an ellipsis."""
    return str(content or refusal or "") + ("…" if finish_reason == "length" else "")


class LocalJudge:
    """A judge that is a loaded TransformerLens model.

    It does not write: each of the eleven replies ``{"score": 0}`` to ``{"score": 10}`` has a probability, and the
    score is the mean number under these, a fraction. The closing brace counts, so 1 and 10 differ however the
    tokenizer cuts them. There is no other scale. A model too small to follow a rubric returns about the same score for
    everything.

    Parameters
    ----------
    model
        The model, unsteered, and best not the one whose answers are judged.
    """

    concurrency = 1
    scale = 10

    def __init__(self, model: Any) -> None:
        self._model = model
        self._format = PromptFormat.of(model)
        # All added tokens: a template's marks are not always special ones.
        added = {str(token) for token in self._format.tokenizer.added_tokens_decoder.values()}
        self._markers = sorted({one for one in added if not one.isspace()}, key=len, reverse=True)
        self.name = model_id(model)
        self.identity: dict[str, Any] = {
            "model": self.name,
            "revision": model_revision(model),
            "weights": _fingerprint(model),
            "cue": _CUE,
        }

    def reply(self, messages: Messages) -> str:
        """Return ``{"score": mean}`` with the mean number, with six decimals."""
        mean = float(self.probabilities(messages) @ torch.arange(11, dtype=torch.float64))
        return f"{_CUE} {mean:.6f}}}"

    def probabilities(self, messages: Messages) -> torch.Tensor:
        """Probability of each number from 0 to 10 among the eleven replies, ``[11]``, float64."""
        if self._model in steered:
            raise InputError("judge: its model is being steered. Judge outside the steer context.")
        # One message: some chat templates take no system prompt.
        question = "\n\n".join(message["content"] for message in messages)
        for marker in self._markers:  # the material could leave its place by one
            question = question.replace(marker, f"{marker[0]} {marker[1:]}")
        try:
            replies = [self._format.tokens(question, f"{_CUE} {number}}}").tokens for number in range(11)]
        except InputError as error:
            raise UnjudgedError(f"{self.name!r}: {error}") from error
        begin = common_prefix(min(replies), max(replies))  # of all of them
        targets = [tuple((p - 1, tokens[p]) for p in range(begin, len(tokens))) for tokens in replies]
        branches = [Branch(tokens, targets=asked) for tokens, asked in zip(replies, targets, strict=True)]
        log_probs = run_tree(self._model, branches).log_probs
        return torch.stack([answer.double().sum() for answer in log_probs]).softmax(0)


@torch.no_grad()
def _fingerprint(model: Any) -> str:
    """Short digest of a model's weights, so that a trained copy under the same name is another judge."""
    parameters = (model.original_model if is_bridge(model) else model).parameters()
    # One part at a time comes to the CPU: not every device has float64.
    sums = [[float(p.sum()), float(p.abs().sum())] for p in (part.cpu().double() for part in parameters)]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:16]
