from .config import ExperimentConfig as ExperimentConfig
from .executors import (
    Executor as Executor,
    InProcess as InProcess,
    RayWorkers as RayWorkers,
)
from .run import run_experiment as run_experiment
