"""The model card of a steering vector on the Hugging Face hub: what it is, how far to trust it, how to use it.

Text from metadata, behaviors and tables is shown as text: nothing in it becomes markup, a link or YAML.
"""

from __future__ import annotations

import json
import re

import pandas as pd

from caa_interp.behaviors.behavior import Behavior
from caa_interp.errors import InputError
from caa_interp.interchange.card_tables import effects_text, reliability_text
from caa_interp.interchange.hub_errors import check_repo_id
from caa_interp.interchange.markdown import code, counted, line, number, shown
from caa_interp.vectors.vector import SteeringVector

TAGS = ["steering-vector", "caa", "contrastive-activation-addition"]
# Those of the hub's list that texts and vectors come under; any other is "other" there, and written out in the card.
LICENSES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "mpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "unlicense"),
    *("cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    *("cc-by-nd-4.0", "cc-by-nc-nd-4.0", "odc-by", "odbl", "pddl"),
}
_MADE = {
    "model": "model",
    "model_revision": "its revision",
    "dtype": "its precision",
    "backend": "backend",
    "weight_processing": "weight processing",
    "hook": "where it was read",
    "format": "form of the pairs",
    "prompt_style": "prompt style",
    "system_prompt": "system prompt",
    "position": "position",
    "estimator": "estimator",
    "n_pairs": "number of pairs",
    "versions": "packages",
}
_NO_EFFECTS = "Not given: nothing here says that the vector changes what the model does."
_CITATION = """```bibtex
@inproceedings{rimsky2024steering,
  title = {Steering Llama 2 via Contrastive Activation Addition},
  author = {Rimsky, Nina and Gabrieli, Nick and Schulz, Julian and Tong, Meg and Hubinger, Evan and
            Turner, Alexander Matt},
  booktitle = {Proceedings of the 62nd Annual Meeting of the Association for Computational Linguistics},
  year = {2024},
  url = {https://arxiv.org/abs/2312.06681}
}
```"""


