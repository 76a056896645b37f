"""From contrast pairs to a page of figures: the shortest complete study, on any model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from caa_interp.analysis.projection import project
from caa_interp.behaviors.behavior import load_behavior
from caa_interp.evaluation.controls import random_vectors
from caa_interp.evaluation.dose_response import validation_split
from caa_interp.evaluation.summary import choose_layer, steerability
from caa_interp.evaluation.sweep import sweep
from caa_interp.files import write_atomically
from caa_interp.models import EMBEDDED, load_model
from caa_interp.models.access import n_layers
from caa_interp.plotting.dose_response import plot_dose_response
from caa_interp.plotting.projection import plot_projection
from caa_interp.plotting.sweep import plot_sweep
from caa_interp.report.page import Section, write_report
from caa_interp.steering.generation import generate
from caa_interp.vectors.activations import collect_activations
from caa_interp.vectors.extraction import extract_vector

N_VALIDATION = 10
N_RANDOM = 5
N_OPEN_ENDED = 6
MULTIPLIERS = (-2.0, -1.0, 0.0, 1.0, 2.0)
ANSWERED = (-2.0, 0.0, 1.0, 2.0)  # so many columns of answers as a page is wide

THREE_CALLS = """vector = caa.extract_vector(model, train, format="text")
table  = caa.sweep(model, vector, behavior.test, layers={layer}, multipliers={multipliers})
texts  = caa.generate(model, behavior.open_ended, vector=vector, layer={layer}, multipliers={answered})"""


def run_demo(
    folder: str | Path,
    *,
    model_name: str = EMBEDDED,
    behavior_name: str = "optimism",
    max_new_tokens: int = 60,
    say: Callable[[str], None] = print,
) -> Path:
    """Extract a vector, choose a layer, measure on held-out pairs, generate, and write a page; return its path.

    Vector, tables and page are written into ``folder``. Answers are steered at multipliers at which the effect is
    measured. ``say`` is called with each line of progress.
    """
    folder = Path(folder)
    behavior = load_behavior(behavior_name)
    say(f"Loading {model_name} (the first time it is converted, which takes half a minute)")
    model = load_model(model_name)
    say(f"{behavior!r}")

    # No pair has two uses: train pairs make the vector, validation pairs choose the layer, and every effect below is
    # measured on test pairs.
    train, validation = validation_split(behavior.train, min(N_VALIDATION, len(behavior.train) - 1))
    vector = extract_vector(model, train, format="text", behavior=behavior.name, progress=True)
    vector.save(folder / "vectors" / f"{behavior.name}.safetensors")

    by_layer = sweep(model, vector, validation)
    layer = choose_layer(by_layer)
    say(f"Layer with the steepest response on {len(validation)} validation pairs: {layer} of {n_layers(model)}")

    vectors = {behavior.name: vector, **random_vectors(vector, N_RANDOM, seed=0)}
    held_out = sweep(model, vectors, behavior.test, layers=layer, multipliers=MULTIPLIERS)
    slopes = steerability(held_out)
    effect = slopes[slopes["vector"] == behavior.name].iloc[0]
    controls = slopes[slopes["vector"] != behavior.name]["slope"]

    shown_layers = sorted({n_layers(model) // 6, n_layers(model) // 3, layer})
    activations = collect_activations(model, behavior.test, format="text", layers=shown_layers, progress=True)
    asked = behavior.open_ended[:N_OPEN_ENDED]
    answers = generate(model, asked, vector=vector, layer=layer, multipliers=ANSWERED, max_new_tokens=max_new_tokens)
    points = project(activations)
    for name, table in {"layers": by_layer, "held_out": held_out, "projection": points, "answers": answers}.items():
        write_atomically(folder / "tables" / f"{name}.parquet", table.to_parquet(index=False))
    finding = (
        f"On {int(effect.n)} held-out pairs the log-probability difference between the {behavior.name} answer and "
        f"its opposite changes by {effect.slope:+.3f} nats per token for each unit of multiplier (95 % interval "
        f"{effect.slope_low:+.3f} to {effect.slope_high:+.3f}); {N_RANDOM} random vectors of the same norm reach "
        f"{controls.min():+.3f} to {controls.max():+.3f}."
    )
    say(finding)
    calls = THREE_CALLS.format(layer=layer, multipliers=MULTIPLIERS, answered=ANSWERED)
    shown = answers.assign(answer=answers["answer"].where(answers["finished"], answers["answer"] + " …"))
    wide = shown.pivot(index="prompt", columns="multiplier", values="answer").loc[answers["prompt"].unique()]
    wide.columns = [f"multiplier {multiplier:+g}" if multiplier else "unsteered" for multiplier in wide.columns]
    sections = [
        Section(
            "Response on held-out pairs",
            "The steered log-probability difference between the two answers, beside random vectors of the same norm. "
            "Vertical bars are bootstrap intervals over pairs.",
            plot_dose_response(held_out),
        ),
        Section(
            "Steered answers",
            f"Greedy answers to questions that are in neither set, steered at layer {layer}. Nothing was selected. "
            f"An ellipsis marks answers that were cut after {max_new_tokens} tokens.",
            table=wide.reset_index(),
        ),
        Section(
            "Which layers respond",
            "The vector of each layer is added after that layer, from the last token of the prompt on. Shown for "
            f"validation pairs, which the vector is not made from; on them layer {layer} was chosen.",
            plot_sweep(by_layer),
        ),
        Section(
            "Activations of the two sides",
            "Held-out answers at an early layer, at a third of the depth and at the chosen layer. The first "
            "components hold what differs most between the answers, which need not be the behavior.",
            plot_projection(points),
        ),
        Section(
            "The three calls that made this page",
            "Everything else is drawing. `train` is what `caa.evaluation.validation_split` leaves of the behavior's "
            "train pairs; on the others the layer was chosen, as the map of layers shows.",
            code=calls,
        ),
    ]
    title, lead = f"Steering {model_name}: {behavior.name}", f"{behavior.description} {finding}"
    page = write_report(folder / "report.html", title, sections, lead=lead)
    say(f"\nThe page: {page.resolve()}\nThe three calls that made it:\n\n{calls}")
    return page
