"""Contrast pairs, and the behaviors that they belong to; the lowest room, which knows no model.

A pair is text: a question, an answer that shows the behavior, and one that does not (:mod:`pairs`). A behavior is
train and test pairs with the texts that go with them, one JSON file each (:mod:`behavior`). Published sets, tables and
lists become pairs in three steps: a source becomes items (:mod:`sources`) and rows (:mod:`rows`), options are taken out
of questions (:mod:`options`), rows become pairs (:mod:`readers`). Begin reading at :mod:`caa_interp.behaviors.pairs`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
