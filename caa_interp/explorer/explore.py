"""An explorer of steering vectors for notebooks: choose, ask, and watch the answer change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, check_installed
from caa_interp.steering.intervention import Intervention
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions
from caa_interp.tree.edits import Operator
from caa_interp.vectors.vector import SteeringVector, named_vectors

if TYPE_CHECKING:
    from caa_interp.explorer.widget import Explorer


def explore(
    model: Any,
    vectors: SteeringVector | Mapping[str, SteeringVector],
    prompt: str = "I have an exam tomorrow. How will it go?",
    pairs: Iterable[ContrastPair] | None = None,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
) -> Explorer:
    """Explore steering vectors by hand: the last line of a notebook cell.

    Choose a vector, a layer and a multiplier (-8 to 8), write a prompt, and watch the answers under a strip of
    multipliers appear token by token next to the unsteered one. A second vector can be added to the first. Words that
    the unsteered answer does not have are underlined, and every token is colored by what the steering does to its
    log-probability where it stands, or by its similarity to the vector; hover it for the likeliest tokens before and
    after. Below stand the words that the vector makes the model expect more and less, and its logit lens.

    Parameters
    ----------
    model
        The model.
    vectors
        A steering vector, or several by name, made from this model.
    prompt
        The first prompt; put into the model's chat form.
    pairs
        Held-out contrast pairs over which the effect lens of the chosen vector and layer is averaged; a few, such as
        ``behavior.test[:4]``, as it is read whenever the layer changes. Default: the model's own answer to the prompt.
    operator, positions
        What is done with every vector, and where; as in :class:`caa_interp.Intervention`.

    Returns
    -------
    Explorer
        A widget. Its ``answers``, ``tokens``, ``effect``, ``lens`` and ``history`` are the tables behind it, and
        ``explorer.save("answers.html")`` keeps what is on the page.

    Raises
    ------
    InputError
        If there is no vector, if an argument is not one of those above, or if no event loop runs, as outside a
        notebook.
    VectorMismatchError
        If a vector was not made for this model.
    MissingDependencyError
        If ipywidgets is not installed.

    Notes
    -----
    Answers are greedy and have up to 100 tokens. A new choice starts new answers, unless they were written before; a
    new prompt waits for the button. The strip scales everything that is added, so its factor 0 is the unsteered model.
    A model that is steered in one thread is steered in all, so the explorer waits while a cell runs.
    """
    vectors = named_vectors(vectors)
    for vector in vectors.values():
        vector.check_fits(model)
    if not isinstance(prompt, str):
        raise InputError(f"prompt: {prompt!r} is not a text; give a string.")
    checked = None if pairs is None else check_pairs(pairs)
    applied: dict[str, Any] = {"operator": operator, "positions": positions}
    for vector in vectors.values():
        Intervention(vector, vector.layers[0], **applied)  # which checks both
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError as error:
        raise InputError("explore: there is no running event loop. Call it in a cell of a Jupyter notebook.") from error
    check_installed("ipywidgets", "explore", "'caa-interp[notebooks]'")
    from caa_interp.explorer.trials import Session
    from caa_interp.explorer.widget import Explorer

    return Explorer(Session(model, vectors, checked, **applied), prompt, loop)
