"""Similarity per token: every value stands at its own token, in the table and in the figure."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.models.readout import token_texts
from caa_interp.prompts.format import PromptFormat
from tests.oracles import definition

TEXT = "I like the rain, the garden\nand the sea."
QUESTION, ANSWER = "What do you think of the weather?", "I like it very much."


def random_vector(seed: int = 0, **metadata) -> caa.SteeringVector:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(3 * values, (0, 1, 2, 3), {"model": "tiny-llama", "behavior": "cheer", **metadata})


VECTOR = random_vector()
COLUMNS = [
    "vector",
    "position",
    "token",
    "token_id",
    "part",
    "layer",
    "cosine",
    "projection",
    "special",
    "model",
    "prompt_digest",
]


def test_a_steered_text_that_overflows_is_an_error(tiny_folder):
    model = caa.load_model(tiny_folder, device="cpu", dtype="float16", progress=False)
    with (
        caa.steer(model, VECTOR, 0, 1e6, positions="all"),
        pytest.raises(
            caa.errors.ModelError, match=r"^text 'I like the rain.*: what the model computes is not a number"
        ),
    ):
        caa.token_similarity(model, TEXT, VECTOR)


@pytest.mark.parametrize(("layers", "expected_layers"), [(None, range(4)), ([3, 0], [3, 0]), (2, [2])])
def test_each_row_is_its_tokens_similarity(tiny_llama, plain_llama, tokenizer, layers, expected_layers):
    table = caa.token_similarity(tiny_llama, TEXT, VECTOR, layers=layers)
    ids = tokenizer(TEXT)["input_ids"]
    outputs = definition.block_outputs(plain_llama, ids)
    rows = []
    for layer in expected_layers:
        for position, token_id in enumerate(ids):
            residual, vector = outputs[layer, position].double().numpy(), VECTOR.at(layer).double().numpy()
            dot, length = np.dot(residual, vector), np.linalg.norm(vector)
            rows.append(
                (position, token_id, layer, dot / length / np.linalg.norm(residual), dot / length, token_id == ids[0])
            )
    expected = pd.DataFrame(rows, columns=["position", "token_id", "layer", "cosine", "projection", "special"])
    assert list(table.columns) == COLUMNS
    pd.testing.assert_frame_equal(table[list(expected)], expected, rtol=1e-3, atol=1e-4)
    assert set(table["part"]) == {"prompt"}
    assert table["token"].tolist() == token_texts(tokenizer, ids) * table["layer"].nunique()
    assert table[["vector", "model"]].drop_duplicates().values.tolist() == [["cheer", "tiny-llama"]]
    assert not table.attrs


def test_a_direction_planted_at_one_token_is_found_there_and_nowhere_else(tiny_folder):
    """The embedding of one token becomes a long copy of the direction, and blocks add nothing."""
    model = caa.load_model(tiny_folder, device="cpu", dtype="float32")
    (planted,) = {i for i in model.tokenizer(TEXT)["input_ids"] if model.tokenizer.decode([i]) == " garden"}
    with torch.no_grad():
        for name, weight in model.original_model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
            if "embed_tokens" in name:
                weight -= (weight @ VECTOR.at(1))[:, None] * VECTOR.at(1) / VECTOR.at(1).square().sum()
                weight[planted] = 2 * VECTOR.at(1)
    table = caa.token_similarity(model, TEXT, VECTOR, layers=1)
    at = table["token_id"] == planted
    assert table.loc[at, "token"].tolist() == ["␣garden"]
    assert table.loc[at, "cosine"].tolist() == pytest.approx([1.0])
    assert table.loc[at, "projection"].tolist() == pytest.approx([2 * float(VECTOR.at(1).norm())])
    assert table.loc[~at, "cosine"].abs().max() < 1e-5
    fig = caa.plot_token_similarity(table)
    shown = dict(zip(fig.data[0].text, fig.data[0].marker.color, strict=True))
    assert shown.pop("␣garden") == "rgb(0, 62, 107)"
    assert set(shown.values()) == {"rgb(247, 247, 245)"}


def test_a_change_at_one_position_changes_that_row(tiny_llama):
    def add(residual, hook):
        residual = residual.clone()
        residual[:, 5] += 100 * VECTOR.at(2)
        return residual

    before = caa.token_similarity(tiny_llama, TEXT, VECTOR, layers=2)
    with tiny_llama.hooks(fwd_hooks=[("blocks.2.hook_resid_post", add)]):
        after = caa.token_similarity(tiny_llama, TEXT, VECTOR, layers=2)
    change = after["projection"] - before["projection"]
    assert change[5] == pytest.approx(100 * float(VECTOR.at(2).norm()), rel=1e-4)
    assert change.drop(5).abs().max() == 0


def test_prompt_and_answer(tiny_llama, tokenizer):
    table = caa.token_similarity(tiny_llama, QUESTION, VECTOR, answer=ANSWER, layers=[1, 3])
    form = PromptFormat.of(tiny_llama)
    prompt, whole = form.tokens(QUESTION).tokens, form.tokens(QUESTION, ANSWER).tokens
    for _, rows in table.groupby("layer"):
        assert rows["token_id"].tolist() == list(whole)
        assert rows["position"].tolist() == list(range(len(whole)))
        answer = rows[rows["part"] == "answer"]
        assert answer["position"].tolist() == list(range(len(prompt), len(whole)))
        assert "".join(answer["token"]) == "␣" + ANSWER.replace(" ", "␣")
    alone = caa.token_similarity(tiny_llama, QUESTION, VECTOR, answer="", layers=[1])
    assert alone["token_id"].tolist() == list(prompt)
    assert set(alone["part"]) == {"prompt"}
    system = caa.token_similarity(tiny_llama, QUESTION, VECTOR, answer="", system_prompt="Be kind.", layers=[1])
    assert system["token_id"].tolist() == list(form.tokens(QUESTION, "", "Be kind.").tokens)


def test_special_tokens_are_marked_also_where_padding_is_written_out(tiny_llama, tokenizer, plain_llama):
    table = caa.token_similarity(tiny_llama, "The rain<pad> and the sea</s> too", VECTOR, layers=3)
    assert table.loc[table["special"], "token"].tolist() == ["<s>", "<pad>", "</s>"]
    residual = definition.block_outputs(plain_llama, table["token_id"].tolist())[3]
    expected = torch.nn.functional.cosine_similarity(residual, VECTOR.at(3)[None])
    np.testing.assert_allclose(table["cosine"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", ["", " \n", None, 3])
def test_a_text_that_is_none(tiny_llama, text):
    with pytest.raises(caa.InputError, match=r"text: .* is not a text; give a non-empty string"):
        caa.token_similarity(tiny_llama, text, VECTOR)
    with pytest.raises(caa.InputError, match=r"text: .* is not a text; give a non-empty string"):
        caa.token_similarity(tiny_llama, text, VECTOR, answer="Yes")


def test_a_text_with_half_a_character_is_refused(tiny_llama):
    with pytest.raises(caa.InputError, match="text: it holds half a character"):
        caa.token_similarity(tiny_llama, "Is it \ud83d?", VECTOR)


def test_other_input_that_is_refused(tiny_llama):
    with pytest.raises(caa.InputError, match=r"text: .* tokens, but the model's context holds 256\. Shorten it"):
        caa.token_similarity(tiny_llama, "rain " * 400, VECTOR)
    with pytest.raises(caa.InputError, match="answer: 3 is not a text; give a string, or None for a plain text"):
        caa.token_similarity(tiny_llama, TEXT, VECTOR, answer=3)
    with pytest.raises(caa.InputError, match=r"system_prompt: a plain text has no place for it\. Give answer"):
        caa.token_similarity(tiny_llama, TEXT, VECTOR, system_prompt="Be kind.")
    with pytest.raises(caa.InputError, match="layer 9: the vector has layers 0 to 3"):
        caa.token_similarity(tiny_llama, TEXT, VECTOR, layers=9)
    with pytest.raises(caa.errors.VectorMismatchError, match="it was made from 'another'"):
        caa.token_similarity(tiny_llama, TEXT, random_vector(model="another"))
    zero = caa.SteeringVector(torch.zeros(1, 64), (2,), {})
    with pytest.raises(caa.InputError, match=r"vector: it is zero at layer 2, so it has no direction there\. Leave"):
        caa.token_similarity(tiny_llama, TEXT, zero)


# The figure


@pytest.fixture(scope="module")
def table(tiny_llama):
    return caa.token_similarity(tiny_llama, QUESTION + "\nAnd of the sea?", VECTOR, answer=40 * ANSWER[:-1])


def boxes(fig):
    """Everything that is drawn for each token, in the order of positions."""
    rows = [
        (*data, text, base, width, line, color)
        for trace in fig.data
        if trace.type == "bar"
        for data, text, base, width, line, color in zip(
            trace.customdata,
            trace.text,
            trace.base,
            trace.x,
            trace.y,
            [trace.marker.color] * len(trace.x) if isinstance(trace.marker.color, str) else trace.marker.color,
            strict=True,
        )
    ]
    names = ["position", "part", "cosine", "projection", "text", "base", "width", "line", "color"]
    return pd.DataFrame(rows, columns=names).sort_values("position", ignore_index=True)


def scale(fig):
    """Marker of the trace that has the color bar."""
    (trace,) = fig.select_traces("scatter")
    return trace.marker


def colors(values, marker):
    """Color of each value by a trace's scale, channel by channel."""
    stops = [place for place, _ in marker.colorscale]
    channels = [[int(color[i : i + 2], 16) for _, color in marker.colorscale] for i in (1, 3, 5)]
    places = (np.asarray(values) - marker.cmin) / (marker.cmax - marker.cmin)
    return np.stack([np.interp(places, stops, channel) for channel in channels], axis=1)


