"""What vectors are, what they make the model say, and how far texts lie along them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caa_interp.cli import options
from caa_interp.cli.output import check_target, print_json, print_table, records, say, write_table
from caa_interp.cli.vectors import applied_by, load_for, read_vector, with_controls
from caa_interp.errors import InputError
from caa_interp.files import slug

if TYPE_CHECKING:
    import pandas as pd

    from caa_interp.vectors.vector import SteeringVector

_LONGEST = 100  # letters of a text in the printed table


def analyze(
    files: Annotated[list[Path], typer.Argument(metavar="VECTOR", help=".safetensors files of vectors.")],
    model: options.ModelOfVector = None,
    layers: options.LayersOption = None,
    folder: Annotated[Path | None, typer.Option(help="Folder for the tables and figures; default: none.")] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Show norms and cosine similarities of vectors and, through their model, the tokens that they promote.

    If the model is not on this machine, the tokens are left out; only with --model is it downloaded for them.

    Example: caa-interp analyze optimism.safetensors --layers 10-14
    """
    import pandas as pd

    from caa_interp.analysis.similarity import cosine_similarity
    from caa_interp.models.access import check_layers

    vectors = named_files(files)
    norms = [
        {"vector": name, "layer": layer, "norm": float(vector.at(layer).norm())}
        for name, vector in vectors.items()
        for layer in check_layers(layers, vector.layers, f"the vector {name!r}")
    ]
    tables = {
        "norms": pd.DataFrame(norms),
        "between_layers": cosine_similarity(vectors, between="layers", layers=layers),
    }
    if len(vectors) > 1:
        tables["between_vectors"] = cosine_similarity(vectors, between="vectors", layers=layers)
    lens = _lens(vectors, model, layers, device, dtype)
    if lens is not None:
        tables["logit_lens"] = lens
    if folder is not None:
        _write(tables, folder)
    if as_json:
        print_json({name: records(table) for name, table in tables.items()})
    else:
        _print(tables)


def named_files(files: list[Path]) -> dict[str, SteeringVector]:
    """Vectors by the first kind of name in which all of them differ."""
    if len({file.resolve() for file in files}) < len(files):
        raise InputError(f"vectors: {', '.join(map(str, files))} names a file twice; name each once.")
    loaded = [read_vector(file) for file in files]
    kinds = [[one.name for one in loaded], [file.stem for file in files], list(map(str, files))]
    names = next(names for names in kinds if len(set(names)) == len(files))
    return dict(zip(names, loaded, strict=True))


def _lens(
    vectors: Mapping[str, SteeringVector],
    model: str | None,
    layers: tuple[int, ...] | None,
    device: str | None,
    dtype: str | None,
) -> pd.DataFrame | None:
    """Logit lens of the vectors whose model is given or here; None if there is none."""
    import pandas as pd

    from caa_interp.analysis.lens import logit_lens
    from caa_interp.cli.available import is_here
    from caa_interp.models import load_model

    by_model: dict[str, dict[str, SteeringVector]] = {}
    for name, vector in vectors.items():
        own = model or vector.metadata.get("model")
        if own is None:
            say(f"{name}: no tokens, since the file does not say which model it was made from. Give --model.")
        elif model is None and not is_here(own):
            say(f"{name}: no tokens, since its model {own!r} is not on this machine. Give --model to load it.")
        else:
            by_model.setdefault(own, {})[name] = vector
    parts: list[pd.DataFrame] = []
    for own, named in by_model.items():
        loaded = load_model(own, device=device, dtype=dtype)
        parts += [logit_lens(loaded, one, layers=layers).assign(vector=name) for name, one in named.items()]
    if not parts:
        return None
    lens = pd.concat(parts, ignore_index=True)
    return lens[["vector", *lens.columns.drop("vector")]]


