"""Vectors for other tools and from them: files, the Hugging Face Hub, and weights.

Each file format is one module that reads and writes it: :mod:`control_vectors` for GGUF, :mod:`published` for the
paper's code, :mod:`harness` for lm-evaluation-harness, :mod:`arrays` for numpy; :mod:`exchange` chooses among them.
:mod:`hub` pushes a vector with a card; :mod:`baking` makes steering part of a Hugging Face model's weights.
Begin reading at :mod:`caa_interp.interchange.exchange`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
