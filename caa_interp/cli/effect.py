"""The words that a vector makes the model expect more, and less."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caa_interp.cli import options
from caa_interp.cli.output import check_target, print_json, print_table, records, say
from caa_interp.cli.vectors import load_for, read_vector


def effect_lens(
    vector: options.VectorFile,
    behavior: options.BehaviorName,
    layers: options.LayersOption = None,
    controls: Annotated[int, typer.Option(min=0, help="Number of random control vectors of the same norms.")] = 1,
    words_only: Annotated[bool, typer.Option("--words-only", help="Rank whole words only.")] = False,
    figure: Annotated[Path | None, typer.Option(help="File for the figure, .html; default: none.")] = None,
    model: options.ModelOfVector = None,
    style: options.StyleOption = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Show what a vector makes the model say: the tokens whose log-probability it changes most.

    The model reads the answers of a behavior's test pairs, steered with multipliers -1 and 1.

    Example: caa-interp effect-lens optimism.safetensors optimism --layers 18 --words-only
    """
    if figure is not None:
        check_target(figure, (".html",), force)
    from caa_interp.analysis.effect import effect_lens as read
    from caa_interp.behaviors.behavior import load_behavior
    from caa_interp.evaluation.controls import random_vectors
    from caa_interp.plotting.effect import plot_effect_lens
    from caa_interp.plotting.export import save_figure

    loaded, asked = read_vector(vector), load_behavior(behavior)
    named = {loaded.name: loaded, **(random_vectors(loaded, controls, seed=seed) if controls else {})}
    subject, form = load_for(loaded, vector, model, style, device, dtype)
    table = read(subject, named, asked.test, layers=layers, words_only=words_only, prompt_format=form)
    if figure is not None:
        save_figure(plot_effect_lens(table), figure)
    say(f"{len(asked.test)} test pairs of {asked.name}; each token with its effect, in nats per unit of multiplier")
    if as_json:
        print_json(records(table))
        return
    shown = table.assign(tokens=table["token"] + table["effect"].map(" {:+.2f}".format))
    rows = shown.groupby(["layer", "vector", "side"], sort=False)["tokens"].agg("  ".join)
    print_table(rows.reset_index())
