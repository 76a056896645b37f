"""The installation: which models it has, and whether it works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from caa_interp.cli.options import EMBEDDED, Device, Dtype, Json, Model, Seed
from caa_interp.cli.output import print_facts, print_json, print_table, say, size
from caa_interp.errors import CAAError


def models(as_json: Json = False) -> None:
    """List what --model takes: models on this machine, and the paper's with what they need.

    A folder in Hugging Face's layout, a .gguf file and the Hugging Face name of any causal language model work, too.

    Example: caa-interp models
    """
    from caa_interp.cli.available import available_models

    found = [vars(one) for one in available_models()]
    if as_json:
        print_json(found)
        return
    import pandas as pd

    rows = [{name: "" if value is None else value for name, value in one.items()} for one in found]
    print_table(pd.DataFrame(rows).rename(columns={"n_layers": "layers", "d_model": "width"}))


def doctor(
    model: Model = EMBEDDED, device: Device = None, dtype: Dtype = None, seed: Seed = 0, as_json: Json = False
) -> None:
    """Show what is installed, and test a model for faults that silently spoil a study; exit code 3 if a test fails.

    Example: caa-interp doctor --model smollm2-135m-instruct
    """
    from caa_interp.doctor import Check, environment_report, self_test
    from caa_interp.models import load_model

    environment = environment_report()
    if not as_json:
        print_facts(dict(_told(environment)))
        typer.echo("")
    try:
        checks = self_test(load_model(model, device=device, dtype=dtype), seed=seed, progress=True)
    except CAAError as error:
        checks = [Check("loading", False, str(error))]
    if as_json:
        print_json({"environment": environment, "model": model, "checks": [vars(check) for check in checks]})
    else:
        words = {True: "passed", False: "FAILED", None: "-"}
        print_facts({f"{words[check.passed]:6}  {check.name}": check.detail for check in checks})
    failed = [check.name for check in checks if check.passed is False]
    if failed:
        say(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")
        raise typer.Exit(3)


def _told(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and texts of an environment, one a line; what stands under several names gets a line of its own."""
    for name, value in environment.items():
        if name.endswith("_bytes"):
            yield name.removesuffix("_bytes"), size(value)
        elif isinstance(value, Mapping):
            yield from ((f"{name}: {inner}", text) for inner, text in _told(value))
        elif isinstance(value, list):
            yield from ((f"{name}: {inner}", text) for one in value for inner, text in _told({one["name"]: one}))
        else:
            yield name, "-" if value is None else str(value)
