"""Loading and steering a checkpoint of Llama 2 7B's exact shape, with random weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.integration.llama_2_checkpoint import write_checkpoint

# Runs alone in its process. Resident memory is counted whole, mapped pages of the checkpoint included, and until
# every weight has been used: weights that are only mapped would cost nothing before.
MEASURE = """
import json, sys, threading, time
import psutil, torch, transformer_lens.model_bridge
import caa_interp as caa

process, peak, running = psutil.Process(), [0], [True]

def watch():
    while running[0]:
        peak[0] = max(peak[0], process.memory_info().rss)
        time.sleep(0.01)

before = process.memory_info().rss
watcher = threading.Thread(target=watch); watcher.start()
model = caa.load_model(sys.argv[1], dtype=torch.bfloat16)
loaded = peak[0]
pair = caa.ContrastPair("Is it so?", "Yes, it is.", "No, it is not.")
vector = caa.extract_vector(model, [pair], format="choices", layers=[13])
table = caa.sweep(model, vector, [pair], multipliers=(0.0, 1.0))
running[0] = False; watcher.join()
print(json.dumps({"peak": peak[0] - before, "loaded": loaded - before, "finite": bool(table.p_positive.notna().all()),
                  "path": table["path"].iloc[0], "layers": model.cfg.n_layers, "width": model.cfg.d_model}))
"""


@pytest.mark.slow
def test_loading_a_7b_checkpoint_needs_little_more_than_its_weights(tmp_path: Path) -> None:
    need = 14 * 2**30
    if psutil.virtual_memory().available < 1.2 * need or shutil.disk_usage(tmp_path).free < 1.1 * need:
        pytest.skip("needs 17 GB of free memory and 16 GB of free disk")
    folder = tmp_path / "llama-2-7b-chat-shape"
    folder.mkdir()
    try:
        size = write_checkpoint(folder)
        run = subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    finally:
        shutil.rmtree(folder)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    gib = {name: value / 2**30 for name, value in {**found, "size": size}.items() if name in ("peak", "loaded", "size")}
    print(f"weights {gib['size']:.2f} GiB; peak while loading {gib['loaded']:.2f} GiB, in use {gib['peak']:.2f} GiB")
    assert (found["layers"], found["width"]) == (32, 4096)
    assert found["finite"]
    assert found["peak"] <= 1.15 * size
