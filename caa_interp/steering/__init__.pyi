from .context import steer as steer
from .generation import Answer as Answer, generate as generate, stream_answer as stream_answer
from .intervention import Condition as Condition, Intervention as Intervention
from .operators import (
    AddIf as AddIf,
    Cap as Cap,
    ProjectTo as ProjectTo,
    ablate as ablate,
    add as add,
    add_keeping_norm as add_keeping_norm,
    operator_named as operator_named,
    slerp as slerp,
)
from .positions import FirstAnswerTokens as FirstAnswerTokens, positions_named as positions_named
