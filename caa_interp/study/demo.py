"""A small study that needs no config: one behavior of one model, from contrast pairs to a page of figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from caa_interp.behaviors.behavior import load_behavior
from caa_interp.models.loading import EMBEDDED, depth_of
from caa_interp.study.config import Answers, Controls, Costs, ExperimentConfig, ModelConfig, SideEffects
from caa_interp.study.run import run_experiment

MULTIPLIERS = (-2.0, -1.0, 0.0, 1.0, 2.0)
ANSWERED = (-2.0, 0.0, 1.0, 2.0)  # so many columns of answers as a page is wide

THREE_CALLS = """vector = caa.extract_vector(model, train, format="text")
table  = caa.sweep(model, vector, behavior.test, layers={layer}, multipliers={multipliers})
texts  = caa.generate(model, behavior.open_ended, vector=vector, layer={layer}, multipliers={answered})"""


def demo_config(model: str = EMBEDDED, behavior: str = "optimism") -> ExperimentConfig:
    """The study of :func:`run_demo`: some minutes on two cores with the embedded model."""
    depth, pairs, given = depth_of(model), load_behavior(behavior), ModelConfig(name=model)
    step, n_validation = max(1, depth // 6), min(10, len(pairs.train) - 1)
    return ExperimentConfig(
        name=f"Steering {given.id}: {pairs.name}",
        models=(given,),
        behaviors=(behavior,),
        format="text",
        layers=tuple(range(step, depth, step)) or None,  # spread over the depth
        multipliers=MULTIPLIERS,
        n_validation=n_validation,
        n_train=min(80, len(pairs.train) - n_validation),
        n_test=min(24, len(pairs.test)),
        controls=Controls(random=4, shuffled=0),
        answers=Answers(prompts=6, multipliers=ANSWERED),
        costs=Costs(passages=0, questions=0, prompts=0),
        side_effects=SideEffects(pairs=0),
    )


def run_demo(
    folder: str | Path, *, model: str = EMBEDDED, behavior: str = "optimism", say: Callable[[str], None] = print
) -> Path:
    """Run the study of :func:`demo_config` into a folder, or continue it, and say which three calls it stands for."""
    run_experiment(demo_config(model, behavior), folder, progress=True, say=say)
    chosen = pd.read_parquet(Path(folder) / "tables" / "layers.parquet").iloc[0]
    calls = THREE_CALLS.format(layer=chosen["layer"], multipliers=MULTIPLIERS, answered=ANSWERED)
    train = f"`train` is {chosen['n_train']} of the pairs that `caa.evaluation.validation_split` leaves"
    say(f"The three calls behind it, where {train}:\n\n{calls}")
    return Path(folder)
