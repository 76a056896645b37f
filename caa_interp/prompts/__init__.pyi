from .conversation import (
    Message as Message,
    Prompt as Prompt,
)
from .format import (
    PromptFormat as PromptFormat,
    PromptTokens as PromptTokens,
    check_prompt as check_prompt,
    split_thinking as split_thinking,
)
from .rendering import (
    Format as Format,
    Rendering as Rendering,
    Style as Style,
)
