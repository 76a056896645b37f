"""HookedTransformer (TransformerLens 3 only) against TransformerBridge and Hugging Face on the same weights.

Run these in an environment with TransformerLens 3.9: ``python -m pytest tests/hooked``.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import contextlib
import json
import shutil
import warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import caa_interp as caa
from caa_interp.models import access, hooked as hooked_models, loading as caa_loading

try:
    from transformer_lens import HookedTransformer
except ImportError:  # TransformerLens 4 says so itself
    pytest.skip(
        f"HookedTransformer left TransformerLens with version 4 (installed: {version('transformer-lens')}); "
        "these tests need transformer-lens>=3.9,<4",
        allow_module_level=True,
    )

# Words in this name choose hard-coded configurations in TransformerLens; the loader must not fall for them.
FOLDER_NAME = "Llama-3.2-1B-llama-2-chat"
TOLERANCE = 1e-4
PAIRS = [
    caa.ContrastPair("Do you like rain?", "Yes, rain is a joy", "No, rain is sad", id="rain"),
    caa.ContrastPair("What is work?", "A gift", "A burden on all of us", id="work"),
    caa.ContrastPair("How was the day?", "It was bright and good", "It was grey", id="day"),
]
PROMPTS = ["Hello, who are you?", "Tell me of the sea and of the long way home.", "Why?"]


def build_tokenizer():
    characters = ["\n", *map(chr, range(32, 127))]
    vocab = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    tokenizer.decoder = decoders.Fuse()
    # As Llama 2's: no padding token, so TransformerLens pads with the end token.
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def save_model(folder, **changes):
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    options = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 384,
        "rms_norm_eps": 3e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**options | changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.normal_()
    model.save_pretrained(folder)
    return folder


def load_hooked(folder):
    return caa.load_model(folder, backend="hooked", device="cpu")


def load_bridge(folder):
    return caa.load_model(folder, backend="bridge", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / FOLDER_NAME)


@pytest.fixture(scope="module")
def hooked(folder):
    return load_hooked(folder)


@pytest.fixture(scope="module")
def bridge(folder):
    return load_bridge(folder)


@pytest.fixture(scope="module")
def hf_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def vector(bridge):
    """A vector as long as the residual stream, so that its effect is plain to see."""
    found = caa.extract_vector(bridge, PAIRS, behavior="cheer")
    return found * (6 / float(found.norms.mean()))


@pytest.fixture(scope="module")
def prompts(hooked):
    form = prompt_format(hooked)
    return [list(form.tokens(text).tokens) for text in PROMPTS]


def prompt_format(model):
    from caa_interp.prompts.format import PromptFormat

    return PromptFormat.of(model)


def logits_of(model, tokens, **options):
    with torch.no_grad():
        return model(torch.as_tensor(tokens), **options)


def hf_steered_logits(hf_model, tokens, layer, addition, start):
    """Steering written with Hugging Face's model and a plain PyTorch hook."""

    def add(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, start:] += addition
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = hf_model.model.layers[layer].register_forward_hook(add)
    try:
        with torch.no_grad():
            return hf_model(torch.as_tensor(tokens)).logits
    finally:
        handle.remove()


def hf_greedy(hf_model, prompt, layer, addition, n_new, ends=(2,)):
    """Greedy answer without a cache: the whole sequence again for each token, steered from the prompt's end on."""
    tokens = list(prompt)
    for _ in range(n_new):
        tokens.append(int(hf_steered_logits(hf_model, [tokens], layer, addition, len(prompt) - 1)[0, -1].argmax()))
        if tokens[-1] in ends:
            break
    return tokens[len(prompt) :]


def n_hooks(model):
    return sum(len(point.fwd_hooks) for point in model.hook_dict.values()) + len(model.embed._forward_pre_hooks)


