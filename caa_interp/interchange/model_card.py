"""The model card of a steering vector on the Hugging Face Hub: what it is, how far to trust it, how to use it.

Its words are in ``model_card.md.j2``. Text from metadata, behaviors and tables is shown as text: nothing in it
becomes markup, a link or YAML.
"""

from __future__ import annotations

import json
import re

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from caa_interp.behaviors.behavior import Behavior
from caa_interp.errors import InputError
from caa_interp.interchange.card_tables import audit_table, effects_table, reliability_table
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


def model_card(
    vector: SteeringVector,
    *,
    repo_id: str | None = None,
    reliability: pd.DataFrame | None = None,
    effects: pd.DataFrame | None = None,
    audit: pd.DataFrame | None = None,
    figure: str | None = None,
    behavior: Behavior | None = None,
) -> str:
    """Write the card of a vector: Markdown with YAML front matter.

    Arguments and errors as in :func:`caa_interp.interchange.save_for_hub`, except that ``figure`` is the name of the
    figure's file beside the card, ``figure.png`` or ``figure.json``.
    """
    from huggingface_hub import ModelCardData

    license = behavior.license.strip() if behavior is not None else ""
    base_model, name = _base_model(vector), vector.metadata.get("model")
    front = ModelCardData(
        library_name="caa_interp",
        tags=list(TAGS),
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
        license=(license.lower() if license.lower() in LICENSES else "other") if license else None,
    )
    effects_shown, with_controls = (None, False) if effects is None else effects_table(vector, effects)
    least, most = number(float(vector.norms.min())), number(float(vector.norms.max()))
    environment = Environment(
        loader=PackageLoader("caa_interp.interchange", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["shown"] = shown
    return environment.get_template("model_card.md.j2").render(
        front=front.to_yaml(),
        vector=vector,
        n_layers=counted(len(vector.layers), "layer"),
        norm=least if least == most else f"{least} to {most} over its layers",
        model="a model that its metadata does not name" if name is None else code(name),
        model_name=None if name is None else line(name),
        facts=_facts(vector),
        description=behavior.description.strip() if behavior is not None else "",
        license=license,
        repo_id=repo_id,
        layer=_layer(vector, effects),
        reliability=None if reliability is None else reliability_table(vector, reliability),
        reliability_confidence=_confidence(reliability),
        effects=effects_shown,
        effects_confidence=_confidence(effects),
        per_token=effects is not None and "format" in effects and bool((effects["format"] == "text").any()),
        controls=with_controls,
        audit=None if audit is None else audit_table(vector, audit),
        audit_confidence=_confidence(audit),
        figure=figure,
    )


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


def _facts(vector: SteeringVector) -> list[tuple[str, str]]:
    """Title and Markdown of each entry of the metadata, the known ones first."""
    others = {key: str(key) for key in vector.metadata if key not in {"behavior", *_MADE}}
    facts = []
    for key, title in {**_MADE, **others}.items():
        value = vector.metadata.get(key)
        text = code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        if value is None:
            text = "none" if key == "system_prompt" and key in vector.metadata else "not known"
        facts.append((title, text))
    return facts


def _confidence(given: pd.DataFrame | None) -> str:
    return f" of confidence {given['confidence'].iloc[0]:g}" if given is not None and "confidence" in given else ""


def _layer(vector: SteeringVector, effects: pd.DataFrame | None) -> int | None:
    """Layer for the example, where the vector or the table of its effects has only one.

    The best of several layers would be chosen on the very items that it is tested on.
    """
    layers = set(vector.layers)
    if effects is not None and {"layer", "vector"} <= set(effects):
        layers &= set(effects.loc[effects["vector"] == vector.name, "layer"])
    return int(layers.pop()) if len(layers) == 1 else None
