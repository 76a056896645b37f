"""``caa-interp cache``: what is listed, what is removed, and when it asks."""

import json
import os

import pytest

from tests.command_line import run


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Cache folder with something of every kind, and something that is not the cache's beside it."""
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    sizes = {
        "shards/ab/abcd-01.parquet": 10,
        "shards/ab/abff-02.parquet": 20,
        "models/big-0123456789abcdef/config.json": 2,
        "models/big-0123456789abcdef/model.safetensors": 3000,
        "models/.big-unfinished/model.safetensors": 7,
        "judge/a.json": 5,
        "judge/b.json": 5,
        "published/anthropic/evals/survival-instinct.jsonl": 40,
        "other/mine.txt": 1,
    }
    for number, (name, size) in enumerate(sizes.items()):
        path = tmp_path / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        day = 1_700_000_000 + number * 86_400
        os.utime(path, (day, day))
    return tmp_path / "cache"


def test_ls_counts_all_parts(cache):
    kept = {one.pop("part"): one for one in json.loads(run("cache", "ls", "--json").stdout)}
    assert {name: (one["number"], one["n_bytes"]) for name, one in kept.items()} == {
        "shards": (2, 30),
        "models": (1, 3002),
        "judge": (2, 10),
        "published": (1, 40),
    }
    assert kept["judge"]["last_used"] == "2023-11-20T22:13:20+00:00"
    assert kept["models"]["folder"] == str(cache / "models")


def test_ls_of_an_empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "none"))
    assert {one["number"] for one in json.loads(run("cache", "ls", "--json").stdout)} == {0}
    rows = run("cache", "ls").stdout.splitlines()
    assert rows[0].split() == ["part", "holds", "number", "size", "last_used", "folder"]
    assert [row.split()[0] for row in rows[1:]] == ["shards", "models", "judge", "published"]
    assert all(" never " in row for row in rows[1:])
    assert run("cache", "clear", "judge").stdout == "Removed: 0 replies of judges, 0 B.\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "gone", "said"),
    [
        ((), "shards/ab/abcd-01.parquet", "Removed: 2 finished pieces of studies, 30 B.\n"),
        (("models",), "models", "Removed: 1 converted GGUF models, 3 kB.\n"),
        (("published",), "published", "Removed: 1 fetched question sets, 40 B.\n"),
        (("judge", "--yes"), "judge", "Removed: 2 replies of judges, 10 B.\n"),
    ],
)
def test_clear_removes_one_part_and_no_other(cache, arguments, gone, said):
    result = run("cache", "clear", *arguments)
    assert (result.exit_code, result.stdout) == (0, said)
    assert not (cache / gone).exists()
    left = {"shards/ab/abcd-01.parquet", "models", "judge", "published", "other/mine.txt"} - {gone}
    assert all((cache / name).exists() for name in left)


@pytest.mark.parametrize(("reply", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_replies_of_judges_go_only_when_that_is_confirmed(cache, reply, code):
    result = run("cache", "clear", "judge", input=reply)
    assert result.exit_code == code
    assert "Remove 2 replies of judges, which may have to be paid for again?" in result.stderr
    assert (cache / "judge" / "a.json").exists() == (code == 1)
    assert ("Removed" in result.stdout) == (code == 0)
