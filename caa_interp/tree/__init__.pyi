from .branches import (
    Branch as Branch,
)
from .branches import (
)
from .branches import (
    TreeResult as TreeResult,
)
from .edits import Edit as Edit
from .run import (
    run_tree as run_tree,
)
from .run import (
    run_trees as run_trees,
)
