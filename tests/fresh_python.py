"""A Python of its own, which has loaded nothing."""

import subprocess
import sys
from typing import Any


def fresh_python(code: str, *arguments: str, **options: Any) -> str:
    """What a program prints; ``options`` are those of :func:`subprocess.run`, such as its environment."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout
