"""The paper's numbers (Rimsky et al. 2024), and reproducing them on a model of one's own.

:mod:`published` holds the paper's results; :mod:`sets` reads its question sets from a folder;
:mod:`reproduction` measures them part by part (:mod:`parts`), and :mod:`table` puts ours beside theirs.
Begin reading at :mod:`caa_interp.paper.reproduction`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
