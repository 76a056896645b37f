"""Files and folders appear whole or not at all."""

import errno
import os

import pytest

from caa_interp.files import publish_folder, write_atomically


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_appears_when_it_is_whole(tmp_path):
    folder = tmp_path / "new" / "model"
    with publish_folder(folder) as partial:
        assert partial.parent == folder.parent  # on the same disk, so that it can be renamed
        (partial / "deep").mkdir()
        (partial / "deep" / "weights").write_text("w")
        assert not folder.exists()
    assert contents(tmp_path) == {"new/model/deep/weights": "w"}
    assert os.listdir(folder.parent) == ["model"]
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_fails_halfway_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), publish_folder(tmp_path / "model") as partial:  # noqa: PT012
        (partial / "weights").write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_there_by_then_stays_as_it_is(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(OSError, match="model"), publish_folder(folder) as partial:  # noqa: PT012
        (partial / "weights").write_text("ours")
        folder.mkdir()
        (folder / "weights").write_text("another's")
    assert contents(tmp_path) == {"model/weights": "another's"}
    assert os.listdir(tmp_path) == ["model"]


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["a.json"]
