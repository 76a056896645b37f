"""How a model is addressed: from a text, a conversation or a contrast pair to tokens.

A prompt becomes messages (:mod:`conversation`), messages become text in the model's style (:mod:`format`, with
:mod:`template` for chat templates), and text becomes tokens with the position where steering starts. A contrast pair
becomes two sequences that share their prompt (:mod:`rendering`).
Begin reading at :mod:`caa_interp.prompts.format`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
