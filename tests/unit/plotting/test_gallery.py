"""The gallery shows every figure there is."""

import ast
import builtins
import re
import runpy
from pathlib import Path

import pytest

import caa_interp as caa

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")
FIGURES = sorted(name for name in caa.plotting.__all__ if name.startswith("plot_"))


def test_shows_every_figure_once() -> None:
    assert sorted(re.findall(r"^### `(\w+)`$", PAGE, flags=re.MULTILINE)) == FIGURES
    assert sorted(re.findall(r"\(images/(plot_\w+)\.png\)", PAGE)) == FIGURES


def test_script_draws_every_figure() -> None:
    assert sorted(f"plot_{name}" for name in runpy.run_path(str(DOCS / "gallery.py"))["PICTURES"]) == FIGURES


def test_a_howto_shows_each_of_its_own_pictures() -> None:
    howtos = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "howto").glob("*.md"))
    drawn = runpy.run_path(str(DOCS / "gallery.py"))["HOWTO_PICTURES"]
    assert sorted(set(re.findall(r"\(\.\./images/howto_(\w+)\.png\)", howtos))) == sorted(drawn)


def test_names_are_public() -> None:
    text = PAGE + (DOCS / "gallery.py").read_text(encoding="utf-8")
    assert set(re.findall(r"\bcaa\.(\w+)", text)) <= set(caa.__all__)


def names(code: str, use: type[ast.expr_context]) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name) and isinstance(node.ctx, use)}


def test_examples_name_nothing_that_they_and_their_beginning_do_not_define() -> None:
    beginning, *examples = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) == len(FIGURES)
    known = {"caa", "pd", *dir(builtins)} | names(beginning, ast.Store)
    for example in examples:
        assert not names(example, ast.Load) - names(example, ast.Store) - known


@pytest.mark.parametrize("image", re.findall(r"\]\((images/[^)]+)\)", PAGE))
def test_pictures_are_there(image: str) -> None:
    assert (DOCS / image).read_bytes().startswith(b"\x89PNG")