def _write(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write tables and figures: ``tables/NAME.parquet``, ``figures/NAME.html``."""
    from caa_interp.plotting.export import save_figure
    from caa_interp.plotting.lens import plot_logit_lens
    from caa_interp.plotting.similarity import plot_cosine_similarity

    for name, table in tables.items():
        write_table(table, folder / "tables" / f"{name}.parquet")
    figures = {name: plot_cosine_similarity(table) for name, table in tables.items() if name.startswith("between")}
    if "logit_lens" in tables:
        lens = tables["logit_lens"]
        for name in dict.fromkeys(lens["vector"]):
            file, number = f"logit_lens-{slug(name)}", 1
            # Two names may be one as a file, on some disks also if they differ in case.
            while file.lower() in map(str.lower, figures):
                number += 1
                file = f"logit_lens-{slug(name)}-{number}"
            figures[file] = plot_logit_lens(lens[lens["vector"] == name])
    for name, figure in figures.items():
        save_figure(figure, folder / "figures" / f"{name}.html")
    say(f"{len(tables)} tables and {len(figures)} figures in {folder}")


def _print(tables: Mapping[str, pd.DataFrame]) -> None:
    norms, cosines = tables["norms"], tables["between_layers"].set_index(["first", "first_layer", "second_layer"])
    following = norms.groupby("vector", sort=False)["layer"].shift(-1)
    to_next = [
        float(cosines["cosine"].get(step, math.nan))
        for step in zip(norms["vector"], norms["layer"], following, strict=True)
    ]
    typer.echo("Norms, and cosine similarity to the layer of the next row")
    print_table(norms.assign(to_next=to_next).round(3))
    if "between_vectors" in tables:
        table = tables["between_vectors"]
        typer.echo(
            "\nCosine similarity of vectors at the same layer; that of two random directions lies within "
            f"{table['chance'].iloc[0]:.3f} of 0, 95 % of the time"
        )
        number = {name: n for n, name in enumerate(dict.fromkeys(table["first"]))}
        rows = table[table["first"].map(number) < table["second"].map(number)]
        shown = rows[["first", "second", "first_layer", "cosine"]].round(3)
        print_table(shown.rename(columns={"first_layer": "layer"}))
    if "logit_lens" in tables:
        typer.echo("\nTokens that the vector promotes and suppresses most, through the final norm and unembedding")
        lens = tables["logit_lens"].groupby(["vector", "layer", "side"], sort=False)["token"].agg("  ".join)
        print_table(lens.rename("tokens").reset_index())


def effect_lens(
    vector: options.VectorFile,
    behavior: options.BehaviorName,
    layers: options.LayersOption = None,
    controls: options.ControlsOption = 1,
    words_only: Annotated[bool, typer.Option("--words-only", help="Rank whole words only.")] = False,
    operator: options.OperatorOption = options.ADD,
    positions: options.PositionsOption = options.FROM_LAST_PROMPT_TOKEN,
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

    The model reads the answers of a behavior's test pairs, steered with multipliers -1 and 1, or 0 and 1 under an
    operator that is complete at 1.

    Example: caa-interp effect-lens optimism.safetensors optimism --layers 18 --words-only
    """
    if figure is not None:
        check_target(figure, (".html",), force)
    from caa_interp.analysis.effect import effect_lens as read
    from caa_interp.behaviors.behavior import load_behavior
    from caa_interp.models.access import check_layers
    from caa_interp.plotting.effect import plot_effect_lens
    from caa_interp.plotting.export import save_figure

    applied = applied_by(operator, positions)
    loaded, asked = read_vector(vector), load_behavior(behavior)
    named = with_controls(loaded, controls, seed)
    check_layers(layers, loaded.layers, f"the vector {loaded.name!r}")
    subject, form = load_for(loaded, vector, model, style, device, dtype)
    table = read(subject, named, asked.test, layers=layers, words_only=words_only, prompt_format=form, **applied)
    if figure is not None:
        save_figure(plot_effect_lens(table), figure)
    say(f"{len(asked.test)} test pairs of {asked.name}; each token with its effect, in nats per unit of multiplier")
    if as_json:
        print_json(records(table))
        return
    shown = table.assign(tokens=table["token"] + table["effect"].map(" {:+.2f}".format))
    rows = shown.groupby(["layer", "vector", "side"], sort=False)["tokens"].agg("  ".join)
    print_table(rows.reset_index())


def monitor(
    texts: Annotated[Path, typer.Argument(metavar="TEXTS", help="File of texts or conversations, .jsonl or .parquet.")],
    files: Annotated[list[Path], typer.Argument(metavar="VECTOR...", help=".safetensors files of vectors.")],
    layer: Annotated[int, typer.Option(min=0, help="0-based block index.")],
    column: Annotated[
        str | None, typer.Option(help="Field with the text or messages; default: text, else messages.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of Parquet files, written during the run; a stopped run goes on where it was."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of most and of least aligned texts to print.")] = 5,
    model: options.ModelOfVector = None,
    style: options.StyleOption = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Project texts, or turns of conversations, onto vectors, and print the most and the least aligned ones.

    z is in standard deviations of neutral prose, read by the same model. With --out the whole table is saved.

    Example: caa-interp monitor chats.jsonl optimism.safetensors --layer 12 --out chats.parquet
    """
    from caa_interp.analysis.monitor import monitor as read
    from caa_interp.behaviors.texts import iterate_texts
    from caa_interp.models.access import check_layers

    iterate_texts(texts, column)  # says at once if there is no such file
    vectors = named_files(files)
    for one, vector in vectors.items():
        check_layers([layer], vector.layers, f"the vector {one!r}")
    subject, form = load_for(next(iter(vectors.values())), files[0], model, style, device, dtype)
    table = read(subject, vectors, texts, layer=layer, column=column, output=out, prompt_format=form)
    say(f"{table['item'].nunique()} rows of {texts}, layer {layer}, model {table['model'].iloc[0]}")
    found = {}
    for name, own in table.groupby("vector", sort=False):
        most, least = own.nlargest(top, "z"), own.nsmallest(top, "z")
        found[str(name)] = {"most aligned": most, "least aligned": least.drop(most.index, errors="ignore")}
    if as_json:
        print_json({name: {end: records(rows) for end, rows in ends.items()} for name, ends in found.items()})
        return
    for number, (name, ends) in enumerate(found.items()):
        for end, rows in ends.items():
            if len(rows):
                typer.echo("\n" * (number > 0 or end != "most aligned") + f"{end} with {name}")
                _print_texts(rows)


def _print_texts(rows: pd.DataFrame) -> None:
    """Print z, place and text, the place as far as rows have turns."""
    columns = ["z", "item", *(["turn", "role"] if (rows["role"] != "").any() else []), "n_tokens", "text"]
    print_table(rows.assign(z=rows["z"].round(2), text=rows["text"].map(_shortened))[columns])


def _shortened(text: str) -> str:
    """A text in one line, cut where it is long; not between words, which some languages write without spaces."""
    one = " ".join(text.split())
    return one if len(one) <= _LONGEST else f"{one[: _LONGEST - 3].rstrip()}..."
