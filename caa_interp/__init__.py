"""Interpretability for Contrastive Activation Addition (Rimsky et al., ACL 2024).

What a notebook uses every day is here, ``caa.<name>``; everything else that is public is in its room,
``caa.<room>.<name>``. The names stand in ``__init__.pyi`` and are imported when they are first used, so that
``import caa_interp`` is quick.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("caa-interp")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
