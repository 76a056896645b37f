"""What a worker does: whose source counts for its results, and that every kind of task asks in the model's form."""

import shutil
from dataclasses import replace
from functools import wraps
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoTokenizer

from caa_interp.study import worker
from caa_interp.study.config import ModelConfig
from caa_interp.study.kinds import KINDS
from caa_interp.study.tasks import Task
from tests.fresh_python import fresh_python
from tests.unit.prompts.test_template import DATE, DATE_IN_A_MACRO, at


def test_no_module_with_a_say_in_a_result_is_left_out_of_its_digest():
    modules = {kind.run.__module__ for kind in KINDS.values()} | {"caa_interp.models", "caa_interp.prompts.format"}
    code = f"import {', '.join(sorted(modules))}, sys\nprint(*(one for one in sys.modules if 'caa_interp.' in one))"
    root = Path(str(files("caa_interp")))
    counted = {path.relative_to(root).as_posix() for path in worker.source()}
    loaded = {name.removeprefix("caa_interp.").replace(".", "/") for name in fresh_python(code).split()}
    missing = {name for name in loaded if not {f"{name}.py", f"{name}/__init__.py"} & counted}
    assert missing == {"files", "progress", "study"}  # digests and bars, and the names of this room
    assert {"study/worker.py", "study/measures.py"} <= counted


@pytest.fixture
def given(monkeypatch):
    """What a kind of task is given, which is then not done."""

    def asked(kind, model):
        given = {}

        def remember(model, **options):
            given.update(options)
            return pd.DataFrame({"item": [0]})

        # The signature is that of the real function.
        monkeypatch.setitem(KINDS, kind, replace(KINDS[kind], run=wraps(KINDS[kind].run)(remember)))
        worker.work(model, Task(kind, kind, "likes", 0, kind, {}))
        return given

    return asked


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"logit_lens", "perplexity"}))
def test_every_kind_of_work_that_asks_something_asks_it_in_the_models_form(given, tiny_folder, kind):
    asked = given(kind, ModelConfig(name=str(tiny_folder), prompt={"style": "llama-2-chat"}))
    assert asked["prompt_format"].style == "llama-2-chat"
    assert asked.get("progress", False) is False


@pytest.mark.parametrize("template", [DATE, DATE_IN_A_MACRO])
def test_prompts_are_the_same_on_another_day(given, monkeypatch, tiny_folder, tmp_path, template):
    shutil.copytree(tiny_folder, tmp_path / "dated")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dated")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "dated")
    texts = []
    for day in (1, 2):
        at(monkeypatch, day)
        worker.forget()
        form = given("answers", ModelConfig(name=str(tmp_path / "dated")))["prompt_format"]
        texts.append(form.text("Why?"))
    assert texts[0] == texts[1]
    assert texts[0].count("26 Jul 2024") == 1
