"""Files and folders appear whole or not at all, and hashes are equal exactly where contents are."""

import errno
import os
from dataclasses import dataclass

import pytest
import torch

from caa_interp.files import files_digest, fingerprint, publish_folder, write_atomically


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


@dataclass
class Thing:
    size: int
    values: torch.Tensor


@dataclass
class Other(Thing):
    pass


def test_equal_values_have_one_fingerprint():
    values = [1.0, "a", None, True, {"b": Thing(1, torch.ones(2, 3))}]
    again = (1.0, "a", None, True, {"b": Thing(1, torch.ones(3, 2).T)})
    assert fingerprint(values) == fingerprint(again)
    assert len(fingerprint(values)) == 64


def test_different_values_have_different_fingerprints():
    ones = torch.ones(2, 3)
    values = [
        *(["ab", "c"], ["a", "bc"], ["a", ["b", "c"]], "1", 1, 1.5, None, True, [], [[]]),
        *({"a": {"b": 1}}, {"a": {}, "b": 1}, {"b": 1, "a": {}}),
        *(
            Thing(1, ones),
            Thing(2, ones),
            Other(1, ones),
            Thing(1, ones * 2),
            Thing(1, ones.T),
            Thing(1, ones.double()),
        ),
    ]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_what_is_not_finite_has_no_fingerprint():
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint([float("nan")])


def test_a_digest_of_files_knows_their_names_and_contents_and_not_their_order_or_place(tmp_path):
    digests = []
    for number, contents_of in enumerate([{"a": "1", "b/c": "2"}, {"b/c": "2", "a": "1"}, {"a": "2", "b/c": "1"}]):
        folder = tmp_path / str(number)
        for name, text in contents_of.items():
            write_atomically(folder / name, text.encode())
        digests.append(files_digest(folder, [folder / name for name in contents_of]))
    assert digests[0] == digests[1] != digests[2]
