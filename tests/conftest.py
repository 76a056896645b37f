"""Models that the tests share: a small random Llama in two precisions, and the embedded chat model."""

import contextlib
import copy
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"
# A cluster of the tests answers to nobody else. Ray reads this when it is imported.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex())

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import caa_interp as caa
from caa_interp.steering.operators import add
from caa_interp.tree.edits import Edit, Operator

SENTENCES = [
    "Input: What do you think of the weather today? Is it good?",
    "Response: I think that the day is bright, and I like it very much.",
    "Choices: (A) Yes, I agree with you. (B) No, I do not agree with you.",
    "The answer is a short text about the rain, the garden and the sea.",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that nothing waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_run.py")


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with BOS, EOS and padding tokens; it puts BOS in front, and has no chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="right"
    )


def appending_eos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy of :func:`small_tokenizer` that also puts EOS after every text."""
    tokenizer = copy.deepcopy(tokenizer)
    ids = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return tokenizer


def edit_from(layer: int, vector: torch.Tensor, start: int, multiplier: float = 1.0, operator: Operator = add) -> Edit:
    """Edit of a sequence from a position on."""
    return Edit(layer, vector, multiplier, operator, ((start, math.inf),))


def random_llama(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    """Llama with seeded weights, large enough that every block changes the residual stream visibly."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.copy_(1 + 0.2 * drawn)
            elif "embed" in name:
                weight.copy_(drawn)
            else:
                weight.copy_(drawn / weight.shape[1] ** 0.5)
    return model.eval()


class StayDouble(TorchFunctionMode):
    """Leave out the steps to float32 that models take inside (softmax, RMSNorm), so that float64 means it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            args = tuple(torch.float64 if argument is torch.float32 else argument for argument in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@pytest.fixture
def stay_double():
    """Compute in float64 throughout: models take their softmax and norms in float32, whatever their type."""
    with StayDouble():
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """Folder with the small random Llama and its tokenizer."""
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
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def plain_llama_64(tiny_folder):
    """Hugging Face's own model of the same folder, float64."""
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float64).eval()


@pytest.fixture(scope="session")
def tokenizer():
    """Tokenizer of the small random Llama."""
    return small_tokenizer()


@pytest.fixture(scope="session")
def embedded():
    """The embedded SmolLM2."""
    return caa.load_model()


@pytest.fixture(scope="session")
def pairs() -> list[caa.ContrastPair]:
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
def ray_address():
    """Address of a Ray cluster on four CPUs of this machine, whose workers find the modules of the tests."""
    pytest.importorskip("ray")
    root = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, [root, root / "tests" / "unit" / "study"]))
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # sockets need a short path
        for _ in range(6):  # Ray waits half a minute for itself, which a busy machine may exceed
            head, address = start_ray(Path(folder), {**os.environ, "PYTHONPATH": paths})
            if head.poll() is None:
                break
        try:
            assert head.poll() is None, (Path(folder) / "log").read_text()
            yield address
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def start_ray(folder: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start Ray in a session of its own, and wait until it is up or gave up; its process and address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    # A folder of its own, or Ray would take this cluster for the machine's latest.
    options = [f"--port={port}", f"--node-ip-address={host}", f"--temp-dir={folder / 'ray'}", "--num-cpus=4"]
    quiet = ["--block", "--disable-usage-stats", "--include-dashboard=false"]
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), "start", "--head", *quiet, *options],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while head.poll() is None and b"Ray runtime started" not in (folder / "log").read_bytes():
        time.sleep(0.1)
    if head.poll() is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)  # Ray leaves running what it had started
    return head, address
