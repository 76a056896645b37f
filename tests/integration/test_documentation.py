"""The documentation says what is so: its snippets run, its names and commands exist, its site needs nobody else."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType, SimpleNamespace

import pytest
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

import caa_interp as caa
from caa_interp import cli
from tests.tiny_models import small_tokenizer

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
# Texts besides the pages that name what is public.
ELSEWHERE = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]
GUIDES = [name for name in PAGES if name.startswith("howto/") or name == "index.md"]


@dataclass(frozen=True)
class Snippet:
    code: str
    not_run: str  # why, or ""


def snippets(page: str) -> list[Snippet]:
    fenced = r"(?:^<!-- not run: ([^\n]+) -->\n)?^```python\n(.*?)^```$"
    return [Snippet(code, reason) for reason, code in re.findall(fenced, PAGES[page], flags=re.MULTILINE | re.DOTALL)]


@pytest.fixture(scope="session")
def deep_llama(tmp_path_factory) -> object:
    """A random Llama that is small, and as deep as the embedded model, whose layers the pages name."""
    torch.manual_seed(0)
    tokenizer = small_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=30,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("models") / "deep-llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return caa.load_model(folder, device="cpu", dtype="float32")


def abridged(behavior: caa.Behavior) -> caa.Behavior:
    return replace(behavior, train=behavior.train[:34], test=behavior.test[:5])


def run_snippets(page: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for number, snippet in enumerate(snippets(page)):
        code = compile(snippet.code, f"{page}, snippet {number}", "exec")
        if not snippet.not_run:
            exec(code, names)


@pytest.mark.parametrize("page", [*GUIDES, pytest.param("gallery.md", marks=pytest.mark.slow)])
def test_snippets_run(page, deep_llama, monkeypatch, tmp_path):
    load, three = caa.load_behavior, ("optimism", "refusal", "sycophancy")
    monkeypatch.setattr(caa, "load_model", lambda: deep_llama)
    monkeypatch.setattr(caa, "load_behavior", lambda name: abridged(load(name)))
    monkeypatch.setattr(caa, "load_behaviors", lambda: {name: abridged(load(name)) for name in three})
    run_snippets(page, monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES)
def test_snippets_run_on_the_embedded_model(page, embedded, monkeypatch, tmp_path):
    monkeypatch.setattr(caa, "load_model", lambda: embedded)
    run_snippets(page, monkeypatch, tmp_path)


def test_guides_have_snippets_that_run():
    without = {page for page in GUIDES if not any(not one.not_run for one in snippets(page))}
    pages = ("cluster", "index", "llama-2", "reproduce", "study")
    assert without == {f"howto/{page}.md" for page in pages}


def unknown_names(text: str) -> set[str]:
    """Names such as ``caa.sweep``, ``caa.evaluation.calibrate`` or ``caa.PromptFormat.of`` that are not public."""
    unknown = set()
    for path in set(re.findall(r"(?<![-\w])caa((?:\.[A-Za-z]\w*)+)", text)):
        owner: object = caa
        for name in path[1:].split("."):
            public = name in getattr(owner, "__all__", [name]) and not name.startswith("_")
            if not (public and hasattr(owner, name)):
                unknown.add(f"caa{path}")
                break
            owner = getattr(owner, name)
    return unknown


def test_unknown_names_are_noticed():
    known = "caa.sweep(...) caa.evaluation.calibrate, caa.PromptFormat.of(model); caa.tree; published-caa.md"
    assert not unknown_names(known)
    unknown = {
        "caa.calibrate",
        "caa.evaluation.measured",
        "caa.evaluation.cost",
        "caa.PromptFormat.encode",
        "caa.a.b.c",
    }
    assert unknown_names(" ".join([known, *unknown])) == unknown


@pytest.mark.parametrize("path", ELSEWHERE, ids=lambda path: path.name)
def test_names_in_other_texts_are_public(path):
    assert not unknown_names(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_names_are_public_and_snippets_are_python(page):
    assert not unknown_names(PAGES[page])
    for snippet in snippets(page):
        compile(snippet.code, page, "exec")


def public_names() -> set[str]:
    """Functions and classes, by their shortest public name: at the top, or in their room."""
    rooms = [name for name in caa.__all__ if hasattr(getattr(caa, name), "__path__")]
    found = {getattr(caa, name): f"caa_interp.{name}" for name in caa.__all__ if callable(getattr(caa, name))}
    for room in rooms:
        for name in getattr(caa, room).__all__:
            value = getattr(getattr(caa, room), name)
            if isinstance(value, type | FunctionType):
                found.setdefault(value, f"caa_interp.{room}.{name}")
    return set(found.values())


def test_the_reference_documents_every_public_name_once():
    counted = Counter(re.findall(r"^::: (\S+)$", "\n".join(PAGES.values()), flags=re.MULTILINE))
    assert not public_names() - set(counted)
    assert set(counted.values()) == {1}
    for path in counted:
        module, _, name = path.rpartition(".")
        assert getattr(import_module(module), name).__doc__


COMMANDS = [
    pytest.param(page, line, id=f"{page}: {line}")
    for page, text in PAGES.items()
    for line in re.findall(r"^\$ caa-interp (.*?)(?:  +#.*)?$", text, flags=re.MULTILINE)
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_parse(page, line):
    command = typer.main.get_command(cli.app)
    words = shlex.split(line)
    context = command.make_context("caa-interp", list(words))
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)
    assert not hasattr(command, "commands")


def fenced(page: str, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return found


@pytest.mark.parametrize("page", ["study-configuration.md", "howto/study.md", "howto/conversations.md"])
def test_studies_can_be_loaded(page, tmp_path):
    from caa_interp.study.config import ExperimentConfig

    (tmp_path / "study.toml").write_text(fenced(page, "toml"), encoding="utf-8")
    assert ExperimentConfig.load(tmp_path / "study.toml").format == "text"


def test_the_example_of_the_study_sets_every_field():
    from caa_interp.study import config

    given = tomllib.loads(fenced("study-configuration.md", "toml"))
    assert given.keys() == config.ExperimentConfig.model_fields.keys()
    parts = ("prompt", "controls", "answers", "costs", "side_effects", "interference", "safety_audit", "conversations")
    for name in (*parts, "rivals"):
        part = config.ExperimentConfig.model_fields[name].annotation
        assert given[name].keys() == part.model_fields.keys()
    (combination,) = given["combinations"]
    assert combination.keys() == config.Combination.model_fields.keys()
    assert {name for one in combination["interventions"] for name in one} == config.Applied.model_fields.keys()


def test_the_page_of_the_study_has_every_field_with_its_default():
    from caa_interp.study import config

    parts = {"The study": config.ExperimentConfig, "`[[models]]`": config.ModelConfig}
    parts |= {"`[prompt]`": config.PromptConfig, "`[controls]`": config.Controls, "`[answers]`": config.Answers}
    parts |= {"`[costs]`": config.Costs, "`[side_effects]`": config.SideEffects}
    parts |= {"`[safety_audit]`": config.SafetyAudit, "`[conversations]`": config.Conversations}
    parts |= {"`[interference]`": config.Interference, "`[rivals]`": config.Rivals}
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGES["study-configuration.md"], flags=re.M | re.S))
    for heading, part in parts.items():
        rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \|", sections[heading], flags=re.MULTILINE)
        said = {name: default for names, default in rows for name in re.findall(r"\w+", names)}
        fields = {
            name: field.default
            for name, field in part.model_fields.items()
            if part is not config.ExperimentConfig or not {f"`[{name}]`", f"`[[{name}]]`"} & sections.keys()
        }
        assert set(said) == set(fields), heading
        for name, default in fields.items():
            if isinstance(default, int):
                assert said[name] == str(default), name
    shown = set(re.findall(r"^\| `(\w+)` \|", sections["`[[combinations]]`"], flags=re.MULTILINE))
    assert shown == {*config.Combination.model_fields, *config.Applied.model_fields}


def test_the_behavior_of_the_format_page_can_be_loaded(tmp_path):
    (tmp_path / "warmth.json").write_text(fenced("formats/behavior.md", "json"), encoding="utf-8")
    behavior = caa.load_behavior(tmp_path / "warmth.json")
    assert (behavior.name, len(behavior.train), len(behavior.test)) == ("warmth", 1, 1)
    assert set(json.loads(fenced("formats/behavior.md", "json"))) == {
        *("format", "name", "description", "license", "system_prompts"),
        *("rubric", "train", "test", "open_ended"),
    }


class Loaded(HTMLParser):
    """What a page loads by itself, the ids that it has, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe", "link"):
            self.addresses.append(attributes.get("src") or attributes.get("href") or "")
        self.ids.add(attributes.get("id") or "")

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` does."""
    pytest.importorskip("mkdocs", reason="the documentation's tools are not installed")
    folder = tmp_path_factory.mktemp("documentation") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    # Strict: a link, picture or reference to what is not there is an error.
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", DOCS / "concepts.md", DOCS / "howto/forms.md"], ids=lambda path: path.name
)
def test_the_speeds_that_texts_quote_are_those_of_the_benchmark(path):
    rows = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    ratios = [re.search(rf"^\| sweep, {form}: .*", rows, re.MULTILINE)[0].split("|")[5] for form in ("choices", "text")]
    quoted = re.findall(r"(?<=\b1/)\d+", path.read_text(encoding="utf-8"))
    assert quoted == [f"{float(f'{float(ratio):.2g}'):g}" for ratio in ratios]


def test_pages_load_nothing_from_elsewhere(site):
    pages = {path: Loaded(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 40
    for path, page in pages.items():
        assert not [address for address in page.addresses if "//" in address], path


def test_formulas_are_drawn_without_a_script(site):
    written = len(re.findall(r"\$`.+?`\$|^```math$", PAGES["concepts.md"], flags=re.MULTILINE))
    html = (site / "concepts.html").read_text(encoding="utf-8")
    formulas = re.findall(r"<math .*?</math>", html, flags=re.DOTALL)
    assert len(formulas) == written > 100
    assert "<mfrac>" in "".join(formulas)
    assert not re.findall(r"\$<code>|<code>\$|language-math|class=\"math\"", html)


