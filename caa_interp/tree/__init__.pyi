from .branches import Branch as Branch, TreeResult as TreeResult
from .edits import Edit as Edit
from .run import run_tree as run_tree, run_trees as run_trees
