"""One figure per kind of table: ``plot_*`` takes a table, or its summary, and returns a Plotly figure.

Nothing here runs a model or knows torch. :mod:`theme` has the look, :mod:`words` has what a figure says of its numbers,
:mod:`checks` whether a table can be drawn; :mod:`export` writes files at the width of a paper's columns. Modules do not
import each other otherwise.
Begin reading at :mod:`caa_interp.plotting.sweep`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
