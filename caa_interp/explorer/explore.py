"""An explorer of steering vectors for notebooks: choose, ask, and watch the answer change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from caa_interp.errors import InputError, MissingDependencyError
from caa_interp.vectors.vector import SteeringVector, named_vectors

if TYPE_CHECKING:
    from caa_interp.explorer.widget import Explorer


def explore(
    model: Any,
    vectors: SteeringVector | Mapping[str, SteeringVector],
    prompt: str = "I have an exam tomorrow. How will it go?",
) -> Explorer:
    """Explore steering vectors by hand: the last line of a notebook cell.

    Choose a vector, a layer and a multiplier (-8 to 8), write a prompt, and watch the steered answer appear token by
    token next to the unsteered one. Figures show the similarity of the steered answer's tokens to the vector, and the
    tokens that the vector itself promotes and suppresses.

    Parameters
    ----------
    model
        The model.
    vectors
        A steering vector, or several by name, made from this model.
    prompt
        The first prompt; put into the model's chat form.

    Returns
    -------
    Explorer
        A widget. Its ``answers``, ``similarity`` and ``lens`` are the tables behind it.

    Raises
    ------
    InputError
        If there is no vector, if the prompt is not a text, or if no event loop runs, as outside a notebook.
    VectorMismatchError
        If a vector was not made for this model.
    MissingDependencyError
        If ipywidgets is not installed.

    Notes
    -----
    Answers are greedy and have up to 100 tokens. A new choice starts a new answer; a new prompt waits for the button.
    A model that is steered in one thread is steered in all, so the explorer waits while a cell runs.
    """
    vectors = named_vectors(vectors)
    for vector in vectors.values():
        vector.check_fits(model)
    if not isinstance(prompt, str):
        raise InputError(f"prompt: {prompt!r} is not a text; give a string.")
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError as error:
        raise InputError("explore: there is no running event loop. Call it in a cell of a Jupyter notebook.") from error
    try:
        from caa_interp.explorer.widget import Explorer
    except ModuleNotFoundError as error:
        if error.name != "ipywidgets":
            raise
        raise MissingDependencyError(
            "explore: ipywidgets is not installed. Install it: pip install 'caa-interp[notebooks]'"
        ) from error
    return Explorer(model, vectors, prompt, loop)
