"""The GPU benchmark runs at toy size, with nothing installed but what the kit and a machine with transformers have."""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def needed(names: list[str], found: dict[str, object]) -> dict[str, object]:
    """Distributions of these names and all that they need, without extras."""
    for name in names:
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # needed on another platform
            continue
        wanted = [Requirement(one) for one in found[name].requires or []]
        needed([one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})], found)
    return found


def test_it_runs_with_what_is_carried_along(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    kit = re.search(r"^KIT := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)[1].replace("\\\n", " ").split()
    assert "transformer-lens" in kit
    there = [*needed(["torch", "transformers"], {}).values(), *map(distribution, [*kit, "caa-interp"])]
    site = tmp_path / "site"
    site.mkdir()
    for one in there:
        for top in {file.parts[0] for file in one.files or [] if file.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(one.locate_file(top))
    assert not (site / "datasets").exists()
    run = subprocess.run(
        [sys.executable, "-S", "-m", "benchmarks.gpu", "--size", "toy", "--device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    for row in ("load_model", "sweep, choices: 4 layers x 3 multipliers, 2 questions", "steered answers", "float32"):
        assert row in run.stdout
    ratio, floor = re.search(r"sweep, choices.*?\| [\d.]+ \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|", run.stdout).groups()
    assert float(ratio) > 1
    assert float(floor) > 1
