"""A whole study from one config file: pieces of work, kept as they are finished, joined to tables and a page.

A config (:mod:`config`) becomes lists of tasks (:mod:`tasks`), each known by a hash of all that determines its result.
What is not kept yet (:mod:`engine`, :mod:`store`) workers measure (:mod:`worker`, :mod:`kinds`), here or in other
processes (:mod:`executors`, :mod:`ray_workers`); the folder keeps it (:mod:`folder`), and the tables become a page
(:mod:`page`). :mod:`demo` is a small study that needs no config. Begin reading at :mod:`caa_interp.study.run`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
