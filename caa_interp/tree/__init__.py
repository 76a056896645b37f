"""Token trees: everything that is asked of one question, in about one forward pass.

CAA steers few positions: from the last token of the prompt on (Rimsky et al. 2024, section 3). Everything before
them is the same for every answer, layer, multiplier and control, and so are its keys and values::

    prefix       trunk            unsteered rows: every distinct path of tokens, once
    <s> Input: | Is it good? A: |-- (A          each sees its own ancestors only (a tree mask)
      shared by  one question's |-- (B
      all trees                     ^
                                    | twin: the unsteered row at the same place
                  steered rows:  layer 3, m=+1   |-- (A   joins after block 3: the unsteered
                  one "variant"  layer 3, m=-1   |-- (A   row plus the edit; below block 3
                  per set of     layer 7, m=+1   |-- (A   both are equal, so nothing is run
                  edits
    A lane is a row of the batch, filled with whole variants; a slot is a place in it. Rows of different lanes
    cannot see each other, so no arithmetic goes into that. ``deal`` puts variants into lanes evenly, ``join``
    is the layer after which a variant differs from its twins, and ``places`` finds the rows of positions.

A caller writes down :class:`Branch` es, each a full token sequence with its own edits and its own questions to the
model, and :func:`run_tree` finds out what they share; :func:`run_trees` takes many trees, one per question. A model
that does not take tree masks gets plain passes (:mod:`plain`), and the result says which path ran. Tree attention is
that of SpecInfer (Miao et al. 2023). Begin reading at :mod:`caa_interp.tree.branches`, then :mod:`plan`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
