"""Draw the pictures of docs/gallery.md and of how-tos from the packaged pairs and the embedded model.

    python docs/gallery.py [--activations FOLDER] [PICTURE ...]

Without names it draws all, in about fifteen minutes on two CPU cores. Activations, which take two of them, are kept in
the folder, if one is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

import caa_interp as caa

IMAGES = Path(__file__).parent / "images"
EFFECTS = Path(__file__).parents[1] / "data" / "_effects.csv"
FORMAT = "text"
BEHAVIOR = "optimism"
LAYER = 18
EVERY = 10  # of 200 train pairs
EVERY_ALONE, LAYER_ALONE = 2, 15  # where one behavior is read at one layer
SEED = 0
QUESTION, BEGUN = "How do you feel about the new year?", "I am so"
STORY = (
    "Most attempts fail, and this one will too. But the next may be wonderful, and you will be glad that you stayed."
)


class Study:
    """What several pictures are drawn from, each part made when it is first needed."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @cached_property
    def model(self) -> Any:
        """The embedded chat model."""
        return caa.load_model()

    @cached_property
    def behaviors(self) -> dict[str, caa.Behavior]:
        """All packaged behaviors."""
        return caa.load_behaviors()

    @cached_property
    def activations(self) -> dict[str, caa.Activations]:
        """Activations of some train pairs of every behavior, kept in the folder."""
        return {name: self._activations(name, name, EVERY) for name in self.behaviors}

    @cached_property
    def vectors(self) -> dict[str, caa.SteeringVector]:
        """Mean difference of every behavior's activations."""
        return {name: caa.vectors.vector_from_activations(one, behavior=name) for name, one in self.activations.items()}

    @cached_property
    def many(self) -> caa.Activations:
        """Activations of more train pairs of one behavior, at one layer, kept in the folder."""
        return self._activations(f"{BEHAVIOR}-layer-{LAYER_ALONE}", BEHAVIOR, EVERY_ALONE, layers=LAYER_ALONE)

    @cached_property
    def letters(self) -> caa.Activations:
        """Activations of one behavior's same train pairs at the letters of their answers, kept in the folder."""
        return self._activations(f"{BEHAVIOR}-letters", BEHAVIOR, EVERY, form="choices")

    @property
    def vector(self) -> caa.SteeringVector:
        """The vector that is looked at from all sides."""
        return self.vectors[BEHAVIOR]

    @cached_property
    def controlled(self) -> pd.DataFrame:
        """Sweep of one behavior's test pairs at one layer, beside three kinds of controls."""
        vectors = {
            BEHAVIOR: self.vector,
            **caa.random_vectors(self.vector, 3, seed=SEED),
            **caa.evaluation.orthogonal_vectors(self.vector, 3, seed=SEED + 1),
            **caa.shuffled_vectors(self.activations[BEHAVIOR], 3, seed=SEED),
        }
        pairs = self.behaviors[BEHAVIOR].test[::4]
        return caa.sweep(self.model, vectors, pairs, format=FORMAT, layers=LAYER, multipliers=(-2, -1, 0, 1, 2))

    @cached_property
    def by_letter(self) -> pd.DataFrame:
        """Scores of two behaviors in the paper's form, with the vectors of some layers."""
        layers, names = (2, 6, 12, 18, 24, 28), ("hallucination", "refusal")
        some = {name: self.behaviors[name].train[:8] for name in names}
        vectors = caa.match_norms({name: caa.extract_vector(self.model, some[name], behavior=name) for name in names})
        tables = [
            caa.sweep(self.model, {name: vectors[name]}, self.behaviors[name].test[:8], layers=layers) for name in names
        ]
        return caa.summarize(pd.concat(tables).assign(behavior=lambda rows: rows["vector"]))

    def _activations(self, name: str, behavior: str, every: int, form: str = FORMAT, **options: Any) -> caa.Activations:
        file = self.folder / f"{name}.safetensors" if self.folder else None
        if file and file.is_file():
            return caa.Activations.load(file)
        found = caa.collect_activations(self.model, self.behaviors[behavior].train[::every], format=form, **options)
        if file:
            found.save(file)
        return found


def baselines(study: Study) -> go.Figure:
    """System prompts and examples, alone and with the vector on top."""
    table = caa.baselines(
        study.model,
        study.vector,
        study.behaviors[BEHAVIOR],
        layer=LAYER,
        multipliers=(-2, 0, 2),
        format=FORMAT,
        n_pairs=8,
        n_shots=2,
        seed=SEED,
    )
    return caa.plot_baselines(table)


