"""The explorer's widget: controls at the top, then both answers side by side, then the figures.

The model runs only on the event loop on which the explorer was made, one token at a time. Clicks that a front end
delivers in another thread, as JupyterLab may, are handed to that loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from ipywidgets import HTML, Button, Dropdown, FloatSlider, HBox, Layout, Output, SelectionSlider, Textarea, VBox

from caa_interp.analysis.lens import logit_lens
from caa_interp.analysis.tokens import token_similarity
from caa_interp.plotting.lens import plot_logit_lens
from caa_interp.plotting.theme import NEGATIVE, NEUTRAL, POSITIVE
from caa_interp.plotting.tokens import plot_token_similarity
from caa_interp.steering.generation import Answer, stream_answer
from caa_interp.steering.intervention import Intervention
from caa_interp.vectors.vector import SteeringVector

STRONGEST = 8.0
N_LENS_TOKENS = 5
N_NEIGHBORS = 2
CURSOR = "▍"

_STYLE = """<style>
.caa-cards { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; margin: 4px 2px; min-height: 200px }
.caa-card { padding: 10px 14px; border: 1px solid #d3dae1; border-top: 3px solid; border-radius: 3px;
  background: white; color: #1f2933; font: 14px/1.5 Helvetica, Arial, 'DejaVu Sans', sans-serif }
.caa-note { color: #52606d; font-size: 12.5px }
.caa-text { margin: 6px 0; white-space: pre-wrap; overflow-wrap: anywhere }
.caa-status { margin: 4px 2px; line-height: 1.4; color: var(--jp-ui-font-color2, #52606d); overflow-wrap: anywhere }
.caa-failure { color: #b00020; white-space: pre-wrap }
</style>"""


@dataclass(frozen=True)
class Choice:
    """Settings of an answer."""

    vector: str
    layer: int
    multiplier: float
    prompt: str


class Explorer(VBox):  # type: ignore[misc]  # ipywidgets is untyped
    """Widget that :func:`caa_interp.explore` makes, with the event loop on which the model runs.

    Attributes
    ----------
    vector, layer, multiplier, prompt, generate, stop
        The controls, which are widgets themselves: ``explorer.multiplier.value = 2`` has the effect of moving it.
    lens
        Table of :func:`caa_interp.logit_lens` for the current vector, at its layer and those next to it.
    similarity
        Table of :func:`caa_interp.token_similarity` for the steered answer; None until it is complete.
    """

    def __init__(
        self, model: Any, vectors: Mapping[str, SteeringVector], prompt: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._model, self._vectors, self._loop = model, dict(vectors), loop
        self._task: asyncio.Task[None] | None = None
        self._written: dict[str, Answer] = {}
        self._unsteered_prompt: str | None = None  # prompt of the complete unsteered answer
        self.similarity: pd.DataFrame | None = None

        layers = next(iter(self._vectors.values())).layers
        wide = Layout(flex="1 1 0", width="auto")
        self.vector = Dropdown(options=list(self._vectors), description="Vector", layout=wide)
        self.layer = SelectionSlider(
            options=layers, value=layers[len(layers) // 2], description="Layer", continuous_update=False, layout=wide
        )
        self.multiplier = FloatSlider(
            value=1.0,
            min=-STRONGEST,
            max=STRONGEST,
            step=0.25,
            readout_format="+.2f",
            description="Multiplier",
            continuous_update=False,
            layout=wide,
        )
        self.prompt = Textarea(value=prompt, description="Prompt", rows=3, layout=wide)
        self.generate = Button(description="Generate", button_style="primary", icon="play")
        self.stop = Button(description="Stop", icon="stop", disabled=True)
        self.status = HTML()
        self._cards = HTML()
        self._figures = {name: Output(layout=Layout(overflow="auto")) for name in ("similarity", "lens")}
        self._choice = self._chosen()
        self._show_answers(writing=False)
        self._show_lens()
        buttons = VBox([HBox([self.generate, self.stop]), self.status], layout=Layout(width="316px"))
        choices = HBox([self.vector, self.layer, self.multiplier], layout=Layout(align_items="center"))
        super().__init__([HTML(_STYLE), choices, HBox([self.prompt, buttons]), self._cards, *self._figures.values()])
        self.vector.observe(self._offer_layers, names="value")
        for control in (self.vector, self.layer, self.multiplier):
            control.observe(self._hand_over(self._begin), names="value")
        self.generate.on_click(self._hand_over(self._begin))
        self.stop.on_click(self._hand_over(self._stop))

    @property
    def running(self) -> bool:
        """Whether an answer is being written."""
        return self._task is not None and not self._task.done()

    @property
    def answers(self) -> pd.DataFrame:
        """Current answers: vector, prompt, layer, multiplier, answer, n_tokens, finished; unsteered first."""
        choice, multipliers = self._choice, {"unsteered": 0.0, "steered": self._choice.multiplier}
        rows = [
            (choice.vector, choice.prompt, choice.layer, multiplier, answer.text, len(answer.tokens), answer.finished)
            for side, multiplier in multipliers.items()
            if (answer := self._written.get(side))
        ]
        columns = ["vector", "prompt", "layer", "multiplier", "answer", "n_tokens", "finished"]
        return pd.DataFrame(rows, columns=columns)

    def _chosen(self) -> Choice:
        return Choice(self.vector.value, self.layer.value, self.multiplier.value, self.prompt.value)

    def _hand_over(self, action: Callable[[], None]) -> Callable[[Any], None]:
        """Make a callback that runs ``action`` on the model's loop, from whatever thread."""

        def receive(event: Any) -> None:
            self._loop.call_soon_threadsafe(action)

        return receive

    def _offer_layers(self, event: Any) -> None:
        """Offer the layers of the chosen vector, and select the one closest to the current layer."""
        layers, present = self._vectors[self.vector.value].layers, self.layer.value
        if layers != self.layer.options:
            self.layer.options = layers
            self.layer.value = min(layers, key=lambda layer: abs(layer - present))

    def _begin(self) -> None:
        self._interrupt()
        self._task = self._loop.create_task(self._answer())

    def _stop(self) -> None:
        if self.running:
            self._interrupt()
            self._rest("Stopped.")

    def _interrupt(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _answer(self) -> None:
        """Write both answers, one token of each per turn of the loop, until done or canceled."""
        try:
            self._choice = self._chosen()
            self.similarity, self._figures["similarity"].outputs = None, ()
            self.stop.disabled = False
            self._say("Reading the prompt …")
            self._show_lens()
            for _ in self._write():
                self._show_answers(writing=True)
                self._say(f"{len(self._written['steered'].tokens)} tokens …")
                await asyncio.sleep(0)
            self._show_similarity()
            self._rest("")
        except Exception as error:
            # Only the loop calls this, so show the error on the page.
            self._rest(f"{type(error).__name__}: {error}", failed=True)

    def _write(self) -> Iterator[None]:
        """Write the next token of both answers at every step; keep the unsteered answer if the prompt is the same."""
        choice = self._choice
        multipliers = {"steered": choice.multiplier}
        if choice.prompt != self._unsteered_prompt:
            multipliers["unsteered"], self._unsteered_prompt = 0.0, None
        self._written = {side: answer for side, answer in self._written.items() if side not in multipliers}
        vector = self._vectors[choice.vector]
        streams = [
            stream_answer(self._model, choice.prompt, Intervention(vector, choice.layer, multiplier))
            for multiplier in multipliers.values()
        ]
        for answers in zip_longest(*streams):
            self._written |= {side: a for side, a in zip(multipliers, answers, strict=True) if a is not None}
            yield
        self._unsteered_prompt = choice.prompt

    def _rest(self, message: str, *, failed: bool = False) -> None:
        self._show_answers(writing=False)
        self._say(message, failed=failed)
        self.stop.disabled = True

    def _say(self, message: str, *, failed: bool = False) -> None:
        kind = "caa-status caa-failure" if failed else "caa-status"
        self.status.value = f"<div class='{kind}' role='status'>{escape(message)}</div>"

    def _show_answers(self, *, writing: bool) -> None:
        choice = self._choice
        sign = POSITIVE if choice.multiplier > 0 else NEGATIVE if choice.multiplier < 0 else NEUTRAL
        steered = f"{choice.vector}, layer {choice.layer}, multiplier {choice.multiplier:+g}"
        sides = (("unsteered", "Unsteered", NEUTRAL), ("steered", steered, sign))
        cards = [_card(heading, color, self._written.get(side), writing) for side, heading, color in sides]
        self._cards.value = f"<div class='caa-cards'>{''.join(cards)}</div>"

    def _show_lens(self) -> None:
        vector, layer = self._vectors[self._choice.vector], self._choice.layer
        place = vector.layers.index(layer)
        around = vector.layers[max(0, place - N_NEIGHBORS) : place + N_NEIGHBORS + 1]
        lens = logit_lens(self._model, vector, layers=around, top_k=N_LENS_TOKENS)
        self.lens = lens.assign(vector=self._choice.vector)
        figure = plot_logit_lens(self.lens)
        figure.update_yaxes(tickvals=around, ticktext=[f"<b>{n}</b>" if n == layer else str(n) for n in around])
        _draw(self._figures["lens"], figure)

    def _show_similarity(self) -> None:
        choice, text = self._choice, self._written["steered"].text
        if text:
            vector = self._vectors[choice.vector]
            table = token_similarity(self._model, choice.prompt, vector, layers=choice.layer, answer=text)
            self.similarity = table[table["part"] == "answer"].assign(vector=choice.vector)
            _draw(self._figures["similarity"], plot_token_similarity(self.similarity))


def _card(heading: str, color: str, answer: Answer | None, writing: bool) -> str:
    """HTML of one answer; all that a model or a user wrote is escaped."""
    text, note = "", ""
    if answer is not None:
        text = escape(answer.text)
        note = f"{len(answer.tokens)} tokens, {'' if answer.finished else 'not '}ended by the model"
    return (
        f"<div class='caa-card' style='border-top-color: {color}'><div class='caa-note'>{escape(heading)}</div>"
        f"<div class='caa-text'>{text}{CURSOR if writing else ''}</div>"
        f"<div class='caa-note'>{'' if writing else note}</div></div>"
    )


def _draw(output: Output, figure: go.Figure) -> None:
    """Show a figure with the front end's own Plotly renderer, which needs no network."""
    figure.update_layout(width=None, autosize=True)
    data = {"application/vnd.plotly.v1+json": json.loads(figure.to_json()) | {"config": {"displaylogo": False}}}
    output.layout.min_height = f"{figure.layout.height}px"  # keeps the place until the next figure
    output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)
