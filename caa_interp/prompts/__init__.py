"""How a model is addressed: from a text, a conversation or a contrast pair to tokens.

A prompt becomes messages (:mod:`.conversation`), messages become the text and the tokens of the model's own form
(:mod:`.format`, with :mod:`.template` for chat templates), and a contrast pair becomes two token sequences that share
their prompt (:mod:`.rendering`). Begin reading at :class:`PromptFormat`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
