"""The worker of a study, which is killed once: after its first sweep, before that is kept."""

import os
import signal
from pathlib import Path

from caa_interp.study import worker
from caa_interp.study.worker import describe, forget

__all__ = ["describe", "forget", "work"]


def work(model, task):
    content = worker.work(model, task)
    killed = Path(os.environ["CAA_INTERP_CACHE"]).with_name("killed")
    if task.kind == "sweep" and not killed.exists():
        killed.write_text(task.label)
        os.kill(os.getpid(), signal.SIGKILL)
    return content
