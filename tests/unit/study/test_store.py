"""Finished shards on disk: kept, found again, and told from damaged ones."""

import os
import time

import pytest

from caa_interp.errors import InputError
from caa_interp.study import store as module
from caa_interp.study.store import ShardStore, cache_contents, cache_limit, clear_cache, remove_unfinished

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    return module.shard_cache()


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(tmp_path, cache, said):
    return ShardStore(tmp_path / "run" / "shards", cache, said.append)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_put_is_got(store):
    assert store.get(KEY) is None
    store.put(KEY, b"content")
    assert store.get(KEY) == b"content"
    assert store.get(OTHER) is None


def test_another_run_gets_it_from_the_cache_and_keeps_a_copy(store, cache, tmp_path, said):
    store.put(KEY, b"content")
    second = ShardStore(tmp_path / "second", cache, said.append)
    assert second.get(KEY) == b"content"
    clear_cache()
    assert second.get(KEY) == b"content"
    assert said == []


@pytest.mark.parametrize("damage", [b"", b"conten", b"content!", b"Content"])
def test_a_damaged_file_is_removed_and_the_cache_stands_in(store, said, damage):
    store.put(KEY, b"content")
    (own,) = files(store.folder)
    own.write_bytes(damage)
    assert store.get(KEY) == b"content"
    assert len(said) == 1
    assert str(own) in said[0]
    assert own.read_bytes() == b"content"


def test_where_all_copies_are_damaged_there_is_none(store, cache, said):
    store.put(KEY, b"content")
    for path in [*files(store.folder), *files(cache)]:
        os.truncate(path, 3)
    assert store.get(KEY) is None
    assert len(said) == 2
    assert not [*files(store.folder), *files(cache)]


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path, said):
    (tmp_path / "file").write_text("in the way")
    store = ShardStore(tmp_path / "run", tmp_path / "file" / "shards", said.append)
    store.put(KEY, b"content")
    store.put(OTHER, b"content")
    assert store.get(KEY) == store.get(OTHER) == b"content"
    assert len(said) == 1
    assert "continues without it" in said[0]


def test_a_cache_that_cannot_be_written_is_read(store, cache, tmp_path, said, monkeypatch):
    store.put(KEY, b"content")

    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "utime", refuse)
    assert ShardStore(tmp_path / "second", cache, said.append).get(KEY) == b"content"
    assert said == []


def test_a_run_folder_that_cannot_be_written_is_an_error(tmp_path, cache, said):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        ShardStore(tmp_path / "file" / "shards", cache, said.append).put(KEY, b"content")


def test_the_cache_drops_what_was_not_used_for_longest(store, cache):
    for number in range(4):
        store.put(str(number) * 64, bytes(100))
        (path,) = (cache / (str(number) * 2)).iterdir()
        os.utime(path, (1000 + number, 1000 + number))
    fresh = ShardStore(store.folder.parent / "other", cache, lambda line: None)
    fresh.get("0" * 64)  # used now
    assert [path.name[0] for path in cache_contents()] == ["1", "2", "3", "0"]
    removed = clear_cache(keep_bytes=250)
    assert [path.name[0] for path in removed] == ["1", "2"]
    assert sum(cache_contents().values()) == 200
    clear_cache()
    assert cache_contents() == {}


def test_only_what_was_left_half_written_is_removed(tmp_path):
    kept = [".hidden-notes", "table.parquet", ".lock", ".table.parquet-short", "x.parquet-abcdefgh"]
    left = [".table.parquet-abcdefgh", ".manifest.json-a_c1efgh"]
    for name in kept + left:
        (tmp_path / name).write_bytes(b"")
    remove_unfinished(tmp_path, older_than=60)
    assert len(files(tmp_path)) == len(kept + left)
    os.utime(tmp_path / left[0], (time.time() - 100,) * 2)
    remove_unfinished(tmp_path, older_than=60)
    assert not (tmp_path / left[0]).exists()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in files(tmp_path)) == sorted(kept)


def test_the_limit_comes_from_the_environment(monkeypatch):
    assert cache_limit() == 5e9
    monkeypatch.setenv("CAA_INTERP_CACHE_LIMIT", "0.25")
    assert cache_limit() == 250_000_000
    for wrong in ("many", "-1", "inf", "nan"):
        monkeypatch.setenv("CAA_INTERP_CACHE_LIMIT", wrong)
        with pytest.raises(InputError, match=r"CAA_INTERP_CACHE_LIMIT: '.*'; it must be a number of gigabytes"):
            cache_limit()