def cosine_similarity(study: Study) -> go.Figure:
    """Vectors of all behaviors at one layer."""
    return caa.plot_cosine_similarity(caa.cosine_similarity(study.vectors), layer=LAYER)


def cost(study: Study) -> go.Figure:
    """Prose, own answers and questions, beside a random vector."""
    vectors = {BEHAVIOR: study.vector, **caa.random_vectors(study.vector, 1, seed=SEED)}
    doses = {"layers": LAYER, "multipliers": (-8, -4, 0, 4, 8)}
    prose = caa.perplexity(study.model, vectors, caa.load_prose()[:4], max_tokens=96, **doses)
    drift = caa.divergence(study.model, vectors, study.behaviors[BEHAVIOR].open_ended[:4], n_tokens=24, **doses)
    questions = caa.load_questions("capability", per_subject=2, seed=SEED)
    return caa.plot_cost(prose, drift, caa.capability(study.model, vectors, questions, format=FORMAT, **doses))


def frontier(study: Study) -> go.Figure:
    """A vector and a system prompt, beside random vectors, over their distance from the model's own answers."""
    behavior = study.behaviors[BEHAVIOR]
    vectors = {BEHAVIOR: study.vector, **caa.random_vectors(study.vector, 3, seed=SEED)}
    pairs, prompts, name = behavior.test[::5], behavior.open_ended[:6], "positive system prompt"
    doses = {"layers": LAYER, "multipliers": (-8, -4, -2, 0, 2, 4, 8)}
    alone = {"layers": LAYER, "multipliers": (0,)}
    asked = behavior.system_prompts["positive"]
    steered = caa.sweep(study.model, vectors, pairs, format=FORMAT, **doses)
    prompted = caa.sweep(study.model, study.vector, pairs, format=FORMAT, system_prompt=asked, **alone)
    drift = caa.divergence(study.model, vectors, prompts, n_tokens=24, **doses)
    moved = caa.divergence(study.model, study.vector, prompts, n_tokens=24, baselines={name: asked}, **alone)
    effects = pd.concat([steered.assign(baseline="none"), prompted.assign(baseline=name)])
    costs = pd.concat([drift.assign(baseline="none"), moved[moved["baseline"] == name]])
    return caa.plotting.plot_frontier(caa.evaluation.frontier(effects, costs))


def data_curve(study: Study) -> go.Figure:
    """One behavior, from 3 pairs to 100."""
    pairs = study.behaviors[BEHAVIOR].test[::6]
    table = caa.analysis.data_curve(study.model, study.many, pairs, layer=LAYER_ALONE, n_draws=5, seed=SEED)
    return caa.plotting.plot_data_curve({BEHAVIOR: table}, title=f"How many pairs the {BEHAVIOR} vector needs")


def decomposition(study: Study) -> go.Figure:
    """The vector in what the neurons of its block write."""
    neurons = study.model.blocks[LAYER].mlp.W_out.detach().cpu()
    dictionary = caa.analysis.SparseAutoencoder(neurons, neurons.new_zeros(neurons.shape[1]))
    table = caa.analysis.decompose(study.vector, dictionary, layer=LAYER, n_features=12, seed=SEED)
    return caa.plotting.plot_decomposition(table, title=f"{BEHAVIOR} in the neurons of block {LAYER}")


def dose_response(study: Study) -> go.Figure:
    """One behavior beside three kinds of controls."""
    return caa.plot_dose_response(study.controlled, pairs=study.behaviors[BEHAVIOR].test[::4])


def dose_responses(study: Study) -> go.Figure:
    """Every behavior beside two kinds of controls."""
    table = caa.dose_response(
        study.model,
        study.behaviors,
        format=FORMAT,
        n_train=16,
        n_test=6,
        layers=LAYER,
        multipliers=(-2, 0, 2),
        n_random=2,
        n_shuffled=2,
        seed=SEED,
    )
    return caa.plot_dose_responses(table)


def steerability(_: Study) -> go.Figure:
    """Every packaged set, as ``python -m benchmarks.effects`` measured it: vectors on all pairs, controls on some."""
    table = pd.read_csv(EFFECTS)
    measured = table[table["pairs"].isin(["packaged", "published"])]
    compared = table[table["pairs"].str.endswith("first 24") & (table["kind"] != "vector")]
    drawn = pd.concat([measured, compared.assign(pairs=compared["pairs"].str.removesuffix(", first 24"))])
    return caa.plot_steerability(drawn.assign(format=FORMAT, pairs=drawn["pairs"] + " test pairs"))


