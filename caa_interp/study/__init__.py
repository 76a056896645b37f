"""A whole study from one config file: shards of work, kept as they are finished, joined to tables and a page.

A config (:mod:`config`) becomes a plan of shards (:mod:`plan`), each known by a hash of all that determines its result
(:mod:`shards`). Workers do what is not in the store yet (:mod:`work`, :mod:`executors`, :mod:`store`), and the tables
become a page (:mod:`page`). :mod:`demo` is a small study that needs no config.
Begin reading at :mod:`caa_interp.study.run`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
