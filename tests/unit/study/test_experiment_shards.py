"""A shard's key: the same for what is the same, another for whatever changes the result."""

import dataclasses
import pickle

import pytest
import torch

import caa_interp as caa
from caa_interp.study.config import ModelConfig
from caa_interp.study.shards import code_digest, shard

PAIR = caa.ContrastPair("How is it?", "Good.", "Bad.", id="1", topic="weather")
MODEL = ModelConfig(name="some-model")


def vector(value=1.0, layer=3, dtype=torch.float32, **metadata):
    return caa.SteeringVector(torch.full((1, 4), value, dtype=dtype), (layer,), metadata)


def key(kind="sweep", facts=None, label="label", **arguments):
    given = {"pairs": [PAIR], "vector": {"a": vector(), "b": vector(2.0)}, "multipliers": (0.0, 1.0)} | arguments
    return shard(kind, label, MODEL, {"revision": "1"} if facts is None else facts, given).key


def test_equal_work_has_an_equal_key_whatever_it_is_called():
    assert key() == key(label="another") == key(pairs=(dataclasses.replace(PAIR),))
    assert len(key()) == 64


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "answers"},
        {"facts": {"revision": "2"}},
        {"multipliers": (0.0, 1.5)},
        {"multipliers": (1.0, 0.0)},
        {"pairs": [PAIR, PAIR]},
        {"pairs": [dataclasses.replace(PAIR, positive="good.")]},
        {"pairs": [dataclasses.replace(PAIR, id="2")]},
        {"vector": {"a": vector(1.0000001), "b": vector(2.0)}},
        {"vector": {"a": vector(layer=4), "b": vector(2.0)}},
        {"vector": {"a": vector(dtype=torch.float64), "b": vector(2.0)}},
        {"vector": {"a": vector(model="x"), "b": vector(2.0)}},
        {"vector": {"b": vector(2.0), "a": vector()}},
        {"system_prompt": None},
    ],
)
def test_whatever_changes_the_result_changes_the_key(changed):
    assert key(**changed) != key()


def test_a_shard_travels_between_processes():
    one = shard("sweep", "label", MODEL, {}, {"pairs": [PAIR], "vector": {"a": vector()}})
    other = pickle.loads(pickle.dumps(one))
    assert (other.key, other.model) == (one.key, MODEL)
    assert torch.equal(other.arguments["vector"]["a"].values, vector().values)


def test_the_code_is_known_by_its_source():
    assert len(code_digest()) == 64
    assert code_digest() == code_digest()