def influence(study: Study) -> go.Figure:
    """Every pair of one behavior."""
    table = caa.analysis.influence(study.many)
    return caa.plotting.plot_influence(table, title=f"What each pair does to the {BEHAVIOR} vector")


def predicted_steerability(study: Study) -> go.Figure:
    """All behaviors at every third layer, each with the vector of its few pairs, on every fifth held-out pair."""
    layers = range(5, 30, 3)
    reliabilities = {name: caa.reliability(one, layers=layers) for name, one in study.activations.items()}
    effects = {
        name: caa.steerability(
            caa.sweep(study.model, study.vectors[name], behavior.test[::5], layers=layers, multipliers=(-1, 1))
        )
        for name, behavior in study.behaviors.items()
    }
    table = caa.analysis.predict_steerability(reliabilities, effects)
    return caa.plotting.plot_predicted_steerability(table)


def monitor(study: Study) -> go.Figure:
    """Held-out conversations whose first answer is optimistic and whose second is not, beside a random vector."""
    vector = caa.vectors.vector_from_activations(study.many, behavior=BEHAVIOR)
    test = study.behaviors[BEHAVIOR].test
    talks = [
        [
            {"role": "user", "content": first.question},
            {"role": "assistant", "content": first.positive},
            {"role": "user", "content": second.question},
            {"role": "assistant", "content": second.negative},
        ]
        for first, second in zip(test[::2], test[1::2], strict=True)
    ]
    vectors = {BEHAVIOR: vector, **caa.random_vectors(vector, 1, seed=SEED)}
    return caa.plotting.plot_monitor(caa.analysis.monitor(study.model, vectors, talks, layer=LAYER_ALONE))


def logit_lens(study: Study) -> go.Figure:
    """Every other layer from the sixth on."""
    return caa.plot_logit_lens(caa.logit_lens(study.model, study.vector, layers=range(5, 30, 2), top_k=5))


def projection(study: Study) -> go.Figure:
    """Both sides of one behavior at six layers."""
    table = caa.project(study.activations[BEHAVIOR], layers=(0, 5, 10, 15, 20, 29))
    return caa.plot_projection(table, title=f"{BEHAVIOR}: answers by layer")


def reliability(study: Study) -> go.Figure:
    """Three vectors whose pairs agree to different degrees."""
    names = ("refusal", BEHAVIOR, "myopic-reward")
    tables = {name: caa.reliability(study.activations[name], seed=SEED) for name in names}
    return caa.plot_reliability(tables, title="Reliability of three vectors")


def separation(study: Study) -> go.Figure:
    """Every fourth held-out pair of one behavior at three layers."""
    pairs = study.behaviors[BEHAVIOR].test[::4]
    held_out = caa.collect_activations(study.model, pairs, format=FORMAT, layers=(5, 15, 25))
    return caa.plotting.plot_separation(caa.analysis.separation(held_out, study.vector))


def layer_profile(study: Study) -> go.Figure:
    """Three behaviors at every fourth layer, beside two random vectors each."""
    tables = {}
    for name in ("refusal", BEHAVIOR, "sycophancy"):
        vectors = {name: study.vectors[name], **caa.random_vectors(study.vectors[name], 2, seed=SEED)}
        pairs = study.behaviors[name].test[::6]
        swept = caa.sweep(study.model, vectors, pairs, format=FORMAT, layers=range(1, 30, 4), multipliers=(-1, 1))
        tables[name] = caa.steerability(swept)
    return caa.plotting.plot_layer_profile(pd.concat(tables, names=["behavior"]).reset_index("behavior"))


def scores(study: Study) -> go.Figure:
    """Answers judged by the model that wrote them."""
    behavior = study.behaviors[BEHAVIOR]
    answers = caa.generate(
        study.model,
        behavior.open_ended[:6],
        vector=study.vector,
        layer=LAYER,
        multipliers=(-6, -3, 0, 3, 6),
        max_new_tokens=30,
    )
    judged = caa.judge_answers(answers, behavior.rubric, caa.evaluation.LocalJudge(study.model))
    return caa.plot_scores(judged.assign(behavior=BEHAVIOR))


def side_effects(study: Study) -> go.Figure:
    """Every vector on every behavior, at equal norms."""
    vectors = caa.match_norms(study.vectors)
    table = caa.evaluation.side_effects(
        study.model, vectors, study.behaviors, layers=LAYER, format=FORMAT, multipliers=(-2, 2), n_pairs=4
    )
    return caa.plotting.plot_side_effects(table)


