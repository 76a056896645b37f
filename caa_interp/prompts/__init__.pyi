from .format import (
    PromptFormat as PromptFormat,
    Rendering as Rendering,
)
