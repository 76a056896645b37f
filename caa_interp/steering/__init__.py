"""Changing what a model does: one intervention, and the two ways in which a user meets it.

An :class:`Intervention` is a vector, a layer, a multiplier, an operator (:mod:`operators`) and a rule of positions
(:mod:`positions`). It is resolved on a prompt to an edit of that sequence, which :mod:`caa_interp.tree.edits` applies.
:func:`steer` does that to every call of a model (:mod:`context`), :func:`generate` to the answers that it writes
(:mod:`generation`), :mod:`reading` to sequences that are scored. Begin at :mod:`caa_interp.steering.intervention`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
