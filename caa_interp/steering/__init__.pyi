from .context import steer as steer
from .generation import generate as generate
from .operators import (
    AddIf as AddIf,
)
from .operators import (
    Cap as Cap,
)
from .operators import (
    ProjectTo as ProjectTo,
)
from .operators import (
    ablate as ablate,
)
from .operators import (
    add as add,
)
from .operators import (
    add_keeping_norm as add_keeping_norm,
)
