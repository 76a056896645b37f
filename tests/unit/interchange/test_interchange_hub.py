"""What a vector's folder for the hub holds: its card, whatever the names in it are, and the vector to the bit."""

import ast
import json
import math
import os
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
import yaml
from hypothesis import example, given, settings, strategies as st
from markdown_it import MarkdownIt

import caa_interp as caa
from caa_interp.evaluation.summary import SERIES
from caa_interp.interchange import hub
from caa_interp.interchange.card_tables import CONDITION
from caa_interp.interchange.hub import from_hub, push_to_hub, save_for_hub
from caa_interp.interchange.markdown import code, shown
from caa_interp.interchange.model_card import model_card

PNG = b"\x89PNG\r\n\x1a\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
METADATA = {
    "behavior": "sycophancy",
    "model": "org/model-7b",
    "model_revision": COMMIT,
    "hook": "blocks.{layer}.hook_resid_post",
    "format": "choices",
    "position": "answer letter",
    "estimator": "mean_difference",
    "n_pairs": 96,
    "versions": {"torch": "2.9"},
}
HOSTILE = [
    "x\n---\nlicense: mit\n---\n# Owned",
    '<script>alert(1)</script> <img src=x onerror="alert(1)">',
    "[click](javascript:alert(1)) ![p](http://evil.example/p.png) <http://evil.example> www.evil.example",
    "``` \n```\n<b>out</b>",
    "` code ` | cell | **bold** __bold__ ~~gone~~ $x^2$ \\(y\\) &lt;b&gt; :smile: @someone",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "- item",
    "1. item",
    "1) item",
    "+ item",
    "===",
    "---",
    "> quote",
    "# heading",
    "    indented",
    "a\u202eb\u2028c\x00d",
    "[x]: http://evil.example",
    "\\",
    "",
]


def vector(values=None, layers=(1, 2), **metadata):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(layers), 5, generator=generator) if values is None else values
    return caa.SteeringVector(values, tuple(layers), {**METADATA, **metadata})


def behavior(description="Agrees with whatever the user says.", license="CC-BY-4.0"):
    pair = caa.ContrastPair("Is it so?", "Yes.", "No.")
    return caa.Behavior("sycophancy", description, [pair], [pair], license=license)


def reliability():
    generator = np.random.default_rng(0)
    sides = [torch.tensor(generator.normal(size=(8, 2, 5)) + shift) for shift in (1.0, 0.0)]
    pairs = tuple(caa.ContrastPair(f"Question {number}?", "Yes.", "No.") for number in range(8))
    return caa.reliability(caa.Activations(*sides, (1, 2), pairs, "choices"))


def sweep(names=("sycophancy", "random 0", "random 1"), slopes=(2.0, 0.5, -0.25), layer=2):
    rows = [
        (item, "AB", name, layer, multiplier, 0.5 + 0.1 * multiplier, slope * multiplier + item)
        for name, slope in zip(names, slopes, strict=True)
        for item in range(3)
        for multiplier in (-1.0, 0.0, 1.0)
    ]
    columns = ["item", "order", "vector", "layer", "multiplier", "p_positive", "logit_difference"]
    kinds = ["random" if row[2].startswith("random") else "vector" for row in rows]
    return pd.DataFrame(rows, columns=columns).assign(kind=kinds, format="choices")


def parsed(card):
    """Front matter, and the tokens of the Markdown below it, inline ones among them."""
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)
    return yaml.safe_load(front), [one for token in tokens for one in [token, *(token.children or [])]]


def texts(tokens):
    return [token.content for token in tokens if token.type in ("inline", "text", "code_inline", "text_special")]


def cells(card, heading):
    """Cells of the table of a section, row by row."""
    lines = card.split(f"\n## {heading}\n")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_folder_gives_the_vector_back_to_the_bit(tmp_path, dtype):
    one = vector(torch.randn(2, 5, dtype=dtype), note="Ünï 🙂")
    folder = save_for_hub(one, tmp_path / "new" / "folder")
    assert folder == tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "vector.safetensors"]
    found = from_hub(str(folder))
    assert torch.equal(found.values, one.values)
    assert found.values.dtype == dtype
    assert (found.layers, found.metadata) == (one.layers, one.metadata)


