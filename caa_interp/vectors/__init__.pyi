from .activations import (
    Activations as Activations,
    collect_activations as collect_activations,
)
from .estimators import (
    logistic_probe as logistic_probe,
    mean_difference as mean_difference,
    principal_difference as principal_difference,
    whitened_mean_difference as whitened_mean_difference,
)
from .extraction import (
    extract_vector as extract_vector,
    vector_from_activations as vector_from_activations,
)
from .heads import head_vector as head_vector
from .vector import (
    SteeringVector as SteeringVector,
    match_norms as match_norms,
)
