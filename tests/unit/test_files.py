"""Files and folders appear whole or not at all, and hashes are equal exactly where contents are."""

import errno
import os
from dataclasses import dataclass
from functools import partial

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


@pytest.fixture
def steps(monkeypatch):
    """What is brought to the disk (``"sync"``, inode) and renamed (``"rename"``, new name), in this order."""
    found = []

    def renamed(old, new, real):
        found.append(("rename", os.fspath(new)))
        real(old, new)

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, partial(renamed, real=getattr(os, name)))
    monkeypatch.setattr(os, "fsync", lambda handle: found.append(("sync", os.fstat(handle).st_ino)))
    return found


def test_a_name_never_stands_for_less_than_its_content_after_a_power_cut(tmp_path, steps):
    folder = tmp_path / "new" / "model"
    with publish_folder(folder) as new:
        (new / "deep").mkdir()
        (new / "deep" / "weights").write_text("w")
    at = steps.index(("rename", str(folder)))
    inside = {folder.stat().st_ino} | {path.stat().st_ino for path in folder.rglob("*")}
    assert inside <= {inode for what, inode in steps[:at] if what == "sync"}
    assert steps[at + 1 :] == [("sync", folder.parent.stat().st_ino)]  # the new name itself is kept
    assert ("sync", tmp_path.stat().st_ino) in steps  # as is that of a folder that was made for it

    steps.clear()
    path = tmp_path / "deep" / "a.json"
    write_atomically(path, b"content")
    inodes = [tmp_path, path, path.parent]
    assert [value for what, value in steps if what == "sync"] == [one.stat().st_ino for one in inodes]
    assert steps[2] == ("rename", str(path))


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO])
def test_only_a_file_system_that_cannot_keep_names_is_excused(tmp_path, monkeypatch, error):
    fsync = os.fsync

    def refuse(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(error, os.strerror(error))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    if error == errno.EINVAL:
        write_atomically(tmp_path / "a", b"content")
        assert (tmp_path / "a").read_bytes() == b"content"
    else:
        with pytest.raises(OSError, match="Input/output error"):
            write_atomically(tmp_path / "a", b"content")


@pytest.fixture
def interrupted(monkeypatch):
    """``interrupted(call, look, n, after)``: stop a call at its nth change of the disk; whether it got that far.

    ``look`` is called at every change, as if the process had been killed there.
    """

    def run(call, look, n, after):
        left = iter(range(n, -1, -1))

        def changed(*arguments, real, **options):
            look()
            last = next(left, -1) == 0
            if last and not after:
                raise KeyboardInterrupt
            real(*arguments, **options)
            look()
            if last:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "unlink", "rmdir", "chmod"):
                patch.setattr(os, name, partial(changed, real=getattr(os, name)))
            try:
                call()
            except KeyboardInterrupt:
                return True
        return False

    return run


@pytest.mark.parametrize("after", [False, True])
def test_a_folder_that_is_replaced_is_there_at_every_interrupt_and_on_disk_at_every_kill(tmp_path, interrupted, after):
    whole = [{"a": f"{n}", "b": f"{n}"} for n in range(2)]
    holder = tmp_path / "0"

    def write(number):
        with publish_folder(holder / "model", replace=True) as new:
            for name, text in whole[number].items():
                (new / name).write_text(text)

    def look():
        assert any(contents(folder) in whole for folder in holder.iterdir())

    n, got_there = 0, True
    while got_there:
        holder = tmp_path / f"{n}"
        write(0)
        got_there = interrupted(lambda: write(1), look, n, after)
        assert contents(holder / "model") in whole
        n += 1
    assert n > 4
    assert os.listdir(holder) == ["model"]
    assert contents(holder / "model") == whole[1]


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
