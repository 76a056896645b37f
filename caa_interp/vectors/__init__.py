"""Steering vectors: from contrast pairs to activations, and from activations to a direction per layer.

Pairs are rendered and read in one pass each (:mod:`activations`); an estimator makes a vector of them
(:mod:`estimators`, :mod:`extraction`); a :class:`SteeringVector` carries what is needed to apply it, and is kept in
one safetensors file (:mod:`vector`, :mod:`files`).
Begin reading at :mod:`caa_interp.vectors.extraction`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
