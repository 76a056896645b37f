from .behavior import (
    Behavior as Behavior,
)
from .behavior import (
    load_behavior as load_behavior,
)
from .behavior import (
    load_behaviors as load_behaviors,
)
from .downloads import fetch as fetch
from .pairs import (
    ContrastPair as ContrastPair,
)
from .pairs import (
    PublishedPair as PublishedPair,
)
from .pairs import (
    split_pairs as split_pairs,
)
from .questions import (
    load_prose as load_prose,
)
from .questions import (
    load_questions as load_questions,
)
from .readers import (
    ReadResult as ReadResult,
)
from .readers import (
    read_pairs as read_pairs,
)
