"""Models: loading them, and the few things that differ between TransformerLens's two model classes.

``load_model`` returns TransformerLens's own object: a ``TransformerBridge``, or on TransformerLens 3 a
``HookedTransformer`` for the models on its list. Every other module takes such a model and reaches it only
through :mod:`caa_interp.models.access`; this package is the only one that imports ``transformer_lens``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
