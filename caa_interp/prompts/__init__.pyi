from .conversation import (
    Message as Message,
)
from .conversation import (
    Prompt as Prompt,
)
from .format import (
    PromptFormat as PromptFormat,
)
from .format import (
    PromptTokens as PromptTokens,
)
from .format import (
    Style as Style,
)
from .format import (
    check_prompt as check_prompt,
)
from .format import (
    split_thinking as split_thinking,
)
from .rendering import (
    Format as Format,
)
from .rendering import (
    Rendering as Rendering,
)
