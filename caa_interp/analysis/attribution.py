"""Through which parts of the model a vector acts: its effect, split over the components of the later blocks.

1. Read both answers of held-out contrast pairs, unsteered and steered. The effect is the change of what
   :func:`caa_interp.sweep` scores, the difference of the answers' log-probabilities per token, per unit of the
   multiplier.
2. The residual stream after the last block changes by a sum: the added vector itself (the direct path), and the change
   of what every later attention and MLP writes (Elhage et al. 2021, "A Mathematical Framework for Transformer
   Circuits", on direct logit attribution).
3. Final norm and softmax are not linear, but along the straight line from the unsteered to the steered state the
   integral of their gradient, times the change, is the effect (integrated gradients, Sundararajan et al. 2017, section
   3). So the mean gradient on the line is a linear readout whose products with the parts sum to the whole. A norm with
   its scale held fixed would leave the softmax, and would have to choose one of the two states.
4. The integral is taken at Gauss-Legendre points. What the parts then lack of the effect is the remainder.
5. Patching asks another question: the output of one component is set back to what it is in the unsteered model, all
   that follows is computed again, steered, and one sees how much of the effect goes away (Vig et al. 2020).

Contributions count what a component writes to the last state; patching also counts what later components make of that.
Only the contributions sum to the effect.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import ModelError, check_choice
from caa_interp.evaluation.sweep import scored_renderings, scoring_format, sequences_of
from caa_interp.models.access import hook_name, model_id, n_layers, not_numbers
from caa_interp.models.decoding import Decoder
from caa_interp.models.memory import cache_bytes, rows_that_fit
from caa_interp.models.readout import unembed
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format, Scored
from caa_interp.statistics import bootstrap_means
from caa_interp.steering.context import ambient
from caa_interp.steering.intervention import check_acts, conditions, one_layer, warn_of_idle
from caa_interp.tree.edits import Edit, edited_rows
from caa_interp.tree.readout import log_probs_of
from caa_interp.vectors.heads import head_hooks
from caa_interp.vectors.vector import SteeringVector, named_vectors

Per = Literal["component", "head"]
# Gets an activation ``[n_rows, n_new, ...]``, and may return another to stand there.
_Hook = Callable[[torch.Tensor], torch.Tensor | None]
_POINTS = 6
_ROWS_AT_ONCE, _SHARE_OF_FREE_MEMORY = 32, 0.1
_MISSING = 0.02  # share of a change that the parts may lack, beside rounding
_MEASURES = ("contribution", "restored", "effect")
_COLUMNS = (
    *("vector", "kind", "steered_layer", "multiplier", "layer", "component"),
    *(name + end for name in _MEASURES for end in ("", "_low", "_high")),
    *("n", "format", "model", "prompt_digest"),
)


class _Part(NamedTuple):
    layer: int
    component: str
    hook: str
    head: int | None = None


def effect_attribution(
    model: Any,
    vector: SteeringVector | Mapping[str, SteeringVector],
    pairs: Iterable[ContrastPair],
    *,
    layer: int | None = None,
    multiplier: float = 1.0,
    format: Format | None = None,
    per: Per = "component",
    patch: bool = True,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Split a vector's effect on contrast pairs into its direct path and the attention and MLP of every later block.

    The vector is added from the last prompt token on.

    Parameters
    ----------
    model, pairs, format, system_prompt, prompt_format, progress
        As in :func:`caa_interp.sweep`.
    vector
        A steering vector, or several by name, such as a vector beside random ones of its norm.
    layer
        0-based index of the block after which it is added; needed if the vector has several layers.
    multiplier
        Any number but 0. Default: 1.
    per
        ``"component"`` (default), or ``"head"``: every head of attention by itself.
    patch
        Also set each part back. It costs a pass over both answers for each part and vector, where the contributions
        cost one for each vector. Default: True.

    Returns
    -------
    pandas.DataFrame
        One row per vector and part: ``vector``, ``kind``, ``steered_layer``, ``multiplier``, and

        - ``layer`` and ``component`` of the part: ``"direct"`` (at the steered layer), ``"attention"`` or
          ``"head 0"``, ``"head 1"``, ..., ``"MLP"``, and ``"remainder"`` (no layer);
        - ``contribution``: its share of the effect, in nats per token (for choices nats) per unit of the multiplier. A
          vector's contributions sum to ``effect``;
        - ``restored``: how much of the effect goes away when the part's output at the steered positions is set back
          to the unsteered one, in the same unit; missing for ``"direct"`` and ``"remainder"``, and without ``patch``;
        - ``effect``: the vector's whole effect, the same in all of its rows;
        - ``_low`` and ``_high`` of these three: 95 % bootstrap-t intervals over pairs, missing if there is one;
        - ``n`` (number of pairs), ``format``, ``model``, ``prompt_digest``.

    Raises
    ------
    InputError
        If an argument is not one of those above, or a vector is zero at the layer.
    VectorMismatchError
        If a vector was not made for this model.
    ModelError
        If the model's blocks do not show attention and MLP, or the parts are not all that is added to the residual
        stream, as with heads of attention that are followed by a norm.

    Notes
    -----
    The remainder is the error of the integral and of rounding. In half precision it is larger, since the gradient is
    rounded too. Compare it with the effect before you read anything else.

    Examples
    --------
    >>> table = caa.analysis.effect_attribution(model, vector, behavior.test[:2], layer=28)
    >>> list(table["component"])
    ['direct', 'attention', 'MLP', 'remainder']
    """
    vectors = named_vectors(vector, "vector")
    layer = one_layer(next(iter(vectors.values())), layer)
    form = form_of(model, prompt_format)
    asked = conditions(model, vectors, form, layer, [multiplier])
    check_acts(asked)
    check_choice("per", per, get_args(Per))
    format = scoring_format(format, asked)
    rendered = scored_renderings(form, pairs, format, system_prompt)
    parts = _parts(model, layer, per)
    found = np.zeros((len(rendered), len(asked), 3, len(parts) + 2))
    with ambient(model) as outer:
        warn_of_idle([outer], sequences_of(rendered, format))
        tracked = track(rendered, "Attributing", progress)
        for number, (values, renderings) in enumerate(zip(found, tracked, strict=True)):
            for rendering in renderings:
                for scored in rendering.scored(format):
                    unsteered = tuple(one.edit(rendering.start + 1) for one in outer)
                    edits = [unsteered, *(condition.edits(rendering.start + 1, outer=outer) for condition in asked)]
                    values += _split(model, scored, edits, layer, parts, patch) / (multiplier * len(renderings))
            for condition, (_, _, effect) in zip(asked, values, strict=True):
                if np.isnan(effect).any():
                    raise not_numbers(model, f"pairs[{number}], {condition}")
    numbers = [some.reshape(found.shape[1:]) for some in bootstrap_means(found.reshape(len(found), -1))[:3]]
    frames = []
    for condition, *each in zip(asked, *numbers, strict=True):
        named = zip(("", "_low", "_high"), each, strict=True)
        frame = pd.DataFrame(
            {f"{name}{end}": row for end, some in named for name, row in zip(_MEASURES, some, strict=True)}
        )
        frame["layer"] = pd.array([layer, *(part.layer for part in parts), pd.NA], dtype="Int64")
        frame["component"] = ["direct", *(part.component for part in parts), "remainder"]
        frames.append(frame.assign(vector=condition.vector, kind=condition.kind, multiplier=condition.multiplier))
    return pd.concat(frames, ignore_index=True).assign(
        steered_layer=layer,
        n=len(found),
        format=format,
        model=model_id(model),
        prompt_digest=form.digest(system_prompt),
    )[list(_COLUMNS)]


