"""Judging through a real OpenAI-compatible server that serves the embedded model on loopback."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import caa_interp as caa
from caa_interp.evaluation.judge_requests import judge_messages
from caa_interp.evaluation.judges import OpenAIJudge
from caa_interp.evaluation.judging import judge_answers

NEEDED = ("openai", "fastapi", "uvicorn")
START_SECONDS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED), reason=f"it needs {', '.join(NEEDED)}"
    ),
]


@pytest.fixture(scope="module")
def served(embedded: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address of a server and the name of its model."""
    folder = embedded.original_model.config.name_or_path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("server") / "log"
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--host", "127.0.0.1"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu", "--dtype", "float32"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            for _ in range(2 * START_SECONDS):
                assert server.poll() is None, log.read_text()
                try:
                    with urllib.request.urlopen(f"{url}/health", timeout=2):
                        break
                except (urllib.error.URLError, TimeoutError):
                    time.sleep(0.5)
            else:
                pytest.fail(f"no answer after {START_SECONDS} seconds:\n{log.read_text()}")
            yield f"{url}/v1", folder
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@pytest.fixture(scope="module")
def answers(embedded: Any) -> Any:
    return caa.generate(embedded, caa.load_behavior("optimism").open_ended[:3], max_new_tokens=20)


def test_a_real_server_judges_and_a_rerun_asks_nothing(
    embedded: Any, served: tuple[str, str], answers: Any, tmp_path: Path
) -> None:
    url, model = served
    rubric = caa.load_behavior("optimism").rubric
    judge = OpenAIJudge(model, base_url=url, concurrency=1, max_retries=0, timeout=120, max_tokens=8)
    with warnings.catch_warnings():
        # So small a model may not reply with a score.
        warnings.filterwarnings("ignore", message="judge .* replies hold no single score")
        judged = judge_answers(answers, rubric, judge, cache=tmp_path)
        again = judge_answers(
            answers, rubric, OpenAIJudge(model, base_url=url, max_retries=0, max_tokens=8), cache=tmp_path
        )
    assert judged["reply"].str.len().gt(0).all()
    assert judged["score"].dropna().between(0, 10).all()
    assert again.equals(judged)
    assert len(list(tmp_path.iterdir())) == 3
    # The same model, greedily, without the server.
    messages = judge_messages(rubric, answers["prompt"][0], answers["answer"][0])
    prompt = embedded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    prompt = prompt["input_ids"] if not hasattr(prompt, "shape") else prompt
    written = embedded.original_model.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
    expected = embedded.tokenizer.decode(written, skip_special_tokens=True)
    assert judged["reply"][0].removesuffix("…") == expected


def test_a_model_that_the_server_does_not_have_is_told(served: tuple[str, str], answers: Any, tmp_path: Path) -> None:
    url, _ = served
    judge = OpenAIJudge("no-such-model", base_url=url, max_retries=0, timeout=30)
    with pytest.raises(caa.errors.ModelError, match=r"0 of 3 .*'no-such-model' at http://127.* 400 .*no-such-model"):
        judge_answers(answers, "How cheerful?", judge, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