def test_a_formula_that_cannot_be_drawn_is_an_error():
    errors = pytest.importorskip("mkdocs.exceptions", reason="the documentation's tools are not installed")
    spec = spec_from_file_location("formulas", DOCS / "generator" / "formulas.py")
    hook = module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="concepts.md"))
    assert hook.on_page_content("<code>$</code> $<code>x &lt; y</code>$", page=page).count("<math ") == 1
    broken = "$<code>x_t\n+ y</code>$, $<code>z</code>$ and <code>code</code>"
    assert hook.on_page_content(broken, page=page).count("<math ") == 2
    for latex in (r"\nosuchcommand{x}", r"\begin{aligned} a &amp;= b \end{aligned}"):
        with pytest.raises(errors.PluginError, match=r"concepts\.md"):
            hook.on_page_content(f"$<code>{latex}</code>$", page=page)


def test_roles_of_docstrings_are_links(site):
    pages = [Loaded(path.read_text(encoding="utf-8")) for path in (site / "reference").glob("*.html")]
    text = "\n".join(page.text for page in pages)
    assert not re.findall(r":(?:func|class|meth|mod|data|attr|exc):", text)
    assert {f"caa_interp.{name}" for name in ("sweep", "SteeringVector.save", "steering.operators")} <= set().union(
        *(page.ids for page in pages)
    )
    vectors = (site / "reference" / "vectors.html").read_text(encoding="utf-8")
    assert re.search(
        r'<a [^>]*href="elsewhere\.html#caa_interp\.import_vector"[^>]*><code>import_vector</code></a>', vectors
    )


def test_every_command_is_on_its_page(site):
    text = Loaded((site / "command-line.html").read_text(encoding="utf-8")).ids
    assert {"run", "extract", "sweep", "generate", "analyze", "report", "data-check", "cache-ls", "models"} <= text


@pytest.mark.parametrize("width", [1280, 390])
def test_the_site_works_from_the_disk(site, browser, width):
    said, asked = [], []
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for name in ("gallery", "concepts", "reference/effects", "command-line", "howto/cost", "index"):
        page.goto((site / f"{name}.html").as_uri())
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider == 0, name
    if width < 1000:
        page.click("header label[for=__search]")
    page.click("input.md-search__input")
    page.keyboard.type("orthogonal", delay=30)
    page.wait_for_selector(".md-search-result__item a")
    found = page.locator(".md-search-result__item a").all_inner_texts()
    page.close()
    assert any("orthogonal" in text for text in found)
    assert not said
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