def _parts(model: Any, layer: int, per: Per) -> list[_Part]:
    """Attention (or its heads) and MLP of every later block; :class:`ModelError` if a block does not show them."""
    parts = []
    for block in range(layer + 1, n_layers(model)):
        attention, heads, mlp = (f"blocks.{block}.{name}" for name in ("hook_attn_out", "attn.hook_z", "hook_mlp_out"))
        if missing := [name for name in (attention, mlp, heads) if name not in model.hook_dict]:
            raise ModelError(
                f"model {model_id(model)!r}: it has no {missing[0]!r}, so the parts of block {block} cannot be told "
                "apart. Use a model whose blocks are attention and MLP."
            )
        if per == "head":
            head_hooks(model, [block], "Use per='component'.")
            parts += [_Part(block, f"head {head}", heads, head) for head in range(int(model.cfg.n_heads))]
        else:
            parts.append(_Part(block, "attention", attention))
        parts.append(_Part(block, "MLP", mlp))
    return parts


def _split(
    model: Any, scored: Scored, edits: Sequence[Sequence[Edit]], layer: int, parts: Sequence[_Part], patch: bool
) -> np.ndarray:
    """Contribution, restored and effect of one sequence, ``[n_vectors, 3, n_parts + 2]``; first edits: unsteered."""
    begin = min(edit.first(len(scored.tokens)) for some in edits for edit in some)
    stream = hook_name(layer)
    kept: dict[str, torch.Tensor] = {}
    keeping: dict[str, _Hook] = {
        name: partial(kept.__setitem__, name) for name in {stream, *(one.hook for one in parts)}
    }
    states = _run(model, scored, begin, edits, keeping)
    scores = _scores(model, scored, begin, states)
    found = np.full((len(edits) - 1, 3, len(parts) + 2), np.nan)
    found[:, 2] = (scores[1:] - scores[0])[:, None]
    for number, values in enumerate(found, start=1):
        gradient = _mean_gradient(model, scored, begin, states[0], states[number])
        change = {name: some[number].cpu().double() - some[0].cpu().double() for name, some in kept.items()}
        written = [_written(model, part, change) for part in parts]
        added = [change[stream], *written]
        _check_sum(model, added, states[0], states[number])
        sums = [float((one * gradient).sum()) for one in added]
        values[0] = [*sums, values[2, 0] - sum(sums)]
    rows = [(number, index) for number in range(1, len(edits)) for index in range(len(parts))] if patch else []
    size = min(_ROWS_AT_ONCE, rows_that_fit(model, len(scored.tokens) * cache_bytes(model), _SHARE_OF_FREE_MEMORY))
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        at = defaultdict(list)
        for row, (_, index) in enumerate(some):
            at[parts[index].hook].append((row, parts[index].head))
        restoring: dict[str, _Hook] = {name: partial(_restored, kept[name][0], places) for name, places in at.items()}
        patched = _scores(model, scored, begin, _run(model, scored, begin, [edits[n] for n, _ in some], restoring))
        for (number, index), score in zip(some, patched, strict=True):
            found[number - 1, 1, index + 1] = scores[number] - score
    return found


