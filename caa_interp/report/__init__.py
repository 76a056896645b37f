"""One page of figures and tables in a single HTML file that needs no other file and no network.

:func:`write_report` takes sections of texts, tables and figures; ``report.html.j2`` is the page.
Begin reading at :mod:`caa_interp.report.page`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
