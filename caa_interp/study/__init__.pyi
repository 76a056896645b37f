from .config import ExperimentConfig as ExperimentConfig
from .executors import (
    Executor as Executor,
)
from .executors import (
    InProcess as InProcess,
)
from .executors import (
    RayWorkers as RayWorkers,
)
from .run import run_experiment as run_experiment
