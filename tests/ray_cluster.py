"""A Ray cluster of the tests' own on this machine."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def running(paths: list[Path]) -> Iterator[str]:
    """Address of a cluster on four CPUs of this machine, whose workers find modules in these folders."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # sockets need a short path
        for _ in range(6):  # Ray waits half a minute for itself, which a busy machine may exceed
            head, address = start(Path(folder), {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))})
            if head.poll() is None:
                break
        try:
            assert head.poll() is None, (Path(folder) / "log").read_text()
            yield address
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def start(folder: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start Ray in a session of its own, and wait until it is up or gave up; its process and address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    # A folder of its own, or Ray would take this cluster for the machine's latest.
    options = [f"--port={port}", f"--node-ip-address={host}", f"--temp-dir={folder / 'ray'}", "--num-cpus=4"]
    quiet = ["--block", "--disable-usage-stats", "--include-dashboard=false"]
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), "start", "--head", *quiet, *options],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while head.poll() is None and b"Ray runtime started" not in (folder / "log").read_bytes():
        time.sleep(0.1)
    if head.poll() is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)  # Ray leaves running what it had started
    return head, address
