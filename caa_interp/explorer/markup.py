"""HTML of answers, lenses and whole pages, from tables; all that a model or a user wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from plotly.colors import sample_colorscale

from caa_interp.explorer.trials import Record, Trial
from caa_interp.plotting import theme
from caa_interp.plotting.words import numbers

CURSOR = "▍"
# Cards side by side, as many as there is room for.
COLUMNS = "repeat(auto-fit, minmax(230px, 1fr))"
STYLE = f"""<style>
.caa-cards {{ display: grid; grid-template-columns: {COLUMNS}; gap: 10px }}
.caa-card {{ position: relative; padding: 10px 12px; border: 1px solid #d3dae1; border-top: 3px solid;
  border-radius: 3px; background: white; color: #1f2933; font: 14px/1.6 Helvetica, Arial, 'DejaVu Sans', sans-serif;
  min-height: 150px }}
.caa-note {{ color: #52606d; font-size: 12.5px; line-height: 1.4 }}
.caa-text {{ margin: 6px 0; white-space: pre-wrap; overflow-wrap: anywhere }}
.caa-token {{ border-radius: 2px }}
.caa-new {{ text-decoration: underline; text-underline-offset: 3px }}
.caa-token:hover {{ outline: 1px solid #1f2933 }}
.caa-token:hover::after {{ content: attr(data-read); position: absolute; left: 12px; margin-top: 1.8em; z-index: 9;
  padding: 6px 9px; border-radius: 3px; background: #1f2933; color: white; font: 12px/1.45 {theme.MONOSPACE};
  white-space: pre; pointer-events: none }}
.caa-words {{ border-collapse: collapse; margin: 8px 24px 8px 2px; color: #1f2933; background: white;
  font: 13px/1.5 Helvetica, Arial, 'DejaVu Sans', sans-serif; display: inline-block; vertical-align: top }}
.caa-words th, .caa-words td {{ text-align: left; padding: 1px 16px 1px 8px; font-weight: normal }}
.caa-words thead th {{ color: #52606d; border-bottom: 1px solid #d3dae1 }}
.caa-words caption {{ text-align: left; font-weight: bold; padding: 2px 8px; white-space: nowrap }}
.caa-words td {{ font-family: {theme.MONOSPACE}; vertical-align: top }}
.caa-status {{ margin: 4px 2px; line-height: 1.4; color: var(--jp-ui-font-color2, #52606d); overflow-wrap: anywhere }}
.caa-failure {{ color: #b00020; white-space: pre-wrap }}
</style>"""


class Measure(NamedTuple):
    """What colors tokens: a column, where its colors end, and what the page says of it."""

    column: str
    limit: float
    said: str


MEASURES = {
    "effect": Measure("change", 3.0, "change of log-probability by the steering, in nats; colors end at ±3"),
    "similarity": Measure(
        "cosine", 0.15, "cosine of the unsteered residual stream with the vector; colors end at ±0.15"
    ),
}


def card(trial: Trial, record: Record | None, measure: Measure, prompt: str, reference: str | None, busy: bool) -> str:
    """One answer: its tokens colored, and words that are not in the ``reference``, the unsteered answer, underlined.

    The prompt is named if it is another than ``prompt``.
    """
    text, note = "", ""
    if record is not None and (record.written or record.ends):
        text = _text(record, measure, reference)
        answer = record.answer
        note = f"{len(answer.tokens)} tokens, {'' if answer.finished else 'not '}ended by the model"
    color = theme.sign_color(trial.added[0].multiplier if trial.added else 0.0)
    asked = "" if trial.prompt == prompt else f"<div class='caa-note'>“{escape(trial.prompt)}”</div>"
    return (
        f"<div class='caa-card' style='border-top-color: {color}'>{asked}"
        f"<div class='caa-note'>{escape(str(trial))}</div><div class='caa-text'>{text}{CURSOR if busy else ''}</div>"
        f"<div class='caa-note'>{'' if busy else note}</div></div>"
    )


def _text(record: Record, measure: Measure, reference: str | None) -> str:
    text, table = record.answer.text, record.tokens
    if table is None:
        return escape(text)
    pieces = [text[begin:end] for begin, end in pairwise([0, *record.ends])]
    shares = np.nan_to_num(table[measure.column].to_numpy(dtype=float) / measure.limit)
    boxes = sample_colorscale(theme.DIVERGING, (shares.clip(-1, 1) + 1) / 2)
    rows = zip(pieces, boxes, theme.letter_colors(shares), _new(record, reference), table.itertuples(), strict=True)
    return "".join(
        f"<span class='caa-token{' caa-new' if is_new else ''}' style='background: {box}; color: {letters}' "
        f"data-read='{escape(_read(row))}'>{escape(piece)}</span>"
        for piece, box, letters, is_new, row in rows
    )


def _new(record: Record, reference: str | None) -> list[bool]:
    """Whether each token belongs to a word that a difference of words finds in this answer only."""
    words = record.answer.text.split()
    matcher = SequenceMatcher(None, words if reference is None else reference.split(), words, autojunk=False)
    same = {at for _, begin, size in matcher.get_matching_blocks() for at in range(begin, begin + size)}
    return [len(record.answer.text[:end].split()) - 1 not in same for end in record.ends]


def _read(row: Any) -> str:
    """What hovering a token shows: the likeliest tokens in its place, unsteered and steered."""
    unsteered, steered = row.likeliest_unsteered.split("\n"), row.likeliest.split("\n")
    if unsteered == steered:
        return "\n".join([row.token, *unsteered])
    columns = [("unsteered", "steered"), *zip(unsteered, steered, strict=True)]
    width = max(len(here) for here, _ in columns) + 2
    return "\n".join(
        [
            f"{row.token}  {numbers([row.change], '+.2f')[0]} nats",
            *(f"{here:<{width}}{there}" for here, there in columns),
        ]
    )


def words(lens: pd.DataFrame, effect: pd.DataFrame | None) -> str:
    """What the effect lens (None before it is read) and the logit lens say of each vector, side by side."""
    tables = []
    for (vector, layer), some in lens.groupby(["vector", "layer"], sort=False):
        columns = {f"logit lens: {side}": part for side, part in some.groupby("side", sort=False)["token"]}
        if effect is not None:
            mine = effect[(effect["vector"] == vector) & (effect["layer"] == layer)]
            of = f"{mine['n'].iloc[0]} pairs" if mine["format"].iloc[0] != "own answers" else "the model's own answer"
            shown = mine["token"] + "  " + pd.Series(numbers(mine["effect"], "+.2f"), mine.index)
            said = {"raised": f"effect on {of}: more", "lowered": "less (nats per unit)"}
            columns = {said[side]: part for side, part in shown.groupby(mine["side"], sort=False)} | columns
        rows = zip(*columns.values(), strict=True)
        tables.append(_table(f"{vector}, layer {layer}", columns, rows))
    return "".join(tables)


def page(title: str, cards: Iterable[str], lenses: str, measure: Measure, history: pd.DataFrame) -> str:
    """A whole page, which needs no other file and no network."""
    tried = _table("Tried", ["prompt", "steering", "answer"], history[["prompt", "steering", "answer"]].to_numpy())
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>{STYLE}</head>"
        f"<body style='margin: 24px'><h1 style='font: 18px sans-serif'>{escape(title)}</h1>"
        f"{legend(measure)}<div class='caa-cards'>{''.join(cards)}</div>{lenses}<div>{tried}</div></body></html>"
    )


def legend(measure: Measure) -> str:
    """What the marks of tokens mean."""
    ends = [letters for _, letters in (theme.DIVERGING[0], theme.DIVERGING[-1])]
    low, high = (
        f"<span style='background: {color}; color: white'>&nbsp;{sign}&nbsp;</span>"
        for color, sign in zip(ends, ("\N{MINUS SIGN}", "+"), strict=True)
    )
    return (
        f"<div class='caa-note'>{low} {high} {measure.said}. Underlined: words that the unsteered answer does not have "
        "there. Hover a token for the likeliest ones in its place.</div>"
    )


def _table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>" for row in rows)
    return (
        f"<table class='caa-words'><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )
