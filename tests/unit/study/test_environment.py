"""What a manifest tells of code and devices is what is there, and never another repository's."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from caa_interp import devices
from caa_interp.study import environment as module
from caa_interp.study.environment import checkout, environment


def git(folder, *arguments):
    names = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A checkout of one commit, in a folder whose name a shell would stumble over."""
    root = tmp_path / "it's $(a) repository"
    root.mkdir()
    (root / "README.md").write_text("one\n")
    (root / ".gitignore").write_text(".venv\n")
    git(root, "init", "--quiet")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def test_the_environment_tells_what_runs_and_the_commit_of_its_code():
    found = environment()
    commit, dirty = checkout(Path(module.__file__).parents[2])
    assert found == {**devices.environment(), "commit": commit, "dirty": dirty}
    assert json.loads(json.dumps(found)) == found


def test_commit_and_changes_of_a_checkout(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert checkout(repository) == (commit, False)
    (repository / "results.txt").write_text("of a run, unknown to git")
    assert checkout(repository) == (commit, False)
    (repository / "README.md").write_text("two\n")
    assert checkout(repository) == (commit, True)


def test_a_package_installed_into_a_folder_within_a_checkout_is_not_of_that_checkout(repository):
    installed = repository / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    assert checkout(installed) == (None, None)


def test_the_current_folder_and_the_variables_of_git_have_no_say(repository, tmp_path, monkeypatch):
    elsewhere = tmp_path / "site-packages"
    elsewhere.mkdir()
    commit = git(repository, "rev-parse", "HEAD")
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    monkeypatch.chdir(repository)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", "/")
    assert checkout(elsewhere) == (None, None)
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(repository))
    assert checkout(elsewhere) == (None, None)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert checkout(repository) == (commit, False)


def test_no_commit_yet_no_folder_and_no_git(repository, tmp_path, monkeypatch):
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    git(fresh, "init", "--quiet")
    assert checkout(fresh) == (None, None)
    assert checkout(tmp_path / "nowhere") == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert checkout(repository) == (None, None)


def test_a_git_that_does_not_answer_is_given_up(repository, tmp_path, monkeypatch):
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 20\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(module, "GIT_SECONDS", 0.2)
    assert checkout(repository) == (None, None)


def test_looking_takes_no_lock_and_writes_nothing(repository):
    index = repository / ".git" / "index"
    os.utime(repository / "README.md", (1, 1))
    before = index.read_bytes()
    assert checkout(repository)[1] is False
    assert index.read_bytes() == before