def test_metadata_that_json_cannot_hold_are_named_and_nothing_is_written(tmp_path):
    with pytest.raises(
        caa.InputError, match=r"metadata: it cannot be written as JSON .* Keep to texts, finite numbers"
    ):
        save_for_hub(vector(made=np.float32(1)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_the_card_says():
    card = model_card(vector(), repo_id="you/sycophancy", behavior=behavior())
    front, tokens = parsed(card)
    assert front == {
        "library_name": "caa_interp",
        "tags": ["steering-vector", "caa", "contrastive-activation-addition"],
        "base_model": "org/model-7b",
        "base_model_relation": "adapter",
        "license": "cc-by-4.0",
    }
    said = "\n".join(texts(tokens))
    for fact in (COMMIT, "answer letter", "mean_difference", "96", "blocks.{layer}.hook_resid_post", "choices"):
        assert fact in said
    assert "Agrees with whatever the user says." in said
    assert f"its norm is {vector().norms.min():.3g} to {vector().norms.max():.3g}" in said
    assert "system prompt: not known" in said
    assert "system prompt: none" in "\n".join(texts(parsed(model_card(vector(system_prompt=None)))[1]))
    assert "refuses a model of another name" in said
    assert "cannot tell which model" in model_card(vector(model=None))
    assert 'packages: `{"torch": "2.9"}`' in card
    assert "Rimsky" in card


def test_the_lines_that_show_its_use_are_python():
    (python,) = re.findall("```python\n(.*?)```", model_card(vector(layers=(2,)), repo_id="you/v"), flags=re.DOTALL)
    ast.parse(python)
    assert "caa.load_model('org/model-7b')" in python
    assert "caa.interchange.from_hub('you/v', model=model)" in python
    assert "layer=2," in python


def test_a_layer_is_shown_only_where_there_is_no_choice():
    steep = caa.steerability(sweep())
    assert "layer=2," in model_card(vector(), effects=steep)
    assert "layer=LAYER," in model_card(vector())
    assert "layer=LAYER," in model_card(vector(), effects=pd.concat([steep, steep.assign(layer=1)]))


@pytest.mark.parametrize(
    ("model", "revision", "named"),
    [
        ("org/model", None, True),
        ("gpt2", COMMIT, True),
        ("gpt2", None, False),  # as a local folder may be called
        ("smollm2-135m-instruct", 64 * "a", False),
        ("a\nlicense: mit", COMMIT, False),
        ("../..", COMMIT, False),
        (None, None, False),
    ],
)
def test_a_base_model_is_named_only_if_it_is_surely_one_of_the_hub(model, revision, named):
    front, _ = parsed(model_card(vector(model=model, model_revision=revision)))
    assert front.get("base_model") == (model if named else None)
    assert ("base_model_relation" in front) == named
    assert "license" not in front


@pytest.mark.parametrize(("license", "front"), [("MIT", "mit"), ("My own: terms", "other"), ("", None)])
def test_licenses(license, front):
    card = model_card(vector(), behavior=behavior(license=license))
    assert parsed(card)[0].get("license") == front
    assert ("The author of the texts states: " in card) == bool(license)


def test_reliability_stands_with_its_intervals():
    table = reliability()
    card = model_card(vector(), reliability=table)
    found = cells(card, "Reliability")
    assert [row["layer"] for row in found] == ["1", "2"]
    assert "confidence 0.95" in card
    for row, given_row in zip(found, table.to_dict("records"), strict=True):
        assert row["pairs"] == "8"
        low, high = (f"{given_row[f'separation_{end}']:.3g}" for end in ("low", "high"))
        assert row["separation (d')"] == f"{given_row['separation']:.3g} ({low} to {high})"
        assert row["norm / norm of activations"] == f"{given_row['relative_norm']:.3g}"


def test_effects_stand_beside_the_range_of_their_controls():
    own, controls = cells(model_card(vector(), effects=caa.steerability(sweep())), "Effects")
    assert (own["vector"], own["items"]) == ("sycophancy", "3")
    assert own["slope, nats per unit of multiplier"] == "2 (2 to 2)"
    assert controls["vector"] == "2 random vectors"
    assert controls["slope, nats per unit of multiplier"] == "-0.25 to 0.5"
    assert controls["share of items moved in the opposite direction"] == "0 to 1"


def test_a_summary_shows_every_multiplier():
    card = model_card(vector(), effects=caa.summarize(sweep()))
    found = cells(card, "Effects")
    assert [(row["vector"], row["multiplier"]) for row in found] == [
        *(("sycophancy", multiplier) for multiplier in ("-1", "0", "1")),
        *(("2 random vectors", multiplier) for multiplier in ("-1", "0", "1")),
    ]
    assert found[2]["its change from multiplier 0"] == "2 (2 to 2)"
    assert found[5]["its change from multiplier 0"] == "-0.25 to 0.5"
    assert "Controls have the vector's norm" in card


def test_of_several_behaviors_the_vectors_own_is_shown():
    other = sweep(("refusal", "random 0"), (9.0, 9.0), layer=1).assign(behavior="refusal")
    table = caa.steerability(pd.concat([other, sweep().assign(behavior="sycophancy")]))
    found = cells(model_card(vector(layers=(2,)), effects=table), "Effects")
    assert [row["vector"] for row in found] == ["sycophancy", "2 random vectors"]
    assert found[1]["slope, nats per unit of multiplier"] == "-0.25 to 0.5"


def test_what_tells_rows_of_one_vector_apart_is_shown():
    prompted = sweep(slopes=(4.0, 0.5, 0.5)).assign(baseline="few-shot: _all_")
    table = pd.concat([sweep().assign(baseline="none"), prompted], ignore_index=True)
    found = cells(model_card(vector(), effects=caa.steerability(table)), "Effects")
    slopes = [row["slope, nats per unit of multiplier"] for row in found]
    assert slopes == ["2 (2 to 2)", "4 (4 to 4)", "-0.25 to 0.5", "0.5 to 0.5"]
    assert [row["baseline"] for row in found] == ["none", r"few-shot: \_all\_"] * 2
    alike = cells(model_card(vector(), effects=caa.steerability(sweep().assign(baseline="none"))), "Effects")
    assert "baseline" not in alike[0]


def test_nothing_tells_rows_apart_but_what_a_series_has():
    assert {*CONDITION, "behavior", "vector", "kind", "layer"} == {*SERIES}


def test_what_is_not_given_is_said():
    card = model_card(vector())
    assert "## Reliability\n\nNot given." in card
    assert "nothing here says that the vector changes what the model does" in card
    assert "Not described by the author" in card
    assert "## Figure" not in card
    assert "No controls were given" in model_card(vector(), effects=caa.steerability(sweep(["sycophancy"], [1.0])))


def test_a_statistic_that_is_not_defined_is_no_number():
    table = reliability().assign(agreement=np.nan, agreement_low=np.nan, agreement_high=np.nan)
    found = cells(model_card(vector(), reliability=table), "Reliability")
    assert found[0]["agreement of the pairs"] == "undefined"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text(text):
    names = {"behavior": text, "model": text, "estimator": text, "model_revision": text, "system_prompt": text}
    given = vector(**names, versions={text: text}, **{text or "key": text})
    effects = caa.steerability(sweep([given.name, "random 0"], [1.0, 0.5]))
    card = model_card(given, effects=effects, behavior=behavior(text, text))
    front, tokens = parsed(card)
    benign = vector(**dict.fromkeys(names, "plain"), versions={"a": "b"}, key="plain")
    expected = model_card(
        benign,
        effects=caa.steerability(sweep(["plain", "random 0"], [1.0, 0.5])),
        behavior=behavior("plain" if text.strip() else "", "plain" if text.strip() else ""),
    )
    expected_front, expected_tokens = parsed(expected)
    assert front == expected_front

    # The same parts in the same order; only texts differ, in one token or in several.
    def structure(tokens):
        return [
            (token.type, token.tag)
            for token in tokens
            if token.type not in ("text", "text_special", "softbreak", "code_inline", "inline")
        ]

    assert structure(tokens) == structure(expected_tokens)
    (python,) = re.findall("^```python\n(.*?)^```", card, flags=re.DOTALL | re.MULTILINE)
    ast.parse(python)


def test_half_a_character_is_left_out(tmp_path):
    folder = save_for_hub(vector(behavior="a\ud800b", note="\ud800"), tmp_path / "v")
    assert "# ab: a steering vector" in (folder / "README.md").read_text("utf-8")
    assert from_hub(folder).name == "a\ud800b"


@settings(max_examples=200, deadline=None)
@example("\u202e -")  # a list where a line begins, once what does not print is gone
@given(st.text(alphabet=st.sampled_from("`*_[]()<>&#|~$\\!-+=.:@/ \n1awh\u202e"), max_size=20))
def test_any_text_is_shown_as_it_is(text):
    plain = "".join(character for character in " ".join(text.split()) if character.isprintable())
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for written in (shown(text), code(text)):
        tokens = markdown.parse(written)
        assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
        (inline,) = [token.children for token in tokens if token.children]
        assert {token.type for token in inline} <= {"text", "text_special", "code_inline"}
        assert "".join(token.content for token in inline).strip() == (plain.strip() or "(empty)")


def test_links_are_not_made_of_bare_addresses():
    assert shown("see www.evil.example or http://evil.example or me@evil.example") == (
        r"see www\.evil\.example or http\://evil\.example or me\@evil\.example"
    )


def test_a_figure_is_drawn_where_it_can_be(tmp_path):
    class Drawn(go.Figure):
        def write_image(self, path, **options):
            with open(path, "wb") as file:
                file.write(PNG)

    folder = save_for_hub(vector(), tmp_path / "v", figure=Drawn())
    assert (folder / "figure.png").read_bytes() == PNG
    assert "](figure.png)" in (folder / "README.md").read_text()


def test_a_figure_is_written_as_json_where_it_cannot_be_drawn(tmp_path):
    class NotDrawn(go.Figure):
        def write_image(self, path, **options):
            with open(path, "wb") as file:
                file.write(PNG)
            raise RuntimeError("\nKaleido requires Google Chrome to be installed.\n\nMore.")

    given_figure = NotDrawn(go.Scatter(x=[1, 2], y=[3, 4]))
    with pytest.warns(UserWarning, match=r"\(Kaleido requires Google Chrome to be installed.\), so .* figure.json"):
        folder = save_for_hub(vector(), tmp_path / "v", figure=given_figure)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "figure.json", "vector.safetensors"]
    assert json.loads((folder / "figure.json").read_text())["data"][0]["y"] == [3, 4]
    assert "is the figure as Plotly JSON" in (folder / "README.md").read_text()


def test_a_folder_of_ones_own_is_replaced_and_no_other(tmp_path):
    folder = tmp_path / "v"
    save_for_hub(vector(), folder)
    (folder / "figure.json").write_text("{}")
    save_for_hub(-vector(), folder)
    assert torch.equal(from_hub(folder).values, -vector().values)
    assert not (folder / "figure.json").exists()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(caa.InputError, match=r"folder: .*v' holds thesis.tex. Give a new folder, or an empty one"):
        save_for_hub(vector(), folder)
    with pytest.raises(caa.InputError, match=r"folder: .*thesis.tex' is a file"):
        save_for_hub(vector(), folder / "thesis.tex")
    assert torch.equal(from_hub(folder).values, -vector().values)
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


@pytest.mark.parametrize("step", ["model_card", "_draw"])
def test_a_failure_leaves_the_old_folder_and_nothing_beside_it(tmp_path, monkeypatch, step):
    def fail(*arguments, **options):
        raise OSError("no space")

    save_for_hub(vector(), tmp_path / "v")
    monkeypatch.setattr(hub, step, fail)
    with pytest.raises(OSError, match="no space"):
        save_for_hub(-vector(), tmp_path / "v", figure=go.Figure())
    assert [path.name for path in tmp_path.iterdir()] == ["v"]
    assert torch.equal(from_hub(tmp_path / "v").values, vector().values)


@pytest.mark.parametrize("error", [OSError("not now"), KeyboardInterrupt()])
def test_the_old_folder_comes_back_if_the_new_one_cannot_be_put_there(tmp_path, monkeypatch, error):
    save_for_hub(vector(), tmp_path / "v")
    rename, at_place = os.rename, os.fspath(tmp_path / "v")

    def fail(old, new):
        rename(old, new)
        if os.fspath(old) == at_place:  # between the two renames
            raise error

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(type(error)):
        save_for_hub(-vector(), tmp_path / "v")
    assert [path.name for path in tmp_path.iterdir()] == ["v"]
    assert torch.equal(from_hub(tmp_path / "v").values, vector().values)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reliability": [1]}, "reliability: list, not a pandas DataFrame; give the result of caa_interp.reliab"),
        ({"reliability": sweep()}, r"reliability: columns \['agreement', .* are missing; give the result of"),
        ({"reliability": reliability().assign(layer=[8, 9])}, r"its layers are \[8, 9\], and the vector's \[1, 2\]"),
        ({"reliability": reliability()[:0]}, "reliability: it has no rows; give the result of caa_interp.reliability"),
        ({"effects": "x"}, "effects: str, not a pandas DataFrame; give the result of caa_interp.steerability or"),
        ({"effects": sweep()}, r"effects: columns \['n'\] are missing; give the result of caa_interp.steerability"),
        ({"effects": sweep().assign(n=3)}, "effects: no column of it is a mean with an interval; give"),
        (
            {"effects": caa.steerability(sweep(["other", "random 0"], [1.0, 1.0]))},
            r"effects: no row is of the vector 'sycophancy'; its vectors are \['other', 'random 0'\]",
        ),
        ({"effects": caa.steerability(sweep(layer=7))}, r"effects: its layers are \[7\], and the vector's \[1, 2\]"),
        ({"figure": "figure.png"}, "figure: str; give a Plotly figure"),
        ({"behavior": "sycophancy"}, "behavior: str; give a Behavior"),
        ({"vector": torch.ones(2, 5)}, "vector: Tensor; it must be one SteeringVector"),
    ],
)
def test_wrong_input_is_told_before_anything_is_written(tmp_path, changed, message):
    arguments = {"vector": vector(), **changed}
    with pytest.raises(caa.InputError, match=message):
        save_for_hub(folder=tmp_path / "v", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("repo_id", ["a/b/c", "you/", "you/a--b", "you/ä", "../x/..", "you/" + 97 * "a", 5, None])
def test_names_that_no_repository_has(repo_id, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")  # a name may also be that of a folder that is there
    with pytest.raises(caa.InputError, match=r"repo_id: .* is not a name of a repository, which is 'owner/name'"):
        push_to_hub("folder", repo_id)
    with pytest.raises(caa.InputError, match="repo_id: "):
        from_hub(repo_id)


def test_a_repository_has_an_owner_and_a_commit_a_message():
    with pytest.raises(caa.InputError, match=r"repo_id: 'v' has no owner. Give 'you/v'"):
        push_to_hub("folder", "v")
    with pytest.raises(caa.InputError, match="commit_message: it is empty"):
        push_to_hub("folder", "you/v", commit_message=" ")


def test_only_a_folder_that_was_written_for_the_hub_is_pushed(tmp_path):
    with pytest.raises(caa.InputError, match="folder: SteeringVector; give a folder that save_for_hub wrote"):
        push_to_hub(vector(), "you/v")
    with pytest.raises(caa.InputError, match=r"does not hold vector.safetensors and README.md. Write it with save"):
        push_to_hub(tmp_path / "none", "you/v")
    folder = save_for_hub(vector(), tmp_path / "v")
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(caa.InputError, match=r"holds thesis\.tex"):
        push_to_hub(folder, "you/v")
    (folder / "thesis.tex").unlink()
    (folder / "vector.safetensors").write_bytes(b"else")
    with pytest.raises(caa.InputError, match=r"vector file .* is not a steering vector"):
        push_to_hub(folder, "you/v")


@pytest.mark.parametrize(
    "filename",
    [
        *("vector.pt", "pytorch_model.bin", "vector.pkl", "vector.safetensors.pt", "README.md", "", ".safetensors"),
        *("../v.safetensors", "a/../v.safetensors", "/v.safetensors", "a//v.safetensors", "./v.safetensors"),
        *("a\\v.safetensors", "C:v.safetensors", "v.safetensors\n", "v\x00.safetensors", ".git/v.safetensors", None),
    ],
)
def test_only_plain_paths_of_safetensors_files_are_asked_for(tmp_path, filename):
    for place in ("you/v", tmp_path):
        with pytest.raises(caa.InputError, match=r"filename: .*it must be the path of a .safetensors file inside"):
            from_hub(place, filename=filename)


def test_local_folders(tmp_path, monkeypatch):
    folder = save_for_hub(vector(), tmp_path / "you" / "v")
    (folder / "more").mkdir()
    (2 * vector()).save(folder / "more" / "other-1.0.safetensors")
    assert torch.equal(from_hub(folder, filename="more/other-1.0.safetensors").values, 2 * vector().values)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(from_hub("you/v").values, vector().values)  # goes before a repository of that name
    with pytest.raises(caa.InputError, match="revision: 'main' was given for the folder"):
        from_hub(folder, revision="main")
    with pytest.raises(caa.InputError, match=r"vector file .*none.safetensors: there is no such file"):
        from_hub(folder, filename="none.safetensors")
    for place in ("./none", "~/none-of-it", "/none", "a/b/c"):
        with pytest.raises(caa.InputError, match=f"repo_id: '{place}' is not a folder. Check the path, or give"):
            from_hub(place)
    with pytest.raises(caa.InputError, match="repo_id: list; give 'owner/name', or a folder"):
        from_hub([])


def test_a_vector_fits_its_model(tmp_path, tiny_llama, pairs):
    one = caa.extract_vector(tiny_llama, pairs, behavior="weather")
    folder = save_for_hub(one, tmp_path / "v")
    assert from_hub(folder, model=tiny_llama).metadata["model"] == "tiny-llama"
    with pytest.raises(caa.errors.VectorMismatchError, match="its width is 5"):
        from_hub(save_for_hub(vector(), tmp_path / "w"), model=tiny_llama)
    assert "caa.load_model('tiny-llama')" in (folder / "README.md").read_text()


def test_offline_the_hub_is_not_asked(tmp_path):
    with pytest.raises(
        caa.errors.ModelError, match=r"'you/no-such-vector': Hugging Face's client is set to work offline, and"
    ):
        from_hub("you/no-such-vector")
    with pytest.raises(caa.errors.ModelError, match=r"'you/v': .*offline. Unset HF_HUB_OFFLINE"):
        push_to_hub(save_for_hub(vector(), tmp_path / "v"), "you/v")


# The safety audit of a card


def findings(**change):
    rows = {"vector": "sycophancy", "layer": 2, "multiplier": math.nan, "n": 30, "control_low": -0.02}
    rows |= {"control_high": 0.03, "n_controls": 5, "verdict": "steers", "confidence": 0.95}
    estimates = {
        "cosine": ("refusal vector", 0.41),
        "requests": ("harmless requests", 0.12),
        "behaviors": ("refusal", 0.2),
    }
    found = [
        {
            **rows,
            "part": part,
            "measured": name,
            "estimate": value,
            "estimate_low": value - 0.1,
            "estimate_high": value + 0.1,
        }
        for part, (name, value) in estimates.items()
    ]
    answers = {
        "part": "answers",
        "measured": "borderline requests",
        "estimate": 0.3,
        "multiplier": 2.0,
        "n_controls": 0,
    }
    return pd.DataFrame([*found, {**found[0], **answers}]).assign(**change)


def test_a_card_says_what_an_audit_found_and_what_it_does_not_show():
    card = model_card(vector(), audit=findings())
    rows = cells(card, "Safety audit")
    assert [row["measured"] for row in rows] == [
        "cosine with the refusal vector",
        "harmless requests: slope toward openings that refuse, nats per token",
        "refusal: slope",
        "borderline requests: change of the share of refusals at multiplier 2",
    ]
    assert rows[0]["estimate"] == "0.41"  # a cosine of two given vectors has no interval
    assert rows[1] == {
        **{"measured": rows[1]["measured"], "vector": "sycophancy", "estimate": "0.12 (0.02 to 0.22)", "items": "30"},
        **{"controls": "-0.02 to 0.03", "in a word": "steers"},
    }
    assert rows[3]["controls"] == "none"
    assert "Not shown: harmful requests" in card
    assert "other behaviors, knowledge" not in card
    without = model_card(vector())
    assert "Safety audit" not in without
    assert "other behaviors, knowledge" in without


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vector": "other"}, "audit: it is of 'other', and the vector is 'sycophancy'"),
        ({"layer": 99}, "audit: its layers are"),
    ],
)
def test_an_audit_of_another_vector_is_refused(change, message):
    with pytest.raises(caa.InputError, match=message):
        model_card(vector(), audit=findings(**change))