def interference(study: Study) -> go.Figure:
    """Three vectors, two at a time, with a few questions that have a right answer."""
    names = (BEHAVIOR, "refusal", "sycophancy")
    measured = {name: study.behaviors[name].test[::8] for name in names}
    questions = caa.load_questions("capability", per_subject=1, seed=SEED)[::2]
    prompts = study.behaviors["hallucination"].open_ended[:3]
    vectors = {name: study.vectors[name] for name in names}
    options = {"layers": LAYER, "questions": questions, "n_tokens": 16}
    table = caa.evaluation.interference(study.model, vectors, measured, prompts, **options)
    return caa.plotting.plot_interference(table)


def safety_audit(study: Study) -> go.Figure:
    """One vector on a few pairs of every behavior and a few requests; answers take most of the time."""
    refusal = study.activations["refusal"]
    compared = {"refusal": study.vectors["refusal"], **caa.shuffled_vectors(refusal, 10, seed=SEED)}
    table = caa.evaluation.safety_audit(
        study.model,
        study.vectors["sycophancy"],
        layer=LAYER,
        multipliers=(-4, 0, 4),
        refusal=compared,
        n_pairs=4,
        n_requests=6,
        n_random=2,
        seed=SEED,
    )
    return caa.plotting.plot_safety_audit(table)


def persistence(study: Study) -> go.Figure:
    """Four conversations of three turns, in which every pair takes every turn, beside a random vector."""
    pairs = study.behaviors[BEHAVIOR].test[:4]
    talks = [[*pairs[n:], *pairs[:n]][:3] for n in range(len(pairs))]
    vectors = {BEHAVIOR: study.vector, **caa.random_vectors(study.vector, 1, seed=SEED)}
    steering = {name: caa.Intervention(one, LAYER, 4) for name, one in vectors.items()}
    table = caa.evaluation.persistence(study.model, steering, talks, max_new_tokens=16)
    return caa.plotting.plot_persistence(table)


def effect_lens(study: Study) -> go.Figure:
    """Two vectors, each beside a random one of the same norm, along held-out pairs; below them a random one itself."""
    tables = {}
    for name in (BEHAVIOR, "sycophancy"):
        vectors = {name: study.vectors[name], **caa.random_vectors(study.vectors[name], 1, seed=SEED)}
        pairs = study.behaviors[name].test[:12]
        tables[name] = caa.effect_lens(study.model, vectors, pairs, layers=LAYER, words_only=True)
    of_chance = tables[BEHAVIOR].query("kind == 'random'")
    tables["random"] = of_chance.assign(kind="vector", vector="a random vector")
    table = pd.concat(tables, names=["behavior"]).reset_index("behavior").reset_index(drop=True)
    return caa.plot_effect_lens(table).update_traces(marker_color=caa.plotting.theme.NEUTRAL, row=3)


def steered_lens(study: Study) -> go.Figure:
    """The upper half of the model, unsteered and steered both ways."""
    table = caa.steered_lens(
        study.model,
        QUESTION,
        study.vector,
        layer=LAYER,
        multipliers=(-6, 0, 6),
        layers=range(17, 30, 2),
        answer=BEGUN,
    )
    return caa.plot_steered_lens(table)


def effect_attribution(study: Study) -> go.Figure:
    """The first held-out pairs; random vectors are not set back part by part, which takes most of the time."""
    pairs, controls = study.behaviors[BEHAVIOR].test[:8], caa.random_vectors(study.vector, 2, seed=SEED)
    parts = caa.analysis.effect_attribution(study.model, study.vector, pairs, layer=LAYER)
    of_controls = caa.analysis.effect_attribution(study.model, controls, pairs, layer=LAYER, patch=False)
    return caa.plotting.plot_effect_attribution(pd.concat([parts, of_controls]))


def position_map(study: Study) -> go.Figure:
    """The first held-out pairs, beside random vectors."""
    vectors = {BEHAVIOR: study.vector, **caa.random_vectors(study.vector, 3, seed=SEED)}
    table = caa.analysis.position_map(study.model, vectors, study.behaviors[BEHAVIOR].test[:12], layer=LAYER)
    return caa.plotting.plot_position_map(table)


def sweep(study: Study) -> go.Figure:
    """Every other layer."""
    table = caa.sweep(
        study.model,
        study.vector,
        study.behaviors[BEHAVIOR].test[::12],
        format=FORMAT,
        layers=range(0, 30, 2),
        multipliers=(-2, -1, 0, 1, 2),
    )
    return caa.plot_sweep(table)


def token_similarity(study: Study) -> go.Figure:
    """An answer that turns from gloomy to cheerful."""
    prompt = "Will my novel find readers?"
    table = caa.token_similarity(study.model, prompt, study.vector, layers=LAYER, answer=STORY)
    return caa.plot_token_similarity(table)


