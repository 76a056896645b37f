"""A whole study from one config file: shards of work, kept as they are finished, joined to tables and a page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
