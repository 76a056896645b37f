"""Token trees: everything that is asked of one question, in about one forward pass.

The positions that CAA steers are few: from the last token of the prompt on (Rimsky et al. 2024, section 3).
All before them is the same for every answer, layer, multiplier and control vector, and so are its keys and
values. A tree therefore runs

1. every distinct token path once, unsteered, under a mask that lets a token see its own ancestors only
   (tree attention, as in SpecInfer, Miao et al. 2023);
2. for every edited branch only what the edit can change: its steered positions, from the edited layer on. At
   that layer they are the unsteered positions plus the edit, and below it the two are equal.

A caller writes down :class:`Branch` es, each a full token sequence with its own edits and its own questions
to the model, and :func:`run_tree` finds out what they share; :func:`run_trees`
takes many trees, one a question, and runs several side by side.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
