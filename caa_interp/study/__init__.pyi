from .config import ExperimentConfig as ExperimentConfig
from .executors import (
    Executor as Executor,
    InProcess as InProcess,
)
from .processes import Processes as Processes
from .ray_workers import RayWorkers as RayWorkers
from .run import run_experiment as run_experiment
