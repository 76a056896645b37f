"""Whole studies: the demo, a study from a config file, its page, and the paper's tables."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caa_interp.cli import options
from caa_interp.cli.output import print_facts

if TYPE_CHECKING:
    from caa_interp.study.config import ExperimentConfig


def demo(
    folder: Annotated[Path, typer.Option(help="Folder of the run; what is finished there is kept.")] = Path("demo"),
    model: options.Model = options.EMBEDDED,
    behavior: Annotated[
        str, typer.Option(help="Name of a behavior, or a .json file.", autocompletion=options.complete_behavior)
    ] = "optimism",
) -> None:
    """Run a small study on a real chat model, from contrast pairs to a page of figures.

    Example: caa-interp demo --folder demo
    """
    from caa_interp.study.demo import run_demo

    run_demo(folder, model=model, behavior=behavior, say=typer.echo)


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The study, a .toml file.")],
    folder: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Folder of the run; what is finished there is kept. Default: runs/NAME."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of processes, here or with --ray; default: one, or as many as the cluster has room for."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A running Ray cluster that does the work, such as auto."),
    ] = None,
    cpus_per_worker: Annotated[int | None, typer.Option(min=1, help="CPUs per worker, with --ray; default: 1.")] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs per worker, with --ray; default: 0.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the file, and print what would be done.")] = False,
) -> None:
    """Run the study of a config file, or continue it: vectors, tables, figures and a page.

    Ctrl-C stops it, and the same command continues it. With --workers several processes of this machine share the work,
    and its GPUs; with --ray, those of a cluster.

    Example: caa-interp run study.toml --folder runs/study
    """
    per_worker = {"cpus_per_worker": cpus_per_worker, "gpus_per_worker": gpus_per_worker}
    given = {name: value for name, value in per_worker.items() if value is not None}
    if given and ray is None:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise typer.BadParameter(f"{names}: only for workers of a Ray cluster. Add --ray, or leave it out.")
    from caa_interp.study.config import ExperimentConfig

    study = ExperimentConfig.load(config)
    if check:
        _print_plan(study)
        return
    from caa_interp.study.processes import Processes
    from caa_interp.study.ray_workers import RayWorkers
    from caa_interp.study.run import run_experiment

    executor: Any = nullcontext()
    if ray is not None:
        executor = RayWorkers(workers, address=ray, **given)  # type: ignore[arg-type]
    elif workers is not None:
        executor = Processes(workers)
    with executor as spread:
        where = folder or Path("runs") / config.stem
        run_experiment(study, where, executor=spread, progress=True, say=typer.echo)


def _print_plan(study: ExperimentConfig) -> None:
    """Print the size of a study, as far as it is known before a model is loaded."""
    from caa_interp.cli.available import known_depth
    from caa_interp.study.chosen import Study
    from caa_interp.study.kinds import every_task

    depths = [known_depth(model.name) for model in study.models]
    # How pairs are split depends on whether there is more than one layer, and not on how many.
    combined = [at for one in study.combinations for part in one.interventions for at in part.layers or ()]
    least = max((1, *(study.layers or ()), *combined)) + 1
    planned = [Study.planned(study, depth or least) for depth in depths]
    typer.echo(f"{study.name}: the file is valid.\n")
    print_facts(
        {
            name: f"{len(train)} train, {len(validation)} validation, {len(test)} test pairs"
            for name, (train, validation, test) in planned[0].splits.items()
        }
    )
    controls = study.controls.random + study.controls.orthogonal + study.controls.shuffled
    for model, depth, one in zip(study.models, depths, planned, strict=True):
        known = study.layers is not None or depth is not None
        told = f"{len(one.layers)} layers" if known else "all layers (their number is known once the model is loaded)"
        typer.echo(
            f"\n{model.name}\n  every test pair at {len(study.multipliers)} multipliers and {told}\n"
            f"  {controls} controls for each behavior at the chosen layer\n  {len(every_task(one))} pieces of work"
        )


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]) -> None:
    """Write the page of a run again, from its tables.

    Example: caa-interp report runs/study
    """
    from caa_interp.study.page import write_page

    write_page(run)
    typer.echo(f"The page: {(run / 'report.html').resolve()}")


def _read_prices(text: str) -> options.Values:
    """Read ``"2.5,10"`` as two prices."""
    prices = options.read_multipliers(text)
    if len(prices) != 2:
        raise typer.BadParameter(f"{text!r}: give two prices separated by a comma, such as 2.5,10.")
    return prices


def reproduce(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder for vectors, tables and the page; results of an earlier run are reused where they fit."
        ),
    ],
    data: Annotated[
        Path, typer.Option(help="Folder of data fetch caa, a copy of github.com/nrimsky/CAA, or <behavior>.json files.")
    ],
    model: options.Model = "meta-llama/Llama-2-7b-chat-hf",
    behaviors: Annotated[
        options.Values | None,
        typer.Option(
            parser=options.read_names, metavar="NAMES", help="Separated by commas; default: the paper's seven."
        ),
    ] = None,
    layers: options.LayersOption = None,
    dtype: options.Dtype = None,
    parts: Annotated[
        options.Values | None,
        typer.Option(
            parser=options.read_names,
            metavar="NAMES",
            help="Of activations, sweep, system_prompts, finetuning, open_ended, exams, similarity, transfer, tokens; "
            "default: all but finetuning.",
            autocompletion=options.completing(lambda: resolve_name("caa_interp.paper.parts:PARTS")),
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The chat model's base model, whose vectors are added to the chat model.")
    ] = None,
    system_prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='JSON, {behavior: {"positive": text, "negative": text}}; default: those of the packaged behaviors.',
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model that rates open-ended answers, on the server $OPENAI_BASE_URL (default: OpenAI's), with "
            "$OPENAI_API_KEY.",
        ),
    ] = None,
    judge_prices: Annotated[
        options.Values | None,
        typer.Option(
            parser=_read_prices,
            metavar="IN,OUT",
            help="Dollars for a million tokens that the judge reads and writes, to estimate its cost.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that share the work.")] = 1,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the input, and print what the work would take on this machine.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 3 if any claim on the page does not hold.")
    ] = False,
) -> None:
    """Measure the paper's results again, and print them beside the published numbers.

    Example: caa-interp reproduce llama-2-7b --data CAA --parts sweep,exams
    """
    from caa_interp.evaluation.judges import OpenAIJudge
    from caa_interp.paper import published as paper

    asked: dict[str, Any] = {"behaviors": behaviors or paper.BEHAVIORS, "layers": layers, "dtype": dtype}
    asked |= {"model_name": model, "base_name": base, "parts": parts, "system_prompts": system_prompts}
    asked |= {"judge": None if judge is None else OpenAIJudge(judge), "judge_prices": judge_prices}
    if check:
        from caa_interp.paper.estimate import estimate_reproduction

        typer.echo(estimate_reproduction(data, say=typer.echo, **asked).to_string(index=False))
        return
    from caa_interp.paper.reproduction import reproduce as measure_again
    from caa_interp.paper.table import all_claims
    from caa_interp.study.processes import Processes

    with nullcontext() if workers == 1 else Processes(workers) as executor:
        comparison = measure_again(folder, data, executor=executor, progress=True, say=typer.echo, **asked)
    held = [claim.holds for _, claim in all_claims(comparison)]
    if strict and not held:
        typer.echo("--strict: there is nothing to judge. No claim is made about any cell.")
    if strict and not all(held):
        raise typer.Exit(3)