@pytest.mark.parametrize("measure", ["cosine", "projection"])
def test_each_box_has_its_tokens_text_and_color(table, measure):
    fig = caa.plot_token_similarity(table.sample(frac=1, random_state=0), layer=2, measure=measure)
    rows = table[table["layer"] == 2].reset_index(drop=True)
    shown = boxes(fig)
    assert shown["position"].tolist() == rows["position"].tolist()
    assert shown["text"].str.replace("&lt;", "<").str.replace("&gt;", ">").tolist() == rows["token"].tolist()
    for name, form in (("cosine", "+.3f"), ("projection", "+.3f")):
        assert [float(text.replace("\N{MINUS SIGN}", "-")) for text in shown[name]] == pytest.approx(
            rows[name], rel=0.01, abs=0.001
        ), form
    ordinary = ~rows["special"]
    marker = scale(fig)
    drawn = [[int(part) for part in re.findall(r"\d+", color)] for color in shown.loc[ordinary, "color"]]
    np.testing.assert_allclose(drawn, colors(rows.loc[ordinary, measure], marker), atol=1)
    assert set(shown.loc[rows["special"], "color"]) == {"#E4E7EB"}
    assert rows["special"].sum() == 1
    assert marker.cmin == -marker.cmax
    assert measure in marker.colorbar.title.text
    assert "layer 2" in fig.layout.title.text


