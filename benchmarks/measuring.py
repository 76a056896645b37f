"""What is measured: seconds, memory, and the table that shows them."""

import platform
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import psutil
import torch

from benchmarks import floor


class Peak:
    """Peak of this process's memory beyond what it held at the start, in MB; on a GPU, of the GPU's memory."""

    def __enter__(self) -> "Peak":
        self.cuda = torch.cuda.is_available()
        self.process = psutil.Process()
        self.before = self.top = self.process.memory_info().rss
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before_cuda = torch.cuda.memory_allocated()
        self.running = True
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.top = max(self.top, self.process.memory_info().rss)
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.watcher.join()
        used = torch.cuda.max_memory_allocated() - self.before_cuda if self.cuda else self.top - self.before
        self.megabytes = max(0.0, used / 1e6)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def show(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    columns = ["task", "tokens", "naive (s)", "caa_interp (s)", "ratio", "x floor", "peak (MB)", "largest difference"]
    digits = {"largest difference": "{:.1e}", "peak (MB)": "{:.0f}", "ratio": "{:.2f}", "x floor": "{:.2f}"}
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [
            digits.get(name, "{:.2f}").format(row[name]) if isinstance(row.get(name), float) else str(row.get(name, ""))
            for name in columns
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def described(model: Any, rate_seconds: float = 1.5) -> str:
    """The model's type, the device, its rate, and the versions of what computes."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformer-lens", "transformers", "torch"))
    dtype = str(model.cfg.dtype).removeprefix("torch.")
    rate = floor.matmul_rate(model, seconds=rate_seconds)
    return f"{dtype} on {platform.machine()} {device};\n{rate / 1e9:.0f} GFLOP/s; {versions}"