def model_card(
    vector: SteeringVector,
    *,
    repo_id: str | None = None,
    reliability: pd.DataFrame | None = None,
    effects: pd.DataFrame | None = None,
    figure: str | None = None,
    behavior: Behavior | None = None,
) -> str:
    """Write the card of a vector: Markdown with YAML front matter.

    Arguments and errors as in :func:`caa_interp.interchange.save_for_hub`, except that ``figure`` is the name of the
    figure's file beside the card, ``figure.png`` or ``figure.json``.
    """
    from huggingface_hub import ModelCard, ModelCardData

    license = behavior.license.strip() if behavior is not None else ""
    description = behavior.description.strip() if behavior is not None else ""
    base_model = _base_model(vector)
    data = ModelCardData(
        library_name="caa_interp",
        tags=list(TAGS),
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
        license=(license.lower() if license.lower() in LICENSES else "other") if license else None,
    )
    sections = {
        "The behavior": shown(description) if description else "Not described by the author of this vector.",
        "How it was made": _how_made(vector),
        "Use": _use(vector, repo_id, _layer(vector, effects)),
        "What a multiplier means": _unit(vector),
        "Reliability": "Not given." if reliability is None else reliability_text(vector, reliability),
        "Effects": _NO_EFFECTS if effects is None else effects_text(vector, effects),
        **({} if figure is None else {"Figure": _figure(figure)}),
        "Limits": _limits(vector),
        "License": (f"The author of the texts states: {shown(license)}. " if license else "")
        + "A vector is computed from a model and from texts; the licenses of both may bind its use.",
        "Citation": _CITATION,
    }
    body = "\n\n".join(
        [
            f"# {shown(vector.name)}: a steering vector",
            f"A direction in the residual stream of {_model(vector)}, made by Contrastive Activation Addition with "
            f"`caa_interp`: {counted(len(vector.layers), 'layer')}, width {vector.d_model}. Added while the model "
            "runs, it moves the model towards the behavior; with a negative multiplier, away from it.",
            *(f"## {heading}\n\n{text}" for heading, text in sections.items()),
        ]
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def _base_model(vector: SteeringVector) -> str | None:
    """Name of the model on the hub, unless it may be that of a local folder."""
    name, revision = vector.metadata.get("model"), vector.metadata.get("model_revision")
    of_the_hub = isinstance(revision, str) and re.fullmatch("[0-9a-f]{40}", revision) is not None
    if not isinstance(name, str) or not ("/" in name or of_the_hub):
        return None
    try:
        check_repo_id(name)
    except InputError:  # such as that of an imported vector, which may be any text
        return None
    return name


def _model(vector: SteeringVector) -> str:
    given = vector.metadata.get("model")
    return "a model that its metadata does not name" if given is None else code(given)


def _how_made(vector: SteeringVector) -> str:
    lines = [
        "From pairs of answers to the same question, one that shows the behavior and one that does not: at each "
        "layer, the estimator's result over the activations of both after that block.",
        "",
        f"- layers (0-based block indices): {', '.join(map(str, vector.layers))}",
    ]
    others = {key: str(key) for key in vector.metadata if key not in {"behavior", *_MADE}}
    for key, title in {**_MADE, **others}.items():
        value = vector.metadata.get(key)
        text = code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        if value is None:
            text = "none" if key == "system_prompt" and key in vector.metadata else "not known"
        lines.append(f"- {shown(title)}: {text}")
    return "\n".join(lines)


def _use(vector: SteeringVector, repo_id: str | None, layer: int | None) -> str:
    model = line(vector.metadata.get("model") or "the model it was made from")
    where = f"layer={'LAYER' if layer is None else layer}"
    # The best of several layers would be chosen on the very items that it is tested on.
    advice = "\n\nChoose LAYER on pairs of your own, see `caa.choose_layer`." if layer is None else ""
    return f"""```python
import caa_interp as caa

model = caa.load_model({model!r})
vector = caa.interchange.from_hub({repo_id or "owner/name"!r}, model=model)
table = caa.generate(model, ["A question"], vector=vector, {where}, multipliers=(-1, 0, 1))
```{advice}

For llama.cpp, repeng, lm-evaluation-harness and numpy, `caa.export_vector` writes it in their formats. Any other
tool needs `vector.safetensors` alone: the tensor `values` is `[n_layers, d_model]`, and the JSON text `caa_interp` in
the file's metadata holds `layers`, the block of each row. Choose one row, and add the multiplier times that row to
the output of its block, at every position from the last token of the prompt on, generated tokens included."""


def _unit(vector: SteeringVector) -> str:
    norms = vector.norms.tolist()
    least, most = number(min(norms)), number(max(norms))
    norm = least if least == most else f"{least} to {most} over its layers"
    return (
        f"Multiplier 1 adds the vector as it is. It is not normalized: its norm is {norm}. "
        "The same multiplier has another effect at another layer, and with another vector."
    )


def _figure(name: str) -> str:
    if name.endswith(".png"):
        return f"![The figure that the author gave]({name})"
    return (
        f"[`{name}`]({name}) is the figure as Plotly JSON, since no PNG could be drawn where this card was written. "
        f"`plotly.io.read_json({name!r})` shows it."
    )


def _limits(vector: SteeringVector) -> str:
    known = vector.metadata.get("model") is not None
    guard = "refuses a model of another name" if known else "cannot tell which model that is, so it is for you to know"
    return f"""- It belongs to {_model(vector)} alone.
  In another one, fine-tuned ones and other revisions included, the same numbers may be another direction.
  `caa_interp` {guard}.
- It is what its pairs have in common. That can be length, tone or an answer letter as well as the behavior.
- Effects, where given, are means over items of one kind. Single items can move the other way; other questions, other
  languages and longer answers may not move at all.
- What else it changes (other behaviors, knowledge, fluency) is not shown here. Large multipliers break the text.
- It moves a tendency. It neither proves nor prevents anything, and is no safeguard."""


def _layer(vector: SteeringVector, effects: pd.DataFrame | None) -> int | None:
    """Layer for the example, where the vector or the table of its effects has only one."""
    layers = set(vector.layers)
    if effects is not None and {"layer", "vector"} <= set(effects):
        layers &= set(effects.loc[effects["vector"] == vector.name, "layer"])
    return int(layers.pop()) if len(layers) == 1 else None
