from .behavior import (
    Behavior as Behavior,
    load_behavior as load_behavior,
    load_behaviors as load_behaviors,
)
from .downloads import fetch as fetch
from .pairs import (
    ContrastPair as ContrastPair,
    PublishedPair as PublishedPair,
    split_pairs as split_pairs,
)
from .questions import (
    load_prose as load_prose,
    load_questions as load_questions,
    load_requests as load_requests,
)
from .readers import read_pairs as read_pairs
from .result import ReadResult as ReadResult