class TestLoading:
    def test_both_classes(self, hooked, bridge):
        assert type(hooked) is HookedTransformer
        assert type(bridge).__name__ == "TransformerBridge"
        assert not access.is_bridge(hooked)
        assert access.is_bridge(bridge)
        assert not hooked.training

    def test_configuration_is_the_folders_own(self, hooked):
        cfg = hooked.cfg
        assert (cfg.d_model, cfg.d_head, cfg.n_heads, cfg.n_key_value_heads) == (64, 16, 4, 2)
        assert (cfg.n_layers, cfg.d_mlp, cfg.n_ctx, cfg.d_vocab) == (4, 112, 384, 99)
        assert (cfg.eps, cfg.rotary_base, cfg.rotary_dim) == (3e-5, 5000.0, 16)
        assert (cfg.act_fn, cfg.normalization_type, cfg.positional_embedding_type) == ("silu", "RMS", "rotary")
        assert cfg.rotary_adjacent_pairs is False

    def test_names_are_the_same(self, hooked, bridge):
        assert access.model_id(hooked) == access.model_id(bridge) == FOLDER_NAME

    @pytest.mark.parametrize("which", ["hooked", "bridge"])
    def test_logits_are_hugging_faces(self, which, hf_model, request):
        model = request.getfixturevalue(which)
        tokens = torch.randint(3, 99, (2, 300), generator=torch.Generator().manual_seed(1))
        expected = logits_of(hf_model, tokens).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(logits_of(model, tokens), expected, atol=TOLERANCE, rtol=0)

    def test_residual_stream_is_hugging_faces(self, hooked, hf_model):
        tokens = torch.randint(3, 99, (1, 40), generator=torch.Generator().manual_seed(2))
        states = logits_of(hf_model, tokens, output_hidden_states=True).hidden_states
        with torch.no_grad():
            _, cache = hooked.run_with_cache(tokens)
        for layer in range(3):  # Hugging Face's last entry comes after the final norm
            torch.testing.assert_close(
                cache[access.hook_name(layer)], states[layer + 1], atol=TOLERANCE, rtol=TOLERANCE
            )

    def test_tokens_are_the_same(self, hooked, bridge):
        ours, theirs = (prompt_format(model) for model in (hooked, bridge))
        assert ours.style == theirs.style == "llama-2-chat"
        for pair in PAIRS:
            for format in ("choices", "text"):
                assert ours.render(pair, format) == theirs.render(pair, format)
        ids = ours.tokens("Hello").tokens
        assert ids[0] == 1
        assert 1 not in ids[1:]

    def test_llama_3_rope_scaling(self, tmp_path):
        rope = {
            "rope_type": "llama3",
            "rope_theta": 5000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
        source = save_model(tmp_path / "tiny", rope_parameters=rope)
        hf_model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
        tokens = torch.randint(3, 99, (1, 300), generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(
            logits_of(load_hooked(source), tokens), logits_of(hf_model, tokens).logits, atol=TOLERANCE, rtol=0
        )

    @pytest.mark.parametrize(
        "changes",
        [
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}},
            {"attention_bias": True},
            {"mlp_bias": True},
            {"head_dim": 32},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_what_transformer_lens_converts_wrongly_is_refused(self, changes, tmp_path):
        source = save_model(tmp_path / "tiny", **changes)
        with pytest.raises(caa.errors.ModelError, match="tiny"):
            load_hooked(source)

    def test_listed_name(self, monkeypatch, tmp_path, capsys):
        """TransformerLens's own loading of a name on its list, with a folder in the place of the download."""
        from transformer_lens import loading_from_pretrained as loading

        source = save_model(tmp_path / "tiny")
        name = "EleutherAI/pythia-70m"
        monkeypatch.setattr(loading, "get_official_model_name", lambda _: str(source))
        monkeypatch.setattr(caa_loading, "_checked_config", lambda *args: LlamaConfig())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = caa.load_model(name, device="cpu")
        assert type(model) is HookedTransformer
        assert access.model_id(model) == name
        assert "Loaded pretrained" not in capsys.readouterr().out
        hf_model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
        tokens = torch.randint(3, 99, (1, 30), generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(logits_of(model, tokens), logits_of(hf_model, tokens).logits, atol=TOLERANCE, rtol=0)

    def test_bfloat16(self, folder, hooked):
        model = caa.load_model(folder, backend="hooked", device="cpu", dtype="bfloat16")
        tokens = torch.arange(3, 60)[None]
        found, expected = logits_of(model, tokens), logits_of(hooked, tokens)
        assert found.dtype == torch.bfloat16
        assert (found.float() - expected).norm() < 0.05 * expected.norm()
        vector = caa.extract_vector(model, PAIRS[:1])
        table = caa.generate(model, PROMPTS, vector=vector, layer=1, multipliers=(0, 1), max_new_tokens=3)
        assert (table["finished"] | (table["n_tokens"] == 3)).all()


class Stub:
    tokenizer = None

    def __init__(self):
        self.cfg = type("Config", (), {})()

    def eval(self):
        return self


class TestChoiceOfBackend:
    @pytest.fixture
    def loaded(self, monkeypatch):
        calls = []
        monkeypatch.setattr(caa_loading, "_checked_config", lambda *args: LlamaConfig())
        for kind, name in (("hooked", "load_hooked"), ("bridge", "_load_bridge")):
            monkeypatch.setattr(
                caa_loading, name, lambda source, *args, kind=kind: calls.append((kind, source)) or Stub()
            )
        return calls

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("meta-llama/Llama-2-7b-chat-hf", "hooked"),
            ("meta-llama/Llama-2-13b-chat-hf", "hooked"),
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "bridge"),
        ],
    )
    def test_auto(self, name, kind, loaded):
        model = caa.load_model(name, backend="auto", device="cpu")
        assert loaded == [(kind, name)]
        assert access.model_id(model) == name

    def test_auto_takes_the_bridge_for_a_folder(self, folder, loaded):
        caa.load_model(folder, device="cpu")
        assert loaded == [("bridge", str(folder))]

    @pytest.mark.parametrize("backend", ["hooked", "bridge"])
    def test_given(self, backend, loaded):
        caa.load_model("meta-llama/Llama-2-7b-chat-hf", backend=backend, device="cpu")
        assert [kind for kind, _ in loaded] == [backend]

    def test_auto_takes_the_bridge_where_it_is_spread_over_devices(self, loaded):
        caa.load_model("meta-llama/Llama-2-7b-chat-hf", device_map="cpu")
        assert [kind for kind, _ in loaded] == ["bridge"]

    def test_device_map_is_for_the_bridge(self, loaded):
        with pytest.raises(caa.InputError, match="device_map"):
            caa.load_model("meta-llama/Llama-2-7b-chat-hf", backend="hooked", device_map="auto")
        assert loaded == []

    def test_name_that_is_not_listed(self, monkeypatch):
        monkeypatch.setattr(caa_loading, "_checked_config", lambda *args: LlamaConfig())
        with pytest.raises(caa.errors.ModelError, match="HuggingFaceTB/SmolLM2-135M-Instruct"):
            caa.load_model("HuggingFaceTB/SmolLM2-135M-Instruct", backend="hooked", device="cpu")

    def test_no_remote_code(self, monkeypatch):
        """TransformerLens 3 itself turns trust_remote_code on for these names, which load_model promises not to."""
        from transformer_lens.loading_from_pretrained import NEED_REMOTE_CODE_MODELS
        from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES

        names = [name for name in OFFICIAL_MODEL_NAMES if name.startswith(NEED_REMOTE_CODE_MODELS)]
        assert names
        assert [name for name in names if hooked_models.listed_by_hooked(name)] == []