def test_the_boxes_follow_each_other_in_lines_and_do_not_overlap(table):
    shown = boxes(caa.plot_token_similarity(table, layer=2))
    ends = shown["base"] + shown["width"]
    assert (shown["width"] > shown["text"].str.len().clip(upper=3)).all()
    assert ends.max() <= caa.plot_token_similarity(table, layer=2).layout.xaxis.range[1]
    same_line = shown["line"].diff() == 0
    np.testing.assert_allclose(shown["base"][same_line], ends.shift()[same_line])
    assert (shown["base"][~same_line] == 0).all()
    assert set(shown["line"].diff().dropna()) == {0, 1}


def test_a_line_ends_at_a_line_break_and_where_the_answer_begins(table):
    fig = caa.plot_token_similarity(table, layer=2)
    shown = boxes(fig)
    after_break = shown["text"].shift(fill_value="").str.endswith(r"\n")
    assert after_break.sum() == 2
    new_line = shown["line"].diff() == 1
    assert new_line[after_break].all()
    answer = shown.index[shown["part"] == "answer"][0]
    assert new_line[answer]
    assert list(fig.layout.yaxis.ticktext) == ["answer", "prompt"]
    assert list(fig.layout.yaxis.tickvals) == [shown["line"][answer], 0]


def test_a_written_backslash_is_no_line_break(table):
    rows = table[table["layer"] == 2].assign(token=r"\\n")
    shown = boxes(caa.plot_token_similarity(rows))
    assert shown["line"].nunique() < len(shown) / 5


