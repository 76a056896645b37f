"""What the paper looks at inside the model: activations by layer, vectors across layers, tokens, and steered states.

1. Activations of both answer letters of all generate items in two principal components, at a few layers.
2. Cosines between the vectors of all layers, and between behaviors at each layer.
3. The cosine of the vector with every token of an open-ended question and of the unsteered answer.
4. The states at the end of a multiple-choice question, decoded by the unembedding while the model is steered.

The paper has figures of these and no numbers, so there is nothing to put beside them.
"""

from __future__ import annotations

from collections.abc import Iterator

from caa_interp.paper import published as paper
from caa_interp.paper.setting import Setting, Shown, Tables
from caa_interp.plotting.lens import plot_steered_lens
from caa_interp.plotting.projection import plot_projection
from caa_interp.plotting.tokens import plot_token_similarity
from caa_interp.report.page import Section
from caa_interp.study.results import Results
from caa_interp.study.sections import N_DRAWN, similarity
from caa_interp.study.tasks import Task, task_of

_DECODED = 6  # layers whose states are decoded


def activation_tasks(setting: Setting) -> Iterator[Task]:
    """The activations of each behavior."""
    n = setting.n_layers
    layers = sorted({n // 6, n // 4, n // 3, setting.layer, n // 2, 2 * n // 3})
    asked = {"layers": layers, "format": setting.config.format, "system_prompt": None}
    for name, one in setting.items.sets.items():
        given = {"behavior": name, "pairs": one.generate, **asked}
        yield task_of("projection", name, "activations", given)


def show_activations(setting: Setting, tables: Tables) -> Shown:
    """Activations of both sides."""
    told = (
        "Activations at the letters of both answers. Each panel is one layer with components of its own, fitted to all "
        f"generate items, of which at most the first {N_DRAWN} are drawn. In the paper the sides separate suddenly, "
        "about a third of the way in."
    )
    sections = [Section("Activations", told)]
    for name, table in tables["projection"].groupby("behavior", sort=False):
        drawn = table[table["item"].isin(table["item"].drop_duplicates()[:N_DRAWN])]
        figure = plot_projection(drawn, symbol="letter", title=f"Activations of {name}")
        sections.append(Section(str(name), f"{table['item'].nunique()} items.", figure, level=3))
    return Shown(sections)


def show_similarity(setting: Setting, _: Tables) -> Shown:
    """Cosines of the vectors, which need no further work."""
    return Shown(similarity(Results({}, setting.raw, setting.config.seed)))


def token_tasks(setting: Setting) -> Iterator[Task]:
    """The tokens of one question and its answer, and the steered states at the end of another."""
    last = setting.n_layers - 1
    steps = range(_DECODED)
    layers = sorted({setting.layer + (last - setting.layer) * step // (_DECODED - 1) for step in steps})
    for name, one in setting.items.sets.items():
        vector, asked = setting.vectors[name], one.test[0].question
        text = one.open_ended[0] if one.open_ended else asked
        given = {"text": text, "vector": vector, "layers": [setting.layer], "max_new_tokens": paper.MAX_NEW_TOKENS}
        yield task_of("token_similarity", name, "tokens of an answer", given)
        steered = {**setting.steered(name), "layer": setting.layer, "layers": layers, "answer": "("}
        yield task_of("steered_lens", name, "steered states", {**steered, "prompt": asked})


def show_tokens(setting: Setting, tables: Tables) -> Shown:
    """Both figures of each behavior."""
    told = (
        f"The cosine of the vector of layer {setting.layer} with the residual stream at each token of the behavior's "
        "first open-ended question, or of its first test question if there is none, and of the unsteered answer."
    )
    sections = [Section("Similarity of tokens", told)]
    for name, table in tables["token_similarity"].groupby("behavior", sort=False):
        sections.append(Section(str(name), "", plot_token_similarity(table), level=3))
    told = (
        "Tokens to which the states at the opening bracket of the answer decode, through the final norm and the "
        f"unembedding, for each behavior's first test question, with its vector added after layer {setting.layer}."
    )
    sections.append(Section("Decoding while steering", told))
    for name, table in tables["steered_lens"].groupby("behavior", sort=False):
        sections.append(Section(str(name), "", plot_steered_lens(table), level=3))
    return Shown(sections)
