from .activations import (
    Activations as Activations,
)
from .activations import (
    collect_activations as collect_activations,
)
from .estimators import (
    logistic_probe as logistic_probe,
)
from .estimators import (
    mean_difference as mean_difference,
)
from .estimators import (
    principal_difference as principal_difference,
)
from .estimators import (
    whitened_mean_difference as whitened_mean_difference,
)
from .extraction import (
    extract_vector as extract_vector,
)
from .extraction import (
    vector_from_activations as vector_from_activations,
)
from .vector import (
    SteeringVector as SteeringVector,
)
from .vector import (
    match_norms as match_norms,
)