class TestVectorsAndSweep:
    @pytest.mark.parametrize("format", ["choices", "text"])
    def test_vectors(self, format, hooked, bridge):
        ours, theirs = (caa.extract_vector(model, PAIRS, format=format) for model in (hooked, bridge))
        assert ours.layers == theirs.layers == (0, 1, 2, 3)
        assert float(theirs.norms.min()) > 0.01
        torch.testing.assert_close(ours.values, theirs.values, atol=TOLERANCE, rtol=0)

    def test_metadata(self, hooked, bridge, vector):
        ours, theirs = (caa.extract_vector(model, PAIRS[:1]).metadata for model in (hooked, bridge))
        differing = {key for key in ours if ours[key] != theirs[key]}
        assert differing == {"backend"}
        assert ours["backend"] == "HookedTransformer"
        vector.check_fits(hooked)

    @pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
    @pytest.mark.parametrize(
        ("normalization", "options", "expected"),
        [
            ("RMS", {"center_writing_weights": True}, "folded"),
            ("LN", {"center_writing_weights": False}, "folded"),
            ("LN", {"center_writing_weights": True}, "centered"),
            ("LN", {"center_writing_weights": True, "fold_ln": False}, "centered"),
        ],
    )
    def test_weight_processing(self, normalization, options, expected):
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        model = HookedTransformer(
            HookedTransformerConfig(
                n_layers=1, d_model=8, n_ctx=8, d_head=4, d_vocab=11, act_fn="relu", normalization_type=normalization
            )
        )
        assert access.weight_processing(model) == "none"
        model.process_weights_(**options)
        assert access.weight_processing(model) == expected

    @pytest.mark.parametrize("format", ["choices", "text"])
    @pytest.mark.parametrize("system_prompt", [None, "Be kind."])
    def test_sweep(self, format, system_prompt, hooked, bridge, vector):
        options = {"format": format, "multipliers": (-1, 0, 1.5), "system_prompt": system_prompt}
        ours, theirs = (caa.sweep(model, vector, PAIRS, **options) for model in (hooked, bridge))
        assert set(ours.pop("path")) == {"tree"}
        assert set(theirs.pop("path")) == {"tree"}
        scores = ["log_p_positive", "log_p_negative", "logit_difference", "p_positive"]
        labels = [name for name in ours if name not in scores]
        assert ours[labels].equals(theirs[labels])
        np.testing.assert_allclose(ours[scores], theirs[scores], atol=TOLERANCE, rtol=0)
        assert ours.groupby("multiplier")["log_p_positive"].mean().diff().abs().min() > 100 * TOLERANCE

    def test_tables_are_used_alike(self, hooked, bridge, vector):
        tables = [caa.sweep(model, vector, PAIRS, multipliers=(-1, 0, 1)) for model in (hooked, bridge)]
        ours, theirs = (caa.summarize(table) for table in tables)
        np.testing.assert_allclose(ours["p_positive"], theirs["p_positive"], atol=TOLERANCE, rtol=0)
        assert caa.choose_layer(tables[0]) == caa.choose_layer(tables[1])


