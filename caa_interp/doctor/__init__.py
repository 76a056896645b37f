"""What silently ruins a steering study, measured on the model and the machine at hand.

A vector that is added twice, to no generated token, or one layer off raises no error: the answers are just different
ones. :func:`self_test` holds what this package computes on a model against plain passes that are written out here
anew, and says by how much they differ; :func:`environment_report` says what is installed and what there is to run on.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