@torch.no_grad()
def _run(
    model: Any,
    scored: Scored,
    begin: int,
    rows: Sequence[Sequence[Edit]],
    hooks: Mapping[str, _Hook],
) -> torch.Tensor:
    """Last residual stream ``[n_rows, n_new, d_model]`` of one sequence under edits, from position ``begin`` on."""
    tokens = torch.tensor(scored.tokens).repeat(len(rows), 1)
    decoder = Decoder(model, tokens.shape[1])
    start = begin if decoder.cached else 0
    if start:
        decoder.forward(tokens[:1, :start], torch.ones_like(tokens[:1, :start]))
        decoder.select(torch.zeros(len(rows), dtype=torch.long))

    def at_new(hook_at: _Hook) -> Callable[..., torch.Tensor | None]:
        def act(activation: torch.Tensor, hook: Any) -> torch.Tensor | None:
            changed = hook_at(activation[:, begin - start :].clone())
            return None if changed is None else torch.cat([activation[:, : begin - start], changed], dim=1)

        return act

    states: list[torch.Tensor] = []
    acting = [*hooks.items(), (hook_name(n_layers(model) - 1), states.append)]
    with (
        edited_rows(model, rows, start, tokens.shape[1]),
        model.hooks(fwd_hooks=[(name, at_new(hook)) for name, hook in acting]),
    ):
        decoder.forward(tokens[:, start:], torch.ones_like(tokens[:, start:]))
    return states[0]


def _restored(unsteered: torch.Tensor, places: Sequence[tuple[int, int | None]], output: torch.Tensor) -> torch.Tensor:
    """Set the output back in some rows, the whole or one head's: ``places`` are pairs (row, head)."""
    for row, head in places:
        if head is None:
            output[row] = unsteered
        else:
            output[row, :, head] = unsteered[:, head]
    return output


def _scores(model: Any, scored: Scored, begin: int, states: torch.Tensor) -> np.ndarray:
    """Score of every row of the last residual stream, ``[n_rows]``."""
    at, tokens = np.array(scored.targets).T
    rows = (np.arange(len(states))[:, None] * states.shape[1] + at - begin).ravel()
    log_probs = log_probs_of(model, states.flatten(0, 1), rows, np.tile(tokens, len(states)))
    return log_probs.cpu().double().numpy().reshape(len(states), -1) @ np.array(scored.weights)


def _mean_gradient(
    model: Any, scored: Scored, begin: int, unsteered: torch.Tensor, steered: torch.Tensor
) -> torch.Tensor:
    """Gradient of the score, averaged over the line between two states ``[n_new, d_model]``; float64, on the CPU."""
    at, tokens = torch.tensor(scored.targets).T
    mean = torch.zeros(unsteered.shape, dtype=torch.float64)
    for node, share in zip(*np.polynomial.legendre.leggauss(_POINTS), strict=True):
        state = torch.lerp(unsteered, steered, float(node + 1) / 2).requires_grad_()
        with torch.enable_grad():
            logits = unembed(model, state)
            chosen = logits.log_softmax(-1)[(at - begin).to(logits.device), tokens.to(logits.device)]
            score = chosen @ torch.tensor(scored.weights, dtype=chosen.dtype, device=chosen.device)
        mean += share / 2 * torch.autograd.grad(score, state)[0].cpu().double()
    return mean


def _check_sum(model: Any, added: Sequence[torch.Tensor], unsteered: torch.Tensor, steered: torch.Tensor) -> None:
    """Raise :class:`ModelError` if the parts do not sum to the change of the last state, ``[n_new, d_model]``."""
    change = steered.cpu().double() - unsteered.cpu().double()
    missing = float((torch.stack(list(added)).sum(0) - change).norm())
    rounding = torch.finfo(steered.dtype).eps * float(steered.norm())
    if missing > _MISSING * float(change.norm()) + 4 * rounding:
        raise ModelError(
            f"model {model_id(model)!r}: the parts do not sum to the change of its last state: its blocks have other "
            "parts, or an open steer context acts on later layers. Use per='component', another model, or leave the "
            "context."
        )


def _written(model: Any, part: _Part, change: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Change of what a part writes to the residual stream, ``[n_new, d_model]``."""
    if part.head is None:
        return change[part.hook]
    return change[part.hook][:, part.head] @ model.blocks[part.layer].attn.W_O[part.head].detach().cpu().double()