class TestSteer:
    @pytest.mark.parametrize("layer", [0, 2, 3])
    @pytest.mark.parametrize(("where", "begin"), [({}, None), ({"positions": "all"}, 0), ({"prompt_length": 6}, 5)])
    def test_forward(self, layer, where, begin, hooked, bridge, hf_model, vector, prompts):
        tokens = torch.tensor([prompts[0]])
        begin = tokens.shape[1] - 1 if begin is None else begin
        expected = hf_steered_logits(hf_model, tokens, layer, 1.5 * vector.at(layer), begin)
        for model in (hooked, bridge):
            with caa.steer(model, vector, layer, 1.5, **where):
                found = logits_of(model, tokens)
            torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
        assert float((expected - logits_of(hf_model, tokens).logits).abs().max()) > 0.05

    def test_one_length_per_row(self, hooked, hf_model, vector):
        tokens = torch.randint(3, 99, (2, 20), generator=torch.Generator().manual_seed(4))
        with caa.steer(hooked, vector, 1, -1, prompt_length=[5, 12]):
            found = logits_of(hooked, tokens)
        for row, start in enumerate((4, 11)):
            expected = hf_steered_logits(hf_model, tokens[row : row + 1], 1, -vector.at(1), start)[0]
            torch.testing.assert_close(found[row], expected, atol=TOLERANCE, rtol=0)

    def test_nested_contexts_add_up(self, hooked, hf_model, vector, prompts):
        tokens = torch.tensor([prompts[0]])
        with caa.steer(hooked, vector, 2, 1.0), caa.steer(hooked, vector, 2, 0.5):
            found = logits_of(hooked, tokens)
        expected = hf_steered_logits(hf_model, tokens, 2, 1.5 * vector.at(2), tokens.shape[1] - 1)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)

    def test_text_and_run_with_cache(self, hooked, hf_model, vector):
        tokens = hooked.to_tokens(PROMPTS[0])
        expected = hf_steered_logits(hf_model, tokens, 1, vector.at(1), tokens.shape[1] - 1)
        with caa.steer(hooked, vector, 1), torch.no_grad():
            logits, cache = hooked.run_with_cache(tokens)
            again = hooked(PROMPTS[0])
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(again, expected, atol=TOLERANCE, rtol=0)
        with torch.no_grad():
            _, unsteered = hooked.run_with_cache(tokens)
        name = access.hook_name(1)
        torch.testing.assert_close(cache[name][:, -1] - unsteered[name][:, -1], vector.at(1)[None], atol=1e-5, rtol=0)
        assert torch.equal(cache[name][:, :-1], unsteered[name][:, :-1])

    def test_hooks_are_removed(self, hooked, vector, prompts):
        before, logits = n_hooks(hooked), logits_of(hooked, [prompts[0]])
        with contextlib.suppress(ZeroDivisionError), caa.steer(hooked, vector, 1):
            logits_of(hooked, [prompts[0]])
            _ = 1 / 0
        assert n_hooks(hooked) == before
        assert torch.equal(logits_of(hooked, [prompts[0]]), logits)

    def test_right_padding_is_refused(self, hooked, vector, prompts):
        tokens = torch.full((2, max(map(len, prompts[:2]))), hooked.tokenizer.pad_token_id)
        for row, prompt in enumerate(prompts[:2]):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        with pytest.raises(caa.InputError, match="padded on the right"), caa.steer(hooked, vector, 1):
            logits_of(hooked, tokens)

    def test_left_padded_batch_equals_single_prompts(self, hooked, vector, prompts):
        width = max(map(len, prompts))
        tokens = torch.full((len(prompts), width), hooked.tokenizer.pad_token_id)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        with caa.steer(hooked, vector, 2, 1.5):
            found = logits_of(hooked, tokens, attention_mask=mask)
            for row, prompt in enumerate(prompts):
                expected = logits_of(hooked, [prompt])[0]
                torch.testing.assert_close(found[row, -len(prompt) :], expected, atol=TOLERANCE, rtol=0)


