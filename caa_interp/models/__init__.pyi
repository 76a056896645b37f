from .loading import (
    EMBEDDED as EMBEDDED,
)
from .loading import (
    load_model as load_model,
)
