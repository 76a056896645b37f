"""Models that the tests share: a small random Llama in two precisions, and the embedded chat model; and a browser.

What a fixture needs is imported in it: the process that hands out the tests to others reads this file, and runs none.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
# A cluster of the tests answers to nobody else. Ray reads this when it is imported.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex())

import pytest

import caa_interp as caa


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that nothing waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_run.py")


@pytest.fixture
def stay_double():
    """Compute in float64 throughout: models take their softmax and norms in float32, whatever their type."""
    from tests.tiny_models import StayDouble

    with StayDouble():
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """Folder with the small random Llama and its tokenizer."""
    from tests.tiny_models import random_llama, small_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = small_tokenizer()
    random_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tiny_folder):
    """TransformerBridge over the small random Llama, float32."""
    return caa.load_model(tiny_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def tiny_llama_64(tiny_folder):
    """TransformerBridge over the small random Llama, float64."""
    return caa.load_model(tiny_folder, device="cpu", dtype="float64")


@pytest.fixture(scope="session")
def plain_llama(tiny_folder):
    """Hugging Face's own model of the same folder, float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype="float32").eval()


@pytest.fixture(scope="session")
def plain_llama_64(tiny_folder):
    """Hugging Face's own model of the same folder, float64."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype="float64").eval()


@pytest.fixture(scope="session")
def tokenizer():
    """Tokenizer of the small random Llama."""
    from tests.tiny_models import small_tokenizer

    return small_tokenizer()


@pytest.fixture(scope="session")
def embedded():
    """The embedded SmolLM2."""
    return caa.load_model()


@pytest.fixture(scope="session")
def pairs() -> "list[caa.ContrastPair]":
    """Contrast pairs of different lengths."""
    return [
        caa.ContrastPair("Is the weather good?", "Yes, I like it very much.", "No, I do not.", id="weather"),
        caa.ContrastPair("What do you think of the sea?", "It is bright.", "It is a short text about rain."),
        caa.ContrastPair("Do you agree with me?", "I agree with you, the garden is good.", "I do not agree."),
    ]


@pytest.fixture(scope="session")
def published_caa() -> Path:
    """Folder with the paper's own files: ``datasets/``, ``SHA256SUMS`` and ``numbers.json``."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "published-caa"
    if not folder.is_dir():
        pytest.skip(f"the published sets are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Address of a Ray cluster on four CPUs of this machine, whose workers find the modules of the tests."""
    from tests import ray_cluster

    pytest.importorskip("ray")
    root = Path(__file__).parents[1]
    with ray_cluster.running([root, root / "tests" / "unit" / "study"]) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright. It keeps an event loop as long as it is open, so each file has its own."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()