class TestGenerate:
    MULTIPLIERS = (-1.5, 0.0, 1.5)

    def test_answers_equal_the_bridges(self, hooked, bridge, vector):
        options = {"vector": vector, "layer": 2, "multipliers": self.MULTIPLIERS, "max_new_tokens": 12}
        ours, theirs = (caa.generate(model, PROMPTS, **options) for model in (hooked, bridge))
        assert ours.equals(theirs)
        assert (ours.groupby("prompt")["answer"].nunique() > 1).all()

    def test_answers_equal_plain_greedy_search(self, hooked, hf_model, vector, prompts):
        table = caa.generate(hooked, PROMPTS, vector=vector, layer=1, multipliers=self.MULTIPLIERS, max_new_tokens=10)
        for row in table.itertuples():
            tokens = hf_greedy(hf_model, prompts[row.item], 1, row.multiplier * vector.at(1), 10)
            expected = hooked.tokenizer.decode([token for token in tokens if token != 2], skip_special_tokens=True)
            assert row.answer == expected.strip(), (row.prompt, row.multiplier)

    def test_batch_equals_single_prompts(self, hooked, vector):
        options = {"vector": vector, "layer": 2, "multipliers": self.MULTIPLIERS, "max_new_tokens": 10}
        together = caa.generate(hooked, PROMPTS, **options)
        for number, prompt in enumerate(PROMPTS):
            alone = caa.generate(hooked, [prompt], **options)
            assert together.loc[together["item"] == number, "answer"].tolist() == alone["answer"].tolist()

    def test_sampling_equals_the_bridges(self, hooked, bridge, vector):
        options = {"vector": vector, "layer": 2, "multipliers": (0.0, 1.0), "max_new_tokens": 8, "temperature": 0.7}
        ours, theirs = (caa.generate(model, PROMPTS, seed=3, **options) for model in (hooked, bridge))
        assert ours.equals(theirs)

    def test_answers_end_where_the_generation_config_says(self, folder, hf_model, prompts, tmp_path):
        """As of Llama 3 and Gemma 2, whose answers end in a token that is not the tokenizer's end token."""
        answer = hf_greedy(hf_model, prompts[1], 0, torch.zeros(64), 6)
        assert answer.index(answer[3]) == 3
        changed = shutil.copytree(folder, tmp_path / FOLDER_NAME)
        config = json.loads((changed / "generation_config.json").read_text())
        (changed / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [2, answer[3]]}))
        ours, theirs = (
            caa.generate(load(changed), PROMPTS[1:2], max_new_tokens=6) for load in (load_hooked, load_bridge)
        )
        assert theirs["n_tokens"].tolist() == [3]
        assert theirs["finished"].tolist() == [True]
        assert ours.equals(theirs)

    @pytest.mark.parametrize("multiplier", [0.0, 1.5])
    def test_own_generate_within_steer(self, multiplier, hooked, bridge, hf_model, vector, prompts):
        tokens = torch.tensor([prompts[0]])
        expected = hf_greedy(hf_model, prompts[0], 2, multiplier * vector.at(2), 8)
        for model in (hooked, bridge):
            with caa.steer(model, vector, 2, multiplier):
                found = model.generate(tokens, max_new_tokens=8, do_sample=False, verbose=False)
            assert found[0, tokens.shape[1] :].tolist() == expected

    def test_own_generate_without_cache_within_steer(self, hooked, hf_model, vector, prompts):
        """Without a cache the model is given the whole sequence at each step, so the prompt's end must be given."""
        tokens = torch.tensor([prompts[0]])
        expected = hf_greedy(hf_model, prompts[0], 2, 1.5 * vector.at(2), 8)
        with caa.steer(hooked, vector, 2, 1.5, prompt_length=tokens.shape[1]):
            found = hooked.generate(tokens, max_new_tokens=8, do_sample=False, verbose=False, use_past_kv_cache=False)
        assert found[0, tokens.shape[1] :].tolist() == expected

    def test_own_generate_on_a_batch_within_steer(self, hooked, vector):
        options = {"max_new_tokens": 8, "do_sample": False, "verbose": False, "stop_at_eos": False}
        with caa.steer(hooked, vector, 2, 1.5):
            together = hooked.generate(PROMPTS, **options)
            alone = [hooked.generate(prompt, **options) for prompt in PROMPTS]
        assert together == alone
        assert together != hooked.generate(PROMPTS, **options)
