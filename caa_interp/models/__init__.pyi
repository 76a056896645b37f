from .loading import (
    EMBEDDED as EMBEDDED,
    load_model as load_model,
)
