"""The explorer's widget: controls at the top, then the answers side by side, then what the vector says in words.

The model runs only on the event loop on which the explorer was made, one token at a time. Clicks that a front end
delivers in another thread, as JupyterLab may, are handed to that loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as ui
import pandas as pd

from caa_interp.errors import check_ending
from caa_interp.explorer import markup
from caa_interp.explorer.trials import Added, Choice, Session, Trial
from caa_interp.files import write_atomically
from caa_interp.vectors.vector import SteeringVector

STRONGEST = 8.0
STRIPS = {"0, 1": (0.0, 1.0), "-1, 0, 1": (-1.0, 0.0, 1.0), "-2 to 2": (-2.0, -1.0, 0.0, 1.0, 2.0)}
_WIDE = {"flex": "1 1 0", "width": "auto"}


class Adding(ui.HBox):  # type: ignore[misc]  # ipywidgets is untyped
    """Controls of one vector that is added: ``vector``, ``layer`` and ``multiplier``; the vector may be none."""

    def __init__(self, vectors: Mapping[str, SteeringVector], description: str, *, optional: bool) -> None:
        self._vectors = vectors
        names = [*([("(none)", "")] if optional else []), *((name, name) for name in vectors)]
        layers = next(iter(vectors.values())).layers
        shown = {"continuous_update": False, "layout": ui.Layout(**_WIDE)}
        self.vector = ui.Dropdown(options=names, description=description, layout=ui.Layout(**_WIDE))
        self.layer = ui.SelectionSlider(options=layers, value=layers[len(layers) // 2], description="Layer", **shown)
        limits = {"min": -STRONGEST, "max": STRONGEST, "step": 0.25}
        self.multiplier = ui.FloatSlider(1.0, readout_format="+.2f", description="Multiplier", **limits, **shown)
        self.controls = (self.vector, self.layer, self.multiplier)
        super().__init__(self.controls, layout=ui.Layout(align_items="center"))
        self.vector.observe(self._offer_layers, names="value")

    @property
    def added(self) -> list[Added]:
        """What is chosen; nothing if the vector is none."""
        vector = self.vector.value
        return [Added(vector, self.layer.value, self.multiplier.value)] if vector else []

    def put(self, added: Sequence[Added]) -> None:
        """Set the controls to what was chosen before."""
        self.vector.value = added[0].vector if added else ""
        if added:
            self.layer.value, self.multiplier.value = added[0].layer, added[0].multiplier

    def _offer_layers(self, event: Any) -> None:
        """Offer the layers of the chosen vector, and select the one closest to the current layer."""
        if not self.vector.value:
            return
        layers, present = self._vectors[self.vector.value].layers, self.layer.value
        if layers != self.layer.options:
            self.layer.options = layers
            self.layer.value = min(layers, key=lambda layer: abs(layer - present))


class Explorer(ui.VBox):  # type: ignore[misc]
    """Widget that :func:`caa_interp.explore` makes, with the event loop on which the model runs.

    Attributes
    ----------
    vector, layer, multiplier, strip, prompt, generate, stop, earlier, color
        The controls, which are widgets themselves: ``explorer.multiplier.value = 2`` has the effect of moving it.
    second
        Controls ``vector``, ``layer`` and ``multiplier`` of a vector that is added to the first one.
    lens, effect
        Tables of :func:`caa_interp.logit_lens` and :func:`caa_interp.effect_lens` for the chosen vectors at
        their layers; ``effect`` is None until the answers are complete.
    """

    def __init__(self, session: Session, prompt: str, loop: asyncio.AbstractEventLoop) -> None:
        self._session, self._loop, vectors = session, loop, session.vectors
        self._task: asyncio.Task[None] | None = None
        self._cards: dict[Trial, ui.VBox] = {}
        self._pins: dict[Trial, ui.ToggleButton] = {}
        self._tried: dict[Choice, None] = {}
        self._busy = False
        self.effect: pd.DataFrame | None = None

        self._first = Adding(vectors, "Vector", optional=False)
        self.vector, self.layer, self.multiplier = self._first.controls
        self.second = Adding(vectors, "and", optional=True)
        self.strip = ui.Dropdown(options=STRIPS, value=STRIPS["-1, 0, 1"], description="Times")
        self.color = ui.Dropdown(options=list(markup.MEASURES), description="Color")
        self.earlier = ui.Dropdown(options=[], description="Earlier", layout=ui.Layout(**_WIDE))
        self.prompt = ui.Textarea(value=prompt, description="Prompt", rows=3, layout=ui.Layout(**_WIDE))
        self.generate = ui.Button(description="Generate", button_style="primary", icon="play")
        self.stop = ui.Button(description="Stop", icon="stop", disabled=True)
        self.status, self._legend, self._words = ui.HTML(), ui.HTML(), ui.HTML()
        grid = {"grid_template_columns": markup.COLUMNS, "grid_gap": "10px"}
        self._strip = ui.GridBox(layout=ui.Layout(overflow="visible", **grid))
        buttons = ui.VBox([ui.HBox([self.generate, self.stop]), self.status], layout=ui.Layout(width="316px"))
        more = ui.HBox([self.strip, self.color, self.earlier])
        asked = [self._first, self.second, ui.HBox([self.prompt, buttons]), more]
        super().__init__([ui.HTML(markup.STYLE), *asked, self._legend, self._strip, self._words])
        self._choice = self._chosen()
        self._show()
        self._show_words()
        for control in (*self._first.controls, *self.second.controls, self.strip):
            control.observe(self._hand_over(self._begin), names="value")
        self.color.observe(self._hand_over(self._show), names="value")
        self.earlier.observe(self._hand_over(self._go_back), names="value")
        self.generate.on_click(self._hand_over(self._begin))
        self.stop.on_click(self._hand_over(self._stop))

    @property
    def running(self) -> bool:
        """Whether answers are being written or read."""
        return self._task is not None and not self._task.done()

    @property
    def answers(self) -> pd.DataFrame:
        """Answers on the page: prompt, steering, vector, layer, multiplier, answer, n_tokens, finished.

        ``steering`` says all that is added; vector, layer and multiplier are those of the first one.
        """
        return self._session.table(self._shown())

    @property
    def history(self) -> pd.DataFrame:
        """All answers that are complete, as in ``answers``, in the order in which they were asked for."""
        return self._session.table(trial for trial in self._session.records if self._session.is_written(trial))

    @property
    def tokens(self) -> pd.DataFrame:
        """Tokens of the complete answers on the page, one row each.

        The answer (``prompt``, ``steering``), ``position``, ``token``, ``token_id``; ``log_prob`` and
        ``log_prob_unsteered`` of the token where it stands (nats), and their difference ``change``; ``cosine`` of the
        unsteered residual stream with the first vector at its layer; ``likeliest`` and ``likeliest_unsteered``, the
        five likeliest tokens in its place with their probabilities, a line each.
        """
        read = {trial: record.tokens for trial in self._shown() if (record := self._session.records.get(trial))}
        tables = [
            table.assign(prompt=trial.prompt, steering=str(trial)) for trial, table in read.items() if table is not None
        ]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def save(self, path: str | Path) -> Path:
        """Save what is on the page, and a list of all complete answers, as one HTML file that needs no other.

        Parameters
        ----------
        path
            File to write; must end in ``.html``.

        Returns
        -------
        pathlib.Path
            The file.
        """
        path = Path(path)
        check_ending(path, ".html")
        cards = [self._card_of(trial) for trial in self._shown()]
        measure = markup.MEASURES[self.color.value]
        whole = markup.page(self._choice.prompt, cards, self._words.value, measure, self.history)
        write_atomically(path, whole.encode("utf-8", errors="backslashreplace"))
        return path

    def _chosen(self) -> Choice:
        return Choice(self.prompt.value, (*self._first.added, *self.second.added), self.strip.value)

    def _shown(self) -> list[Trial]:
        """Answers on the page: the strip, then pinned ones of other strips."""
        return list(dict.fromkeys([*self._choice.trials, *(trial for trial, pin in self._pins.items() if pin.value)]))

    def _hand_over(self, action: Callable[[], None]) -> Callable[[Any], None]:
        """Make a callback that runs ``action`` on the model's loop, from whatever thread."""

        def receive(event: Any) -> None:
            self._loop.call_soon_threadsafe(action)

        return receive

    def _go_back(self) -> None:
        """Choose what was tried before."""
        choice = self.earlier.value
        if choice not in (None, self._choice):  # which the list is set to when an answer is complete
            self.prompt.value, self.strip.value = choice.prompt, choice.factors
            self._first.put(choice.added[:1])
            self.second.put(choice.added[1:])
            self._begin()  # also where nothing but the prompt is another

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
        """Write and read the answers that are missing, one token per turn of the loop, until done or canceled."""
        try:
            self._choice, self.effect, self._busy = self._chosen(), None, True
            trials = self._choice.trials
            self.stop.disabled = False
            self._say("")
            self._show()
            self._show_words()
            for trial in self._session.write(trials):
                self._fill(trial)
                self._say(f"{len(self._session.records[trial].answer.tokens)} tokens …")
                await asyncio.sleep(0)
            for trial in trials:
                if self._session.records[trial].tokens is None:
                    self._session.read(trial)
                    self._fill(trial)
                    await asyncio.sleep(0)
            self._tried[self._choice] = None
            self._list_tried()
            self.effect = self._session.effect(self._choice)
            self._show_words()
            self._rest("")
        except Exception as error:
            # Only the loop calls this, so show the error on the page.
            self._rest(f"{type(error).__name__}: {error}", failed=True)

    def _rest(self, message: str, *, failed: bool = False) -> None:
        self._busy = False
        self._show()
        self._say(message, failed=failed)
        self.stop.disabled = True

    def _say(self, message: str, *, failed: bool = False) -> None:
        kind = "caa-status caa-failure" if failed else "caa-status"
        self.status.value = f"<div class='{kind}' role='status'>{escape(message)}</div>"

    def _list_tried(self) -> None:
        """Offer everything that was tried, by what it was."""
        names = [(f"{' + '.join(map(str, choice.added))}: {choice.prompt:.40}", choice) for choice in self._tried]
        self.earlier.options = names
        self.earlier.value = self._choice

    def _show(self) -> None:
        """Put the answers on the page."""
        shown = self._shown()
        for trial in shown:
            if trial not in self._cards:
                pin = self._pins[trial] = ui.ToggleButton(
                    description="Pin", icon="thumb-tack", layout=ui.Layout(width="84px")
                )
                pin.observe(self._hand_over(self._show), names="value")
                self._cards[trial] = ui.VBox([ui.HTML(), pin], layout=ui.Layout(overflow="visible"))
            self._fill(trial)
        self._legend.value = markup.legend(markup.MEASURES[self.color.value])
        self._strip.children = [self._cards[trial] for trial in shown]

    def _fill(self, trial: Trial) -> None:
        self._cards[trial].children[0].value = self._card_of(trial)

    def _card_of(self, trial: Trial) -> str:
        session, unsteered = self._session, Trial(trial.prompt)
        reference = session.records[unsteered].answer.text if session.is_written(unsteered) else None
        busy = self._busy and trial in self._choice.trials and not session.is_written(trial)
        measure = markup.MEASURES[self.color.value]
        return markup.card(trial, session.records.get(trial), measure, self._choice.prompt, reference, busy)

    def _show_words(self) -> None:
        self.lens = self._session.lens(self._choice)
        self._words.value = markup.words(self.lens, self.effect)
