"""Models: loading them, and the few things that differ between TransformerLens's two model classes.

:func:`load_model` returns TransformerLens's own object: a ``TransformerBridge``, or on TransformerLens 3 a
``HookedTransformer`` for the models on its list. Everything above takes such a model and reaches it through
:mod:`access`, :mod:`readout` and :mod:`weights`; this room is the only one that imports ``transformer_lens``.
Begin reading at :mod:`caa_interp.models.loading`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