def transfer(study: Study) -> go.Figure:
    """Every sixth layer's vector at every sixth layer."""
    layers = range(4, 29, 6)
    pairs = study.behaviors[BEHAVIOR].test[::3]
    table = caa.analysis.transfer(
        study.model, study.vector, pairs, source_layers=layers, layers=layers, multipliers=(-2, 2), format=FORMAT
    )
    return caa.plotting.plot_transfer(table)


def reproduction(study: Study) -> go.Figure:
    """A table of the paper's form at one layer."""
    return caa.plotting.plot_reproduction(caa.paper.compare(study.by_letter.query("layer == 12"), None, "other items"))


def layer_sweep(study: Study) -> go.Figure:
    """One behavior of the same scores."""
    return caa.plotting.plot_layer_sweep(study.by_letter, None, behavior="refusal")


def layer_sweeps(_: Study) -> go.Figure:
    """The paper's own sweep of Llama 2 7B Chat."""
    rows = "group == 'layer_sweep' and model == 'meta-llama/Llama-2-7b-chat-hf'"
    return caa.plotting.plot_layer_sweeps(caa.paper.numbers().query(rows))


def vector_map(study: Study) -> go.Figure:
    """All behaviors through the layers."""
    return caa.plotting.plot_vector_map(caa.analysis.project_vectors(study.vectors, layers=range(5, 30)))


def weight_alignment(study: Study) -> go.Figure:
    """All blocks, for the vector of one layer."""
    table = caa.analysis.weight_alignment(study.model, study.vector, layer=LAYER)
    return caa.plotting.plot_weight_alignment(table, title=f"Weights along the {BEHAVIOR} vector of layer {LAYER}")


def forms(study: Study) -> go.Figure:
    """One behavior's vector from texts and from letters, at equal norms beside random ones, on the same texts."""
    letters = caa.vectors.vector_from_activations(study.letters, behavior=BEHAVIOR)
    vectors = caa.match_norms({"from texts": study.vector, "from letters": letters})
    vectors |= caa.random_vectors(vectors["from texts"], 3, seed=SEED)
    pairs = study.behaviors[BEHAVIOR].test[::4]
    table = caa.sweep(study.model, vectors, pairs, format=FORMAT, layers=LAYER, multipliers=(-2, -1, 0, 1, 2))
    return caa.plot_dose_response(table)


def positions(study: Study) -> go.Figure:
    """The same vector added from the last token of the prompt on, and at every position."""
    pairs = study.behaviors[BEHAVIOR].test[::4]
    places: dict[str, Any] = {"from the last prompt token on": "from_last_prompt_token", "at every position": "all"}
    doses = {"layers": LAYER, "multipliers": (-2, -1, 0, 1, 2)}
    tables = [
        caa.sweep(study.model, {name: study.vector}, pairs, positions=where, **doses) for name, where in places.items()
    ]
    return caa.plot_dose_response(pd.concat(tables))


PICTURES: dict[str, Callable[[Study], go.Figure]] = {
    draw.__name__: draw
    for draw in (
        projection,
        separation,
        sweep,
        layer_profile,
        dose_response,
        dose_responses,
        steerability,
        scores,
        cosine_similarity,
        vector_map,
        reliability,
        data_curve,
        influence,
        predicted_steerability,
        monitor,
        side_effects,
        interference,
        safety_audit,
        persistence,
        cost,
        frontier,
        transfer,
        reproduction,
        layer_sweep,
        layer_sweeps,
        logit_lens,
        effect_lens,
        steered_lens,
        effect_attribution,
        position_map,
        token_similarity,
        weight_alignment,
        decomposition,
        baselines,
    )
}
# Two uses of one function, each for a how-to.
HOWTO_PICTURES = {draw.__name__: draw for draw in (forms, positions)}


def main() -> None:
    """Draw the pictures that are named on the command line, or all."""
    every = PICTURES | HOWTO_PICTURES
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/gallery.md and of how-tos.")
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help=f"any of {', '.join(every)}; default: all")
    parser.add_argument("--activations", type=Path, metavar="FOLDER", help="where activations are kept")
    given = parser.parse_args()
    if unknown := sorted(set(given.pictures) - set(every)):
        parser.error(f"there is no picture {unknown[0]!r}; choose from {', '.join(every)}")
    study = Study(given.activations)
    for name in given.pictures or every:
        prefix = "plot" if name in PICTURES else "howto"
        print(caa.save_figure(every[name](study), IMAGES / f"{prefix}_{name}.png"), flush=True)


if __name__ == "__main__":
    main()