def test_a_token_that_looks_like_markup_is_shown_as_it_is(table):
    rows = table[(table["layer"] == 2) & ~table["special"]].assign(token="<b>&$x$")
    assert set(boxes(caa.plot_token_similarity(rows))["text"]) == {"&lt;b&gt;&amp;&#36;x&#36;"}
    (heatmap,) = caa.plot_token_similarity(table.assign(token="<b>&$x$")).data
    assert {text.split("<br>")[0] for text in np.ravel(heatmap.customdata)} == {"&lt;b&gt;&amp;&#36;x&#36;"}


def test_a_token_that_is_longer_than_a_line_is_cut(table):
    rows = table[table["layer"] == 2].assign(token="-" * 300)
    fig = caa.plot_token_similarity(rows)
    shown = boxes(fig)
    assert (shown["base"] + shown["width"]).max() <= fig.layout.xaxis.range[1]
    assert shown["text"].str.endswith("…").all()


def test_chinese_letters_take_two_columns(table):
    rows = table[table["layer"] == 2]
    narrow, wide = (boxes(caa.plot_token_similarity(rows.assign(token=text)))["width"][0] for text in ("ab", "你好"))
    assert wide == narrow + 2


def test_the_first_token_and_special_ones_do_not_set_the_colors(table):
    rows = table[table["layer"] == 2].reset_index(drop=True)
    limit = scale(caa.plot_token_similarity(rows, measure="projection")).cmax
    assert limit == pytest.approx(rows.loc[~rows["special"], "projection"].abs().quantile(0.95))
    huge = rows.assign(projection=rows["projection"].where(rows["position"] > 0, 1e6))
    assert scale(caa.plot_token_similarity(huge, measure="projection")).cmax == limit
    huge = huge.assign(special=False)
    assert scale(caa.plot_token_similarity(huge, measure="projection")).cmax == limit


def test_a_value_that_is_missing_has_no_color_of_its_own(table):
    rows = table[(table["layer"] == 2) & ~table["special"]].reset_index(drop=True)
    shown = boxes(caa.plot_token_similarity(rows.assign(cosine=rows["cosine"].where(rows.index != 3))))
    assert shown["color"][3] == "white"


def test_several_layers_make_a_map(table):
    fig = caa.plot_token_similarity(table.sample(frac=1, random_state=0), measure="projection")
    (heatmap,) = fig.data
    for row, layer in enumerate(range(4)):
        expected = table[table["layer"] == layer]
        assert list(heatmap.z[row]) == expected["projection"].tolist()
    assert list(heatmap.y) == ["0", "1", "2", "3"]
    assert list(heatmap.x) == table["position"].unique().tolist()
    labels = [label.split(">")[1].split("<")[0] if "span" in label else label for label in fig.layout.xaxis.ticktext]
    step = fig.layout.xaxis.tickvals[1]
    tokens = table.drop_duplicates("position")["token"]
    assert [label.replace("&lt;", "<").replace("&gt;", ">") for label in labels] == tokens.tolist()[::step]
    assert heatmap.zmin == -heatmap.zmax


def test_a_missing_cell_of_the_map_stays_empty(table):
    missing = (table["layer"] == 1) & (table["position"] == 3)
    (heatmap,) = caa.plot_token_similarity(table[~missing]).data
    assert np.isnan(heatmap.z[1][3])
    assert np.isnan(heatmap.z).sum() == 1


def test_the_figure_refuses_what_it_cannot_show(table):
    with pytest.raises(caa.InputError, match=r"columns \['special'\] are missing.*caa_interp.token_similarity"):
        caa.plot_token_similarity(table.drop(columns="special"))
    with pytest.raises(caa.InputError, match="measure: 'dot' is not one of 'cosine', 'projection'"):
        caa.plot_token_similarity(table, measure="dot")
    with pytest.raises(caa.InputError, match=r"layer: 8 is not in the table; it holds \[0, 1, 2, 3\]"):
        caa.plot_token_similarity(table, layer=8)
    with pytest.raises(
        caa.InputError, match=r"\['layer', 'position'\] twice; give the result of one call of caa_interp\.token_sim"
    ):
        caa.plot_token_similarity(pd.concat([table, table]))


def test_the_table_is_left_as_it_was(table):
    before = table.copy(deep=True)
    assert caa.plot_token_similarity(table, layer=1).to_json() == caa.plot_token_similarity(table, layer=1).to_json()
    caa.plot_token_similarity(table)
    pd.testing.assert_frame_equal(table, before)
