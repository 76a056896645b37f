"""Every notebook runs from top to bottom, shows no error, and uses public names only; all of them in minutes."""

import re
import resource
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import caa_interp as caa
from tests.integration.packaged_sets import write_packaged_sets

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
VARIABLES = ("CAA_INTERP_NOTEBOOK_MODEL", "CAA_INTERP_NOTEBOOK_DATA")
MAX_SECONDS = 15 * 60
MAX_BYTES = 3_000_000


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    for cell in code(notebook):
        yield from cell.outputs


def test_names_are_public(notebook: nbformat.NotebookNode) -> None:
    source = "\n".join(cell.source for cell in notebook.cells)
    assert set(re.findall(r"\bcaa\.(\w+)", source)) <= set(caa.__all__)
    assert "from caa_interp" not in source


def test_settings_are_one_cell_of_capitals_with_a_seed(notebook: nbformat.NotebookNode) -> None:
    settings = re.sub(r"\s*#.*", "", code(notebook)[0].source).splitlines()
    assert all(re.fullmatch(r"[A-Z_]+ = .+", line) for line in settings)
    assert "SEED = 0" in settings


def test_opens_with_a_heading(notebook: nbformat.NotebookNode) -> None:
    assert notebook.cells[0].cell_type == "markdown"
    assert len(re.findall(r"^# ", notebook.cells[0].source, flags=re.MULTILINE)) == 1


def test_outputs_are_kept_and_were_made_in_order(notebook: nbformat.NotebookNode) -> None:
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    # Warnings and progress bars are not results.
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"]


def test_figures_show_where_nothing_runs_and_move_where_it_does(notebook: nbformat.NotebookNode) -> None:
    figures = [
        output.data for output in outputs(notebook) if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    assert figures
    assert all("image/png" in figure for figure in figures)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_have_no_words_of_earlier_ones(path: Path) -> None:
    shown = path.read_text(encoding="utf-8")
    assert not [
        words for words in ("nothing in common", "surprise at prose", "not the unsteered token") if words in shown
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_small(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES


def test_the_one_for_llama_2_is_the_papers_setting_and_has_data_for_all_of_it_here(tmp_path: Path) -> None:
    (path,) = (path for path in NOTEBOOKS if path.stem.startswith("06"))
    source = [cell.source for cell in code(nbformat.read(path, as_version=4))]
    assert 'MODEL = "meta-llama/Llama-2-7b-chat-hf"' in source[0]
    for variable in VARIABLES:
        assert variable in source[1]
    sets = caa.paper.read_published_sets(write_packaged_sets(tmp_path))
    assert set(sets) == set(caa.paper.numbers()["behavior"])
    assert all(one.generate and one.test and one.open_ended for one in sets.values())
    for name in ("mmlu/mmlu.json", "truthfulqa/truthful_qa.json"):
        pairs = caa.read_pairs(tmp_path / "test" / name, compat="caa").pairs
        assert {pair.positive for pair in pairs} == {"(A)", "(B)"}


@pytest.mark.slow
def test_all_run_in_a_quarter_of_an_hour_on_two_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the notebook for Llama 2 takes instead.
    given = ("smollm2-135m-instruct", str(write_packaged_sets(tmp_path / "data")))
    for variable, value in zip(VARIABLES, given, strict=True):
        monkeypatch.setenv(variable, value)
    resources = {"metadata": {"path": str(tmp_path)}}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for path in NOTEBOOKS:
        # An error in a cell raises, with the cell and its traceback; so does a cell that takes too long.
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=MAX_SECONDS, kernel_name="python3", resources=resources).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Time of the processors, which does not grow when a machine is busy with other things.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * MAX_SECONDS
