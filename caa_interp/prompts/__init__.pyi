from .format import (
    PromptFormat as PromptFormat,
)
from .format import (
    Rendering as Rendering,
)
