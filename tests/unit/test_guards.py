"""Every public function that takes a model, pairs, vectors, behaviors, activations or tables says so if it gets others.

The functions are found by their signatures, so that a new one is tested as soon as it has a public name.
"""

import contextlib
import inspect
from dataclasses import replace

import plotly.graph_objects as go
import pytest
import torch

import caa_interp as caa
from caa_interp.steering.intervention import condition_of

ROOMS = [getattr(caa, name) for name in caa.__all__ if hasattr(getattr(caa, name), "__path__")]
# What the annotation of a guarded parameter holds, and the kinds of things that are wrong for it.
GUARDED = {
    "model": ("Any", ["plain", "name", "nothing"]),
    "pairs": ("ContrastPair", ["behavior", "pair", "texts", "nothing"]),
    "questions": ("ContrastPair", ["behavior", "pair", "texts", "nothing"]),
    "texts": ("ContrastPair", ["behavior", "pair", "nothing"]),
    "vector": ("", ["listed", "listed alone", "tensor", "path", "behavior"]),
    "vectors": ("SteeringVector", ["listed", "tensor", "path", "nothing"]),
    "reference": ("SteeringVector", ["listed", "tensor", "named", "nothing"]),
    "activations": ("Activations", ["behavior", "listed pairs", "vector", "nothing"]),
    "behavior": ("Behavior", ["listed pairs", "name", "several"]),
    "behaviors": ("Mapping", ["behavior", "several listed", "listed pairs", "nothing"]),
    "passages": ("str", ["behavior", "name", "numbers", "nothing"]),
    "prompts": ("Prompt", ["behavior", "name", "numbers", "nothing"]),
    "table": ("pd.DataFrame", ["rows", "vector", "nothing"]),
}
# Classes of results, which users read but do not make.
RESULTS = {caa.behaviors.ReadResult, caa.steering.Condition}


def calls():
    """All public functions, constructors and methods: name, callable, and the class of ``self``."""
    found = {}
    for owner in [caa, *ROOMS]:
        for name in owner.__all__:
            one = getattr(owner, name)
            if not callable(one) or (inspect.isclass(one) and issubclass(one, BaseException)):
                continue
            where = f"{owner.__name__}.{name}".removeprefix("caa_interp.")
            if one not in RESULTS:
                found.setdefault(id(one), (where, one, None))
            for method in vars(one) if inspect.isclass(one) else ():
                if not method.startswith("_") and callable(getattr(one, method)):
                    found.setdefault((id(one), method), (f"{where}.{method}", getattr(one, method), one))
    return list(found.values())


def cases():
    for where, call, owner in calls():
        try:
            parameters = inspect.signature(call).parameters
        except (TypeError, ValueError):
            continue
        for name, parameter in parameters.items():
            held, kinds = GUARDED.get(name, ("-", []))
            annotation = str(parameter.annotation)
            if held not in annotation or "torch.Tensor" in annotation or (name == "model" and annotation != "Any"):
                continue
            for kind in kinds:
                if kind == "nothing" and parameter.default is None:
                    continue
                yield pytest.param(call, owner, name, kind, id=f"{where}-{name}-{kind}")


@pytest.fixture(scope="module")
def right(tiny_llama, pairs, tmp_path_factory):
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    vector = caa.SteeringVector(values, (0, 1, 2, 3), {"model": "tiny-llama", "format": "text"})
    others = [replace(pair, question=f"{pair.question} Why?", id=None) for pair in pairs]
    activations = caa.collect_activations(tiny_llama, others, format="text", progress=False)
    behavior = caa.Behavior("weather", "Likes the weather.", pairs, pairs, ["How is it?"], rubric="Likes it?")
    folder = tmp_path_factory.mktemp("guards")
    vector.save(folder / "vector.safetensors")
    caa.export_vector(vector, folder / "vector.npz")
    return {
        "model": tiny_llama,
        "vector": vector,
        "vectors": {"up": vector, "down": -vector},
        "reference": vector,
        "pairs": pairs,
        "questions": pairs,
        "texts": pairs,
        "prompt": "Is it good?",
        "text": "Is it good?",
        "prompts": ["Is it good?"],
        "passages": ["The rain, the garden and the sea."],
        "behavior": behavior,
        "behaviors": {"weather": behavior},
        "activations": activations,
        "positive": activations.positive,
        "negative": activations.negative,
        "format": "text",
        "layer": 1,
        "layers": 1,
        "branches": [caa.tree.Branch((1, 2))],
        "trees": [[caa.tree.Branch((1, 2))]],
        "candidates": {"up": caa.Intervention(vector, 1)},
        "conversations": [pairs],
        "steering": [caa.Intervention(vector, 1)],
        "sae": caa.analysis.SparseAutoencoder(torch.eye(64), torch.zeros(64)),
        "fig": go.Figure(),
        "n": 1,
        "path": folder / "vector.npz",
        "folder": folder,
        "repo_id": folder,
        "table": caa.sweep(tiny_llama, vector, pairs, progress=False),
        # Whose method it is, and what one function alone needs.
        caa.SteeringVector: vector,
        caa.steering.Condition: condition_of([caa.Intervention(vector, 1)]),
        (caa.save_figure, "path"): folder / "figure.json",
    }


@pytest.fixture(scope="module")
def wrong(right, plain_llama):
    vector, behavior, pairs = right["vector"], right["behavior"], right["pairs"]
    alone = caa.SteeringVector(vector.values[1:2], (1,), vector.metadata)
    return {
        "plain": plain_llama,
        "name": "weather",
        "nothing": None,
        "behavior": behavior,
        "pair": pairs[0],
        "texts": ["Is it good?", "It is."],
        "numbers": [1, 2],
        "listed": [vector, -vector],
        "listed alone": [alone],
        "tensor": vector.values,
        "path": "vector.safetensors",
        "named": {"weather": vector},
        "listed pairs": list(pairs),
        "vector": vector,
        "several": {"weather": behavior},
        "several listed": [behavior],
        "rows": [{"vector": "weather"}],
    }


def begin(result):
    """Go into a context, and ask a generator for the first time, which is when they check what they got."""
    if isinstance(result, contextlib.AbstractContextManager):
        result.__enter__()
    elif inspect.isgenerator(result):
        next(result)


@pytest.mark.parametrize(("call", "owner", "name", "kind"), list(cases()))
def test_what_is_wrong_is_named(call, owner, name, kind, right, wrong):
    given = {name: wrong[kind]}
    for one in inspect.signature(call).parameters.values():
        needed = one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        if one.name != name and (needed or one.name == "layer"):
            given[one.name] = right.get((call, one.name)) or right[owner if one.name == "self" else one.name]
    with pytest.raises(caa.errors.CAAError) as caught:
        begin(call(**given))
    assert name in str(caught.value)
