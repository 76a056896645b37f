"""Public names, what importing them costs, and the family of exceptions."""

import ast
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import caa_interp as caa
from tests.fresh_python import fresh_python

# Those whose names are listed in a stub; the command line has none.
ROOMS = sorted(path.parent.name for path in Path(caa.__file__).parent.glob("*/__init__.pyi"))


# What imports what, and what it does not, in the order in which one Python is given them: those that load least first.
IMPORTS = [
    (
        "import caa_interp",
        {"caa_interp"},
        {"torch", "transformers", "transformer_lens", "umap", "sklearn", "plotly", "pandas", "numpy"},
    ),
    (
        "from caa_interp import ContrastPair, load_behaviors; assert load_behaviors()",
        {"caa_interp.behaviors.behavior"},
        {"torch", "transformers", "transformer_lens"},
    ),
    (
        "import caa_interp.study.config, caa_interp.study.environment",
        {"caa_interp.study.config"},
        {"torch", "transformers", "ray"},
    ),
    (
        "from caa_interp import SteeringVector, match_norms, project, summarize, steerability, random_vectors\n"
        "from caa_interp import plot_sweep, plot_dose_response, plot_projection\n"
        "from caa_interp.vectors import mean_difference\nimport caa_interp.analysis.projection",
        {"caa_interp.errors", "caa_interp.plotting.sweep"},
        {"transformer_lens"},
    ),
    ("from caa_interp import explore; assert callable(explore)", {"caa_interp.explorer"}, {"ipywidgets"}),
]


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """Names of all modules that have been loaded after each of the statements."""
    code = "import sys\n" + "".join(f"{statement}\nprint(*sys.modules)\n" for statement, *_ in IMPORTS)
    shown = fresh_python(code).splitlines()
    return {statement: set(line.split()) for (statement, *_), line in zip(IMPORTS, shown, strict=True)}


def test_top_names_are_few_sorted_and_without_repetition():
    assert caa.__all__ == sorted(set(caa.__all__))
    assert len(set(caa.__all__) - set(ROOMS)) <= 60


@pytest.mark.parametrize("name", sorted(caa.__all__))
def test_every_top_name_is_a_room_or_documented(name):
    value = getattr(caa, name)
    if isinstance(value, ModuleType):
        assert value.__name__ == f"caa_interp.{name}"
    else:
        assert value.__name__ == name
        assert value.__module__.startswith("caa_interp.")
    assert value.__doc__


def test_every_room_is_a_top_name():
    assert set(ROOMS) <= set(caa.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_the_names_of_every_room_can_be_imported_and_are_documented(room):
    module = import_module(f"caa_interp.{room}")
    assert module.__doc__
    assert module.__all__ == sorted(set(module.__all__))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="steeer"):
        module.steeer  # noqa: B018


def test_names_are_listed_for_completion():
    assert set(caa.__all__) <= set(dir(caa))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="steeer"):
        caa.steeer  # noqa: B018


@pytest.mark.parametrize(("statement", "needed", "without"), IMPORTS)
def test_what_is_imported_loads_nothing_that_it_does_not_need(imported, statement, needed, without):
    assert needed <= imported[statement]
    assert not imported[statement] & without


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (caa.InputError, ValueError),
        (caa.errors.ModelError, RuntimeError),
        (caa.errors.VectorMismatchError, caa.InputError),
        (caa.errors.MissingDependencyError, ImportError),
    ],
)
def test_every_error_is_a_caa_error_and_what_python_calls_it(error, also):
    assert issubclass(error, caa.errors.CAAError)
    assert issubclass(error, also)


def answered(model, prompt, vector, form):
    return caa.generate(model, [prompt], vector=vector, layer=1, max_new_tokens=1, prompt_format=form, progress=False)


def test_a_warning_points_to_the_line_that_called_the_package(tiny_llama, pairs):
    vector = caa.extract_vector(tiny_llama, pairs, format="text", progress=False)
    plain = caa.PromptFormat.of(tiny_llama, style="llama-2-chat")
    with pytest.warns(UserWarning, match="was made from prompts in the style") as told:
        caa.sweep(tiny_llama, vector, pairs, layers=1, prompt_format=plain, progress=False)
    with pytest.warns(UserWarning, match="was made from prompts in the style") as also:
        answered(tiny_llama, pairs[0].question, vector, plain)
    assert [one.filename for one in (*told, *also)] == [__file__] * 2


def test_the_version_is_that_of_the_distribution():
    assert caa.__version__ == version("caa-interp")


def test_what_only_some_systems_have_is_imported_where_it_is_used():
    """Windows has no ``resource``, so no module of the package may need it to be imported."""
    elsewhere = {"resource", "fcntl", "termios", "pwd", "grp", "msvcrt", "winreg"}
    for path in sorted(Path(caa.__file__).parent.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not elsewhere & set(names), path
